"""Headers of weights files: whole ones are read, everything else is named for what it is."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from made_checkpoints import Header, write_safetensors

from cadmllm.doctor.headers import BadFile, amount, check_torch_file, read_header

TENSORS: Header = {"a": ("F32", (2, 3)), "b": ("BF16", (4,))}


def raw(path: Path, header: object, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def why(path: Path) -> str:
    with pytest.raises(BadFile) as caught:
        read_header(path)
    return str(caught.value)


def test_a_whole_file(tmp_path):
    found = read_header(write_safetensors(tmp_path / "m.safetensors", TENSORS))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == TENSORS
    assert found["a"].end - found["a"].begin == 24
    assert found["b"].end == (tmp_path / "m.safetensors").stat().st_size


def test_what_the_library_writes_is_read_at_the_right_places(tmp_path):
    import torch
    from safetensors.torch import save_file

    state = {"x": torch.arange(6.0).view(2, 3), "none": torch.zeros(0, 4), "y": torch.tensor([1, 2], dtype=torch.bfloat16)}
    save_file(state, tmp_path / "m.safetensors", {"format": "pt"})
    found = read_header(tmp_path / "m.safetensors")
    content = (tmp_path / "m.safetensors").read_bytes()
    assert found.keys() == state.keys()
    assert content[found["x"].begin : found["x"].end] == state["x"].numpy().tobytes()
    assert found["none"].shape == (0, 4)


def test_a_file_that_is_cut_or_padded_says_by_how_much(tmp_path):
    path = write_safetensors(tmp_path / "m.safetensors", TENSORS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert "10 lack" in why(path)
    path.write_bytes(whole + b"12345")
    assert "5 bytes more" in why(path)
    path.write_bytes(whole[:40])
    assert "cut off in its header" in why(path)
    path.write_bytes(b"123")
    assert "3 bytes" in why(path)


def entry(shape: list[int], begin: int, end: int, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, "gap or overlap at b"),
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, "gap or overlap at b"),
        ({"a": entry([3], 0, 8)}, "a (F32 [3]) has offsets 0..8"),
        ({"a": entry([-1], 0, 8)}, "a (F32 [-1])"),
        ({"a": {"dtype": "F32"}}, "a is not described"),
        ({"a": 3}, "a is not described"),
        ({"a": entry([2], 0, 8, ["F32"])}, "a is not described"),
        ([1], "not a table"),
        (b"{broken", "not JSON"),
        (b'{"a": "\xff\xfe"}', "not JSON"),
    ],
)
def test_headers_that_lie(tmp_path, header, says):
    assert says in why(raw(tmp_path / "m.safetensors", header, bytes(20)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3963750816\n",
            "Git LFS pointer (a note that 3963750816",
        ),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "JPEG"),
        (bytes(5000), "begins with zeros"),
        (b"PK\x03\x04" + bytes(99), "does not begin as safetensors do"),
    ],
)
def test_other_things_under_the_name_of_weights(tmp_path, content, says):
    (tmp_path / "m.safetensors").write_bytes(content)
    assert says in why(tmp_path / "m.safetensors")


def test_torch_files_from_outside(tmp_path):
    import torch

    path = tmp_path / "m.pt"
    torch.save({"a": torch.zeros(9)}, path)
    check_torch_file(path)
    whole = path.read_bytes()
    for content, says in (
        (whole[:-99], "end is missing"),
        (b"", "empty"),
        (b"\x08\0\0\0\0\0\0\0{}", "safetensors"),
        (b"x", "else"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadFile, match=says):
            check_torch_file(path)
    torch.save({"a": torch.zeros(9)}, path, _use_new_zipfile_serialization=False)
    check_torch_file(path)


def test_amounts():
    assert [amount(n) for n in (500, 98_000, 5 * 2**20, 1.2e9)] == ["0 KiB", "96 KiB", "5.0 MiB", "1.1 GiB"]
