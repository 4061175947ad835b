"""One stage, step by step: every step told, every so often validated and saved, and always able to stop."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from cadmllm.errors import CadmllmError
from cadmllm.models.stages import STAGE_NAMES
from cadmllm.train import report
from cadmllm.train.adaptive import relative_norms
from cadmllm.train.checkpoint import sweep
from cadmllm.train.keeper import Keeper, StageResult, Told, summary
from cadmllm.train.progress import Board
from cadmllm.train.telemetry import wandb_values
from cadmllm.train.validate import HeldOut
from cadmllm.train.watch import GpuWatch
from cadmllm.train.windows import iterate

if TYPE_CHECKING:
    from cadmllm.corpus.layout import Problem
    from cadmllm.train.session import Session
    from cadmllm.train.step import StepReport
    from cadmllm.train.vigil import Notice
    from cadmllm.train.windows import Window

SAMPLES = "samples"  # folder of a run: pictures of what the model answered
KEPT_ON = ("E603", "E606", "E609", "E614")  # errors that come before an update: the steps until then are worth a save


class StageRun:
    """The steps of one stage, from the session's place to its end or to an interruption."""

    def __init__(self, session: Session, told: Told) -> None:
        self.session, self.told, self.world = session, told, session.world
        self.console, self.metrics, self.wandb = told.console, told.metrics, told.wandb
        store = session.cached.store if session.cached else None
        world = session.world if session.world.size > 1 else None
        s = session
        self.held_out = HeldOut(s.dataset, s.data.val_ids, s.stage, s.settings, s.collate, told.console, store, world)
        self.unread: list[Problem] = []
        self.label = f"stage {session.stage.number} of {len(STAGE_NAMES)}"
        self.keeper = Keeper(session, told)

    def run(self) -> StageResult:
        """Train to the end of the stage, or save and return when asked to stop."""
        s = self.session
        self.world.on_main(self._prepare)
        foreign = self.metrics.rewind(s.stage.number, s.begin)
        if foreign:
            self.console.note(f"{self.metrics.path}: {foreign} lines that were cut off or no records of steps are gone")
        self.wandb.start(self.metrics.count, anew=self.told.anew)
        report.announce(s, self.console)
        if s.engine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(s.engine.device)
        self._baseline()
        train = s.settings.train
        with ExitStack() as stack:
            self.watch = stack.enter_context(GpuWatch(s.engine.device, self.console, train=train))
            mix = self.metrics.figures(s.stage.number)["mix"]
            board = stack.enter_context(Board(self.console, self.label, train.logging_steps, mix))
            pin = s.engine.device.type == "cuda"
            begin = s.windows.total if self.keeper.ended_early else s.begin
            for record, ids in self._steps(iterate(s.windows, begin, train.workers, train.prefetch, pin)):
                self._after(record, ids, board)
                stop = self.world.agree(self.told.stop.asked is not None)
                if self._due(train.save_steps, record) or (stop and self.keeper.saved < record["step"]):
                    with self._aside(board, "saving"):
                        self.keeper.save(record["step"])
                if stop:
                    return self._interrupted()
                if self.keeper.ended_early:
                    break
        return self._finish()

    def _prepare(self) -> None:
        folder = self.session.stage.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"the run folder {folder} cannot be made: {error.strerror}"
            raise CadmllmError("E607", message, "name another one: --set run.dir=FOLDER") from error
        sweep(folder)

    # -- steps ---------------------------------------------------------------------------------------------------------------

    def _steps(self, windows: Iterator[Window]) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Take the steps; the record and the sample ids of each. The steps before one that cannot be taken are saved first."""
        s = self.session
        done = s.begin
        while True:
            begun = time.perf_counter()
            try:
                window = next(windows, None)
            except CadmllmError as error:
                self._keep(error, done)
                raise
            if window is None:
                return
            waited = time.perf_counter() - begun
            lr = s.set_rates(window.step)
            self.unread += window.problems
            mix = self._together(window.mix)
            seed = (s.settings.train.seed, s.stage.number, window.step)
            try:
                step = s.companions.squeeze.step(window.batches, seed, lambda mix=mix: self._inspect(mix))
            except CadmllmError as error:
                self._keep(error, window.step)
                raise
            done = window.step + 1
            record = self._record(window, mix, step, lr, time.perf_counter() - begun, waited)
            self.watch.told(waited / record["seconds"])
            yield record | self.watch.reading(), [i for batch in window.batches for i in batch.ids]

    def _keep(self, error: CadmllmError, done: int) -> None:
        """Save the steps before one that cannot be taken. A loader is lost on one process alone, which cannot save by itself."""
        alone = self.world.size == 1 or error.code != "E614"
        if error.code in KEPT_ON and alone and done > self.keeper.saved:
            self.keeper.save(done)
            self.console.note(f"the {done} steps before it are saved")

    def _together(self, mix: Counter[str]) -> Counter[str]:
        """What all processes show in a step."""
        return sum((Counter(theirs) for theirs in self.world.gather(dict(mix))), Counter())

    def _inspect(self, mix: Counter[str]) -> None:
        """All gradients of a step are there, and nothing is updated yet."""
        s = self.session
        if not s.companions.flow.done:
            s.companions.flow.look(mix)
            if s.companions.flow.done and (unjudged := s.companions.flow.unjudged):
                self.console.note(f"{self.label}: no step has shown what would teach {', '.join(unjudged)} so far")
        if s.companions.rates.enabled:
            s.companions.rates.update(relative_norms(s.engine.optimizer, s.infos))

    def _record(
        self, window: Window, mix: Counter[str], step: StepReport, lr: float, seconds: float, waited: float
    ) -> dict[str, Any]:
        s = self.session
        fell_back, lost = self.world.sum([window.fell_back, window.lost])
        samples = sum(mix.values())
        record = {
            "stage": s.stage.number,
            "step": window.step + 1,
            "total_steps": s.windows.total,
            "epoch": (window.step + 1) / s.windows.steps_per_epoch,
            "loss": step.loss,
            "lr": lr,
            "grad_norm": step.grad_norm if math.isfinite(step.grad_norm) else None,
            "updated": step.updated,
            "tokens_per_s": step.tokens / seconds,
            "samples_per_s": samples / seconds,
            "supervised": step.supervised,
            "tokens": step.tokens,
            "computed": step.computed,
            "micro_batches": step.micro_batches,
            "samples": samples,
            "mix": dict(sorted(mix.items())),
            "fell_back": int(fell_back),
            "lost": int(lost),
            "seconds": seconds,
            "waited": waited,
            "rates": s.rates(),
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        if s.engine.device.type == "cuda":
            record["peak_gib"] = torch.cuda.max_memory_allocated(s.engine.device) / 2**30
            record["reserved_gib"] = torch.cuda.max_memory_reserved(s.engine.device) / 2**30
        return record

    def _after(self, record: dict[str, Any], ids: list[str], board: Board) -> None:
        """Validate, sample, notice and tell what a step gives occasion to."""
        s, train = self.session, self.session.settings.train
        last = record["step"] >= s.windows.total
        found = s.companions.vigil.step(record | {"ids": ids})
        if self._due(train.val_steps, record) and not last:
            with self._aside(board, "validating"):
                record["val_loss"] = self.held_out.loss(s.engine, s.companions.squeeze.room)
            found += self._validated(record["step"], record["val_loss"])
        if self._due(train.sample_steps, record) and self.told.sampler is not None:
            with self._aside(board, "answering prompts"):
                record["samples_judged"] = self._sample(record["step"])
        if found:
            record["notices"] = [notice.kind for notice in found]
        self.metrics.write(record)
        board.step(record)
        for notice in found:
            self._notice(notice, board)
        if self._due(train.logging_steps, record) or "val_loss" in record or "samples_judged" in record:
            self.wandb.log(wandb_values(record), self.metrics.count)
        if record["step"] % s.windows.steps_per_epoch == 0:
            values = {f"epoch/{s.stage.name}_loss": self.metrics.epoch_loss(s.stage.number), "train/epoch": record["epoch"]}
            self.wandb.log(values, self.metrics.count)

    @contextmanager
    def _aside(self, board: Board, what: str) -> Generator[None]:
        """Around what keeps the next step waiting."""
        board.doing(what)
        with self.watch.paused():
            yield
        board.doing()

    @staticmethod
    def _due(every: int, record: dict[str, Any]) -> bool:
        return every > 0 and record["step"] % every == 0

    def _notice(self, notice: Notice, board: Board | None) -> None:
        self.console.warn(f"{notice.message} ({notice.remedy})" if notice.remedy else notice.message)
        if board is not None:
            board.notice(notice.message)

    # -- validation ----------------------------------------------------------------------------------------------------------

    def _baseline(self) -> None:
        """Held-out loss before the first step of stages 2 and 3: what later figures are compared with."""
        s = self.session
        if s.begin > 0 or s.stage.number == 1:
            return
        s.companions.baseline = self.held_out.loss(s.engine, s.companions.squeeze.room)
        for notice in s.companions.vigil.validated(0, s.companions.baseline):
            self._notice(notice, None)
        if s.companions.baseline:
            losses = ", ".join(f"{name} {loss:.4f}" for name, loss in s.companions.baseline.items())
            self.console.note(f"  held out   before the first step: {losses}")

    def _validated(self, step: int, losses: dict[str, float]) -> list[Notice]:
        s = self.session
        if losses and s.companions.patience.validated(losses["all"]):
            self.keeper.ended_early = s.companions.patience.reason()
            why = f"{self.keeper.ended_early} (stages.{s.stage.number}.patience)"
            self.console.note(f"{self.label} ends after step {step} of {s.windows.total}: {why}")
        return s.companions.vigil.validated(step, losses)

    def _sample(self, step: int) -> dict[str, float]:
        """Answer some held-out prompts, on the main process; the share of valid solids, by combination."""
        s, sampler = self.session, self.told.sampler
        assert sampler is not None
        if s.engine.replica is not None and s.engine.replica.sharded:
            if step == s.settings.train.sample_steps:
                self.console.note(
                    "train.sample_steps: a model in shards (train.distributed=fsdp) answers no prompts while it trains"
                )
            return {}
        sampled = self.world.on_main(lambda: sampler(s.model, s.stage, step, s.settings.run.dir / SAMPLES))
        s.model.train()
        if sampled is None:
            return {}
        self.wandb.pictures(sampled.pictures, self.metrics.count + 1)  # the step's record is not written yet
        for picture in sampled.pictures:
            self.console.note(f"{self.label}: answers after step {step}: {picture}")
        return sampled.shares

    # -- the end -------------------------------------------------------------------------------------------------------------

    def _interrupted(self) -> StageResult:
        s = self.session
        asked = self.told.stop.asked.name if self.told.stop.asked else "asked to stop"
        done = self.metrics.figures(s.stage.number)["steps"]
        state = "everything is saved" if self.keeper.saved == done else f"saved up to step {self.keeper.saved}"
        self.console.note(f"{asked}: stopped after step {done} of {s.windows.total}, {state}")
        return summary(s.stage, self.metrics, False)

    def _finish(self) -> StageResult:
        s = self.session
        done = self.metrics.figures(s.stage.number)["steps"]
        # validation and the judge take a while and may fail: the last steps must not be lost with them
        last = None
        if self.keeper.saved < done:
            last = self.keeper.save(done)
            if self.keeper.saved < done:  # the disk is full and the run was asked to stop
                return self._interrupted()
        val_loss = self.held_out.loss(s.engine, s.companions.squeeze.room)
        for notice in s.companions.vigil.validated(done, val_loss):
            self._notice(notice, None)
        judged = self._judged()
        s.model.train()
        self.wandb.log({f"val/{name}": loss for name, loss in val_loss.items()}, self.metrics.count)
        self.wandb.log({f"solids/{name}": share for name, share in judged.items()}, self.metrics.count)
        self.keeper.finish(done, val_loss, judged, last)
        result = summary(s.stage, self.metrics, True, val_loss, judged)
        self._say_unread()
        held_out = f", held out {val_loss['all']:.4f}" if val_loss else ""
        losses = f"loss {result.loss_begin:.4f} -> {result.loss_end:.4f}{held_out}"
        self.console.note(f"{self.label} is done: {losses}; checkpoint {s.stage.folder}")
        return result

    def _judged(self) -> dict[str, float]:
        s, validator = self.session, self.told.validator
        if validator is None:
            return {}
        if s.engine.replica is not None and s.engine.replica.sharded:
            self.console.note(
                "train.judge_samples: a model in shards (train.distributed=fsdp) answers no prompts while it trains"
            )
            return {}
        return self.world.on_main(lambda: validator(s.model, s.stage)) or {}

    def _say_unread(self) -> None:
        """What was there when the data was last looked at, and could not be read when its turn came."""
        found = list({(problem.code, problem.where): problem for problem in self.unread}.values())
        for problem in found[:3]:
            self.console.warn(f"left out: {problem.code} {problem.message}")
        if len(found) > 3:
            self.console.warn(f"... and {len(found) - 3} more (cadmllm data check {self.session.settings.data.root})")
