"""Which samples share a micro-batch: nothing is lost, nothing is too long, little room is wasted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cadmllm.corpus.pack import Room, arrange, heads

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 500))
def test_packed_rows_hold_every_sample_once_and_no_more_than_fits(lengths: list[int], tokens: int) -> None:
    rows = arrange(lengths, Room(tokens, 4))
    assert sorted(k for row in rows for k in row) == list(range(len(lengths)))
    assert all(len(row) == 1 or sum(lengths[k] for k in row) <= tokens for row in rows)


@given(LENGTHS, st.integers(300, 900))
def test_first_fit_decreasing_keeps_its_promise(lengths: list[int], tokens: int) -> None:
    """At most 11/9 of the fewest rows possible and 6/9 of one (Dosa 2007); the fewest are at least the sum over the room."""
    assert len(arrange(lengths, Room(tokens, 4))) <= 11 / 9 * max(1, -(-sum(lengths) // tokens)) + 1 + 6 / 9


@given(LENGTHS, st.integers(1, 8))
def test_padded_micro_batches_hold_every_sample_once(lengths: list[int], samples: int) -> None:
    rows = arrange(lengths, Room(0, samples))
    assert sorted(k for row in rows for k in row) == list(range(len(lengths)))
    assert all(len(row) <= samples for row in rows)
    ends = [max(lengths[k] for k in row) for row in rows]
    assert ends == sorted(ends), "samples of like length are together"


@given(LENGTHS, st.integers(0, 400), st.integers(1, 5))
def test_what_is_there_is_cut_to_a_smaller_room(lengths: list[int], tokens: int, samples: int) -> None:
    room = Room(tokens, samples)
    parts = heads(lengths, room)
    assert sum(parts) == len(lengths)
    assert min(parts) > 0
    at = 0
    for count in parts:
        inside = lengths[at : at + count]
        assert count == 1 or (sum(inside) <= tokens if room.packed else count <= samples)
        at += count


def test_rooms_halve_down_to_one() -> None:
    assert Room(8192, 2).halved() == Room(4096, 2)
    assert Room(0, 5).halved() == Room(0, 3)
    assert Room(1, 1).halved() == Room(1, 1)
    assert str(Room(8192, 2)) == "8192 packed tokens"
    assert str(Room(0, 2)) == "2 padded samples"
