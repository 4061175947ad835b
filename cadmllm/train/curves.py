"""The picture of a run: loss, rates, gradients, throughput, memory and what was shown, step by step, and a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cadmllm.corpus.lettering import Lettering
from cadmllm.corpus.paper import AMBER, BLUE, GAP, GREEN, INK, MARGIN, MUTED, ORANGE, RED, SMALL, VIOLET, WIDTH, Box, Paper
from cadmllm.corpus.plot import GRID, Curve, Plot, Scale, fitted, linear, said
from cadmllm.settings import COMBINATIONS
from cadmllm.train.history import Stage
from cadmllm.train.progress import NAMES
from cadmllm.train.runpage import HEADERS, cells

HEAD, TALL, HEIGHT, ROW = 104, 400, 300, 30  # px: above the panels, of the loss, of the others, of a line of the table
SHORT = 128  # px, of a panel without curves
ON_GPU = ("peak_gib", "reserved_gib", "gpu_memory_gib", "gpu_memory_total_gib", "gpu_utilisation", "gpu_temperature")
HALF = (WIDTH - 2 * MARGIN - GAP) // 2
TEAL = "#0f7f86"
COLOURS = dict(zip(COMBINATIONS, (GREEN, ORANGE, VIOLET, TEAL), strict=True)) | {"all": INK}
PARTS = (BLUE, GREEN, VIOLET, ORANGE, TEAL, AMBER)  # of rates, in the order of their names
SMOOTHED = 50  # a line is the mean of a fiftieth of a stage's steps
PERCENT = Scale(0.0, 100.0, False, (0.0, 20.0, 40.0, 60.0, 80.0, 100.0))
FEW = 20  # steps of a stage up to which its values are the line


@dataclass(frozen=True, slots=True)
class Run:
    """The stages, one after another on one axis.

    Attributes:
        stages: in the order of the curriculum.
        offsets: steps of the stages before each.
        x: int64 [steps of all stages], where each record stands.
        parts: index range of each stage in it.
    """

    stages: list[Stage]
    offsets: list[int]
    x: np.ndarray
    parts: list[tuple[int, int]]

    @classmethod
    def of(cls, stages: list[Stage]) -> Run:
        """The stages of `history.load`."""
        offsets, parts, places = [], [], []
        steps = seen = 0
        for stage in stages:
            offsets.append(steps)
            parts.append((seen, seen + len(stage.steps)))
            places.append(np.frombuffer(stage.steps, dtype=np.int64) + steps)
            steps, seen = steps + stage.tail.steps, seen + len(stage.steps)
        return cls(stages, offsets, np.concatenate(places), parts)

    def column(self, name: str) -> np.ndarray:
        """float64, as long as `x`."""
        return np.concatenate([stage.column(name) for stage in self.stages])

    def curve(self, name: str, column: np.ndarray | str, colour: str, *, noisy: bool = True, dashed: bool = False) -> Curve:
        """A curve that no line joins over stages, smoothed where it is `noisy` and long."""
        values = self.column(column) if isinstance(column, str) else column
        longest = max(b - a for a, b in self.parts)
        span = max(5.0, longest / SMOOTHED) if noisy and longest > FEW else 1.0
        return Curve(name, self.x, values, colour, span, dashed=dashed, parts=self.parts)

    def across(self) -> Scale:
        """The axis of steps: from the first to the last, with room for one alone."""
        low, high = float(self.x[0] - 1), float(max(self.x[-1], self.x[0] + 1))
        ticks = [tick for tick in linear(low, high, 10).ticks if low <= tick <= high and tick == round(tick)]
        return Scale(low, high, False, tuple(ticks))

    def plot(self, paper: Paper, box: Box, title: str, note: str, up: Scale) -> Plot:
        """An empty panel over the run's steps."""
        names = [(float(at), f"stage {stage.number}") for at, stage in zip(self.offsets, self.stages, strict=True)]
        return Plot(paper, box, title, note, self.across(), up, names)


Chart = Callable[[Paper, Box, Run], None]


