"""What `cadmllm data prepare` costs: speed by stage, and memory along a long run.

    .venv/bin/python benchmarks/prepare.py speed  [--data ../shared/data/deepcad] [--count N] [--workers 2] [--share 16] [--json]
    .venv/bin/python benchmarks/prepare.py manifest [--lines 453000]
    .venv/bin/python benchmarks/prepare.py memory [--builds 5000] [--recycle 500] [--csv FILE] [--json]

`speed` makes STEP files alone, clouds alone, views alone and all of them, each into a new folder. The workers' time (workers x
wall time from the first program to the last) is divided into OpenCASCADE (build, STEP, mesh), numerics (points, views) and the
rest, which is our overhead: start-up, reading, hashing, writing, pipes, scheduling, waiting, the manifest. `inside` is measured
apart, in one process: the share of these stages that is spent in the large calls into OpenCASCADE, a lower bound of its share.

`manifest` keeps book of 453,000 programs that are not there.

`memory` builds, meshes and samples programs (points alone), the same ones again and again under new ids, and notes the resident
memory of this process and of its workers. `--recycle 1000000` shows what workers would grow to if they were never replaced.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import resource
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from cadmllm.cad import kernel, omnicad
from cadmllm.corpus.derive import Outcome, Recipe
from cadmllm.corpus.manifest import MANIFEST, Workplace
from cadmllm.corpus.prepare import RECYCLE, SHARE, Commission, Report, crew, prepare
from cadmllm.errors import CadmllmError

RECIPES = {
    "step": Recipe(step=True),
    "points": Recipe(points=8192),
    "views": Recipe(views=True),
    "all": Recipe(points=8192, views=True, step=True),
}
KERNEL, NUMERICS = ("build", "step", "mesh"), ("points", "views")
SAMPLES = 100  # of memory, along a run


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "manifest"))
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data" / "deepcad")
    parser.add_argument("--count", type=int, default=1_000_000, help="at most so many programs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--share", type=int, default=SHARE, help="programs a worker is handed at once")
    parser.add_argument("--recycle", type=int, default=RECYCLE)
    parser.add_argument("--builds", type=int, default=5000)
    parser.add_argument("--largest", type=int, default=2**20, help="bytes of a program's file: larger ones are left out")
    parser.add_argument("--only", choices=tuple(RECIPES), nargs="+", default=list(RECIPES), help="speed: these")
    parser.add_argument("--csv", type=Path, help="memory: where every sample goes")
    parser.add_argument("--lines", type=int, default=453_000, help="manifest: programs")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()
    figures = {"speed": speed, "memory": memory, "manifest": manifest}[args.what](args)
    print(json.dumps(figures, indent=1) if args.json else "\n".join(figures["table"]))


def ids_of(data: Path, count: int, largest: int) -> list[str]:
    """Ids of the programs under a data set, `count` of them at even distances."""
    folder = data / "json"
    found = [path for path in sorted(folder.rglob("*.json")) if path.stat().st_size <= largest]
    ids = [path.relative_to(folder).with_suffix("").as_posix() for path in found]
    return ids[:: max(1, len(ids) // count)][:count]


def local(commissions: Iterable[Commission], args: argparse.Namespace, seen: list[float]) -> Iterator[Outcome]:
    """The engine of one machine; notes when the first outcome came."""
    with crew(args.workers, args.timeout, args.recycle, args.share) as hands:
        for outcome in hands.run(commissions, ordered=False):
            seen.append(time.monotonic())
            yield outcome


def speed(args: argparse.Namespace) -> dict:
    """Models per second and where the time goes, for each recipe."""
    ids = ids_of(args.data, args.count, args.largest)
    rows, figures = [], {}
    for name in args.only:
        seen: list[float] = []
        with tempfile.TemporaryDirectory(prefix="prepare-") as out:
            began = time.monotonic()
            engine = functools.partial(local, args=args, seen=seen)
            report = prepare(ids, args.data / "json", Path(out), RECIPES[name], timeout=args.timeout, engine=engine)
            again = time.monotonic()
            prepare(ids, args.data / "json", Path(out), RECIPES[name], timeout=args.timeout, engine=engine)
            again = time.monotonic() - again
        figures[name] = _division(report, args.workers, seen[0] - began, again)
        rows.append((name, figures[name]))
    table = [
        f"{len(ids)} programs, {args.workers} workers, at most {args.share} handed at once, recycled after {args.recycle}",
        "",
    ]
    table += ["recipe   models/s  OpenCASCADE  points+views  overhead   of it files   start s  second run s"]
    for name, row in rows:
        table.append(
            f"{name:7s} {row['rate']:9.2f} {row['kernel']:11.1%} {row['numerics']:13.1%} {row['overhead']:9.1%}"
            f" {row['files']:12.1%} {row['start']:9.1f} {row['again']:13.2f}   {row['verdicts']}"
        )
    table += ["", "ms a program by stage"]
    table += [f"{name:7s} " + "  ".join(f"{stage} {ms:.1f}" for stage, ms in row["ms"].items()) for name, row in rows]
    share = inside(ids[::8], args.data)
    table += ["", f"inside large calls of OpenCASCADE (every 8th program): {share:.1%} of build, STEP and mesh"]
    return {"programs": len(ids), "recipes": figures, "inside": share, "table": table}


def _division(report: Report, workers: int, start: float, again: float) -> dict:
    """Shares of the workers' time."""
    total = workers * report.wall
    share = {name: sum(report.seconds[stage] for stage in stages) / total for name, stages in _GROUPS.items()}
    done = report.made + report.failed
    return {
        "rate": done / report.wall,
        **share,
        "overhead": 1.0 - share["kernel"] - share["numerics"],
        "start": start,
        "again": again,
        "wall": report.wall,
        "ms": {stage: 1000.0 * seconds / done for stage, seconds in report.seconds.items()},
        "verdicts": dict(report.verdicts),
    }


