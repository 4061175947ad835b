"""The one module that talks to OpenCASCADE: solids from programs, measures, triangles, STEP. Reached through `kernel`.

OCP ships no stubs, so type checkers skip this file. A null shape handed to an OpenCASCADE builder kills the process:
every shape that a builder returns passes `_whole` before it is used again.
"""

from __future__ import annotations

import math

import numpy as np
from OCP.Bnd import Bnd_Box
from OCP.BRep import BRep_Builder, BRep_Tool
from OCP.BRepAlgoAPI import BRepAlgoAPI_Common, BRepAlgoAPI_Cut, BRepAlgoAPI_Fuse
from OCP.BRepBndLib import BRepBndLib
from OCP.BRepBuilderAPI import BRepBuilderAPI_MakeEdge, BRepBuilderAPI_MakeFace
from OCP.BRepCheck import BRepCheck_Analyzer
from OCP.BRepGProp import BRepGProp
from OCP.BRepMesh import BRepMesh_IncrementalMesh
from OCP.BRepPrimAPI import BRepPrimAPI_MakePrism
from OCP.collections import IndexedMap_TopoDS_Shape_TopTools_ShapeMapHasher as ShapeMap
from OCP.collections import List_TopoDS_Shape
from OCP.gp import gp_Ax2, gp_Ax3, gp_Circ, gp_Dir, gp_Pln, gp_Pnt, gp_Vec
from OCP.GProp import GProp_GProps
from OCP.ShapeFix import ShapeFix_Shape
from OCP.ShapeUpgrade import ShapeUpgrade_UnifySameDomain
from OCP.TopAbs import (
    TopAbs_EDGE,
    TopAbs_FACE,
    TopAbs_Orientation,
    TopAbs_SOLID,
)
from OCP.TopExp import TopExp, TopExp_Explorer
from OCP.TopLoc import TopLoc_Location
from OCP.TopoDS import TopoDS, TopoDS_Compound, TopoDS_Wire

from cadmllm.cad.kernel import BuildFailure, Verdict
from cadmllm.cad.mesh import Mesh, weld
from cadmllm.cad.program import (
    Arc,
    Circle,
    Curve,
    Extrude,
    Line,
    Loop,
    Operation,
    Plane,
    Point2,
    Point3,
    Profile,
    Program,
)

NEGLIGIBLE = 1e-9  # a volume below this share of its bounding box's cube is no volume
ROUNDING = 5e-5  # mm: files round to 1e-8 m, so that faces meant to coincide may be this far apart


def _whole(shape, what: str):
    if shape is None or shape.IsNull():
        raise BuildFailure(Verdict.BUILD, f"{what}: the kernel returned nothing")
    return shape


def _each(shape, kind) -> list:
    """Sub-shapes of a kind, each once, in the kernel's (deterministic) order."""
    found = ShapeMap()
    TopExp.MapShapes_s(shape, kind, found)
    return [found.FindKey(i) for i in range(1, found.Extent() + 1)]


def _point(plane: Plane, at: Point2, height: float) -> gp_Pnt:
    return gp_Pnt(*plane.to_world(at, height))


# ------------------------------------------------------------------------------------------------ faces


def _reversed(curve: Curve) -> Curve:
    if isinstance(curve, Line):
        return Line(curve.end, curve.start)
    if isinstance(curve, Arc):
        return Arc(curve.end, curve.start, -curve.sweep)
    return curve


def signed_area(loop: Loop) -> float:
    """Area in mm2 enclosed by a loop, positive when it runs counter-clockwise (shoelace + circular segments)."""
    total = 0.0
    for curve in loop.curves:
        if isinstance(curve, Circle):
            return math.pi * curve.radius**2
        (x0, y0), (x1, y1) = curve.start, curve.end
        total += (x0 * y1 - x1 * y0) / 2.0
        if isinstance(curve, Arc):
            total += curve.radius**2 * (curve.sweep - math.sin(curve.sweep)) / 2.0
    return total


