"""A run in words: the figures of its stages as rows, and `report.md`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cadmllm import __version__
from cadmllm.settings import COMBINATIONS
from cadmllm.train.history import Stage
from cadmllm.train.progress import NAMES, duration

HEADERS = (
    *("stage", "steps", "loss first", "last", "held out", "samples/s", "tokens/s", "supervised/s", "waiting", "padding"),
    *("peak GiB", "time", "notices", "overflows", "fell back", "lost"),
)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A stage's figures as text under `HEADERS`; '-' for what the metrics do not say."""

    def text(key: str, form: str) -> str:
        return "-" if row[key] is None else form.format(row[key])

    held_out = row["val_loss"].get("all", next(iter(row["val_loss"].values()), None))
    steps = f"{row['steps']:,}" if row["finished"] else f"{row['steps']:,} of {row['total_steps']:,}"
    return (
        row["name"],
        steps,
        text("loss_begin", "{:.4f}"),
        text("loss_end", "{:.4f}"),
        "-" if held_out is None else f"{held_out:.4f}",
        text("samples_per_s", "{:,.3g}"),
        text("tokens_per_s", "{:,.0f}"),
        text("supervised_tokens_per_s", "{:,.0f}"),
        text("waiting_share", "{:.1%}"),
        text("padding_share", "{:.1%}"),
        text("peak_gib", "{:.2f}"),
        "-" if row["seconds"] is None else duration(row["seconds"]),
        *(text(key, "{:,}") for key in ("notices", "overflows", "fell_back", "lost")),
    )


def facts(stages: Sequence[Stage]) -> list[tuple[str, str]]:
    """(figure, what it counts) of the whole run, for its title."""
    rows = [stage.row() for stage in stages]
    sums = {key: sum(row[key] or 0 for row in rows) for key in ("steps", "samples", "supervised_tokens", "seconds")}
    last = rows[-1]
    found = [(f"{len(rows)}", "stage" if len(rows) == 1 else "stages"), (f"{sums['steps']:,}", "steps")]
    found += [(f"{sums[key]:,}", what) for key, what in _COUNTED.items() if sums[key]]
    found += [(duration(sums["seconds"]), "in steps")] if sums["seconds"] else []
    found += [(f"{last['loss_end']:.4f}", "last loss")] if last["loss_end"] is not None else []
    held_out = last["val_loss"].get("all")
    return found + ([(f"{held_out:.4f}", "held out")] if held_out is not None else [])


_COUNTED = {"samples": "samples", "supervised_tokens": "supervised tokens"}


def held_out(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The newest held-out loss by combination, a row a stage under a row of headers; empty where nothing was held out."""
    names = [name for name in (*COMBINATIONS, "all") if any(name in row["val_loss"] for row in rows)]
    if not names:
        return []
    header = ("stage", *(NAMES.get(name, name) for name in names))
    told = [row for row in rows if row["val_loss"]]
    return [header, *((row["name"], *(_number(row["val_loss"].get(name)) for name in names)) for row in told)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader should know beside the figures, in sentences."""
    found = []
    for row in rows:
        if not row["finished"]:
            text = f"{row['name']} is not finished: {row['steps']:,} of {row['total_steps']:,} steps"
            found.append(f"{text} (cadmllm train stage{row['stage']} --resume, with the run's options)")
        if row["waiting_share"] and row["waiting_share"] > WAITED:
            found.append(f"{row['name']} waited {row['waiting_share']:.0%} of its time for data (more train.workers)")
        if row["throttled"]:
            found.append(f"{row['name']}: the GPU slowed itself down in {row['throttled']:,} steps (heat or power)")
        if row["judged"]:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in row["judged"].items())
            found.append(f"{row['name']}: answers to held-out prompts that the CAD kernel built: {shares}")
    return found


WAITED = 0.1  # share of the time from which more loader processes would pay


def page(stages: Sequence[Stage], metrics: Path, picture: str) -> str:
    """`report.md`.

    Args:
        stages: from `history.load`.
        metrics: what was read.
        picture: the chart's file, beside the page.
    """
    rows = [stage.row() for stage in stages]
    base = next((stage.metadata["base"] for stage in reversed(stages) if stage.metadata.get("base")), None)
    title = f"# Training run {metrics.parent.resolve().name}"
    what = f"Trained from `{base}`. " if base else ""
    times = f"From {rows[0]['started'] or 'an unknown time'} to {rows[-1]['ended'] or 'an unknown time'}."
    sections = [title, what + times, _markdown([HEADERS, *(cells(row) for row in rows)])]
    sections.append(
        "Loss: cross-entropy a supervised token, mean of a stage's first and last steps (a tenth of them, at most 10). "
        "Waiting: share of the time, for data. Padding: share of the computed tokens. Time: of the steps alone."
    )
    told = held_out(rows)
    if told:
        sections += ["## Held-out loss", _markdown(told)]
    said = remarks(rows)
    if said:
        sections += ["## Remarks", "\n".join(f"* {text}" for text in said)]
    sections += ["## Curves", f"![curves]({picture})", f"Made by cadmllm {__version__} from `{metrics}`."]
    return "\n\n".join(sections) + "\n"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    width = len(lines[0])
    rule = "|---|" + "---:|" * (width - 1)
    return "\n".join(["| " + " | ".join(lines[0]) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines[1:])])
