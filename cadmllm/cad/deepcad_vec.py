"""DeepCAD's 8-bit vectors (`.h5`, key `vec`, integer rows of 17): the interchange format of the field.

Row: command, x, y, alpha, f, r, theta, phi, gamma, px, py, pz, s, e1, e2, b, u; what a command does not use is -1.
The rules are those of the published data (FACTS of the format: Wu et al., DeepCAD, ICCV 2021, 256 levels, NORM_FACTOR
0.75). Its quirks, phi by arctan among them, live here and nowhere else: our own token codec shares nothing with it.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.cad.bounds import program_box
from cadmllm.cad.files import write_whole
from cadmllm.cad.loops import chain, nest, reverse
from cadmllm.cad.omnicad_read import two_sided, two_stored
from cadmllm.cad.polar import angles_of, axes_from, direction, polar
from cadmllm.cad.program import (
    Arc,
    Circle,
    Curve,
    Extent,
    ExtentType,
    Extrude,
    Line,
    Loop,
    Operation,
    Plane,
    Point2,
    Point3,
    Profile,
    Program,
    Sketch,
    validate,
)
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    import numpy as np

LINE, ARC, CIRCLE, END, START, EXTRUDE = range(6)
COLUMNS = 17
LEVELS = 256
NORM_FACTOR = 0.75
OPERATIONS = (Operation.NEW_BODY, Operation.JOIN, Operation.CUT, Operation.INTERSECT)
EXTENTS = (ExtentType.ONE_SIDE, ExtentType.SYMMETRIC, ExtentType.TWO_SIDES)
MM = 1000.0
UNIT = 50.0  # mm that 1.0 of the normalised cube becomes when vectors are read: a part reaches 37.5 mm from the origin
MOST_ROWS = 100_000
USED = {LINE: (1, 2), ARC: (1, 2, 3, 4), CIRCLE: (1, 2, 5), END: (), START: (), EXTRUDE: tuple(range(6, COLUMNS))}

Box = tuple[Point3, Point3]


def to_vec(program: Program, box: Box | None = None, *, limits: bool = True) -> np.ndarray:
    """The program as DeepCAD vectors.

    Args:
        program: a valid program, mm.
        box: (minimum, maximum) corner of the finished part, mm, as `omnicad.recorded_box` gives it: DeepCAD scales by it.
                Without it the box of everything that is added is taken; cuts can only make a part smaller.
        limits: refuse what DeepCAD's own readers refuse (more than 10 extrusions, 6 loops, 15 curves a loop, 60 rows).

    Returns:
        int64 [T, 17], the END row included.

    Raises:
        CadmllmError: E212 when the format cannot carry the program.
    """
    import numpy as np

    low, high = box or program_box(program)
    reach = max(abs(value) / MM for value in (*low, *high))
    if not reach > 0.0:
        raise CadmllmError("E212", "the part has no size to scale DeepCAD vectors by", "check the recorded bounding box")
    scale = NORM_FACTOR / reach
    rows: list[list[int]] = []
    for extrude in program.extrudes:
        operation = extrude.operation
        for sketch in extrude.sketches:
            for profile in sketch.profiles:
                rows.extend(_pair(profile, sketch.plane, extrude.extent, operation, scale))
                if operation is Operation.NEW_BODY:
                    operation = Operation.JOIN
    rows.append([END] + [-1] * (COLUMNS - 1))
    if limits:
        _check_limits([row[0] for row in rows])
    return np.array(rows, dtype=np.int64)


def _check_limits(commands: list[int]) -> None:
    """E212 for what DeepCAD's converter drops and its readers cannot take."""
    pairs = curves = loops = most_curves = most_loops = 0
    for command in commands:
        if command == EXTRUDE:
            pairs, loops = pairs + 1, 0
        elif command == START:
            loops, curves = loops + 1, 0
        else:
            curves += 1
        most_loops, most_curves = max(most_loops, loops), max(most_curves, curves if command != END else 0)
    counts = {"extrusions": (pairs, 10), "loops": (most_loops, 6), "curves in a loop": (most_curves, 15)}
    counts["commands"] = (len(commands), 60)
    over = [f"{count} {what} (at most {most})" for what, (count, most) in counts.items() if count > most]
    if over:
        raise CadmllmError("E212", f"too long for DeepCAD vectors: {', '.join(over)}", "keep the part as .json or .txt")


def _level(value: float) -> int:
    return min(max(round(value), 0), LEVELS - 1)


def _metres(loop: Loop) -> list[Curve]:
    """Curves of the loop in metres, the unit in which the original compares and rounds."""

    def point(p: Point2) -> Point2:
        return p[0] / MM, p[1] / MM

    return [
        Circle(point(c.center), c.radius / MM)
        if isinstance(c, Circle)
        else Arc(point(c.start), point(c.end), c.sweep)
        if isinstance(c, Arc)
        else Line(point(c.start), point(c.end))
        for c in loop.curves
    ]


def _start(curve: Curve) -> Point2:
    if isinstance(curve, Circle):
        return curve.center[0] - curve.radius, curve.center[1]
    return curve.start


