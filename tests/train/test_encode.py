"""Encoding a data set: what is there stays, an interruption changes no byte, foreign folders stay alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from encoders import make_dino, make_michelangelo
from safetensors import safe_open
from safetensors.torch import load_file

from cadmllm.cli import main
from cadmllm.corpus import shards as shard_files
from cadmllm.corpus.features import FeatureStore
from cadmllm.corpus.layout import DataSet, open_dataset
from cadmllm.corpus.points import load_cloud
from cadmllm.corpus.sample import fixed_seed
from cadmllm.corpus.shards import read_shard, shard_paths
from cadmllm.errors import CadmllmError
from cadmllm.models.michelangelo import load_michelangelo
from cadmllm.settings import Settings
from cadmllm.train import encode as encoding
from cadmllm.train import shardwriter
from cadmllm.train.encode import Options, encode


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with points.pt and dino/; read only."""
    folder = tmp_path_factory.mktemp("encoders")
    make_michelangelo(folder / "points.pt")
    make_dino(folder / "dino")
    return folder


@pytest.fixture
def frozen(settings: Callable[..., Settings], encoders: Path, parts: DataSet) -> Settings:
    model = {
        "points_encoder": "michelangelo",
        "points_checkpoint": encoders / "points.pt",
        "point_tokens": 9,
        "image_encoder": str(encoders / "dino"),
        "image_bridge": "mlp",
        "image_tokens": 5,
    }
    return settings(model=model, data={"root": parts.data.root})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two or three ids."""
    monkeypatch.setattr(shardwriter, "SHARD_BYTES", 9 * 64 * 4 * 5)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


POINTS = Options(parts=("points",), draws=2, dtype="float32")


def test_features_are_those_of_the_encoder_on_the_fixed_draws(frozen, parts, console, tmp_path, encoders) -> None:
    encode(frozen, parts, tmp_path / "out", POINTS, console)
    (path,) = shard_paths(tmp_path / "out" / "points")
    shard = read_shard(path)
    stored = load_file(path)["features"]  # any reader of safetensors opens it
    assert stored.shape == (2 * 17, 9, 64)
    michelangelo = load_michelangelo(encoders / "points.pt")
    for entry in shard.entries[::5]:
        for draw in range(2):
            cloud = load_cloud(parts.cloud_path(entry.id), 64, fixed_seed(draw))
            with torch.no_grad():
                wanted = michelangelo(torch.from_numpy(cloud.points)[None], torch.from_numpy(cloud.normals)[None])[0]
            torch.testing.assert_close(stored[entry.row + draw], wanted, rtol=1e-5, atol=1e-5)


def test_a_second_run_makes_nothing_and_loads_no_encoder(frozen, parts, console, tmp_path, small, monkeypatch) -> None:
    first = encode(frozen, parts, tmp_path / "out", Options(dtype="float32"), console)
    assert [(report.part, report.encoded, report.kept) for report in first] == [("points", 17, 0), ("images", 19, 0)]
    assert [report.rows for report in first] == [17, 19 * 8]
    before, times = (
        content(tmp_path / "out"),
        {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")},
    )
    monkeypatch.setattr(encoding, "FrozenEncoder", None)
    again = encode(frozen, parts, tmp_path / "out", Options(dtype="float32"), console)
    assert [(report.encoded, report.kept, report.rows) for report in again] == [(0, 17, 17), (0, 19, 19 * 8)]
    assert content(tmp_path / "out") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_processes_that_read_change_nothing(frozen, parts, console, tmp_path, small) -> None:
    encode(frozen, parts, tmp_path / "one", POINTS, console)
    encode(frozen, parts, tmp_path / "two", Options(parts=("points",), draws=2, dtype="float32", workers=2), console)
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.parametrize("after", [1, 2, 6])
def test_stopped_and_started_again_no_byte_differs(frozen, parts, console, tmp_path, small, monkeypatch, after) -> None:
    encode(frozen, parts, tmp_path / "straight", POINTS, console)
    real, calls = shardwriter.write_shard, []

    def write(path, *arguments):
        calls.append(path)
        if len(calls) == after:
            Path(path.parent / ".00000.torn.safetensors").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        real(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shardwriter, "write_shard", write)
        with pytest.raises(KeyboardInterrupt):
            encode(frozen, parts, tmp_path / "broken", POINTS, console)
    assert len(shard_paths(tmp_path / "broken" / "points")) == after - 1
    assert "the same command goes on from there" in console.err.getvalue()
    (report,) = encode(frozen, parts, tmp_path / "broken", POINTS, console)
    assert report.encoded < 17 or after == 1
    assert content(tmp_path / "broken") == content(tmp_path / "straight")


@pytest.mark.long
def test_killed_by_the_system_no_byte_differs(frozen, parts, console, tmp_path) -> None:
    """A real process, a real SIGKILL, as soon as a shard stands."""
    code = "import sys; from cadmllm.train import shardwriter; shardwriter.SHARD_BYTES = 9000\n"
    code += "from cadmllm.cli import main; sys.exit(main(sys.argv[1:]))"
    common = ["data", "encode", str(parts.data.root), "--points", "--draws", "2", "--batch", "1"]
    model = {"points_checkpoint": frozen.model.points_checkpoint, "point_count": 64, "point_tokens": 9}
    common += [f"--set=model.{name}={value}" for name, value in model.items()] + ["--set=device=cpu", "--set=dtype=float32"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"

    def command(out: Path) -> list[str]:
        return [sys.executable, "-c", code, *common, "--out", str(out), "--quiet"]

    subprocess.run(command(straight), check=True, capture_output=True, timeout=120)
    child = subprocess.Popen(command(broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and not (broken / "points").is_dir():
        time.sleep(0.002)
    while child.poll() is None and not shard_paths(broken / "points"):
        time.sleep(0.0005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(shard_paths(straight / "points")) > 3
    subprocess.run(command(broken), check=True, capture_output=True, timeout=120)
    assert content(broken) == content(straight)


def test_changed_ids_go_into_a_new_shard_and_dead_shards_go(frozen, parts, console, tmp_path, small) -> None:
    own = open_dataset(parts.data.model_copy(update={"root": shutil.copytree(parts.data.root, tmp_path / "own")}))
    out = tmp_path / "out"
    encode(frozen, own, out, POINTS, console)
    first = shard_paths(out / "points")
    for entry in read_shard(first[0]).entries:
        np.savez(str(own.cloud_path(entry.id)), points=np.random.default_rng(1).normal(size=(99, 3)))
    (report,) = encode(frozen, own, out, POINTS, console)
    assert report.encoded == len(read_shard(first[1]).entries) == 2
    assert not first[0].exists()  # nothing in it counted any more
    assert report.rows == 34
    for path in own.data.root.rglob("*.npz"):
        os.utime(path)
    (report,) = encode(frozen, own, out, POINTS, console)
    assert (report.encoded, report.touched) == (0, 17)
    (report,) = encode(frozen, own, out, POINTS, console)
    assert (report.encoded, report.touched) == (0, 0)  # the new times are remembered


def test_another_recipe_is_refused_and_overwritten_when_told(frozen, parts, console, tmp_path) -> None:
    out = tmp_path / "out"
    encode(frozen, parts, out, POINTS, console)
    before = content(out)
    with pytest.raises(CadmllmError, match="draws 2 there, 3 wanted") as caught:
        encode(frozen, parts, out, Options(parts=("points",), draws=3, dtype="float32"), console)
    assert caught.value.code == "E470"
    assert content(out) == before
    encode(frozen, parts, out, Options(parts=("points",), draws=3, dtype="float32", overwrite=True), console)
    encode(frozen, parts, tmp_path / "new", Options(parts=("points",), draws=3, dtype="float32"), console)
    assert content(out) == content(tmp_path / "new")


def test_damage_is_found_when_asked_for(frozen, parts, console, tmp_path, small) -> None:
    out = tmp_path / "out"
    encode(frozen, parts, out, POINTS, console)
    shutil.copytree(out, tmp_path / "whole")
    path = shard_paths(out / "points")[2]
    damaged = bytearray(path.read_bytes())
    damaged[-200] ^= 4
    path.write_bytes(damaged)
    (report,) = encode(frozen, parts, out, POINTS, console)
    assert report.encoded == 0
    (report,) = encode(frozen, parts, out, Options(parts=("points",), draws=2, dtype="float32", verify=True), console)
    assert report.encoded == 2
    assert "1 of 4 rows are not what was written" in console.err.getvalue()
    damaged_ids = [entry.id for entry in read_shard(shard_paths(out / "points")[-1]).entries]
    store = FeatureStore(out)
    wanted = load_file(tmp_path / "whole" / "points" / path.name)["features"].numpy()
    rows = [store.cloud(id_, draw) for id_ in damaged_ids for draw in range(2)]
    np.testing.assert_array_equal(np.stack(rows), wanted)


def test_foreign_folders_and_full_disks_are_refused_untouched(frozen, parts, console, tmp_path, monkeypatch) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("x")
    with pytest.raises(CadmllmError, match=r"thesis\.txt") as caught:
        encode(frozen, parts, foreign, POINTS, console)
    assert caught.value.code == "E409"
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "points").symlink_to(elsewhere)
    with pytest.raises(CadmllmError) as caught:
        encode(frozen, parts, linked, POINTS, console)
    assert caught.value.code == "E409"
    assert not list(elsewhere.iterdir())
    monkeypatch.setattr(encoding.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CadmllmError, match="GiB free") as caught:
        encode(frozen, parts, tmp_path / "full", POINTS, console)
    assert caught.value.code == "E821"
    assert not shard_paths(tmp_path / "full" / "points")


def test_what_is_absent_is_left_out_unless_it_was_asked_for(frozen, parts, console, tmp_path) -> None:
    root = shutil.copytree(parts.data.root, tmp_path / "own")
    shutil.rmtree(root / "img")
    own = open_dataset(parts.data.model_copy(update={"root": root}))
    frozen.model.image_encoder = str(tmp_path / "not here")  # nobody needs it
    (report,) = encode(frozen, own, tmp_path / "out", Options(dtype="float32"), console)
    assert report.part == "points"
    assert "no id has views" in console.err.getvalue()
    with pytest.raises(CadmllmError, match="has a view") as caught:
        encode(frozen, own, tmp_path / "out", Options(parts=("points", "images"), dtype="float32"), console)
    assert caught.value.code == "E406"


def test_one_at_a_time(frozen, parts, console, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    code = "import sys; from pathlib import Path; from cadmllm.train.encode import _locked\n"
    code += "with _locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(CadmllmError, match="another") as caught:
        encode(frozen, parts, out, POINTS, console)
    assert caught.value.code == "E409"
    holder.kill()
    holder.wait()
    encode(frozen, parts, out, POINTS, console)


def test_16_bit_floats_are_those_of_the_file_format(frozen, parts, console, tmp_path) -> None:
    for dtype in ("bfloat16", "float16"):
        encode(frozen, parts, tmp_path / dtype, Options(parts=("images",), dtype=dtype), console)
        (path,) = shard_paths(tmp_path / dtype / "images")
        with safe_open(path, "pt") as file:
            assert str(file.get_tensor("features").dtype) == f"torch.{dtype}"
            assert file.get_tensor("features").float().isfinite().all()


def test_the_command(parts, encoders, tmp_path, capsys) -> None:
    out = tmp_path / "features"
    model = {"points_checkpoint": encoders / "points.pt", "point_count": 64, "point_tokens": 9}
    sets = [f"--set=model.{name}={value}" for name, value in model.items()]
    words = ["data", "encode", str(parts.data.root), "--out", str(out), "--points", "--draws", "2", *sets]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (part,) = found["parts"]
    assert (part["part"], part["encoded"], part["rows"]) == ("points", 17, 34)
    assert f"--set data.features={out}" in found["next"]
    assert main([*words, "--quiet"]) == 0
    assert "clouds" in capsys.readouterr().out
    assert main([*words, "--json", "--set", "model.points_encoder=fourier"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E472"
    assert main(["data", "encode", str(parts.data.root), "--json"]) == 2
    assert main([*words, "--dtype", "int8", "--json"]) == 2
    assert shard_files.INDEX in {path.name for path in (out / "points").iterdir()}
