"""The files of cached features: what was written comes back, and no change of a byte goes unnoticed or ends in a traceback."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from cadmllm.corpus import features
from cadmllm.corpus.features import FeatureStore, Part, digest_of, stamp_of
from cadmllm.corpus.shards import (
    INDEX,
    Broken,
    Entry,
    Recipe,
    damaged_rows,
    read_index,
    read_shard,
    shard_path,
    shard_paths,
    write_index,
    write_shard,
)
from cadmllm.errors import CadmllmError

RECIPE = Recipe("michelangelo", "ab" * 32, 3, 4, "float32", "float32", {"draws": 2, "point_count": 64})
STAMP, DIGEST = "01" * 16, "02" * 16


def entries(*ids: str, count: int = 2) -> list[Entry]:
    return [Entry(id_, count * k, count, STAMP, DIGEST) for k, id_ in enumerate(ids)]


def rows(count: int, seed: int = 0, dtype: str = "<f4") -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(count, 3, 4)).astype(dtype))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two shards: a, b; then b again and é; c's second draw could not be read."""
    folder = tmp_path / "points"
    folder.mkdir()
    write_shard(shard_path(folder, 0), RECIPE, entries("0000/a", "0000/b"), [], rows(4))
    values = rows(6, seed=1)
    values[5] = np.full((3, 4), np.nan, "<f4")
    broken = [Broken("0000/c", 5, "E404", "c.npz: torn")]
    write_shard(shard_path(folder, 1), RECIPE, entries("0000/b", "0000/é", "0000/c"), broken, values)
    write_index(folder, RECIPE, [read_shard(path) for path in shard_paths(folder)], {"0000/a": "07" * 16})
    return tmp_path


def test_what_was_written_comes_back(store: Path):
    found = FeatureStore(store)
    assert set(found.parts) == {"points"}
    assert found.draws == 2
    part = found.parts["points"]
    assert len(part) == 4
    assert part.find(["0000/a", "0000/aa", "", "0000/é", "zzz"]).tolist() == [0, -1, -1, 3, -1]
    for draw in range(2):
        np.testing.assert_array_equal(found.cloud("0000/a", draw), rows(4)[draw])
        np.testing.assert_array_equal(found.cloud("0000/b", draw), rows(6, seed=1)[draw])  # the later shard counts
        np.testing.assert_array_equal(found.cloud("0000/é", draw), rows(6, seed=1)[2 + draw])
    assert part.stamp(0) == "07" * 16
    assert part.stamp(1) == STAMP
    assert part.digest(0) == DIGEST
    with pytest.raises(CadmllmError, match="0000/c") as caught:
        found.cloud("0000/c", 1)
    assert caught.value.code == "E404"
    for id_, draw in (("0000/a", 2), ("0000/a", -1), ("0000/x", 0)):
        with pytest.raises(CadmllmError, match=id_) as caught:
            found.cloud(id_, draw)
        assert caught.value.code == "E471"
        assert "--points" in caught.value.remedy


