"""Solids that others made: what a STEP file must hold to count as a part, by the rules for what is built here."""

from __future__ import annotations

from pathlib import Path

from OCP.BRepCheck import BRepCheck_Analyzer

from cadmllm.cad.kernel import BuildFailure, Verdict
from cadmllm.cad.occt.output import read_step
from cadmllm.cad.occt.solids import solids_of, volume


def solid_in(path: Path):
    """The shape in a STEP file, mm.

    Raises:
        CadmllmError: E201 when the kernel cannot read it.
        BuildFailure: EMPTY without a solid that has a volume (surfaces are none), INVALID when it fails the kernel's check.
    """
    shape = read_step(path)
    solids = solids_of(shape)
    if not any(abs(volume(solid)) > 0.0 for solid in solids):
        raise BuildFailure(Verdict.EMPTY, f"{len(solids)} solids in the file, none with a volume")
    if not BRepCheck_Analyzer(shape).IsValid():
        raise BuildFailure(Verdict.INVALID, "the solid fails the kernel's check")
    return shape
