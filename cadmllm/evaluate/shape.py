"""A shape to be compared, from any file: a program (built here), a STEP solid, a triangle mesh; with a verdict when it is none.

What others wrote is read and built here without a guard: call it in a worker (`evaluate.scoring`, `cad.workers`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cadmllm.cad.convert import kind_of, read_program
from cadmllm.cad.kernel import BuildFailure, Verdict, build_shape, load_kernel, tessellate
from cadmllm.errors import CadmllmError
from cadmllm.evaluate.pairing import Pair, Pairing, pairing, pairs

if TYPE_CHECKING:
    import numpy as np

    from cadmllm.cad.mesh import Mesh
    from cadmllm.cad.program import Program

__all__ = ["Pair", "Pairing", "Shape", "build_program", "of_triangles", "pairing", "pairs", "read_shape", "read_usable"]

PROGRAMS = ("json", "h5", "txt")
SOLIDS = ("step",)
MESHES = ("stl", "ply", "obj", "glb", "off", "3mf", "gltf")
LARGEST_FILE = 256 * 2**20  # bytes
FARTHEST = 1e30  # mm: squares of what is larger leave the range of numbers
Kind = Literal["program", "solid", "mesh", "none"]
REMEDY = "give a file with a part: .step .stl .obj .ply .glb .off .3mf, or a program: .json .h5 .txt"


@dataclass(slots=True)
class Shape:
    """What a file or a program turned out to be.

    Attributes:
        verdict: OK; PARSE (unreadable), BUILD, TIMEOUT, EMPTY (no solid, no triangles) or INVALID (a solid that fails the
            kernel's check; a mesh whose triangles have no area or are not finite).
        reason: empty when OK.
        mesh: triangles in mm, when OK. Of a mesh file as they are in it: only vertices with the very same coordinates are one.
        program: when the file holds one, also when it does not build.
        source: the file, or what else it is from.
        kind: what it is or should have been; "none" where there is no file.
    """

    verdict: Verdict
    reason: str = ""
    mesh: Mesh | None = None
    program: Program | None = None
    source: str = ""
    kind: Kind = "program"

    @property
    def ok(self) -> bool:
        """Whether it can be measured."""
        return self.verdict is Verdict.OK

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Lowest and highest corner [3] of the mesh, mm; None without one."""
        return self.mesh.box if self.mesh is not None else None

    @property
    def extrudes(self) -> int | None:
        """Extrusions of the program; None without one."""
        return len(self.program.extrudes) if self.program is not None else None


def read_shape(path: str | Path) -> Shape:
    """The shape in a file; what is wrong with it is its verdict. Nothing beside that file is opened.

    Programs (.json DeepCAD / Omni-CAD, .h5 DeepCAD, .txt token text) are built by the kernel; .step and .stp are read and
    triangulated by it; .stl .ply .obj .off are taken as millimetres, .glb as metres with +Y up (as `cad.mesh` writes it), .3mf
    in the unit that it names.

    Raises:
        CadmllmError: E301 (the kernel cannot be loaded).
    """
    path = path if isinstance(path, Path) else Path(path)
    ending, kind = kind_of(path), kind_by_name(path)
    try:
        if kind == "program":
            return build_program(read_program(path)[0], str(path))
        if kind == "mesh" and ending not in MESHES:
            raise CadmllmError("E712", f"'{path.suffix}' is no format of a shape", REMEDY)
        return _read_step(path) if kind == "solid" else _read_mesh(path, ending)
    except CadmllmError as error:
        if error.code == "E301":
            raise
        return Shape(Verdict.PARSE, f"{error.code}: {error.message}", source=str(path), kind=kind)


def kind_by_name(path: Path) -> Kind:
    """What a file is meant to hold."""
    ending = kind_of(path)
    return "program" if ending in PROGRAMS else "solid" if ending in SOLIDS else "mesh"


def read_usable(path: str | Path) -> Shape:
    """As `read_shape`, for a file that must hold a shape. Raises `CadmllmError` E712 where it does not."""
    shape = read_shape(path)
    if not shape.ok:
        raise CadmllmError("E712", f"{path}: {shape.verdict}: {shape.reason}", REMEDY)
    return shape


def build_program(program: Program, source: str = "") -> Shape:
    """A program as a shape. Raises `CadmllmError` E301 (the kernel cannot be loaded)."""
    try:
        return Shape(Verdict.OK, mesh=tessellate(build_shape(program)), program=program, source=source)
    except BuildFailure as failure:
        return Shape(failure.verdict, failure.reason, program=program, source=source)


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CadmllmError("E201", f"cannot read {path}: {reason}", "check the path and its permissions") from error
    if not path.is_file() or not 0 < size <= LARGEST_FILE:
        what = "no file" if not path.is_file() else "empty" if not size else f"larger than {LARGEST_FILE >> 20} MiB"
        raise CadmllmError("E201", f"{path} is {what}", REMEDY)


def _read_step(path: Path) -> Shape:
    _check_size(path)
    load_kernel()
    from cadmllm.cad.occt.given import solid_in

    try:
        return Shape(Verdict.OK, mesh=tessellate(solid_in(path)), source=str(path), kind="solid")
    except BuildFailure as failure:
        return Shape(failure.verdict, failure.reason, source=str(path), kind="solid")


def _read_mesh(path: Path, ending: str) -> Shape:
    """Readers of ours, which open nothing else and believe no header."""
    from cadmllm.corpus import gltf, meshfiles, threemf
    from cadmllm.corpus.rawfile import read_raw

    readers = {"stl": meshfiles.read_stl, "ply": meshfiles.read_ply, "obj": meshfiles.read_obj, "off": meshfiles.read_off}
    readers |= {"glb": gltf.read_gltf, "gltf": gltf.read_gltf, "3mf": lambda raw: threemf.read_3mf(raw)[:2]}
    raw = read_raw(path, LARGEST_FILE, "E201", REMEDY)
    try:
        vertices, faces = readers[ending](raw)
    except (EOFError, ValueError, OverflowError) as error:  # what the readers say of bytes that are not in order
        return Shape(Verdict.PARSE, f"no readable .{ending}: {str(error)[:200]}", source=str(path), kind="mesh")
    return of_triangles(vertices, faces, str(path))


def of_triangles(vertices: np.ndarray, faces: np.ndarray, source: str = "") -> Shape:
    """Triangles as a shape: OK when they are finite and one of them has an area.

    Args:
        vertices: [V, 3] mm.
        faces: [F, 3] indices.
        source: where they are from.
    """
    import numpy as np

    from cadmllm.cad.mesh import Mesh

    if not len(faces):
        return Shape(Verdict.EMPTY, "no triangles", source=source, kind="mesh")
    if faces.min() < 0 or faces.max() >= len(vertices):
        return Shape(Verdict.INVALID, f"a triangle names vertex {faces.max()} of {len(vertices)}", source=source, kind="mesh")
    used, where = np.unique(faces, return_inverse=True)
    vertices = vertices[used]
    wild = int((~(np.abs(vertices) <= FARTHEST)).any(axis=1).sum())
    if wild:
        reason = f"{wild:,} of {len(vertices):,} vertices are not finite numbers, or beyond {FARTHEST:g} mm"
        return Shape(Verdict.INVALID, reason, source=source, kind="mesh")
    vertices, same = np.unique(vertices + 0.0, axis=0, return_inverse=True)  # + 0.0: minus zero is zero
    faces = same.ravel()[where.reshape(-1, 3)].astype(np.int32)
    scale = float(np.ptp(vertices, axis=0).max())
    corners = (vertices / scale if scale > 0.0 else vertices)[faces]
    doubled = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    if not doubled.sum() > 0.0:
        return Shape(Verdict.INVALID, f"none of its {len(faces):,} triangles has an area", source=source, kind="mesh")
    none = np.zeros(len(faces), np.int32)
    return Shape(Verdict.OK, mesh=Mesh(vertices, faces, none, none.copy()), source=source, kind="mesh")