def test_other_programs_read_them(store: Path):
    tensors = load_file(store / "points" / "00000.safetensors")
    np.testing.assert_array_equal(tensors["features"], np.stack(rows(4)))
    assert load_file(store / "points" / INDEX)["count"].tolist() == [2, 2, 2, 2]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path):
    for name in "ab":
        write_shard(tmp_path / name, RECIPE, entries("0000/a"), [], rows(2))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_key_holds_what_changes_numbers_and_nothing_else():
    same = replace(RECIPE, files="f", source="s")
    assert same == RECIPE
    assert same.key == RECIPE.key
    for inputs in ({"draws": 3, "point_count": 64}, {"draws": 2, "point_count": 65}, {"draws": 2}):
        other = replace(RECIPE, inputs=inputs)
        assert other != RECIPE
        assert other.key != RECIPE.key


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits(tmp_path: Path, dtype: str):
    (tmp_path / "points").mkdir()
    recipe = replace(RECIPE, dtype=dtype)
    kind, number, nan = {"bfloat16": ("<u2", 0x3FC0, 0x7FC0), "float16": ("<f2", 1.5, np.nan)}[dtype]
    values = [np.full((3, 4), number, kind), np.full((3, 4), nan, kind)]
    write_shard(shard_path(tmp_path / "points", 0), recipe, entries("0000/a"), [], values)
    write_index(tmp_path / "points", recipe, [read_shard(shard_path(tmp_path / "points", 0))], {})
    part = Part(tmp_path / "points")
    first = part.read("0000/a", 0)
    assert first is not None
    assert first.dtype == np.dtype(kind)
    np.testing.assert_array_equal(first, values[0])
    assert part.read("0000/a", 1) is None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_goes_unnoticed(store: Path, data: st.DataObject):
    """Bytes that are changed, cut or added: the reader says E471, or what it reads is what was written."""
    name = data.draw(st.sampled_from(["00000.safetensors", "00001.safetensors", INDEX]))
    path = store / "points" / name
    whole = path.read_bytes()
    how = data.draw(st.sampled_from(["flip", "cut", "more", "noise"]))
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = {
        "flip": whole[:place] + bytes([whole[place] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[place + 1 :],
        "cut": whole[:place],
        "more": whole + b"\0" * (1 + place % 9),
        "noise": data.draw(st.binary(max_size=300)),
    }[how]
    try:
        path.write_bytes(damaged)
        if name == INDEX:
            _look(lambda: read_index(path))
        else:
            _look(lambda: damaged_rows(read_shard(path)))
        _look(lambda: _read_all(store, tolerant=name == INDEX))
    finally:
        path.write_bytes(whole)


def _look(action) -> None:
    try:
        action()
    except CadmllmError as error:
        assert error.code in ("E471", "E404")
        assert error.remedy


def _read_all(store: Path, tolerant: bool) -> None:
    found = FeatureStore(store)
    found.parts["points"].check_files()
    for draw in range(2):
        for id_, wanted in (("0000/a", rows(4)[draw]), ("0000/b", rows(6, seed=1)[draw])):
            values = found.cloud(id_, draw)
            # a damaged index may name another row: its ids are not checksummed, its rows are
            assert tolerant or np.array_equal(values, wanted)


def test_an_index_cannot_lead_out_of_its_folder(store: Path):
    path = store / "points" / INDEX
    content = path.read_bytes()
    path.write_bytes(content.replace(b"00000.safetensors", b"../../secret.saft"[:17]))
    with pytest.raises(CadmllmError) as caught:
        Part(store / "points")
    assert caught.value.code == "E471"


def test_stamps_see_times_and_digests_see_content(tmp_path: Path):
    file = tmp_path / "a.npz"
    file.write_bytes(b"one")
    stamp, digest = stamp_of([file]), digest_of([file])
    assert (stamp_of([file]), digest_of([file])) == (stamp, digest)
    os.utime(file, ns=(1, 1))
    assert stamp_of([file]) != stamp
    assert digest_of([file]) == digest
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert digest_of([file]) != digest
    assert stamp_of([file, file]) != stamp_of([file])
    assert digest_of([file, file]) != digest_of([file])


def test_many_shards_share_few_open_files(tmp_path: Path):
    (tmp_path / "points").mkdir()
    shards = []
    for number in range(features.OPEN_FILES + 9):
        write_shard(shard_path(tmp_path / "points", number), RECIPE, entries(f"0000/{number:03d}"), [], rows(2, seed=number))
        shards.append(read_shard(shard_path(tmp_path / "points", number)))
    write_index(tmp_path / "points", RECIPE, shards, {})
    part = Part(tmp_path / "points")
    for _ in range(2):
        for number in range(len(shards)):
            np.testing.assert_array_equal(part.read(f"0000/{number:03d}", 1), rows(2, seed=number)[1])
    assert len(part._files) == features.OPEN_FILES
    copy = pickle.loads(pickle.dumps(part))  # as a spawned loader process gets it
    np.testing.assert_array_equal(copy.read("0000/003", 0), rows(2, seed=3)[0])
    part.close()
    assert not part._files
