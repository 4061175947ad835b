"""One answer as a person uses it: its program, its solid, and the files of both."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.cad.convert import write_program
from cadmllm.cad.files import whole, write_whole
from cadmllm.cad.kernel import BuildResult, Verdict, build_shape
from cadmllm.cad.omnicad import write_json
from cadmllm.cad.program import Program, validate
from cadmllm.cad.render import render, write_png
from cadmllm.cad.script import to_script
from cadmllm.cad.tokens import to_text
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.cad.mesh import Mesh
    from cadmllm.cad.workshop import Workshop

PIXELS = 640


@dataclass(slots=True)
class Part:
    """What became of one request.

    Attributes:
        name: of the request.
        program: sketches and extrusions in mm, in the frame that the record names; None where the answer spells none.
        result: what the kernel said of it.
        tokens: CAD vocabulary indices as the model wrote them, `end` included where it was reached.
        record: what was asked, who answered, how, and what came out (docs/inference.md); no files until it is saved.
        workshop: the kernel's workers that write solids; open as long as the model is.
        unit: of STEP and STL files ('mm', 'in', ...).
        altered: whether the program is no longer just what the tokens say (placed in a cloud's frame, scaled, repaired).
    """

    name: str
    program: Program | None
    result: BuildResult
    tokens: tuple[int, ...]
    record: dict[str, Any]
    workshop: Workshop = field(repr=False)
    unit: str = "mm"
    altered: bool = False

    @property
    def verdict(self) -> Verdict:
        """OK, or why there is no solid."""
        return self.result.verdict

    @property
    def reason(self) -> str:
        """In words; empty when OK."""
        return self.result.reason

    @property
    def ok(self) -> bool:
        """Whether there is a solid."""
        return self.result.ok

    @property
    def mesh(self) -> Mesh | None:
        """Its triangles, mm; None without a solid."""
        return self.result.mesh

    @property
    def text(self) -> str:
        """The model's own tokens as text, an instruction a line.

        Raises:
            CadmllmError: E211 when they do not follow the grammar (only with `grammar=False`).
        """
        return to_text(self.tokens)

    @property
    def solid(self) -> Any | None:
        """The part as an OpenCASCADE shape (`OCP.TopoDS.TopoDS_Shape`, mm), built anew in this process; None without a solid.

        It was built in a worker before, so that it is known to go well.
        """
        return build_shape(self._sound()) if self.ok else None

    def to_step(self, path: str | Path) -> None:
        """Write STEP in `unit`, the same bytes for the same part. Raises `CadmllmError` E302 (no solid), E303."""
        self._write(step=path)

    def to_stl(self, path: str | Path) -> None:
        """Write binary STL, numbers in `unit`. Raises as `to_step`."""
        self._write(stl=path)

    def to_glb(self, path: str | Path) -> None:
        """Write binary glTF (metres, +Y up, as the format demands). Raises as `to_step`."""
        self._write(glb=path)

    def to_json(self, path: str | Path) -> None:
        """Write Omni-CAD / DeepCAD JSON (metres). Raises `CadmllmError` E302 where there is no program, E2xx, E303."""
        write_json(validate(self._program()), path, self.result.box)

    def to_python(self, path: str | Path) -> None:
        """Write editable build123d source (mm). Raises as `to_json`."""
        write_whole(path, to_script(validate(self._program()), Path(path).stem).encode())

    def to_png(self, path: str | Path, size: int | None = None) -> None:
        """Write a shaded view of `size` x `size` pixels (default `PIXELS`). Raises as `to_step`."""
        self._sound()
        assert self.mesh is not None
        write_png(render(self.mesh, size=size or PIXELS), path)

    def to_text(self, path: str | Path) -> None:
        """Write the part as token text; one that was altered is spelled anew. Raises `CadmllmError` E211, E212, E303."""
        if self.altered and self.ok:
            write_program(self._program(), self.result.box, Path(path))
        else:
            write_whole(path, self.text.encode())

    def write_solid(self, step: Path, stl: Path, glb: Path) -> None:
        """The three of them with one build. Raises as `to_step`."""
        self._write(step=step, stl=stl, glb=glb)

    def save(self, folder: str | Path) -> list[str]:
        """Write everything there is, all of this answer or nothing (`answer.FILES`), and the record last.

        Returns:
            The names of the files.

        Raises:
            CadmllmError: E303.
        """
        from cadmllm.infer.answer import deliver

        return deliver(self, Path(folder))

    def _program(self) -> Program:
        if self.program is None:
            raise _nothing(self, "no program")
        return self.program

    def _sound(self) -> Program:
        if not self.ok:
            raise _nothing(self, "no solid")
        return self._program()

    def _write(self, step: str | Path | None = None, stl: str | Path | None = None, glb: str | Path | None = None) -> None:
        result = self.workshop.build(self._sound(), step=step, stl=stl, glb=glb, unit=self.unit)
        if not result.ok:  # it was built before: only a busier machine can make a difference
            raise CadmllmError(
                "E302", f"{self.name}: {result.verdict}: {result.reason}", "give it more time: --set kernel.timeout=120"
            )


def _nothing(part: Part, lacking: str) -> CadmllmError:
    return CadmllmError(
        "E302", f"{part.name} has {lacking}: {part.verdict}: {part.reason}", "look at `.verdict` first, or draw more candidates"
    )


def measures(program: Program | None, result: BuildResult) -> dict[str, Any]:
    """What a record says of a solid: verdict, mm3, mm2, mm, counts."""
    return {
        "verdict": result.verdict.value,
        "reason": result.reason,
        "volume_mm3": result.volume,
        "area_mm2": result.area,
        "box_mm": [list(corner) for corner in result.box] if result.box else None,
        "size_mm": [high - low for low, high in zip(*result.box, strict=True)] if result.box else None,
        "solids": result.solids,
        "faces": result.faces,
        "edges": result.edges,
        "commands": command_counts(program) if program is not None else {},
    }


def command_counts(program: Program) -> dict[str, int]:
    """How many extrudes, lines, arcs and circles a program has."""
    counts = Counter(extrude=len(program.extrudes))
    for extrude in program.extrudes:
        for profile in (profile for sketch in extrude.sketches for profile in sketch.profiles):
            counts.update(type(curve).__name__.lower() for loop in (profile.outer, *profile.inner) for curve in loop.curves)
    return {name: counts[name] for name in ("extrude", "line", "arc", "circle")}


def write_record(record: dict[str, Any], path: Path) -> None:
    """Write a record as JSON. Raises `CadmllmError` E303."""
    with whole(path) as aside:
        aside.write_text(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