_GROUPS = {"kernel": KERNEL, "numerics": NUMERICS, "files": ("read", "write")}


def inside(ids: list[str], data: Path) -> float:
    """Share of build, STEP and mesh that large calls of OpenCASCADE take, in this process."""
    kernel.load_kernel()
    from cadmllm.cad.occt import faces, output, solids

    clock = Clock()
    for kind, names in (
        (solids.BRepAlgoAPI_Cut, ("Build",)),
        (solids.BRepAlgoAPI_Fuse, ("Build",)),
        (solids.BRepAlgoAPI_Common, ("Build",)),
        (faces.BRepAlgoAPI_Splitter, ("Build",)),
        (solids.ShapeUpgrade_UnifySameDomain, ("Build",)),
        (solids.BRepCheck_Analyzer, ("IsValid",)),
        (output.STEPCAFControl_Writer, ("Transfer", "Write")),
        (solids.BRepGProp, ("VolumeProperties_s", "SurfaceProperties_s")),
        (solids.BRepBndLib, ("Add_s",)),
    ):
        for name in names:
            timed = clock.timed(getattr(kind, name))
            setattr(kind, name, staticmethod(timed) if name.endswith("_s") else timed)
    for module, names in (  # these do their work as they are made
        (solids, ("BRepCheck_Analyzer", "BRepPrimAPI_MakePrism", "ShapeFix_Shape", "ShapeUpgrade_UnifySameDomain")),
        (faces, ("BRepBuilderAPI_MakeFace", "BRepBuilderAPI_MakeEdge", "BRepCheck_Analyzer")),
        (output, ("BRepMesh_IncrementalMesh", "STEPCAFControl_Writer")),
    ):
        for name in names:
            setattr(module, name, clock.timed(getattr(module, name)))
    total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for id_ in ids:
            try:
                program = omnicad.read_json(data / "json" / f"{id_}.json")
                began = time.perf_counter()
                shape = kernel.build_shape(program)
                output.write_step(shape, Path(folder) / "a.step", "a")
                kernel.tessellate(shape)
                total += time.perf_counter() - began
            except (CadmllmError, kernel.BuildFailure):
                continue
    return clock.spent / total


