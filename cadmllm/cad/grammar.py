"""The finite-state grammar of the token language, as tables: what may follow, and where it leads.

Every sequence that runs from `START` to `DONE` parses into instructions; every sequence that the encoder writes is accepted.
The tables are built once from `vocabulary.SLOTS` at import (some 400 states), so that a decoder masks a step by one row look-up.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cadmllm.cad.vocabulary import (
    CLOSES,
    CURVES,
    END,
    EXPONENTS,
    EXTRUDES,
    FINE_BASE,
    GRID,
    HOLES,
    INDEX,
    NUMBER_BASE,
    OUTER,
    PLANES,
    SLOTS,
    VOCABULARY,
)

NO_STATE = -1
# what may come next after an instruction, by place in the program; '1' before there is material (the first extrude is a new body)
_PLACES: dict[str, tuple[str, ...]] = {
    "begin": ("size",),
    "body": (*PLANES, "end"),
    "plane": OUTER,
    "loop0": CURVES,
    "loop1": (*CURVES, "close_arc", "close_arcw"),
    "loop2": (*CURVES, *CLOSES),
    "sketch": (*OUTER, *HOLES, *PLANES, *EXTRUDES),
}


def _after(command: str, place: str) -> str:
    """The place that a whole instruction leads to."""
    if command in EXTRUDES:
        return "body"
    if command in PLANES:
        return "plane"
    if command in ("loop", "hole"):
        return "loop0"
    if command in OUTER or command in HOLES or command in CLOSES:
        return "sketch"
    if command in CURVES:
        straight = command in ("line", "hline", "vline")
        return "loop1" if place == "loop0" and straight else "loop2"
    return "body"


class _Builder:
    """Numbers the states as they are met and fills the transitions."""

    def __init__(self) -> None:
        self.names: dict[tuple, int] = {}
        self.edges: list[dict[int, int]] = []
        self.skips: list[tuple[int, int]] = []  # (state, state that may also stand for it): an optional item that is absent

    def state(self, key: tuple) -> int:
        if key not in self.names:
            self.names[key] = len(self.edges)
            self.edges.append({})
            self._fill(key)
        return self.names[key]

    def _fill(self, key: tuple) -> None:
        number = self.names[key]
        edges = self.edges[number]
        if key[0] == "place":
            _, place, fresh = key
            for command in _PLACES[place]:
                if fresh and (command == "end" or (command in EXTRUDES and not command.startswith("new_"))):
                    continue
                if place == "begin" or command != "size":
                    edges[INDEX[command]] = self._next(command, 0, place, fresh)
        elif key[0] == "number":
            _, command, slot, place, fresh = key
            self._number(number, SLOTS[command][slot], (command, slot + 1, place, fresh))
        elif key[0] == "fine":  # after a level that may, or must, be followed by a fine item
            _, after, must = key
            edges.update({FINE_BASE + k: self._next(*after) for k in range(1, GRID.fine)})
            if not must:
                self.skips.append((number, self._next(*after)))

    def settle(self) -> None:
        """Let absent optional items pass; only possible once every state is filled, as programs loop."""
        changed = True
        while changed:
            before = sum(len(edges) for edges in self.edges)
            for state, behind in self.skips:
                self.edges[state].update(self.edges[behind])
            changed = sum(len(edges) for edges in self.edges) != before

    def _next(self, command: str, slot: int, place: str, fresh: bool) -> int:
        if command == "end":
            return self.state(("done",))
        if slot < len(SLOTS[command]):
            return self.state(("number", command, slot, place, fresh))
        return self.state(("place", _after(command, place), fresh and command not in EXTRUDES))

    def _number(self, number: int, kind: str, after: tuple) -> None:
        edges = self.edges[number]

        def level(first: int, last: int, state: int) -> None:
            edges.update({NUMBER_BASE + k: state for k in range(first, last + 1)})

        whole = self._next(*after)
        if kind == "mantissa":
            level(100, 999, whole)
        elif kind == "thousandths":  # optional: absent means none
            level(1, 999, whole)
            self.skips.append((number, whole))
        elif kind == "exponent":
            edges.update({INDEX[f"e{k}"]: whole for k in EXPONENTS})
        else:
            maybe = self.state(("fine", after, False))
            if kind == "coord":
                level(0, GRID.levels - 1, maybe)
                return
            last = {"length": GRID.levels - 1, "sweep": GRID.turn // GRID.fine - 1, "turn": GRID.turn // GRID.fine - 1}
            if kind == "tilt":
                level(0, GRID.turn // GRID.fine // 4 - 1, maybe)
                level(GRID.turn // GRID.fine // 4, GRID.turn // GRID.fine // 4, whole)
                return
            level(0 if kind == "turn" else 1, last[kind], maybe)
            if kind != "turn":
                level(0, 0, self.state(("fine", after, True)))


def _tables() -> tuple[np.ndarray, np.ndarray, int, int]:
    builder = _Builder()
    start = builder.state(("place", "begin", True))
    builder.settle()
    done = builder.names[("done",)]
    following = np.full((len(builder.edges), len(VOCABULARY)), NO_STATE, dtype=np.int32)
    for state, edges in enumerate(builder.edges):
        for token, target in edges.items():
            following[state, token] = target
    return following != NO_STATE, following, start, done


def _distance(following: np.ndarray, done: int) -> np.ndarray:
    far = np.iinfo(np.int32).max // 2
    distance = np.full(len(following), far, dtype=np.int32)
    distance[done] = 0
    while True:
        reach = np.where(following == NO_STATE, far, distance[following])
        better = np.minimum(distance, reach.min(axis=1) + 1)
        if np.array_equal(better, distance):
            return distance
        distance = better


ALLOWED, NEXT, START, DONE = _tables()
TO_END = _distance(NEXT, DONE)


def first_fault(tokens: Iterable[int]) -> tuple[int, int] | None:
    """(position, state) of the first token that may not stand there; the length for an unfinished sequence; None if accepted."""
    state = START
    position = -1
    for position, token in enumerate(tokens):
        if not 0 <= token < len(VOCABULARY) or not ALLOWED[state, token]:
            return position, state
        state = int(NEXT[state, token])
    return None if state == DONE else (position + 1, state)


def accepts(tokens: Iterable[int]) -> bool:
    """Whether the sequence is a whole program, `end` included and last."""
    return first_fault(tokens) is None


__all__ = ["ALLOWED", "DONE", "END", "NEXT", "START", "TO_END", "accepts", "first_fault"]
