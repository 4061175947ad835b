"""torch.compile of the decoder layers: one graph for all of them, for any length.

The layers are compiled one by one and in place (their code is the same, so the first one's graph serves all): compiling takes
as long for 36 layers as for one, and no `_orig_mod` enters the names of parameters and checkpoints.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cadmllm.errors import CadmllmError
from cadmllm.models.layers import layer_forwards
from cadmllm.models.lora import unfuse

if TYPE_CHECKING:
    from cadmllm.models.fusion import CadMLLM

_APT = "sudo apt-get install --no-install-recommends g++ python3-dev"
_WITHOUT = "or train without it: --set train.compile=false"


def compile_layers(model: CadMLLM) -> str:
    """Compile the decoder layers for training, in place; generation and validation run them as they are.

    Returns:
        What to tell: how many, and what to expect.

    Raises:
        CadmllmError: E613 where there is no compiler, no triton (CUDA), or a trial of them fails.
    """
    _check_tools(model.device)
    _try(model.device)
    forwards = layer_forwards(model.llm)
    unfuse(model.llm)  # the compiler fuses by itself, and an object for each LoRA layer would be a graph for each decoder layer
    for forward in forwards:
        # `dynamic`: packed rows have another length each step, and a graph for each would be compiled
        forward.compiled = torch.compile(forward.plain, dynamic=True)
    return f"{len(forwards)} decoder layers are compiled during the first step, which takes a minute or more"


def _check_tools(device: torch.device) -> None:
    cuda = device.type == "cuda"
    if cuda and importlib.util.find_spec("triton") is None:
        raise _unable("triton, which writes its GPU kernels, is not installed", "pip install triton")
    names = (os.environ.get("CC", "gcc"), "clang") if cuda else (os.environ.get("CXX", "g++"),)
    if not any(shutil.which(name) for name in names):
        raise _unable(f"there is no compiler ({' or '.join(names)})", _APT)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise _unable(f"Python's headers are missing ({header})", _APT)


def _try(device: torch.device) -> None:
    """Compile and run something small: compilers that are there may still not work."""

    def small(x: torch.Tensor) -> torch.Tensor:
        return (x * 2.0).sin().sum()

    value = torch.linspace(0.0, 1.0, 64, device=device)
    try:
        right = bool(torch.allclose(torch.compile(small)(value), small(value), atol=1e-4))
    except (RuntimeError, OSError, ImportError) as error:  # dynamo's, inductor's and the compiler's own failures
        lines = [line for line in str(error).splitlines() if "error: " in line] or str(error).splitlines()
        raise _unable((lines or [type(error).__name__])[0].strip()[:200], _APT) from error
    if not right:
        raise _unable("a compiled function gives other values", "update torch")


def _unable(reason: str, remedy: str) -> CadmllmError:
    return CadmllmError("E613", f"train.compile: torch.compile cannot work here: {reason}", f"{remedy}; {_WITHOUT}")
