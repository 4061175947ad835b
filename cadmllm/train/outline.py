"""The whole plan of a run before anything is trained: what `train --dry-run` prints. No model is loaded, nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from cadmllm.corpus.pack import Room
from cadmllm.plan.changes import way
from cadmllm.plan.disk import run_bytes, stage_disk
from cadmllm.plan.memory import Memory, predict
from cadmllm.plan.parts import Part, UnknownShape, parts_of
from cadmllm.plan.sizes import GIB
from cadmllm.plan.speed import span
from cadmllm.plan.table import grouped, sentences
from cadmllm.settings import Settings
from cadmllm.train import report
from cadmllm.train.curriculum import Stage, Start
from cadmllm.train.forecast import Card, Time, Tokens, card_of, time_of, tokens_of
from cadmllm.train.metrics import read_metrics
from cadmllm.train.optim import ENCODER_STAGE, peak_rate, pretrained
from cadmllm.train.session import stage_data
from cadmllm.train.windows import Windows, room_of

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.layout import DataSet
    from cadmllm.train.session import StageData

HEADROOM = 0.94  # of a card that a run should take: 15 of 16 GB, as in the guide


def outline(
    settings: Settings,
    stages: Sequence[Stage],
    starts: Sequence[Start],
    dataset: DataSet,
    console: Console,
    *,
    from_store: Collection[str] | None = None,
    card: Card | None = None,
) -> list[dict[str, Any]]:
    """Print the plan of each stage, and return it.

    Args:
        settings: all of them.
        stages: those that would be trained, in order.
        starts: where each one's weights come from.
        dataset: where samples would be read.
        console: results go to its standard output, what will probably disappoint to its warnings.
        from_store: branches ('points', 'images') whose features come from `data.features` (`Cached.shapes`); None: both where
            that is set.
        card: the GPU it would run on; by default asked of NVML.

    Returns:
        A dict a stage, with plain values: 'stage', 'name', 'folder', 'starts_from', 'samples', 'left_out', 'held_out', 'epochs',
        'steps', 'parts', 'parameters', 'trainable', 'groups', 'tokens', 'memory', 'card', 'time', 'disk', 'unknown' (texts).
        'parts', 'parameters', 'trainable' and 'memory' are None where a model's size is not known here.

    Raises:
        CadmllmError: E406 when a stage has nothing to train on.
    """
    card = card or card_of(settings)
    measured = read_metrics(settings.run.dir / "metrics.jsonl")
    rows = []
    for stage, start in zip(stages, starts, strict=True):
        data = stage_data(settings, stage, dataset)
        windows = Windows(dataset, data.train_ids, stage, settings, _NoCollation(), room_of(settings, True))
        for line in report.plan_lines(settings, stage, start, data, windows):
            console.print(line)
        row = _of_data(stage, start, data, windows)
        tokens = tokens_of(windows)
        row["tokens"] = tokens.as_dict(len(windows))
        console.print(f"  tokens     {_said_of_tokens(tokens, windows.room, len(windows))}")
        row |= _of_model(settings, stage, from_store, card, console)
        took = time_of(settings, stage.number, len(windows), tokens, card, measured)
        row["time"] = took.as_dict()
        console.print(f"  time       {_said_of_time(took, len(windows))}")
        row["disk"] = _disk(settings, stage, console)
        for text in report.warnings(settings, stage, data, windows):
            console.warn(text)
        console.print()
        rows.append(row)
    if rows:
        _in_all(settings, stages, rows, console)
    return rows


def _of_data(stage: Stage, start: Start, data: StageData, windows: Windows) -> dict[str, Any]:
    return {
        "stage": stage.number,
        "name": stage.name,
        "folder": str(stage.folder),
        "starts_from": None if start.checkpoint is None else str(start.checkpoint),
        "samples": len(data.train_ids),
        "left_out": len(data.left_out),
        "left_out_codes": dict(Counter(problem.code for problem in data.left_out)),
        "held_out": len(data.val_ids),
        "epochs": stage.epochs,
        "steps": len(windows),
    }


def _of_model(
    settings: Settings, stage: Stage, from_store: Collection[str] | None, card: Card | None, console: Console
) -> dict[str, Any]:
    """Parameters, groups and memory; where a size is not known that is said instead."""
    found: dict[str, Any] = {"card": None if card is None else {"name": card.name, "total": card.total, "free": card.free}}
    try:
        parts = parts_of(settings, stage.number, from_store)
        on_cpu = settings.device == "cpu" or (settings.device == "auto" and card is None)
        memory = predict(settings, stage.number, device="cpu" if on_cpu else "cuda", from_store=from_store)
    except UnknownShape as error:
        console.print(f"  parameters unknown: {error}")
        console.print("  memory     unknown, therefore; once the model is on this machine, its config.json says it")
        nothing = dict.fromkeys(("parts", "parameters", "trainable", "groups", "memory"))
        return found | nothing | {"unknown": [str(error)]}
    everything, trained = sum(p.parameters for p in parts), sum(p.parameters for p in parts if p.trained)
    groups = _groups(settings, stage, parts)
    console.print(f"  trains     {trained:,} of {everything:,} parameters ({trained / everything:.1%})")
    console.table([_part_row(part, settings, stage) for part in parts], ("  part", "parameters", "rate"))
    _print_memory(settings, stage, memory, card, from_store, console)
    described = [{"part": p.name, "component": p.component, "parameters": p.parameters, "trained": p.trained} for p in parts]
    found |= {"parts": described, "parameters": everything, "trainable": trained, "groups": groups, "unknown": []}
    fits = None if card is None or not memory.total else memory.total <= card.free
    return found | {"memory": memory.as_dict() | {"fits": fits}}


def _rate(settings: Settings, stage: Stage, component: str, branch: str) -> float:
    return peak_rate(component, branch, stage.lr, settings.train, pretrained(settings))


def _groups(settings: Settings, stage: Stage, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Optimizer groups by component and branch; each is split again into matrices, which decay, and vectors, which do not."""
    sizes: dict[tuple[str, str], int] = {}
    for part in parts:
        if part.trained and (stage.number >= ENCODER_STAGE or not part.branch):
            sizes[part.component, part.branch] = sizes.get((part.component, part.branch), 0) + part.parameters
    return [
        {"component": component, "branch": branch, "parameters": size, "lr": _rate(settings, stage, component, branch)}
        for (component, branch), size in sizes.items()
    ]


