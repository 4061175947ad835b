"""Programs that do not build, mended with what the kernel said: the least that makes a solid, and what was done in words.

A failure names its place. The remedies for it are tried from the gentlest: curves are put right, a hole, a profile, the operation
that fails is left out, at last all that follows it. One that lets the kernel come further is kept and the next failure is looked
at; one that does not is taken back. The last builds are kept for what nearly always works.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median_low

from cadmllm.cad.drafts import Draft
from cadmllm.cad.kernel import BuildResult, Place, Verdict, fault, named, sound
from cadmllm.cad.loops import area, polygon
from cadmllm.cad.mending import crossing, flatten, heal, lengths, untangle, usable
from cadmllm.cad.program import LARGEST, Operation, Plane, Program

COARSE = 3  # builds kept for leaving out all that follows the failure
MANY = 50  # holes of a profile that may be too much work
TRIED = 3  # single extrudes that are tried when the kernel names no place


@dataclass(frozen=True, slots=True)
class Repaired:
    """What became of a program.

    Attributes:
        program: mended, or as it was given when it needed no repair or none helped.
        result: of its build.
        steps: what was done, one sentence each, in the numbers of the given program; empty when nothing was.
        builds: how many it took.
    """

    program: Program
    result: BuildResult
    steps: tuple[str, ...] = ()
    builds: int = 0


def repair(program: Program, result: BuildResult, build: Callable[[Program], BuildResult], most: int = 8) -> Repaired:
    """Mend a program that did not build.

    Args:
        program: as it was built.
        result: of that build. What is OK is given back as it is, and so is PARSE: there is no program.
        build: builds a program (`workshop.Workshop.build`, or with a mesh: `lambda p: shop.build(p, mesh=True)`).
        most: builds at most, >= 1.

    Returns:
        A program that validates and was built OK, and the steps; or the given program with its result, and no steps.
    """
    if result.ok or result.verdict is Verdict.PARSE:
        return Repaired(program, result)
    draft, outcome = Draft(program), result
    tried = {program}
    for count in range(1, most + 1):
        for candidate in _remedies(draft, outcome, most - count < min(COARSE, most // 2)):
            changed = candidate.program
            if changed.extrudes and changed not in tried:
                break
        else:
            return Repaired(program, result, builds=count - 1)
        tried.add(changed)
        found = build(changed)
        if found.ok:
            return Repaired(changed, found, candidate.steps, count)
        slow = outcome.verdict is Verdict.TIMEOUT and found.verdict is Verdict.TIMEOUT  # a little less of it does not help
        if not slow and _reached(candidate, found) > _reached(draft, outcome):
            draft, outcome = candidate, found
    return Repaired(program, result, builds=most)


def _reached(draft: Draft, result: BuildResult) -> tuple[float, float, float]:
    """How far a build came, to be compared: a profile is made after its loops, an operation after its profiles.

    That nothing is left is found when all is made; then the fewer extrudes there are, the nearer is the one that is to blame.
    """
    if fault(draft.program) is not None:
        return (-1.0, 0.0, 0.0)  # before anything was built
    if result.where is None:
        return (math.inf, math.inf, 0.0)
    if result.verdict is Verdict.EMPTY and len(result.where) == 1:
        return (math.inf, -len(draft.kept), 0.0)
    place = *draft.place_of(result.where), math.inf, math.inf
    return float(place[0]), float(place[1]), float(place[2])


def _remedies(draft: Draft, result: BuildResult, coarse: bool) -> Iterator[Draft]:
    """Drafts to try next, gentlest first; the most certain ones before them when `coarse`."""
    if fault(draft.program) is not None:
        yield _healed(draft)
    where = draft.place_of(result.where) if result.where else None
    why = _why(result)
    if where is None:
        yield from _unplaced(draft, result, why)
        return
    if coarse:
        yield _until(draft, where[0], why)
        yield draft.without(where[:1], why)
    if len(where) == 3:
        yield from _of_loop(draft, where, why)
    if len(where) >= 2:
        yield from _of_profile(draft, where[:2], why)
    if len(where) == 1 and result.verdict is Verdict.BUILD:
        places = [place for _, place, _ in draft.profiles(where[0])]
        yield from (draft.without(place, why) for place in places[:0:-1][:TRIED])
    yield draft.without(where[:1], why)
    yield _until(draft, where[0], why)
    if where[0] == 0 and result.verdict is Verdict.EMPTY and draft.original.extrudes[0].operation is not Operation.NEW_BODY:
        yield draft.with_operation(0, Operation.NEW_BODY, "a new body now: there is nothing before it")
    yield from (_from(draft, index, why) for index in draft.kept if index > where[0])


def _why(result: BuildResult) -> str:
    """The reason without the place, which the step names."""
    reason = result.reason.partition(", at extrude ")[0].partition(", after its last ")[0]
    if result.where is not None:
        reason = reason.removeprefix(named(result.where))
        reason = reason[reason.startswith(" (") and reason.find(")") + 1 :]
    return reason.lstrip(" :,") or "it fails"


def _healed(draft: Draft) -> Draft:
    """Everything that fails `program.validate` put right, or left out."""
    if not draft.notes:
        draft = _within_reach(draft)
    for index in list(draft.kept):
        if sound(draft.extrude(index)):
            continue
        extent = draft.original.extrudes[index].extent
        if not all(map(math.isfinite, (extent.one, extent.two))) or extent.interval[0] == extent.interval[1]:
            draft = draft.without((index,), "its distance is zero or not a number")
            continue
        draft = _planes_mended(draft, index)
        for place, loop in list(draft.loops_now(index)):
            if usable(loop) or place[:2] in draft.dropped or place[:1] in draft.dropped:
                continue
            mended, words = heal(loop)
            draft = draft.without(place, words) if mended is None else draft.with_loop(place, mended, words)
        if index in draft.kept and not sound(draft.extrude(index)):
            draft = draft.without((index,), "it reaches too far")
    return draft


def _within_reach(draft: Draft) -> Draft:
    """A part whose numbers are too large as a whole a thousand times smaller, or more: its shape is right, its unit is not."""
    numbers = [abs(value) for index in draft.kept for _, loop in draft.loops_now(index) for value in lengths(loop)]
    for extrude in draft.original.extrudes:
        numbers += [abs(value) for sketch in extrude.sketches for value in sketch.plane.origin] + [abs(extrude.extent.one)]
    numbers = [value for value in numbers if value > 0.0]
    if not all(map(math.isfinite, numbers)) or max(numbers, default=0.0) <= LARGEST or median_low(numbers) <= LARGEST / 100.0:
        return draft
    times = 1000.0 ** math.ceil(math.log(max(numbers) / LARGEST, 1000.0))
    done = f"made {times:,.0f} times smaller: it reached {max(numbers):.4g} mm, more than {LARGEST:.4g} mm"
    return draft.scaled(1.0 / times, done)


def _planes_mended(draft: Draft, index: int) -> Draft:
    for s, sketch in enumerate(draft.original.extrudes[index].sketches):
        mended = _upright(sketch.plane)
        if mended is None:
            for at, place, _ in list(draft.profiles(index)):
                if at == s:
                    draft = draft.without(place, "its plane has no direction")
        elif mended != sketch.plane:
            draft = draft.with_plane(index, s, mended, "the axes of its plane made orthogonal, of length 1")
    return draft


def _upright(plane: Plane) -> Plane | None:
    """The plane with orthogonal unit axes (the normal keeps its direction), itself where it has them, None where it cannot."""
    normal, x = plane.normal, plane.x_axis
    if not all(map(math.isfinite, (*plane.origin, *normal, *x))):
        return None
    dot = sum(a * b for a, b in zip(x, normal, strict=True))
    if abs(math.hypot(*normal) - 1.0) <= 1e-6 and abs(math.hypot(*x) - 1.0) <= 1e-6 and abs(dot) <= 1e-6:
        return plane
    if math.hypot(*normal) < 1e-9:
        return None
    n = [value / math.hypot(*normal) for value in normal]
    along = sum(a * b for a, b in zip(x, n, strict=True))
    flat = [a - along * b for a, b in zip(x, n, strict=True)]
    if math.hypot(*flat) < 1e-9:
        return None
    u = [value / math.hypot(*flat) for value in flat]
    return Plane(plane.origin, (u[0], u[1], u[2]), (n[0], n[1], n[2]))


def _of_loop(draft: Draft, where: Place, why: str) -> Iterator[Draft]:
    loop = dict(draft.loops_now(where[0]))[where]
    if "crosses itself" in why:
        yield _untangled(draft, where, mend=True)
        yield _untangled(draft, where, mend=False)
    else:
        flatter = flatten(loop)
        if flatter is not None:
            yield draft.with_loop(where, *flatter)
    yield draft.without(where, why)


def _untangled(draft: Draft, where: Place, mend: bool) -> Draft:
    """Every loop that crosses itself made simple (or, not to `mend`, left out): the kernel would name one a build."""
    for index in list(draft.kept):
        for place, loop in list(draft.loops_now(index)):
            if place[:1] in draft.dropped or place[:2] in draft.dropped or not (place == where or crossing(loop)):
                continue
            simple = untangle(loop) if mend else None
            draft = draft.with_loop(place, *simple) if simple else draft.without(place, "crosses itself")
    return draft


def _of_profile(draft: Draft, where: Place, why: str) -> Iterator[Draft]:
    holes = {place: loop for place, loop in draft.loops_now(where[0]) if place[:2] == where and place[2]}
    if holes:
        largest = max(holes, key=lambda place: abs(area(polygon(holes[place]))))
        yield draft.without(largest, why)
        bare = draft
        for place in holes:
            bare = bare.without(place, why)
        yield bare
    yield draft.without(where, why)


def _until(draft: Draft, index: int, why: str) -> Draft:
    """Leave out an extrude and all that follow it."""
    for other in [other for other in draft.kept if other >= index]:
        draft = draft.without((other,), why if other == index else f"it follows extrude {index + 1}, which fails")
    return draft


def _from(draft: Draft, index: int, why: str) -> Draft:
    """Leave out all extrudes before one."""
    for other in [other for other in draft.kept if other < index]:
        draft = draft.without((other,), why)
    return draft


def _unplaced(draft: Draft, result: BuildResult, why: str) -> Iterator[Draft]:
    """Remedies where the kernel names no place: the whole is too much work, or what is left is no sound solid."""
    kept = draft.kept
    if result.verdict in (Verdict.TIMEOUT, Verdict.BUILD):
        for index in kept:
            for _, place, profile in draft.profiles(index):
                if len(profile.inner) >= MANY:
                    bare = draft
                    for k in range(1, len(profile.inner) + 1):
                        bare = bare.without((*place, k), why)
                    yield bare
    else:
        takes = (Operation.CUT, Operation.INTERSECT)
        yield from (draft.without((i,), why) for i in kept[:0:-1] if draft.original.extrudes[i].operation in takes)
        yield from (draft.without((i,), why) for i in kept[: -TRIED - 1 : -1])
    count = len(kept)
    while count > 1:
        count //= 2
        yield _until(draft, kept[count], why)
