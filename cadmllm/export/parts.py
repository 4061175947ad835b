"""What stands beside the language model: projectors, and the encoders that were trained. GGUF files have no place for them."""

from __future__ import annotations

from pathlib import Path

import torch

from cadmllm.export.merge import rounded
from cadmllm.export.source import PARTS, Source
from cadmllm.export.stream import Announced, write_stream

FILES = {"projector": "projectors.safetensors", "encoder": "encoders.safetensors"}


def announced(source: Source) -> dict[str, list[Announced]]:
    """The tensors of each file, 'projectors.safetensors' and 'encoders.safetensors'; a file without any is not named.

    Both stay in float32, as they were trained and as they compute.
    """
    found: dict[str, list[Announced]] = {}
    for part in PARTS:
        for name in source.state.names():
            branch, _, rest = name.partition(".")
            if branch in ("points", "images") and rest.partition(".")[0] == part:
                found.setdefault(FILES[part], []).append(Announced(name, torch.float32, source.state.shape(name)))
    return found


def write_parts(source: Source, folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write projectors and trained encoders under the names of the checkpoint ('points.projector.*', 'images.encoder.*', ...).

    Args:
        source: of `open_source`.
        folder: that takes them, there already.
        dtype: of the language model; nothing here follows it.

    Returns:
        The files written: none for a checkpoint of stage 1.

    Raises:
        CadmllmError: E508 for numbers that are not finite.
    """
    written = []
    for file, tensors in announced(source).items():
        values = (rounded(tensor.name, source.state.tensor(tensor.name).float(), torch.float32) for tensor in tensors)
        written.append(write_stream(folder / file, tensors, values))
    return written
