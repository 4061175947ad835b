"""Michelangelo's encoder: the files found in the wild, files that are wrong or hostile, and the same answers in every way."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cadmllm.doctor.proving.live import Live
from cadmllm.errors import CadmllmError
from cadmllm.models.fourier import fourier_features
from cadmllm.models.michelangelo import DOWNLOAD, MichelangeloEncoder, load_michelangelo

Shapes = dict[str, tuple[int, ...]]


def attention_block(name: str, width: int, cross: bool) -> Shapes:
    """Keys of a block as published: self-attention, or cross-attention with a third norm."""
    linears = {"attn.c_q": (width, 0), "attn.c_kv": (2 * width, 0)} if cross else {"attn.c_qkv": (3 * width, 0)}
    shapes: Shapes = {f"{name}.{key}.weight": (rows, width) for key, (rows, _) in linears.items()}
    for key, rows, columns in (("attn.c_proj", width, width), ("mlp.c_fc", 4 * width, width), ("mlp.c_proj", width, 4 * width)):
        shapes |= {f"{name}.{key}.weight": (rows, columns), f"{name}.{key}.bias": (rows,)}
    for norm in ("ln_1", "ln_2", "ln_3") if cross else ("ln_1", "ln_2"):
        shapes |= {f"{name}.{norm}.weight": (width,), f"{name}.{norm}.bias": (width,)}
    return shapes


def linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def encoder_shapes(width: int, queries: int, layers: int = 8) -> Shapes:
    """The 107 keys of the published encoder, written out from its description."""
    shapes: Shapes = {"encoder.query": (queries, width), **linear("encoder.input_proj", width, 54)}
    shapes |= attention_block("encoder.cross_attn", width, cross=True)
    for layer in range(layers):
        shapes |= attention_block(f"encoder.self_attn.resblocks.{layer}", width, cross=False)
    return shapes | {"encoder.ln_post.weight": (width,), "encoder.ln_post.bias": (width,)}


def vae_shapes(width: int, queries: int) -> Shapes:
    """The 307 keys of the whole VAE."""
    shapes = encoder_shapes(width, queries) | linear("pre_kl", 128, width) | linear("post_kl", width, 64)
    for layer in range(16):
        shapes |= attention_block(f"transformer.resblocks.{layer}", width, cross=False)
    shapes |= linear("geo_decoder.query_proj", width, 51) | linear("geo_decoder.output_proj", 1, width)
    shapes |= attention_block("geo_decoder.cross_attn_decoder", width, cross=True)
    return shapes | {"geo_decoder.ln_post.weight": (width,), "geo_decoder.ln_post.bias": (width,)}


def filled(shapes: Shapes, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: (torch.randn(shape, generator=generator) * 0.1).to(dtype) for name, shape in shapes.items()}


def small(width: int = 64, layers: int = 2) -> dict[str, torch.Tensor]:
    return filled(encoder_shapes(width, 5, layers))


def cloud(count: int = 2, points: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    normals = torch.nn.functional.normalize(torch.randn(count, points, 3, generator=generator), dim=-1)
    return torch.rand(count, points, 3, generator=generator) * 2 - 1, normals


def refused(state: object, tmp_path: Path, name: str, code: str = "E507") -> CadmllmError:
    """Refused from a file, naming `name`."""
    torch.save(state, tmp_path / "encoder.pt")
    with pytest.raises(CadmllmError) as caught:
        load_michelangelo(tmp_path / "encoder.pt")
    assert caught.value.code == code
    assert name in caught.value.message
    assert DOWNLOAD in caught.value.remedy
    assert "model.points_encoder=fourier" in caught.value.remedy
    return caught.value


def golden_encoder(shared: Path, dtype: torch.dtype) -> tuple[MichelangeloEncoder, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The encoder whose outputs were measured with the original, its clouds with normals, and those outputs [2, 9, 48]."""
    golden = np.load(shared / "golden" / "michelangelo_small_a.npz")
    state = {key.removeprefix("state/"): torch.from_numpy(golden[key]) for key in golden.files if key.startswith("state/")}
    wanted = np.concatenate([golden["shape_embed"][:, None], golden["latents"]], axis=1)
    encoder = MichelangeloEncoder.from_state_dict(state, heads=4, dtype=dtype)
    return encoder, torch.from_numpy(golden["points"]), torch.from_numpy(golden["normals"]), torch.from_numpy(wanted)


