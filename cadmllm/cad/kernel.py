"""Programs to solids: the door to OpenCASCADE (`cad.occt`), which is loaded at the first build and not before.

For programs that a person or a model wrote use `workshop.Workshop`: the kernel can crash or hang on what it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.cad.files import whole
from cadmllm.cad.program import Extent, ExtentType, Extrude, Plane, Point3, Profile, Program, Sketch, validate
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.cad.mesh import Mesh

DEFLECTION = 1e-3  # chords stay within 0.1 % of the longest side
UNITS: dict[str, float] = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "in": 25.4, "ft": 304.8}  # mm
_UNIT = Extent(ExtentType.ONE_SIDE, 1.0)
ANGLE = 0.2  # rad between neighbouring chords: a circle has at least 32, so that small holes are 0.7 % short of their area


class Verdict(StrEnum):
    """What became of a program."""

    OK = "OK"
    PARSE = "PARSE"  # the text was no program: given by those who read text, never by the kernel
    BUILD = "BUILD"  # the kernel failed or crashed
    TIMEOUT = "TIMEOUT"
    EMPTY = "EMPTY"  # no solid, or none with a volume
    INVALID = "INVALID"  # a program that fails `validate`, a loop that crosses itself, a solid that fails the kernel's check


Place = tuple[int, ...]  # (extrude[, profile[, loop]]), from 0; profiles count through its sketches, loop 0 is the outer


def named(place: Place) -> str:
    """A place in words, as reasons name it: (1, 0) is 'extrude 2, profile 1'."""
    kinds = ("extrude", "profile", "loop")
    return ", ".join(f"{kind} {index + 1}" for kind, index in zip(kinds, place, strict=False)) or "the part"


class BuildFailure(Exception):
    """No usable solid: a verdict, the reason, which names extrude, profile and loop by position, and that place."""

    def __init__(self, verdict: Verdict, reason: str, where: Place | None = None) -> None:
        super().__init__(f"{verdict}: {reason}")
        self.verdict = verdict
        self.reason = reason
        self.where = where or None

    def __reduce__(self):
        return BuildFailure, (self.verdict, self.reason, self.where)


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
        where: (extrude[, profile[, loop]]) of the failure, from 0; None where the kernel does not know it. Profiles count
            through the sketches of an extrude, loop 0 is the outer one.
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
    where: Place | None = None

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


def build_shape(program: Program, tell: Callable[[int], None] = lambda place: None) -> Any:
    """The program as an OpenCASCADE shape in mm: one solid, or a compound of several, checked.

    Args:
        program: any program.
        tell: called with the index of each extrude before it is made, and with their number before the check.

    Raises:
        BuildFailure: verdict BUILD, EMPTY or INVALID, and the reason.
        CadmllmError: E301 when the kernel cannot be loaded.
    """
    try:
        validate(program)
    except CadmllmError as err:
        raise BuildFailure(Verdict.INVALID, f"{err.code}: {err.message}", fault(program)) from err
    load_kernel()
    from cadmllm.cad.occt import solids

    return solids.build(program, tell)


def fault(program: Program) -> Place | None:
    """The first place that fails `validate`; None where all is well or the program is empty."""
    for i, extrude in enumerate(program.extrudes):
        if sound(extrude):
            continue
        profiles = [(sketch, profile) for sketch in extrude.sketches for profile in sketch.profiles]
        for j, (sketch, profile) in enumerate(profiles):
            for k, loop in enumerate((profile.outer, *profile.inner)):
                if not sound(replace(extrude, sketches=(Sketch(Plane(), (Profile(loop),)),), extent=_UNIT)):
                    return i, j, k
            if not sound(replace(extrude, sketches=(replace(sketch, profiles=(profile,)),), extent=_UNIT)):
                return (i,)  # its plane
        return (i,)
    return None


def sound(extrude: Extrude) -> bool:
    """Whether an extrude passes `validate`."""
    try:
        validate(Program((extrude,)))
    except CadmllmError:
        return False
    return True


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


def write_step(shape: Any, path: str | Path, name: str = "part", unit: str = "mm") -> None:
    """Write STEP, byte-identical for the same program.

    Args:
        shape: from `build_shape`, mm.
        path: of the file.
        name: of the part (the STEP product).
        unit: of the file, a key of `UNITS`: its numbers are in that unit and its header says so, so that the part has the
            same true size in any CAD program (25.4 mm are 1 in an inch file).

    Raises:
        CadmllmError: E303.
    """
    load_kernel()
    from cadmllm.cad.occt import output

    with whole(path) as aside:
        output.write_step(shape, aside, name, unit)


def read_step(path: str | Path) -> Any:
    """The shape in a STEP file of any unit, in mm. Raises `CadmllmError` E201."""
    load_kernel()
    from cadmllm.cad.occt import output

    return output.read_step(Path(path))


@dataclass(frozen=True, slots=True)
class Job:
    """One program to build, the files to write when it is OK (named after the part), and whether its mesh is wanted.

    `unit`, a key of `UNITS`, is that of the numbers in STEP and STL files; GLB files are in metres, as their format demands.
    """

    program: Program
    step: str | Path | None = None
    stl: str | Path | None = None
    glb: str | Path | None = None
    mesh: bool = False
    unit: str = "mm"


class Drafts:
    """Files beside a job's outputs, to be written to; `settle` puts them in place or removes them."""

    def __init__(self, job: Job) -> None:
        self._stack = ExitStack()
        self.files: dict[str, tuple[Path, str]] = {}
        try:
            for kind, path in (("step", job.step), ("stl", job.stl), ("glb", job.glb)):
                if path is not None:
                    self.files[kind] = (self._stack.enter_context(whole(path)), Path(path).stem)
        except CadmllmError:
            self.settle(False)
            raise

    def settle(self, keep: bool) -> None:
        """Put the files in place (`keep`) or remove them. Raises `CadmllmError` E303."""
        if keep:
            self._stack.close()
        else:
            self._stack.__exit__(_Discarded, _Discarded(), None)


