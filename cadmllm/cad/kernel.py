"""Programs to solids: the door to OpenCASCADE (`brep`), which is loaded at the first build.

For programs that a person or a model wrote, use `workshop.Workshop`: a kernel can crash or hang on what it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cadmllm.cad.program import Point3, Program, validate
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.cad.mesh import Mesh

DEFLECTION = 1e-3
ANGLE = 0.3


class Verdict(StrEnum):
    """What became of a program."""

    OK = "OK"
    PARSE = "PARSE"
    BUILD = "BUILD"
    TIMEOUT = "TIMEOUT"
    EMPTY = "EMPTY"
    INVALID = "INVALID"


class BuildFailure(Exception):
    """No usable solid: a verdict and the reason."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(f"{verdict}: {reason}")
        self.verdict = verdict
        self.reason = reason


@dataclass(frozen=True, slots=True)
class BuildResult:
    """Outcome of one build."""

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


def build_shape(program: Program) -> Any:
    """The program as an OpenCASCADE shape, mm. Raises `BuildFailure`."""
    try:
        validate(program)
    except CadmllmError as err:
        raise BuildFailure(Verdict.INVALID, err.message) from err
    from cadmllm.cad import brep

    return brep.build(program)


def tessellate(
    shape: Any, deflection: float = DEFLECTION, angle: float = ANGLE
) -> Mesh:
    """Triangles of a shape."""
    from cadmllm.cad import brep

    return brep.tessellate(shape, deflection, angle)
