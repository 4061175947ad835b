"""The walk counts as a set would, and names orphans and what is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.corpus.census import FIRST, incomplete, orphan, take, walk
from cadmllm.corpus.facts import Facts, Flaw, Kind
from cadmllm.corpus.scan import open_index
from cadmllm.settings import DataSettings

CAPTION, PROGRAM, CLOUD, VIEWS = 1, 2, 4, 8

IDS = [f"0000/{k}" for k in range(12)]
ENTRIES = st.lists(st.tuples(st.integers(1, 15), st.integers(0, 15)), max_size=12)


@given(ENTRIES, st.frozensets(st.sampled_from(IDS)))
def test_counts_are_those_of_sets(masks, left_out):
    entries = [(id_, there, there & usable) for id_, (there, usable) in zip(IDS, masks, strict=False)]
    known = [e for e in entries if e[1] & (CAPTION | PROGRAM) and e[0] not in left_out]
    found = take(iter(entries), left_out)
    assert found.known == len(known)
    assert {id_ for id_, _ in incomplete(entries) if id_ not in left_out} == {e[0] for e in known if e[2] != 15}
    wanted = {"text": CAPTION | PROGRAM, "point_cloud": CLOUD, "image": VIEWS}
    for name, bits in wanted.items():
        without = [id_ for id_, _, usable in known if usable & bits != bits]
        assert found.having[name] == len(known) - len(without)
        assert found.lack(name).count == len(without)
        assert found.lack(name).ids == without[:FIRST]


@pytest.mark.parametrize(
    ("there", "codes"),
    [
        (CAPTION | PROGRAM, []),
        (15, []),
        (CAPTION, ["E411"]),
        (CAPTION | CLOUD | VIEWS, ["E411"]),
        (PROGRAM, ["E412"]),
        (PROGRAM | VIEWS, ["E412"]),
        (CLOUD, ["E413"]),
        (VIEWS, ["E414"]),
        (CLOUD | VIEWS, ["E413", "E414"]),
    ],
)
def test_orphans(there, codes):
    assert [code for code, _ in orphan(there)] == codes


def test_the_walk_over_an_index(root):
    (root / "json" / "0000" / "b.json").unlink()
    (root / "pcd" / "0000" / "x.npz").write_bytes((root / "pcd" / "0000" / "a.npz").read_bytes())
    index = open_index(DataSettings(root=root), contents=True)
    row = index.row(Kind.CLOUD, "0000/a")
    index.store(Kind.CLOUD, [("0000/a", row.stamp, Facts({}, (Flaw("E431", "fail", row.place, "NaN"),)))])
    usable = {id_: usable for id_, _, usable in walk(index)}
    assert {id_: there for id_, there, _ in walk(index)} == {
        "0000/a": 15,
        "0000/b": CAPTION | CLOUD,
        "0000/c": CAPTION | PROGRAM,
        "0000/x": CLOUD,
    }
    assert usable["0000/a"] & CLOUD == 0
    assert usable["0000/c"] == CAPTION | PROGRAM
