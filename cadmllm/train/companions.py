"""What goes along with a stage from step to step and into every save: everything that remembers, beside model and optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cadmllm.train.adaptive import AdaptiveRates
from cadmllm.train.flow import FlowCheck
from cadmllm.train.patience import Patience
from cadmllm.train.squeeze import Squeeze
from cadmllm.train.vigil import Vigil

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.pack import Room
    from cadmllm.settings import Settings
    from cadmllm.train.curriculum import Stage
    from cadmllm.train.optim import GroupInfo
    from cadmllm.train.step import Engine
    from cadmllm.train.world import World


class Companions:
    """The parts of a stage that have a memory.

    Attributes:
        squeeze: takes the steps; smaller micro-batches when memory runs out.
        flow: gradients that should flow, in the first steps.
        vigil: spikes, slow-downs, a loss that does not fall, text-only ability that fades.
        patience: when held-out loss has stopped getting better.
        rates: factors on the projectors' rates.
        baseline: held-out loss before the stage's first step, by combination; {} where it is not taken.
    """

    def __init__(
        self,
        settings: Settings,
        stage: Stage,
        engine: Engine,
        infos: Sequence[GroupInfo],
        world: World,
        room: Room,
        console: Console,
    ) -> None:
        self.squeeze = Squeeze(engine, world, room, console)
        self.flow = FlowCheck(infos, engine.optimizer.param_groups)
        self.vigil = Vigil(settings, stage)
        self.patience = Patience(stage.patience)
        self.rates = AdaptiveRates(settings.train.adaptive_projector_lr)
        self.baseline: dict[str, float] = {}

    def state(self) -> dict[str, Any]:
        """Plain JSON data; `load` takes it."""
        return {
            "squeeze": self.squeeze.state(),
            "flow": self.flow.state(),
            "vigil": self.vigil.state(),
            "patience": self.patience.state(),
            "rates": self.rates.state(),
            "baseline": self.baseline,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a save."""
        for name in ("squeeze", "flow", "vigil", "patience", "rates"):
            getattr(self, name).load(state[name])
        self.baseline = dict(state["baseline"])