def _circle(plane: Plane, center: Point2, radius: float, height: float, clockwise: bool) -> gp_Circ:
    sign = -1.0 if clockwise else 1.0
    normal = gp_Dir(*(sign * value for value in plane.normal))
    return gp_Circ(gp_Ax2(_point(plane, center, height), normal, gp_Dir(*plane.x_axis)), radius)


def _edge(maker, what: str):
    if not maker.IsDone():
        raise BuildFailure(Verdict.BUILD, f"{what}: the kernel refused a curve")
    return _whole(maker.Edge(), what)


def _wire(loop: Loop, plane: Plane, height: float, clockwise: bool, what: str) -> TopoDS_Wire:
    """A closed wire that runs (counter-)clockwise about the plane's normal; neighbours share one vertex."""
    curves = list(loop.curves)
    builder = BRep_Builder()
    wire = TopoDS_Wire()
    builder.MakeWire(wire)
    if isinstance(curves[0], Circle):
        circle = _circle(plane, curves[0].center, curves[0].radius, height, clockwise)
        builder.Add(wire, _edge(BRepBuilderAPI_MakeEdge(circle), what))
        wire.Closed(True)
        return wire
    if (signed_area(loop) < 0.0) != clockwise:
        curves = [_reversed(curve) for curve in reversed(curves)]
    joints = [_between(before.end, after.start) for before, after in zip(curves[-1:] + curves[:-1], curves, strict=True)]
    kept = [i for i in range(len(curves)) if math.dist(joints[i], joints[(i + 1) % len(joints)]) > 1e-7]
    curves, joints = [curves[i] for i in kept], [joints[i] for i in kept]
    if len(curves) < 2:
        raise BuildFailure(Verdict.INVALID, f"{what} is smaller than 1e-7 mm")
    vertices = []
    for joint in joints:
        maker = _vertex(_point(plane, joint, height))
        vertices.append(maker)
    for i, curve in enumerate(curves):
        j = (i + 1) % len(curves)
        if isinstance(curve, Arc):
            arc = Arc(joints[i], joints[j], curve.sweep)
            circle = _circle(plane, arc.center, arc.radius, height, arc.sweep < 0.0)
            maker = BRepBuilderAPI_MakeEdge(circle, vertices[i], vertices[j])
        else:
            maker = BRepBuilderAPI_MakeEdge(vertices[i], vertices[j])
        builder.Add(wire, _edge(maker, what))
    wire.Closed(True)
    return wire


def _vertex(point: gp_Pnt):
    from OCP.BRepBuilderAPI import BRepBuilderAPI_MakeVertex

    return BRepBuilderAPI_MakeVertex(point).Vertex()


