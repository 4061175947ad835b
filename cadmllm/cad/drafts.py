"""A program under repair: what was left out or changed of it, kept apart from the program itself.

Places stay those of the program as it was given, so that every step can be told in the numbers its author knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from cadmllm.cad.kernel import Place
from cadmllm.cad.program import Extrude, Loop, Operation, Plane, Profile, Program, Sketch
from cadmllm.cad.rescale import scaled


@dataclass(frozen=True)
class Draft:
    """Edits of a program.

    Attributes:
        original: the program, as given.
        dropped: places left out: an extrude, a profile, a hole.
        loops, planes, operations: what stands in place of loops (by place), planes (by extrude and sketch), operations.
        notes: what was done, in words, with the place it was done to and whether that was left out.
    """

    original: Program
    dropped: frozenset[Place] = frozenset()
    loops: dict[Place, Loop] = field(default_factory=dict)
    planes: dict[tuple[int, int], Plane] = field(default_factory=dict)
    operations: dict[int, Operation] = field(default_factory=dict)
    notes: tuple[tuple[Place, bool, str], ...] = ()

    @property
    def steps(self) -> tuple[str, ...]:
        """What was done, in words."""
        return tuple(text for _, _, text in self.notes)

    def scaled(self, factor: float, done: str) -> Draft:
        """Make the whole program larger or smaller; only before other edits."""
        return replace(self, original=scaled(self.original, factor), notes=(*self.notes, ((), False, f"the part: {done}")))

    def without(self, place: Place, why: str) -> Draft:
        """Leave out a place: an extrude, a profile (also by its outline, loop 0) or a hole. What follows from it is done, too."""
        place = place[:2] if place[2:] == (0,) else place
        if place in self.dropped:
            return self
        notes = tuple(note for note in self.notes if note[1] or not note[0] or note[0][: len(place)] != place)  # undone with it
        left = (place, True, f"{self.name(place)}: left out: {why}")
        return replace(self, dropped=self.dropped | {place}, notes=(*notes, left))._settled()

    def with_loop(self, place: Place, loop: Loop, done: str) -> Draft:
        """Put another loop in a place."""
        return self._noted(place, done, loops={**self.loops, place: loop})

    def with_plane(self, extrude: int, sketch: int, plane: Plane, done: str) -> Draft:
        """Put another plane under a sketch."""
        return self._noted((extrude,), done, planes={**self.planes, (extrude, sketch): plane})

    def with_operation(self, extrude: int, operation: Operation, done: str) -> Draft:
        """Give an extrude another operation."""
        return self._noted((extrude,), done, operations={**self.operations, extrude: operation})

    def _noted(self, place: Place, done: str, **changes) -> Draft:
        return replace(self, **changes, notes=(*self.notes, (place, False, f"{self.name(place)}: {done}")))

    def name(self, place: Place) -> str:
        """A place as steps name it: 'extrude 2 (cut), profile 1, hole 3'."""
        words = [f"extrude {place[0] + 1} ({self.original.extrudes[place[0]].operation.value})"]
        if len(place) > 1:
            words.append(f"profile {place[1] + 1}")
        if len(place) > 2:
            words.append(f"hole {place[2]}" if place[2] else "outline")
        return ", ".join(words)

    def profiles(self, index: int) -> Iterator[tuple[int, Place, Profile]]:
        """(sketch, place, profile) of an extrude as it is now; what is left out is left out."""
        number = -1
        for s, sketch in enumerate(self.original.extrudes[index].sketches):
            for profile in sketch.profiles:
                number += 1
                place = (index, number)
                if (index,) in self.dropped or place in self.dropped:
                    continue
                yield s, place, Profile(self.loops.get((*place, 0), profile.outer), tuple(self._holes(place, profile).values()))

    def loops_now(self, index: int) -> Iterator[tuple[Place, Loop]]:
        """(place, loop) of an extrude as it is now."""
        all_profiles = [profile for sketch in self.original.extrudes[index].sketches for profile in sketch.profiles]
        for _, place, profile in self.profiles(index):
            yield (*place, 0), profile.outer
            yield from self._holes(place, all_profiles[place[1]]).items()

    def _holes(self, place: Place, profile: Profile) -> dict[Place, Loop]:
        places = {(*place, k): hole for k, hole in enumerate(profile.inner, 1)}
        return {at: self.loops.get(at, hole) for at, hole in places.items() if at not in self.dropped}

    @property
    def kept(self) -> list[int]:
        """Indices of the extrudes that are left."""
        return [index for index in range(len(self.original.extrudes)) if (index,) not in self.dropped]

    @property
    def program(self) -> Program:
        """The program as it is now."""
        return Program(tuple(self.extrude(index) for index in self.kept))

    def extrude(self, index: int) -> Extrude:
        """An extrude as it is now."""
        given = self.original.extrudes[index]
        found = list(self.profiles(index))
        sketches = []
        for s, sketch in enumerate(given.sketches):
            profiles = tuple(profile for at, _, profile in found if at == s)
            if profiles:
                sketches.append(Sketch(self.planes.get((index, s), sketch.plane), profiles))
        return Extrude(tuple(sketches), self.operations.get(index, given.operation), given.extent)

    def place_of(self, where: Place) -> Place:
        """The place in the given program of a place in the program as it is now."""
        index = self.kept[where[0]]
        if len(where) == 1:
            return (index,)
        place = [place for _, place, _ in self.profiles(index)][where[1]]
        if len(where) == 2:
            return place
        return [at for at, _ in self.loops_now(index) if at[:2] == place][where[2]]

    def _settled(self) -> Draft:
        """What follows from leaving something out: an extrude without a profile goes, and the first one adds a body."""
        for index in self.kept:
            if not any(True for _ in self.profiles(index)):
                return self.without((index,), "nothing of it is left")
        if not self.kept or self.kept[0] == 0:
            return self
        first = self.kept[0]
        operation = self.operations.get(first, self.original.extrudes[first].operation)
        if operation is Operation.JOIN:
            return self.with_operation(first, Operation.NEW_BODY, "a new body now: there is nothing before it to join")
        if operation is not Operation.NEW_BODY:
            return self.without((first,), f"there is nothing before it to {operation.value}")
        return self
