"""Attention that keeps packed documents apart, and which back end does it: not assumed but proven on the model itself.

A packed row holds several documents. Each back end is told their lengths in its own way; whether it really keeps them apart
is measured by gradients: what a document's outputs owe to another document's inputs has to be exactly zero.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cadmllm.corpus.types import Batch

# what the setting says -> what transformers calls it
NAMES = {
    "sdpa": "cadmllm_sdpa",
    "varlen": "cadmllm_varlen",
    "flex": "flex_attention",
    "flash_attention_2": "flash_attention_2",
    "eager": "eager",
}
# of the largest value, packed against alone: a wrong mask or scale is off by about all of it, 16-bit rounding in 36 layers by
# a few percent
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.05}
PROBE = (5, 9)  # tokens of the documents it is proven on


@dataclass(frozen=True, slots=True)
class Attention:
    """A back end and what it was found to do.

    Attributes:
        name: a key of `NAMES`.
        isolates: it keeps packed documents apart here.
        reason: why this one, and why not the ones before it.
    """

    name: str = "sdpa"
    isolates: bool = True
    reason: str = ""

    def arguments(self, batch: Batch) -> dict[str, Any]:
        """What the decoder has to be told to attend within the samples of a right-padded or packed batch alone."""
        if not batch.documents:
            return {"attention_mask": None, "position_ids": None}  # causality alone hides the padding on the right
        lengths, device = batch.documents, batch.input_ids.device
        positions = {"position_ids": batch.position_ids}
        if self.name == "sdpa":
            # a mask of four dimensions is handed on as it is: no [T, T] mask is made
            return positions | {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device), "documents": lengths}
        if self.name in ("varlen", "flash_attention_2"):
            ends = F.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0)).to(device)
            told = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": max(lengths), "max_length_k": max(lengths)}
            mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device) if self.name == "varlen" else None
            return positions | told | {"attention_mask": mask}
        return positions | {"attention_mask": None}  # transformers reads the documents off the positions


def settle(decoder: PreTrainedModel, wanted: str, device: torch.device, dtype: torch.dtype) -> Attention:
    """Give the decoder the back end that is wanted, or for 'auto' the first that isolates packed documents here.

    Args:
        decoder: the inner model, perhaps with LoRA around its linears.
        wanted: 'auto' or a key of `NAMES`.
        device, dtype: what training computes on and in.

    Raises:
        CadmllmError: E612 when the back end that was asked for by name does not run here.
    """
    register()
    if wanted != "auto":
        failure = prove(decoder, wanted, device, dtype)
        if failure.broken:
            remedy = "--set model.attention=auto takes the fastest that works"
            raise CadmllmError("E612", f"model.attention={wanted} does not work here: {failure.said}", remedy)
        return Attention(wanted, not failure.said, failure.said or "as set")
    passed_over = []
    for name in _candidates(device, dtype):
        failure = prove(decoder, name, device, dtype)
        if not failure.said:
            return Attention(name, True, "; ".join(passed_over) or "the fastest for this device")
        passed_over.append(f"{name}: {failure.said}")
    _use(decoder, "sdpa")
    return Attention("sdpa", False, "; ".join(passed_over))


@dataclass(frozen=True, slots=True)
class Failure:
    """What a proof found: nothing (''), that documents see each other, or that the back end does not run at all (`broken`)."""

    said: str = ""
    broken: bool = False


def prove(decoder: PreTrainedModel, name: str, device: torch.device, dtype: torch.dtype) -> Failure:
    """Run two packed documents forward and backward through the decoder with a back end, which it keeps."""
    if name == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        return Failure("flash-attn is not installed", True)
    training = decoder.training
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            _use(decoder, name)
            decoder.eval()
            return _isolation(decoder, name, device, dtype)
        except (RuntimeError, NotImplementedError, ValueError, ImportError, AttributeError, TypeError, AssertionError) as error:
            # kernels refuse a device, a type, a head size or a version in all these ways
            return Failure(f"it fails here ({(str(error).strip().splitlines() or [type(error).__name__])[0][:160]})", True)
        finally:
            decoder.train(training)


def _isolation(decoder: PreTrainedModel, name: str, device: torch.device, dtype: torch.dtype) -> Failure:
    first, second = PROBE
    width = decoder.config.hidden_size
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(1, first + second, width, generator=generator).to(device).requires_grad_(True)
    attention = Attention(name)
    packed = _states(decoder, embeds, _row(PROBE, device), attention, dtype)[:, first:]
    alone = _states(decoder, embeds.detach()[:, first:], _row((second,), device), attention, dtype)
    (owed,) = torch.autograd.grad(packed.float().square().sum(), embeds)
    if not bool(owed[:, first:].abs().max() > 0):
        return Failure("no gradient comes back through it", True)
    if bool(owed[:, :first].abs().max() > 0):
        return Failure("it lets packed documents see each other")
    away = float((packed - alone).detach().abs().max() / alone.detach().abs().max())
    if not away <= CLOSE[dtype]:
        return Failure(f"a packed document's states differ from those of the document alone by {away:.1%}")
    return Failure()


def _states(decoder: nn.Module, embeds: Tensor, batch: Batch, attention: Attention, dtype: torch.dtype) -> Tensor:
    with torch.autocast(embeds.device.type, dtype, enabled=dtype != torch.float32):
        given = embeds if dtype == torch.float32 else embeds.to(dtype)
        return decoder(inputs_embeds=given, use_cache=False, **attention.arguments(batch)).last_hidden_state


def _row(lengths: tuple[int, ...], device: torch.device) -> Batch:
    from cadmllm.corpus.types import Batch

    ones = torch.ones(1, sum(lengths), dtype=torch.int64, device=device)
    positions = torch.cat([torch.arange(n, device=device) for n in lengths]).unsqueeze(0)
    return Batch(ones, ones, positions, None, documents=list(lengths))


def _candidates(device: torch.device, dtype: torch.dtype) -> list[str]:
    if device.type != "cuda" or dtype == torch.float32:
        return ["sdpa", "eager"]
    always = ["varlen", "sdpa", "eager"]
    return ["flash_attention_2", *always] if importlib.util.find_spec("flash_attn") else always


def _use(decoder: PreTrainedModel, name: str) -> None:
    inner: Any = decoder
    inner = inner.get_base_model() if type(inner).__name__.startswith("Peft") else inner
    inner.set_attn_implementation(NAMES[name])


def register() -> None:
    """Make our back ends known to transformers; without documents they are its SDPA."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    for name, function in (("sdpa", by_document), ("varlen", variable_length)):
        AttentionInterface.register(NAMES[name], function)
        AttentionMaskInterface.register(NAMES[name], sdpa_mask)


