"""Programs to solids: the door to OpenCASCADE (`cad.occt`), which is loaded at the first build and not before.

For programs that a person or a model wrote use `workshop.Workshop`: the kernel can crash or hang on what it is given.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.cad.program import Point3, Program, validate
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.cad.mesh import Mesh

DEFLECTION = 1e-3  # chords stay within 0.1 % of the longest side: 0.05 % of the volume for typical parts
ANGLE = 0.3  # rad between neighbouring chords: a full circle has at least 21, however small it is


class Verdict(StrEnum):
    """What became of a program."""

    OK = "OK"
    PARSE = "PARSE"  # the text was no program: given by those who read text, never by the kernel
    BUILD = "BUILD"  # the kernel failed or crashed
    TIMEOUT = "TIMEOUT"
    EMPTY = "EMPTY"  # no solid, or none with a volume
    INVALID = "INVALID"  # a program that fails `validate`, a loop that crosses itself, a solid that fails the kernel's check


class BuildFailure(Exception):
    """No usable solid: a verdict and the reason, which names extrude, profile and loop by position."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(f"{verdict}: {reason}")
        self.verdict = verdict
        self.reason = reason

    def __reduce__(self):
        return BuildFailure, (self.verdict, self.reason)


@dataclass(frozen=True, slots=True)
class BuildResult:
    """Outcome of one build.

    Attributes:
        verdict: OK, or why there is no usable solid; all measures are 0 and `box` is None unless it is OK.
        reason: empty when OK.
        volume: mm3, the sum over the solids (where NEW_BODY bodies overlap, both count).
        area: mm2, the sum over the solids.
        box: exact bounding box, lowest and highest corner, mm.
        solids, faces, edges: how many.
        seconds: wall time of the build, without start-up of the kernel.
        mesh: if it was asked for.
    """

    verdict: Verdict
    reason: str = ""
    volume: float = 0.0
    area: float = 0.0
    box: tuple[Point3, Point3] | None = None
    solids: int = 0
    faces: int = 0
    edges: int = 0
    seconds: float = 0.0
    mesh: Mesh | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a usable solid."""
        return self.verdict is Verdict.OK


def load_kernel() -> None:
    """Import OpenCASCADE (1-3 s at the first call). Raises `CadmllmError` E301 with the command that mends it."""
    try:
        import OCP.TopoDS  # noqa: F401
    except ModuleNotFoundError as err:
        raise CadmllmError(
            "E301", f"the CAD kernel is not installed ({err})", 'pip install "cadquery-ocp-novtk>=8.0,<8.1"'
        ) from err
    except ImportError as err:
        if "libGL" in str(err):
            remedy = "sudo apt-get update && sudo apt-get install -y --no-install-recommends libgl1"
        else:
            remedy = 'install the library named above, or: pip install --force-reinstall "cadquery-ocp-novtk>=8.0,<8.1"'
        raise CadmllmError("E301", f"the CAD kernel cannot be loaded: {err}", remedy) from err


def build_shape(program: Program) -> Any:
    """The program as an OpenCASCADE shape in mm: one solid, or a compound of several, checked.

    Raises:
        BuildFailure: verdict BUILD, EMPTY or INVALID, and the reason.
        CadmllmError: E301 when the kernel cannot be loaded.
    """
    try:
        validate(program)
    except CadmllmError as err:
        raise BuildFailure(Verdict.INVALID, f"{err.code}: {err.message}") from err
    load_kernel()
    from cadmllm.cad.occt import solids

    return solids.build(program)


def measure(shape: Any) -> dict[str, Any]:
    """The fields volume, area, box, solids, faces, edges of `BuildResult` for a shape."""
    load_kernel()
    from cadmllm.cad.occt import output

    return output.measures(shape)


def tessellate(shape: Any, deflection: float = DEFLECTION, angle: float = ANGLE) -> Mesh:
    """Closed triangle meshes of the solids of a shape.

    Args:
        shape: from `build_shape`.
        deflection: largest distance between chord and curve, as a share of the longest side, > 0.
        angle: largest angle between neighbouring chords, rad, > 0.
    """
    load_kernel()
    from cadmllm.cad.occt import output

    return output.triangulate(shape, deflection, angle)


def write_step(shape: Any, path: str | Path, name: str = "part") -> None:
    """Write STEP in millimetres, byte-identical for the same program. Raises `CadmllmError` E303."""
    load_kernel()
    from cadmllm.cad.occt import output

    output.write_step(shape, Path(path), name)


def read_step(path: str | Path) -> Any:
    """The shape in a STEP file, mm. Raises `CadmllmError` E201."""
    load_kernel()
    from cadmllm.cad.occt import output

    return output.read_step(Path(path))


def build(
    program: Program,
    *,
    step: str | Path | None = None,
    stl: str | Path | None = None,
    glb: str | Path | None = None,
    mesh: bool = False,
) -> BuildResult:
    """Build, measure and write in this process: a `BuildResult`, whatever the program is. See `workshop` for safety.

    Args:
        program: any program.
        step, stl, glb: files to write when the verdict is OK; the part is named after the file.
        mesh: whether the result carries the mesh.

    Raises:
        CadmllmError: E301 (no kernel), E303 (a file cannot be written).
    """
    load_kernel()
    began = time.perf_counter()
    try:
        shape = build_shape(program)
        values = measure(shape)
        triangles = tessellate(shape) if mesh or stl is not None or glb is not None else None
    except BuildFailure as failure:
        return BuildResult(failure.verdict, failure.reason, seconds=time.perf_counter() - began)
    from cadmllm.cad.mesh import write_glb, write_stl

    if step is not None:
        write_step(shape, step, Path(step).stem)
    if stl is not None and triangles is not None:
        write_stl(triangles, stl)
    if glb is not None and triangles is not None:
        write_glb(triangles, glb, Path(glb).stem)
    seconds = time.perf_counter() - began
    return BuildResult(Verdict.OK, seconds=seconds, mesh=triangles if mesh else None, **values)
