"""Meshes are closed, oriented outward, sampled by area, and written in the units of their format."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.cad.kernel import build_shape, measure, tessellate
from cadmllm.cad.mesh import Mesh, normalise, sample_surface, weld, write_glb, write_stl
from cadmllm.cad.program import Profile
from cadmllm.errors import CadmllmError
from tests.cad.parts import BOX, PLATE, circle, extrude, program, rectangle


def volume(mesh: Mesh) -> float:
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)


@pytest.fixture(scope="module")
def plate() -> Mesh:
    return tessellate(build_shape(PLATE))


def test_a_box_is_twelve_triangles_outward(plate):
    mesh = tessellate(build_shape(BOX))
    assert (mesh.vertices.shape, mesh.faces.shape) == ((8, 3), (12, 3))
    assert mesh.closed
    assert volume(mesh) == pytest.approx(6000.0)
    assert sorted(np.bincount(mesh.face_ids)) == [2] * 6
    assert len(mesh.edges) == 12
    assert (mesh.faces.dtype, mesh.face_ids.dtype, mesh.vertices.dtype) == (np.int32, np.int32, np.float64)


def test_seams_are_not_edges_and_round_walls_are_one_face(plate):
    assert plate.closed
    assert len(plate.edges) == 12 + 4  # the box's and two circles a hole; not the seam of each hole
    assert len(np.unique(plate.face_ids)) == 8
    for line in plate.edges:
        ends = np.linalg.norm(line[:, None] - plate.vertices[None], axis=2).min(axis=1)
        assert ends.max() < 1e-9


def test_solids_stay_apart_also_where_they_touch():
    mesh = tessellate(build_shape(program(extrude(rectangle(0, 0, 5, 5)), extrude(rectangle(5, 0, 5, 5)))))
    assert (len(mesh.vertices), mesh.solid_ids.max()) == (16, 1)
    first, second = (set(mesh.faces[mesh.solid_ids == k].ravel()) for k in (0, 1))
    assert not first & second
    assert mesh.closed


def test_an_open_mesh_is_not_closed():
    mesh = tessellate(build_shape(BOX))
    mesh.faces = mesh.faces[1:]
    assert not mesh.closed
    mesh.faces = mesh.faces[:0]
    assert not mesh.closed


def test_weld_joins_what_is_named_and_drops_what_collapses():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.0]])
    faces = np.array([[0, 1, 2], [3, 5, 4], [1, 3, 5]])
    points, corners, kept = weld(vertices, faces, np.array([[1, 3], [4, 2]]))
    assert points.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]
    assert corners.tolist() == [[0, 1, 2], [1, 3, 2]]
    assert kept.tolist() == [0, 1]


@settings(max_examples=25, deadline=None)
@given(st.floats(1, 100), st.floats(1, 100), st.floats(0.5, 50), st.floats(0.05, 0.45))
def test_meshes_of_drilled_blocks_are_closed_and_have_the_volume(width, depth, height, share):
    radius = share * min(width, depth)
    shape = build_shape(
        program(extrude(Profile(rectangle(0, 0, width, depth), (circle(width / 2, depth / 2, radius),)), one=height))
    )
    mesh = tessellate(shape)
    assert mesh.closed
    assert volume(mesh) == pytest.approx(measure(shape)["volume"], rel=0.02)


def test_samples_lie_on_the_surface_by_area_with_outward_normals(plate):
    points, normals = sample_surface(plate, 20_000, seed=3)
    assert points.shape == normals.shape == (20_000, 3)
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1.0)
    top = points[:, 2] > 8.0 - 1e-9
    area = 80 * 40 - 2 * math.pi * 36
    whole = 2 * area + 2 * (80 + 40) * 8 + 2 * 2 * math.pi * 6 * 8
    assert top.mean() == pytest.approx(area / whole, abs=0.015)
    assert normals[top] == pytest.approx(np.tile([0.0, 0.0, 1.0], (top.sum(), 1)))
    walls = np.abs(points[:, 0]) > 40.0 - 1e-9
    assert (np.sign(points[walls, 0]) == np.sign(normals[walls, 0])).all()
    holes = (np.abs(normals[:, 2]) < 0.5) & (np.abs(points[:, 0]) < 39) & (np.abs(points[:, 1]) < 19)
    inward = np.where(points[holes, 0] > 0, 25.0, -25.0) - points[holes, 0]
    towards = np.column_stack([inward, -points[holes, 1]])
    assert (np.einsum("ij,ij->i", towards, normals[holes, :2]) > 0).all()  # out of the material is into the hole


def test_sampling_is_a_function_of_its_seed(plate):
    first, again, other = (sample_surface(plate, 100, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 3), min_size=3, max_size=20))
def test_normalised_parts_fill_the_cube_and_come_back(points):
    vertices = np.array(points)
    if np.ptp(vertices, axis=0).max() < 1e-3:
        return
    mesh = Mesh(vertices, np.zeros((0, 3), np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))
    transform = normalise(mesh)
    inside = transform.apply(vertices)
    assert np.abs(inside).max() == pytest.approx(1.0)
    assert transform.invert(inside) == pytest.approx(vertices, abs=1e-6)


def test_stl_is_millimetres_and_reads_back(plate, tmp_path: Path):
    write_stl(plate, tmp_path / "a.stl")
    again = trimesh.load_mesh(tmp_path / "a.stl")
    assert again.volume == pytest.approx(volume(plate), rel=1e-5)
    assert again.extents == pytest.approx([80, 40, 8])
    assert again.is_watertight
    assert (tmp_path / "a.stl").stat().st_size == 84 + 50 * len(plate.faces)


def test_glb_is_metres_with_y_up_and_the_same_bytes_again(plate, tmp_path: Path):
    write_glb(plate, tmp_path / "a.glb", "plate")
    write_glb(plate, tmp_path / "b.glb", "plate")
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()
    scene = trimesh.load_scene(tmp_path / "a.glb")
    assert scene.extents == pytest.approx([0.080, 0.008, 0.040])
    assert list(scene.geometry) == ["plate"]
    found = next(iter(scene.geometry.values()))
    assert found.volume == pytest.approx(volume(plate) / 1e9, rel=1e-4)
    corners = found.triangles_cross @ found.triangles_center.mean(axis=0)
    assert np.isfinite(corners).all()
    # each B-rep face has its own vertices, so that its normals do not bend round the edges
    assert (np.abs(np.linalg.norm(found.vertex_normals, axis=1) - 1.0) < 1e-4).all()
    flat = np.abs(found.vertex_normals[:, 1]) > 0.999
    assert flat.sum() >= 2 * len(plate.edges[0])


def test_files_that_cannot_be_written_are_coded(plate, tmp_path: Path):
    for write in (write_stl, write_glb):
        with pytest.raises(CadmllmError) as caught:
            write(plate, tmp_path / "no" / "a.bin")
        assert caught.value.code == "E303"
