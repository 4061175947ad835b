"""Every value of an export against what it was made of: prompts see a few rows, and a faint LoRA not at all; this sees both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export.compare import wider
from cadmllm.export.tensors import Damaged, Tensors
from cadmllm.models.exported import ADAPTER, broken, weight_files

if TYPE_CHECKING:
    from cadmllm.export.source import Source

PIECE = 4096  # rows compared at a time
NUMBERS = 2**22  # of a layer's matrix compared at a time: 32 MiB in float64
PEFT = "base_model.model."
SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def check_matrices(source: Source, folder: Path, kind: str, dtype: torch.dtype) -> int:
    """Compare every row with the checkpoint's and the base's, rounded to `dtype`: bit by bit.

    Args:
        source: what the export was made of.
        folder: of the export.
        kind: 'merged' or 'adapter'.
        dtype: of the matrices.

    Returns:
        Rows compared.

    Raises:
        CadmllmError: E721 naming the first row that is another one; E722 when a matrix is missing or of another shape.
    """
    layout = source.base.layout
    prefix = PEFT if kind == "adapter" else ""
    held = _opened(folder, kind)
    count = 0
    for name, output in ((layout.input, False), (layout.output, True)):
        found = prefix + name
        if found not in held or held.shape(found) != (source.rows, source.width) or held.dtype(found) != dtype:
            there = f"is {held.kind(found)} {list(held.shape(found))}" if found in held else "is missing"
            raise broken(f"{folder}: {found} {there}, and {dtype} [{source.rows}, {source.width}] belongs there")
        for start, expected in _rows(source, output=output):
            rows = held.part(found, start, start + len(expected))
            off = (rows != expected.float().to(dtype)).any(dim=1)
            if bool(off.any()):
                raise _other(source, found, start + int(off.nonzero()[0]), dtype)
            count += len(expected)
    return count


def _opened(folder: Path, kind: str) -> Tensors:
    try:
        return Tensors([folder / ADAPTER] if kind == "adapter" else weight_files(folder))
    except Damaged as error:
        raise broken(str(error)) from error


def check_layers(source: Source, folder: Path, kind: str, dtype: torch.dtype) -> int:
    """Compare every other tensor: of a merged model W + (B A) alpha / r, in float64, within half a step of `dtype`; of an
    adapter LoRA's matrices, bit by bit.

    Returns:
        Tensors compared.

    Raises:
        CadmllmError: E721 naming the first tensor that is another one; E722 when one is missing, surplus or of another shape.
    """
    held = _opened(folder, kind)
    layout = source.base.layout
    resized = {layout.input, layout.output}
    wanted = _lora(source) if kind == "adapter" else {name: name for name in source.shapes() if name not in resized}
    prefix = PEFT if kind == "adapter" else ""
    for name in set(held.names()) ^ ({*wanted} | {prefix + name for name in resized}):
        raise broken(f"{folder}: {name} {'is surplus' if name in held else 'is missing'}")
    for name, own in wanted.items():
        shape = source.state.shape(own) if kind == "adapter" else source.shapes()[name]
        if held.shape(name) != shape:
            raise broken(f"{folder}: {name} has shape {list(held.shape(name))}, not {list(shape)}")
        step = max(1, NUMBERS // math.prod(shape[1:]))
        for start in range(0, shape[0], step):
            stop = min(start + step, shape[0])
            found = held.part(name, start, stop)
            if kind == "adapter":
                off = found != source.state.part(own, start, stop).float().to(found.dtype)
            else:
                off = ~_within(found.double(), _merged(source, name, start, stop), dtype)
            if bool(off.any()):
                raise CadmllmError("E721", f"{name} in the export is not what the checkpoint makes of it", wider(SHORT[dtype]))
    return len(wanted)


def _lora(source: Source) -> dict[str, str]:
    """peft's names of LoRA's matrices, and the checkpoint's."""
    prefix = PEFT + source.base.layout.prefix
    return {prefix + own.removeprefix("llm."): own for own in source.state.names() if own.startswith("llm.")}


def _merged(source: Source, name: str, start: int, stop: int) -> Tensor:
    """Rows of a tensor of the merged model, float64."""
    own = source.own(name)
    base = source.state.part(own, start, stop) if own in source.state else source.base.tensors.part(name, start, stop)
    pair = source.pair(name)
    if pair is None:
        return base.double()
    down, up = source.state.tensor(pair[0]).double(), source.state.part(pair[1], start, stop).double()
    return base.double() + source.scale * (up @ down)


def _within(found: Tensor, exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether numbers are what rounding makes of the exact ones: half a step of the type, and what float32 sums lose before."""
    kind = torch.finfo(dtype)
    sums = 2.0**-18 * exact.abs().amax(dim=-1, keepdim=True)  # a sum in float32 of numbers about as large as the row's
    return (found - exact).abs() <= 0.51 * kind.eps * exact.abs() + kind.smallest_normal * kind.eps + sums


def _rows(source: Source, *, output: bool) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows as they were trained or came) of a whole matrix; placeholders are never predicted and have zeros."""
    layout, first = source.base.layout, source.text_size
    own = source.state.tensor("rows.output" if output else "rows.input")
    if output:
        own = torch.cat([own, own.new_zeros(len(ADDED) - CAD_SIZE, own.shape[1])])
    trained = None if source.lora else source.own(layout.input)  # the decoder and its input matrix were trained as a whole
    if output and not layout.tied:
        of_base, name = True, layout.output
    else:
        of_base, name = trained is None, trained or layout.input
    tensors = source.base.tensors if of_base else source.state
    for low, high in ((0, first), (first + len(ADDED), source.rows)):
        for start in range(low, high, PIECE):
            yield start, tensors.part(name, start, min(start + PIECE, high))
    yield first, own


def _other(source: Source, name: str, row: int, dtype: torch.dtype) -> CadmllmError:
    k = row - source.text_size
    what = f"that of {ADDED[k]}" if 0 <= k < len(ADDED) else "of the base"
    return CadmllmError("E721", f"row {row} of {name} in the export, {what}, is not the checkpoint's", wider(SHORT[dtype]))
