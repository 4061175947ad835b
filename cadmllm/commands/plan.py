"""`cadmllm plan`: what a run takes of a card, of time, disk and power, before anything is loaded; for any card."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cadmllm.errors import CadmllmError, Exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from cadmllm.commands._options import Shared
    from cadmllm.console import Console
    from cadmllm.plan.memory import Memory
    from cadmllm.plan.timing import Workload
    from cadmllm.plan.whole import Place, Plan, StagePlan
    from cadmllm.settings import Settings

SECTION = "Train"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:GB|GiB|G)?", re.IGNORECASE)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan)


def plan(
    ctx: typer.Context,
    stage: Annotated[int | None, typer.Option("--stage", min=1, max=3, help="this stage alone")] = None,
    vram: Annotated[str | None, typer.Option("--vram", metavar="16GB", help="memory of a card that is not here")] = None,
    card: Annotated[str | None, typer.Option("--card", metavar="NAME", help="a card that is not here: 'RTX 5070 Ti'")] = None,
    rate: Annotated[float | None, typer.Option("--rate", metavar="TOKENS_PER_S", help="tokens a second, if known")] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", min=1, help="of a micro-batch; default: what is set")] = None,
    guide: Annotated[bool, typer.Option("--guide", help="check the training guide's own settings on this card")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="write what makes it fit into cadmllm.toml (or --config)")] = False,
) -> None:
    """Plan a run: memory by part against the card, time, disk, energy, and the least to change where it does not fit.

    Nothing is loaded and nothing trained: it is arithmetic on the settings, the model's config.json and the data set's index.
    Exit code 1 (E813, on a CPU E814) where a card is known and the run does not fit it as the settings are.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    if rate is not None and not rate > 0:
        raise CadmllmError("E106", f"--rate {rate:g} is no number of tokens a second", "--rate 2500", exit_code=Exit.USAGE)
    stages = _stages(settings, stage or shared.start_from_stage, stage is not None)
    place = _place(settings, vram, card)
    if place is not None and place.kind == "cuda":
        settings = settings.model_copy(update={"device": "cuda"})  # planned for a card, whatever this machine has
    found = _planned(settings, stages, place, rate, tokens, console)
    if found.unknown:
        raise CadmllmError("E501", found.unknown, "download the model first, or name a folder: --set model.llm=FOLDER")
    told: dict[str, Any] = found.as_dict(settings)
    if guide:
        told["guide"] = _guide(settings, stages, place, console)
    else:
        _say(found, console)
    if apply:
        told["applied"] = _apply(found, shared)
    console.json(told)
    mended = told.get("applied") and not any(change.command for change in found.way.changes)
    if found.fits is False and not mended:
        raise typer.Exit(Exit.USER)


def _stages(settings: Settings, first: int | None, alone: bool) -> tuple[int, ...]:
    if first is not None and alone:
        return (first,)
    chosen = tuple(n for n in (1, 2, 3) if n >= (first or 1))
    return tuple(n for n in chosen if settings.stages[n].epochs) or chosen


def _place(settings: Settings, vram: str | None, card: str | None) -> Place | None:
    """The card that was given, or what this machine has."""
    from cadmllm.doctor.check import Situation
    from cadmllm.doctor.fit import place_of
    from cadmllm.plan.sizes import GIB
    from cadmllm.plan.timing import MEMORY, POWER, listed
    from cadmllm.plan.whole import Place

    if vram is None and card is None:
        return place_of(Situation(settings))
    name = card or "a card"
    if vram is not None:
        match = _SIZE.fullmatch(vram.strip())
        if match is None or not float(match[1]) > 0:
            raise CadmllmError("E106", f"--vram {vram} is no size", "--vram 16GB", exit_code=Exit.USAGE)
        total = int(float(match[1]) * GIB)  # what makers call GB of a card is GiB
    else:
        gib = listed(name, MEMORY)
        if gib is None:
            known = ", ".join(MEMORY)
            raise CadmllmError(
                "E106", f"the memory of a {name} is not in the table ({known})", "say it: --vram 16GB", exit_code=Exit.USAGE
            )
        total = gib * GIB
    return Place(name, total, total, "cuda", "given", listed(name, POWER))


