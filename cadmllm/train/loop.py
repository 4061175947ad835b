"""Training: stages one after another, each step by step, every step told and every save resumable."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cadmllm.errors import CadmllmError, Exit
from cadmllm.models.stages import STAGE_NAMES, STEPS, is_complete
from cadmllm.settings import Settings
from cadmllm.train import report
from cadmllm.train.cached import open_features
from cadmllm.train.checkpoint import discard, finish_stage, save_step, sweep
from cadmllm.train.curriculum import Stage, Start, plan_stages, starting_point
from cadmllm.train.guards import Interrupts, check_run_folder, has_saves
from cadmllm.train.progress import Board
from cadmllm.train.session import Session, open_session, resume_session, stage_data
from cadmllm.train.step import StepReport, train_step
from cadmllm.train.telemetry import Metrics, Wandb, read_metrics
from cadmllm.train.validate import Validator, validation_loss
from cadmllm.train.windows import Window, Windows, iterate

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.layout import DataSet, Problem


@dataclass(frozen=True, slots=True)
class StageResult:
    """One stage of a run.

    Attributes:
        number, name, folder: which, and where its checkpoint is.
        steps: optimizer steps done in it so far (by earlier runs, too).
        loss_begin, loss_end: mean loss of its first and last steps (a tenth of them, 10 at most).
        finished: the folder is a complete checkpoint.
        val_loss: held-out loss at its end, by combination.
        judged: what the validator found.
    """

    number: int
    name: str
    folder: Path
    steps: int
    loss_begin: float
    loss_end: float
    finished: bool
    val_loss: dict[str, float] = field(default_factory=dict)
    judged: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What `train` did: its stages, and 0, 130 or 75 (stopped by Ctrl-C or SIGTERM; everything is saved)."""

    stages: list[StageResult]
    exit_code: Exit
    metrics: Path


def train(
    settings: Settings,
    stages: Sequence[int],
    dataset: DataSet,
    console: Console,
    resume: bool = False,
    validator: Validator | None = None,
    *,
    from_scratch: bool = False,
    overwrite: bool = False,
) -> RunResult:
    """Train stages of the curriculum, each from the checkpoint of the one before.

    Args:
        settings: all of them.
        stages: numbers, in any order; those with 0 epochs are skipped.
        dataset: where samples are read.
        console: where progress is shown.
        resume: continue what was interrupted in `run.dir`; stages that are complete there are not trained again.
        validator: samples and judges programs at each stage's end (the command passes it in: no CAD kernel here).
        from_scratch: a first stage 2 or 3 may start from the base model.
        overwrite: throw away what `run.dir` holds of these stages.

    Raises:
        CadmllmError: E601 (no predecessor), E603, E606 (a step cannot be made), E604, E605, E607 (saves), E406, E5xx.
    """
    planned = plan_stages(settings, stages)
    check_run_folder(planned, resume, overwrite)
    cached = open_features(settings, planned, dataset, console)
    metrics = Metrics(settings.run.dir / "metrics.jsonl")
    wandb = Wandb(settings, planned[0], console)
    results: list[StageResult] = []
    try:
        with Interrupts() as stop:
            for index, stage in enumerate(planned):
                if resume and is_complete(stage.folder):
                    console.note(f"stage {stage.number} is complete in {stage.folder}: going on")
                    results.append(_summary(stage, metrics, True))
                    continue
                if resume and has_saves(stage):
                    session = resume_session(settings, stage, dataset, console, cached)
                else:
                    start = starting_point(settings, planned, index, from_scratch)
                    session = open_session(settings, stage, start, dataset, console, cached)
                if overwrite:
                    discard(stage.folder)
                results.append(StageRun(session, console, metrics, wandb, stop, validator).run())
                del session
                if stop.asked:
                    break
    finally:
        metrics.close()
        wandb.close()
    done = len(results) == len(planned) and all(result.finished for result in results)
    return RunResult(results, Exit.DONE if done else stop.exit_code, metrics.path)


