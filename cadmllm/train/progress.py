"""What a person sees while a stage trains: a panel at a terminal, a line every few steps elsewhere."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cadmllm.train.metrics import counts, number

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from cadmllm.console import Console

SMOOTHING = 0.1  # weight of the newest step in the shown speed and loss
BAR = 30  # columns, at most
WIDEST, NAME = 100, 8  # columns of the panel and of the names in it
FRAME = 0.25  # s between two drawings of the panel
NOTICES = 3  # the newest that are shown
NAMES = {"text+point_cloud": "text + points", "text+image": "text + image", "text+point_cloud+image": "all three"}
FULL, BUSY, HOT = 0.94, 80.0, 85.0  # of the memory; % utilisation; C: what deserves a look


class Board:
    """Shows the records of `metrics.jsonl` as they are made; keys that a record lacks are not shown.

    Notes and warnings of the console appear above the panel. When the stage ends, or breaks, its last step stays as a line.

    Args:
        console: nothing is shown under --quiet; a panel when its error stream is a terminal, else lines.
        label: 'stage 2 of 3'.
        every: steps between two plain lines; a validation has a line besides.
        mix: samples by what they showed, of the steps before this one (a resumed stage's).
    """

    def __init__(self, console: Console, label: str, every: int, mix: Mapping[str, int] | None = None) -> None:
        self._console, self._label, self._every = console, label, every
        self._shown = Shown(Counter(mix or {}))
        self._live: Live | None = None
        self._drawn = 0.0

    def __enter__(self) -> Board:
        err = self._console.err
        if err.isatty() and not self._console.is_quiet and os.environ.get("TERM") not in ("dumb", "unknown"):
            from rich.console import Console as RichConsole
            from rich.live import Live

            # rich sends what is printed to sys.stderr above the panel; results go to where standard output goes, whatever that is
            stdout = self._console.out.isatty()
            console = RichConsole(file=err, highlight=False)
            self._live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=stdout)
            self._live.__enter__()
            self._draw(now=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.__exit__(kind, value, trace)
            if self._shown.record:
                self._say()

    def step(self, record: dict[str, Any]) -> None:
        """Show a step."""
        self._shown.add(record)
        done, total = record["step"], record["total_steps"]
        if self._live is not None:
            self._draw(now=done == total)
        elif self._shown.steps == 1 or done == total or done % self._every == 0 or "val_loss" in record:
            self._say()

    def doing(self, what: str = "") -> None:
        """Say in the panel what keeps the next step waiting ('saving'); '' when it no longer does. Plain lines do not have it."""
        self._shown.doing = what
        self._draw(now=True)

    def notice(self, text: str) -> None:
        """Keep a notice in the panel, with its step; the newest three are shown. Say it through the console as well."""
        self._shown.notices.append((self._shown.record.get("step", 0), text))
        self._draw(now=True)

    def _say(self) -> None:
        self._console.note(f"{self._label}: {plain_line(self._shown.record, self._shown.left)}")

    def _draw(self, *, now: bool) -> None:
        if self._live is None or not (now or time.monotonic() - self._drawn >= FRAME):
            return
        console = self._live.console
        self._live.update(panel(self._label, self._shown, console.width, plain=console.options.ascii_only), refresh=True)
        self._drawn = time.monotonic()


class Shown:
    """What the panel remembers of the steps it was told.

    Args:
        mix: samples by what they showed.
    """

    def __init__(self, mix: Counter[str]) -> None:
        self.mix = mix
        self.record: dict[str, Any] = {}
        self.steps = 0
        self.doing = ""
        self.notices: deque[tuple[int, str]] = deque(maxlen=NOTICES)
        self.held_out: tuple[int, dict[str, float]] | None = None
        self.judged: tuple[int, dict[str, float]] | None = None
        self._means: dict[str, float] = {}

    def add(self, record: dict[str, Any]) -> None:
        """One more step."""
        self.record = record
        self.steps += 1
        self.mix.update(counts(record))
        if self.steps == 2:
            self._means.clear()  # the first step compiles, fills caches and waits for the loader: no measure of the others
        values = {
            key: number(record, key) for key in ("loss", "seconds", "waited", "tokens_per_s", "samples_per_s", "supervised")
        }
        for key, value in values.items():
            if value is not None:
                self._means[key] = (1 - SMOOTHING) * self._means[key] + SMOOTHING * value if key in self._means else value
        self.held_out = _told(record, "val_loss") or self.held_out
        self.judged = _told(record, "samples_judged") or self.judged

    def mean(self, key: str) -> float | None:
        """A figure of the steps, smoothed; None where they have none."""
        return self._means.get(key)

    @property
    def left(self) -> float:
        """Seconds until the stage's last step."""
        return (self.record["total_steps"] - self.record["step"]) * (self._means.get("seconds") or 0.0)


def _told(record: dict[str, Any], key: str) -> tuple[int, dict[str, float]] | None:
    group = record.get(key)
    found = {name: number(group, name) for name in group} if isinstance(group, dict) else {}
    known = {name: value for name, value in found.items() if value is not None}
    return (record["step"], known) if known else None


def panel(label: str, shown: Shown, width: int, *, plain: bool = False) -> RenderableType:
    """The panel of a rich console `width` columns wide; `plain` where the terminal has ASCII alone."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    width = min(width, WIDEST)  # and always that wide: a panel that changes its width with every number is hard to read
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim", min_width=NAME)
    table.add_column(overflow="fold")
    between = "  |  " if plain else "  ·  "
    for name, cells in _rows(shown, min(BAR, max(8, width - 38)), plain).items():
        lines, room = [Text()], width - 4 - NAME - 2  # borders, names, and the gap behind them
        for text, style in cells:  # lines break between cells alone, so that a figure stays beside its unit
            if lines[-1] and (name == "notices" or lines[-1].cell_len + len(between) + len(text) > room):
                lines.append(Text())
            lines[-1].append(between if lines[-1] else "", "dim").append(text, style)
        table.add_row(name, Text("\n").join(lines))
    title = label + (f", epoch {number(shown.record, 'epoch') or 0:.2f}" if "epoch" in shown.record else "")
    return Panel(table, title=title, title_align="left", width=width)


Cell = tuple[str, str]  # text and style


def _rows(shown: Shown, bar: int, plain: bool) -> dict[str, list[Cell]]:
    """The panel's lines by name; those without a cell are left out."""
    record = shown.record
    if not record:
        return {"doing": [(shown.doing or "waiting for the first step", "")]}
    done, total = record["step"], record["total_steps"]
    filled = bar * done // max(total, 1)
    full, rest = ("#", ".") if plain else ("━", "─")
    rows: dict[str, list[Cell]] = {
        "step": [(f"{done:,}/{total:,} {full * filled}{rest * (bar - filled)} {done / max(total, 1):.0%}", "bold cyan")],
        "left": [(duration(shown.left), "bold")],
        "loss": [(f"{record['loss']:.4f}", "bold"), *_some("smoothed {:.4f}", shown.mean("loss"))],
        "held out": _held_out(shown.held_out, "{:.4f}"),
        "answers": _held_out(shown.judged, "{:.0%}"),
        "rate": _rates(record),
        "gradient": [(f"norm {_norm(record)}", "" if record["grad_norm"] else "yellow")] if "grad_norm" in record else [],
        "speed": _speed(shown),
        "memory": _memory(record),
        "GPU": _gpu(record),
        "shown": [(f"{NAMES.get(name, name)} {share:.0%}", "") for name, share in _shares(shown.mix)],
        "doing": [(shown.doing, "cyan")] if shown.doing else [],
        "notices": [(f"step {step}: {text}", "yellow") for step, text in shown.notices],
    }
    return {name: cells for name, cells in rows.items() if cells}


def _some(text: str, value: float | None, style: str = "") -> list[Cell]:
    return [] if value is None else [(text.format(value), style)]


def _held_out(told: tuple[int, dict[str, float]] | None, text: str) -> list[Cell]:
    if told is None:
        return []
    step, values = told
    return [(f"{NAMES.get(name, name)} {text.format(value)}", "") for name, value in values.items()] + [
        (f"at step {step:,}", "dim")
    ]


def _rates(record: dict[str, Any]) -> list[Cell]:
    rates = record.get("rates")
    if isinstance(rates, dict) and rates:
        same: dict[str, list[str]] = {}
        for name in rates:
            same.setdefault(f"{number(rates, name) or 0.0:.3g}", []).append(str(name))
        return [(f"{', '.join(names)} {rate}", "") for rate, names in same.items()]
    return _some("{:.3g}", number(record, "lr"))


def _speed(shown: Shown) -> list[Cell]:
    seconds, waited, supervised = (shown.mean(key) for key in ("seconds", "waited", "supervised"))
    cells = _some("{:,.0f} tokens/s", shown.mean("tokens_per_s"))
    if seconds and supervised is not None:
        cells += [(f"{supervised / seconds:,.0f} supervised/s", "")]
    cells += _some("{:.3g} samples/s", shown.mean("samples_per_s"))
    if seconds and waited is not None:
        share = waited / seconds
        cells += [(f"{share:.0%} waiting for data", "yellow" if share > 0.1 else "")]
    return cells


def _memory(record: dict[str, Any]) -> list[Cell]:
    used, total, peak = (number(record, key) for key in ("gpu_memory_gib", "gpu_memory_total_gib", "peak_gib"))
    cells: list[Cell] = []
    if used is not None:
        style = "yellow" if total and used / total > FULL else ""
        cells += [(f"{used:.1f}" + (f" of {total:.1f}" if total else "") + " GiB used", style)]
    return cells + _some("peak {:.2f} GiB", peak) + _some("reserved {:.2f} GiB", number(record, "reserved_gib"))


def _gpu(record: dict[str, Any]) -> list[Cell]:
    busy, heat = number(record, "gpu_utilisation"), number(record, "gpu_temperature")
    cells = _some("{:.0f}% busy", busy, "yellow" if busy is not None and busy < BUSY else "")
    cells += _some("{:.0f} °C", heat, "red" if heat is not None and heat > HOT else "")
    return cells + ([("throttled", "red")] if record.get("gpu_throttled") is True else [])


def _shares(mix: Mapping[str, int]) -> list[tuple[str, float]]:
    total = sum(mix.values())
    return [(name, mix[name] / total) for name in sorted(mix) if total]


def plain_line(record: Mapping[str, Any], left: float) -> str:
    """One step as a line for logs."""
    parts = [
        f"step {record['step']}/{record['total_steps']}",
        f"loss {record['loss']:.4f}",
        *(text for text, _ in _some("lr {:.3g}", number(record, "lr"))),
        *([f"grad {_norm(record)}"] if "grad_norm" in record else []),
        *(text for text, _ in _some("{:,.0f} tokens/s", number(record, "tokens_per_s"))),
    ]
    used = number(record, "gpu_memory_gib")
    parts += [text for text, _ in _some("{:.1f} GiB", number(record, "peak_gib") if used is None else used)]
    parts += [text for text, _ in _some("{:.0f} C", number(record, "gpu_temperature"))]
    seconds, waited = number(record, "seconds"), number(record, "waited")
    if seconds and waited is not None and waited / seconds >= 0.01:
        parts += [f"{waited / seconds:.0%} waiting"]
    parts += [f"{duration(left)} left"]
    told = _told(dict(record), "val_loss")
    parts += [f"held-out loss {told[1].get('all', next(iter(told[1].values()))):.4f}"] if told else []
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 05 min', '2 d 04 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


def _norm(record: Mapping[str, Any]) -> str:
    norm = number(record, "grad_norm")
    return "overflow" if norm is None else f"{norm:.3g}"
