"""Who trains, who is held out, who is for evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.corpus import order
from cadmllm.corpus.roster import Roster
from cadmllm.corpus.sides import sides
from cadmllm.errors import CadmllmError
from cadmllm.settings import DataSettings

IDS = [f"0000/{k:03d}" for k in range(40)]


def roster_of(ids: list[str]) -> Roster:
    names = np.array([id_.encode() for id_ in sorted(ids)], dtype=np.bytes_)
    fractions = np.array([order.fraction(id_) for id_ in sorted(ids)])
    return Roster(names, np.ones(len(ids), np.int32), np.ones(len(ids), np.uint8), fractions, {})


def listed(path, ids):
    path.write_text("# made by hand\n" + "".join(f"{id_}\n" for id_ in ids))
    return path


def test_lists_that_a_data_set_brings(tmp_path):
    listed(tmp_path / "val.txt", IDS[:5])
    listed(tmp_path / "test.txt", IDS[3:8])
    (train, val, test), notes = sides(DataSettings(root=tmp_path), roster_of(IDS))
    assert (train, val, test) == (IDS[8:], IDS[:3], IDS[3:8])
    assert [code for code, _, _ in notes] == ["E407"]
    listed(tmp_path / "train.txt", IDS[20:])
    (train, _, _), _ = sides(DataSettings(root=tmp_path), roster_of(IDS))
    assert train == IDS[20:]


def test_captions_from_elsewhere_do_not_use_the_roots_lists(tmp_path):
    listed(tmp_path / "test.txt", IDS[:20])
    (_, _, test), _ = sides(DataSettings(root=tmp_path, txt=tmp_path), roster_of(IDS))
    assert test == []


def test_excluded_ids_are_nowhere(tmp_path):
    out = listed(tmp_path / "ids", [*IDS[::2], "0000/unknown"])
    val = listed(tmp_path / "v", IDS[:4])
    (train, held, test), notes = sides(DataSettings(root=tmp_path, exclude=out, val=val, test=val), roster_of(IDS))
    assert not set(IDS[::2]) & {*train, *held, *test}
    assert test == [IDS[1], IDS[3]]
    assert held == []
    assert {code for code, _, _ in notes} == {"E407"}


def test_a_list_that_leads_out_is_not_read(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    listed(tmp_path / "secret", IDS[:5])
    (root / "val.txt").symlink_to(tmp_path / "secret")
    (_, val, _), notes = sides(DataSettings(root=root, val_share=0.0), roster_of(IDS))
    assert val == []
    assert notes[0][0] == "E419"


def test_a_list_of_strangers(tmp_path):
    with pytest.raises(CadmllmError, match="none of its 1 ids"):
        sides(DataSettings(root=tmp_path, test=listed(tmp_path / "t", ["x"])), roster_of(IDS))


LISTS = st.one_of(st.none(), st.lists(st.sampled_from(IDS), min_size=1))


@given(LISTS, LISTS, LISTS, LISTS, st.floats(0, 0.5))
def test_sides_never_overlap(tmp_path_factory, train, val, test, exclude, share):
    folder = tmp_path_factory.mktemp("lists")
    lists = {"train": train, "val": val, "test": test, "exclude": exclude}
    given = {name: listed(folder / name, ids) for name, ids in lists.items() if ids}
    found, _ = sides(DataSettings(root=folder, val_share=share, **given), roster_of(IDS))
    everything = [id_ for side in found for id_ in side]
    assert len(everything) == len(set(everything))
    assert not set(everything) & set(exclude or ())
    assert set(test or ()) - set(exclude or ()) == set(found[2])
    if train:
        assert set(found[0]) <= set(train)
    elif not val and not test and not exclude:
        assert set(everything) == set(IDS)
