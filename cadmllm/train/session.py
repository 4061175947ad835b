"""Everything a stage needs to take its next step, put together in the order in which it can fail soonest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cadmllm.corpus.batch import Collator
from cadmllm.corpus.fit import longest_target
from cadmllm.errors import CadmllmError
from cadmllm.models.backbone import check_dtype
from cadmllm.models.compiling import compile_layers
from cadmllm.models.fusion import build_model
from cadmllm.models.stages import STEPS, verify
from cadmllm.models.weights import load_model
from cadmllm.settings import Settings
from cadmllm.train.cached import Cached
from cadmllm.train.checkpoint import newest_save
from cadmllm.train.companions import Companions
from cadmllm.train.curriculum import Stage, Start
from cadmllm.train.offload import note as offload_note
from cadmllm.train.optim import GroupInfo, build_optimizer, lr_share, pretrained, set_rates
from cadmllm.train.optim import note as optim_note
from cadmllm.train.sameness import check_fingerprint, fingerprint
from cadmllm.train.state import Place, load_optimizer
from cadmllm.train.step import Engine
from cadmllm.train.windows import Windows, room_of
from cadmllm.train.world import World, open_world

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.layout import DataSet, Problem
    from cadmllm.corpus.roster import Ids
    from cadmllm.models.fusion import CadMLLM


@dataclass(slots=True)
class StageData:
    """What a stage trains on: the usable ids, those left out with their reasons, and the held-out ones."""

    train_ids: Ids
    left_out: list[Problem]
    val_ids: Ids


@dataclass(slots=True)
class Session:
    """A stage, ready for optimizer step `begin` (from 0)."""

    settings: Settings
    stage: Stage
    start: Start
    dataset: DataSet
    data: StageData
    model: CadMLLM
    collate: Collator
    windows: Windows
    engine: Engine
    infos: list[GroupInfo]
    fingerprint: dict[str, object]
    companions: Companions
    world: World
    cached: Cached | None = None
    begin: int = 0
    changed: list[str] = field(default_factory=list)  # settings a resumed run changed that change rounding alone

    def lr_share(self, step: int) -> float:
        """Share of the peak rate at a step (from 0)."""
        train = self.settings.train
        return lr_share(step, self.windows.total, train.warmup_steps, train.min_lr_share)

    def set_rates(self, step: int) -> float:
        """Set every group's rate for a step; returns the language model's."""
        return set_rates(self.engine.optimizer, self.infos, self.lr_share(step), self.companions.rates.factors())

    def rates(self) -> dict[str, float]:
        """The rate of each component, or of its branch, as it was set."""
        groups = zip(self.infos, self.engine.optimizer.param_groups, strict=True)
        return {f"{info.component}.{info.branch}" if info.branch else info.component: group["lr"] for info, group in groups}

    def place(self, step: int) -> Place:
        """What a save after `step` steps records."""
        return {
            "stage": self.stage.number,
            "step": step,
            "total_steps": self.windows.total,
            "fingerprint": self.fingerprint,
            "scaler": dict(self.engine.scaler.state_dict()),
            "companions": self.companions.state(),
        }


def stage_data(settings: Settings, stage: Stage, dataset: DataSet) -> StageData:
    """What the index says of the ids of a stage: a broken or over-long program is known before the first step.

    Raises:
        CadmllmError: E406 when nothing is left to train on.
    """
    train_ids, val_ids = dataset.split()
    longest = longest_target(settings, stage.reached)
    good, bad = dataset.usable(train_ids, longest)
    usable_val, _ = dataset.usable(val_ids[: 4 * settings.train.val_samples], longest)
    if not good:
        codes = Counter(problem.code for problem in bad)
        why = ", ".join(f"{code} x {count}" for code, count in codes.most_common(3)) or "no id has a caption and a program"
        hint = f" (for instance: {bad[0].message})" if bad else ""
        raise CadmllmError(
            "E406",
            f"none of the {len(train_ids)} training ids of {settings.data.root} can train stage {stage.number}: {why}{hint}",
            f"look at the data: cadmllm data check {settings.data.root}; longer targets need --set train.max_seq_length=4096",
        )
    return StageData(good, bad, usable_val)


def open_session(
    settings: Settings,
    stage: Stage,
    start: Start,
    dataset: DataSet,
    console: Console,
    cached: Cached | None = None,
    world: World | None = None,
) -> Session:
    """Load or build the model of a stage and everything around it, before its first step.

    With cached features (`cached.open_features`) the encoders that made them are not loaded. With several processes (`world`)
    the model is copied to or sharded over them.

    Raises:
        CadmllmError: E406 (data), E501..E504 (model, checkpoint), E612, E613 (what does not work on this device).
    """
    return _assemble(settings, stage, start, dataset, stage_data(settings, stage, dataset), console, cached, world)


def resume_session(
    settings: Settings,
    stage: Stage,
    dataset: DataSet,
    console: Console,
    cached: Cached | None = None,
    world: World | None = None,
) -> Session:
    """The stage as its newest good save left it.

    Raises:
        CadmllmError: E604 when no save is whole; E605 when it was made under other settings; E406, E501, E504.
    """
    data = stage_data(settings, stage, dataset)
    save = newest_save(stage.folder, console)
    if save is None:
        raise CadmllmError(
            "E604",
            f"none of the saves in {stage.folder / STEPS} is whole",
            f"train the stage anew: cadmllm train stage{stage.number} --overwrite",
        )
    mark = fingerprint(settings, stage.number, data.train_ids, cached.mark(stage.number) if cached else None)
    changed = check_fingerprint(save.place["fingerprint"], mark, str(save.folder))
    start = Start(save.folder, f"resumed after step {save.place['step']}", save.began, resumed=True)
    session = _assemble(settings, stage, start, dataset, data, console, cached, world)
    load_optimizer(session.engine.optimizer, session.infos, save.optimizer, str(save.folder))
    if save.place["scaler"]:
        session.engine.scaler.load_state_dict(save.place["scaler"])
    session.companions.load(save.place["companions"])
    if session.engine.replica is not None:
        session.engine.replica.adopt(session.engine.optimizer)
    session.begin, session.changed = save.place["step"], changed
    return session


def _assemble(
    settings: Settings,
    stage: Stage,
    start: Start,
    dataset: DataSet,
    data: StageData,
    console: Console,
    cached: Cached | None,
    world: World | None,
) -> Session:
    world = world or open_world(settings)
    sharded = world.size > 1 and settings.train.distributed == "fsdp"
    # what is to be sharded is loaded in main memory: a GPU need not hold all of it
    loading = settings.model_copy(update={"device": "cpu"}) if sharded else settings
    shapes = cached.shapes if cached else None
    check_dtype(settings.dtype, world.device)
    if start.checkpoint is None:
        model = build_model(loading, stage.number, cached=shapes)
    else:
        verify(start.checkpoint)
        model = load_model(start.checkpoint, loading, stage.number, cached=shapes)
    replica = world.wrap(model, settings) if world.size > 1 else None
    attention = model.settle_attention()
    if settings.train.compile:
        console.note(compile_layers(model))
    tokens = model.cloud_tokens, model.image_tokens, settings.train.max_seq_length
    collate = Collator(model.tokenizer, model.text_size, *tokens, model.images_together)
    room = room_of(settings, attention.isolates)
    share = world.share if world.size > 1 else None
    windows = Windows(dataset, data.train_ids, stage, settings, collate, room, cached.store if cached else None, share)
    groups, known = model.parameter_groups(), pretrained(settings)
    optimizer, infos = build_optimizer(groups, stage.number, stage.lr, settings.train, model.device, known)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    clip, offload = settings.train.clip, settings.train.offload_activations
    engine = Engine(model, optimizer, parameters, model.device, settings.dtype, clip, replica, offload)
    for text in (optim_note(settings.train, model.device), offload_note(offload, model.device)):
        if text:
            console.note(text)
    model.train()
    mark = fingerprint(settings, stage.number, data.train_ids, cached.mark(stage.number) if cached else None)
    companions = Companions(settings, stage, engine, infos, world, room, console)
    return Session(settings, stage, start, dataset, data, model, collate, windows, engine, infos, mark, companions, world, cached)