class _Discarded(Exception):
    """Told to `whole` so that it removes its file."""


def build(job: Job) -> BuildResult:
    """Build, measure and write in this process; see `workshop` for safety.

    Raises:
        CadmllmError: E301 (no kernel), E303 (a file cannot be written).
    """
    drafts = Drafts(job)
    kept = False
    try:
        result = build_into(job.program, drafts.files, job.mesh, job.unit)
        kept = result.ok
    finally:
        drafts.settle(kept)
    return result


def build_into(
    program: Program,
    files: dict[str, tuple[Path, str]],
    mesh: bool,
    unit: str = "mm",
    tell: Callable[[int], None] = lambda place: None,
) -> BuildResult:
    """Build and measure, and write straight into files: {"step" | "stl" | "glb": (path, name of the part)}.

    `tell` is called with the index of each extrude before it is made, and with their number when all are made.
    """
    load_kernel()
    from cadmllm.cad.mesh import glb_bytes, stl_bytes
    from cadmllm.cad.occt import output

    began = time.perf_counter()
    try:
        shape = build_shape(program, tell)
        values = measure(shape)
        triangles = tessellate(shape) if mesh or "stl" in files or "glb" in files else None
        if "step" in files:
            output.write_step(shape, *files["step"], unit)
    except BuildFailure as failure:
        return BuildResult(failure.verdict, failure.reason, seconds=time.perf_counter() - began, where=failure.where)
    except Exception as failure:  # the kernel's exceptions have no common base class
        if not type(failure).__module__.startswith("OCP"):
            raise
        reason = f"measuring, triangulating or writing it failed: {type(failure).__name__}: {failure}"
        return BuildResult(Verdict.BUILD, reason, seconds=time.perf_counter() - began)
    for kind in ("stl", "glb"):
        if kind in files and triangles is not None:
            path, name = files[kind]
            try:
                path.write_bytes(stl_bytes(triangles, unit) if kind == "stl" else glb_bytes(triangles, name))
            except OSError as error:
                raise CadmllmError("E303", f"cannot write {path}: {error.strerror}", "free some space on that disk") from error
    seconds = time.perf_counter() - began
    return BuildResult(Verdict.OK, seconds=seconds, mesh=triangles if mesh else None, **values)
