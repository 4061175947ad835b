"""Shapes from every kind of file, and a verdict for what is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import trimesh

from cadmllm.cad.compare import mesh_iou
from cadmllm.cad.convert import convert, plan
from cadmllm.cad.kernel import Job, Verdict, build
from cadmllm.cad.mesh import Mesh, stl_bytes, write_glb, write_stl
from cadmllm.cad.omnicad import write_json
from cadmllm.errors import CadmllmError
from cadmllm.evaluate.shape import of_triangles, read_shape, read_usable
from tests.cad.parts import BOW, PLATE
from tests.evaluate.solids import ball, box, joined, moved


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One part in every format that we write."""
    folder = tmp_path_factory.mktemp("every format")
    built = build(Job(PLATE, step=folder / "a.step", stl=folder / "a.stl", glb=folder / "a.glb", mesh=True))
    assert built.mesh is not None
    write_json(PLATE, folder / "a.json")
    for ending in (".h5", ".txt"):
        convert(plan(folder / "a.json", folder / f"a{ending}"), workers=1, timeout=60.0, advance=lambda: None)
    soup = trimesh.Trimesh(built.mesh.vertices, built.mesh.faces, process=False)
    for kind in ("ply", "obj", "off"):
        soup.export(folder / f"a.{kind}")
    shutil.copy(folder / "a.step", folder / "b.STP")
    return folder


@pytest.mark.parametrize("name", ["a.step", "b.STP", "a.stl", "a.glb", "a.json", "a.txt", "a.ply", "a.obj", "a.off"])
def test_every_format_has_the_part_in_mm(plate, name):
    shape = read_shape(plate / name)
    assert shape.ok, shape.reason
    assert shape.mesh is not None
    low, high = shape.mesh.box
    assert np.allclose(high - low, [80, 40, 8], rtol=1e-3)
    reference = read_shape(plate / "a.step").mesh
    assert reference is not None
    middle = (low + high) / 2.0 - np.array([0, 0, 4])  # token text and vectors are centred
    placed = Mesh(shape.mesh.vertices - middle, shape.mesh.faces, shape.mesh.face_ids, shape.mesh.solid_ids)
    assert mesh_iou(placed, reference) > 0.995
    assert (shape.program is not None) == (name in ("a.json", "a.txt"))
    assert shape.extrudes == (1 if shape.program else None)


def test_deepcad_vectors_are_built_in_their_own_size(plate):
    shape = read_shape(plate / "a.h5")
    assert shape.ok, shape.reason
    assert shape.extrudes == 1
    assert shape.box is not None
    side = shape.box[1] - shape.box[0]
    assert side[0] / side[1] == pytest.approx(2.0, rel=0.02)


