"""DeepCAD / Omni-CAD JSON to programs. Files are in metres, programs in millimetres.

What real files taught (1,295 of them, 6,310 arcs): `is_outer` is true for every loop; `normal` of an arc or circle is in
*space* and says nothing about the direction in the sketch; an arc always runs counter-clockwise in its sketch from
`reference_vector` turned by `start_angle` to it turned by `end_angle`, while `start_point` and `end_point` may be swapped.
Extrusions that name no profile (their sketch was lost before the file was written) add nothing, as in DeepCAD's own
converter: of 28 additive files that have some, 21 agree with the recorded box without them, as many as of all files.
A two-sided extent with a negative first distance is flipped as a whole: it goes to -one and, the other way, to +two.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cadmllm.cad.loops import RESOLUTION, chain, nest
from cadmllm.cad.program import (
    CLOSURE,
    LARGEST,
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

MM = 1000.0  # millimetres a metre
LARGEST_FILE = 64 * 2**20  # bytes; the longest real program has 0.6 MB
MOST_CURVES = 100_000  # a program; the longest real one has 1,500. A small file can name one sketch a million times
MOST_LOOPS = 10_000  # a profile; what is looked for among them and among the curves of a loop takes the square of their number
LONGEST_LOOP = 5_000  # curves; the longest real one has 428
SKEW = 1e-4  # how far the axes of a real transform may be from orthogonal unit vectors

Known = dict[tuple[str, str], tuple[Plane, tuple[Profile, ...]]]  # (sketch, profile): what they were read as

OPERATIONS = {
    "NewBodyFeatureOperation": Operation.NEW_BODY,
    "JoinFeatureOperation": Operation.JOIN,
    "CutFeatureOperation": Operation.CUT,
    "IntersectFeatureOperation": Operation.INTERSECT,
}
EXTENTS = {
    "OneSideFeatureExtentType": ExtentType.ONE_SIDE,
    "SymmetricFeatureExtentType": ExtentType.SYMMETRIC,
    "TwoSidesFeatureExtentType": ExtentType.TWO_SIDES,
}
LEAVE_OUT = "leave this file out of the data set"


def read_json(path: str | Path, notes: list[str] | None = None) -> Program:
    """Read one program file.

    Args:
        path: a DeepCAD / Omni-CAD JSON file.
        notes: gets a line for every extrusion that was left out as it names no profile.

    Raises:
        CadmllmError: E201 to E209, E212 and E214, naming the file, the entity and the reason.
    """
    return parse(load(path), str(path), notes)


def load(path: str | Path) -> object:
    """The JSON value in a file: E201 when it cannot be read, E202 when it is no JSON."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CadmllmError("E202", f"{path} is larger than {LARGEST_FILE >> 20} MB", "give one program a file")
        raw = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise CadmllmError("E201", f"cannot read {path}: {reason}", "check the path and its permissions") from error
    if not raw.strip():
        raise CadmllmError("E202", f"{path} is empty", "copy the file again from its source")
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise CadmllmError("E202", f"{path} is nested too deeply", LEAVE_OUT) from error
    except ValueError as error:
        raise CadmllmError("E202", f"{path} is not valid JSON: {error}", "copy the file again from its source") from error


def recorded_box(path: str | Path) -> tuple[Point3, Point3] | None:
    """The (minimum, maximum) corner that the file's author recorded, mm, or None where the file records none."""
    return box_of(load(path))


def box_of(data: object) -> tuple[Point3, Point3] | None:
    """As `recorded_box`, of a parsed file."""
    try:
        box = data["properties"]["bounding_box"]  # ty: ignore
        low, high = (_vector(box[key], key, MM) for key in ("min_point", "max_point"))
    except (KeyError, TypeError, CadmllmError):
        return None
    return low, high


