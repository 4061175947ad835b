"""`cadmllm eval mesh` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh

from cadmllm.cli import main
from tests.evaluate.soups import cube

KEYS = ["segments", "dangling_edge_length", "flux_enclosure_error", "self_intersecting_faces", "faces"]


def test_the_goldens_from_the_command_line(shared: Path, capsys) -> None:
    folder = shared / "golden" / "topology"
    expected = json.loads((folder / "expected.json").read_text())
    for name, values in expected.items():
        assert main(["eval", "mesh", str(folder / f"{name}.stl"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert list(found) == KEYS
        for key in KEYS:
            assert found[key] == (values[key] if values[key] is None else pytest.approx(values[key], abs=1e-4)), (name, key)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    path = tmp_path / "my box.stl"
    trimesh.Trimesh(*cube(size=10.0), process=False).export(path)
    return path


def test_against_another(box: Path, capsys) -> None:
    assert main(["eval", "mesh", str(box), str(box), "--set", "eval.points=200", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {*KEYS, "chamfer_distance", "iou", "f_score", "normal_consistency"} <= set(found)
    assert found["iou"] == pytest.approx(1.0)
    assert found["truth"] == {key: found[key] for key in KEYS}


def test_for_people(box: Path, capsys) -> None:
    assert main(["eval", "mesh", str(box)]) == 0
    said = capsys.readouterr()
    assert "dangling edges" in said.out
    assert "mm2" in said.out
    assert said.err == ""
    assert main(["eval", "mesh", str(box), str(box), "--set", "eval.points=200"]) == 0
    assert "IoU" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"", b"solid x\nendsolid x\n", b"\x00" * 80 + b"\xff\xff\xff\x7f"])
def test_bad_files_are_refused_with_a_way_out(tmp_path: Path, capsys, content) -> None:
    path = tmp_path / "bad.stl"
    if content is not None:
        path.write_bytes(content)
    assert main(["eval", "mesh", str(path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "error: E712" in said.err
    assert "hint:" in said.err
    assert "Traceback" not in said.err


def test_nothing_to_measure_is_a_wrong_command_line(capsys) -> None:
    assert main(["eval", "mesh"]) == 2
    assert "error:" in capsys.readouterr().err