def draw_run(stages: list[Stage], title: str, facts: Sequence[tuple[str, str]]) -> tuple[Paper, dict[str, Box]]:
    """The page.

    Args:
        stages: from `history.load`.
        title: of the page.
        facts: (figure, what it counts) under the title.

    Returns:
        (page, where each chart stands on it by name: 'loss', 'rate', 'gradient', ...).
    """
    run = Run.of(stages)
    rows: list[list[tuple[str, Chart]]] = [
        [("loss", _loss)],
        [("rate", _rate), ("gradient", _gradient)],
        [("tokens", _tokens), ("samples", _samples)],
        [("shares", _shares), ("shown", _shown)],
        [("memory", _memory), ("gpu", _gpu)],
    ]
    heights = [TALL, *[HEIGHT] * (len(rows) - 1)]
    if not any(np.isfinite(run.column(key)).any() for key in ON_GPU):
        rows[-1:] = [[("memory", _memory)]]
        heights[-1] = SHORT
    table = 66 + ROW * (len(stages) + 1)
    paper = Paper(HEAD + sum(heights) + GAP * len(rows) + table + GAP)
    _head(paper, title, facts)
    places, top = {}, HEAD
    for row, height in zip(rows, heights, strict=True):
        width = WIDTH - 2 * MARGIN if len(row) == 1 else HALF
        for k, (name, draw) in enumerate(row):
            left = MARGIN + k * (width + GAP)
            places[name] = Box(left, top, left + width, top + height)
            draw(paper, places[name], run)
        top += height + GAP
    places["table"] = Box(MARGIN, top, WIDTH - MARGIN, top + table)
    _table(paper, places["table"], stages)
    return paper, places


def _head(paper: Paper, title: str, facts: Sequence[tuple[str, str]]) -> None:
    paper.text(MARGIN, MARGIN - 10, Lettering(28, True).cut(title, WIDTH - 2 * MARGIN), 28, INK, bold=True)
    x = float(MARGIN)
    for figure, what in facts:
        x += paper.text(x, MARGIN + 32, figure, 18, BLUE, bold=True) + 7
        x += paper.text(x, MARGIN + 34, what, 15, MUTED) + 30


def _loss(paper: Paper, box: Box, run: Run) -> None:
    train = run.curve("training" + (", smoothed" if len(run.x) > FEW else ""), "loss", BLUE)
    held = []
    for name in [name for name in (*COMBINATIONS, "all") if any(name in stage.held_out for stage in run.stages)]:
        # of one combination, 'all' says the same
        told = [stage.held_out.get(name, []) if name != "all" or len(stage.held_out) > 2 else [] for stage in run.stages]
        if not any(told):
            continue
        ends = np.cumsum([0, *map(len, told)]).tolist()
        points = [(step + at, loss) for at, part in zip(run.offsets, told, strict=True) for step, loss in part]
        x, y = np.array(points, dtype=float).T
        parts = [(a, b) for a, b in zip(ends, ends[1:], strict=False) if b > a]
        label = f"held out, {NAMES.get(name, name)}"
        held.append(Curve(label, x, y, COLOURS.get(name, AMBER), dots=len(x) <= 200, parts=parts))
    if not np.isfinite(train.y).any():
        return said(paper, box, "Loss", "no loss", "No record of the metrics has a finite one.")
    up, above, largest = fitted([train, *held])
    plot = run.plot(paper, box, "Loss", "cross-entropy a supervised token, over optimizer steps", up)
    for curve in (train, *held):
        plot.curve(curve)
    return plot.finish(f"{above:,} above the axis, up to {largest:.3g}" if above else "")


def _rate(paper: Paper, box: Box, run: Run) -> None:
    names = dict.fromkeys(name for stage in run.stages for name in stage.names("rates"))
    groups: list[tuple[list[str], np.ndarray]] = []
    for name in names:  # parts that have one rate share a line
        values = run.column(f"rates/{name}")
        for k, (group, known) in enumerate(groups):
            both = np.isfinite(values) & np.isfinite(known)
            if both.any() and np.array_equal(values[both], known[both]):
                groups[k] = ([*group, name], np.where(np.isfinite(known), known, values))
                break
        else:
            groups.append(([name], values))
    named = [(", ".join(group), values) for group, values in groups] or [("language model", run.column("lr"))]
    curves = [run.curve(name, values, colour, noisy=False) for (name, values), colour in zip(named, PARTS * 4, strict=False)]
    curves = _there(curves)
    _lines(paper, box, run, "Learning rate", "after warmup and schedule, logarithmic", curves, log=True)


def _gradient(paper: Paper, box: Box, run: Run) -> None:
    curves = _there([run.curve("before clipping", "grad_norm", BLUE)])
    overflows = np.array([step + at for at, stage in zip(run.offsets, run.stages, strict=True) for step in stage.overflows])
    _lines(paper, box, run, "Gradient norm", "logarithmic", curves, log=True, marks=overflows)


def _tokens(paper: Paper, box: Box, run: Run) -> None:
    supervised = _ratio(run.column("supervised"), run.column("seconds"))
    curves = [run.curve("all", "tokens_per_s", BLUE), run.curve("supervised", supervised, GREEN)]
    _lines(paper, box, run, "Throughput", "tokens a second", _there(curves), zero=True)