def _part_row(part: Part, settings: Settings, stage: Stage) -> tuple[str, str, str]:
    rate = f"{_rate(settings, stage, part.component, part.branch):.3g}" if part.trained else "0" if part.held else "frozen"
    return (f"  {part.name}", f"{part.parameters:>15,}", rate)


def _said_of_tokens(tokens: Tokens, room: Room, steps: int) -> str:
    how = f"{tokens.micro_batches:.1f} micro-batches of up to {room}"
    each = f"{tokens.sample:.0f} a sample, {tokens.supervised:.0f} of them supervised, the longest {tokens.longest:,}"
    return f"{tokens.step:,.0f} a step in {how}; {each}; {tokens.step * steps:,.0f} in all (captions estimated)"


def _said_of_time(took: Time, steps: int) -> str:
    if took.step is None or took.stage is None:
        return took.source
    return f"{span(took.stage)}, {took.step:.2f} s a step x {steps} ({took.source})"


def _print_memory(
    settings: Settings, stage: Stage, memory: Memory, card: Card | None, from_store: Collection[str] | None, console: Console
) -> None:
    """The table, its total against the card, and what to do where it does not fit."""
    against = "no card here to compare with"
    if card is not None:
        against = f"{card.name}: {card.total / GIB:.1f} GiB, {card.free / GIB:.1f} of them free"
    total = f"{memory.total / GIB:.1f} GiB of the card" if memory.total else f"{memory.ram / GIB:.1f} GiB of RAM"
    away = f", {memory.ram / GIB:.1f} GiB in RAM" if memory.total and memory.ram else ""
    console.print(f"  memory     {total}{away}, computed for {memory.tokens:,} tokens a micro-batch ({against})")
    for line in _parts_of_memory(memory):
        console.print(f"             {line}")
    if card is None or not memory.total:
        return
    room = min(card.free, int(HEADROOM * card.total))
    if memory.total <= room:
        return
    remedy = way(settings, [stage.number], room, from_store=from_store).advice or "a smaller preset: cadmllm config presets"
    console.warn(
        f"stage {stage.number} takes {memory.total / GIB:.1f} GiB by arithmetic, and {room / GIB:.1f} of the {card.name} "
        f"can be had: {remedy}"
    )


def _parts_of_memory(memory: Memory) -> list[str]:
    """GiB by part; every line of the table with its reason is in the result under `--json`."""
    if memory.total:
        return sentences(memory)
    return [", ".join(f"{name} {gib:.2f}" for name, gib in grouped(memory, "ram").items())]


def _disk(settings: Settings, stage: Stage, console: Console) -> dict[str, Any]:
    disk = stage_disk(settings, stage.number)
    keep = settings.train.save_total_limit if settings.train.save_steps else 0
    known = "" if disk.known else " (a guess: the model's size is not known here)"
    saves = f"{disk.step / GIB:.2f} GiB a step save, {keep} kept; " if keep else ""
    console.print(f"  disk       {saves}{disk.stage / GIB:.2f} GiB for the finished stage{known}")
    return {"step_save": disk.step, "stage": disk.stage, "known": disk.known}


def _in_all(settings: Settings, stages: Sequence[Stage], rows: list[dict[str, Any]], console: Console) -> None:
    needed = run_bytes(settings, [stage.number for stage in stages])
    seconds = [row["time"]["seconds"] for row in rows]
    time = span(sum(seconds)) if all(seconds) else "a time that nobody knows yet"
    steps = sum(row["steps"] for row in rows)
    console.print(f"in all       {steps} steps, {time}, at most {needed / GIB:.1f} GiB in {settings.run.dir}")
    console.print("             nothing was trained or written")
    for row in rows:
        row["disk"]["run"] = needed


class _NoCollation:
    """A dry run loads no sample."""

    def encode(self, sample: Any, /) -> Any:
        raise AssertionError("a dry run loads no sample")

    pad = pack = encode
