"""What to change so that a run fits: the least, in order of what it costs, with GiB saved each. Arithmetic only, no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cadmllm.plan.memory import SHORTEST, longest_fit, micro_batch_tokens, predict
from cadmllm.plan.parts import llm_shape, parts_of
from cadmllm.plan.sizes import GIB, KNOWN

if TYPE_CHECKING:
    from cadmllm.settings import Settings

ROUND = 256  # tokens that a micro-batch is cut down to multiples of
SMALL_PACK = 2048  # tokens; smaller micro-batches leave a card idle between its kernels, by experience elsewhere


@dataclass(frozen=True, slots=True)
class Change:
    """A change.

    Attributes:
        set: settings by dotted key; empty for what a command has to make first.
        saves: bytes of the card, on top of the changes before it.
        costs: in time and otherwise, in words.
        command: what has to be run, where settings alone do not do.
    """

    set: dict[str, Any]
    saves: int
    costs: str
    command: str = ""

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {"set": self.set, "saves_gib": round(self.saves / GIB, 2), "costs": self.costs, "command": self.command}

    @property
    def options(self) -> str:
        """As command-line options."""
        return " ".join(f"--set {key}={_text(value)}" for key, value in self.set.items()) or self.command


@dataclass(frozen=True, slots=True)
class Way:
    """What makes it fit.

    Attributes:
        changes: in order; empty where it fits as it is, or nothing helps.
        fits: whether it does with all of them.
        model: the largest known model that would fit, where this one does not.
        preset: a preset that fits, then.
    """

    changes: list[Change] = field(default_factory=list)
    fits: bool = True
    model: str = ""
    preset: str = ""

    @property
    def advice(self) -> str:
        """As a remedy: options and what has to be run before them, else a smaller model or preset; '' where nothing helps."""
        if self.fits:
            first = " and ".join(change.command for change in self.changes if change.command)
            return " after ".join(text for text in (self.options, first) if text)
        preset = f"--preset {self.preset}" if self.preset else ""
        if not self.model:
            return preset
        return f"{self.options}, the largest model that fits" + (f"; or {preset}" if preset else "")

    @property
    def options(self) -> str:
        """All of it for a command line; commands that come first are left out."""
        return " ".join(change.options for change in self.changes if change.set)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def changed(settings: Settings, values: dict[str, Any]) -> Settings:
    """The settings with other values, by dotted key of two parts; nothing is validated anew."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    return settings.model_copy(
        update={group: getattr(settings, group).model_copy(update=update) for group, update in groups.items()}
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """Something that may be tried: settings, what it costs, a command; `stored`: features come from a cache."""

    set: dict[str, Any]
    costs: str
    command: str = ""
    stored: bool = False


def _steps(settings: Settings, stages: Sequence[int]) -> list[_Step]:
    """All that may help, cheapest first."""
    train, model, lora = settings.train, settings.model, settings.lora
    found = []
    if lora.enabled and model.embedding_device != "cpu":
        found.append(_Step({"model.embedding_device": "cpu"}, "no time worth naming: a prompt's rows cross the bus"))
    if train.optimizer == "adamw":
        found.append(_Step({"train.optimizer": "paged_adamw_8bit"}, "none; moments in 8 bit are a little less exact"))
    if not train.gradient_checkpointing:
        found.append(_Step({"train.gradient_checkpointing": True}, "about 33 % more time, by arithmetic"))
    if lora.enabled and model.quantization == "none":
        found.append(_Step({"model.quantization": "nf4"}, "10 to 40 % more time (assumed): weights are unpacked at each use"))
    if not train.offload_activations:
        # without checkpointing main memory would have to take whole layers of every token
        with_it = {} if train.gradient_checkpointing else {"train.gradient_checkpointing": True}
        costs = "PCIe traffic beside the computation: 0 to 30 % more time (assumed)"
        costs += ", and 33 % for checkpointing" if with_it else ""
        found.append(_Step(with_it | {"train.offload_activations": True}, costs))
    if settings.data.features is None and not model.train_encoders and _frozen(settings, stages):
        command = f"cadmllm data encode {settings.data.root} --out features, then --set data.features=features"
        found.append(_Step({}, "once through the data; less time afterwards: encoders run no more", command, True))
    return found


def _frozen(settings: Settings, stages: Sequence[int]) -> bool:
    parts = [part for stage in stages for part in parts_of(settings, stage)]
    return any(part.component == "encoders" and not part.trained and not part.held for part in parts)


class _Search:
    """Tries steps against a room on the card, in all stages that are to be trained."""

    def __init__(self, settings: Settings, stages: Sequence[int], room: int, from_store: Collection[str] | None = None) -> None:
        self.settings, self.stages, self.room, self.from_store = settings, stages, room, from_store

    def _store(self, steps: Sequence[_Step]) -> Collection[str] | None:
        return ("points", "images") if any(step.stored for step in steps) else self.from_store

    def with_steps(self, steps: Sequence[_Step]) -> Settings:
        return changed(self.settings, {key: value for step in steps for key, value in step.set.items()})

    def longest(self, steps: Sequence[_Step]) -> int:
        """Most tokens of a micro-batch that fit in every stage."""
        asked, stored = self.with_steps(steps), self._store(steps)
        return min(longest_fit(asked, stage, self.room, from_store=stored) for stage in self.stages)

    def peak(self, steps: Sequence[_Step], tokens: int | None = None) -> int:
        """Bytes of the worst stage."""
        asked, stored = self.with_steps(steps), self._store(steps)
        return max(predict(asked, stage, tokens=tokens, device="cuda", from_store=stored).total for stage in self.stages)

    def least(self, steps: list[_Step], tokens: int) -> list[_Step] | None:
        """The first steps that let a micro-batch of so many tokens fit, without those that it can do without."""
        for count in range(len(steps) + 1):
            if self.longest(steps[:count]) >= tokens:
                kept = steps[:count]
                for step in reversed(steps[:count]):
                    without = [other for other in kept if other is not step]
                    if self.longest(without) >= tokens:
                        kept = without
                return kept
        return None


