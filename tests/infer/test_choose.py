"""The best of several answers: valid before all, then the cloud, the views, the dimensions, the likelihood; ties go on."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from cadmllm.cad.kernel import BuildResult, Job, Verdict, build
from cadmllm.cad.mesh import Mesh, normalise, sample_surface
from cadmllm.cad.program import Profile, Program
from cadmllm.cad.render import render
from cadmllm.cad.rescale import scaled
from cadmllm.cad.tokens import decode, encode
from cadmllm.corpus.types import Cloud, Sample
from cadmllm.infer.choose import Candidate, choose, own_frame
from cadmllm.infer.dimensions import dimensions_in
from cadmllm.infer.generate import Answer
from tests.cad.parts import circle, extrude, program, rectangle


def plate(x: float = 80.0, y: float = 40.0, z: float = 8.0, holes: tuple[float, ...] = (6.0, 6.0)) -> Program:
    loops = [circle(place, 0, radius) for place, radius in zip((-25.0, 25.0), holes, strict=False)]
    return program(extrude(Profile(rectangle(-x / 2, -y / 2, x, y), tuple(loops)), one=z))


def candidate(part: Program, likelihood: float = -1.0) -> Candidate:
    answer = Answer(tuple(encode(part).tokens), True, likelihood * len(encode(part).tokens), 5)
    return Candidate(answer, part, build(Job(part, mesh=True)), 3, 0.7)


def failed(verdict: Verdict, likelihood: float = -1.0) -> Candidate:
    part = None if verdict is Verdict.PARSE else plate()
    return Candidate(Answer((1, 2), True, 2 * likelihood, 5), part, BuildResult(verdict, "why"), 3, 0.7)


def mesh_of(one: Candidate) -> Mesh:
    assert one.result.mesh is not None
    return one.result.mesh


def cloud(mesh: Mesh, count: int = 2048, noise: float = 0.0) -> Cloud:
    frame = normalise(mesh)
    points, normals = sample_surface(mesh, count, 9)
    points = frame.apply(points) + noise * np.random.default_rng(1).standard_normal(points.shape)
    return Cloud(points.astype(np.float32), normals.astype(np.float32), frame)


def sample(clouds: tuple[Cloud, ...] = (), images: tuple[np.ndarray, ...] = ()) -> Sample:
    return Sample("prompt", "text", "a plate", None, clouds, images)


@pytest.fixture(scope="module")
def right() -> Candidate:
    return candidate(plate(), -2.0)


@pytest.fixture(scope="module")
def wrong() -> list[Candidate]:
    """All of them likelier than the right one."""
    others = (plate(holes=(6.0,)), plate(holes=(6.0, 6.6)), plate(x=84.0), plate(z=12.0), scaled(plate(), 1.3))
    return [candidate(other, -1.0) for other in others]


def test_the_cloud_finds_the_right_one_whatever_is_likelier(right, wrong):
    choice = choose([*wrong, right], sample((cloud(mesh_of(right)),)))
    assert (choice.place, choice.by) == (5, "point cloud")
    assert choice.scores[5]["chosen"]
    assert choice.scores[5]["distance"] == min(score["distance"] for score in choice.scores)
    assert choice.scores[5]["chamfer"] < 0.01
    assert choice.scores[5]["silhouette"] is None
    json.dumps(choice.scores, allow_nan=False)


def test_a_noisy_cloud_does_so_too(right, wrong):
    assert choose([*wrong, right], sample((cloud(mesh_of(right), 4096, 0.005),))).place == 5


def test_a_cloud_with_copies_of_its_points_is_the_same_cloud(right, wrong):
    one = cloud(mesh_of(right), 1024)
    twice = Cloud(np.repeat(one.points, 2, axis=0), np.repeat(one.normals, 2, axis=0), one.transform)
    few, many = (choose([wrong[1], right], sample((given,))) for given in (one, twice))
    assert few.scores == many.scores


def test_equal_shapes_are_told_apart_by_what_comes_next(right):
    """The same plate, drawn in two sketches that say the same: the cloud cannot decide, likelihood does."""
    moved = [
        dataclasses.replace(one, sketches=tuple(dataclasses.replace(s, profiles=_other_way(s.profiles)) for s in one.sketches))
        for one in plate().extrudes
    ]
    other = candidate(Program(tuple(moved)), -0.5)
    assert other.program != right.program
    choice = choose([right, other], sample((cloud(mesh_of(right)),), (render(mesh_of(right)),)))
    assert (choice.place, choice.by) == (1, "likelihood")


def _other_way(profiles: tuple[Profile, ...]) -> tuple[Profile, ...]:
    return tuple(Profile(profile.outer, profile.inner[::-1]) for profile in profiles)


def test_views_decide_without_a_cloud(right, wrong):
    images = (render(mesh_of(right), 0), render(mesh_of(right), 5))
    choice = choose([wrong[2], wrong[3], right], sample(images=images))
    assert (choice.place, choice.by) == (2, "views")
    assert choice.scores[2]["silhouette"] > 0.97
    assert choice.scores[2]["chamfer"] is None


def test_a_photograph_is_left_out_and_that_is_said(right, wrong):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    choice = choose([wrong[0], right], sample(images=(noise,)))
    assert (choice.place, choice.by) == (0, "likelihood")
    assert len(choice.notes) == 1
    assert choice.notes[0].startswith("image 1 is not compared with the candidates: its background is not plain")


@pytest.mark.parametrize(
    "prompt",
    ["a plate 80 x 40 x 8 mm with two 12 mm holes", "a plate 8 mm thick with two holes of 12 mm diameter"],
)
def test_dimensions_decide_between_what_is_shown_by_words_alone(right, wrong, prompt):
    choice = choose([wrong[3], wrong[4], right], sample(), dimensions_in(prompt))
    assert (choice.place, choice.by) == (2, "dimensions")
    assert choice.scores[2]["dimensions"] == pytest.approx(1.0)


def test_the_right_proportions_in_the_wrong_size_come_next(right, wrong):
    """What is merely too large can be mended; another thickness cannot."""
    dimensions = dimensions_in("a plate 80 x 40 x 8 mm with two 12 mm holes")
    assert choose([wrong[3], wrong[4]], sample(), dimensions).place == 1


def test_likelihood_decides_otherwise(right, wrong):
    choice = choose([right, wrong[0]], sample())
    assert (choice.place, choice.by) == (1, "likelihood")
    assert choice.scores[0]["log_likelihood_per_token"] == pytest.approx(-2.0)


def test_what_does_not_build_is_never_chosen_over_what_does(right):
    choice = choose([failed(Verdict.INVALID, -0.1), failed(Verdict.PARSE, -0.1), right], sample((cloud(mesh_of(right)),)))
    assert (choice.place, choice.by) == (2, "only one")
    assert choice.scores[0]["distance"] is None
    assert [score["verdict"] for score in choice.scores] == ["INVALID", "PARSE", "OK"]


def test_of_none_that_builds_one_with_a_program_is_named():
    choice = choose([failed(Verdict.PARSE, -0.1), failed(Verdict.BUILD, -2.0), failed(Verdict.EMPTY, -1.0)], sample())
    assert (choice.place, choice.by) == (2, "none is valid")
    assert choose([failed(Verdict.PARSE, -3.0), failed(Verdict.PARSE, -1.0)], sample()).place == 1


def test_identical_programs_are_measured_once_and_have_the_same_scores(right, wrong, monkeypatch):
    from cadmllm.infer import closeness

    measured = []
    once = closeness.CloudDistance.of
    monkeypatch.setattr(closeness.CloudDistance, "of", lambda self, *args: measured.append(1) or once(self, *args))
    again = dataclasses.replace(right, seed=4)
    choice = choose([right, wrong[1], again, again], sample((cloud(mesh_of(right)),)))
    assert len(measured) == 2
    assert choice.place == 0
    assert choice.scores[0]["chamfer"] == choice.scores[3]["chamfer"]
    assert [score["chosen"] for score in choice.scores] == [True, False, False, False]
    assert choose([right, again], sample((cloud(mesh_of(right)),))).by == "only one"


def test_the_same_again_is_the_same(right, wrong):
    given = sample((cloud(mesh_of(right)),), (render(mesh_of(right)),))
    dimensions = dimensions_in("a plate 80 x 40 x 8 mm")
    first, second = (choose([right, *wrong], given, dimensions) for _ in range(2))
    assert first == second


def test_centred_answers_are_brought_into_the_clouds_frame():
    """Evaluation builds answers in their own frame; the cloud stands somewhere else, in another size."""
    placed = scaled(plate(), 3.0, (100.0, 50.0, 0.0))
    own = decode(encode(placed).tokens)
    good = dataclasses.replace(candidate(own, -2.0), answer=candidate(placed).answer)
    off = plate(holes=(6.0, 8.0))
    bad = dataclasses.replace(candidate(decode(encode(off).tokens), -1.0), answer=candidate(off).answer)
    given = sample((cloud(build_mesh(placed)),))
    choice = choose([bad, good], given, centred=True)
    assert (choice.place, choice.by) == (1, "point cloud")
    assert choice.scores[1]["distance"] < 0.002
    assert own_frame(good.answer).scale == pytest.approx(2.0 / 240.0)


def build_mesh(part: Program) -> Mesh:
    return mesh_of(candidate(part))


def test_nothing_to_choose_from_is_a_programming_error():
    with pytest.raises(ValueError, match="no candidate"):
        choose([], sample())
