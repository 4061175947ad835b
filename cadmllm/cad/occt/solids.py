"""Solids from programs: prisms and booleans, in the order of the program."""

from __future__ import annotations

from collections.abc import Callable

from OCP.Bnd import Bnd_Box
from OCP.BRep import BRep_Builder
from OCP.BRepAlgoAPI import BRepAlgoAPI_Common, BRepAlgoAPI_Cut, BRepAlgoAPI_Fuse
from OCP.BRepBndLib import BRepBndLib
from OCP.BRepCheck import BRepCheck_Analyzer
from OCP.BRepGProp import BRepGProp
from OCP.BRepPrimAPI import BRepPrimAPI_MakePrism
from OCP.collections import List_TopoDS_Shape
from OCP.gp import gp_Vec
from OCP.GProp import GProp_GProps
from OCP.ShapeFix import ShapeFix_Shape
from OCP.ShapeUpgrade import ShapeUpgrade_UnifySameDomain
from OCP.TopAbs import TopAbs_SOLID
from OCP.TopoDS import TopoDS_Compound

from cadmllm.cad.kernel import BuildFailure, Place, Verdict, named
from cadmllm.cad.occt.faces import each, fuzz, profile_faces, whole
from cadmllm.cad.program import Extrude, Operation, Point3, Program

DOUBT = 1e-4  # share of the volumes by which a boolean's result may miss its bounds (fuzzy faces move a little)


def build(program: Program, tell: Callable[[int], None] = lambda place: None):
    """The program's bodies as one shape in mm: a solid, or a compound of several.

    NEW_BODY adds a body and leaves the others as they are, also where it overlaps them. JOIN unites with every body it
    touches, CUT takes away from every body so far, INTERSECT keeps of every body what lies in both.

    Args:
        program: one that passes `validate`.
        tell: called with the index of each extrude before it is made.

    Raises:
        BuildFailure: BUILD, EMPTY or INVALID, naming extrude, profile and loop by position.
    """
    bodies: list = []
    emptied = 0
    for i, extrude in enumerate(program.extrudes):
        tell(i)
        before = len(bodies)
        try:
            tools = _fused(_prisms(extrude, (i,)), (i,))
            bodies = _apply(bodies, tools, extrude.operation, (i,))
        except BuildFailure:
            raise
        except Exception as failure:  # the kernel's exceptions have no common base class
            raise _by_kernel(failure, (i,)) from failure
        if before and not bodies:
            emptied = i
    if not bodies:
        left = f"{named((emptied,))} ({program.extrudes[emptied].operation.value}) leaves no solid"
        raise BuildFailure(Verdict.EMPTY, left, (emptied,))
    tell(len(program.extrudes))
    return _finished(bodies)


def _by_kernel(failure: Exception, where: Place) -> BuildFailure:
    """A verdict for an exception of OpenCASCADE; anything else is a fault of ours and goes on."""
    if not type(failure).__module__.startswith("OCP"):
        raise failure
    return BuildFailure(Verdict.BUILD, f"{named(where)}: {type(failure).__name__}: {failure}", where)


def solids_of(shape) -> list:
    """The solids of a shape, each once."""
    return each(shape, TopAbs_SOLID)


def volume(shape) -> float:
    """Volume in mm3: the sum over the solids."""
    props = GProp_GProps()
    BRepGProp.VolumeProperties_s(shape, props)
    return props.Mass()


def area(shape) -> float:
    """Area in mm2 of all faces."""
    props = GProp_GProps()
    BRepGProp.SurfaceProperties_s(shape, props)
    return props.Mass()


def rough_box(shapes: list) -> Bnd_Box:
    """A box that holds the shapes, somewhat larger than they are."""
    box = Bnd_Box()
    for shape in shapes:
        BRepBndLib.Add_s(shape, box)
    return box


def corners(box: Bnd_Box) -> tuple[Point3, Point3]:
    """Lowest and highest corner, mm."""
    low, high = box.CornerMin(), box.CornerMax()
    return (low.X(), low.Y(), low.Z()), (high.X(), high.Y(), high.Z())


def longest_side(shapes: list) -> float:
    """Longest side in mm of the box round the shapes."""
    low, high = corners(rough_box(shapes))
    return max(b - a for a, b in zip(low, high, strict=True))


def _prisms(extrude: Extrude, where: Place) -> list:
    low, high = extrude.extent.interval
    solids = []
    number = -1
    for sketch in extrude.sketches:
        vector = gp_Vec(*((high - low) * value for value in sketch.plane.normal))
        for profile in sketch.profiles:
            number += 1
            at = (*where, number)
            for face in profile_faces(profile, sketch.plane, low, at):
                maker = BRepPrimAPI_MakePrism(face, vector)
                if not maker.IsDone():
                    raise BuildFailure(Verdict.BUILD, f"{named(at)}: the kernel made no prism of it", at)
                solids.extend(solids_of(whole(maker.Shape(), at)))
    return solids


