"""Packed documents are kept apart, and what cannot keep them apart is found out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cadmllm.corpus.batch import Collator, split
from cadmllm.corpus.types import CAD_SIZE, Cloud, Sample
from cadmllm.errors import CadmllmError
from cadmllm.models import attention
from cadmllm.models.attention import Attention, by_document, prove, settle
from cadmllm.models.fusion import build_model

CPU, F32 = torch.device("cpu"), torch.float32


def _sample(number: int, combination: str) -> Sample:
    rng = np.random.default_rng(number)
    shows: dict = {}
    if "point_cloud" in combination:
        normals = rng.normal(size=(64, 3)).astype(np.float32)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        shows["clouds"] = (Cloud(rng.uniform(-1, 1, (64, 3)).astype(np.float32), normals, None),)  # ty: ignore[invalid-argument-type]
    if "image" in combination:
        shows["images"] = (rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),)
    target = rng.integers(0, CAD_SIZE, int(rng.integers(3, 30)))
    return Sample(f"0000/{number:08d}", combination, "a part " * int(rng.integers(1, 9)), target, **shows)


@pytest.fixture(scope="module")
def mixed():
    return [
        _sample(k, name) for k, name in enumerate(("text", "text+point_cloud+image", "text+image", "text+point_cloud", "text"))
    ]


@pytest.fixture
def stage3(settings):
    model = build_model(settings(), 3).eval()
    model.settle_attention()
    return model, Collator(model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, 400)


def _states(model, batch) -> torch.Tensor:
    with torch.no_grad():
        out = model.llm(inputs_embeds=model.embed(batch), use_cache=False, **model.attention.arguments(batch))
        return model.rows.logits(out.last_hidden_state)


@pytest.mark.parametrize("modalities", ["text", "mixed"])
@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_a_samples_logits_are_the_same_packed_and_alone(stage3, mixed, modalities: str, name: str) -> None:
    model, collate = stage3
    model.attention = settle(model.llm, name, CPU, F32)
    assert model.attention.isolates
    chosen = [s for s in mixed if s.combination == "text"] if modalities == "text" else mixed
    encoded = [collate.encode(sample) for sample in chosen]
    packed = _states(model, collate.pack(encoded))
    at = 0
    for one in encoded:
        alone = _states(model, collate.pad([one]))
        assert (packed[:, at : at + len(one)] - alone).abs().max() < 1e-5
        at += len(one)
    assert at == packed.shape[1]


def test_the_loss_and_its_gradients_are_those_of_the_padded_batch(stage3, mixed) -> None:
    model, collate = stage3
    encoded = [collate.encode(sample) for sample in mixed]
    found = []
    for batch in (collate.pack(encoded), collate.pad(encoded)):
        model.zero_grad()
        total, count = model.loss(batch)
        total.backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((float(total.detach()), count, grads))
    (one, n, g), (two, m, h) = found
    assert n == m > 20
    assert one == pytest.approx(two, rel=1e-5)
    assert (g - h).abs().max() < 1e-4 * h.abs().max()


def test_no_gradient_crosses_documents(stage3, mixed) -> None:
    model, collate = stage3
    batch = collate.pack([collate.encode(sample) for sample in mixed])
    embeds = model.embed(batch).detach().requires_grad_(True)
    out = model.llm(inputs_embeds=embeds, use_cache=False, **model.attention.arguments(batch)).last_hidden_state
    ends = np.cumsum([0, *batch.documents])
    for a, b in zip(ends, ends[1:], strict=False):
        (owed,) = torch.autograd.grad(out[:, a:b].square().sum(), embeds, retain_graph=True)
        assert owed[:, a:b].abs().max() > 0
        assert owed[:, :a].abs().sum() + owed[:, b:].abs().sum() == 0


def test_gradient_checkpointing_hands_the_documents_on(settings, mixed) -> None:
    losses = []
    for checkpointing in (False, True):
        s = settings()
        s.train.gradient_checkpointing = checkpointing
        model = build_model(s, 3).train()
        model.settle_attention()
        collate = Collator(model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, 400)
        total, _ = model.loss(collate.pack([collate.encode(sample) for sample in mixed]))
        total.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        losses.append((float(total.detach()), float(norm)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.sampled_from([None, 3, 7]))
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_by_document_is_attention_under_a_block_mask(lengths: list[int], window: int | None) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    total = sum(lengths)
    query = torch.randn(1, 4, total, 8, generator=generator)
    key, value = (torch.randn(1, 2, total, 8, generator=generator) for _ in range(2))
    out, _ = by_document(torch.nn.Identity(), query, key, value, None, lengths, 0.3, 0.0, window)
    which = torch.cat([torch.full((n,), k) for k, n in enumerate(lengths)])
    behind = torch.arange(total)[:, None] - torch.arange(total)[None, :]
    mask = (which[:, None] == which[None, :]) & (behind >= 0) & (behind < (window or total))
    scores = (query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.3).masked_fill(~mask, float("-inf"))
    wanted = scores.softmax(-1) @ value.repeat_interleave(2, 1)
    assert torch.allclose(out, wanted.transpose(1, 2), atol=1e-5)


def test_a_back_end_that_leaks_is_found_out(settings, monkeypatch) -> None:
    """One that ignores where documents end: packing is then given up, with the reason."""
    model = build_model(settings(), 1)

    def leaky(module, query, key, value, mask, documents=None, **others):
        return by_document(module, query, key, value, None, [query.shape[2]], others.get("scaling"))

    monkeypatch.setattr(attention, "by_document", leaky)
    monkeypatch.setattr(attention, "_candidates", lambda *_: ["sdpa"])
    found = model.settle_attention()
    assert not found.isolates
    assert "see each other" in found.reason


def test_one_that_fails_is_passed_over_and_said(settings, monkeypatch) -> None:
    model = build_model(settings(), 1)
    monkeypatch.setattr(attention, "_candidates", lambda *_: ["varlen", "sdpa"])
    found = model.settle_attention()
    assert (found.name, found.isolates) == ("sdpa", True)
    assert "varlen: it fails here" in found.reason  # flash attention has no CPU kernel


@pytest.mark.parametrize("name", ["varlen", "flash_attention_2", "flex"])
def test_one_that_was_asked_for_and_does_not_run_is_an_error(settings, name: str) -> None:
    model = build_model(settings(), 1)
    model.settings.model.attention = name
    with pytest.raises(CadmllmError) as caught:
        model.settle_attention()
    assert caught.value.code == "E612"
    assert name in caught.value.message
    assert "attention=auto" in caught.value.remedy


def test_settling_leaves_the_random_state_and_the_mode_alone(settings) -> None:
    model = build_model(settings(), 1).train()
    state = torch.get_rng_state()
    model.settle_attention()
    assert torch.equal(state, torch.get_rng_state())
    assert model.llm.training
    assert all(p.grad is None for p in model.parameters())


def test_generation_still_works_with_it(stage3, mixed) -> None:
    """A padded prompt batch with a cache, as `infer` and the judge use it, on a model settled for training."""
    model, collate = stage3
    bare = [dataclasses.replace(sample, target=None) for sample in mixed[:3]]
    batch = collate.prompts(bare)
    embeds = model.embed(batch)
    logits, _ = model.step(embeds, None, batch.attention_mask, batch.position_ids, None)
    for k, one in enumerate(bare):
        alone = collate.prompts([one])
        single, _ = model.step(model.embed(alone), None, alone.attention_mask, alone.position_ids, None)
        assert torch.allclose(logits[k], single[0], atol=1e-4)


def test_a_batch_cut_in_two_is_the_batch(stage3, mixed) -> None:
    model, collate = stage3
    encoded = [collate.encode(sample) for sample in mixed]
    for whole in (collate.pack(encoded), collate.pad(encoded)):
        total = float(model.loss(whole)[0])
        for first in range(1, len(mixed)):
            halves = split(whole, first)
            assert [len(half.ids) for half in halves] == [first, len(mixed) - first]
            assert sum(float(model.loss(half)[0]) for half in halves) == pytest.approx(total, rel=1e-5)
            assert sum(half.tokens for half in halves) == whole.tokens
            assert sum(half.supervised for half in halves) == whole.supervised


def test_prove_names_what_is_wrong(settings) -> None:
    model = build_model(settings(), 1)
    assert prove(model.llm, "sdpa", CPU, F32).said == ""
    assert prove(model.llm, "varlen", CPU, F32).broken
    assert (
        Attention().arguments(Collator(model.tokenizer, model.text_size, 8, 4, 64)([_sample(0, "text")]))["attention_mask"]
        is None
    )
