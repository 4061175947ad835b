"""Ids as columns: the same answers as a list of text would give."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cadmllm.corpus import order, roster
from cadmllm.corpus.layout import open_dataset
from cadmllm.corpus.roster import Ids
from cadmllm.settings import DataSettings

NAMES = st.lists(st.text("ab/é漢𝄞0_.", min_size=1, max_size=8), unique=True)


def ids_of(names: list[str]) -> Ids:
    return Ids(np.array(sorted(name.encode() for name in names), dtype=np.bytes_) if names else np.zeros(0, "S1"))


@given(NAMES, st.text("ab/é漢𝄞0_.", max_size=8))
def test_as_a_sorted_list(names, probe):
    ids = ids_of(names)
    assert list(ids) == sorted(names)
    assert ids == sorted(names)
    assert len(ids) == len(names)
    assert (probe in ids) == (probe in names)
    for name in names:
        assert ids[ids.place(name)] == name
    assert ids[1:3] == sorted(names)[1:3]
    assert ids.mask(set(names[:2]) | {"nobody"}).sum() == len(names[:2])


def test_ids_that_begin_alike():
    ids = ids_of(["a", "ab", "abc"])
    assert [ids.place(name) for name in ("a", "ab", "abc", "abcd", "")] == [0, 1, 2, None, None]
    assert ids != ["a", "ab"]
    assert ids != ["a", "ab", "abd"]
    assert 7 not in ids


def test_it_tells_what_the_rows_do(root):
    (root / "json/0000/c.json").write_text("{}")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for k in range(8):
        Image.fromarray(pixels).save(root / f"img/0000/a_{k:03d}.png")
    np.savez(root / "pcd/0000/b.npz", points=np.full((200, 3), np.nan))
    dataset = open_dataset(DataSettings(root=root))
    found = roster.read(dataset.index)
    assert found.ids == ["0000/a", "0000/b", "0000/c"]
    assert (found.lengths > 0).tolist() == [True, True, False]
    both = roster.PROGRAM | roster.CLOUD
    assert found.flags.tolist() == [both | roster.VIEWS, both, 0]  # the cloud of b was not examined yet
    assert found.fractions.tolist() == [order.fraction(id_) for id_ in found.ids]
    from cadmllm.corpus.scan import open_index

    found = roster.read(open_index(DataSettings(root=root), contents=True))
    assert found.flags.tolist() == [both | roster.VIEWS, both | roster.BAD_CLOUD, 0]
    dataset = open_dataset(DataSettings(root=root))
    assert dataset.modalities("0000/b") == {"text", "point_cloud"}, "what is drawn does not depend on what is known"
    assert dataset.modality_counts(dataset.ids) == {"text": 3, "point_cloud": 1, "image": 1}


def test_of_nothing(tmp_path):
    from cadmllm.corpus.scan import open_index

    found = roster.read(open_index(DataSettings(root=tmp_path), contents=True))
    assert (len(found.ids), len(found.lengths), len(found.flags), len(found.fractions)) == (0, 0, 0, 0)
