"""Runs whose code is wrong in one place, which a real step shows; and processes of proofs that end before their time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

from scene import Case, Scene

from cadmllm.doctor import prover

_HERE = "import sys\nif 'cadmllm.doctor.proving' in sys.orig_argv:\n"


def _wrong(body: str, **values: object) -> Callable[[Scene], None]:
    """The process of the proofs runs `body` before it begins; all others do not."""

    def spoil(scene: Scene) -> None:
        scene.stub("sitecustomize", _HERE + "".join(f"    {line}\n" for line in body.strip().splitlines()))
        scene.values = {"train.val_samples": 4, **{key.replace("__", "."): value for key, value in values.items()}}

    return spoil


_SHIFTED = """
from dataclasses import replace
from cadmllm.corpus.batch import Collator
real = Collator.encode
Collator.encode = lambda self, sample: (lambda e: replace(e, labels=e.labels[1:] + [-100]))(real(self, sample))
"""
_PLACEHOLDERS = """
from cadmllm.corpus.batch import Collator
real = Collator.__init__
def init(self, tokenizer, text_size, cloud_tokens, *rest):
    real(self, tokenizer, text_size, cloud_tokens + 1, *rest)
Collator.__init__ = init
"""
_DEAD_LORA = """
import torch
from cadmllm.doctor.proving.bench import Bench
real = Bench._opened
def opened(self):
    session = real(self)
    for name, parameter in session.model.named_parameters():
        if 'lora_' in name:
            parameter.register_hook(torch.zeros_like)
    return session
Bench._opened = opened
"""
_MOVES = """
import torch
from cadmllm.doctor.proving.bench import Bench
real = Bench._opened
def opened(self):
    session = real(self)
    frozen = next(p for p in session.model.llm.parameters() if not p.requires_grad)
    step = session.engine.optimizer.step
    def leaky(*args, **options):
        with torch.no_grad():
            frozen.view(-1)[0] += 1e-5
        return step(*args, **options)
    session.engine.optimizer.step = leaky
    return session
Bench._opened = opened
"""
_FORGETS = """
from cadmllm.train import session
session.load_optimizer = lambda *args: None
"""
_POSITION = """
from cadmllm.models.fusion import CadMLLM
real = CadMLLM.step
def step(self, embeds, ids, mask, positions, cache):
    return real(self, embeds, ids, mask, positions + (0 if cache is None else 40), cache)
CadMLLM.step = step
"""
_PLAN = """
from dataclasses import replace
from cadmllm.plan import memory
real = memory.predict
def predict(*args, **options):
    found = real(*args, **options)
    return replace(found, lines=tuple(replace(line, bytes=line.bytes // 2) for line in found.lines))
memory.predict = predict
"""
_SLOW = """
import time
from cadmllm.doctor.proving import loader, pace
from cadmllm.train.windows import Windows
real = Windows.__getitem__
def slow(self, index):
    time.sleep(0.3)
    return real(self, index)
Windows.__getitem__ = slow
loader.LONGEST, loader.FEWEST, loader._cores = 0.5, 1, lambda: 3
pace.pace_of = lambda bench: pace.Pace([0.2], [100], [4])
"""
_EXHAUSTED = """
from cadmllm.train import squeeze
from cadmllm.train.step import OutOfRoom
def step(engine, batches, inspect=None):
    raise OutOfRoom('CUDA out of memory')
squeeze.train_step = step
"""
_DIES = """
import os, signal
from cadmllm.doctor.proving import taking
taking.taken = lambda bench: os.kill(os.getpid(), signal.SIGSEGV)
"""


def _no_place(scene: Scene) -> None:
    def refused(**options: object) -> str:
        raise OSError(30, "Read-only file system")

    scene.monkeypatch.setattr(tempfile, "mkdtemp", refused)


def _dies_at_once(scene: Scene) -> None:
    scene.monkeypatch.setattr(prover, "MODULE", "dies")
    scene.stub("dies", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")


def _hangs(scene: Scene) -> None:
    scene.monkeypatch.setattr(prover, "MODULE", "hangs")
    scene.monkeypatch.setattr(prover, "SILENT", 0.3)
    scene.stub("hangs", "import time\ntime.sleep(60)\n")


LORA = {"lora__enabled": True, "lora__r": 4, "lora__alpha": 8}
CASES = (
    Case("proof-labels-shifted-by-one", "E863", _wrong(_SHIFTED), ("labels",)),
    Case("proof-a-placeholder-too-many", "E863", _wrong(_PLACEHOLDERS), ("labels",)),
    Case("proof-lora-without-gradient", "E862", _wrong(_DEAD_LORA, **LORA), ("gradients",)),
    Case("proof-a-frozen-part-moves", "E862", _wrong(_MOVES, **LORA), ("gradients",)),
    Case("proof-a-save-forgets-the-optimizer", "E864", _wrong(_FORGETS), ("reload",)),
    Case("proof-generation-at-other-positions", "E865", _wrong(_POSITION), ("prefill",)),
    Case("proof-half-the-memory-planned", "E861", _wrong(_PLAN), ("steps",), "warn"),
    Case("proof-out-of-memory", "E609", _wrong(_EXHAUSTED), ("steps",)),
    Case("proof-a-slow-loader", "E866", _wrong(_SLOW, stages__3__epochs=40), ("loader",), "warn"),
    Case("proof-dies-in-a-step", "E867", _wrong(_DIES), ("steps",)),
    Case("proof-no-place-to-write", "E867", _no_place, ("steps",), sample=True),
    Case("proof-killed-at-once", "E867", _dies_at_once, ("steps",), sample=True),
    Case("proof-hangs", "E867", _hangs, ("steps",), sample=True),
)
