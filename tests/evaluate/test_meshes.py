"""One shape by itself and against another, from every kind of file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh

from cadmllm.cad.files import write_whole
from cadmllm.cad.omnicad import write_json
from cadmllm.errors import CadmllmError
from cadmllm.evaluate.meshes import COUNTED, measure, measure_apart, table
from tests.cad.parts import PLATE
from tests.evaluate.soups import Soup, cube, together

QUICK = {"points": 256, "seed": 0}


def save(path, soup: Soup):
    trimesh.Trimesh(*soup, process=False).export(path)
    return path


@pytest.mark.parametrize("ending", ["stl", "ply", "obj", "off", "glb"])
def test_the_triangles_of_a_file_are_measured_as_they_are(tmp_path, ending) -> None:
    """Neither welded nor repaired by the reader: a box without its top beside one that stands on another."""
    vertices, faces = together((cube(size=2.0)[0], cube()[1][np.arange(12) // 2 != 1]), cube((9, 0, 0)), cube((10, 0, 0)))
    scale = 0.001 if ending == "glb" else 1.0  # glTF is in metres
    found = measure(save(tmp_path / f"a b.{ending}", (vertices * scale, faces)), None, **QUICK)
    assert set(found) == set(COUNTED)
    assert (found["segments"], found["self_intersecting_faces"], found["faces"]) == (5, 20, 34)
    assert found["dangling_edge_length"] == pytest.approx((8.0 + 16.0) / 5.5, rel=1e-5)  # half of 11
    assert found["flux_enclosure_error"] == pytest.approx(4.0, rel=1e-5)


def test_against_another_in_the_files_own_size(tmp_path) -> None:
    one, other = save(tmp_path / "a.stl", cube(size=10.0)), save(tmp_path / "b.stl", cube((5, 0, 0), 10.0))
    found = measure(one, other, **QUICK)
    compared = {"chamfer_distance", "iou", "iou_method", "f_score", "f_score_relative", "normal_consistency"}
    assert set(found) == {*COUNTED, *compared, "truth"}
    assert found["iou"] == pytest.approx(1 / 3)
    assert found["chamfer_distance"] > 1.0  # mm2: nothing is scaled to 1
    assert set(found["f_score"]) == {"0.01", "0.02", "0.05"}
    assert set(found["truth"]) == set(COUNTED)


def test_a_face_without_area_is_told_as_not_defined(tmp_path) -> None:
    flat = (np.array([[9, 0, 0], [9, 0, 1], [9, 0, 3]], float), np.array([[0, 1, 2]]))
    found = measure(save(tmp_path / "a.stl", together(cube(), flat)), None, **QUICK)
    assert math.isnan(found["flux_enclosure_error"])
    assert (found["segments"], found["self_intersecting_faces"]) == (2, 1)
    rows = {row[0]: row for row in table(found)}
    assert rows["flux error, mm2"][1] == "-"
    assert rows["segments"][1] == "2"


def test_a_program_is_built_in_a_worker(tmp_path) -> None:
    write_json(PLATE, tmp_path / "a.json")
    found = measure_apart(tmp_path / "a.json", tmp_path / "a.json", timeout=60.0, memory=0, **QUICK)
    assert (found["segments"], found["dangling_edge_length"], found["self_intersecting_faces"]) == (1, 0.0, 0)
    assert found["iou"] == pytest.approx(1.0)
    assert found["truth"]["faces"] == found["faces"]
    assert len({len(row) for row in table(found)}) == 1


def test_a_worker_at_its_limit_is_told(tmp_path) -> None:
    write_json(PLATE, tmp_path / "a.json")
    with pytest.raises(CadmllmError, match="a.json") as caught:
        measure_apart(tmp_path / "a.json", None, timeout=1e-6, memory=0, **QUICK)
    assert caught.value.code == "E712"
    assert "kernel.timeout" in caught.value.remedy


def test_what_is_no_shape_is_refused_by_name(tmp_path) -> None:
    write_whole(tmp_path / "a.stl", b"solid nothing\nendsolid nothing\n")
    save(tmp_path / "b.stl", cube())
    for one, other in ((tmp_path / "a.stl", None), (tmp_path / "b.stl", tmp_path / "a.stl")):
        with pytest.raises(CadmllmError, match="a.stl") as caught:
            measure_apart(one, other, timeout=60.0, memory=0, **QUICK)
        assert caught.value.code == "E712"