def file(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


TRIANGLE = "v 0 0 0\nv 1 0 0\nv {} 1 0\nf 1 2 3\n"


@pytest.mark.parametrize(
    ("name", "content", "verdict", "what"),
    [
        ("a.stl", b"ply\n", Verdict.PARSE, "readable"),
        ("a.stl", b"", Verdict.PARSE, "empty"),
        ("a.stl", b"\0" * 80 + (10**9).to_bytes(4, "little") + b"\1" * 50, Verdict.PARSE, "readable"),
        ("a.ply", b"ply\nformat ascii 1.0\n", Verdict.PARSE, "readable"),
        ("a.glb", b"glTF" + b"\0" * 30, Verdict.PARSE, "readable"),
        ("a.obj", "v 0 0 0\n", Verdict.EMPTY, "no triangles"),
        ("a.obj", TRIANGLE.format("nan"), Verdict.INVALID, "not finite"),
        ("a.obj", TRIANGLE.format("1e40"), Verdict.INVALID, "beyond"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", Verdict.INVALID, "area"),
        ("a.step", "ISO-10303-21;\nHEADER;\n", Verdict.PARSE, "STEP"),
        ("a.json", "{}", Verdict.PARSE, "E203"),
        ("a.json", "[", Verdict.PARSE, "E202"),
        ("a.txt", "once upon a time", Verdict.PARSE, "E211"),
        ("a.h5", b"no hdf", Verdict.PARSE, "E210"),
        ("a.docx", b"x", Verdict.PARSE, "no format"),
    ],
)
def test_what_is_no_shape(tmp_path, name, content, verdict, what):
    shape = read_shape(file(tmp_path, name, content))
    assert shape.verdict is verdict, shape.reason
    assert what in shape.reason
    assert shape.mesh is None
    with pytest.raises(CadmllmError, match="E712") as refused:
        read_usable(tmp_path / name)
    assert str(verdict) in refused.value.message
    assert ".step" in refused.value.remedy


def test_a_file_that_is_not_there(tmp_path):
    assert "No such file" in read_shape(tmp_path / "gone.stl").reason
    (tmp_path / "folder.stl").mkdir()
    assert read_shape(tmp_path / "folder.stl").verdict is Verdict.PARSE


def test_a_program_without_a_solid_keeps_its_program(tmp_path):
    write_json(BOW, tmp_path / "bow.json")
    shape = read_shape(tmp_path / "bow.json")
    assert shape.verdict is Verdict.INVALID
    assert "crosses itself" in shape.reason
    assert shape.extrudes == 1


def test_one_triangle_is_a_surface(tmp_path):
    shape = read_shape(file(tmp_path, "a.obj", TRIANGLE.format("0")))
    assert shape.ok
    assert len(shape.mesh.faces) == 1


def test_materials_beside_a_mesh_are_not_looked_for(tmp_path):
    shape = read_shape(file(tmp_path, "a.obj", "mtllib /etc/passwd\nusemtl x\n" + TRIANGLE.format("0")))
    assert shape.ok


def test_a_glb_of_several_placed_parts(tmp_path):
    scene = trimesh.Scene()
    cube = trimesh.creation.box((0.01, 0.01, 0.01))
    scene.add_geometry(cube, geom_name="a")
    scene.add_geometry(cube, geom_name="a", transform=trimesh.transformations.translation_matrix([0.1, 0.0, 0.0]))
    path = file(tmp_path, "two.glb", scene.export(file_type="glb"))
    shape = read_shape(path)
    assert np.allclose(shape.box, [[-5, -5, -5], [105, 5, 5]])
    assert len(shape.mesh.faces) == 24


def test_up_is_up_again(tmp_path):
    tower = moved(box((1, 2, 5)), (3, 4, 6))
    write_glb(tower, tmp_path / "a.glb")
    assert np.allclose(read_shape(tmp_path / "a.glb").box, tower.box, rtol=1e-5)
    write_stl(tower, tmp_path / "a.stl")
    assert np.allclose(read_shape(tmp_path / "a.stl").box, tower.box, rtol=1e-5)


def test_step_surfaces_are_no_solid(tmp_path):
    from OCP.BRepBuilderAPI import BRepBuilderAPI_MakeFace
    from OCP.gp import gp_Pln
    from OCP.STEPControl import STEPControl_StepModelType, STEPControl_Writer

    writer = STEPControl_Writer()
    writer.Transfer(BRepBuilderAPI_MakeFace(gp_Pln(), 0.0, 1.0, 0.0, 1.0).Face(), STEPControl_StepModelType.STEPControl_AsIs)
    writer.Write(str(tmp_path / "sheet.step"))
    shape = read_shape(tmp_path / "sheet.step")
    assert shape.verdict is Verdict.EMPTY
    assert "0 solids" in shape.reason


def test_vertices_are_one_where_they_are_the_same(tmp_path):
    two = joined(box(), box(at=(1.0, 0, 0)))
    (tmp_path / "two.stl").write_bytes(stl_bytes(two))
    shape = read_shape(tmp_path / "two.stl")
    assert len(shape.mesh.vertices) == 12
    assert len(of_triangles(two.vertices + 1e-9, two.faces).mesh.vertices) == 12


def test_an_index_that_names_nothing():
    shape = of_triangles(np.zeros((3, 3)), np.array([[0, 1, 7]]))
    assert shape.verdict is Verdict.INVALID
    assert "vertex 7 of 3" in shape.reason


def test_inside_out_and_curved(tmp_path):
    sphere = ball(3.0)
    sphere.faces = sphere.faces[:, ::-1].copy()
    (tmp_path / "s.stl").write_bytes(stl_bytes(sphere))
    shape = read_shape(tmp_path / "s.stl")
    assert shape.ok
    assert mesh_iou(shape.mesh, ball(3.0)) > 0.999
    assert json.dumps(shape.extrudes) == "null"
