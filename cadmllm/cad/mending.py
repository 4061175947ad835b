"""Loops put right without a kernel: gaps closed, what has no length removed, outlines that cross themselves made simple."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from cadmllm.cad.kernel import sound
from cadmllm.cad.loops import chain, reverse
from cadmllm.cad.program import (
    CLOSURE,
    LARGEST,
    Arc,
    Circle,
    Extent,
    ExtentType,
    Extrude,
    Line,
    Loop,
    Operation,
    Plane,
    Point2,
    Profile,
    Sketch,
)
from cadmllm.errors import CadmllmError

SMALL = 0.02  # of a loop's size: a smaller gap is closed by moving an end, a larger one by a line
FLAT = math.radians(1.0)  # an arc of less sweep leaves its chord by less than 0.3 % of it: it can be a line
CHORDS = 23  # an arc is drawn with where crossings are looked for; odd, as what is drawn often meets an arc at 30 or 60 degrees
CLEAR = 1e-9  # of the loop's size squared: twice the area below which three points count as on a line
MOST_CHORDS = 2_000  # all pairs of them are looked at
MOST_ARCS = 6  # whose every choice of sides is tried
MOST_EXCHANGES = 12

Open = Line | Arc


def usable(loop: Loop) -> bool:
    """Whether a loop passes `program.validate`."""
    sketch = Sketch(Plane(), (Profile(loop),))
    return sound(Extrude((sketch,), Operation.NEW_BODY, Extent(ExtentType.ONE_SIDE, 1.0)))


def heal(loop: Loop) -> tuple[Loop | None, str]:
    """A loop that fails `validate`, put right: (the loop, what was done), or (None, what is wrong) where nothing can be.

    Curves without length or with numbers that cannot be go; arcs without a sweep become lines and those beyond a full turn lose
    the turns; curves out of order are put in order; an end that misses the next by less than `SMALL` of the loop's size is moved
    there, a wider gap gets a line.
    """
    near = [curve for curve in loop.curves if _near(curve)]
    if len(near) < min(2, len(loop.curves)):
        return None, f"it has numbers that are not finite or beyond {LARGEST:.4g} mm"
    done = [f"{_count(len(loop.curves) - len(near), 'curve')} with an impossible number removed"] * (len(near) < len(loop.curves))
    circles = [curve for curve in near if isinstance(curve, Circle)]
    if circles and len(circles) == len(near):
        circle = replace(circles[0], radius=abs(circles[0].radius))
        return _checked(Loop((circle,)), [f"its radius is {circle.radius:.6g} mm"] * (circle.radius > 0.0))
    done += ["a circle among its curves was removed"] * bool(circles)
    curves = _with_length([curve for curve in near if not isinstance(curve, Circle)], done)
    if len(curves) < 2:
        return None, "it encloses no area"
    try:
        whole = chain(list(curves), "the loop")
        if not usable(Loop(tuple(curves))):
            done.append("its curves were put in order and their ends joined")
        return _checked(whole, done)
    except CadmllmError:
        return _checked(Loop(tuple(_closed(curves, done))), done)


def _near(curve: Line | Arc | Circle) -> bool:
    """Whether all of a curve's numbers are finite and within reach."""
    numbers = [*lengths(Loop((curve,))), curve.sweep if isinstance(curve, Arc) else 0.0]
    return all(math.isfinite(value) and abs(value) <= LARGEST for value in numbers)


def lengths(loop: Loop) -> list[float]:
    """All coordinates and radii of a loop, mm."""
    found: list[float] = []
    for curve in loop.curves:
        found += [*curve.center, curve.radius] if isinstance(curve, Circle) else [*curve.start, *curve.end]
    return found


def _checked(loop: Loop, done: list[str]) -> tuple[Loop | None, str]:
    if usable(loop):
        return loop, ", ".join(done) or "its curve ends were joined"
    return None, "it encloses no area or reaches too far"


def _with_length(curves: list[Open], done: list[str]) -> list[Open]:
    kept: list[Open] = []
    short = bent = 0
    for curve in curves:
        sweep = math.fmod(curve.sweep, 2.0 * math.pi) if isinstance(curve, Arc) else 0.0
        if math.dist(curve.start, curve.end) == 0.0:
            short += 1
        elif isinstance(curve, Arc) and (sweep != curve.sweep or sweep == 0.0):
            bent += 1
            kept.append(replace(curve, sweep=sweep) if sweep else Line(curve.start, curve.end))
        else:
            kept.append(curve)
    if short:
        done.append(f"{_count(short, 'curve')} without length removed")
    if bent:
        done.append(f"{_count(bent, 'arc')} with an impossible sweep put right")
    return kept


def _closed(curves: list[Open], done: list[str]) -> list[Open]:
    """Each curve made to start where the one before ended."""
    points = [point for curve in curves for point in (curve.start, curve.end)]
    size = max(max(p[k] for p in points) - min(p[k] for p in points) for k in (0, 1))
    result: list[Open] = []
    widest, bridges = 0.0, 0
    for index, curve in enumerate((*curves, curves[0])):
        last = index == len(curves)
        before = result[-1].end if result else curve.start
        gap = math.dist(before, curve.start)
        if gap > SMALL * size:
            bridges += 1
            result.append(Line(before, curve.start))
        elif gap > 0.0:
            widest = max(widest, gap)
            if last:
                result[-1] = replace(result[-1], end=curve.start)
            else:
                curve = replace(curve, start=before)
        if not last and curve.start != curve.end:
            result.append(curve)
    if widest > CLOSURE * size:
        done.append(f"gaps of up to {widest:.4g} mm closed")
    if bridges:
        done.append(f"{_count(bridges, 'wide gap')} closed by a line")
    return [curve for curve in result if curve.start != curve.end]


