"""Outlines of pictures and of parts, and how well they agree; a picture that has none says why."""

from __future__ import annotations

import random
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cadmllm.cad.kernel import build_shape, tessellate
from cadmllm.cad.mesh import Mesh
from cadmllm.cad.program import Profile
from cadmllm.cad.render import coverage, render
from cadmllm.corpus import parts
from cadmllm.infer.silhouette import DIRECTIONS, SIDE, Silhouette, agreement, part_silhouettes, silhouette_of
from tests.cad.parts import PLATE, circle, extrude, polygon, program, rectangle


def mesh_of(part) -> Mesh:
    return tessellate(build_shape(part))


@pytest.fixture(scope="module")
def generated() -> list[Mesh]:
    return [mesh_of(part.program) for part in parts.generate(12, 31)]


@pytest.fixture(scope="module")
def views(generated) -> list[np.ndarray]:
    return [part_silhouettes(mesh) for mesh in generated]


@pytest.fixture(scope="module")
def plate() -> Mesh:
    return mesh_of(PLATE)


def seen(picture: np.ndarray) -> Silhouette:
    found = silhouette_of(picture)
    assert isinstance(found, Silhouette), found
    return found


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def drawn(background: tuple[int, int, int], colour: tuple[int, int, int], size: int = 200) -> np.ndarray:
    """An ellipse, twice as wide as high, with a round hole."""
    picture = Image.new("RGB", (size, size), background)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((20, 60, 179, 139), fill=colour)
    pen.ellipse((90, 90, 109, 109), fill=background)
    return np.asarray(picture)


def ideal() -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    outer = (x / (SIDE / 2)) ** 2 + (y / (SIDE / 4)) ** 2 <= 1.0
    return outer & (np.hypot(x, y) > SIDE / 16)


@pytest.mark.parametrize(
    ("background", "colour"),
    [
        ((255, 255, 255), (150, 160, 170)),
        ((20, 20, 25), (200, 180, 60)),
        ((255, 255, 255), (20, 20, 20)),
        ((90, 120, 200), (90, 160, 60)),
    ],
)
def test_a_shape_on_a_plain_ground_is_found_with_its_hole(background, colour):
    found = seen(drawn(background, colour))
    assert not found.filled
    assert overlap(found.mask, ideal()) > 0.96


def test_a_gradient_as_cad_programs_paint_it_is_a_plain_ground():
    picture = drawn((255, 0, 255), (60, 60, 60)).astype(np.float64)
    ground = (picture == (255, 0, 255)).all(axis=2)
    shades = np.linspace(150, 240, 200)[:, None, None] + np.array([0.0, 5.0, 10.0])
    picture = np.where(ground[:, :, None], shades, picture).clip(0, 255).astype(np.uint8)
    assert overlap(seen(picture).mask, ideal()) > 0.96


def test_compression_and_noise_are_not_the_part():
    buffer = BytesIO()
    Image.fromarray(drawn((250, 250, 250), (140, 150, 170))).save(buffer, "JPEG", quality=60)
    assert overlap(seen(np.asarray(Image.open(buffer))).mask, ideal()) > 0.93
    noisy = drawn((250, 250, 250), (140, 150, 170)) + np.random.default_rng(0).normal(0, 3, (200, 200, 3))
    assert overlap(seen(noisy.clip(0, 255).astype(np.uint8)).mask, ideal()) > 0.93


def test_the_size_of_a_picture_and_the_place_in_it_do_not_matter():
    small = seen(drawn((255, 255, 255), (150, 160, 170)))
    large = Image.fromarray(drawn((255, 255, 255), (150, 160, 170))).resize((1400, 1400), Image.Resampling.BICUBIC)
    wide = Image.new("RGB", (2600, 1500), (255, 255, 255))
    wide.paste(large, (1000, 30))
    assert overlap(seen(np.asarray(wide)).mask, small.mask) > 0.95


