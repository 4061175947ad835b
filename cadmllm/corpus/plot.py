"""Line charts on a page: axes, curves with their noise behind them, points, stacked shares. Any number of steps in any width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageChops, ImageColor, ImageDraw

from cadmllm.corpus.charts import short
from cadmllm.corpus.lettering import Lettering
from cadmllm.corpus.paper import INK, MUTED, PANEL, TINY, Box, Paper

FINE = 3  # times finer than the page: what is drawn is then made smaller, so that lines have no steps
GRID, EDGE, STAGE = "#e6eaf0", "#b8c2cf", "#c3ccd8"
LEFT, RIGHT, BELOW, ABOVE = 46, 10, 18, 30  # px about the plot: labels of the axes, legend
DASH = 6  # px
SPIKES, WILD = 99.8, 5.0  # the axis shows so many % of the values, and none beyond so many times what 95 % stay below


@dataclass(slots=True)
class Curve:
    """One curve: what it was at each step, and the smoothed line through it.

    Attributes:
        name: in the legend; '' is not.
        x, y: steps and values; NaN is a gap.
        colour: of the line; the values behind it are drawn in a pale one.
        span: steps that the line is the mean of (exponentially weighted); 1 draws the values themselves.
        dots: draw the values as points as well (few and far between).
        dashed: for limits.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: str
    span: float = 1.0
    dots: bool = False
    dashed: bool = False
    parts: list[tuple[int, int]] = field(default_factory=list)  # index ranges that no line crosses: stages

    def line(self) -> np.ndarray:
        """The smoothed values, each part by itself."""
        if self.span <= 1.0:
            return self.y
        return np.concatenate([smooth(self.y[a:b], self.span) for a, b in self.parts or [(0, len(self.y))]])


def smooth(values: np.ndarray, span: float) -> np.ndarray:
    """Exponentially weighted mean of about the last `span` values, true from the first one on. Gaps stay gaps."""
    out = np.full(len(values), np.nan)
    keep = 1.0 - 2.0 / (span + 1.0)
    total = weight = 0.0
    for k, value in enumerate(values.tolist()):
        if value == value:  # not NaN
            total, weight = keep * total + value, keep * weight + 1.0
            out[k] = total / weight
    return out


@dataclass(frozen=True, slots=True)
class Scale:
    """A map from values to 0..1, and the values that are labelled."""

    low: float
    high: float
    log: bool = False
    ticks: tuple[float, ...] = ()

    def place(self, values: np.ndarray) -> np.ndarray:
        """Where values stand between low (0) and high (1); NaN for what a logarithm does not have."""
        if not self.log:
            return (values - self.low) / (self.high - self.low)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(values > 0.0, np.log10(values), np.nan)
        low, high = math.log10(self.low), math.log10(self.high)
        return (logs - low) / (high - low)

    def label(self, value: float) -> str:
        """A tick's value, in the digits that its neighbours need."""
        if self.log:
            return f"{value:g}" if 1e-2 <= value < 1e4 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        if self.high >= 1e4:
            return short(value)
        return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def linear(low: float, high: float, count: int = 5) -> Scale:
    """About `count` round ticks that enclose the values."""
    low, high = min(low, high), max(low, high)
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):  # a value alone: from or to 0
        low, high = (min(0.0, low), max(0.0, high)) if max(abs(low), abs(high)) > 1e-9 else (0.0, 1.0)
    step = nice((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(k * step, 12) for k in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], False, ticks)


def logarithmic(low: float, high: float) -> Scale:
    """Ticks at powers of ten, with 2 and 5 between them where there are few."""
    a, b = math.log10(low), math.log10(high)
    if b - a < 0.6:
        a, b = (a + b) / 2.0 - 0.3, (a + b) / 2.0 + 0.3
    steps = (1, 2, 5) if b - a < 2.2 else (1,)
    every = max(1, math.ceil((b - a) / 8.0))
    powers = range(math.floor(a) - 1, math.ceil(b) + 1)
    ticks = [float(f"{step}e{k}") for k in powers if k % every == 0 for step in steps]
    return Scale(10.0**a, 10.0**b, True, tuple(tick for tick in ticks if 10.0**a * (1 - 1e-9) <= tick <= 10.0**b * (1 + 1e-9)))


def nice(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(step, 1e-12)) + 1e-9)
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= step * (1 - 1e-9))