def parse(data: object, where: str, notes: list[str] | None = None) -> Program:
    """A program from a parsed JSON value.

    Args:
        data: what `json.load` returned.
        where: the file's name, for messages.
        notes: as in `read_json`.

    Raises:
        CadmllmError: E203 (schema), E204 (unknown curve, operation or extent), E205 (numbers), E206 (missing sketch or
            profile), E207 (loops), E208 (degenerate curves), E209 (no extrude or profile), E212 (endless), E214 (taper).
    """
    if not isinstance(data, dict):
        raise _schema(where, "the top level is not an object")
    entities, sequence = _field(data, "entities", dict, where), _field(data, "sequence", list, where)
    extrudes: list[Extrude] = []
    empty: list[str] = []
    known: Known = {}
    curves = 0
    for item in sequence:
        if not isinstance(item, dict) or not isinstance(item.get("entity"), str):
            raise _schema(where, "an item of 'sequence' is not an object that names an entity")
        name = item["entity"]
        entity = entities.get(name)
        if not isinstance(entity, dict):
            raise CadmllmError("E206", f"{where}: 'sequence' names {show(name)}, which is no entity", LEAVE_OUT)
        kind = entity.get("type")
        if kind == "ExtrudeFeature":
            at = f"{where}: extrude {show(name)}"
            extrude = _extrude(entity, entities, at, known)
            if extrude.sketches:
                extrudes.append(extrude)
            else:
                empty.append(f"{at} names no profile")
            curves += 1 + _curve_count(extrude)
            if curves > MOST_CURVES:
                raise CadmllmError("E212", f"{where} has more than {MOST_CURVES:,} curves", LEAVE_OUT)
        elif kind != "Sketch":
            raise CadmllmError("E204", f"{where}: entity {show(name)} is of the unknown type {show(kind)}", LEAVE_OUT)
    if empty and not extrudes:
        raise CadmllmError("E209", empty[0], LEAVE_OUT)
    if notes is not None:
        notes.extend(f"{line}: left out" for line in empty)
    return validate(Program(tuple(extrudes)), where)


def _curve_count(extrude: Extrude) -> int:
    loops = (loop for sketch in extrude.sketches for profile in sketch.profiles for loop in (profile.outer, *profile.inner))
    return sum(len(loop.curves) for loop in loops)