def _corners(curves: list[Curve]) -> tuple[Point2, Point2]:
    """The box of a loop as the original has it."""
    xs: list[float] = []
    ys: list[float] = []
    for curve in curves:
        if isinstance(curve, Circle):
            (x, y), r = curve.center, curve.radius
            points = [(x - r, y - r), (x + r, y + r)]
        elif isinstance(curve, Arc):
            points = [curve.start, curve.mid, curve.end]
        else:
            points = [curve.start, curve.end]
        xs.extend(p[0] for p in points)
        ys.extend(p[1] for p in points)
    return (min(xs), min(ys)), (max(xs), max(ys))


def _canonical(curves: list[Curve]) -> list[Curve]:
    """Begin at the left-most (then lowest) start point and run counter-clockwise, by the original's test."""
    chain = [curve for curve in curves if not isinstance(curve, Circle)]
    if len(chain) < 2:
        return curves
    first = min(range(len(chain)), key=lambda i: (round(chain[i].start[0], 6), round(chain[i].start[1], 6)))
    chain = chain[first:] + chain[:first]
    head, tail = chain[0], chain[-1]
    begin = head.mid if isinstance(head, Arc) else head.end
    finish = tail.mid if isinstance(tail, Arc) else tail.start
    ax, ay = tail.end[0] - finish[0], tail.end[1] - finish[1]
    bx, by = begin[0] - head.start[0], begin[1] - head.start[1]
    if ax * by - ay * bx <= 0.0:
        chain = [reverse(curve) for curve in reversed(chain)]
    return list(chain)


def _pair(profile: Profile, plane: Plane, extent: Extent, operation: Operation, scale: float) -> list[list[int]]:
    """The rows of one profile's sketch and its extrusion."""
    loops = [_canonical(_metres(loop)) for loop in (profile.outer, *profile.inner)]
    if len(loops) > 1:
        loops.sort(key=lambda curves: tuple(round(value, 6) for value in _corners(curves)[0]))
    origin = _start(loops[0][0])
    boxes = [_corners(curves) for curves in loops]
    size = max(abs(corner[axis] - origin[axis]) for box in boxes for corner in box for axis in (0, 1))
    fit = (LEVELS / 2 * NORM_FACTOR - 1) / size

    def place(point: Point2) -> list[int]:
        return [_level((value - start) * fit + LEVELS / 2) for value, start in zip(point, origin, strict=True)]

    distances = two_stored(extent) if extent.type is ExtentType.TWO_SIDES else (extent.one, 0.0)
    rows: list[list[int]] = []
    for curves in loops:
        rows.append([START] + [-1] * 16)
        for curve in curves:
            if isinstance(curve, Circle):
                rows.append([CIRCLE, *place(curve.center), -1, -1, _level(curve.radius * fit)] + [-1] * 11)
            elif isinstance(curve, Arc):
                sweep = max(_level(abs(curve.sweep) / (2.0 * math.pi) * LEVELS), 1)
                rows.append([ARC, *place(curve.end), sweep, int(curve.sweep > 0.0)] + [-1] * 12)
            else:
                rows.append([LINE, *place(curve.end)] + [-1] * 14)
    rows.append(
        [EXTRUDE]
        + [-1] * 5
        + [_level((angle / math.pi + 1.0) / 2.0 * LEVELS) for angle in angles_of(plane)]
        + [_level((value * scale + 1.0) / 2.0 * LEVELS) for value in _position(plane, origin)]
        + [_level(size * scale / 2.0 * LEVELS)]
        + [_level((value / MM * scale + 1.0) / 2.0 * LEVELS) for value in distances]
        + [OPERATIONS.index(operation), EXTENTS.index(extent.type)]
    )
    return rows


def _position(plane: Plane, point: Point2) -> list[float]:
    """Metres: `point` (metres) in space, by the mirrored axes that the original places its sketches with."""
    x, _ = axes_from(angles_of(plane))
    y = direction(*polar(plane.y_axis))
    return [o / MM + point[0] * a + point[1] * b for o, a, b in zip(plane.origin, x, y, strict=True)]


def write_h5(program: Program, path: str | Path, box: Box | None = None) -> None:
    """Write DeepCAD vectors; `box` as for `to_vec`. Raises E212 (not expressible) or E303 (not writable)."""
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("vec", data=to_vec(program, box))
    write_whole(path, content.getvalue())


