"""cadmllm: train, measure and export a language model that writes editable parametric CAD."""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own would be imported by every command
if TYPE_CHECKING:
    from cadmllm.infer.api import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    # `from cadmllm import load` must not make `cadmllm --help` import torch
    if name == "load":
        from cadmllm.infer.api import load

        return load
    raise AttributeError(f"module 'cadmllm' has no attribute {name!r}")
