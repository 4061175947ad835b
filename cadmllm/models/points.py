"""Point clouds to features: Michelangelo's pretrained encoder (frozen) and a small one trained here.

Michelangelo's encoder is written from its description (a Perceiver over Fourier features; Zhao et al. 2023, arXiv
2306.17115): learned queries attend once to the points, then to each other, all blocks pre-norm with exact GELU.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadmllm.errors import CadmllmError
from cadmllm.settings import Settings

OCTAVES = 8  # frequencies 1, 2, 4 .. 128, without pi
HEAD_WIDTH = 64  # of the published encoder; the file does not say it
DOWNLOAD = "https://drive.google.com/file/d/1wzfa4EoijmyfTpLPfma9r03wvQ_mbjFD/view"
LIGHTNING_PREFIX = "model.shape_model."
VAE_PARTS = ("pre_kl.", "post_kl.", "transformer.", "geo_decoder.")  # of the whole VAE: not needed to encode


def fourier_features(xyz: Tensor) -> Tensor:
    """[..., 3] to [..., 51], float32: the coordinates, then sines, then cosines of each (coordinate by coordinate)."""
    xyz = xyz.float()
    waves = (xyz.unsqueeze(-1) * 2.0 ** torch.arange(OCTAVES, device=xyz.device)).flatten(-2)
    return torch.cat([xyz, waves.sin(), waves.cos()], dim=-1)


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, inner)
        self.c_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_qkv = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # rows are interleaved per head: q, k and v of head 0, then of head 1, ...
        q, k, v = self.c_qkv(x).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_q = nn.Linear(width, width, bias=False)
        self.c_kv = nn.Linear(width, 2 * width, bias=False)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, data: Tensor) -> Tensor:
        q = self.c_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.c_kv(data).unflatten(-1, (self.heads, 2, -1)).permute(3, 0, 2, 1, 4)
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _SelfBlock(nn.Module):
    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.attn = _SelfAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = _Mlp(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class _CrossBlock(nn.Module):
    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.attn = _CrossAttention(width, heads)
        self.ln_1, self.ln_2, self.ln_3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = _Mlp(width, inner)

    def forward(self, x: Tensor, data: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x), self.ln_2(data))
        return x + self.mlp(self.ln_3(x))


class _Blocks(nn.Module):
    def __init__(self, width: int, inner: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_SelfBlock(width, inner, heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class _Perceiver(nn.Module):
    def __init__(self, queries: int, width: int, inner: int, heads: int, layers: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(queries, width))
        self.input_proj = nn.Linear(3 + 6 * OCTAVES + 3, width)
        self.cross_attn = _CrossBlock(width, inner, heads)
        self.self_attn = _Blocks(width, inner, heads, layers)
        self.ln_post = nn.LayerNorm(width)

    def forward(self, points: Tensor, normals: Tensor) -> Tensor:
        features = torch.cat([fourier_features(points), normals.float()], dim=-1).to(self.query.dtype)
        x = self.query.expand(len(points), -1, -1)
        return self.ln_post(self.self_attn(self.cross_attn(x, self.input_proj(features))))


class MichelangeloEncoder(nn.Module):
    """Michelangelo's aligned shape encoder. Make one with `from_state_dict` or `load_michelangelo`.

    Attributes:
        width: D, of a feature.
        tokens: 1 + L features a cloud.
        keep: features given, the first of them; all by default, 1 is the shape token alone.
    """

    def __init__(self, queries: int, width: int, inner: int, heads: int, layers: int) -> None:
        super().__init__()
        self.encoder = _Perceiver(queries, width, inner, heads, layers)
        self.width, self.tokens, self.keep = width, queries, queries

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], heads: int | None = None, where: str = "state dict"
    ) -> MichelangeloEncoder:
        """The encoder that a state dict holds; every size but `heads` is read from its keys and shapes.

        Args:
            state: `encoder.*` tensors, alone or among those of the whole VAE, perhaps prefixed `model.shape_model.`.
            heads: attention heads; by default width / 64, as published.
            where: what to call it in messages.

        Raises:
            CadmllmError: E507 naming the key that is missing, unknown or of the wrong shape, E508 one that is not finite.
        """
        parts = _encoder_part(state, where)
        query = _sized(parts, "encoder.query", 2, where)
        width = query[1]
        inner = _sized(parts, "encoder.cross_attn.mlp.c_fc.weight", 2, where)[0]
        found = (re.match(r"encoder\.self_attn\.resblocks\.(\d{1,3})\.", name) for name in parts)
        layers = 1 + max((int(match[1]) for match in found if match), default=-1)
        heads = max(1, width // HEAD_WIDTH) if heads is None else heads
        if width % heads:
            raise _refused(where, f"width {width} is not a multiple of {heads} heads", "E507")
        with torch.device("meta"):
            model = cls(query[0], width, inner, heads, layers)
        wanted = {name: value.shape for name, value in model.state_dict().items()}
        for name in sorted(wanted.keys() | parts.keys()):
            if name not in parts:
                raise _refused(where, f"{name} is missing", "E507")
            if name not in wanted:
                raise _refused(where, f"{name} is unknown", "E507")
            if parts[name].shape != wanted[name]:
                raise _refused(where, f"{name} has shape {tuple(parts[name].shape)}, not {tuple(wanted[name])}", "E507")
            if not bool(parts[name].isfinite().all()):
                raise _refused(where, f"{name} holds numbers that are not finite", "E508")
        model.load_state_dict({name: value.float() for name, value in parts.items()}, assign=True)
        return model.eval()

    def forward(self, points: Tensor, normals: Tensor) -> Tensor:
        """Features [B, keep, D] (the shape token first) of points [B, N, 3] in [-1, 1] and unit normals [B, N, 3]."""
        return self.encoder(points, normals)[:, : self.keep]


def _encoder_part(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    keys = [str(key) for key in state]
    lightning = any(key.startswith(LIGHTNING_PREFIX) for key in keys)
    parts = {}
    for key, value in zip(keys, state.values(), strict=True):
        if lightning and not key.startswith(LIGHTNING_PREFIX):
            continue  # the text and image encoders it was aligned with
        name = key.removeprefix(LIGHTNING_PREFIX)
        if name.startswith("encoder."):
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise _refused(where, f"{name} is not a tensor of numbers", "E507")
            parts[name] = value
        elif not name.startswith(VAE_PARTS):
            raise _refused(where, f"{name} is unknown", "E507")
    return parts


def _sized(parts: Mapping[str, Tensor], name: str, dimensions: int, where: str) -> tuple[int, ...]:
    if name not in parts:
        raise _refused(where, f"{name} is missing", "E507")
    if parts[name].ndim != dimensions or min(parts[name].shape) == 0:
        raise _refused(where, f"{name} has shape {tuple(parts[name].shape)}, not {dimensions} dimensions", "E507")
    return tuple(parts[name].shape)


def _refused(where: str, reason: str, code: str = "E502") -> CadmllmError:
    return CadmllmError(
        code,
        f"Michelangelo point encoder {where}: {reason}",
        f"get the file from {DOWNLOAD} and name it with `--set model.points_checkpoint=FILE`,"
        " or train the encoder that needs no file: `--set model.points_encoder=fourier`",
    )


def load_michelangelo(path: Path) -> MichelangeloEncoder:
    """The encoder of a `.pt` state dict or a Lightning `.ckpt`, on the CPU in float32. No pickled code is run.

    Raises:
        CadmllmError: E502 when there is no file of plain tensors, E507 and E508 when they are not the encoder's.
    """
    if not path.is_file():
        raise _refused(str(path), "there is no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        raise _refused(str(path), f"it is not a plain file of tensors (loading it would run code{_calls(path)})") from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError, TypeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise _refused(str(path), f"it is broken or not a PyTorch file ({reason})") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise _refused(str(path), f"it holds a {type(state).__name__}, not a state dict")
    return MichelangeloEncoder.from_state_dict(state, where=str(path))


def _calls(path: Path) -> str:
    """What a pickle would call, read without calling it: ': os.system'."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError):
        return ""  # the older format: torch names only the first, in its own words
    return f": {', '.join(names[:3])}" if names else ""


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


def build_points_encoder(settings: Settings) -> tuple[nn.Module, int, bool]:
    """(encoder, width of a feature, whether it is frozen) by `settings.model.points_encoder`.

    Raises:
        CadmllmError: E502, E507, E508 when Michelangelo's file is missing or wrong; E102 when `model.point_tokens` cannot be had.
    """
    model = settings.model
    if model.points_encoder == "fourier":
        if model.point_tokens > model.point_count:
            raise _too_many(model.point_tokens, model.point_count, "there are points (model.point_count)")
        encoder = FourierPoints(model.point_tokens, model.fourier_width)
        return encoder, encoder.width, False
    michelangelo = load_michelangelo(model.points_checkpoint)
    if model.point_tokens > michelangelo.tokens:
        raise _too_many(model.point_tokens, michelangelo.tokens, "the Michelangelo encoder gives")
    michelangelo.keep = model.point_tokens
    frozen = not model.train_encoders
    if frozen:
        michelangelo.to(getattr(torch, settings.dtype))
    return michelangelo, michelangelo.width, frozen


def _too_many(wanted: int, there: int, what: str) -> CadmllmError:
    return CadmllmError("E102", f"model.point_tokens is {wanted}, more than {what}: {there}", f"--set model.point_tokens={there}")