def read_h5(path: str | Path) -> Program:
    """Read DeepCAD vectors, mm (see `from_vec` for their size).

    Raises:
        CadmllmError: E201 (unreadable), E210 (not such a file), E207 to E209 (what they describe is no part).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise _bad(str(path), "the file is empty")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CadmllmError("E201", f"cannot read {path}: {reason}", "check the path and its permissions") from error
    return from_vec(_rows(path), str(path))


def _bad(where: str, what: str) -> CadmllmError:
    return CadmllmError("E210", f"{where}: {what}", "give a DeepCAD .h5 file: dataset 'vec', integer rows of 17")


def _rows(path: Path) -> np.ndarray:
    """The dataset, after checks that keep a hostile file from naming other files or asking for endless memory."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("vec", getlink=True), h5py.HardLink):
                raise _bad(str(path), "it has no dataset 'vec' of its own")
            vec = file["vec"]
            if not isinstance(vec, h5py.Dataset) or vec.ndim != 2 or vec.dtype.kind not in "iuf":
                raise _bad(str(path), "'vec' is not a table of numbers")
            if vec.is_virtual or vec.external:
                raise _bad(str(path), "'vec' lies in another file")
            if vec.shape[1] != COLUMNS or not 0 < vec.shape[0] <= MOST_ROWS or (vec.chunks and math.prod(vec.chunks) > MOST_ROWS):
                raise _bad(str(path), f"'vec' has the shape {vec.shape}, not [T, {COLUMNS}] with T up to {MOST_ROWS:,}")
            return vec[:]
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError) as error:  # all that h5py raises on broken files
        raise _bad(str(path), f"not a readable HDF5 file ({str(error)[:120]})") from error


def from_vec(vec: np.ndarray, where: str = "vec") -> Program:
    """The program that DeepCAD vectors describe. They carry no absolute size: the cube [-1, 1] is made `UNIT` mm a side half.

    Curves whose ends fell onto one level are dropped; each pair of sketch and extrusion becomes one extrusion.

    Args:
        vec: [T, 17] whole numbers, ended by an END row (rows after it are ignored).
        where: what to call it in messages.

    Raises:
        CadmllmError: E210 (shape, commands, arguments or order), E207 to E209 (what they describe is no part).
    """
    import numpy as np

    table = np.asarray(vec)
    if table.ndim != 2 or table.shape[1] != COLUMNS or table.dtype.kind not in "iuf":
        raise _bad(where, f"the shape is {table.shape}, not [T, {COLUMNS}]")
    whole_numbers = table.astype(np.int64) if np.all(np.abs(table) <= LEVELS) else None
    if whole_numbers is None or np.any(whole_numbers != table):
        raise _bad(where, f"a value is not a whole number within -1..{LEVELS - 1}")
    extrudes: list[Extrude] = []
    loops: list[list[list[int]]] = []
    for number, row in enumerate(whole_numbers.tolist(), start=1):
        at = f"{where}, row {number}"
        command = row[0]
        if command not in USED or any(not 0 <= row[k] < LEVELS for k in USED[command]):
            raise _bad(at, "an unknown command" if command not in USED else "an argument outside 0..255")
        if command == END:
            break
        if command == START:
            loops.append([])
        elif command == EXTRUDE:
            if not loops:
                raise _bad(at, "an extrusion without a sketch")
            extrudes.append(_extrude(row, loops, at))
            loops = []
        elif not loops:
            raise _bad(at, "a curve before its loop begins")
        else:
            loops[-1].append(row)
    else:
        raise _bad(where, "no END row: the vectors are cut off")
    if loops:
        raise _bad(where, "the last sketch is not extruded")
    return validate(Program(tuple(extrudes)), where)


def _extrude(row: list[int], sketch: list[list[list[int]]], at: str) -> Extrude:
    if row[15] >= len(OPERATIONS) or row[16] >= len(EXTENTS):
        raise _bad(at, "an unknown operation or extent type")
    angles = [(level / LEVELS * 2.0 - 1.0) * math.pi for level in row[6:9]]
    x, normal = axes_from((angles[0], angles[1], angles[2]))
    px, py, pz, one, two = ((level / LEVELS * 2.0 - 1.0) * UNIT for level in (*row[9:12], *row[13:15]))
    step = row[12] / LEVELS * 2.0 * UNIT / (LEVELS / 2 * NORM_FACTOR - 1)
    if step == 0.0:
        raise CadmllmError("E208", f"{at}: a sketch of size zero", "leave this file out of the data set")
    drawn = [_loop(rows, step, f"{at}, loop {k + 1}") for k, rows in enumerate(sketch)]
    kind = EXTENTS[row[16]]
    extent = two_sided(one, two) if kind is ExtentType.TWO_SIDES else Extent(kind, one)
    return Extrude((Sketch(Plane((px, py, pz), x, normal), nest(drawn)),), OPERATIONS[row[15]], extent)


def _loop(rows: list[list[int]], step: float, at: str) -> Loop:
    """A loop in mm about the point where its profile begins; the last curve's end is where the first one starts."""

    def point(row: list[int]) -> Point2:
        return (row[1] - LEVELS / 2) * step, (row[2] - LEVELS / 2) * step

    curves: list[Curve] = []
    here = point(rows[-1]) if rows else (0.0, 0.0)
    for row in rows:
        there = point(row)
        if row[0] == CIRCLE:
            if row[5] == 0:
                raise CadmllmError("E208", f"{at}: a circle of radius zero", "leave this file out of the data set")
            curves.append(Circle(there, row[5] * step))
        elif there != here:
            sweep = row[3] / LEVELS * 2.0 * math.pi if row[0] == ARC else 0.0
            curves.append(Arc(here, there, sweep if row[4] else -sweep) if sweep else Line(here, there))
        here = there
    return chain(curves, at)
