"""The small point encoder that is trained here, and the Fourier features that it shares with Michelangelo's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

OCTAVES = 8  # frequencies 1, 2, 4 .. 128, without pi


def fourier_features(xyz: Tensor) -> Tensor:
    """[..., 3] to [..., 51], float32: the coordinates, then sines, then cosines of each (coordinate by coordinate)."""
    xyz = xyz.float()
    waves = (xyz.unsqueeze(-1) * 2.0 ** torch.arange(OCTAVES, device=xyz.device)).flatten(-2)
    return torch.cat([xyz, waves.sin(), waves.cos()], dim=-1)


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Indices [B, count] of points [B, N, 3] that lie far apart: each is the farthest from those before it.

    The first is the farthest from the centroid, so the choice depends on the points alone. Points may repeat when
    count > N.
    """
    with torch.no_grad():
        points = points.float()
        batch = torch.arange(len(points), device=points.device)
        chosen = (points - points.mean(dim=1, keepdim=True)).square().sum(-1).argmax(dim=1)
        nearest = torch.full(points.shape[:2], float("inf"), device=points.device)
        indices = []
        for _ in range(count):
            indices.append(chosen)
            nearest = torch.minimum(nearest, (points - points[batch, chosen].unsqueeze(1)).square().sum(-1))
            chosen = nearest.argmax(dim=1)
        return torch.stack(indices, dim=1)


class FourierPoints(nn.Module):
    """A small trainable encoder: a token for each of a few far-apart points, knowing the surface around it.

    A token is made of the Fourier features of its point (where exactly it lies), its normal, and a pooled feature of its
    patch: the `neighbours` nearest points' offsets and normals through a shared two-layer network, largest value a channel
    (PointNet, Qi et al. 2017, arXiv 1612.00593).

    Args:
        tokens: features a cloud.
        width: of a feature.
        neighbours: points of a patch.
    """

    def __init__(self, tokens: int, width: int, neighbours: int = 16) -> None:
        super().__init__()
        self.tokens, self.width, self.neighbours = tokens, width, neighbours
        patch = max(16, width // 4)
        self.patch = nn.Sequential(nn.Linear(7, patch), nn.GELU(), nn.Linear(patch, patch))
        self.token = nn.Sequential(nn.Linear(3 + 6 * OCTAVES + 3 + patch, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, points: Tensor, normals: Tensor) -> Tensor:
        """Features [B, tokens, width] of points [B, N, 3] in [-1, 1] and unit normals [B, N, 3]; any order of the points."""
        points, normals = points.float(), normals.float()
        chosen = farthest_points(points, self.tokens)
        centers, facing = _take(points, chosen), _take(normals, chosen)
        near = torch.cdist(centers, points).topk(min(self.neighbours, points.shape[1]), dim=-1, largest=False)
        flat = near.indices.flatten(1)
        shape = (*near.indices.shape, 3)
        offsets = _take(points, flat).view(shape) - centers.unsqueeze(2)
        around = torch.cat([offsets * 4.0, _take(normals, flat).view(shape), near.values.unsqueeze(-1) * 4.0], dim=-1)
        pooled = self.patch(around).amax(dim=2)
        return self.token(torch.cat([fourier_features(centers), facing, pooled], dim=-1))


def _take(values: Tensor, indices: Tensor) -> Tensor:
    """values [B, N, 3] at indices [B, M]: [B, M, 3]."""
    return values.gather(1, indices.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
