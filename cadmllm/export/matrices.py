"""The two resized matrices of an export, row by row against what they were made of: a prompt sees a few rows, this sees all."""

from __future__ import annotations

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
    prefix = "base_model.model." if kind == "adapter" else ""
    try:
        held = Tensors([folder / ADAPTER] if kind == "adapter" else weight_files(folder))
    except Damaged as error:
        raise broken(str(error)) from error
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
    short = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    return CadmllmError("E721", f"row {row} of {name} in the export, {what}, is not the checkpoint's", wider(short))
