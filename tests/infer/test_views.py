"""Answers from one view and from several, read together by a perceiver."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_base import make_base

from cadmllm.corpus.types import Sample
from cadmllm.errors import CadmllmError
from cadmllm.infer.generate import generate, prompt_length
from cadmllm.infer.inputs import check_modalities
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.settings import Settings

TOKENS = 5


@pytest.fixture(scope="module", params=["perceiver", "mlp"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CadMLLM:
    """Of stage 3 with views of which the answers depend strongly; read only."""
    settings = Settings(device="cpu", dtype="float32")
    chosen = settings.model
    chosen.llm, chosen.points_encoder, chosen.image_encoder = str(make_base(tmp_path_factory.mktemp("base"))), "fourier", "tiny"
    chosen.point_tokens = 8
    chosen.image_bridge, chosen.image_tokens, chosen.resampler_width = request.param, TOKENS, 32
    model = build_model(settings, 3).eval()
    assert model.images is not None
    model.images.projector.scale_to(8.0)
    return model


def shown(views: int, seed: int = 0) -> Sample:
    random = np.random.default_rng(seed)
    images = tuple(random.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(views))
    return Sample(f"part {seed}", "text+image", "a bracket", None, images=images)


def test_a_prompt_and_its_room(model: CadMLLM):
    lengths = [prompt_length(model, shown(views)) for views in (0, 1, 8)]
    cost = [TOKENS, TOKENS] if model.images_together else [TOKENS, 8 * TOKENS]
    assert [length - lengths[0] for length in lengths[1:]] == cost


def test_an_answer_does_not_depend_on_how_many_views_its_neighbours_show(model: CadMLLM):
    samples = [shown(1, 1), shown(3, 2), shown(0, 3), shown(3, 4)]
    together = generate(model, samples, max_new_tokens=24, batch_size=4)
    alone = [generate(model, [sample], max_new_tokens=24)[0] for sample in samples]
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-3)


def test_other_views_another_answer(model: CadMLLM):
    sample = shown(3, 1)
    first = generate(model, [sample], max_new_tokens=24)[0]
    other = generate(model, [shown(3, 9)], max_new_tokens=24)[0]
    assert first.log_likelihood != pytest.approx(other.log_likelihood, abs=1e-4)


def test_more_images_than_a_perceiver_reads(model: CadMLLM):
    check_modalities(shown(8), model, "run/stage3")
    if not model.images_together:
        check_modalities(shown(9), model, "run/stage3")
        return
    with pytest.raises(CadmllmError) as caught:
        check_modalities(shown(9), model, "run/stage3")
    assert caught.value.code == "E707"
    assert "9 images of one part are given, and the perceiver of run/stage3 reads at most 8" in caught.value.message
    assert "model.image_bridge=mlp" in caught.value.remedy