def _apply(bodies: list, tools: list, operation: Operation, where: Place) -> list:
    if operation is Operation.NEW_BODY:
        return bodies + tools
    if operation is Operation.JOIN:
        near = [_near(body, tools) for body in bodies]
        apart = [body for body, touches in zip(bodies, near, strict=True) if not touches]
        return apart + _fused([body for body, touches in zip(bodies, near, strict=True) if touches] + tools, where)
    kind = BRepAlgoAPI_Cut if operation is Operation.CUT else BRepAlgoAPI_Common
    result = []
    for body in bodies:
        if _near(body, tools):
            result.extend(_boolean(kind, [body], tools, where))
        elif operation is Operation.CUT:
            result.append(body)
    return result


def _near(body, tools: list) -> bool:
    box = rough_box([body])
    return any(not box.IsOut(rough_box([tool])) for tool in tools)


def _fused(solids: list, where: Place) -> list:
    return solids if len(solids) < 2 else _boolean(BRepAlgoAPI_Fuse, solids[:1], solids[1:], where)


def _boolean(kind, arguments: list, tools: list, where: Place) -> list:
    """Solids of one boolean operation, with the first tolerance that gives sound ones of a possible volume."""
    size = longest_side(arguments + tools)
    bounds = _possible(kind, [volume(solid) for solid in arguments], [volume(solid) for solid in tools])
    for tolerance in (fuzz(size), 0.0, 1e-5 * size):
        operation = kind()
        first, second = List_TopoDS_Shape(), List_TopoDS_Shape()
        for solid in arguments:
            first.Append(solid)
        for solid in tools:
            second.Append(solid)
        operation.SetArguments(first)
        operation.SetTools(second)
        operation.SetNonDestructive(True)
        operation.SetFuzzyValue(tolerance)
        operation.Build()
        if not operation.IsDone() or operation.Shape().IsNull() or not BRepCheck_Analyzer(operation.Shape()).IsValid():
            continue
        solids = solids_of(operation.Shape())
        if bounds[0] <= sum(volume(solid) for solid in solids) <= bounds[1]:
            return solids
    raise BuildFailure(Verdict.BUILD, f"{named(where)}: the boolean operation failed", where)


def _possible(kind, arguments: list[float], tools: list[float]) -> tuple[float, float]:
    """Least and largest volume a boolean can give: the kernel at times drops a part and calls it valid."""
    first, second = sum(arguments), sum(tools)
    slack = DOUBT * (first + second)
    if kind is BRepAlgoAPI_Fuse:
        return max(arguments + tools) - slack, first + second + slack
    if kind is BRepAlgoAPI_Cut:
        return first - second - slack, first + slack
    return 0.0, min(first, second) + slack


def _finished(bodies: list):
    """One checked shape of the bodies, with faces and edges of one surface or curve merged."""
    bodies = [part for body in bodies for part in _unified(body)]
    bodies = [body for body in bodies if volume(body) > 0.5 * fuzz(longest_side([body])) * area(body)]
    if not bodies:
        raise BuildFailure(Verdict.EMPTY, "what is left after the last extrude is too thin to be a solid")
    shape = bodies[0] if len(bodies) == 1 else _compound(bodies)
    if BRepCheck_Analyzer(shape).IsValid():
        return shape
    fix = ShapeFix_Shape(shape)
    fix.Perform()
    shape = whole(fix.Shape(), ())
    if not BRepCheck_Analyzer(shape).IsValid() or not solids_of(shape):
        raise BuildFailure(Verdict.INVALID, "the solid fails the kernel's check, also after its repair")
    return shape


def _unified(solid) -> list:
    """The solid with faces and edges of one surface or curve merged, or as it was where merging would harm it."""
    try:
        unify = ShapeUpgrade_UnifySameDomain(solid, True, True, False)
        unify.Build()
        merged = unify.Shape()
    except Exception as failure:  # the kernel's exceptions have no common base class
        _by_kernel(failure, ())
        return [solid]
    if merged.IsNull() or not BRepCheck_Analyzer(merged).IsValid():
        return [solid]
    return solids_of(merged) if abs(volume(solid) - volume(merged)) <= 1e-6 * abs(volume(solid)) else [solid]


def _compound(solids: list):
    builder = BRep_Builder()
    compound = TopoDS_Compound()
    builder.MakeCompound(compound)
    for solid in solids:
        builder.Add(compound, solid)
    return compound