def test_the_original_encoders_outputs_are_reproduced(shared: Path):
    encoder, points, normals, wanted = golden_encoder(shared, torch.float32)
    with torch.no_grad():
        features = encoder(points, normals)
    assert features.shape == (2, 9, 48)
    print(f"float32: {float((features - wanted).abs().max()):.2g} at most")  # docs/encoders.md has these, by pytest -s
    torch.testing.assert_close(features, wanted, rtol=0, atol=1e-5)


# of features of size 1 (they leave a LayerNorm): the worst of all 864, and their mean; 8 and 11 bits of mantissa
@pytest.mark.parametrize(("dtype", "worst", "mean"), [(torch.bfloat16, 0.06, 0.01), (torch.float16, 0.008, 0.0015)])
def test_in_16_bits_they_are_close(shared: Path, dtype: torch.dtype, worst: float, mean: float):
    encoder, points, normals, wanted = golden_encoder(shared, dtype)
    with torch.no_grad():
        features = encoder(points, normals)
    assert features.dtype == dtype
    away = (features.float() - wanted).abs()
    print(f"{dtype}: {float(away.max()):.2g} at most, {float(away.mean()):.2g} on average")
    assert float(away.max()) < worst
    assert float(away.mean()) < mean


def test_waves_are_computed_in_32_bits_whatever_the_weights_are():
    encoder = MichelangeloEncoder.from_state_dict(small(), dtype=torch.bfloat16)
    seen = []
    encoder.encoder.input_proj.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    points, normals = cloud()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        encoder(points, normals)
    wanted = torch.cat([fourier_features(points), normals], dim=-1)
    assert torch.equal(seen[0], wanted.to(torch.bfloat16))
    assert not torch.equal(fourier_features(points.to(torch.bfloat16)).to(torch.bfloat16), seen[0][..., :51])


def test_the_published_keys_and_sizes():
    encoder, vae = encoder_shapes(768, 257), vae_shapes(768, 257)
    count = lambda shapes: sum(map(math.prod, shapes.values()))  # noqa: E731
    assert (len(encoder), count(encoder), len(vae), count(vae)) == (107, 64_012_800, 307, 184_659_585)
    with torch.device("meta"):
        model = MichelangeloEncoder(257, 768, 3072, 12, 8)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == encoder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["107 keys", "307 keys", "lightning", "older format"])
