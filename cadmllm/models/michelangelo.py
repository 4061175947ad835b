"""Michelangelo's pretrained point encoder: surface points with normals to a shape token and 256 latents.

Written from its description (a Perceiver over Fourier features; Zhao et al. 2023, arXiv 2306.17115): learned queries attend
once to the points, then to each other, all blocks pre-norm with exact GELU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadmllm.errors import CadmllmError
from cadmllm.models.fourier import OCTAVES, fourier_features
from cadmllm.models.torchfile import NotPlain, load_plain

CHUNK = 16  # clouds at a time: 52 MiB each in 32 bit, 26 in 16 (benchmarks/encoders.py)
HEAD_WIDTH = 64  # of the published encoder; the file does not say it
DOWNLOAD = "https://drive.google.com/file/d/1wzfa4EoijmyfTpLPfma9r03wvQ_mbjFD/view"
LIGHTNING_PREFIX = "model.shape_model."
VAE_PARTS = ("pre_kl.", "post_kl.", "transformer.", "geo_decoder.")  # of the whole VAE: not needed to encode
FREQUENCIES = "fourier_embedder.frequencies"  # a buffer of constants that some files hold


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
        chunk: clouds that are worked on at once, which bounds memory; the features are the same but for rounding.
    """

    def __init__(self, queries: int, width: int, inner: int, heads: int, layers: int) -> None:
        super().__init__()
        self.encoder = _Perceiver(queries, width, inner, heads, layers)
        self.width, self.tokens, self.keep, self.chunk = width, queries, queries, CHUNK

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        heads: int | None = None,
        where: str = "state dict",
        dtype: torch.dtype = torch.float32,
    ) -> MichelangeloEncoder:
        """The encoder that a state dict holds; every size but `heads` is read from its keys and shapes.

        Args:
            state: `encoder.*` tensors, alone or among those of the whole VAE, perhaps prefixed `model.shape_model.`.
            heads: attention heads; by default width / 64, as published.
            where: what to call it in messages.
            dtype: of the encoder's weights, whatever those of the state are.

        Raises:
            CadmllmError: E507 naming the key that is missing, unknown, no dense tensor of numbers or of the wrong shape, E508
                one that is not finite, or not in `dtype`.
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
        _check_held(parts, where)
        model.load_state_dict({name: _converted(name, value, dtype, where) for name, value in parts.items()}, assign=True)
        return model.eval()

    def forward(self, points: Tensor, normals: Tensor) -> Tensor:
        """Features [B, keep, D] (the shape token first) of points [B, N, 3] in [-1, 1] and unit normals [B, N, 3].

        In the type of the weights, or of autocast; the Fourier features of the points are always computed in float32.
        """
        pairs = zip(points.split(self.chunk), normals.split(self.chunk), strict=True)
        return torch.cat([self.encoder(some, facing)[:, : self.keep] for some, facing in pairs])


def _encoder_part(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    keys = [str(key) for key in state]
    lightning = any(key.startswith(LIGHTNING_PREFIX) for key in keys)
    parts = {}
    for key, value in zip(keys, state.values(), strict=True):
        if lightning and not key.startswith(LIGHTNING_PREFIX):
            continue  # the text and image encoders it was aligned with
        name = key.removeprefix(LIGHTNING_PREFIX)
        if name in (FREQUENCIES, f"encoder.{FREQUENCIES}"):
            _check_frequencies(name, value, where)
        elif name.startswith("encoder."):
            parts[name] = _dense(name, value, where)
        elif not name.startswith(VAE_PARTS):
            raise _refused(where, f"{name} is unknown", "E507")
    return parts


def _dense(name: str, value: object, where: str) -> Tensor:
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_meta or not value.is_floating_point():
        raise _refused(where, f"{name} is not a dense tensor of real numbers", "E507")
    return value.detach()


def _check_frequencies(name: str, value: object, where: str) -> None:
    tensor = _dense(name, value, where)
    if tensor.shape != (OCTAVES,) or not torch.equal(tensor.float(), 2.0 ** torch.arange(OCTAVES)):
        raise _refused(where, f"{name} is not 1, 2, 4 .. {2 ** (OCTAVES - 1)}", "E507")


def _check_held(parts: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that claim more values than are there (views of one small storage), before any of them is copied."""
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in parts.values()}
    claimed, held = sum(value.numel() * value.element_size() for value in parts.values()), sum(storages.values())
    if claimed > held:
        raise _refused(where, f"its tensors claim {claimed:,} bytes and it holds {held:,}", "E507")


def _converted(name: str, value: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    """A copy of its own, which outlives the file."""
    copied = value.to(dtype, copy=True, memory_format=torch.contiguous_format)
    if not bool(copied.isfinite().all()):
        kind = str(dtype).removeprefix("torch.")
        if bool(value.double().isfinite().all()):
            limit = torch.finfo(dtype).max
            raise _refused(where, f"{name} holds numbers beyond {limit:.5g}, which {kind} cannot", "E508", "--set dtype=bfloat16")
        raise _refused(where, f"{name} holds numbers that are not finite", "E508")
    return copied


def _sized(parts: Mapping[str, Tensor], name: str, dimensions: int, where: str) -> tuple[int, ...]:
    if name not in parts:
        raise _refused(where, f"{name} is missing", "E507")
    if parts[name].ndim != dimensions or min(parts[name].shape) == 0:
        raise _refused(where, f"{name} has shape {tuple(parts[name].shape)}, not {dimensions} dimensions", "E507")
    return tuple(parts[name].shape)


def _refused(where: str, reason: str, code: str = "E502", first: str = "") -> CadmllmError:
    return CadmllmError(
        code,
        f"Michelangelo point encoder {where}: {reason}",
        f"{first + '; or ' if first else ''}get the file from {DOWNLOAD} and name it with"
        " `--set model.points_checkpoint=FILE`, or train the encoder that needs no file: `--set model.points_encoder=fourier`",
    )


def load_michelangelo(path: Path, dtype: torch.dtype = torch.float32) -> MichelangeloEncoder:
    """The encoder of a `.pt` state dict or a Lightning `.ckpt`, on the CPU in `dtype`. No pickled code is run.

    Raises:
        CadmllmError: E502 when there is no file of plain tensors, E507 and E508 when they are not the encoder's.
    """
    if not path.is_file():
        raise _refused(str(path), "there is no such file")
    try:
        state = load_plain(path)
    except NotPlain as error:
        raise _refused(str(path), str(error)) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise _refused(str(path), f"it holds a {type(state).__name__}, not a state dict")
    return MichelangeloEncoder.from_state_dict(state, where=str(path), dtype=dtype)