def test_a_line_drawing_is_filled(plate):
    picture = Image.new("RGB", (200, 200), (255, 255, 255))
    ImageDraw.Draw(picture).rectangle((20, 60, 180, 140), outline=(0, 0, 0), width=2)
    found = seen(np.asarray(picture))
    assert found.filled
    assert found.mask.sum() == pytest.approx(SIDE * SIDE / 2, rel=0.05)
    front = seen(np.asarray(picture.resize((200, 40))))  # the plate from the front, 80 x 8
    assert agreement([front], part_silhouettes(plate)) > 0.8


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8), "its background is not plain"),
        (np.full((50, 50, 3), 200, np.uint8), "it shows nothing"),
        (
            np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4) * 16, np.ones((20, 20), np.uint8))[:, :, None].repeat(3, 2),
            "not plain",
        ),
        (np.zeros((1, 1, 3), np.uint8), "it shows nothing"),
    ],
)
def test_a_picture_without_an_outline_says_why(picture, why):
    found = silhouette_of(picture)
    assert isinstance(found, str)
    assert why in found


def test_coverage_is_what_lies_inside():
    square = np.array([[[2.0, 1.0], [6.0, 1.0], [6.0, 5.0]], [[2.0, 1.0], [6.0, 5.0], [2.0, 5.0]]])
    expected = np.zeros((8, 8), bool)
    expected[1:5, 2:6] = True
    assert np.array_equal(coverage(square, 8), expected)
    assert np.array_equal(coverage(square[:, ::-1], 8), expected)  # whichever way round
    assert coverage(square - 4.0, 8).sum() == 2  # cut at the border
    assert not coverage(np.zeros((0, 3, 2)), 8).any()


def test_every_view_is_known(plate):
    views = part_silhouettes(plate)
    assert views.shape == (len(DIRECTIONS), SIDE, SIDE)
    above = views[DIRECTIONS.index((0, 0, 1))]
    assert above.sum() == pytest.approx(SIDE * SIDE * (0.5 - 2 * np.pi * 36 / 6400), rel=0.01)
    front = views[DIRECTIONS.index((0, -1, 0))]
    assert front.sum() == pytest.approx(SIDE * SIDE / 10, rel=0.1)
    rows = np.flatnonzero(front.any(axis=1))
    assert abs(rows.mean() - (SIDE - 1) / 2) <= 0.5


def test_a_plate_that_is_thinner_than_a_pixel_is_still_seen():
    sheet = mesh_of(program(extrude(rectangle(0, 0, 100, 50), one=0.01)))
    assert all(view.any() for view in part_silhouettes(sheet))


@pytest.mark.parametrize("view", range(8))
def test_a_picture_finds_its_own_view(generated, views, view):
    picture = seen(render(generated[view], view))
    scores = [overlap(picture.mask, one) for one in views[view]]
    assert scores[view] > 0.93
    assert scores[view] >= max(scores) - 0.01


def test_the_right_part_wins_among_others(generated, views):
    dice = random.Random(2)
    won = 0
    for place, mesh in enumerate(generated):
        pictures = [seen(render(mesh, dice.randrange(8)))]
        scores = [agreement(pictures, other) for other in views]
        won += scores[place] == max(scores)
    assert won == len(generated)


def test_two_pictures_cannot_both_take_one_view():
    step = mesh_of(program(extrude(polygon((0, 0), (40, 0), (40, 10), (15, 10), (15, 30), (0, 30)), one=18.0)))
    picture, views = seen(render(step, 0)), part_silhouettes(step)
    assert agreement([picture], views) > agreement([picture, picture], views) + 0.01
    assert agreement([picture] * 20, views) > 0.0  # more pictures than views: a view serves again


def test_a_hole_counts():
    with_hole = mesh_of(program(extrude(Profile(rectangle(-40, -20, 80, 40), (circle(0, 0, 15),)), one=4.0)))
    without = mesh_of(program(extrude(rectangle(-40, -20, 80, 40), one=4.0)))
    picture = [seen(render(with_hole, 0))]
    right, wrong = (agreement(picture, part_silhouettes(mesh)) for mesh in (with_hole, without))
    assert right > wrong + 0.05
