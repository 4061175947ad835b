"""Points and views of programs, made by our kernel and renderer: for generated parts and for data sets that lack them.

Kernel builds run in the workshop's killable processes, sampling and drawing in a pool of their own. Files are written aside
and renamed, files that exist are kept, so a run that was interrupted goes on where it stopped. What a file holds depends on
the id, the seed and the program alone, not on the number of workers.
"""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cadmllm.cad import files
from cadmllm.corpus import order
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.cad.mesh import Mesh
    from cadmllm.cad.program import Program

VIEWS = 8
POINT_COUNT = 8192  # twice what an encoder sees, so that each epoch draws another half
BLOCK = 64  # programs read ahead of the kernel
COLOURS = 10  # of a compact view


@dataclass(frozen=True, slots=True)
class Derive:
    """What is made of each program.

    Attributes:
        points: surface points a cloud; 0: no clouds.
        views: whether the 8 views are drawn.
        size: pixels of a view's side.
        compact: 16-bit points and pictures of a few colours, a fifth of the space: for data sets that are shipped.
        seed: of the points.
    """

    points: int = 0
    views: bool = False
    size: int = 224
    compact: bool = False
    seed: int = 0

    def recipe(self) -> dict[str, object]:
        """What tells files of this kind from others."""
        out: dict[str, object] = {}
        if self.points:
            out["points"] = {"count": self.points, "compact": self.compact, "seed": self.seed}
        if self.views:
            out["views"] = {"size": self.size, "compact": self.compact}
        return out


@dataclass(slots=True)
class Report:
    """Outcome of a preparation: programs in all, made now, found complete, and why the others were not made."""

    total: int = 0
    made: int = 0
    kept: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, str]] = field(default_factory=list)

    def fail(self, id_: str, verdict: str, code: str, reason: str) -> None:
        """Count a program that nothing could be made of."""
        self.verdicts[verdict] += 1
        self.failures.append({"id": id_, "verdict": verdict, "code": code, "reason": reason})

    def as_dict(self) -> dict[str, object]:
        """The shape under `--json`."""
        return {
            "total": self.total,
            "made": self.made,
            "kept": self.kept,
            "failed": len(self.failures),
            "verdicts": dict(sorted(self.verdicts.items())),
            "failures": self.failures,
        }


def targets(out: Path, id_: str, what: Derive) -> list[Path]:
    """The files of an id: pcd/ID.npz, img/ID_000.png .. img/ID_007.png."""
    made = [out / "pcd" / f"{id_}.npz"] if what.points else []
    return made + ([out / "img" / f"{id_}_{k:03d}.png" for k in range(VIEWS)] if what.views else [])


def prepare(
    programs: Iterable[tuple[str, Callable[[], Program]]],
    out: Path,
    what: Derive,
    *,
    workers: int = 2,
    timeout: float = 30.0,
    advance: Callable[[int], None] = lambda n: None,
) -> Report:
    """Make what is missing of every program.

    Args:
        programs: (id, function that reads the program); a reader's CadmllmError is verdict PARSE.
        out: folder that gets pcd/ and img/.
        what: what to make.
        workers: processes for drawing, and as many for the kernel.
        timeout: seconds a build may take.
        advance: called with the number of programs that were dealt with.

    Raises:
        CadmllmError: E303 when a file cannot be written, E301 without a kernel.
    """
    from cadmllm.cad.workshop import Workshop

    report = Report()
    # forkserver, as the workshop: a forked child would inherit its pipes and keep dead workers looking alive
    with (
        Workshop(workers, timeout) as workshop,
        ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool,
    ):
        pending: list[tuple[str, Future[None]]] = []
        for block in _blocks(programs):
            todo = _missing(block, out, what, report, advance)
            pending += _build(todo, out, what, workshop, pool, report, advance)
            pending = _collect(pending, report, advance, keep=BLOCK)
        _collect(pending, report, advance, keep=0)
    return report


def _blocks(programs: Iterable[tuple[str, Callable[[], Program]]]) -> Iterator[list[tuple[str, Callable[[], Program]]]]:
    source = iter(programs)
    while block := list(itertools.islice(source, BLOCK)):
        yield block


def _missing(block, out: Path, what: Derive, report: Report, advance: Callable[[int], None]) -> list[tuple[str, Program]]:
    """The programs of a block of which a file is missing, read."""
    todo: list[tuple[str, Program]] = []
    for id_, read in block:
        report.total += 1
        if all(path.exists() for path in targets(out, id_, what)):
            report.kept += 1
            report.verdicts["OK"] += 1
            advance(1)
            continue
        try:
            todo.append((id_, read()))
        except CadmllmError as error:
            report.fail(id_, "PARSE", error.code, error.message)
            advance(1)
    return todo


def _build(todo, out: Path, what: Derive, workshop, pool, report: Report, advance) -> list[tuple[str, Future[None]]]:
    """Build programs and hand each mesh to the pool."""
    from cadmllm.cad.kernel import Job, Verdict

    pending = []
    jobs = [Job(program, mesh=True) for _, program in todo]
    for (id_, _), result in zip(todo, workshop.map(jobs), strict=True):
        if result.verdict is Verdict.OK and result.mesh is not None:
            pending.append((id_, pool.submit(make_files, result.mesh, out, id_, what)))
        else:
            report.fail(id_, str(result.verdict), "E302", result.reason)
            advance(1)
    return pending


def _collect(pending, report: Report, advance, *, keep: int) -> list[tuple[str, Future[None]]]:
    """Wait for the oldest drawings until at most `keep` are open."""
    while len(pending) > keep:
        _, future = pending.pop(0)
        future.result()
        report.made += 1
        report.verdicts["OK"] += 1
        advance(1)
    return pending


def make_files(mesh: Mesh, out: Path, id_: str, what: Derive) -> None:
    """Sample and draw one mesh; files that exist stay.

    Raises:
        CadmllmError: E303 when a file cannot be written.
    """
    for path in targets(out, id_, what):
        if path.exists():
            continue
        content = _cloud(mesh, id_, what) if path.suffix == ".npz" else _view(mesh, int(path.stem[-3:]), what)
        make_folder(path.parent)
        files.write_whole(path, content)


def make_folder(path: Path) -> None:
    """The folder, with its parents.

    Raises:
        CadmllmError: E303 when it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CadmllmError("E303", f"{path} cannot be made: {error.strerror}", "give a folder that can be written") from error


def _cloud(mesh: Mesh, id_: str, what: Derive) -> bytes:
    """An .npz with points in [-1, 1], unit normals, and the transform from mm: points = (mm - center) * scale."""
    from cadmllm.cad.mesh import normalise, sample_surface

    seed = order.whole(what.seed, int(order.fraction(id_) * 2**56))
    points, normals = sample_surface(mesh, what.points, seed)
    transform = normalise(mesh)
    kind = np.float16 if what.compact else np.float32
    buffer = io.BytesIO()
    save = np.savez_compressed if what.compact else np.savez
    save(
        buffer,
        points=transform.apply(points).astype(kind),
        normals=normals.astype(kind),
        center=np.array(transform.center),
        scale=np.array(transform.scale),
    )
    return buffer.getvalue()


def _view(mesh: Mesh, number: int, what: Derive) -> bytes:
    """One view as PNG."""
    from PIL import Image

    from cadmllm.cad.render import render

    picture = Image.fromarray(render(mesh, number, what.size))
    if what.compact:
        picture = picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
