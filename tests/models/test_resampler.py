"""All views of a part, or all tokens of a cloud, to a fixed number of embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from cadmllm.cad.frame import Transform
from cadmllm.corpus.batch import Collator, split
from cadmllm.corpus.types import Batch, Cloud, Sample
from cadmllm.errors import CadmllmError
from cadmllm.models.branches import Branch
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.models.resampler import VIEWS, Resampler, heads_of
from cadmllm.models.weights import RECORD, WEIGHTS, load_model, save_model, trained_state
from cadmllm.plan.activations import per_key, per_latent
from cadmllm.settings import Settings

WIDTH, HIDDEN, TOKENS = 24, 32, 6
PERCEIVER = {"image_bridge": "perceiver", "image_tokens": TOKENS, "resampler_width": 32, "resampler_layers": 2}


def resampler(views: int = VIEWS, **options: int) -> Resampler:
    torch.manual_seed(0)
    return Resampler(WIDTH, HIDDEN, TOKENS, **{"inner": 32, "layers": 2, **options}, views=views)


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


# the module


@pytest.mark.parametrize("views", [1, 3, 8])
def test_any_number_of_views_becomes_as_many_tokens(views: int):
    found = resampler()(features(2, views, 16))
    assert (found.shape, found.dtype) == ((2, TOKENS, HIDDEN), torch.float32)
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[0, 0], found[0, 1]), "each latent reads something else"


def test_tokens_of_a_cloud_have_no_places_among_inputs():
    one = resampler(views=1)
    assert one.views is None
    assert one(features(3, 9)).shape == (3, TOKENS, HIDDEN)
    assert one(features(3, 9).bfloat16()).dtype == torch.float32


def test_the_order_of_views_matters_and_that_of_patches_does_not():
    one, shown = resampler(), features(1, 3, 16)
    with torch.no_grad():
        assert one.views is not None
        one.views.mul_(50)
    assert not torch.allclose(one(shown), one(shown[:, [1, 0, 2]]), atol=1e-4)
    torch.testing.assert_close(one(shown), one(shown[:, :, torch.randperm(16)]), rtol=1e-4, atol=1e-5)


def test_more_views_than_there_are_places_for():
    with pytest.raises(CadmllmError) as caught:
        resampler()(features(1, 9, 4))
    assert caught.value.code == "E707"
    assert "9 images" in caught.value.message
    assert "model.image_bridge=mlp" in caught.value.remedy


@examples(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, VIEWS), min_size=1, max_size=6).filter(any))
def test_a_sample_does_not_depend_on_the_others_of_its_batch(counts: list[int]):
    one = resampler()
    views = features(sum(counts), 5, seed=1)
    found = one.together(views, counts)
    alone = [one(part[None])[0] for part in views.split(counts) if len(part)]
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-5, atol=1e-6)


def test_views_that_nobody_counted():
    with pytest.raises(CadmllmError) as caught:
        resampler().together(features(3, 5), [1, 1])
    assert caught.value.code == "E901"


def test_outputs_start_as_large_as_embeddings():
    torch.manual_seed(0)
    wide = Resampler(96, 256, 64)
    wide.scale_to(0.03)
    found = wide(torch.randn(4, 100, 96)).detach().std()
    assert 0.01 < float(found) < 0.06


@pytest.mark.parametrize(("inner", "heads"), [(512, 8), (64, 1), (96, 1), (200, 2), (16, 1), (1000, 10)])
def test_heads_divide_the_width(inner: int, heads: int):
    assert heads_of(inner) == heads
    assert inner % heads == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_it_keeps_for_the_backward_pass_is_as_planned(dtype: str):
    compute = 2 if dtype == "bfloat16" else 4
    shape = {"samples": 2, "views": 2, "patches": 64, "tokens": 8}
    base = _kept(dtype, **shape)
    by_key = (_kept(dtype, **{**shape, "patches": 128}) - base) / (2 * 2 * 64)
    by_latent = (_kept(dtype, **{**shape, "tokens": 16}) - base) / (2 * 8)
    assert by_key == pytest.approx(per_key(96, 64, 2, compute), rel=0.02)
    assert by_latent == pytest.approx(per_latent(64, 2, 128, compute), rel=0.02)


def _kept(dtype: str, samples: int, views: int, patches: int, tokens: int) -> int:
    """Bytes of storages that autograd holds, weights and their 16-bit copies left out."""
    model = Resampler(96, 128, tokens, inner=64, layers=2, views=8)
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    inputs = torch.randn(samples, views, patches, 96, dtype=getattr(torch, dtype))
    cast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), cast:
        out = model(inputs)
    copies = sum(2 * value.numel() for name, value in model.named_parameters() if name.endswith(".weight") and value.ndim == 2)
    assert out.requires_grad
    return sum(kept.values()) - (copies if dtype == "bfloat16" else 0)


# in the model


def sample(views: int, seed: int = 0, cloud: bool = False) -> Sample:
    random = np.random.default_rng(seed)
    images = tuple(random.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(views))
    points = random.uniform(-1, 1, (64, 3)).astype(np.float32)
    normals = np.tile(np.array([0, 0, 1], dtype=np.float32), (64, 1))
    clouds = (Cloud(points, normals, Transform((0.0, 0.0, 0.0), 1.0)),) if cloud else ()
    kinds = "text" + "+point_cloud" * cloud + "+image" * bool(views)
    return Sample(f"0000/{seed:08d}", kinds, "a plate", random.integers(0, 1000, 5), clouds, images)


def parts(branch: Branch | None) -> tuple[Any, Any]:
    """Encoder and projector of a branch that is there."""
    assert branch is not None
    return branch.encoder, branch.projector


def collator(model: CadMLLM) -> Collator:
    return Collator(model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, 400, model.images_together)


@pytest.fixture(scope="module")
def asked(base: Path) -> Settings:
    model = {"llm": str(base), "points_encoder": "fourier", "point_count": 64, "point_tokens": 8, "fourier_width": 32}
    return Settings(
        model={**model, "image_encoder": "tiny", **PERCEIVER},
        lora={"r": 4, "alpha": 8},
        dtype="float32",
        device="cpu",
    )


@pytest.fixture(scope="module")
def model(asked: Settings) -> CadMLLM:
    """Of stage 3; read only."""
    return build_model(asked, 3).eval()


@torch.no_grad()
def embedded(model: CadMLLM, batch: Batch) -> torch.Tensor:
    return model.embed(batch)


def test_a_prompt_has_as_many_placeholders_for_one_view_as_for_eight(model: CadMLLM):
    encoded = [collator(model).encode(sample(views)) for views in (0, 1, 8)]
    assert [len(e) - len(encoded[0]) for e in encoded] == [0, TOKENS, TOKENS]
    batch = collator(model).pad(encoded)
    assert batch.image_counts == [0, 1, 8]
    assert embedded(model, batch).shape[:2] == batch.input_ids.shape


def test_embeddings_in_a_batch_are_those_of_each_sample_alone(model: CadMLLM):
    samples = [sample(2, 1), sample(0, 2), sample(1, 3, cloud=True), sample(2, 4)]
    collate = collator(model)
    for batch in (collate.pad([collate.encode(s) for s in samples]), collate.pack([collate.encode(s) for s in samples])):
        whole = embedded(model, batch)
        at = 0
        for row, one in enumerate(samples):
            alone = embedded(model, collate([one]))[0]
            found = whole[0, at : at + len(alone)] if batch.documents else whole[row, : len(alone)]
            torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
            at += len(alone)


def test_a_batch_that_is_cut_keeps_views_with_their_samples(model: CadMLLM):
    collate = collator(model)
    encoded = [collate.encode(sample(views, views)) for views in (2, 0, 3)]
    for whole in (collate.pad(encoded), collate.pack(encoded)):
        first, second = split(whole, 1)
        assert (first.image_counts, second.image_counts) == ([2], [0, 3])
        halves = [float(model.loss(half)[0]) for half in (first, second)] if not whole.documents else []
        if halves:
            assert sum(halves) == pytest.approx(float(model.loss(whole)[0]), rel=1e-5)


def test_gradients_reach_latents_and_the_places_of_views(asked: Settings):
    model = build_model(asked, 3)
    model.loss(collator(model)([sample(3), sample(1)]))[0].backward()
    _, projector = parts(model.images)
    assert {name for name, value in projector.named_parameters() if value.grad is None} == set()
    by_place = projector.views.grad.abs().sum(dim=1)
    assert (by_place[:3] > 0).all()
    assert (by_place[3:] == 0).all(), "nothing showed a fourth view"
    names = {name for name, _ in model.parameter_groups()["projectors"]}
    assert {"images.projector.latents", "images.projector.views", "points.projector.into.weight"} <= names


def test_two_parts_that_only_their_views_tell_apart(asked: Settings):
    model = build_model(asked, 3)
    encoder, _ = parts(model.images)
    encoder.requires_grad_(False)
    first, other = sample(2, 1), sample(2, 2)
    assert first.target is not None
    other = replace(other, target=(first.target + 500) % 1600)
    batch = collator(model)([first, other])
    with torch.no_grad():
        views = encoder(batch.pixels)
    batch = replace(batch, pixels=None, image_features=views)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    loss = 0.0
    for _ in range(120):
        mean = model.loss(batch)[0] / batch.supervised
        mean.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss = float(mean.detach())
    swapped = replace(batch, image_features=views.roll(2, 0))
    with torch.no_grad():
        wrong = float(model.loss(swapped)[0] / swapped.supervised)
    assert loss < 0.2, "who cannot tell them apart is right half the time: at least ln 2 for the first token"
    assert wrong > loss + 0.5, "each answers as the part whose views it was shown"


# saved and loaded


def test_what_was_trained_comes_back_bit_for_bit(asked: Settings, tmp_path: Path):
    model = build_model(asked, 3)
    with torch.no_grad():
        for parameter in parts(model.images)[1].parameters():
            parameter += torch.randn(parameter.shape)
    save_model(model, tmp_path, {})
    others = asked.model_copy(deep=True)
    others.model.image_bridge, others.model.resampler_width, others.model.resampler_layers = "mlp", 64, 1
    again = load_model(tmp_path, others)  # the record decides
    assert (again.images_together, again.fresh) == (True, [])
    wanted, got = trained_state(model), trained_state(again)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(got[name], value) for name, value in wanted.items())
    batch = collator(model)([sample(3, cloud=True)])
    assert torch.equal(embedded(again.eval(), batch), embedded(model.eval(), batch))


@pytest.mark.parametrize(
    ("name", "value"), [("image_bridge", "mlp"), ("image_tokens", 4), ("resampler_layers", 3), ("resampler_width", 64)]
)
def test_another_bridge_is_refused_by_the_name_of_its_setting(asked: Settings, model: CadMLLM, tmp_path: Path, name, value):
    save_model(model, tmp_path, {})
    others = asked.model_copy(deep=True)
    setattr(others.model, name, value)
    with pytest.raises(CadmllmError) as caught:
        load_model(tmp_path, others, stage=3)
    assert caught.value.code == "E504"
    assert f"model.{name}={getattr(asked.model, name)}" in caught.value.message
    assert f"--set model.{name}={getattr(asked.model, name)}" in caught.value.remedy


def test_widths_of_resamplers_do_not_matter_where_there_is_none(settings: Callable[..., Settings], tmp_path: Path):
    save_model(build_model(settings(), 2), tmp_path, {})
    assert load_model(tmp_path, settings(resampler_width=64, resampler_layers=3), stage=2).fresh == []
    again = load_model(tmp_path, settings(**PERCEIVER), stage=3)
    assert again.fresh == ["images.encoder", "images.projector"]


def test_a_checkpoint_from_before_there_was_a_perceiver(settings: Callable[..., Settings], tmp_path: Path):
    model = build_model(settings(), 3)
    save_model(model, tmp_path, {})
    record = json.loads((tmp_path / RECORD).read_text())
    for name in ("image_bridge", "resampler_layers", "resampler_width", "point_sampling"):
        del record["model"][name]
    (tmp_path / RECORD).write_text(json.dumps(record))
    assert not load_model(tmp_path, settings(**PERCEIVER)).images_together
    assert load_model(tmp_path, settings(), stage=3).fresh == []
    with pytest.raises(CadmllmError, match="model.image_bridge=mlp"):
        load_model(tmp_path, settings(image_bridge="perceiver"), stage=3)


def test_a_tensor_of_another_shape_is_named(asked: Settings, model: CadMLLM, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    save_model(model, tmp_path, {})
    state = load_file(tmp_path / WEIGHTS)
    state["images.projector.latents"] = torch.zeros(TOKENS + 1, 32)
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(CadmllmError, match=r"images\.projector\.latents has shape \(7, 32\)"):
        load_model(tmp_path, asked)


# clouds


@pytest.mark.parametrize(("tokens", "kind"), [(1, "Projector"), (4, "Resampler"), (9, "Projector")])
def test_tokens_of_a_michelangelo(settings: Callable[..., Settings], tmp_path: Path, tokens: int, kind: str):
    from encoders import make_michelangelo

    path = make_michelangelo(tmp_path / "m.pt")
    asked = settings(points_encoder="michelangelo", points_checkpoint=path, point_tokens=tokens, resampler_width=32)
    model = build_model(asked, 2).eval()
    assert type(parts(model.points)[1]).__name__ == kind
    batch = collator(model)([sample(0, cloud=True), sample(0, 1, cloud=True)])
    placeholders = int((batch.input_ids == model.text_size + 1600).sum())
    assert placeholders == 2 * tokens
    whole = embedded(model, batch)
    stored = build_model(asked, 2, cached={"points": (1 if tokens == 1 else 9, 64)}).eval()
    with torch.no_grad():
        given = parts(model.points)[0](batch.points, batch.normals)
    assert given.shape[1] == (1 if tokens == 1 else 9)
    cached = replace(batch, points=None, normals=None, cloud_features=given)
    torch.testing.assert_close(embedded(stored, cached), whole)


def test_cached_patches_give_what_the_encoder_gives(settings: Callable[..., Settings], tmp_path: Path):
    from encoders import make_dino

    asked = settings(**PERCEIVER, image_encoder=str(make_dino(tmp_path / "dino")))
    model, stored = build_model(asked, 3).eval(), build_model(asked, 3, cached={"images": (64, 32)}).eval()
    batch = collator(model)([sample(2), sample(1, 1)])
    with torch.no_grad():
        given = parts(model.images)[0](batch.pixels)
    assert given.shape == (3, 64, 32), "all patches, without CLS"
    torch.testing.assert_close(embedded(stored, replace(batch, pixels=None, image_features=given)), embedded(model, batch))
