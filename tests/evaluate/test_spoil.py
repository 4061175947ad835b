"""Spoilt clouds: the levels say what they do, share their draws, and stay in the frame of the whole cloud."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cadmllm.corpus.layout import DataSet, open_dataset
from cadmllm.errors import CadmllmError
from cadmllm.evaluate.spoil import LONGEST, Spoilt
from cadmllm.settings import DataSettings

KEY = (0, 0, 0, 5)


@pytest.fixture(scope="module")
def dataset(made: Path) -> DataSet:
    return open_dataset(DataSettings(root=made))


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return np.random.default_rng(3).uniform(-1.0, 1.0, (5000, 3))


def as_set(points: np.ndarray) -> set[tuple[float, ...]]:
    return set(map(tuple, points.tolist()))


def test_noise_has_the_size_that_is_said(points):
    moved = Spoilt(noise=0.02).spoil(points, KEY) - points
    assert moved.std() == pytest.approx(0.02 * LONGEST, rel=0.03)
    assert abs(moved.mean()) < 0.002
    twice = Spoilt(noise=0.04).spoil(points, KEY) - points
    assert np.allclose(twice, 2.0 * moved)  # the same draws: levels compare


@pytest.mark.parametrize("how", ["half", "ball"])
def test_what_misses_at_a_level_misses_at_the_next(points, how):
    some, more = (as_set(Spoilt(missing=share, how=how).spoil(points, KEY)) for share in (0.2, 0.6))
    assert len(some) == 4000
    assert len(more) == 2000
    assert more < some < as_set(points)


def test_a_half_is_cut_by_a_plane_and_a_ball_by_a_sphere(points):
    half = Spoilt(missing=0.4).spoil(points, KEY)
    gone = np.array(sorted(as_set(points) - as_set(half)))
    direction = gone.mean(axis=0) - half.mean(axis=0)
    assert np.corrcoef(np.concatenate([gone, half]) @ direction, [1] * len(gone) + [0] * len(half))[0, 1] > 0.75
    ball = Spoilt(missing=0.1, how="ball").spoil(points, KEY)
    lost = np.array(sorted(as_set(points) - as_set(ball)))
    radius = np.linalg.norm(lost - lost.mean(axis=0), axis=1).max()
    assert radius < 1.0  # of a cube of side 2


def test_other_ids_are_cut_elsewhere(points):
    assert as_set(Spoilt(missing=0.5).spoil(points, KEY)) != as_set(Spoilt(missing=0.5).spoil(points, (0, 0, 0, 6)))


def test_some_points_are_always_left(points):
    assert len(Spoilt(missing=0.999).spoil(points[:100], KEY)) == 16


@pytest.mark.parametrize("spoilt", [Spoilt(), Spoilt(noise=0.05), Spoilt(missing=0.6, how="ball"), Spoilt(points=64)])
def test_the_encoder_gets_what_it_takes(dataset, spoilt):
    cloud = spoilt(dataset, dataset.ids[0], 256, 0)
    assert cloud.points.shape == cloud.normals.shape == (256, 3)
    assert cloud.points.dtype == cloud.normals.dtype == np.float32
    assert np.linalg.norm(cloud.normals, axis=1) == pytest.approx(1.0, abs=1e-5)
    again = spoilt(dataset, dataset.ids[0], 256, 0)
    assert np.array_equal(cloud.points, again.points)
    assert np.array_equal(cloud.normals, again.normals)
    if spoilt.points:
        assert len(np.unique(cloud.points, axis=0)) == 64


def test_unspoilt_is_the_data_sets_own_cloud_but_for_its_normals(dataset):
    """The first level shows the points that the plain evaluation shows."""
    from cadmllm.corpus import order
    from cadmllm.evaluate.held_out import position_of

    id_ = dataset.ids[1]
    own = dataset.cloud(id_, 256, order.whole(order.CLOUD, 0, 0, 0, position_of(id_)))
    bare = Spoilt()(dataset, id_, 256, 0)
    assert np.allclose(bare.points, own.points, atol=1e-6)
    assert bare.transform == own.transform
    assert np.abs(np.einsum("ij,ij->i", bare.normals, own.normals)).mean() > 0.8


def test_the_frame_stays_when_a_side_is_gone(dataset):
    whole = Spoilt()(dataset, dataset.ids[2], 256, 0)
    cut = Spoilt(missing=0.6)(dataset, dataset.ids[2], 256, 0)
    assert cut.transform == whole.transform
    assert np.ptp(cut.points, axis=0).max() <= np.ptp(whole.points, axis=0).max() + 0.1


def test_an_id_without_points(dataset, monkeypatch):
    monkeypatch.setattr(dataset, "cloud_path", lambda id_: None)
    with pytest.raises(CadmllmError) as caught:
        Spoilt()(dataset, dataset.ids[0], 64, 0)
    assert caught.value.code == "E404"