def _planned(
    settings: Settings, stages: tuple[int, ...], place: Place | None, rate: float | None, tokens: int | None, console: Console
) -> Plan:
    from cadmllm.doctor.workload import newest_records
    from cadmllm.plan.whole import make

    works, cut = _expected(settings, stages, console)
    # what was measured here says nothing of a card that is elsewhere
    here = place is None or place.source != "given"
    records = newest_records(settings.run.dir / "metrics.jsonl") if here else []
    return make(settings, stages, place, works, records=records, rate=rate, tokens=tokens, cut=cut)


def _expected(
    settings: Settings, stages: tuple[int, ...], console: Console
) -> tuple[dict[int, Workload] | None, Callable[[int], float] | None]:
    """What the index says of the stages; a run can be planned before there is a data set."""
    from cadmllm.doctor.fit import of_data

    if settings.data.synthetic:
        console.note("parts will be generated (data.synthetic): how many tokens they have is not known before, so no time")
        return None, None
    from cadmllm.corpus.layout import open_dataset

    try:
        dataset = open_dataset(settings.data, console=console, workers=settings.kernel.workers)
        return of_data(dataset, settings, stages)
    except CadmllmError as error:
        console.note(f"no time, as there is no data set: {error.message}; memory and disk alone")
        return None, None


def _say(found: Plan, console: Console) -> None:
    from cadmllm.plan.sizes import GIB
    from cadmllm.plan.timing import energy
    from cadmllm.plan.whole import gib, said_of

    if found.place is not None:
        place = found.place
        console.print(f"{place.name}: {gib(place.total)}, {gib(place.room)} can be had ({place.source})")
    for stage in found.stages:
        _say_stage(found, stage, console)
    time = found.time
    console.print(f"in all   {said_of(time)}, {gib(found.disk)} of disk" + ("" if found.disk_known else " (a guess)"))
    drawn = energy(time, found.place.watts if found.place is not None and found.place.kind == "cuda" else None)
    if drawn is not None:
        low, likely, high = (_rounded(drawn[name]) for name in ("low", "likely", "high"))
        console.print(f"energy   {likely} kWh ({low} to {high}), by the card's {drawn['watts']:.0f} W")
    if found.fits is None:
        console.print("fits     nobody knows: there is no card here, and none was given (--vram 16GB)")
    elif found.fits:
        console.print(console.colour("fits", "green"))
    else:
        worst = found.worst
        assert worst is not None
        assert found.place is not None
        over = (worst.peak - found.place.room) / GIB
        code = "E813" if found.place.kind == "cuda" else "E814"
        text = console.colour("does not fit", "red")
        console.print(f"{text} ({code}): stage {worst.stage} takes {over:.1f} GiB more than can be had")
        _say_way(found, console)


def _say_stage(found: Plan, stage: StagePlan, console: Console) -> None:
    from cadmllm.plan.bar import bar, speaks_unicode
    from cadmllm.plan.sizes import GIB
    from cadmllm.plan.table import grouped
    from cadmllm.plan.whole import gib, said_of

    memory = stage.memory
    away = f", {gib(memory.ram)} in RAM" if memory.total and memory.ram else ""
    console.print(f"\nstage {stage.stage}  {gib(stage.peak)}{away}, {memory.tokens:,} tokens a micro-batch")
    _table(memory, console)
    parts = {name: size * GIB for name, size in grouped(memory, "card" if memory.total else "ram").items()}
    total = None if found.place is None else found.place.total
    drawn = bar(parts, total, unicode=speaks_unicode(sys.stdout.encoding))
    console.print(f"  {drawn.line}\n  {drawn.legend}")
    console.print(f"  time   {said_of(stage.time)} ({stage.time.source})")
    if stage.work is not None:
        work = stage.work
        cut = f", {work.cut:.1%} of the targets too long and left out" if work.cut else ""
        console.print(
            f"  tokens {work.total:,.0f} in {work.steps:,} steps; {work.tokens:.0f} a sample, {work.samples:,} samples{cut}"
        )