def dry_run(
    settings: Settings,
    stages: Sequence[int],
    dataset: DataSet,
    console: Console,
    *,
    from_scratch: bool,
    resume: bool,
    overwrite: bool,
) -> list[dict[str, Any]]:
    """Print what `train` would do, without loading a model or writing anything. Raises what `train` would raise before that.

    Returns:
        A row a stage: {'stage', 'folder', 'starts_from', 'samples', 'left_out', 'held_out', 'steps'}.
    """
    planned = plan_stages(settings, stages)
    check_run_folder(planned, resume, overwrite)
    open_features(settings, planned, dataset, console)
    rows = []
    for index, stage in enumerate(planned):
        if resume and is_complete(stage.folder):
            console.print(f"stage {stage.number} is complete in {stage.folder}")
            continue
        if resume and has_saves(stage):
            start = Start(stage.folder / STEPS, "its newest good save")
        else:
            start = starting_point(settings, planned, index, from_scratch)
        data = stage_data(settings, stage, dataset)
        windows = Windows(dataset, data.train_ids, stage, settings, _no_collation)
        for line in report.plan_lines(settings, stage, start, data, windows):
            console.print(line)
        for text in report.warnings(settings, stage, data, windows):
            console.warn(text)
        row = {"stage": stage.number, "folder": stage.folder, "starts_from": start.checkpoint, "steps": len(windows)}
        counts = {"samples": len(data.train_ids), "left_out": len(data.left_out), "held_out": len(data.val_ids)}
        rows.append(row | counts)
    return rows