def _between(a: Point2, b: Point2) -> Point2:
    return (a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0


def _face(profile: Profile, plane: Plane, height: float, what: str):
    frame = gp_Pln(
        gp_Ax3(
            _point(plane, (0.0, 0.0), height),
            gp_Dir(*plane.normal),
            gp_Dir(*plane.x_axis),
        )
    )
    maker = BRepBuilderAPI_MakeFace(frame, _wire(profile.outer, plane, height, False, f"{what}, loop 1"), True)
    for k, hole in enumerate(profile.inner):
        maker.Add(_wire(hole, plane, height, True, f"{what}, loop {k + 2}"))
    if not maker.IsDone():
        raise BuildFailure(Verdict.BUILD, f"{what}: the kernel made no face of it")
    return _whole(maker.Face(), what)


# ------------------------------------------------------------------------------------------------ solids


def _solids(shape) -> list:
    return _each(shape, TopAbs_SOLID)


def _prisms(extrude: Extrude, what: str) -> list:
    low, high = extrude.extent.interval
    solids = []
    for sketch in extrude.sketches:
        vector = gp_Vec(*((high - low) * value for value in sketch.plane.normal))
        for j, profile in enumerate(sketch.profiles):
            at = f"{what}, profile {j + 1}"
            maker = BRepPrimAPI_MakePrism(_face(profile, sketch.plane, low, at), vector)
            if not maker.IsDone():
                raise BuildFailure(Verdict.BUILD, f"{at}: the kernel made no prism of it")
            solids.extend(_solids(_whole(maker.Shape(), at)))
    return solids


def _boolean(kind, arguments: list, tools: list, what: str) -> list:
    """Solids of one boolean operation, with the first of `_tolerances` that gives sound ones."""
    size = _longest(arguments + tools)
    for fuzz in (min(ROUNDING, 1e-5 * size), 0.0, 1e-5 * size):
        operation = kind()
        first, second = List_TopoDS_Shape(), List_TopoDS_Shape()
        for solid in arguments:
            first.Append(solid)
        for solid in tools:
            second.Append(solid)
        operation.SetArguments(first)
        operation.SetTools(second)
        operation.SetNonDestructive(True)
        operation.SetFuzzyValue(fuzz)
        operation.Build()
        if operation.IsDone() and not operation.Shape().IsNull():
            shape = operation.Shape()
            if BRepCheck_Analyzer(shape).IsValid():
                return _solids(shape)
    raise BuildFailure(Verdict.BUILD, f"{what}: the boolean operation failed")


def _longest(solids: list) -> float:
    box = Bnd_Box()
    for solid in solids:
        BRepBndLib.Add_s(solid, box)
    low, high = _corners(box)
    return max(b - a for a, b in zip(low, high, strict=True))


def _corners(box: Bnd_Box) -> tuple[Point3, Point3]:
    low, high = box.CornerMin(), box.CornerMax()
    return (low.X(), low.Y(), low.Z()), (high.X(), high.Y(), high.Z())


def _box(solid) -> Bnd_Box:
    box = Bnd_Box()
    BRepBndLib.Add_s(solid, box)
    return box


def _near(solid, others: list) -> bool:
    box = _box(solid)
    return any(not box.IsOut(_box(other)) for other in others)


def _fused(solids: list, what: str) -> list:
    return solids if len(solids) < 2 else _boolean(BRepAlgoAPI_Fuse, solids[:1], solids[1:], what)


def _apply(bodies: list, tools: list, operation: Operation, what: str) -> list:
    if operation is Operation.NEW_BODY or (operation is Operation.JOIN and not bodies):
        return bodies + tools
    if operation is Operation.JOIN:
        touched = [body for body in bodies if _near(body, tools)]
        apart = [body for body in bodies if not any(body.IsSame(other) for other in touched)]
        return apart + _fused(touched + tools, what)
    kind = BRepAlgoAPI_Cut if operation is Operation.CUT else BRepAlgoAPI_Common
    result = []
    for body in bodies:
        if _near(body, tools):
            result.extend(_boolean(kind, [body], tools, what))
        elif operation is Operation.CUT:
            result.append(body)
    return result


def _unified(solid):
    """The solid with faces and edges of one surface or curve merged, unless that harms it."""
    unify = ShapeUpgrade_UnifySameDomain(solid, True, True, False)
    unify.Build()
    merged = unify.Shape()
    if merged.IsNull() or not BRepCheck_Analyzer(merged).IsValid():
        return [solid]
    before, after = _volume(solid), _volume(merged)
    return _solids(merged) if abs(before - after) <= 1e-6 * abs(before) else [solid]


def _volume(shape) -> float:
    props = GProp_GProps()
    BRepGProp.VolumeProperties_s(shape, props)
    return props.Mass()


def build(program: Program):
    """The program's solids as one shape (a compound if there are several), mm. Raises `BuildFailure`."""
    bodies: list = []
    for i, extrude in enumerate(program.extrudes):
        what = f"extrude {i + 1}"
        tools = _fused(_prisms(extrude, what), what)
        bodies = _apply(bodies, tools, extrude.operation, what)
    bodies = [part for body in bodies for part in _unified(body)]
    bodies = [body for body in bodies if abs(_volume(body)) > NEGLIGIBLE * _longest([body]) ** 3]
    if not bodies:
        raise BuildFailure(Verdict.EMPTY, "no solid is left")
    shape = bodies[0] if len(bodies) == 1 else _compound(bodies)
    if not BRepCheck_Analyzer(shape).IsValid():
        fix = ShapeFix_Shape(shape)
        fix.Perform()
        shape = _whole(fix.Shape(), "repair")
        if not BRepCheck_Analyzer(shape).IsValid():
            raise BuildFailure(Verdict.INVALID, "the solid fails the kernel's check")
    return shape


def _compound(solids: list):
    builder = BRep_Builder()
    compound = TopoDS_Compound()
    builder.MakeCompound(compound)
    for solid in solids:
        builder.Add(compound, solid)
    return compound


# ------------------------------------------------------------------------------------------------ measures


def measure(shape) -> dict:
    """Volume mm3 and area mm2 (sums over the solids), exact box in mm, counts of solids, faces and edges."""
    box = Bnd_Box()
    BRepBndLib.AddOptimal_s(shape, box, False, False)
    box.SetGap(0.0)
    props = GProp_GProps()
    BRepGProp.SurfaceProperties_s(shape, props)
    return {
        "volume": _volume(shape),
        "area": props.Mass(),
        "box": _corners(box),
        "solids": len(_solids(shape)),
        "faces": len(_each(shape, TopAbs_FACE)),
        "edges": len([edge for edge in _each(shape, TopAbs_EDGE) if not BRep_Tool.Degenerated_s(TopoDS.Edge(edge))]),
    }


def tessellate(shape, deflection: float, angle: float) -> Mesh:
    """Triangles of every solid; `deflection` is a share of the longest side, `angle` in radians."""
    BRepMesh_IncrementalMesh(shape, deflection * _longest([shape]), False, angle, False)
    points, corners, face_ids, solid_ids, pairs, lines = [], [], [], [], [], []
    base = number = 0
    for s, solid in enumerate(_solids(shape)):
        known = ShapeMap()
        drawn: list[tuple[list[int], bool]] = []
        for item in _each(solid, TopAbs_FACE):
            face = TopoDS.Face(item)
            place = TopLoc_Location()
            found = BRep_Tool.Triangulation_s(face, place)
            if found is not None and found.NbTriangles() > 0:
                nodes, triangles = _triangles(face, found, place)
                points.append(nodes)
                corners.append(triangles + base)
                face_ids.append(np.full(len(triangles), number, np.int32))
                solid_ids.append(np.full(len(triangles), s, np.int32))
                _join(face, found, place, base, known, drawn, pairs)
                base += len(nodes)
            number += 1
        lines.extend(drawn)
    vertices = np.concatenate(points)
    welded, faces, kept = weld(vertices, np.concatenate(corners), np.array(pairs, np.int64).reshape(-1, 2))
    edges = [vertices[line] for line, seam in lines if not seam]
    return Mesh(welded, faces, np.concatenate(face_ids)[kept], np.concatenate(solid_ids)[kept], edges)


def _triangles(face, found, place) -> tuple[np.ndarray, np.ndarray]:
    """Nodes [N, 3] mm and triangles [T, 3] of one face, outward."""
    move = place.Transformation()
    nodes = []
    for i in range(1, found.NbNodes() + 1):
        node = found.Node(i).Transformed(move)
        nodes.append((node.X(), node.Y(), node.Z()))
    triangles = np.array([found.Triangle(i).Get() for i in range(1, found.NbTriangles() + 1)], np.int64) - 1
    if face.Orientation() == TopAbs_Orientation.TopAbs_REVERSED:
        triangles = triangles[:, ::-1]
    return np.array(nodes), triangles


def _join(face, found, place, base: int, known: ShapeMap, drawn: list, pairs: list) -> None:
    """Note which nodes of the face lie on an edge that another face (or its own seam) has too."""
    explorer = TopExp_Explorer(face, TopAbs_EDGE)
    while explorer.More():
        edge = TopoDS.Edge(explorer.Current())
        explorer.Next()
        polygon = BRep_Tool.PolygonOnTriangulation_s(edge, found, place)
        if polygon is None:
            continue
        nodes = [base + polygon.Node(i) - 1 for i in range(1, polygon.NbNodes() + 1)]
        place_of = known.FindIndex(edge)  # from 1; edges that differ in orientation alone are one
        if place_of:
            pairs.extend(zip(drawn[place_of - 1][0], nodes, strict=False))
        else:
            known.Add(edge)
            drawn.append((nodes, BRep_Tool.IsClosed_s(edge, face)))
