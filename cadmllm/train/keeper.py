"""What of a stage is kept: its saves, its finished checkpoint, its result; and who is told on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.errors import CadmllmError, Exit
from cadmllm.train import contents
from cadmllm.train.checkpoint import Snapshot, finish_stage, retire, save_step
from cadmllm.train.disk import Writing

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.train.curriculum import Stage
    from cadmllm.train.guards import Interrupts
    from cadmllm.train.metrics import Metrics
    from cadmllm.train.session import Session
    from cadmllm.train.telemetry import Wandb
    from cadmllm.train.validate import Sampler, Validator


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


@dataclass(slots=True)
class Told:
    """Whom a stage tells, and who may ask it to stop.

    Attributes:
        console, metrics, wandb: where it reports to.
        stop: Ctrl-C and SIGTERM.
        validator: answers held-out prompts at the stage's end.
        sampler: answers some while it trains.
        origins: where each setting came from, for the checkpoints.
        anew: the stages replace older ones of the same folder.
    """

    console: Console
    metrics: Metrics
    wandb: Wandb
    stop: Interrupts
    validator: Validator | None = None
    sampler: Sampler | None = None
    origins: Mapping[str, object] = field(default_factory=dict)
    anew: bool = False

    @property
    def exit_code(self) -> Exit:
        """130 after Ctrl-C, 75 after SIGTERM, also when it reached another process of the run."""
        return self.stop.exit_code if self.stop.asked is not None else Exit.RESUMABLE


class Keeper:
    """The saves of one stage and what becomes of it. With several processes every method is called by all of them.

    Attributes:
        saved: steps of the newest save.
        ended_early: why the stage ends before its last planned step; '' where it does not.
    """

    def __init__(self, session: Session, told: Told) -> None:
        self.session, self.told = session, told
        self.saved = session.begin
        # a stage that was killed between its last step and its end has nothing left to train
        patience = session.companions.patience
        self.ended_early = patience.reason() if patience.spent else ""

    def save(self, step: int) -> Path | None:
        """A resumable save after `step` steps, which only the main process writes and has the folder of.

        None also when the disk is full and the run was asked to stop: the save before it stays, and `saved` says which it is.

        Raises:
            CadmllmError: E607 when it cannot be written for another reason.
        """
        s, console, world = self.session, self.told.console, self.session.world
        whole = self._snapshot(step, self.figures() | {"val_loss": {}, "judged": {}}, training=True)
        keep = s.settings.train.save_total_limit

        def write() -> Path:
            idle = (lambda: None, lambda: False, console, self._stopped)
            Writing("metrics.jsonl", s.settings.run.dir, 0, *idle).run(self.told.metrics.sync)
            return save_step(s.stage.folder, whole, keep, console, self._stopped)

        try:
            folder = world.on_main(write)
        except CadmllmError as error:
            if error.code != "E607" or not world.agree(self._stopped()):
                raise
            console.warn(f"{error.code} {error.message}")
            return None
        self.saved = step
        return folder

    def finish(self, step: int, val_loss: dict[str, float], judged: dict[str, float], last: Path | None) -> None:
        """Make the stage's folder a complete checkpoint; `last`, the save of the same weights, then goes.

        Raises:
            CadmllmError: E607.
        """
        s = self.session
        figures = self.figures() | {"val_loss": val_loss, "judged": judged, "finished": True}
        whole = self._snapshot(step, figures, training=False)
        s.world.on_main(lambda: finish_stage(s.stage.folder, whole, self.told.console, self._stopped))
        if last is not None:
            retire(s.stage.folder, last, self.told.console)

    def figures(self) -> dict[str, Any]:
        """What is known of the stage so far, as `contents.metadata` takes it."""
        figures = self.told.metrics.figures(self.session.stage.number)
        kept = {name: value for name, value in figures.items() if name not in ("steps", "mix")}
        more = {"shown": figures["mix"], "baseline": self.session.companions.baseline, "ended_early": self.ended_early}
        return kept | more

    def _snapshot(self, step: int, figures: dict[str, Any], *, training: bool) -> Snapshot:
        s = self.session
        options = {"states": s.companions.state(), "origins": self.told.origins, "full": s.world.kept}
        return contents.snapshot(s, contents.metadata(s, step, figures), step, training=training, **options)

    def _stopped(self) -> bool:
        return self.told.stop.asked is not None


def summary(
    stage: Stage,
    metrics: Metrics,
    finished: bool,
    val_loss: dict[str, float] | None = None,
    judged: dict[str, float] | None = None,
) -> StageResult:
    """What is known of a stage from its metrics."""
    figures = metrics.figures(stage.number)
    begin, end = figures["loss_begin"], figures["loss_end"]
    return StageResult(
        stage.number, stage.name, stage.folder, figures["steps"], begin, end, finished, val_loss or {}, judged or {}
    )


def figures_of(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Held-out loss and judged answers of a finished stage, as its folder has them; nothing of what cannot be read."""
    try:
        meta = json.loads((folder / "training_metadata.json").read_text(encoding="utf-8"))
        return dict(meta["val_loss"]), dict(meta["judged"])
    except (OSError, ValueError, KeyError, TypeError):  # they are shown, nothing depends on them
        return {}, {}
