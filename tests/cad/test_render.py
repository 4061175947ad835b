"""Pictures show the part where it is, keep their margin, hide what is hidden, and are the same bytes again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cadmllm.cad.kernel import build_shape, tessellate
from cadmllm.cad.mesh import Mesh
from cadmllm.cad.program import Profile
from cadmllm.cad.render import INK, VIEWS, contact_sheet, render, render_views, write_png
from cadmllm.errors import CadmllmError
from tests.cad.parts import BOX, PLATE, circle, extrude, program, rectangle


def mesh_of(part) -> Mesh:
    return tessellate(build_shape(part))


@pytest.fixture(scope="module")
def plate() -> Mesh:
    return mesh_of(PLATE)


@pytest.fixture(scope="module")
def cube() -> Mesh:
    return mesh_of(program(extrude(rectangle(0, 0, 10, 10))))


def inked(picture: np.ndarray) -> np.ndarray:
    return picture.astype(int).sum(axis=2) < INK.sum() + 150


def test_the_views_are_the_eight_sign_combinations():
    assert len(set(VIEWS)) == 8
    assert all(abs(sign) == 1 for view in VIEWS for sign in view)
    assert [view[2] for view in VIEWS] == [1] * 4 + [-1] * 4


@settings(max_examples=8, deadline=None)
@given(st.floats(0.5, 100), st.floats(0.5, 100), st.floats(0.5, 100), st.integers(0, 7))
def test_every_part_keeps_the_margin_and_fills_the_picture(width, depth, height, view):
    mesh = mesh_of(program(extrude(rectangle(-300, 40, width, depth), one=height)))
    picture = render(mesh, view, 112)
    rows, columns = np.nonzero((picture < 250).any(axis=2))
    edge = 112 * 0.1 - 2  # lines reach over the outline by a pixel
    assert min(rows.min(), columns.min(), 111 - rows.max(), 111 - columns.max()) >= edge
    pictures = [picture < 250 for picture in (render(mesh, k, 112) for k in range(4))]
    spans = [np.ptp(np.nonzero(seen.any(axis=2))[axis]) for seen in pictures for axis in (0, 1)]
    assert max(spans) >= 112 * 0.8 - 2


def test_dinos_crop_cuts_nothing(plate):
    for picture in render_views(plate, 224):
        ring = np.ones((224, 224), bool)
        ring[14:-14, 14:-14] = False
        assert (picture[ring] == 255).all()


def test_a_cube_has_three_tones_top_brightest_and_nine_visible_edges(cube):
    picture = render(cube, 0, 224)
    top, left, right = picture[75, 112], picture[140, 75], picture[140, 149]
    assert (top.astype(int) - left > 15).all()
    assert (left.astype(int) - right > 15).all()
    assert (picture[4, 4] == 255).all()
    # the three edges of the front corner are drawn, those of the hidden corner behind it are not
    middle = inked(picture)
    assert middle[120:170, 108:117].any(axis=1).all()
    assert not middle[60:100, 108:117].any(axis=1).all()


def test_what_is_behind_is_hidden():
    front = extrude(rectangle(0, 0, 30, 30), one=1.0)
    small = extrude(circle(10, 10, 3), one=-4.0)
    both, alone = (mesh_of(program(*parts)) for parts in ((front, small), (front,)))
    # the disc below the plate: from above only the plate's own lines are seen in the plate's middle
    above = render(both, 0, 224)
    rows, columns = slice(95, 125), slice(90, 135)
    assert not inked(above[rows, columns]).any()
    below = render(both, 4, 224)
    assert inked(below).sum() > inked(render(alone, 4, 224)).sum() + 50


def test_a_hole_shows_the_ground_through_it():
    ring = mesh_of(program(extrude(Profile(circle(0, 0, 20), (circle(0, 0, 12),)), one=2.0)))
    picture = render(ring, 0, 128)
    assert (picture[64, 64] == 255).all()
    assert (picture[64, 22:104] < 255).any()


def test_round_walls_are_smooth_and_have_an_outline():
    picture = render(mesh_of(program(extrude(circle(0, 0, 10), one=30.0))), 0, 224)
    wall = picture[130, 80:144].astype(int)
    assert np.abs(np.diff(wall, axis=0)).max() < 12  # no facets
    row = inked(picture[130:131])[0]
    assert row[:112].any()
    assert row[112:].any()


def test_opposite_views_differ_and_views_are_reproducible(plate):
    first, again = render_views(plate, 64), render_views(plate, 64)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    lop = mesh_of(program(extrude(rectangle(0, 0, 30, 10)), extrude(rectangle(0, 0, 5, 10), one=25.0)))
    pictures = render_views(lop, 64)
    assert len({picture.tobytes() for picture in pictures}) == 8


def test_a_part_without_edges_or_a_sliver_is_still_a_picture(cube):
    bare = Mesh(cube.vertices, cube.faces, cube.face_ids, cube.solid_ids)
    assert inked(render(bare, 0, 64)).any()  # the outline
    flat = mesh_of(program(extrude(rectangle(0, 0, 1000, 0.01), one=0.01)))
    assert (render(flat, 2, 64) < 255).any()


def test_senseless_arguments_are_refused(cube):
    for arguments in ({"view": 8}, {"view": -1}, {"size": 4}, {"margin": 0.5}):
        with pytest.raises(ValueError, match="margin"):
            render(cube, **arguments)
    with pytest.raises(ValueError, match="columns"):
        contact_sheet([], 2)


def test_a_contact_sheet_holds_every_picture(cube):
    pictures = render_views(cube, 32)[:5]
    sheet = contact_sheet(pictures, 3, gap=2)
    assert sheet.shape == (66, 100, 3)
    assert np.array_equal(sheet[34:66, 34:66], pictures[4])
    assert (sheet[34:, 68:] == 255).all()


def test_png_is_whole_or_not_there(cube, tmp_path: Path):
    picture = render(cube, 0, 32)
    write_png(picture, tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)
    with pytest.raises(CadmllmError) as caught:
        write_png(picture, tmp_path / "no" / "a.png")
    assert caught.value.code == "E303"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_box_of_the_docs_is_drawn_z_up():
    tall = render(mesh_of(BOX), 0, 128)
    rows, columns = np.nonzero((tall < 250).any(axis=2))
    assert np.ptp(rows) > np.ptp(columns)