def fitted(curves: Sequence[Curve], *, log: bool = False, zero: bool = False) -> tuple[Scale, int, float]:
    """The axis that shows nearly all values.

    Args:
        curves: at least one finite value among them.
        log: a logarithmic axis; what is not positive is not seen.
        zero: begin at 0.

    Returns:
        (axis, number of values above it, the largest of all).
    """
    usable = [c.y[np.isfinite(c.y) & ((c.y > 0.0) | (not log))] for c in curves]
    usable = [values for values in usable if len(values)]
    everything = np.concatenate(usable)
    top = max(float(np.percentile(values, SPIKES)) for values in usable)
    usual = max(float(np.percentile(values, 95.0)) for values in usable)
    if usual > 0.0:
        top = min(top, WILD * usual)  # one wild step must not flatten all others
    low = min(float(np.percentile(values, 100.0 - SPIKES)) for values in usable)
    low = max(low, top * 1e-6) if log else min(low, top)
    if log:
        scale = logarithmic(low * 0.9, top * 1.1)
    else:
        pad = 0.04 * (top - low)
        scale = linear(0.0 if zero or 0.0 <= low < 0.3 * top else low - pad, top + pad)
    return scale, int((everything > scale.high).sum()), float(everything.max())


class Plot:
    """A panel with axes. Draw curves, then `finish`.

    Args:
        paper, box: where.
        title, note: of the panel; the note names what is measured in what.
        across: steps, from 0 or the first one to the last.
        up: values.
        stages: (step before its first, name) of each, marked by a line; empty: there are none.
    """

    def __init__(
        self, paper: Paper, box: Box, title: str, note: str, across: Scale, up: Scale, stages: Sequence[tuple[float, str]]
    ) -> None:
        self.paper, self.across, self.up = paper, across, up
        self.room = paper.panel(box, title, note)
        self.plot = Box(self.room.left + LEFT, self.room.top + ABOVE, self.room.right - RIGHT, self.room.bottom - BELOW)
        self._image = Image.new("RGB", (self.plot.width * FINE, self.plot.height * FINE), PANEL)
        self._pen = ImageDraw.Draw(self._image)
        self._legend: list[tuple[str, str, bool]] = []
        self._stages = [(max(0.0, float(across.place(np.array([at]))[0])), name) for at, name in stages]
        for tick in up.ticks:
            y = self._y(np.array([tick]))[0]
            self._pen.line((0, y, self._image.width, y), GRID, FINE)

    def _x(self, values: np.ndarray) -> np.ndarray:
        return self.across.place(values.astype(float)) * (self._image.width - 1)

    def _y(self, values: np.ndarray) -> np.ndarray:
        return (1.0 - self.up.place(values)) * (self._image.height - FINE) + FINE // 2

    def curve(self, curve: Curve) -> None:
        """Draw a curve: its values pale, the line through them strong."""
        line, x = curve.line(), self._x(curve.x)
        if curve.span > 1.0:
            self._trace(x, self._y(curve.y), pale(curve.colour), 1, curve.parts)
        self._trace(x, self._y(line), curve.colour, 2, curve.parts, dashed=curve.dashed)
        if curve.dots or np.isfinite(curve.y).sum() == 1:
            for px, py in zip(x, self._y(curve.y), strict=True):
                if math.isfinite(py):
                    r = 3.5 * FINE
                    self._pen.ellipse((px - r, py - r, px + r, py + r), curve.colour, PANEL, FINE)
        if curve.name:
            self._legend.append((curve.name, curve.colour, curve.dashed))

    def _trace(
        self, x: np.ndarray, y: np.ndarray, colour: str, width: int, parts: Sequence[tuple[int, int]], *, dashed: bool = False
    ) -> None:
        for begin, end in parts or [(0, len(x))]:
            for a, b in runs(np.isfinite(y[begin:end])):
                px, py = thinned(x[begin + a : begin + b], y[begin + a : begin + b])
                points = list(zip(px.tolist(), py.tolist(), strict=True))
                if len(points) == 1:
                    r = width * FINE / 2.0
                    self._pen.ellipse((px[0] - r, py[0] - r, px[0] + r, py[0] + r), colour)
                elif dashed:
                    places = np.arange(px[0], px[-1], DASH * FINE)
                    places = np.append(places, px[-1])
                    ends = list(zip(places.tolist(), np.interp(places, px, py).tolist(), strict=True))
                    for k in range(0, len(ends) - 1, 2):
                        self._pen.line((ends[k], ends[k + 1]), colour, width * FINE)
                else:
                    self._pen.line(points, colour, width * FINE, joint="curve")

    def band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> None:
        """The ground between two curves, very pale: an interval. Draw it before the curves; where an end is NaN there is none."""
        px, bottom, top = self._x(x), self._y(low), self._y(high)
        glass = Image.new("RGB", self._image.size, "#ffffff")  # what lies below is seen through it
        for a, b in runs(np.isfinite(bottom) & np.isfinite(top)):
            if b - a > 1:
                there = list(zip(px[a:b].tolist(), top[a:b].tolist(), strict=True))
                back = list(zip(px[a:b].tolist(), bottom[a:b].tolist(), strict=True))
                ImageDraw.Draw(glass).polygon([*there, *reversed(back)], pale(colour, 0.85))
        self._image.paste(ImageChops.multiply(self._image, glass))

    def shares(self, x: np.ndarray, stages: Sequence[tuple[int, int]], parts: Sequence[tuple[str, np.ndarray, str]]) -> None:
        """Draw shares on top of one another: (name, values [steps], colour) from below; `stages` are index ranges."""
        base = np.zeros(len(x))
        for name, values, colour in parts:
            for a, b in self._bins(x, stages):
                left, right = self._x(np.array([x[a] - 1, x[b - 1]])).tolist()
                low, high = self._y(np.array([base[a:b].mean(), (base[a:b] + values[a:b]).mean()])).tolist()
                self._pen.rectangle((left, high, right, max(low, high)), pale(colour, 0.45))
            base = base + values
            self._legend.append((name, colour, False))

    def _bins(self, x: np.ndarray, stages: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Index ranges, none over two stages, that are a few pixels wide or one step."""
        found = []
        for begin, end in stages:
            width = float(np.ptp(self._x(x[[begin, end - 1]])))
            count = max(1, min(end - begin, int(width / (4 * FINE))))
            edges = np.linspace(begin, end, count + 1).astype(int).tolist()
            found += list(zip(edges, edges[1:], strict=False))
        return found

    def marks(self, x: np.ndarray, name: str, colour: str) -> None:
        """Short strokes on the lower edge: something happened at these steps."""
        for px in self._x(x):
            self._pen.line((px, self._image.height - 9 * FINE, px, self._image.height), colour, 2 * FINE)
        if len(x):
            self._legend.append((f"{name} ({len(x):,})", colour, False))

    def finish(self, beside: str = "") -> None:
        """Put the plot onto the page, with ticks, stages, legend, and a remark at the legend's right."""
        paper, plot = self.paper, self.plot
        for place, _ in self._stages:
            px = place * (self._image.width - 1)
            if 0.0 < place < 1.0:
                for top in range(0, self._image.height, 8 * FINE):
                    self._pen.line((px, top, px, top + 4 * FINE), STAGE, FINE)
        paper.image.paste(self._image.resize((plot.width, plot.height), Image.Resampling.BOX), (plot.left, plot.top))
        paper.pen.line((plot.left, plot.bottom, plot.right, plot.bottom), EDGE)
        for tick in self.up.ticks:
            y = plot.bottom - float(self.up.place(np.array([tick]))[0]) * plot.height
            paper.text(plot.left - 8, y - 9, self.up.label(tick), TINY, MUTED, align="right")
        for tick in self.across.ticks:
            x = plot.left + float(self.across.place(np.array([tick]))[0]) * plot.width
            paper.pen.line((x, plot.bottom, x, plot.bottom + 4), EDGE)
            paper.text(x, plot.bottom + 5, self.across.label(tick), TINY, MUTED, align="center")
        for (place, name), (after, _) in zip(self._stages, [*self._stages[1:], (1.0, "")], strict=False):
            if (after - place) * plot.width > Lettering(TINY).width(name) + 10:
                paper.text(plot.left + place * plot.width + 6, plot.top - 17, name, TINY, MUTED)
        self._write_legend(beside)

    def _write_legend(self, beside: str) -> None:
        paper, x, y = self.paper, float(self.room.left), self.room.top - 8
        letters = Lettering(TINY)
        room = self.room.right - (letters.width(beside) + 16 if beside else 0.0)
        if beside:
            paper.text(self.room.right, y, beside, TINY, MUTED, align="right")
        for name, colour, dashed in self._legend:
            name = letters.cut(name, room - x - 22)
            if x + 60 > room:
                break
            for at in (0, 10) if dashed else (0,):
                paper.pen.line((x + at, y + 9, x + at + (6 if dashed else 16), y + 9), colour, 3)
            x += 22 + paper.text(x + 22, y, name, TINY, INK) + 18


def runs(there: np.ndarray) -> list[tuple[int, int]]:
    """Index ranges [a, b) in which all is there."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], there.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same picture from at most four points a column of pixels: its first, lowest, highest and last value, in order."""
    columns = np.floor(x).astype(np.int64)
    if len(x) <= 4 * (int(columns[-1]) - int(columns[0]) + 1):
        return x, y
    starts = np.flatnonzero(np.diff(columns, prepend=columns[0] - 1))
    kept = []
    for a, b in zip(starts.tolist(), [*starts[1:].tolist(), len(x)], strict=True):
        part = y[a:b]
        kept += sorted({a, a + int(part.argmin()), a + int(part.argmax()), b - 1})
    return x[kept], y[kept]


def pale(colour: str, share: float = 0.62) -> str:
    """The colour, mixed with so much white."""
    mixed = (round(255 * share + part * (1.0 - share)) for part in ImageColor.getrgb(colour)[:3])
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def said(paper: Paper, box: Box, title: str, what: str, why: str) -> None:
    """A panel without curves that says why."""
    paper.empty(paper.panel(box, title), what, why)