def _samples(paper: Paper, box: Box, run: Run) -> None:
    curves = _there([run.curve("samples", "samples_per_s", BLUE)])
    _lines(paper, box, run, "Throughput", "samples a second", curves, zero=True)


def _shares(paper: Paper, box: Box, run: Run) -> None:
    waiting = 100.0 * _ratio(run.column("waited"), run.column("seconds"))
    padding = 100.0 * (1.0 - _ratio(run.column("tokens"), run.column("computed")))
    curves = [run.curve("waiting for data", waiting, ORANGE), run.curve("padding", padding, VIOLET)]
    _lines(paper, box, run, "Waste", "% of the time, % of the computed tokens", _there(curves), zero=True, least=5.0)


def _shown(paper: Paper, box: Box, run: Run) -> None:
    names = [name for name in COMBINATIONS if any(name in stage.names("mix") for stage in run.stages)]
    if not names:
        return said(paper, box, "What samples showed", "not recorded", "The metrics have no key 'mix'.")
    values = np.nan_to_num(np.array([run.column(f"mix/{name}") for name in names]))
    whole = values.sum(0)
    shares = np.divide(100.0 * values, whole, out=np.zeros_like(values), where=whole > 0)
    plot = run.plot(paper, box, "What samples showed", "% of a step's samples", PERCENT)
    of_all = values.sum(1) / max(1.0, float(whole.sum()))
    parts = [(f"{NAMES.get(n, n)} {part:.0%}", share, COLOURS[n]) for n, part, share in zip(names, of_all, shares, strict=True)]
    plot.shares(run.x, run.parts, parts)
    return plot.finish()


def _memory(paper: Paper, box: Box, run: Run) -> None:
    curves = [
        run.curve("in use on the card", "gpu_memory_gib", ORANGE, noisy=False),
        run.curve("peak allocated", "peak_gib", BLUE, noisy=False),
        run.curve("reserved", "reserved_gib", GREEN, noisy=False),
        run.curve("the card has", "gpu_memory_total_gib", RED, noisy=False, dashed=True),
    ]
    _lines(paper, box, run, "GPU memory", "GiB", _there(curves), zero=True)


def _gpu(paper: Paper, box: Box, run: Run) -> None:
    curves = [run.curve("utilisation, %", "gpu_utilisation", BLUE), run.curve("temperature, °C", "gpu_temperature", RED)]
    _lines(paper, box, run, "GPU", "", _there(curves), fixed=PERCENT)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where the whole is nothing."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 1e-9)


def _there(curves: Sequence[Curve]) -> list[Curve]:
    """Those that have a value."""
    return [curve for curve in curves if np.isfinite(curve.y).any()]


def _lines(
    paper: Paper,
    box: Box,
    run: Run,
    title: str,
    note: str,
    curves: list[Curve],
    *,
    log: bool = False,
    zero: bool = False,
    least: float = 0.0,
    fixed: Scale | None = None,
    marks: np.ndarray | None = None,
) -> None:
    """A panel of curves, or why there is none. `least`: what the axis reaches at least; `fixed`: the axis."""
    usable = [curve for curve in curves if not log or np.nanmax(curve.y) > 0.0]
    if not usable:
        why = "There was no CUDA device, or its driver does not tell." if title.startswith("GPU") else "The metrics do not say."
        return said(paper, box, title, "not recorded", why)
    up, above, largest = fitted(usable, log=log, zero=zero)
    if fixed is not None:
        up, above = fixed, 0
    elif up.high < least:
        up, above = linear(0.0, least), 0
    plot = run.plot(paper, box, title, note, up)
    for curve in usable:
        plot.curve(curve)
    if marks is not None:
        plot.marks(marks, "overflow, no update", RED)
    return plot.finish(f"{above:,} above the axis, up to {largest:.3g}" if above else "")


def _table(paper: Paper, box: Box, stages: list[Stage]) -> None:
    room = paper.panel(box, "Stages", "waiting: of the time, for data; padding: of the computed tokens; time: of the steps alone")
    lines = [HEADERS, *(cells(stage.row()) for stage in stages)]
    letters = Lettering(SMALL)
    widths = [max(letters.width(line[k]) for line in lines) for k in range(len(HEADERS))]
    gap = (room.width - sum(widths)) / (len(widths) - 1)
    for number, line in enumerate(lines):
        y, x = room.top + number * ROW, float(room.left)
        if number:
            paper.pen.line((room.left, y - 4, room.right, y - 4), GRID)
        for k, (cell, width) in enumerate(zip(line, widths, strict=True)):
            colour = MUTED if number == 0 else INK
            paper.text(x if k == 0 else x + width, y, cell, SMALL, colour, align="left" if k == 0 else "right")
            x += width + gap
