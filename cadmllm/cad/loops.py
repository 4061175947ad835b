"""Loops from loose curves, and profiles from loose loops: what files leave to the reader."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from cadmllm.cad.program import CLOSURE, Arc, Circle, Curve, Line, Loop, Point2, Profile
from cadmllm.errors import CadmllmError

RESOLUTION = 2.5e-5  # mm: files round points to 1e-8 m, so that two roundings of one point can be this far apart
FACETS = 16  # chords an arc or a circle is drawn with where only inside and outside matter
MOST_WITHIN = 20_000  # pairs of loops of a profile of which one may lie within the other; 10,000 holes of a plate make 10,000

Polygon = list[Point2]


def reverse(curve: Line | Arc) -> Line | Arc:
    """The same curve run through from its end."""
    if isinstance(curve, Arc):
        return Arc(curve.end, curve.start, -curve.sweep)
    return Line(curve.end, curve.start)


def chain(curves: list[Curve], at: str) -> Loop:
    """Order curves so that each starts exactly where the one before ended; the first keeps its place.

    The first curve keeps its direction, too, unless only its start touches the second: the order of the file then decides.

    Args:
        curves: either one circle, or lines and arcs in any order and direction, mm.
        at: what to call the loop in messages.

    Raises:
        CadmllmError: E207 when the loop is empty, open by more than `CLOSURE` of its size, or encloses no area.
    """
    if not curves:
        raise CadmllmError("E207", f"{at} has no curve", "leave this file out of the data set")
    if isinstance(curves[0], Circle) and len(curves) == 1:
        return Loop((curves[0],))
    rest = [curve for curve in curves if not isinstance(curve, Circle)]
    if len(rest) < len(curves):
        raise CadmllmError("E207", f"{at} mixes a circle with other curves", "make each circle a loop of its own")
    tolerance = max(CLOSURE * _size(rest), RESOLUTION)
    ordered = [rest.pop(0)]
    if len(rest) > 1 and _apart(ordered[0].start, rest[0]) <= tolerance < _apart(ordered[0].end, rest[0]):
        ordered[0] = reverse(ordered[0])
    place = 0
    while rest:
        place, flipped, gap = _nearest(ordered[-1].end, rest, place)
        if gap > tolerance:
            raise _open(at, gap, ordered[-1].end)
        found = rest.pop(place)
        ordered.append(replace(reverse(found) if flipped else found, start=ordered[-1].end))
    gap = math.dist(ordered[-1].end, ordered[0].start)
    if gap > tolerance:
        raise _open(at, gap, ordered[-1].end)
    ordered[-1] = replace(ordered[-1], end=ordered[0].start)
    for curve in ordered:
        if curve.start == curve.end:
            raise CadmllmError("E208", f"{at}: a curve of zero length at {_show(curve.start)} mm", "remove the curve")
    if len(ordered) < 2 or (len(ordered) == 2 and all(isinstance(curve, Line) for curve in ordered)):
        raise CadmllmError("E207", f"{at} encloses no area", "leave this file out of the data set")
    return Loop(tuple(ordered))


def _apart(point: Point2, curve: Line | Arc) -> float:
    """Distance of a point from the nearer end of a curve."""
    return min(math.dist(point, curve.start), math.dist(point, curve.end))


def _show(point: Point2) -> str:
    return f"({point[0]:.6g}, {point[1]:.6g})"


def _open(at: str, gap: float, point: Point2) -> CadmllmError:
    message = f"{at} is open: a gap of {gap:.6g} mm at {_show(point)} mm"
    return CadmllmError("E207", message, "close the loop or leave the file out")


def _size(curves: list[Line | Arc]) -> float:
    xs = [x for curve in curves for x in (curve.start[0], curve.end[0])]
    ys = [y for curve in curves for y in (curve.start[1], curve.end[1])]
    return max(max(xs) - min(xs), max(ys) - min(ys))


def _nearest(point: Point2, curves: list[Line | Arc], place: int) -> tuple[int, bool, float]:
    """(index, whether it must be reversed, gap): the curve with an end nearest to `point`, those after `place` first.

    Files store neighbours next to each other, so the search nearly always ends with its first candidate.
    """
    best = (0, False, math.inf)
    count = len(curves)
    for step in range(count):
        index = (place + step) % count
        ahead, behind = math.dist(point, curves[index].start), math.dist(point, curves[index].end)
        if min(ahead, behind) < best[2]:
            best = (index, behind < ahead, min(ahead, behind))
            if best[2] == 0.0:
                break
    return best


def polygon(loop: Loop) -> Polygon:
    """Corner points of the loop, mm, with arcs and circles drawn as chords; the corner where it begins is first."""
    points: Polygon = []
    for curve in loop.curves:
        if isinstance(curve, Circle):
            (x, y), r = curve.center, curve.radius
            turns = [2.0 * math.pi * k / (2 * FACETS) for k in range(2 * FACETS)]
            return [(x + r * math.cos(a), y + r * math.sin(a)) for a in turns]
        points.append(curve.start)
        if isinstance(curve, Arc):
            points.extend(curve.point(k / FACETS) for k in range(1, FACETS))
    return points


def area(corners: Polygon) -> float:
    """Signed area, mm2, by the shoelace formula; positive when counter-clockwise."""
    return 0.5 * sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, corners[1:] + corners[:1], strict=True))


def inside(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Which of the points [N, 2] lie inside a polygon [M, 2], by counting crossings of a ray to the right: bool [N]."""
    x, y = points[:, :1], points[:, 1:]
    (x0, y0), (x1, y1) = corners.T, np.roll(corners, -1, axis=0).T
    across = (y0 > y) != (y1 > y)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # of sides that the ray does not meet
        right = x < x0 + (y - y0) / (y1 - y0) * (x1 - x0)
    return (across & right).sum(axis=1) % 2 == 1


