"""What a run tells: `metrics.jsonl` with a line a step, and Weights & Biases if asked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from cadmllm.settings import Settings
from cadmllm.train.curriculum import Stage

if TYPE_CHECKING:
    from cadmllm.console import Console


class Metrics:
    """`metrics.jsonl`: one JSON object a step, each step of a stage once, however often the run was killed.

    Args:
        path: the file; it is made by the first `rewind`, which comes before the first `write`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def rewind(self, stage: int, step: int) -> None:
        """Drop the lines of `stage` beyond `step` (they will be written again) and what a crash cut off, atomically."""
        self.close()
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if _keep(line, stage, step)]
        aside = self.path.with_name(f".{self.path.name}")
        with aside.open("w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, object]) -> None:
        """Append one line."""
        assert self._file is not None
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Onto the disk: done before each save, so that a save is never ahead of its metrics."""
        assert self._file is not None
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, a torn last line left out."""
    records = []
    if not path.exists():
        return records
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def _keep(line: str, stage: int, step: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return not (record["stage"] == stage and record["step"] > step)


def run_name(settings: Settings, stage: Stage) -> str:
    """`Qwen3-8B-lora-r32-lr2e-04-bs64-ep1`: model, LoRA, rate, effective batch and epochs of the (first) stage."""
    name = settings.model.llm.rstrip("/").rsplit("/", 1)[-1]
    lora = f"lora-r{settings.lora.r}" if settings.lora.enabled else "full"
    batch = settings.train.batch_size * settings.train.accumulation
    return f"{name}-{lora}-lr{stage.lr:.0e}-bs{batch}-ep{stage.epochs}"


class Wandb:
    """Weights & Biases, if the settings want it. It never stops a run: the first failure is said and ends it.

    Args:
        settings: `wandb.*`, and all of them as the run's configuration.
        stage: the first stage, which names the run.
        console: where troubles are said.
    """

    def __init__(self, settings: Settings, stage: Stage, console: Console) -> None:
        self._console, self._settings, self._stage = console, settings, stage
        self._run: Any = None
        self._wanted = settings.wandb.mode != "off"

    def start(self) -> None:
        """Begin the run; later calls do nothing."""
        if self._wanted:
            self._wanted = False
            self._guarded("start", lambda: self._start(self._settings, self._stage))

    def _start(self, settings: Settings, stage: Stage) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        mode: Literal["online", "offline"] = "offline"
        if settings.wandb.mode == "online" and wandb.api.api_key:
            mode = "online"
        elif settings.wandb.mode == "online":
            self._console.warn(f"wandb: not logged in, so this run is logged offline in {settings.run.dir}/wandb (wandb login)")
        self._run = wandb.init(
            mode=mode,
            project=settings.wandb.project,
            entity=settings.wandb.entity,
            name=settings.wandb.run_name or run_name(settings, stage),
            id=_run_id(settings.run.dir),
            resume="allow" if mode == "online" else None,
            dir=str(settings.run.dir),
            config=settings.model_dump(mode="json"),
        )

    def log(self, values: Mapping[str, float | int]) -> None:
        """Log values under the guide's names ('train/loss', 'epoch/stage1_text_loss', ...)."""
        if self._run is not None:
            self._guarded("log", lambda: self._run.log(dict(values)))

    def close(self) -> None:
        """End the run."""
        if self._run is not None:
            self._guarded("finish", self._run.finish)

    def _guarded(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # a service outside this process: whatever it raises must not cost a training run
            self._run = None
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self._console.warn(f"wandb could not {what} ({reason}): the run goes on without it, metrics.jsonl has everything")


def _run_id(run_dir: Path) -> str:
    """The id of this folder's wandb run, so that a resumed run continues its curves."""
    import secrets

    path = run_dir / "wandb-id"
    if not path.is_file():
        path.write_text(secrets.token_hex(6) + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
