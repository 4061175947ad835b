"""Prompts, placeholders, targets and padding in one batch."""

from __future__ import annotations

import numpy as np
import pytest

from cadmllm.cad.frame import Transform
from cadmllm.corpus.batch import Collator
from cadmllm.corpus.prompt import TAIL, encode_prompt
from cadmllm.corpus.types import CAD_SIZE, IGNORE, Cloud, Sample
from cadmllm.errors import CadmllmError


def sample(name: str, caption: str, target, clouds: int = 0, images: int = 0) -> Sample:
    rng = np.random.default_rng(len(caption))
    shown = ["text"] + ["point_cloud"] * bool(clouds) + ["image"] * bool(images)
    made = tuple(
        Cloud(rng.normal(size=(16, 3)).astype("f4"), rng.normal(size=(16, 3)).astype("f4"), Transform((0, 0, 0), 1.0))
        for _ in range(clouds)
    )
    pictures = tuple(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8) for _ in range(images))
    return Sample(name, "+".join(shown), caption, None if target is None else np.array(target), made, pictures)


@pytest.fixture
def collator(tokenizer, text_size):
    return Collator(tokenizer, text_size, cloud_tokens=5, image_tokens=3, max_seq_length=200)


def test_a_training_batch(collator, tokenizer, text_size):
    first = sample("a", "a cube", [3, 4, 0], clouds=1)
    second = sample("b", "a plate with four holes", [7, 0], clouds=1, images=2)
    batch = collator([first, second])
    for row, one in enumerate((first, second)):
        prompt = encode_prompt(tokenizer, text_size, one.caption, [5] * len(one.clouds), [3] * len(one.images))
        length = len(prompt) + len(one.target)
        assert batch.input_ids[row, : len(prompt)].tolist() == prompt
        assert (batch.input_ids[row, len(prompt) : length] - text_size).tolist() == one.target.tolist()
        assert batch.labels[row, len(prompt) : length].tolist() == one.target.tolist()
        assert (batch.labels[row, : len(prompt)] == IGNORE).all()
        assert (batch.labels[row, length:] == IGNORE).all()
        assert batch.attention_mask[row].sum() == length
        assert batch.attention_mask[row, :length].all()
        assert batch.position_ids[row, :length].tolist() == list(range(length))
    assert batch.supervised == 5
    assert batch.points.shape == (2, 16, 3)
    assert batch.normals.shape == (2, 16, 3)
    assert (batch.points[1].numpy() == second.clouds[0].points).all()
    assert batch.pixels.shape == (2, 3, 224, 224)
    assert batch.ids == ["a", "b"]
    assert batch.combinations == ["text+point_cloud", "text+point_cloud+image"]
    placeholders = (batch.input_ids >= text_size + CAD_SIZE).sum(dim=1).tolist()
    assert placeholders == [5, 5 + 6]


def test_images_that_are_read_together_have_one_row_of_placeholders(tokenizer, text_size):
    collator = Collator(tokenizer, text_size, cloud_tokens=5, image_tokens=3, max_seq_length=200, together=True)
    shown = [sample("abc"[views], "a cube", [3, 0], clouds=1, images=views) for views in (0, 1, 2)]
    batch = collator(shown)
    assert (batch.input_ids >= text_size + CAD_SIZE).sum(dim=1).tolist() == [5, 5 + 3, 5 + 3]
    assert batch.image_counts == [0, 1, 2]
    assert batch.pixels.shape == (3, 3, 224, 224)
    assert collator.prompts(shown).image_counts == [0, 1, 2]


def test_no_modality_no_tensors(collator):
    batch = collator([sample("a", "a cube", [0])])
    assert batch.points is None
    assert batch.normals is None
    assert batch.pixels is None


def test_prompts_are_padded_left_and_have_no_target(collator, tokenizer):
    batch = collator.prompts([sample("a", "a cube", None), sample("b", "a much longer request", [4, 0])])
    assert batch.labels is None
    assert batch.attention_mask[:, -1].all()
    tail = tokenizer.encode(TAIL, add_special_tokens=False)
    for row in range(2):
        assert batch.input_ids[row, -len(tail) :].tolist() == tail
        real = batch.attention_mask[row].bool()
        assert batch.position_ids[row, real].tolist() == list(range(int(real.sum())))


def test_a_long_caption_is_cut_and_nothing_else(collator, text_size):
    target = list(range(1, 60)) + [0]
    batch = collator([sample("long", "x" * 500, target, clouds=1, images=1)])
    assert batch.input_ids.shape[1] == 200
    assert batch.labels[0, -60:].tolist() == target
    assert (batch.input_ids[0] >= text_size + CAD_SIZE).sum() == 8


def test_a_long_target_is_refused_by_name(collator):
    with pytest.raises(CadmllmError) as caught:
        collator([sample("0000/giant", "a cube", [1] * 190)])
    assert caught.value.code == "E602"
    assert "0000/giant" in caught.value.message
    needed = int(caught.value.remedy.split("max_seq_length=")[1].split(",")[0])
    collator.max_seq_length = needed
    assert collator([sample("0000/giant", "a cube", [1] * 190)]).input_ids.shape[1] <= needed
    collator.max_seq_length = needed - 1
    with pytest.raises(CadmllmError):
        collator([sample("0000/giant", "a cube", [1] * 190)])


def test_a_batch_moves_whole(collator):
    batch = collator([sample("a", "a cube", [0], clouds=1, images=1)])
    moved = batch.to("cpu")
    assert moved.ids == batch.ids
    assert (moved.input_ids == batch.input_ids).all()
    assert moved.pixels.shape == batch.pixels.shape