def way(
    settings: Settings,
    stages: Sequence[int],
    room: int,
    cut: Callable[[int], float] | None = None,
    *,
    known: bool = True,
    from_store: Collection[str] | None = None,
) -> Way:
    """The least that makes every stage fit.

    Smaller micro-batches first (a step's samples stay the same), then what costs little, then time, then shorter sequences,
    which cost data, and at the end a smaller model.

    Args:
        settings: resolved settings, of a card.
        stages: that are to be trained.
        room: bytes of the card that can be had.
        cut: the share of targets that sequences of so many tokens would cut, where the data is known.
        known: look for a smaller model where nothing else helps.
        from_store: see `parts.parts_of`.

    Raises:
        UnknownShape: the size of a model is not known here.
    """
    search = _Search(settings, stages, room, from_store)
    wanted, shortest = micro_batch_tokens(settings), settings.train.max_seq_length
    if search.peak(()) <= room:
        return Way()
    steps = _steps(settings, stages)
    for goal in (min(wanted, max(shortest, SMALL_PACK)), shortest):
        kept = search.least(steps, goal)
        if kept is not None:
            return Way(_listed(search, kept, min(wanted, search.longest(kept)), shortest))
    most = search.longest(steps) // ROUND * ROUND
    if most >= SHORTEST:
        kept = search.least(steps, most) or steps
        return Way(_listed(search, kept, most, most, cut))
    model, found = _smaller(settings, stages, room) if known else ("", [])
    return Way(found, False, model, fitting_preset(room))


def _listed(
    search: _Search, steps: Sequence[_Step], tokens: int, sequence: int, cut: Callable[[int], float] | None = None
) -> list[Change]:
    """The steps as changes, with what each saves on top of those before it, and the smaller micro-batch first."""
    settings, found = search.settings, []
    wanted = micro_batch_tokens(settings)
    tokens = tokens if tokens == wanted else max(tokens // ROUND * ROUND, sequence)
    before = search.peak(())
    if tokens < wanted:
        after = search.peak((), tokens)
        found.append(Change(_smaller_batch(settings, tokens, sequence), before - after, _cost_of_packs(settings, tokens, cut)))
        before = after
    for count, step in enumerate(steps, 1):
        after = search.peak(steps[:count], tokens)
        found.append(Change(step.set, before - after, step.costs, step.command))
        before = after
    if sequence < settings.train.max_seq_length:  # what costs data stands last
        found = [*found[1:], found[0]] if tokens < wanted else found
    return found


def _smaller_batch(settings: Settings, tokens: int, sequence: int) -> dict[str, Any]:
    """Settings of a micro-batch of so many tokens: the same samples a step."""
    train = settings.train
    values: dict[str, Any] = {}
    if sequence < train.max_seq_length:
        values["train.max_seq_length"] = sequence
    samples = train.batch_size * train.accumulation
    if train.packing:
        values["train.pack_tokens"] = tokens
    if not train.packing or train.batch_size * sequence > tokens:  # where nothing can be packed, rows are padded
        batch = max(1, tokens // sequence)
        while samples % batch:
            batch -= 1
        values |= {"train.batch_size": batch, "train.accumulation": samples // batch}
    return values


def _cost_of_packs(settings: Settings, tokens: int, cut: Callable[[int], float] | None) -> str:
    text = f"a step is the same {settings.train.batch_size * settings.train.accumulation} samples, in more micro-batches"
    text += ": hardly more time" if tokens >= SMALL_PACK else ": up to twice the time where a card idles (assumed)"
    if tokens < settings.train.max_seq_length:
        text += "; longer samples are left out"
        text += f": {cut(tokens):.1%} of the targets" if cut is not None else " (how many says the index)"
    return text


def _smaller(settings: Settings, stages: Sequence[int], room: int) -> tuple[str, list[Change]]:
    """The largest known model that fits, and what it needs."""
    own = llm_shape(settings).parameters
    for name, shape in sorted(KNOWN.items(), key=lambda item: -item[1].parameters):
        if shape.parameters >= own:
            continue
        asked = changed(settings, {"model.llm": name})
        found = way(asked, stages, room, known=False)
        if found.fits:
            before, after = (_Search(s, stages, room).peak(()) for s in (settings, asked))
            costs = f"another model, {shape.parameters / own:.0%} of the parameters: less time, and less able"
            return name, [Change({"model.llm": name}, before - after, costs), *found.changes]
    return "", []


def fitting_preset(room: int) -> str:
    """The preset for the largest card whose last stage fits; '' where none does."""
    from cadmllm.places import bundled
    from cadmllm.resolve import preset_names, resolve  # pydantic: doctor imports this module where there may be none

    fits = ""
    for name in preset_names():
        path = bundled("presets") / f"{name}.toml"  # as the settings file, too: ./cadmllm.toml has no say
        settings = resolve(preset=name, config=path, environ={}).settings
        if name.endswith("gb") and predict(settings, 3, device="cuda").total <= room:
            fits = name
    return fits
