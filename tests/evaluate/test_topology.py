"""The topology metrics: the values that the official tool printed, and meshes whose values can be thought out."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.cad.kernel import Job, build
from cadmllm.cad.mesh import Mesh
from cadmllm.cad.omnicad import read_json
from cadmllm.errors import CadmllmError
from cadmllm.evaluate.topology import Topology, reported, segments, topology
from tests.evaluate.soups import CUBE, cube, moebius, together

GOLDEN = ("box", "box_notop", "box_notop_x10", "box_open", "degenerate", "face_touch", "inverted", "overlap", "sphere", "two")


@pytest.mark.parametrize("name", GOLDEN)
def test_the_official_values(shared, name) -> None:
    folder = shared / "golden" / "topology"
    expected = json.loads((folder / "expected.json").read_text())
    assert set(expected) == set(GOLDEN)
    mesh = trimesh.load_mesh(folder / f"{name}.stl", process=False)
    found = topology(mesh.vertices, mesh.faces)
    for key in ("segments", "self_intersecting_faces", "faces"):
        assert getattr(found, key) == expected[name][key], key
    for key in ("dangling_edge_length", "flux_enclosure_error"):
        value, wanted = getattr(found, key), expected[name][key]
        assert math.isnan(value) if wanted is None else value == pytest.approx(wanted, abs=1e-4), key


def found(soup) -> tuple[int, float, float, int]:
    """Segments, dangling edge length, flux, self-intersecting faces."""
    values: Topology = topology(*soup)
    return values.segments, values.dangling_edge_length, values.flux_enclosure_error, values.self_intersecting_faces


def test_cubes_that_touch() -> None:
    assert found(together(cube(), cube((1, 1, 1)))) == (2, 0.0, 0.0, 10)  # five faces at each of the two corners
    segments, dangling, flux, faces = found(together(cube(), cube((1, 1, 0))))
    assert (segments, dangling, flux) == (2, 0.0, 0.0)
    assert faces > 8
    assert found(together(cube(), cube((1, 0, 0))))[:2] == (4, 16.0 / 1.0)
    assert found(together(cube(), cube((0.25, 0.25, 0.25), 0.5))) == (2, 0.0, 0.0, 0)  # one within the other, apart
    assert found(together(cube(), cube((0.25, 0.25, 0), 0.5)))[3] == 12  # a smaller one standing on the bottom, inside


def test_an_open_box_leaks_whatever_its_faces_direction() -> None:
    vertices, faces = cube(size=10.0)
    for flip in (False, True):
        open_box = faces[np.arange(12) // 2 != 1]  # without the top
        value = topology(vertices, open_box[:, ::-1] if flip else open_box)
        assert (value.dangling_edge_length, value.flux_enclosure_error) == (8.0, 100.0)
        assert (value.dang_el, value.flux_ee, value.sir) == (8.0, 1.0, 0.0)
    mixed = faces[np.arange(12) // 2 != 1]
    mixed[3:7] = mixed[3:7, ::-1]
    assert topology(vertices, mixed).flux_enclosure_error == 100.0


def test_a_moebius_strip_has_one_segment_and_a_border() -> None:
    value = topology(*moebius(24))
    assert value.segments == 1
    assert value.dangling_edge_length > 0.0
    assert value.self_intersecting_faces > 0  # where it is cut the faces touch


def test_where_the_part_lies_does_not_matter() -> None:
    """The published tool starts its box at the origin, so that a part far from there reads less; FACTS say: of the box."""
    vertices, faces = cube()
    assert topology(vertices + 64.0, faces[:-2]).dangling_edge_length == topology(vertices, faces[:-2]).dangling_edge_length


def test_faces_that_collapse_in_welding_join_nothing() -> None:
    vertices, faces = cube()
    tiny = np.concatenate([vertices, [[1 + 1e-9, 1, 1], [1, 1 + 1e-9, 1]]])
    value = topology(tiny, np.concatenate([faces, [[6, 8, 9], [6, 8, 5]]]))
    assert (value.segments, value.dangling_edge_length, value.self_intersecting_faces, value.faces) == (1, 0.0, 2, 14)
    assert math.isnan(value.flux_enclosure_error)


def test_nothing_at_all() -> None:
    value = topology(np.zeros((0, 3)), np.zeros((0, 3), int))
    assert (value.segments, value.dangling_edge_length, value.self_intersecting_faces, value.faces) == (0, 0.0, 0, 0)
    assert math.isnan(value.sir)
    assert math.isnan(value.flux_ee)


@pytest.mark.parametrize(
    ("vertices", "faces", "words"),
    [
        ([[0, 0, 0], [1, 0, 0], [0, float("nan"), 0]], [[0, 1, 2]], "1 vertices of the mesh are not finite"),
        ([[0, 0, 0], [1, 0, 0], [0, 1e31, 0]], [[0, 1, 2]], "beyond 1e\\+30"),
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 3]], "names vertex 3, but there are 3"),
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, -1]], "names vertex -1"),
    ],
)
def test_what_cannot_be_measured_is_said(vertices, faces, words) -> None:
    with pytest.raises(CadmllmError, match=words) as caught:
        topology(np.array(vertices, float), np.array(faces))
    assert caught.value.code == "E712"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.25, 8.0, 1024.0]))
def test_size_order_and_numbering_do_not_matter(seed, size) -> None:
    """Also of shapes that are badly broken; but for where a surface without sides is cut, of which there is none here."""
    random = np.random.default_rng(seed)
    parts = [cube(tuple(random.integers(0, 3, 3).tolist())) for _ in range(random.integers(1, 4))]
    vertices, faces = together(*parts)
    faces = faces[random.random(len(faces)) < 0.9] if random.random() < 0.5 else faces
    if not len(faces):
        return
    one = topology(vertices, faces)
    order, number = random.permutation(len(faces)), random.permutation(len(vertices))
    other = topology(vertices[np.argsort(number)] * size, number[np.roll(faces[order], random.integers(3), axis=1)])
    assert (other.segments, other.self_intersecting_faces) == (one.segments, one.self_intersecting_faces)
    assert other.dangling_edge_length == pytest.approx(one.dangling_edge_length)
    assert other.sir == one.sir


def mesh_of(soup) -> Mesh:
    none = np.zeros(len(soup[1]), np.int32)
    return Mesh(soup[0], soup[1], none, none)


def test_the_columns_of_a_report() -> None:
    two = mesh_of(together(cube(size=4.0), cube((9, 0, 0), 4.0)))
    open_box = mesh_of((cube(size=4.0)[0], CUBE[:-2]))
    assert reported(open_box, two) == {"seg_e": 1.0, "dang_el": 8.0, "sir": 0.0, "flux_ee": 1.0}
    assert reported(two, two) == {"seg_e": 0.0, "dang_el": 0.0, "sir": 0.0, "flux_ee": 0.0}
    assert segments(two.vertices, two.faces) == 2


def test_our_solids_are_closed_and_free_of_themselves(shared) -> None:
    """Real programs that the kernel builds as one solid; one of more solids may touch itself, which is what is measured then."""
    looked = 0
    for path in sorted((shared / "data" / "deepcad" / "json").glob("*/*.json"))[:400:60]:
        try:
            mesh = build(Job(read_json(path), mesh=True)).mesh
        except CadmllmError:
            continue  # a file that holds no program
        if mesh is None or mesh.solid_ids.max() > 0:
            continue
        looked += 1
        value = topology(mesh.vertices, mesh.faces)
        assert (value.segments, value.dang_el, value.sir) == (1, 0.0, 0.0), path
        assert value.flux_ee < 1e-9, path
    assert looked > 2
