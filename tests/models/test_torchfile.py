"""Files of torch.save from outside: plain ones read, others refused without running or unfolding anything."""

from __future__ import annotations

import argparse
import pickle
import random
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch

from cadmllm.models.torchfile import NotPlain, load_plain


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def why(path: Path) -> str:
    with pytest.raises(NotPlain) as caught:
        load_plain(path)
    return str(caught.value)


def test_code_is_not_run_and_what_it_would_be_is_said(tmp_path: Path):
    ran, bad = tmp_path / "ran", tmp_path / "bad.pt"
    torch.save({"a": Trap(ran)}, bad)
    assert "would run code: " in why(bad)
    assert "pathlib" in why(bad)
    for content in (pickle.dumps(Trap(ran), 2), pickle.dumps({"a": 1})[:-2]):
        bad.write_bytes(content)
        assert why(bad)
    torch.save({"a": Trap(ran)}, bad, _use_new_zipfile_serialization=False)
    assert "would run code" in why(bad)
    assert not ran.exists()


def test_settings_and_callbacks_of_lightning_are_left_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # as such a file is written where those packages are; here nothing of the kind is imported
    made = []
    for name in ("omegaconf.dictconfig.DictConfig", "pytorch_lightning.callbacks.ModelCheckpoint"):
        home, _, kind = name.rpartition(".")
        module = types.ModuleType(home)
        made.append(type(kind, (), {"__module__": home, "__setstate__": lambda self, _state: pytest.fail("was called")}))
        setattr(module, kind, made[-1])
        for part in (home.split(".")[0], home):
            monkeypatch.setitem(sys.modules, part, module)
    config = made[0]()
    vars(config)["content"] = {"width": 768}
    saved = {"state_dict": {"w": torch.arange(3)}, "hyper_parameters": {"c": config, "n": argparse.Namespace(a=1)}}
    torch.save({**saved, "callbacks": {made[1]: {"best": "x"}}}, tmp_path / "a.ckpt")
    monkeypatch.undo()
    found = load_plain(tmp_path / "a.ckpt")
    assert isinstance(found, dict)
    assert found["state_dict"]["w"].tolist() == [0, 1, 2]
    torch.save({**saved, "hyper_parameters": Trap(tmp_path / "ran")}, tmp_path / "b.ckpt")
    assert "would run code: " in why(tmp_path / "b.ckpt")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(pickle.UnpicklingError):  # they are accepted for our reading alone
        torch.load(tmp_path / "a.ckpt", weights_only=True)


def test_what_is_packed_is_refused_before_it_unfolds(tmp_path: Path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in good.infolist():
            more = bytes(2**28) if entry.filename.endswith("data.pkl") else b""
            bomb.writestr(entry.filename, good.read(entry) + more)
    assert (tmp_path / "bomb.pt").stat().st_size < 2**20
    assert "is packed, to 268," in why(tmp_path / "bomb.pt")
    with zipfile.ZipFile(tmp_path / "long.pt", "w") as long:
        long.writestr("archive/data.pkl", bytes(2**26 + 1))
    assert "67,108,865 bytes" in why(tmp_path / "long.pt")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    torch.save({f"t{k}": torch.randn(50) for k in range(4)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for length in (0, 3, 10, 200, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        assert why(tmp_path / "cut.pt")
    torch.save({"a": torch.randn(50)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pt").read_bytes()
    for length in (3, 60, len(whole) - 100, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        assert why(tmp_path / "cut.pt")


@pytest.mark.parametrize("usual", [True, False])
def test_a_file_with_wrong_bytes_is_read_or_refused(tmp_path: Path, usual: bool):
    torch.save({f"t{k}": torch.randn(5) for k in range(6)}, tmp_path / "a.pt", _use_new_zipfile_serialization=usual)
    whole, draw = (tmp_path / "a.pt").read_bytes(), random.Random(0)
    refusals = 0
    for number in range(150):
        changed = bytearray(whole)
        for _ in range(draw.choice((1, 3, 20))):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        path = tmp_path / f"{number}.pt"
        path.write_bytes(changed)
        try:
            load_plain(path)
        except NotPlain:
            refusals += 1
    assert refusals > 20


def test_an_older_file_that_names_a_storage_that_is_not_there(tmp_path: Path):
    tensor = torch.randn(5)
    torch.save({"a": tensor}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "a.pt").read_bytes()
    key = str(tensor.untyped_storage()._cdata).encode()
    assert whole.count(key) == 2  # in the tensors, and in the list of storages behind them
    (tmp_path / "a.pt").write_bytes(whole.replace(key, b"1" * len(key), 1))
    assert "not found" in why(tmp_path / "a.pt")


def test_a_storage_that_claims_more_than_the_file_holds(tmp_path: Path):
    torch.save({"a": torch.randn(7)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as good, zipfile.ZipFile(tmp_path / "claims.pt", "w") as bad:
        for entry in good.infolist():
            content = good.read(entry)
            bad.writestr(entry.filename, content.replace(b"K\x07", b"K\xff") if entry.filename.endswith("data.pkl") else content)
    assert why(tmp_path / "claims.pt")


def test_other_kinds_of_file(tmp_path: Path):
    for name, content in (("page.pt", b"<html></html>"), ("empty.pt", b""), ("zip.pt", b"PK\x03\x04" + bytes(50))):
        (tmp_path / name).write_bytes(content)
        assert why(tmp_path / name)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    assert why(tmp_path / "script.pt")
