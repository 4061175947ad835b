"""Programs to DeepCAD / Omni-CAD JSON. Programs are in millimetres, files in metres."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cadmllm.cad.bounds import Box, program_box
from cadmllm.cad.files import write_whole
from cadmllm.cad.omnicad_read import EXTENTS, MM, OPERATIONS, two_stored
from cadmllm.cad.program import (
    LARGEST,
    Arc,
    Circle,
    Curve,
    Extent,
    ExtentType,
    Extrude,
    Loop,
    Plane,
    Point2,
    Point3,
    Program,
    Sketch,
)
from cadmllm.errors import CadmllmError

OPERATION_NAMES = {operation: name for name, operation in OPERATIONS.items()}
EXTENT_NAMES = {extent: name for name, extent in EXTENTS.items()}

Json = dict[str, Any]


def write_json(program: Program, path: str | Path, box: Box | None = None) -> None:
    """Write a program file, whole or not at all; the same program gives the same bytes.

    Args:
        program: a valid program, mm.
        path: where to.
        box: as in `to_json`.

    Raises:
        CadmllmError: E212 (an arc that is all but straight), E303 (cannot be written).
    """
    write_whole(path, (json.dumps(to_json(program, box), indent=1) + "\n").encode())


def to_json(program: Program, box: Box | None = None) -> Json:
    """The program in the DeepCAD / Omni-CAD schema: one sketch entity per sketch, ids by position.

    Args:
        program: a valid program, mm.
        box: (minimum, maximum) corner of the finished part, mm, to be recorded. Without it the box of everything that is
            added is recorded: DeepCAD's own reader needs one to scale by.
    """
    entities: Json = {}
    sequence: list[Json] = []

    def add(name: str, entity: Json) -> None:
        entities[name] = entity
        sequence.append({"index": len(sequence), "type": entity["type"], "entity": name})

    drawn = 0
    for number, extrude in enumerate(program.extrudes, start=1):
        named = []
        for sketch in extrude.sketches:
            drawn += 1
            add(f"sketch_{drawn}", _sketch(sketch, drawn))
            named += [{"sketch": f"sketch_{drawn}", "profile": f"profile_{k + 1}"} for k in range(len(sketch.profiles))]
        add(f"extrude_{number}", _extrude(extrude, named, number))
    low, high = box or program_box(program)
    bounds = {"type": "BoundingBox3D", "min_point": _point(low), "max_point": _point(high)}
    return {"entities": entities, "properties": {"bounding_box": bounds}, "sequence": sequence}


def _xyz(vector: Point3) -> Json:
    return dict(zip("xyz", vector, strict=True))


def _point(point: Point3 | Point2) -> Json:
    """A point in mm as metres; one of a sketch lies at z = 0."""
    x, y, z = point if len(point) == 3 else (*point, 0.0)
    return _xyz((x / MM, y / MM, z / MM))


def _sketch(sketch: Sketch, number: int) -> Json:
    plane = sketch.plane
    axes = {"x_axis": plane.x_axis, "y_axis": plane.y_axis, "z_axis": plane.normal}
    profiles = {}
    for k, profile in enumerate(sketch.profiles):
        loops = [_loop(loop, plane, loop is profile.outer) for loop in (profile.outer, *profile.inner)]
        profiles[f"profile_{k + 1}"] = {"loops": loops, "properties": {}}
    return {
        "type": "Sketch",
        "name": f"Sketch {number}",
        "reference_plane": {},
        "transform": {"origin": _point(plane.origin), **{key: _xyz(axis) for key, axis in axes.items()}},
        "profiles": profiles,
    }


def _loop(loop: Loop, plane: Plane, outer: bool) -> Json:
    return {"is_outer": outer, "profile_curves": [_curve(curve, plane, f"curve_{k + 1}") for k, curve in enumerate(loop.curves)]}


def _curve(curve: Curve, plane: Plane, name: str) -> Json:
    if isinstance(curve, Circle):
        data = {
            "type": "Circle3D",
            "center_point": _point(curve.center),
            "radius": curve.radius / MM,
            "normal": _xyz(plane.normal),
        }
    elif isinstance(curve, Arc):
        data = _arc(curve, plane)
    else:
        data = {"type": "Line3D", "start_point": _point(curve.start), "end_point": _point(curve.end)}
    return {**data, "curve": name}


def _arc(arc: Arc, plane: Plane) -> Json:
    """Angles run counter-clockwise from the reference vector, as in real files; the points keep the arc's own direction."""
    radius, center = arc.radius, arc.center
    if max(radius, abs(center[0]), abs(center[1])) > LARGEST:
        message = f"an arc at {arc.start} mm of radius {radius:.3g} mm: its centre lies out of range"
        raise CadmllmError("E212", message, "make it a line")
    first = arc.start if arc.sweep > 0.0 else arc.end
    return {
        "type": "Arc3D",
        "start_point": _point(arc.start),
        "end_point": _point(arc.end),
        "center_point": _point(center),
        "radius": radius / MM,
        "start_angle": 0.0,
        "end_angle": abs(arc.sweep),
        "normal": _xyz(plane.normal),
        "reference_vector": _xyz(((first[0] - center[0]) / radius, (first[1] - center[1]) / radius, 0.0)),
    }


def _extrude(extrude: Extrude, named: list[Json], number: int) -> Json:
    one, two = _stored(extrude.extent)
    return {
        "type": "ExtrudeFeature",
        "name": f"Extrude {number}",
        "profiles": named,
        "operation": OPERATION_NAMES[extrude.operation],
        "start_extent": {"type": "ProfilePlaneStartDefinition"},
        "extent_type": EXTENT_NAMES[extrude.extent.type],
        "extent_one": _side(one, "AlongDistance", "TaperAngle"),
        "extent_two": _side(two, "AgainstDistance", "Side2TaperAngle"),
    }


def _stored(extent: Extent) -> tuple[float, float]:
    return two_stored(extent) if extent.type is ExtentType.TWO_SIDES else (extent.one, 0.0)


def _side(distance: float, role: str, taper_role: str) -> Json:
    def parameter(role: str, value: float) -> Json:
        return {"type": "ModelParameter", "name": "none", "role": role, "value": value}

    return {
        "type": "DistanceExtentDefinition",
        "distance": parameter(role, distance / MM),
        "taper_angle": parameter(taper_role, 0.0),
    }