def _contains(outer: np.ndarray, inner: np.ndarray) -> bool:
    """Whether most corners and mid-sides of `inner` lie inside `outer`: loops may touch, but a region's do not cross."""
    probes = np.concatenate([inner, (inner + np.roll(inner, -1, axis=0)) / 2.0])
    probes = probes[:: max(1, len(probes) // 64)]
    return 2 * int(inside(probes, outer).sum()) > len(probes)


def nest(loops: list[Loop], at: str = "the profile") -> tuple[Profile, ...]:
    """Profiles from loops of which nobody said which is a hole: a loop inside an odd number of others is one.

    Outer loops and the holes of each keep the order they came in. Several outer loops give several profiles.

    Raises:
        CadmllmError: E212 when the loops lie within one another so often that telling them apart would take minutes.
    """
    if len(loops) == 1:
        return (Profile(loops[0]),)
    drawn = [polygon(loop) for loop in loops]
    sizes = np.array([abs(area(shape)) for shape in drawn])
    shapes = [np.array(shape) for shape in drawn]
    low, high = (np.array([edge(shape, axis=0) for shape in shapes]) for edge in (np.min, np.max))
    near: list[list[int]] = []
    asked = 0
    for i in range(len(shapes)):
        slack = 1e-3 * np.max(high[i] - low[i])  # chords of a circle fall short of it
        around = (sizes > sizes[i]) & np.all(low - slack <= low[i], axis=1) & np.all(high[i] <= high + slack, axis=1)
        near.append(np.flatnonzero(around).tolist())
        asked += len(near[-1])
        if asked > MOST_WITHIN:
            raise CadmllmError("E212", f"{at} has {len(loops):,} loops within one another", "leave this file out of the data set")
    parents = [[j for j in others if _contains(shapes[j], shape)] for others, shape in zip(near, shapes, strict=True)]
    outers = [i for i, above in enumerate(parents) if len(above) % 2 == 0]
    holes: dict[int, list[Loop]] = {i: [] for i in outers}
    for i, above in enumerate(parents):
        if len(above) % 2:
            owner = min((j for j in above if j in holes), key=lambda j: sizes[j], default=None)
            if owner is None:  # cannot happen for nested loops; crossing ones may claim each other, and then stand alone
                holes[i] = []
            else:
                holes[owner].append(loops[i])
    return tuple(Profile(loops[i], tuple(inner)) for i, inner in holes.items())
