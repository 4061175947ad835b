"""Planar faces from profiles: exact edges, shared vertices, and regions where loops touch each other."""

from __future__ import annotations

import math

from OCP.Bnd import Bnd_Box
from OCP.BOPTools import BOPTools_AlgoTools3D
from OCP.BRep import BRep_Builder
from OCP.BRepAlgoAPI import BRepAlgoAPI_Splitter
from OCP.BRepBndLib import BRepBndLib
from OCP.BRepBuilderAPI import BRepBuilderAPI_MakeEdge, BRepBuilderAPI_MakeFace, BRepBuilderAPI_MakeVertex
from OCP.BRepCheck import BRepCheck_Analyzer
from OCP.BRepGProp import BRepGProp
from OCP.collections import IndexedMap_TopoDS_Shape_TopTools_ShapeMapHasher as ShapeMap
from OCP.collections import List_TopoDS_Shape
from OCP.gp import gp_Ax2, gp_Ax3, gp_Circ, gp_Dir, gp_Pln, gp_Pnt, gp_Pnt2d
from OCP.GProp import GProp_GProps
from OCP.IntTools import IntTools_Context
from OCP.TopAbs import TopAbs_FACE
from OCP.TopExp import TopExp
from OCP.TopoDS import TopoDS, TopoDS_Wire

from cadmllm.cad.kernel import BuildFailure, Place, Verdict, named
from cadmllm.cad.loops import reverse
from cadmllm.cad.program import Arc, Circle, Line, Loop, Plane, Point2, Profile

ROUNDING = 5e-5  # mm: files round to 1e-8 m, so that curves and faces meant to coincide may be this far apart
POINT = 1e-7  # mm: the kernel's own resolution; shorter curves are left out, flatter arcs are straight
SLIVER = 1e-5  # a cell of a smaller share of its profile's area comes from rounding and proves no crossing


def whole(shape, where: Place):
    """The shape, if there is one. Raises `BuildFailure` BUILD for a null shape."""
    if shape is None or shape.IsNull():
        raise BuildFailure(Verdict.BUILD, f"{named(where)}: the kernel returned nothing", where)
    return shape


def each(shape, kind) -> list:
    """Sub-shapes of a kind, each once, in the kernel's (deterministic) order."""
    found = ShapeMap()
    TopExp.MapShapes_s(shape, kind, found)
    return [found.FindKey(i) for i in range(1, found.Extent() + 1)]


def fuzz(size: float) -> float:
    """Distance in mm below which two faces of a part of this size count as one."""
    return min(ROUNDING, 1e-5 * size)


def profile_faces(profile: Profile, plane: Plane, height: float, where: Place) -> list:
    """The faces of a profile, `height` mm above its plane, facing along the normal.

    One face where the loops stand clear of each other. Loops that touch (themselves or each other) are cut into cells, and
    those inside the outer loop and outside every hole are returned: two, say, for an hourglass.

    Raises:
        BuildFailure: INVALID when a loop crosses itself, EMPTY when the holes leave nothing, BUILD when the kernel fails.
    """
    frame = gp_Pln(gp_Ax3(_point(plane, (0.0, 0.0), height), gp_Dir(*plane.normal), gp_Dir(*plane.x_axis)))
    loops = [(profile.outer, False), *((hole, True) for hole in profile.inner)]
    rings = [_edges(loop, plane, height, clockwise, (*where, k)) for k, (loop, clockwise) in enumerate(loops)]
    if not _pinched(profile):
        maker = BRepBuilderAPI_MakeFace(frame, _wire(rings[0]), True)
        for ring in rings[1:]:
            maker.Add(_wire(ring))
        if maker.IsDone() and not maker.Face().IsNull() and BRepCheck_Analyzer(maker.Face()).IsValid():
            return [maker.Face()]
    return _cells(profile, plane, height, frame, [edge for ring in rings for edge in ring], where)