def _table(memory: Memory, console: Console) -> None:
    place = "card" if memory.total else "ram"
    rows = [(f"  {name}", f"{gib:.2f}", where if where != place else "", why) for name, gib, where, why in memory.rows()]
    console.table(rows, ("  part", "GiB", "", "how"))


def _say_way(found: Plan, console: Console) -> None:
    way = found.way
    if not way.changes:
        console.print("nothing in the list of changes makes it fit" + (f"; --preset {way.preset} does" if way.preset else ""))
        return
    console.print("the least that makes it fit, in this order:")
    rows = [(f"  {change.options}", f"-{change.saves / 2**30:.2f} GiB", change.costs) for change in way.changes]
    console.table(rows)
    if way.model:
        console.print(f"the largest model that fits: {way.model}" + (f"; or --preset {way.preset}" if way.preset else ""))
    console.print("  --apply writes these settings to cadmllm.toml")


def _guide(settings: Settings, stages: tuple[int, ...], place: Place | None, console: Console) -> dict[str, Any]:
    """The training guide's own settings on this card."""
    from cadmllm.plan.guide import BATCH, LENGTH, advice
    from cadmllm.plan.sizes import GIB
    from cadmllm.plan.whole import HEADROOM, gib

    room = place.room if place is not None and place.kind == "cuda" else int(HEADROOM * 16 * GIB)
    found = advice(settings, room, stages)
    model = settings.model.llm
    console.print(
        f"the guide: {model} in bfloat16, batch {BATCH}, {LENGTH:,} tokens, LoRA, checkpointing; {gib(room)} can be had"
    )
    console.print(f"\nby its recipe (PEFT as it comes, all logits; text alone): {gib(found.theirs.total)}")
    _table(found.theirs, console)
    for line in found.why(room):
        console.print(f"  {line}")
    console.print(f"\nby ours with the same settings (stage {found.ours.stage}): {gib(found.ours.total)}")
    _table(found.ours, console)
    console.print("\nwhat makes it fit, with samples packed:" if found.way.changes else "\nfits")
    console.table([(f"  {change.options}", f"-{change.saves / GIB:.2f} GiB", change.costs) for change in found.way.changes])
    return {
        "room": room,
        "recipe": found.theirs.as_dict(),
        "ours": found.ours.as_dict(),
        "fits": {"recipe": found.theirs.total <= room, "ours": found.ours.total <= room},
        "why": found.why(room),
        "changes": [change.as_dict() for change in found.way.changes],
    }


def _apply(found: Plan, shared: Shared) -> list[str]:
    """Write the changes into the settings file; lines of what changed."""
    from cadmllm.resolve import CONFIG
    from cadmllm.tomlfile import set_values

    console, path = shared.console, shared.config or CONFIG
    values = {key: value for change in found.way.changes for key, value in change.set.items()}
    lines = set_values(path, values) if values else []
    for line in lines:
        console.print(f"{path}: {line}")
    for change in found.way.changes:
        if change.command:
            console.print(f"run first: {change.command}")
    if not lines:
        console.print(f"nothing to write to {path}" + ("" if values else ": it fits as it is, or nothing helps"))
    given = sorted({key for key, _, _ in shared.given} & set(values))
    if given:
        console.warn(f"on the command line {', '.join(given)} stands over {path}: leave it out there")
    return lines


def _rounded(value: float) -> str:
    """'123.4', '0.012': two digits at least."""
    return f"{value:.1f}" if value >= 1.0 else f"{value:.2g}"
