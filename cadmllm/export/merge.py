"""LoRA merged into the base, and the added rows put into its matrices: a few megabytes at a time, whatever the model's size.

A linear layer becomes W + (B A) alpha / r (Hu et al., LoRA, arXiv 2106.09685, section 4.1), summed in float32 and rounded once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export.base import INDEX, SINGLE
from cadmllm.export.source import INPUT_ROWS, OUTPUT_ROWS, Source
from cadmllm.export.stream import Announced, write_stream

PIECE = 2**21  # numbers worked on at once: 8 MiB in float32
PAPERS = 32 * 10**6  # bytes kept free for tokenizer, card and records
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "q8_0": torch.int8}
BLOCK_Q8 = 34 / 32  # bytes a number of q8_0: 32 of 8 bits and a scale of 16

Reader = Callable[[int, int], Tensor]  # rows from, to


def merged_tensors(source: Source, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the merged model, one at a time, in the names and the order of `AutoModelForCausalLM`'s own state.

    Args:
        source: of `open_source`.
        dtype: float32, bfloat16 or float16.

    Raises:
        CadmllmError: E508 for numbers that are not finite in checkpoint or base, E723 for one that float16 cannot hold, E505
            when a file can no longer be read.
    """
    for name, shape in source.shapes().items():
        whole, at = torch.empty(shape, dtype=dtype), 0
        for piece in pieces(source, name, dtype):
            whole.view(-1)[at : at + piece.numel()] = piece.view(-1)
            at += piece.numel()
        yield name, whole


def pieces(source: Source, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
    """Consecutive rows of one tensor of the merged model; about `PIECE` numbers at a time are in memory. Raises as above."""
    shape = source.shapes()[name]
    row = math.prod(shape[1:])
    step = max(1, PIECE // row)
    for first, last, read in _segments(source, name):
        for start in range(first, last, step):
            yield rounded(name, read(start, min(start + step, last)), dtype)


def _segments(source: Source, name: str) -> list[tuple[int, int, Reader]]:
    """Where the rows of a tensor come from: first and last (excluded) row, and what gives those between in float32."""
    layout = source.base.layout
    if name in (layout.input, layout.output):
        return _resized(source, output=name == layout.output)
    rows, pair = layout.shapes[name][0], source.pair(name)
    kept = source.state if source.own(name) in source.state else source.base.tensors
    held = source.own(name) if source.own(name) in source.state else name
    if pair is None:
        return [(0, rows, lambda start, stop: kept.part(held, start, stop).float())]
    down, up = (source.state.tensor(part).float() for part in pair)

    def merged(start: int, stop: int) -> Tensor:
        return kept.part(held, start, stop).float().addmm_(up[start:stop], down, alpha=source.scale)  # in memory of its own

    return [(0, rows, merged)]


def _resized(source: Source, *, output: bool) -> list[tuple[int, int, Reader]]:
    """Rows of the input or output matrix: the base's text, the added items, and what the base has behind them.

    A whole language model that was trained brings its own input matrix; its output matrix is the base's, or, tied, the same.
    """
    layout, state = source.base.layout, source.state
    if output and not layout.tied:
        tensors, held = source.base.tensors, layout.output
    elif source.lora:
        tensors, held = source.base.tensors, layout.input
    else:
        tensors, held = state, source.own(layout.input)
    first, end = source.text_size, source.text_size + len(ADDED)

    def text(start: int, stop: int) -> Tensor:
        return tensors.part(held, start, stop).float()

    def added(start: int, stop: int) -> Tensor:
        return state.part(OUTPUT_ROWS if output else INPUT_ROWS, start - first, stop - first).float()

    def nothing(start: int, stop: int) -> Tensor:
        return torch.zeros(stop - start, source.width)

    seam = first + CAD_SIZE if output else end  # placeholders are read, never predicted
    return [(0, first, text), (first, seam, added), (seam, end, nothing), (end, source.rows, text)]


def rounded(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """A float32 value in another type; E508 where it is not finite, E723 where only float16 makes it so."""
    ends = torch.stack(value.aminmax()) if value.numel() else value  # NaN is passed on; isfinite() takes 30 times as long
    if not ends.isfinite().all():
        raise CadmllmError(
            "E508",
            f"{name} holds numbers that are not finite, in the checkpoint or in its base",
            "export a step save from before, or get the base again: `cadmllm export --checkpoint RUN/stage/steps/step-N`",
        )
    if dtype == torch.float16 and not ends.to(dtype).isfinite().all():
        raise CadmllmError(
            "E723",
            f"{name} reaches {float(ends.abs().max()):.6g}, and float16 ends at {torch.finfo(dtype).max:.0f}",
            "cadmllm export --dtype bf16",
        )
    return value.to(dtype)


def write_merged(source: Source, folder: Path, dtype: torch.dtype, shard_bytes: int) -> list[Path]:
    """Write the merged model's weights as transformers names them; a piece of one matrix at a time is in memory.

    Args:
        source: of `open_source`.
        folder: that takes them, there already.
        dtype: float32, bfloat16 or float16.
        shard_bytes: largest size of a file's values, but for a single tensor that is larger.

    Returns:
        'model.safetensors', or its shards and behind them their index.

    Raises:
        CadmllmError: as `merged_tensors`.
    """
    shards = plan_shards([Announced(name, dtype, shape) for name, shape in source.shapes().items()], shard_bytes)
    count = len(shards)
    names = [SINGLE] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    written = []
    for name, shard in zip(names, shards, strict=True):
        values = (piece for tensor in shard for piece in pieces(source, tensor.name, dtype))
        written.append(write_stream(folder / name, shard, values))
    if count > 1:
        index = folder / INDEX
        index.write_text(json.dumps(_index(names, shards), indent=2) + "\n", encoding="utf-8")
        written.append(index)
    return written


def plan_shards(tensors: Sequence[Announced], most: int) -> list[list[Announced]]:
    """Consecutive tensors a file, of at most so many bytes together, or a single one that is larger."""
    shards: list[list[Announced]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.bytes > most:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.bytes
    return shards


def _index(names: Sequence[str], shards: Sequence[Sequence[Announced]]) -> dict[str, object]:
    """As transformers writes it."""
    every = [(name, tensor) for name, shard in zip(names, shards, strict=True) for tensor in shard]
    sums = {
        "total_parameters": sum(math.prod(tensor.shape) for _, tensor in every),
        "total_size": sum(tensor.bytes for _, tensor in every),
    }
    return {"metadata": sums, "weight_map": {tensor.name: name for name, tensor in every}}


def needed_bytes(source: Source, kind: str, dtype: str) -> int:
    """Disk space that an export takes, its papers included.

    Args:
        source: of `open_source`.
        kind: 'adapter', 'merged' or 'gguf'.
        dtype: 'fp32', 'bf16', 'fp16', or 'q8_0' (gguf).
    """
    from cadmllm.export.adapter import announced as of_adapter
    from cadmllm.export.parts import announced as of_parts

    if kind == "gguf":
        wide = BLOCK_Q8 if dtype == "q8_0" else DTYPES[dtype].itemsize
        sizes = (math.prod(shape) * (4 if len(shape) < 2 else wide) for shape in source.shapes().values())
        return math.ceil(sum(sizes)) + PAPERS  # vectors stay in 32 bit
    total = sum(tensor.bytes for group in of_parts(source).values() for tensor in group)
    if kind == "adapter":
        return total + sum(tensor.bytes for tensor in of_adapter(source, DTYPES[dtype])) + PAPERS
    return total + sum(math.prod(shape) * DTYPES[dtype].itemsize for shape in source.shapes().values()) + PAPERS