def _pinched(profile: Profile) -> bool:
    """Whether two corners of the profile coincide, which the kernel's check does not mind and its booleans do."""
    starts = [curve.start for loop in (profile.outer, *profile.inner) for curve in loop.curves if not isinstance(curve, Circle)]
    starts.sort()
    return any(math.dist(a, b) <= ROUNDING for a, b in zip(starts, starts[1:], strict=False))


def winding(loop: Loop, point: Point2) -> int:
    """How often the loop runs counter-clockwise round a point that is not on it: exact for lines, arcs and circles."""
    x, y = point
    turns = 0.0
    for curve in loop.curves:
        if isinstance(curve, Circle):
            return 1 if math.dist(curve.center, point) < curve.radius else 0
        ax, ay, bx, by = curve.start[0] - x, curve.start[1] - y, curve.end[0] - x, curve.end[1] - y
        turns += math.atan2(ax * by - ay * bx, ax * bx + ay * by) / (2.0 * math.pi)
        if isinstance(curve, Arc) and math.dist(curve.center, point) < curve.radius:
            # between chord and arc: the arc passes on the other side of the point than its chord does
            right = (bx - ax) * -ay - (by - ay) * -ax < 0.0
            if right == (curve.sweep > 0.0):
                turns += math.copysign(1.0, curve.sweep)
    return round(turns)


def signed_area(loop: Loop) -> float:
    """Area in mm2 enclosed by a loop, positive when it runs counter-clockwise (shoelace and circular segments)."""
    total = 0.0
    for curve in loop.curves:
        if isinstance(curve, Circle):
            return math.pi * curve.radius**2
        (x0, y0), (x1, y1) = curve.start, curve.end
        total += (x0 * y1 - x1 * y0) / 2.0
        if isinstance(curve, Arc):
            total += curve.radius**2 * (curve.sweep - math.sin(curve.sweep)) / 2.0
    return total


def _point(plane: Plane, at: Point2, height: float) -> gp_Pnt:
    return gp_Pnt(*plane.to_world(at, height))


def _circle(plane: Plane, center: Point2, radius: float, height: float, clockwise: bool) -> gp_Circ:
    sign = -1.0 if clockwise else 1.0
    normal = gp_Dir(*(sign * value for value in plane.normal))
    return gp_Circ(gp_Ax2(_point(plane, center, height), normal, gp_Dir(*plane.x_axis)), radius)


def _edges(loop: Loop, plane: Plane, height: float, clockwise: bool, where: Place) -> list:
    """The loop's edges in order, run (counter-)clockwise about the normal; neighbours share one vertex."""
    if isinstance(loop.curves[0], Circle):
        center, radius = loop.curves[0].center, loop.curves[0].radius
        return [_made(BRepBuilderAPI_MakeEdge(_circle(plane, center, radius, height, clockwise)), where)]
    curves: list[Line | Arc] = [curve for curve in loop.curves if not isinstance(curve, Circle)]
    if (signed_area(loop) < 0.0) != clockwise:
        curves = [reverse(curve) for curve in reversed(curves)]
    joints = [_middle(before.end, after.start) for before, after in zip(curves[-1:] + curves[:-1], curves, strict=True)]
    kept = [i for i in range(len(curves)) if math.dist(joints[i], joints[(i + 1) % len(joints)]) > POINT]
    if len(kept) < 2:
        raise BuildFailure(Verdict.INVALID, f"{named(where)} is smaller than {POINT:g} mm", where)
    curves, joints = [curves[i] for i in kept], [joints[i] for i in kept]
    vertices = [whole(BRepBuilderAPI_MakeVertex(_point(plane, joint, height)).Vertex(), where) for joint in joints]
    edges = []
    for i, curve in enumerate(curves):
        j = (i + 1) % len(curves)
        if isinstance(curve, Arc) and math.dist(joints[i], joints[j]) * abs(curve.sweep) / 8.0 > POINT:
            arc = Arc(joints[i], joints[j], curve.sweep)
            circle = _circle(plane, arc.center, arc.radius, height, arc.sweep < 0.0)
            maker = BRepBuilderAPI_MakeEdge(circle, vertices[i], vertices[j])
        else:
            maker = BRepBuilderAPI_MakeEdge(vertices[i], vertices[j])
        edges.append(_made(maker, where))
    return edges