class StageRun:
    """The steps of one stage, from the session's place to its end or to an interruption."""

    def __init__(
        self,
        session: Session,
        console: Console,
        metrics: Metrics,
        wandb: Wandb,
        stop: Interrupts,
        validator: Validator | None,
    ) -> None:
        self.session, self.console, self.metrics, self.wandb = session, console, metrics, wandb
        self.stop, self.validator = stop, validator
        self.unread: list[Problem] = []
        self.label = f"stage {session.stage.number} of {len(STAGE_NAMES)}"

    def run(self) -> StageResult:
        """Train to the end of the stage, or save and return when asked to stop."""
        session, settings = self.session, self.session.settings
        _make_folder(session.stage.folder)
        sweep(session.stage.folder)
        self.metrics.rewind(session.stage.number, session.begin)
        self.wandb.start()
        report.announce(session, self.console)
        saved = session.begin
        with Board(self.console, self.label, settings.train.logging_steps) as board:
            clock = time.perf_counter()
            for window in iterate(session.windows, session.begin, settings.train.workers):
                lr = session.set_rates(window.step)
                self.unread += window.problems
                step = train_step(session.engine, window.batches)
                now = time.perf_counter()
                record = self._record(window, step, lr, now - clock)
                clock = now
                if self._due(settings.train.val_steps, record) and record["step"] < session.windows.total:
                    record["val_loss"] = self._validate()
                    clock = time.perf_counter()
                self._tell(record, board)
                if self._due(settings.train.save_steps, record) or (self.stop.asked and saved < record["step"]):
                    self._save(record["step"])
                    saved = record["step"]
                if self.stop.asked:
                    return self._interrupted(saved)
        return self._finish(saved)

    @staticmethod
    def _due(every: int, record: dict[str, Any]) -> bool:
        return every > 0 and record["step"] % every == 0

    def _record(self, window: Window, step: StepReport, lr: float, seconds: float) -> dict[str, Any]:
        samples = sum(window.mix.values())
        record = {
            "stage": self.session.stage.number,
            "step": window.step + 1,
            "total_steps": self.session.windows.total,
            "epoch": (window.step + 1) / self.session.windows.steps_per_epoch,
            "loss": step.loss,
            "lr": lr,
            "grad_norm": step.grad_norm if math.isfinite(step.grad_norm) else None,
            "updated": step.updated,
            "tokens_per_s": step.tokens / seconds,
            "samples_per_s": samples / seconds,
            "supervised": step.supervised,
            "tokens": step.tokens,
            "samples": samples,
            "mix": dict(sorted(window.mix.items())),
            "fell_back": window.fell_back,
            "lost": window.lost,
            "seconds": seconds,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        if self.session.engine.device.type == "cuda":
            record["peak_gib"] = torch.cuda.max_memory_allocated(self.session.engine.device) / 2**30
        return record

    def _tell(self, record: dict[str, Any], board: Board) -> None:
        self.metrics.write(record)
        board.step(record)
        if self._due(self.session.settings.train.logging_steps, record) or "val_loss" in record:
            names = {"loss": "loss", "learning_rate": "lr", "stage": "stage", "step": "step", "epoch": "epoch"}
            values = {f"train/{name}": record[key] for name, key in names.items()}
            values |= {f"train/{key}": record[key] for key in ("grad_norm", "tokens_per_s") if record[key] is not None}
            values |= {f"val/{name}": loss for name, loss in record.get("val_loss", {}).items()}
            self.wandb.log(values)
        if record["step"] % self.session.windows.steps_per_epoch == 0:
            self._tell_epoch(round(record["epoch"]))

    def _tell_epoch(self, epoch: int) -> None:
        per_epoch = self.session.windows.steps_per_epoch
        losses = [r["loss"] for r in _of_stage(self.metrics.path, self.session.stage.number)][-per_epoch:]
        mean = math.fsum(losses) / len(losses)
        self.wandb.log({f"epoch/{self.session.stage.name}_loss": mean, "train/epoch": epoch})

    def _validate(self) -> dict[str, float]:
        s = self.session
        store = s.cached.store if s.cached else None
        return validation_loss(s.engine, s.dataset, s.data.val_ids, s.stage, s.settings, s.collate, store)

    def _save(self, step: int) -> Path:
        self.metrics.sync()
        s = self.session
        figures = _figures(_of_stage(self.metrics.path, s.stage.number))
        meta = report.metadata(s, step, figures)
        keep = s.settings.train.save_total_limit
        return save_step(s.stage.folder, s.model, meta, s.place(step), s.engine.optimizer, s.infos, keep)

    def _interrupted(self, step: int) -> StageResult:
        s = self.session
        asked = self.stop.asked.name if self.stop.asked else "asked to stop"
        self.console.note(f"{asked}: stopped after step {step} of {s.windows.total}, everything is saved")
        return _summary(s.stage, self.metrics, False)

    def _say_unread(self) -> None:
        """What was there when the data was last looked at, and could not be read when its turn came."""
        found = list({(problem.code, problem.where): problem for problem in self.unread}.values())
        for problem in found[:3]:
            self.console.warn(f"left out: {problem.code} {problem.message}")
        if len(found) > 3:
            self.console.warn(f"... and {len(found) - 3} more (cadmllm data check {self.session.settings.data.root})")

    def _finish(self, saved: int) -> StageResult:
        s = self.session
        # validation and the judge take a while and may fail: the last steps must not be lost with them
        last = self._save(s.windows.total) if saved < s.windows.total else None
        val_loss = self._validate()
        judged = self.validator(s.model, s.stage) if self.validator else {}
        s.model.train()
        self.wandb.log({f"val/{name}": loss for name, loss in val_loss.items()})
        self.wandb.log({f"solids/{name}": share for name, share in judged.items()})
        figures = _figures(_of_stage(self.metrics.path, s.stage.number)) | {"val_loss": val_loss, "judged": judged}
        meta = report.metadata(s, s.windows.total, figures)
        texts = {
            "training_metadata.json": json.dumps(meta, indent=1) + "\n",
            "settings.json": report.resolved_settings(s.settings),
            "README.md": report.model_card(s, meta),
        }
        finish_stage(s.stage.folder, s.model, meta, texts)
        if last is not None:
            shutil.rmtree(last)  # the stage folder holds the same weights now
        result = _summary(s.stage, self.metrics, True, val_loss, judged)
        self._say_unread()
        held_out = f", held out {val_loss['all']:.4f}" if val_loss else ""
        self.console.note(
            f"{self.label} is done: loss {result.loss_begin:.4f} -> {result.loss_end:.4f}{held_out}; checkpoint {s.stage.folder}"
        )
        return result


def _of_stage(path: Path, stage: int) -> list[dict[str, Any]]:
    return [record for record in read_metrics(path) if record["stage"] == stage]


def _figures(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean loss of the first and last steps (a tenth of them, at least 1, at most 10), and the time they took."""
    losses = [record["loss"] for record in records]
    count = min(10, max(1, len(losses) // 10))
    return {
        "loss_begin": math.fsum(losses[:count]) / count,
        "loss_end": math.fsum(losses[-count:]) / count,
        "seconds": math.fsum(record["seconds"] for record in records),
        "supervised_tokens": sum(record["supervised"] for record in records),
    }


def _summary(
    stage: Stage,
    metrics: Metrics,
    finished: bool,
    val_loss: dict[str, float] | None = None,
    judged: dict[str, float] | None = None,
) -> StageResult:
    records = _of_stage(metrics.path, stage.number)
    figures = _figures(records) if records else {"loss_begin": math.nan, "loss_end": math.nan}
    steps = max((record["step"] for record in records), default=0)
    begin, end = figures["loss_begin"], figures["loss_end"]
    return StageResult(stage.number, stage.name, stage.folder, steps, begin, end, finished, val_loss or {}, judged or {})


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CadmllmError(
            "E607", f"the run folder {folder} cannot be made: {error.strerror}", "name another one: --set run.dir=FOLDER"
        ) from error


def _no_collation(_samples: object) -> Any:
    raise AssertionError("a dry run loads no sample")