def flatten(loop: Loop) -> tuple[Loop, str] | None:
    """The loop with its flattest arcs as lines, and what was done; None where it has none."""
    flat = [isinstance(curve, Arc) and min(abs(curve.sweep), 2.0 * math.pi - abs(curve.sweep)) < FLAT for curve in loop.curves]
    curves = tuple(
        Line(curve.start, curve.end) if bad and isinstance(curve, Arc) else curve
        for bad, curve in zip(flat, loop.curves, strict=True)
    )
    changed = Loop(curves)
    return (changed, f"{_count(sum(flat), 'arc')} of nearly no bend made straight") if any(flat) and usable(changed) else None


def crossing(loop: Loop) -> list[tuple[int, int]]:
    """Pairs of curves, by index, that cross each other ; touching is no crossing.

    Arcs are drawn with chords: whether a loop that nearly touches itself crosses is the kernel's to say. A loop of more than
    `MOST_CHORDS` chords is not looked at.
    """
    points: list[Point2] = []
    owners: list[int] = []
    for index, curve in enumerate(loop.curves):
        if isinstance(curve, Circle):
            return []
        points.append(curve.start)
        count = CHORDS if isinstance(curve, Arc) else 1
        if isinstance(curve, Arc):
            points.extend(curve.point(k / CHORDS) for k in range(1, CHORDS))
        owners.extend([index] * count)
    if len(points) > MOST_CHORDS:
        return []
    a = np.array(points)
    b = np.roll(a, -1, axis=0)
    along = b - a
    side = CLEAR * float(np.ptp(a, axis=0).max()) ** 2

    def turn(p: np.ndarray) -> np.ndarray:  # [N, N]: twice the area of (chord i, point j), 0 where it is next to nothing
        away = p[None] - a[:, None]
        found = along[:, None, 0] * away[..., 1] - along[:, None, 1] * away[..., 0]
        return np.where(np.abs(found) > side, found, 0.0)

    split = turn(a) * turn(b) < 0.0  # chord i has the ends of chord j on its two sides
    rows, columns = np.nonzero(np.triu(split & split.T))
    return sorted({(owners[i], owners[j]) for i, j in zip(rows.tolist(), columns.tolist(), strict=True)})


def untangle(loop: Loop) -> tuple[Loop, str] | None:
    """A loop that crosses itself made simple by the least change that does it: (the loop, what was done); None where none does.

    Tried in this order: arcs bulge to their other side; one corner is left out; sides that cross exchange their ends, which
    keeps every corner.
    """
    pairs = crossing(loop)
    if not pairs:
        return None
    for changed, done in itertools.chain(_turned(loop, pairs), _cut_short(loop, pairs), _exchanged(loop, pairs)):
        if usable(changed) and not crossing(changed):
            return changed, done
    return None


def _turned(loop: Loop, pairs: list[tuple[int, int]]) -> Iterator[tuple[Loop, str]]:
    arcs = [index for index in sorted({index for pair in pairs for index in pair}) if isinstance(loop.curves[index], Arc)]
    for count in range(1, len(arcs) + 1 if len(arcs) <= MOST_ARCS else 2):
        for chosen in itertools.combinations(arcs, count):
            curves = [
                replace(curve, sweep=-curve.sweep) if index in chosen and isinstance(curve, Arc) else curve
                for index, curve in enumerate(loop.curves)
            ]
            yield Loop(tuple(curves)), f"{_count(count, 'arc')} that crossed it bent to the other side"


def _cut_short(loop: Loop, pairs: list[tuple[int, int]]) -> Iterator[tuple[Loop, str]]:
    """The loop without one corner between lines, the choice that changes its length least first."""
    curves = loop.curves
    found: list[tuple[float, Loop, Point2]] = []
    if len(curves) < 4:
        return
    for index in sorted({(i + step) % len(curves) for pair in pairs for i in pair for step in (0, 1)}):
        one, other = curves[index - 1], curves[index]
        if isinstance(one, Line) and isinstance(other, Line) and one.start != other.end:
            less = math.dist(one.start, one.end) + math.dist(other.start, other.end) - math.dist(one.start, other.end)
            joined = Line(one.start, other.end)
            rest = [*curves[index + 1 :], *curves[: index - 1]] if index else list(curves[1:-1])
            found.append((less, Loop((joined, *rest)), other.start))
    for _, changed, corner in sorted(found, key=lambda item: item[0]):
        yield changed, f"its corner at ({corner[0]:.6g}, {corner[1]:.6g}) mm left out, where it crossed itself"


def _exchanged(loop: Loop, pairs: list[tuple[int, int]]) -> Iterator[tuple[Loop, str]]:
    """Uncrossing by exchange (Croes, "A method for solving traveling-salesman problems", 1958): a-b, c-d become a-c, b-d."""
    for number in range(1, MOST_EXCHANGES + 1):
        lines = [(i, j) for i, j in pairs if isinstance(loop.curves[i], Line) and isinstance(loop.curves[j], Line)]
        if not lines:
            return
        i, j = lines[0]
        one, other = loop.curves[i], loop.curves[j]
        assert isinstance(one, Line)
        assert isinstance(other, Line)
        middle = [reverse(curve) for curve in reversed(loop.curves[i + 1 : j]) if not isinstance(curve, Circle)]
        changed = (*loop.curves[:i], Line(one.start, other.start), *middle, Line(one.end, other.end), *loop.curves[j + 1 :])
        loop = Loop(tuple(curve for curve in changed if isinstance(curve, Circle) or curve.start != curve.end))
        yield loop, f"{_count(number, 'pair')} of its sides that crossed exchanged, with all of its corners kept"
        pairs = crossing(loop)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