def _made(maker, where: Place):
    if not maker.IsDone():
        raise BuildFailure(Verdict.BUILD, f"{named(where)}: the kernel refused a curve", where)
    return whole(maker.Edge(), where)


def _middle(a: Point2, b: Point2) -> Point2:
    return (a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0


def _wire(edges: list) -> TopoDS_Wire:
    builder = BRep_Builder()
    wire = TopoDS_Wire()
    builder.MakeWire(wire)
    for edge in edges:
        builder.Add(wire, edge)
    wire.Closed(True)
    return wire


def _cells(profile: Profile, plane: Plane, height: float, frame: gp_Pln, edges: list, where: Place) -> list:
    box = Bnd_Box()
    for edge in edges:
        BRepBndLib.Add_s(edge, box)
    low, high = box.CornerMin(), box.CornerMax()
    size = low.Distance(high)
    corner = gp_Pnt((low.X() + high.X()) / 2.0, (low.Y() + high.Y()) / 2.0, (low.Z() + high.Z()) / 2.0)
    middle = _flat(plane, corner)
    sheet = BRepBuilderAPI_MakeFace(frame, middle[0] - size, middle[0] + size, middle[1] - size, middle[1] + size).Face()
    splitter = BRepAlgoAPI_Splitter()
    arguments, tools = List_TopoDS_Shape(), List_TopoDS_Shape()
    arguments.Append(whole(sheet, where))
    for edge in edges:
        tools.Append(edge)
    splitter.SetArguments(arguments)
    splitter.SetTools(tools)
    splitter.SetFuzzyValue(fuzz(size))
    splitter.Build()
    if not splitter.IsDone() or splitter.Shape().IsNull():
        raise BuildFailure(Verdict.BUILD, f"{named(where)}: the kernel could not divide the sketch into regions", where)
    kept = [face for face, at, share in _divided(splitter.Shape(), profile, plane) if _belongs(profile, at, share, where)]
    if not kept:
        why = "the holes leave nothing of it" if profile.inner else "it encloses no area"
        raise BuildFailure(Verdict.EMPTY, f"{named(where)}: {why}", where)
    return kept


def _divided(shape, profile: Profile, plane: Plane):
    """Each face of the divided sheet, a point inside it, and its area as a share of the profile's outer loop."""
    total = abs(signed_area(profile.outer))
    context = IntTools_Context()
    for item in each(shape, TopAbs_FACE):
        face = TopoDS.Face(item)
        props = GProp_GProps()
        BRepGProp.SurfaceProperties_s(face, props)
        inside = gp_Pnt()
        if BOPTools_AlgoTools3D.PointInFace_s(face, inside, gp_Pnt2d(), context) == 0:
            yield face, _flat(plane, inside), props.Mass() / max(total, 1e-300)


def _flat(plane: Plane, point: gp_Pnt) -> Point2:
    away = point.X() - plane.origin[0], point.Y() - plane.origin[1], point.Z() - plane.origin[2]
    return sum(a * b for a, b in zip(away, plane.x_axis, strict=True)), sum(
        a * b for a, b in zip(away, plane.y_axis, strict=True)
    )


def _belongs(profile: Profile, at: Point2, share: float, where: Place) -> bool:
    """Whether the cell round this point is material. Raises `BuildFailure` INVALID where a loop winds twice or backwards."""
    inside = []
    for k, loop in enumerate((profile.outer, *profile.inner)):
        turns = winding(loop, at) * (-1 if signed_area(loop) < 0.0 else 1)
        if turns not in (0, 1) and share > SLIVER:
            raise BuildFailure(Verdict.INVALID, f"{named((*where, k))} crosses itself", (*where, k))
        inside.append(turns > 0)
    return inside[0] and not any(inside[1:]) and share > SLIVER
