"""What the proofs share: the stage as training opens it, in a temporary folder, and what one proof has found out for another."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from cadmllm.errors import CadmllmError
from cadmllm.models.backbone import pick_device
from cadmllm.models.stages import is_complete, stage_folder
from cadmllm.train.cached import open_features
from cadmllm.train.checkpoint import newest_save
from cadmllm.train.curriculum import Start, plan_stages, starting_point
from cadmllm.train.launch import Launch
from cadmllm.train.session import Session, open_session, resume_session
from cadmllm.train.world import World

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.layout import DataSet
    from cadmllm.settings import Settings
    from cadmllm.train.cached import Cached

T = TypeVar("T")
LEAST_SHARE = 0.01  # of the peak rate that a step of a proof has at least: the cosine of a very short run may end at zero


@dataclass(frozen=True, slots=True)
class Intent:
    """How the run will be started."""

    resume: bool = False
    from_scratch: bool = False


class Bench:
    """A stage that is put to the proof.

    Args:
        settings: of the run.
        numbers: the stages that will be trained; the latest is examined, which shows everything.
        dataset: the run's.
        folder: temporary; everything is written there.
        console: warnings of training are shown there.
        intent: how the run will be started.
        say: told what is being done now.

    Attributes:
        asked: the run's settings; `settings` are the same but for `run.dir` and wandb, which is off.
        stages: that will be trained, as planned in the run's own folder.
        stage: the one that is examined, its folder in the temporary one.
        start: where its weights come from.
        measured: what goes into the plan, under 'measured'.
    """

    def __init__(
        self,
        settings: Settings,
        numbers: Sequence[int],
        dataset: DataSet,
        folder: Path,
        console: Console,
        intent: Intent | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.asked, self.dataset, self.console, self.say = settings, dataset, console, say
        self.intent = intent or Intent()
        own = {"run": settings.run.model_copy(update={"dir": folder}), "wandb": settings.wandb.model_copy(update={"mode": "off"})}
        self.settings = settings.model_copy(update=own)
        self.stages = plan_stages(settings, numbers)
        self.stage = replace(self.stages[-1], folder=stage_folder(folder, self.stages[-1].number))
        self.start = self._start()
        self.device = pick_device(settings)
        self.measured: dict[str, Any] = {"stage": self.stage.number, "device": str(self.device)}
        self._session: Session | None = None
        self._known: dict[str, object] = {}

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made at its first use and kept for the proofs that come after; so is the error that it raises."""
        if name not in self._known:
            try:
                self._known[name] = make()
            except CadmllmError as error:
                self._known[name] = error.with_traceback(None)  # it would hold on to the model
        found = self._known[name]
        if isinstance(found, CadmllmError):
            raise found
        return cast(T, found)

    def _start(self) -> Start:
        """The run's own starting point, where it is there already; else the base model."""
        own = self.stages[-1]
        if self.intent.resume and (save := newest_save(own.folder, self.console)) is not None:
            return Start(save.folder, "the newest save of the stage")
        try:
            start = starting_point(self.asked, self.stages, len(self.stages) - 1, self.intent.from_scratch)
        except CadmllmError as error:
            if error.code != "E601":
                raise
            return Start(None, "the base model: the checkpoint of the stage before is missing")
        if start.checkpoint is not None and not is_complete(start.checkpoint):
            return Start(None, "the base model: the stage before is not trained yet")
        return start

    @property
    def session(self) -> Session:
        """The stage, ready for its first step."""
        if self._session is None:
            self._session = self.once("session", self._opened)
            del self._known["session"]  # it is let go when another takes its place
        return self._session

    def _opened(self) -> Session:
        self.say("loading the model")
        return open_session(self.settings, self.stage, self.start, self.dataset, self.console, self.cached, self._world())

    @property
    def cached(self) -> Cached | None:
        """Cached features, where the settings name some."""
        return self.once("features", lambda: open_features(self.settings, [self.stage], self.dataset, self.console))

    def _world(self) -> World:
        return World(Launch(), self.device)

    def renewed(self) -> Session:
        """A fresh model that goes on from the newest save in the temporary folder; the one before is let go first.

        Raises:
            CadmllmError: E604 and others of `resume_session`.
        """
        self.release()
        self.say("loading the model again")
        self._session = resume_session(self.settings, self.stage, self.dataset, self.console, self.cached, self._world())
        return self._session

    def release(self) -> None:
        """Give the model's memory back."""
        self._session = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def set_rates(self, step: int) -> float:
        """The run's own rates of a step, which is one that learns."""
        from cadmllm.train.optim import set_rates

        session = self.session
        share = max(session.lr_share(step), LEAST_SHARE)
        return set_rates(session.engine.optimizer, session.infos, share, session.companions.rates.factors())

    def seed(self, step: int) -> tuple[int, int, int]:
        """What torch's random numbers in a step depend on."""
        return (self.settings.train.seed, self.stage.number, step)

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(slots=True)
class Taken:
    """Two optimizer steps of the run at its worst micro-batch, and one at a shorter one.

    Attributes:
        steps: optimizer steps done.
        tokens: computed in the largest micro-batch, and in the shorter one (0: there is none).
        documents, supervised, clouds, views, viewed: samples, supervised tokens, clouds, views and samples that show some of the
            worst micro-batch.
        combinations: what its samples show, in all.
        alone: it is the only micro-batch of its steps, so that no gradients stand there when it begins.
        peak, shorter: bytes at the most; reserved: what the allocator held (0 on a CPU).
        losses: of the steps.
        before, after: checksums of every parameter and buffer, before the first and after the second update.
        gradients: largest magnitude of each trained tensor's gradient, in each of the two steps.
        dead: what `train.flow` says of them.
        unjudged: parts of which no step could tell.
        squeezed, fits: what the micro-batch was cut down to as memory ran out, in words and as a setting; '' where it was not.
    """

    steps: int = 0
    tokens: tuple[int, int] = (0, 0)
    documents: int = 0
    supervised: int = 0
    clouds: int = 0
    views: int = 0
    viewed: int = 0
    combinations: tuple[str, ...] = ()
    alone: bool = True
    peak: int = 0
    shorter: int = 0
    reserved: int = 0
    losses: list[float] = field(default_factory=list)
    before: dict[str, tuple[int, int]] = field(default_factory=dict)
    after: dict[str, tuple[int, int]] = field(default_factory=dict)
    gradients: list[dict[str, float]] = field(default_factory=list)
    dead: CadmllmError | None = None
    unjudged: tuple[str, ...] = ()
    squeezed: str = ""
    fits: str = ""