def by_document(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    documents: list[int] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal SDPA of each document by itself: no mask, no arithmetic across documents.

    Args:
        query, key, value: [1, heads, T, head_dim], keys and values perhaps with fewer heads.
        documents: lengths that sum to T; None: whatever transformers' SDPA makes of `attention_mask`.

    Returns:
        [1, T, heads, head_dim].
    """
    if documents is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others)
    grouped = key.shape[1] != query.shape[1]
    outputs = []
    for q, k, v in zip(*(part.split(documents, dim=2) for part in (query, key, value)), strict=True):
        mask = _band(q.shape[2], sliding_window, q.device) if sliding_window and q.shape[2] > sliding_window else None
        outputs.append(F.scaled_dot_product_attention(q, k, v, mask, dropout, mask is None, scale=scaling, enable_gqa=grouped))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _band(length: int, window: int, device: torch.device) -> Tensor:
    at = torch.arange(length, device=device)
    behind = at[:, None] - at[None, :]
    return (behind >= 0) & (behind < window)


def variable_length(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int = 0,
    max_length_k: int = 0,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Torch's own flash attention over documents of different lengths, one kernel for all of them (CUDA, 16 bit).

    Args and returns as `by_document`; `cu_seq_lens_*` [documents + 1] int32 say where documents begin and end.
    """
    if cu_seq_lens_q is None:
        return by_document(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, sliding_window=sliding_window, **others
        )
    from torch.nn.attention.varlen import varlen_attn

    # norms in 32 bit leave queries and keys in 32 bit, which this kernel does not take
    q, k, v = (part[0].transpose(0, 1).to(value.dtype).contiguous() for part in (query, key, value))
    window = (sliding_window - 1, 0) if sliding_window else (-1, 0)
    options: dict[str, Any] = {"scale": scaling, "window_size": window, "enable_gqa": k.shape[1] != q.shape[1]}
    attend: Any = varlen_attn  # its arguments differ between releases
    out: Tensor = attend(q, k, v, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k, **options)
    return out.unsqueeze(0), None
