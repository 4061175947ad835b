"""What is taken from a finished shape: measures, triangles, STEP files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from OCP.APIHeaderSection import APIHeaderSection_MakeHeader
from OCP.Bnd import Bnd_Box
from OCP.BRep import BRep_Tool
from OCP.BRepBndLib import BRepBndLib
from OCP.BRepMesh import BRepMesh_IncrementalMesh
from OCP.BRepTools import BRepTools
from OCP.collections import IndexedMap_TopoDS_Shape_TopTools_ShapeMapHasher as ShapeMap
from OCP.IFSelect import IFSelect_ReturnStatus
from OCP.IMeshTools import IMeshTools_MeshAlgoType, IMeshTools_Parameters
from OCP.Interface import Interface_Static
from OCP.Message import Message, Message_Printer
from OCP.STEPCAFControl import STEPCAFControl_Writer
from OCP.STEPControl import STEPControl_Reader
from OCP.TCollection import TCollection_ExtendedString, TCollection_HAsciiString
from OCP.TDataStd import TDataStd_Name
from OCP.TDocStd import TDocStd_Document
from OCP.TopAbs import TopAbs_EDGE, TopAbs_FACE, TopAbs_Orientation
from OCP.TopExp import TopExp_Explorer
from OCP.TopLoc import TopLoc_Location
from OCP.TopoDS import TopoDS
from OCP.XCAFApp import XCAFApp_Application
from OCP.XCAFDoc import XCAFDoc_DocumentTool

from cadmllm import __version__
from cadmllm.cad.kernel import BuildFailure, Verdict
from cadmllm.cad.mesh import Mesh, weld
from cadmllm.cad.occt.faces import each
from cadmllm.cad.occt.solids import area, corners, longest_side, solids_of, volume
from cadmllm.cad.program import Point3
from cadmllm.errors import CadmllmError

STEP_UNITS = {"mm": "MM", "cm": "CM", "m": "M", "in": "INCH", "ft": "FT"}
WIDEST = 1  # of OpenCASCADE's write.precision.mode: the file's uncertainty is the largest tolerance of the shape
FINEST = 1.1e-7  # mm: the kernel refuses to triangulate to less than its resolution
STAMP = "2000-01-01T00:00:00"  # a fixed time: the same program gives the same bytes


def measures(shape) -> dict[str, float | int | tuple[Point3, Point3]]:
    """Volume mm3 and area mm2 (sums over the solids), exact box in mm, counts of solids, faces and edges (no seams' ends)."""
    box = Bnd_Box()
    BRepBndLib.AddOptimal_s(shape, box, False, False)
    box.SetGap(0.0)
    edges = [edge for edge in each(shape, TopAbs_EDGE) if not BRep_Tool.Degenerated_s(TopoDS.Edge(edge))]
    return {
        "volume": volume(shape),
        "area": area(shape),
        "box": corners(box),
        "solids": len(solids_of(shape)),
        "faces": len(each(shape, TopAbs_FACE)),
        "edges": len(edges),
    }


def triangulate(shape, deflection: float, angle: float) -> Mesh:
    """Triangles of every solid; `deflection` is a share of the longest side, `angle` in radians.

    Raises:
        BuildFailure: INVALID when the kernel finds no triangles.
    """
    BRepTools.Clean_s(shape, True)
    wanted = IMeshTools_Parameters()
    wanted.Deflection = wanted.DeflectionInterior = max(deflection * longest_side([shape]), FINEST)
    wanted.Angle = wanted.AngleInterior = angle
    # ten times faster than the default for plates with hundreds of holes, and the same triangles elsewhere
    wanted.MeshAlgo = IMeshTools_MeshAlgoType.IMeshTools_MeshAlgoType_Delabella
    BRepMesh_IncrementalMesh(shape, wanted)
    points, triangles, face_ids, solid_ids, pairs, lines = [], [], [], [], [], []
    base = number = 0
    for s, solid in enumerate(solids_of(shape)):
        known = ShapeMap()
        drawn: list[tuple[list[int], bool]] = []
        for item in each(solid, TopAbs_FACE):
            face = TopoDS.Face(item)
            place = TopLoc_Location()
            found = BRep_Tool.Triangulation_s(face, place)
            if found is not None and found.NbTriangles() > 0:
                nodes, corner = _triangles(face, found, place)
                points.append(nodes)
                triangles.append(corner + base)
                face_ids.append(np.full(len(corner), number, np.int32))
                solid_ids.append(np.full(len(corner), s, np.int32))
                _join(face, found, place, base, known, drawn, pairs)
                base += len(nodes)
            number += 1
        lines.extend(drawn)
    if not points:
        raise BuildFailure(Verdict.INVALID, "the surface could not be triangulated")
    vertices = np.concatenate(points)
    welded, faces, kept = weld(vertices, np.concatenate(triangles), np.array(pairs, np.int64).reshape(-1, 2))
    edges = [vertices[line] for line, seam in lines if not seam]
    return Mesh(welded, faces, np.concatenate(face_ids)[kept], np.concatenate(solid_ids)[kept], edges)


def _triangles(face, found, place) -> tuple[np.ndarray, np.ndarray]:
    """Nodes [N, 3] mm and triangles [T, 3] of one face, outward."""
    nodes = [found.Node(i) for i in range(1, found.NbNodes() + 1)]
    if not place.IsIdentity():
        nodes = [node.Transformed(place.Transformation()) for node in nodes]
    triangles = np.array([found.Triangle(i).Get() for i in range(1, found.NbTriangles() + 1)], np.int64) - 1
    if face.Orientation() == TopAbs_Orientation.TopAbs_REVERSED:
        triangles = triangles[:, ::-1]
    return np.array([node.Coord() for node in nodes]), triangles


def _join(face, found, place, base: int, known: ShapeMap, drawn: list, pairs: list) -> None:
    """Note which nodes of the face lie on an edge that another face (or its own seam) has too.

    Neighbouring faces divide their common edge alike, so nodes are joined by their place along it: positions may differ by the
    tolerance of the edge, and points of different edges that are close stay apart.
    """
    explorer = TopExp_Explorer(face, TopAbs_EDGE)
    while explorer.More():
        edge = TopoDS.Edge(explorer.Current())
        explorer.Next()
        polygon = BRep_Tool.PolygonOnTriangulation_s(edge, found, place)
        if polygon is None:
            continue
        nodes = [base + polygon.Node(i) - 1 for i in range(1, polygon.NbNodes() + 1)]
        index = known.FindIndex(edge)  # from 1; edges that differ in orientation alone are one
        if index:
            pairs.extend(zip(drawn[index - 1][0], nodes, strict=False))
        else:
            known.Add(edge)
            drawn.append((nodes, BRep_Tool.IsClosed_s(edge, face)))


def write_step(shape, path: Path, name: str, unit: str = "mm") -> None:
    """Write STEP AP214 straight into `path`: one part, its bodies as named solids; same shape, same bytes.

    AP214 is what CAD programs of the last 25 years read; nothing here needs AP242. The file's numbers are in `unit` (a key of
    `kernel.UNITS`) and its header says so. Its uncertainty is the widest tolerance of the shape.

    Raises:
        CadmllmError: E303 when the kernel cannot write there.
        BuildFailure: BUILD when it cannot translate the shape.
    """
    messenger = Message.DefaultMessenger_s()  # it writes to standard output, which belongs to results
    messenger.RemovePrinters(Message_Printer.get_type_descriptor_s())
    document = TDocStd_Document(TCollection_ExtendedString("BinXCAF"))
    XCAFApp_Application.GetApplication_s().InitDocument(document)
    XCAFDoc_DocumentTool.SetLengthUnit_s(document, 0.001)
    tool = XCAFDoc_DocumentTool.ShapeTool_s(document.Main())
    label = tool.AddShape(shape, False)
    name = encoded(name)
    TDataStd_Name.Set_s(label, TCollection_ExtendedString(name, True))
    solids = solids_of(shape)
    for number, solid in enumerate(solids if len(solids) > 1 else (), 1):
        TDataStd_Name.Set_s(tool.AddSubShape(label, solid), TCollection_ExtendedString(f"{name} body {number}", True))
    writer = STEPCAFControl_Writer()
    Interface_Static.SetCVal_s("write.step.unit", STEP_UNITS[unit])  # these are the process', so each is set each time
    Interface_Static.SetIVal_s("write.precision.mode", WIDEST)
    Interface_Static.SetIVal_s("write.stepcaf.subshapes.name", 1)
    if not writer.Transfer(document):
        raise BuildFailure(Verdict.BUILD, "the kernel could not translate the solid to STEP")
    header = APIHeaderSection_MakeHeader(writer.ChangeWriter().Model())
    header.SetTimeStamp(TCollection_HAsciiString(STAMP))
    header.SetName(TCollection_HAsciiString(name))
    header.SetDescriptionValue(1, TCollection_HAsciiString("CAD part, boundary representation"))
    header.SetAuthorValue(1, TCollection_HAsciiString(""))
    header.SetOrganizationValue(1, TCollection_HAsciiString(""))
    header.SetAuthorisation(TCollection_HAsciiString(""))
    header.SetOriginatingSystem(TCollection_HAsciiString(f"cadmllm {__version__}"))
    if writer.Write(str(path)) != IFSelect_ReturnStatus.IFSelect_RetDone:
        raise CadmllmError("E303", f"cannot write {path}: disk full or read-only", "free some space or give another folder")


def encoded(text: str) -> str:
    r"""Text as STEP files say it: what is not ASCII as \X2\ (UTF-16) or \X4\ (UTF-32), ISO 10303-21 6.4.3."""

    def spelt(found: re.Match[str]) -> str:
        wide = any(ord(char) > 0xFFFF for char in found[0])
        code = found[0].encode("utf-32-be" if wide else "utf-16-be", "surrogatepass").hex().upper()
        return f"\\X{4 if wide else 2}\\{code}\\X0\\"

    return re.sub(r"[^ -~]+", spelt, text)


def read_step(path: Path):
    """The shape in a STEP file, mm. Raises `CadmllmError` E201 when the kernel cannot read one."""
    Message.DefaultMessenger_s().RemovePrinters(Message_Printer.get_type_descriptor_s())
    reader = STEPControl_Reader()
    if reader.ReadFile(str(path)) != IFSelect_ReturnStatus.IFSelect_RetDone or reader.TransferRoots() == 0:
        raise CadmllmError(
            "E201", f"{path} is not a STEP file that the kernel can read", "give a STEP file (AP203, AP214, AP242)"
        )
    shape = reader.OneShape()
    if shape.IsNull():
        raise CadmllmError("E201", f"{path} holds no shape", "give a STEP file with a solid")
    return shape
