"""What a place of an epoch shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.cad import tokens
from cadmllm.corpus.layout import open_dataset
from cadmllm.corpus.prompt import BARE_REQUEST
from cadmllm.corpus.sample import BARE_SHARE, draw_combination, fixed_seed, load_sample, target_of
from cadmllm.errors import CadmllmError
from cadmllm.settings import COMBINATIONS, DataSettings

EVERYTHING = frozenset({"text", "point_cloud", "image"})
STAGE3 = {"text": 0.2, "text+point_cloud": 0.3, "text+image": 0.2, "text+point_cloud+image": 0.3}
AT = {"seed": 0, "stage": 3, "epoch": 0}


def test_shares_come_out_as_asked():
    drawn = [draw_combination(STAGE3, EVERYTHING, position=k, **AT).shown for k in range(4000)]
    for name, share in STAGE3.items():
        assert abs(drawn.count(name) / 4000 - share) < 0.025


@given(st.sets(st.sampled_from(["point_cloud", "image"])), st.integers(0, 10**6), st.integers(0, 50))
def test_a_draw_falls_back_to_what_is_there_and_says_so(extra, seed, position):
    available = frozenset({"text"} | extra)
    draw = draw_combination(STAGE3, available, seed=seed, stage=3, epoch=1, position=position)
    full = draw_combination(STAGE3, EVERYTHING, seed=seed, stage=3, epoch=1, position=position)
    assert draw.wanted == full.wanted == full.shown
    assert draw.shown in COMBINATIONS
    assert set(draw.shown.split("+")) == set(draw.wanted.split("+")) & available
    assert draw.fell_back == (not set(draw.wanted.split("+")) <= available)


def test_a_sample_shows_what_was_asked(root):
    dataset = open_dataset(DataSettings(root=root))
    sample = load_sample(dataset, "0000/a", "text+point_cloud+image", position=1, point_count=64, views=2, **AT)
    assert sample.combination == "text+point_cloud+image"
    assert sample.clouds[0].points.shape == (64, 3)
    assert len(sample.images) == 2
    assert (sample.images[0] != sample.images[1]).any()
    assert sample.target.tolist() == tokens.encode(dataset.program("0000/a")).tokens
    again = load_sample(dataset, "0000/a", "text+point_cloud+image", position=1, point_count=64, views=2, **AT)
    assert (again.clouds[0].points == sample.clouds[0].points).all()
    assert again.caption == sample.caption
    other = load_sample(dataset, "0000/a", "text+point_cloud+image", position=2, point_count=64, views=2, **AT)
    assert (other.clouds[0].points != sample.clouds[0].points).any()
    text = load_sample(dataset, "0000/a", "text", position=1, **AT)
    assert text.clouds == ()
    assert text.images == ()


def test_every_caption_and_every_view_is_shown_in_time(root):
    dataset = open_dataset(DataSettings(root=root))
    many = [load_sample(dataset, "0000/a", "text+image", position=k, views=1, **AT) for k in range(120)]
    assert {sample.caption for sample in many} == {"part a", "short a", BARE_REQUEST}
    bare = sum(sample.caption == BARE_REQUEST for sample in many)
    assert abs(bare / 120 - BARE_SHARE) < 0.1
    assert len({int(sample.images[0][0, 0, 0]) for sample in many}) == 8
    alone = {load_sample(dataset, "0000/a", "text", position=k, **AT).caption for k in range(40)}
    assert alone == {"part a", "short a"}


def test_an_unreadable_cloud_is_left_out_and_said(root):
    (root / "pcd" / "0000" / "b.npz").write_bytes(b"not a zip")
    dataset = open_dataset(DataSettings(root=root))
    sample = load_sample(dataset, "0000/b", "text+point_cloud", position=0, **AT)
    assert sample.combination == "text"
    assert sample.clouds == ()
    assert [problem.code for problem in dataset.problems] == ["E404"]


def test_a_broken_program_is_an_error(root):
    (root / "json" / "0000" / "c.json").write_text("[")
    dataset = open_dataset(DataSettings(root=root))
    with pytest.raises(CadmllmError) as caught:
        load_sample(dataset, "0000/c", "text", position=0, **AT)
    assert caught.value.code.startswith("E2")
    assert np.issubdtype(target_of(dataset, "0000/a").dtype, np.integer)


def test_fixed_draws_are_few_and_those_of_their_seeds(root):
    dataset = open_dataset(DataSettings(root=root))
    shown = {
        load_sample(dataset, "0000/a", "text+point_cloud", position=k, point_count=64, draws=3, **AT).clouds[0].points.tobytes()
        for k in range(40)
    }
    assert shown == {dataset.cloud("0000/a", 64, fixed_seed(k)).points.tobytes() for k in range(3)}


# modality dropout


def test_dropout_drops_the_share_asked_for_and_moves_no_other_draw():
    everything = "text+point_cloud+image"
    plain = [draw_combination(STAGE3, EVERYTHING, position=k, **AT) for k in range(4000)]
    dropped = [draw_combination(STAGE3, EVERYTHING, position=k, dropout=0.3, **AT) for k in range(4000)]
    assert [draw.wanted for draw in dropped] == [draw.wanted for draw in plain]
    assert all(draw.dropped == () for draw in plain)
    for name in ("point_cloud", "image"):
        able = [draw for draw in dropped if name in draw.wanted.split("+")]
        share = sum(name in draw.dropped for draw in able) / len(able)
        assert abs(share - 0.3) < 0.03
    both = [draw for draw in dropped if draw.wanted == everything]  # independent: 0.3 x 0.3 lose both
    assert abs(sum(draw.shown == "text" for draw in both) / len(both) - 0.09) < 0.03
    assert not any(draw.fell_back for draw in dropped)


@given(st.sets(st.sampled_from(["point_cloud", "image"])), st.integers(0, 10**6), st.integers(0, 50), st.floats(0.0, 0.99))
def test_a_drop_is_no_fallback_and_what_is_not_there_is_not_dropped(extra, seed, position, dropout):
    available = frozenset({"text"} | extra)
    where = {"seed": seed, "stage": 3, "epoch": 1, "position": position}
    plain = draw_combination(STAGE3, available, **where)
    draw = draw_combination(STAGE3, available, dropout=dropout, **where)
    assert draw.wanted == plain.wanted
    assert draw.fell_back == plain.fell_back
    assert set(draw.shown.split("+")) == set(plain.shown.split("+")) - set(draw.dropped)
    assert set(draw.dropped) <= set(plain.shown.split("+")) - {"text"}