def show(value: object) -> str:
    """A short, printable form of an untrusted value for messages."""
    text = ascii(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _schema(at: str, what: str) -> CadmllmError:
    return CadmllmError("E203", f"{at}: {what}: not the DeepCAD / Omni-CAD schema", "give a DeepCAD or Omni-CAD JSON file")


def _field(data: dict[str, Any], key: str, kind: type, at: str) -> Any:
    value = data.get(key)
    if not isinstance(value, kind):
        found = "is missing" if key not in data else f"is of type {type(value).__name__}"
        raise _schema(at, f"'{key}' {found}")
    return value


def _number(value: object, at: str, scale: float = 1.0) -> float:
    """A finite number times `scale`, within `LARGEST`: E205 otherwise."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value) * scale  # ty: ignore
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST:
        message = f"{at} is {show(value)}, not a number within range"
        raise CadmllmError("E205", message, "correct the number or leave the file out")
    return number


def _vector(data: object, at: str, scale: float = 1.0) -> Point3:
    if not isinstance(data, dict):
        raise CadmllmError("E205", f"{at} is {show(data)}, not a point with x, y and z", "correct the file or leave it out")
    return (
        _number(data.get("x"), f"{at}.x", scale),
        _number(data.get("y"), f"{at}.y", scale),
        _number(data.get("z"), f"{at}.z", scale),
    )


def _extrude(entity: dict[str, Any], entities: dict[str, Any], at: str, known: Known) -> Extrude:
    operation = OPERATIONS.get(_text(entity, "operation"))
    if operation is None:
        raise CadmllmError("E204", f"{at}: unknown operation {show(entity.get('operation'))}", LEAVE_OUT)
    extent = _extent(entity, at)
    named = _field(entity, "profiles", list, at)
    sketches: list[Sketch] = []
    before = None
    for item in named:
        if not isinstance(item, dict) or not isinstance(item.get("sketch"), str) or not isinstance(item.get("profile"), str):
            raise _schema(at, "an item of 'profiles' does not name a sketch and a profile")
        sketch_id, profile_id = item["sketch"], item["profile"]
        if (sketch_id, profile_id) not in known:
            known[sketch_id, profile_id] = _profiles(entities, sketch_id, profile_id, at)
        plane, profiles = known[sketch_id, profile_id]
        if sketch_id == before:
            profiles = sketches.pop().profiles + profiles
        sketches.append(Sketch(plane, profiles))
        before = sketch_id
    return Extrude(tuple(sketches), operation, extent)


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _extent(entity: dict[str, Any], at: str) -> Extent:
    kind = EXTENTS.get(_text(entity, "extent_type"))
    if kind is None:
        raise CadmllmError("E204", f"{at}: unknown extent type {show(entity.get('extent_type'))}", LEAVE_OUT)
    start = entity.get("start_extent")
    if start is not None and (not isinstance(start, dict) or start.get("type") != "ProfilePlaneStartDefinition"):
        raise CadmllmError("E204", f"{at}: unknown start_extent: an extrusion must start on its sketch plane", LEAVE_OUT)
    one = _distance(entity, "extent_one", at)
    if kind is not ExtentType.TWO_SIDES:
        return Extent(kind, one)
    return two_sided(one, _distance(entity, "extent_two", at))


def two_sided(one: float, two: float) -> Extent:
    """The extent that two stored distances mean: a negative first one flips the direction of both."""
    return Extent(ExtentType.TWO_SIDES, two, -one) if one < 0.0 else Extent(ExtentType.TWO_SIDES, one, two)


def two_stored(extent: Extent) -> tuple[float, float]:
    """The two distances that `two_sided` reads as `extent`, or as one with the same interval."""
    if extent.one >= 0.0:
        return extent.one, extent.two
    return (-extent.two, extent.one) if extent.two > 0.0 else (-extent.two, -extent.one)


def _distance(entity: dict[str, Any], key: str, at: str) -> float:
    side = _field(entity, key, dict, at)
    if side.get("type", "DistanceExtentDefinition") != "DistanceExtentDefinition":
        raise CadmllmError("E204", f"{at}: unknown {key} {show(side.get('type'))}", LEAVE_OUT)
    taper = side.get("taper_angle")
    if taper is not None:
        angle = _number(taper.get("value") if isinstance(taper, dict) else taper, f"{at}: {key}.taper_angle")
        if angle != 0.0:
            raise CadmllmError("E214", f"{at}: a taper angle of {angle:g}", "remove the taper or leave the file out")
    return _number(_field(side, "distance", dict, at).get("value"), f"{at}: {key}.distance", MM)


def _profiles(entities: dict[str, Any], sketch_id: str, profile_id: str, at: str) -> tuple[Plane, tuple[Profile, ...]]:
    sketch = entities.get(sketch_id)
    if not isinstance(sketch, dict) or sketch.get("type") != "Sketch":
        raise CadmllmError("E206", f"{at} names the sketch {show(sketch_id)}, which does not exist", LEAVE_OUT)
    at_sketch = f"{at}, sketch {show(sketch_id)}"
    plane = _plane(_field(sketch, "transform", dict, at_sketch), at_sketch)
    profile = _field(sketch, "profiles", dict, at_sketch).get(profile_id)
    if profile is None:
        raise CadmllmError("E206", f"{at_sketch} has no profile {show(profile_id)}", LEAVE_OUT)
    at_profile = f"{at_sketch}, profile {show(profile_id)}"
    if not isinstance(profile, dict):
        raise _schema(at_profile, "the profile is not an object")
    stored = _field(profile, "loops", list, at_profile)
    if not stored:
        raise CadmllmError("E209", f"{at_profile} has no loop", LEAVE_OUT)
    if len(stored) > MOST_LOOPS:
        raise CadmllmError("E212", f"{at_profile} has {len(stored):,} loops", LEAVE_OUT)
    return plane, nest([_loop(loop, f"{at_profile}, loop {k + 1}") for k, loop in enumerate(stored)], at_profile)


def _plane(data: dict[str, Any], at: str) -> Plane:
    """The plane, its x axis made exactly orthogonal to its normal (real files are off by up to 1e-6)."""
    origin = _vector(data.get("origin"), f"{at}: origin", MM)
    x, y, z = (_vector(data.get(key), f"{at}: {key}") for key in ("x_axis", "y_axis", "z_axis"))
    length = math.hypot(*z)
    if abs(length - 1.0) <= SKEW:
        normal = (z[0] / length, z[1] / length, z[2] / length)
        along = sum(a * b for a, b in zip(x, normal, strict=True))
        flat = [a - along * b for a, b in zip(x, normal, strict=True)]
        across = math.hypot(*flat)
        if abs(along) <= SKEW and abs(across - 1.0) <= SKEW:
            plane = Plane(origin, (flat[0] / across, flat[1] / across, flat[2] / across), normal)
            if math.dist(plane.y_axis, y) <= 2 * SKEW:
                return plane
    raise CadmllmError("E205", f"{at}: the axes are not a right-handed frame of unit vectors", "correct the transform")


def _loop(data: object, at: str) -> Loop:
    if not isinstance(data, dict):
        raise _schema(at, "the loop is not an object")
    stored = _field(data, "profile_curves", list, at)
    if len(stored) > LONGEST_LOOP:
        raise CadmllmError("E212", f"{at} has {len(stored):,} curves", LEAVE_OUT)
    curves = [_curve(curve, f"{at}, curve {k + 1}") for k, curve in enumerate(stored)]
    return chain(curves, at)


def _curve(data: object, at: str) -> Curve:
    kind = data.get("type") if isinstance(data, dict) else data
    if not isinstance(data, dict) or not isinstance(kind, str):
        raise _schema(at, "the curve is not an object with a type")
    if kind == "Line3D":
        start, end = _point(data, "start_point", at), _point(data, "end_point", at)
        if math.dist(start, end) < 1e-6:
            raise CadmllmError("E208", f"{at}: a line of zero length", "remove the line or leave the file out")
        return Line(start, end)
    if kind == "Circle3D":
        return Circle(_point(data, "center_point", at), _radius(data, at))
    if kind == "Arc3D":
        return _arc(data, at)
    raise CadmllmError("E204", f"{at}: unknown curve {show(kind)}", LEAVE_OUT)


def _point(data: dict[str, Any], key: str, at: str) -> Point2:
    x, y, z = _vector(data.get(key), f"{at}: {key}", MM)
    if abs(z) > 1e-3 + CLOSURE * max(abs(x), abs(y)):
        raise CadmllmError("E205", f"{at}: {key} lies {z:.6g} mm off the sketch plane", "correct the file or leave it out")
    return x, y


def _radius(data: dict[str, Any], at: str) -> float:
    radius = _number(data.get("radius"), f"{at}: radius", MM)
    if radius <= 0.0:
        raise CadmllmError("E208", f"{at}: a radius of {radius:g} mm", "give a radius above zero")
    return radius


def _arc(data: dict[str, Any], at: str) -> Arc | Circle:
    """The arc from its stored start to its stored end, in the direction that its angles give."""
    start, end, center = (_point(data, key, at) for key in ("start_point", "end_point", "center_point"))
    radius = _radius(data, at)
    first, last = (_number(data.get(key), f"{at}: {key}") for key in ("start_angle", "end_angle"))
    x, y, _ = _vector(data.get("reference_vector"), f"{at}: reference_vector")
    sweep = last - first
    if not 0.0 < abs(sweep) <= 2.0 * math.pi + 1e-9 or math.hypot(x, y) < 0.5:
        raise CadmllmError("E208", f"{at}: an arc with a sweep of {sweep:.6g} rad", "give a sweep within (0, 2 pi)")
    if math.dist(start, end) <= RESOLUTION:
        if abs(abs(sweep) - 2.0 * math.pi) > 1e-3:
            raise CadmllmError("E208", f"{at}: an arc of zero length", "remove the arc or leave the file out")
        return Circle(center, radius)
    base = math.atan2(y, x)
    allowed = 2e-3 * radius + 2.0 * RESOLUTION
    for sign in (1.0, -1.0):  # clockwise never occurs in the wild, but other exporters may mean it
        one, two = (_around(center, radius, base + sign * angle) for angle in (first, last))
        for a, b, turn in ((start, end, sign), (end, start, -sign)):
            if math.dist(a, one) <= allowed and math.dist(b, two) <= allowed:
                return Arc(start, end, math.copysign(_turn(start, end, radius, abs(sweep)), turn * sweep))
    message = f"{at}: the arc's angles do not lead from its start point to its end point"
    raise CadmllmError("E205", message, "correct the arc or leave the file out")


def _around(center: Point2, radius: float, angle: float) -> Point2:
    return center[0] + radius * math.cos(angle), center[1] + radius * math.sin(angle)


def _turn(start: Point2, end: Point2, radius: float, sweep: float) -> float:
    """The absolute sweep; for nearly full turns from chord and radius, as the chord's rounding would spoil the radius."""
    if sweep < 1.5 * math.pi:
        return sweep
    return 2.0 * math.pi - 2.0 * math.asin(min(1.0, math.dist(start, end) / (2.0 * radius)))