def test_files_as_found_in_the_wild_load(tmp_path: Path, kind: str, dtype: torch.dtype):
    state = filled(vae_shapes(64, 9) if kind != "107 keys" else encoder_shapes(64, 9), dtype)
    saved: object = state
    if kind == "lightning":
        beside = {"model.clip_model.logit_scale": torch.zeros(1), "model.shape_projection": torch.zeros(64, 8)}
        prefixed = {f"model.shape_model.{name}": value for name, value in state.items()}
        saved = {"state_dict": prefixed | beside, "epoch": 3, "pytorch-lightning_version": "1.8.3", "callbacks": {}}
    torch.save(saved, tmp_path / "file.ckpt", _use_new_zipfile_serialization=kind != "older format")
    encoder = load_michelangelo(tmp_path / "file.ckpt")
    (tmp_path / "file.ckpt").write_bytes(bytes((tmp_path / "file.ckpt").stat().st_size))  # nothing of it is needed any more
    assert len(encoder.state_dict()) == 107
    for name, value in encoder.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name].float())
    assert not encoder.training
    assert (encoder.width, encoder.tokens, encoder.keep) == (64, 9, 9)
    assert {p.dtype for p in MichelangeloEncoder.from_state_dict(state, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_a_file_that_keeps_the_frequencies_loads_when_they_are_the_known_ones(tmp_path: Path):
    state, known = small(), 2.0 ** torch.arange(8)
    for prefix in ("", "encoder."):
        torch.save(state | {f"{prefix}fourier_embedder.frequencies": known}, tmp_path / "m.pt")
        assert load_michelangelo(tmp_path / "m.pt").width == 64
        refused(state | {f"{prefix}fourier_embedder.frequencies": known * math.pi}, tmp_path, "frequencies")
    refused(state | {"fourier_embedder.frequencies": known[:6]}, tmp_path, "frequencies")


def test_keys_that_are_missing_unknown_or_of_another_shape_are_named(tmp_path: Path):
    key, state = "encoder.self_attn.resblocks.1.ln_2.bias", small()
    refused({name: value for name, value in state.items() if name != key}, tmp_path, key)
    refused({name: value for name, value in state.items() if name != "encoder.query"}, tmp_path, "encoder.query")
    refused(state | {"decoder.weight": torch.zeros(2)}, tmp_path, "decoder.weight")
    refused(state | {"encoder.extra": torch.zeros(2)}, tmp_path, "encoder.extra")
    refused(state | {"encoder.self_attn.resblocks.3.ln_2.bias": torch.zeros(64)}, tmp_path, "resblocks.2")
    refused(state | {key: torch.zeros(3)}, tmp_path, key)
    refused(state | {"encoder.query": torch.zeros(3)}, tmp_path, "encoder.query")
    refused(state | {"encoder.query": torch.zeros(5, 48)}, tmp_path, "has shape")  # of another width
    refused(state | {"encoder.input_proj.weight": torch.zeros(64, 57)}, tmp_path, "(64, 57), not (64, 54)")
    refused({}, tmp_path, "encoder.query")
    refused([1, 2], tmp_path, "list", "E502")


def test_tensors_that_are_no_weights_are_named(tmp_path: Path):
    key, state = "encoder.self_attn.resblocks.1.ln_2.bias", small()
    matrix = "encoder.cross_attn.attn.c_q.weight"
    for name, value in (
        (key, "no tensor"),
        (key, torch.zeros(64, dtype=torch.int64)),
        (key, torch.zeros(64, dtype=torch.complex64)),
        (key, torch.zeros(64, device="meta")),
        (matrix, torch.eye(64).to_sparse()),
    ):
        refused(state | {name: value}, tmp_path, f"{name} is not a dense tensor")
    refused(state | {key: torch.full((64,), math.nan)}, tmp_path, key, "E508")
    refused(state | {key: torch.full((64,), 1e300, dtype=torch.float64)}, tmp_path, key, "E508")


def test_numbers_that_float16_cannot_hold_are_said():
    state = small() | {"encoder.ln_post.bias": torch.full((64,), 1e6)}
    with pytest.raises(CadmllmError, match="encoder.ln_post.bias holds numbers beyond 65504, which float16 cannot") as caught:
        MichelangeloEncoder.from_state_dict(state, dtype=torch.float16)
    assert caught.value.code == "E508"
    assert caught.value.remedy.startswith("--set dtype=bfloat16;")
    assert MichelangeloEncoder.from_state_dict(state, dtype=torch.bfloat16).width == 64


def test_claims_of_huge_tensors_are_refused_before_they_are_made(tmp_path: Path):
    one = torch.zeros(1)
    size = 64 * 10**6
    huge = {name: one.expand([size if n % 64 == 0 else n for n in shape]) for name, shape in encoder_shapes(64, 5, 2).items()}
    del huge["encoder.cross_attn.attn.c_kv.weight"]
    refused(huge, tmp_path, "is missing")
    shapes = encoder_shapes(64 * 1000, 5, 2)  # 300 GB of weights that agree with each other
    refused({name: one.expand(shape) for name, shape in shapes.items()}, tmp_path, "claim")
    assert (tmp_path / "encoder.pt").stat().st_size < 100_000
    shared = torch.zeros(4 * 64 * 64)  # the same values under many names
    refused(
        {name: shared[: math.prod(shape)].view(shape) for name, shape in encoder_shapes(64, 5, 999).items()}, tmp_path, "claim"
    )


def test_a_file_that_cannot_be_read_says_so_and_what_to_do(tmp_path: Path):
    for content in (b"", b"nonsense"):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(CadmllmError) as caught:
            load_michelangelo(tmp_path / "bad.pt")
        assert caught.value.code == "E502"
        assert DOWNLOAD in caught.value.remedy
    with pytest.raises(CadmllmError, match="no such file"):
        load_michelangelo(tmp_path / "absent.pt")
    with pytest.raises(CadmllmError, match="no such file"):
        load_michelangelo(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_do_not_depend_on_the_chunk(dtype: torch.dtype):
    encoder = MichelangeloEncoder.from_state_dict(small(), dtype=dtype)
    points, normals = cloud(7)
    with torch.no_grad():
        whole = encoder(points, normals)
        for chunk in (1, 2, 3, 7):
            encoder.chunk = chunk
            torch.testing.assert_close(encoder(points, normals), whole, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.05)
    assert encoder(points[:0], normals[:0]).shape == (0, 5, 64)


def test_a_chunk_bounds_what_lives_at_once():
    encoder = MichelangeloEncoder.from_state_dict(small())
    points, normals = cloud(16, 256)

    def peak(chunk: int) -> int:
        encoder.chunk = chunk
        with Live([*encoder.parameters(), points, normals]) as live, torch.no_grad():
            encoder(points, normals)
        return live.peak

    assert peak(2) < peak(16) / 4


def test_the_shape_token_alone_is_the_first_of_all():
    encoder = MichelangeloEncoder.from_state_dict(small())
    points, normals = cloud()
    with torch.no_grad():
        whole = encoder(points, normals)
        encoder.keep = 1
        torch.testing.assert_close(encoder(points, normals), whole[:, :1])


def test_attention_is_that_of_the_plain_formula(monkeypatch: pytest.MonkeyPatch):
    encoder = MichelangeloEncoder.from_state_dict(filled(encoder_shapes(128, 5, 2)))
    points, normals = cloud()
    calls = []

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        calls.append((q.shape[1:], k.shape[1:]))
        return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v

    with torch.no_grad():
        ours = encoder(points, normals)
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", plain)
        torch.testing.assert_close(encoder(points, normals), ours, rtol=1e-4, atol=1e-5)
    assert calls == [((2, 5, 64), (2, 40, 64)), *[((2, 5, 64), (2, 5, 64))] * 2]


def test_every_weight_learns_when_it_is_trained():
    encoder = MichelangeloEncoder.from_state_dict(small())
    encoder.chunk = 1
    encoder(*cloud())[..., ::3].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.long
@pytest.mark.parametrize("kind", ["107 keys", "307 keys", "lightning"])
def test_the_published_size_loads_and_answers(tmp_path: Path, kind: str):
    state = filled(encoder_shapes(768, 257) if kind == "107 keys" else vae_shapes(768, 257))
    prefixed = {f"model.shape_model.{name}": value for name, value in state.items()}
    torch.save({"state_dict": prefixed} if kind == "lightning" else state, tmp_path / "m.ckpt")
    encoder = load_michelangelo(tmp_path / "m.ckpt")
    assert sum(p.numel() for p in encoder.parameters()) == 64_012_800
    with torch.no_grad():
        features = encoder(*cloud(1, 4096))
    assert features.shape == (1, 257, 768)
    assert features.isfinite().all()
