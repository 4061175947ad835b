"""A healthy run in a folder of its own, for cases that break one thing of it and say which code that must give."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tiny_base import make_base

from cadmllm.cli import main
from cadmllm.doctor.cache import Cache
from cadmllm.doctor.check import Intent, Report, Situation
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.runner import chosen, run_checks
from cadmllm.resolve import Assignment, Origin, resolve
from cadmllm.settings import Settings


@functools.cache
def _healthy() -> Path:
    """A base model and a data set that every scene copies; made once a process."""
    folder = Path(tempfile.mkdtemp(prefix="cadmllm-scene-"))
    make_base(folder / "base")
    made = ["--count", "12", "--seed", "3", "--out", str(folder / "set"), "--points", "--views", "--quiet"]
    assert main(["data", "synth", *made]) == 0
    return folder


@dataclass
class Scene:
    """A machine, a data set, a base model and a run folder in which nothing is wrong.

    Attributes:
        folder: holds `set` (12 parts with clouds and views), `base` (a tiny Qwen3 folder), `run` (not there yet),
            `system` (the root of `machine`: empty, so that everything under /proc and /sys is unknown) and `stubs`.
        monkeypatch: for what cannot be broken by files.
        values: dotted settings, over those of `settings`.
        stages: to be trained.
        intent: how they are to be started.
        environ: variables over those of this process.
        fresh: no answers from the cache.
    """

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    values: dict[str, object] = field(default_factory=dict)
    stages: tuple[int, ...] = (1, 2, 3)
    intent: Intent = field(default_factory=Intent)
    environ: dict[str, str] = field(default_factory=dict)
    fresh: bool = False

    @property
    def set(self) -> Path:
        return self.folder / "set"

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def system(self, name: str, text: str) -> Path:
        """Write a system file: `system('proc/version', 'Linux ... microsoft ...')`."""
        path = self.folder / "system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def stub(self, name: str, source: str) -> None:
        """A module of that name goes before the real one in every process that a check starts."""
        path = self.folder / "stubs" / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
        self.fresh = True

    def settings(self) -> Settings:
        values = {
            "model.llm": str(self.base),
            "model.points_encoder": "fourier",
            "model.point_count": 64,
            "model.point_tokens": 8,
            "model.fourier_width": 32,
            "model.image_encoder": "tiny",
            "model.image_bridge": "mlp",
            "model.image_tokens": 4,
            "model.image_views": 1,
            "train.batch_size": 2,
            "train.accumulation": 2,
            "train.max_seq_length": 1024,
            "train.workers": 0,
            "data.root": str(self.set),
            "run.dir": str(self.run),
            "wandb.mode": "off",
            "device": "cpu",
            "dtype": "float32",
            **self.values,
        }
        items = [Assignment(key, value, Origin("command line", f"--set {key}")) for key, value in values.items()]
        return resolve(preset="tiny", assignments=items, environ={}).settings

    def situation(self) -> Situation:
        gone = ("PYTHONPATH", "CUDA_VISIBLE_DEVICES")
        clean = {key: v for key, v in os.environ.items() if not key.startswith(("WANDB_", "CADMLLM_")) and key not in gone}
        environ = {**clean, **self.environ}
        if (self.folder / "stubs").is_dir():
            environ["PYTHONPATH"] = str(self.folder / "stubs")
        machine = Machine(self.folder / "system", environ)
        cache = Cache(self.folder / "doctor.json") if self.fresh else Cache()
        return Situation(self.settings(), self.stages, machine=machine, cache=cache, intent=self.intent)

    def examine(self, *only: str) -> Report:
        """The report of the quick checks, or of those named."""
        return run_checks(self.situation(), checks=chosen(only))


def build(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A healthy scene in an empty folder."""
    for name in ("base", "set"):
        shutil.copytree(_healthy() / name, folder / name)
    (folder / "system").mkdir()
    monkeypatch.chdir(folder)
    return Scene(folder, monkeypatch)


@dataclass(frozen=True)
class Case:
    """One thing that is wrong.

    Attributes:
        name: what, in a few words with dashes.
        code: that doctor must give.
        spoil: breaks it.
        only: checks (or groups) that are made; all quick ones when empty.
        level: of the finding with that code: 'fail' or 'warn'.
        sample: part of `make test`; the others are long.
    """

    name: str
    code: str
    spoil: Callable[[Scene], object]
    only: tuple[str, ...] = ()
    level: str = "fail"
    sample: bool = False