class Clock:
    """Adds up the time in functions, the outermost one of them alone."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._depth = 0

    def timed(self, function):
        """The function, timed."""

        def run(*args, **kwargs):
            self._depth += 1
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.spent += time.perf_counter() - began

        return run


def memory(args: argparse.Namespace) -> dict:
    """Resident memory of this process and its workers along `--builds` programs."""
    real = ids_of(args.data, args.count, args.largest)
    samples: list[tuple[int, int, int]] = []
    sizes: Counter[int] = Counter()
    with tempfile.TemporaryDirectory(prefix="prepare-") as place:
        root = Path(place)
        (root / "json").mkdir()
        ids = []
        for number in range(args.builds):
            shard = f"{number // 1000:04d}"
            (root / "json" / shard).mkdir(exist_ok=True)
            ids.append(f"{shard}/{number:06d}")
            shutil.copyfile(args.data / "json" / f"{real[number % len(real)]}.json", root / "json" / f"{ids[-1]}.json")

        def watched(commissions: Iterable[Commission]) -> Iterator[Outcome]:
            with crew(args.workers, args.timeout, args.recycle, args.share) as hands:
                for number, outcome in enumerate(hands.run(commissions, ordered=False), 1):
                    if number % max(1, args.builds // SAMPLES) == 0:
                        largest = max((rss(pid) for pid in hands.pids), default=0)
                        samples.append((number, rss("self"), largest))
                    yield outcome

        report = prepare(ids, root / "json", root / "out", Recipe(points=1024), timeout=args.timeout, engine=watched)
        sizes["manifest"] = (root / "out" / "prepared.jsonl").stat().st_size
    if args.csv:
        args.csv.write_text("builds,parent MB,largest worker MB\n" + "".join(f"{n},{a},{b}\n" for n, a, b in samples))
    table = [
        f"{args.builds} programs, {args.workers} workers, recycled after {args.recycle}: {report.made / report.wall:.1f}/s",
        "",
    ]
    table += ["programs        parent MB, mean  largest   a worker MB, mean  largest"]
    step = max(1, args.builds // 5)
    for low in range(0, args.builds, step):
        block = [(a, b) for n, a, b in samples if low < n <= low + step]
        parent, worker = zip(*block, strict=True)
        table.append(
            f"{low + 1:6d} - {low + step:6d} {sum(parent) / len(parent):12.0f} {max(parent):10d}"
            f" {sum(worker) / len(worker):16.0f} {max(worker):10d}"
        )
    return {"samples": samples, "made": report.made, "verdicts": dict(report.verdicts), "table": table, **sizes}


def manifest(args: argparse.Namespace) -> dict:
    """What keeping book of so many programs costs the parent: points and 8 views each, with digests of their own."""
    digests = (hashlib.sha256(b"%d" % number).hexdigest() for number in itertools.count())
    recipe = Recipe(points=8192, views=True)
    with tempfile.TemporaryDirectory(prefix="prepare-") as out:
        began = time.process_time()
        with Workplace(Path(out)) as workplace:
            for number in range(args.lines):
                id_ = f"{number // 10_000:04d}/{number:08d}"
                line = {"id": id_, "program": next(digests), "verdict": "OK", "center": [0.1, 0.2, 0.3], "scale": 0.0187}
                for product, files in (("points", 1), ("views", 8)):
                    line[product] = recipe.parameters(product) | {"files": [[2000, next(digests)] for _ in range(files)]}
                workplace.claim(id_, recipe.products)
                workplace.finish(line)
            written, running = time.process_time() - began, rss("self")
        sorted_in = time.process_time() - began - written
        size = (Path(out) / MANIFEST).stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    table = [f"{args.lines:,} programs: manifest {size:.0f} MB; written in {written:.0f} s, parent {running} MB"]
    table += [f"sorted at the end in {sorted_in:.0f} s (processor time), peak {peak} MB"]
    return {"bytes": size, "seconds": sorted_in, "peak_mb": peak, "running_mb": running, "table": table}


def rss(pid: int | str) -> int:
    """Resident memory in MB, 0 when the process is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * 4096 >> 20


if __name__ == "__main__":
    main()
