import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from cadmllm.errors import CadmllmError
from cadmllm.models.points import (
    DOWNLOAD,
    FourierPoints,
    MichelangeloEncoder,
    build_points_encoder,
    farthest_points,
    fourier_features,
    load_michelangelo,
)


def fresh_state(queries: int = 5, width: int = 16, layers: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = MichelangeloEncoder(queries, width, 4 * width, 4, layers)
    return {name: torch.randn_like(value) * 0.2 for name, value in model.state_dict().items()}


def refused(state: object, tmp_path: Path, name: str, code: str = "E507") -> None:
    """Refused from a file, naming `name`."""
    torch.save(state, tmp_path / "encoder.pt")
    with pytest.raises(CadmllmError) as caught:
        load_michelangelo(tmp_path / "encoder.pt")
    assert caught.value.code == code
    assert name in caught.value.message
    assert DOWNLOAD in caught.value.remedy
    assert "model.points_encoder=fourier" in caught.value.remedy


def test_the_original_encoders_outputs_are_reproduced(shared: Path):
    golden = np.load(shared / "golden" / "michelangelo_small_a.npz")
    state = {key.removeprefix("state/"): torch.from_numpy(golden[key]) for key in golden.files if key.startswith("state/")}
    encoder = MichelangeloEncoder.from_state_dict(state, heads=4)
    with torch.no_grad():
        features = encoder(torch.from_numpy(golden["points"]), torch.from_numpy(golden["normals"]))
    assert features.shape == (2, 9, 48)
    np.testing.assert_allclose(features[:, 0], golden["shape_embed"], atol=1e-4)
    np.testing.assert_allclose(features[:, 1:], golden["latents"], atol=1e-4)


def test_fourier_features_are_ordered_as_described():
    point = torch.tensor([0.1, -0.2, 0.3])
    got = fourier_features(point)
    wanted = [0.1, -0.2, 0.3]
    for wave in (math.sin, math.cos):
        wanted += [wave(x * 2.0**k) for x in (0.1, -0.2, 0.3) for k in range(8)]
    torch.testing.assert_close(got, torch.tensor(wanted), rtol=0, atol=1e-5)


def test_the_published_sizes():
    with torch.device("meta"):
        model = MichelangeloEncoder(257, 768, 3072, 12, 8)
    assert len(model.state_dict()) == 107
    assert sum(p.numel() for p in model.parameters()) == 64_012_800


@pytest.mark.parametrize("prefix", ["", "model.shape_model."])
def test_the_whole_vae_and_lightning_files_load(tmp_path: Path, prefix: str):
    state = fresh_state(width=64)
    whole = {prefix + name: value for name, value in state.items()}
    whole |= {prefix + name: torch.zeros(2) for name in ("pre_kl.weight", "post_kl.bias", "geo_decoder.ln_post.weight")}
    whole[prefix + "transformer.resblocks.0.attn.c_qkv.weight"] = torch.zeros(2)
    if prefix:
        whole["model.clip_model.logit_scale"] = torch.zeros(1)
    torch.save({"state_dict": whole, "epoch": 3} if prefix else whole, tmp_path / "vae.ckpt")
    encoder = load_michelangelo(tmp_path / "vae.ckpt")
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    assert not encoder.training


def test_a_file_in_16_bits_is_widened(tmp_path: Path):
    torch.save({name: value.half() for name, value in fresh_state(width=64).items()}, tmp_path / "half.pt")
    assert {p.dtype for p in load_michelangelo(tmp_path / "half.pt").parameters()} == {torch.float32}


def test_keys_that_are_missing_unknown_or_of_another_shape_are_named(tmp_path: Path):
    key = "encoder.self_attn.resblocks.1.ln_2.bias"
    state = fresh_state(width=64)
    refused({name: value for name, value in state.items() if name != key}, tmp_path, key)
    refused({name: value for name, value in state.items() if name != "encoder.query"}, tmp_path, "encoder.query")
    refused(state | {"decoder.weight": torch.zeros(2)}, tmp_path, "decoder.weight")
    refused(state | {"encoder.extra": torch.zeros(2)}, tmp_path, "encoder.extra")
    refused(state | {key: torch.zeros(3)}, tmp_path, key)
    refused(state | {key: torch.full((64,), math.nan)}, tmp_path, key, "E508")
    refused(state | {key: "no tensor"}, tmp_path, key)
    refused(state | {"encoder.query": torch.zeros(3)}, tmp_path, "encoder.query")
    refused({}, tmp_path, "encoder.query")
    refused([1, 2], tmp_path, "list", "E502")


def test_a_file_that_is_no_state_dict(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    for content in (b"", b"nonsense", pickle.dumps(Trap()), pickle.dumps({"a": 1})[:-2]):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(CadmllmError) as caught:
            load_michelangelo(tmp_path / "bad.pt")
        assert caught.value.code == "E502"
    torch.save({"encoder.query": Trap()}, tmp_path / "bad.pt")
    with pytest.raises(CadmllmError, match=r"would run code: .*pathlib"):
        load_michelangelo(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(CadmllmError, match="no such file"):
        load_michelangelo(tmp_path / "absent.pt")


def test_farthest_points_are_those_of_the_plain_definition():
    points = torch.rand(2, 60, 3, generator=torch.Generator().manual_seed(1))
    got = farthest_points(points, 12)
    for cloud, indices in zip(points, got.tolist(), strict=True):
        chosen = [int((cloud - cloud.mean(0)).norm(dim=1).argmax())]
        while len(chosen) < 12:
            chosen.append(int(torch.cdist(cloud, cloud[chosen]).min(dim=1).values.argmax()))
        assert indices == chosen


def cloud(seed: int = 0, count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, count, 3, generator=generator) * 2 - 1, normalize(torch.randn(2, count, 3, generator=generator), dim=-1)


def test_the_small_encoder_does_not_care_for_the_order_of_points():
    torch.manual_seed(0)
    encoder, (points, normals) = FourierPoints(8, 32), cloud()
    order = torch.randperm(50)
    first = encoder(points, normals)
    assert first.shape == (2, 8, 32)
    torch.testing.assert_close(first, encoder(points[:, order], normals[:, order]))


def test_the_small_encoder_sees_where_points_lie_how_they_face_and_what_is_around():
    torch.manual_seed(0)
    encoder, (points, normals) = FourierPoints(1, 32, neighbours=4), cloud()
    plain = encoder(points, normals)
    index = farthest_points(points, 1)[0, 0]
    turned, moved = normals.clone(), points.clone()
    turned[0, index] *= -1
    near = torch.cdist(points[0, index][None], points[0])[0].topk(2, largest=False).indices[1]
    moved[0, near] += 0.01 * (points[0, index] - moved[0, near])
    for changed in (encoder(points, turned), encoder(moved, normals)):
        assert not torch.allclose(changed[0], plain[0])
        assert torch.equal(changed[1], plain[1])


def test_every_parameter_of_the_small_encoder_learns():
    encoder = FourierPoints(8, 32)
    encoder(*cloud()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_fewer_points_than_neighbours():
    points, normals = cloud(count=5)
    assert FourierPoints(5, 32)(points, normals).isfinite().all()


def test_building_by_settings(settings, tmp_path: Path):
    torch.save(fresh_state(width=64), tmp_path / "m.pt")
    chosen = settings(points_encoder="michelangelo", points_checkpoint=tmp_path / "m.pt", point_tokens=3)
    encoder, width, frozen = build_points_encoder(chosen)
    assert (width, frozen) == (64, True)
    assert encoder(*cloud()).shape == (2, 3, 64)
    for bad in ({"point_tokens": 6}, {"points_encoder": "fourier", "point_tokens": 65}):
        with pytest.raises(CadmllmError) as caught:
            build_points_encoder(settings(**{**chosen.model.model_dump(), **bad}))
        assert caught.value.code == "E102"
