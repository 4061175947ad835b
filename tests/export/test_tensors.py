"""Weights read lazily are those of safetensors, and files written piece by piece are read by safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cadmllm.errors import CadmllmError
from cadmllm.export.stream import Announced, write_stream
from cadmllm.export.tensors import Damaged, Tensors

WIDE_FIRST = [torch.float32, torch.bfloat16, torch.float16]
SHAPE = st.lists(st.integers(0, 7), min_size=1, max_size=3).map(tuple)


def test_values_and_parts(tmp_path: Path):
    state = {
        "a": torch.randn(5, 3, 2),
        "b": torch.randn(7).half(),
        "c": torch.randn(4, 3).bfloat16(),
        "d": torch.tensor(4.5),
        "e": torch.zeros(0, 3),
    }
    save_file({name: state[name] for name in "abd"}, tmp_path / "1.safetensors")
    save_file({name: state[name] for name in "ce"}, tmp_path / "2.safetensors", {"format": "pt"})
    found = Tensors([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])
    assert sorted(found.names()) == sorted(state)
    for name, value in state.items():
        assert found.shape(name) == tuple(value.shape)
        assert found.dtype(name) == value.dtype
        assert torch.equal(found.tensor(name), value)
    assert torch.equal(found.part("a", 1, 4), state["a"][1:4])
    assert torch.equal(found.part("b", 6, 7), state["b"][6:])
    assert found.part("c", 2, 2).shape == (0, 3)
    assert "a" in found
    assert "z" not in found
    other = found.renamed(lambda name: f"x.{name}")
    assert torch.equal(other.tensor("x.c"), state["c"])


def test_damaged_files_are_named(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.randn(100)}, path)
    whole = path.read_bytes()
    for broken in (b"", whole[:4], whole[:20], whole[:-1], whole + b"x", b"PK\x03\x04" + whole, b"\xff" * 64):
        path.write_bytes(broken)
        with pytest.raises(Damaged, match=r"w\.safetensors"):
            Tensors([path])
    with pytest.raises(Damaged):
        Tensors([tmp_path / "missing.safetensors"])
    path.write_bytes(whole)
    (tmp_path / "twice.safetensors").write_bytes(whole)
    with pytest.raises(Damaged, match=r"holds a, as w\.safetensors does"):
        Tensors([path, tmp_path / "twice.safetensors"])


def test_a_file_that_shrinks_or_goes_while_it_is_read(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.randn(100)}, path)
    found = Tensors([path])
    path.write_bytes(path.read_bytes()[:-8])
    for _ in range(2):
        with pytest.raises(CadmllmError, match=r"w\.safetensors") as caught:
            found.tensor("a")
        assert caught.value.code == "E505"
        path.unlink(missing_ok=True)


@given(shapes=st.lists(st.tuples(st.integers(0, 2), SHAPE), max_size=6), rows=st.integers(1, 4))
def test_what_is_written_in_pieces_is_read_whole(tmp_path_factory, shapes, rows):
    path = tmp_path_factory.mktemp("stream") / "w.safetensors"
    order = sorted(shapes, key=lambda item: -WIDE_FIRST[item[0]].itemsize)
    state = {f"t{i}": torch.randn(shape).to(WIDE_FIRST[kind]) for i, (kind, shape) in enumerate(order)}
    announced = [Announced(name, value.dtype, tuple(value.shape)) for name, value in state.items()]
    pieces = (piece for value in state.values() if value.numel() for piece in value.split(rows))
    write_stream(path, announced, pieces)
    read = load_file(path)
    assert list(read) == sorted(state) or set(read) == set(state)
    assert all(torch.equal(read[name], value) for name, value in state.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_file_that_was_not_finished_is_none(tmp_path: Path):
    def stops():
        yield torch.ones(3, 4)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_stream(tmp_path / "w.safetensors", [Announced("a", torch.float32, (5, 4))], stops())
    with pytest.raises(Damaged):
        Tensors([tmp_path / "w.safetensors"])
