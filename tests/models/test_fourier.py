"""The small point encoder, and Fourier features."""

import math

import torch
from torch.nn.functional import normalize

from cadmllm.models.fourier import FourierPoints, farthest_points, fourier_features


def test_fourier_features_are_ordered_as_described():
    point = torch.tensor([0.1, -0.2, 0.3])
    got = fourier_features(point)
    wanted = [0.1, -0.2, 0.3]
    for wave in (math.sin, math.cos):
        wanted += [wave(x * 2.0**k) for x in (0.1, -0.2, 0.3) for k in range(8)]
    torch.testing.assert_close(got, torch.tensor(wanted), rtol=0, atol=1e-5)


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
