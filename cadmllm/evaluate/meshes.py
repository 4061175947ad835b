"""One shape measured by itself, or against another, as it is: what `cadmllm eval mesh A [B]` prints. Nothing is normalised."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadmllm.cad.kernel import Verdict
from cadmllm.cad.mesh import Mesh
from cadmllm.cad.workers import Crew
from cadmllm.errors import CadmllmError
from cadmllm.evaluate.geometry import THRESHOLDS, raw_geometry
from cadmllm.evaluate.shape import kind_by_name, read_usable
from cadmllm.evaluate.topology import Topology, topology

COUNTED = ("segments", "dangling_edge_length", "flux_enclosure_error", "self_intersecting_faces", "faces")

NOISE = 1e-9  # no length or area in mm that anybody means

Found = dict[str, Any]


def measure(one: Path, other: Path | None, *, points: int, seed: int) -> Found:
    """Measure a shape, and its distances to another; in this process: see `measure_apart`.

    Returns:
        the values of `COUNTED` of the first; with another also those of `raw_geometry` and, under `truth`, the values of
        `COUNTED` of the other. Lengths in mm, areas in mm2; NaN where a value is not defined.

    Raises:
        CadmllmError: E712 (no shape in a file), E301 (a program or STEP file, and no kernel).
    """
    first = _mesh(one)
    found = _counted(topology(first.vertices, first.faces))
    if other is not None:
        second = _mesh(other)
        found |= raw_geometry(first, second, points=points, seed=seed)
        found["truth"] = _counted(topology(second.vertices, second.faces))
    return found


def measure_apart(one: Path, other: Path | None, *, points: int, seed: int, timeout: float, memory: int) -> Found:
    """As `measure`; where the kernel has to build or read something, in a worker that may be killed.

    Args:
        timeout: seconds, > 0; memory: MiB, 0 is no limit: of the worker.

    Raises:
        CadmllmError: as `measure`, and E712 where the worker crashed or came to its limits.
    """
    job = _Job(one, other, points, seed)
    if all(kind_by_name(path) == "mesh" for path in (one, other) if path is not None):
        try:
            return job.run()
        except MemoryError as error:
            raise CadmllmError("E712", f"{job.names}: too large for this machine's memory", "export a coarser mesh") from error
    with Crew[Found](1, timeout, memory=memory) as crew:
        return next(crew.run([_Task(job)]))


def _mesh(path: Path) -> Mesh:
    mesh = read_usable(path).mesh
    assert mesh is not None  # usable
    return mesh


def _counted(values: Topology) -> Found:
    return {key: getattr(values, key) for key in COUNTED}


@dataclass(frozen=True, slots=True)
class _Job:
    one: Path
    other: Path | None
    points: int
    seed: int

    @property
    def names(self) -> str:
        return " and ".join(str(path) for path in (self.one, self.other) if path is not None)

    def run(self) -> Found:
        return measure(self.one, self.other, points=self.points, seed=self.seed)


class _Task:
    """What this process keeps of the job."""

    def __init__(self, job: _Job) -> None:
        self.job = job

    def open(self) -> _Job:
        return self.job

    def fail(self, verdict: Verdict, reason: str, seconds: float) -> Found:
        remedy = "give it more time or memory: --set kernel.timeout=120 --set kernel.memory=0"
        raise CadmllmError("E712", f"{self.job.names}: {reason}", remedy)

    def close(self, pid: int, result: Found | None) -> None:
        """Nothing was begun that is left behind."""


def table(found: Found) -> list[list[str]]:
    """For people: a header, then a row a measure: name, value (of the other file, too), what is good, what it says."""
    truth = found.get("truth")
    lines = [["measure", "value", *(["of B"] if truth else []), "good", "what it says"]]
    for key, name, good, says in _COUNTED_TOLD:
        values = [text(found[key])] + ([text(truth[key])] if truth else [])
        lines.append([name, *values, good, says])
    if truth:
        told = [(name, text(found[key]), good, says) for key, name, good, says in _COMPARED_TOLD]
        scores = [
            (f"F-score {t}", text(found["f_score_relative"][str(t)]), "1", f"points within {t} of B's longest side")
            for t in THRESHOLDS
        ]
        scores += [(f"F-score {t} mm", text(found["f_score"][str(t)]), "1", f"points within {t} mm") for t in THRESHOLDS]
        how = "solids, by mesh booleans" if found["iou_method"] == "exact" else "solids, by sampling: a mesh is not closed"
        for name, value, good, says in (told[0], ("IoU", text(found["iou"]), "1", how), *scores, *told[1:]):
            lines.append([name, value, "", good, says])
    return lines


def text(value: float) -> str:
    """A number for people; '-' where it is not defined, 0 for what rounding leaves of one."""
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if math.isnan(value) else f"{value:.6g}" if abs(value) > NOISE else "0"


_COUNTED_TOLD = (
    ("segments", "segments", "solids", "pieces that no vertex joins, after cutting what is not manifold"),
    ("dangling_edge_length", "dangling edges", "0", "length of edges with one face, in half longest sides: the surface is open"),
    ("flux_enclosure_error", "flux error, mm2", "0", "flow of (1, 1, 1) through the surface; - : a face has no area"),
    ("self_intersecting_faces", "self-intersecting", "0", "faces that meet or touch others but where they are joined"),
    ("faces", "faces", "", "triangles"),
)
_COMPARED_TOLD = (
    ("chamfer_distance", "chamfer, mm2", "0", "mean squared nearest distance of surface points, both ways added"),
    ("normal_consistency", "normals", "1", "mean |cosine| of normals at nearest points"),
)
