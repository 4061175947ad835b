"""What it costs to score pairs: pairs per second with everything, the share of each measure, memory over many pairs.

    .venv/bin/python benchmarks/evaluate.py [--data ../shared/data/deepcad] [--pairs 1000] [--workers 2] [--profile 200]

The truths are the programs of a data set. Of every four answers two are the truth as our tokens spell it, one is the truth
itself and one is another part, as a middling model would give them. Scoring is timed over all pairs in worker processes; each
measure by itself over `--profile` of them in this process (processor time), next to the naive way where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cadmllm.cad.omnicad import read_json
from cadmllm.cad.program import Program
from cadmllm.cad.tokens import decode, encode
from cadmllm.errors import CadmllmError
from cadmllm.evaluate import geometry as measures
from cadmllm.evaluate.scoring import ScoreJob, score_all
from cadmllm.evaluate.sequence import sequence
from cadmllm.evaluate.shape import Shape, build_program
from cadmllm.evaluate.topology import reported

Timings = dict[str, list[float]]


def main() -> None:
    """Score, profile, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data" / "deepcad")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--profile", type=int, default=200, help="pairs timed measure by measure in this process")
    parser.add_argument("--timeout", type=float, default=30.0)
    args = parser.parse_args()
    pairs = list(pairs_of(args.data, args.pairs))
    print(f"{len(pairs)} pairs of {args.data}")
    print(throughput(pairs, args.workers, args.timeout))  # first: nothing but what scoring needs is in memory
    if args.profile:
        print(table(profile(pairs[:: max(1, len(pairs) // args.profile)])))


def pairs_of(data: Path, count: int) -> Iterator[tuple[str, Program, Program]]:
    """(id, answer, truth); what cannot be read or spelled is left out."""
    before: Program | None = None
    made = 0
    for file in sorted((data / "json").rglob("*.json")):
        if made == count:
            return
        try:
            truth = read_json(file)
            spelled = encode(truth)
            answer = decode(spelled.tokens, spelled.transform)
        except CadmllmError:
            continue
        yield file.stem, (answer, truth, answer, before or answer)[made % 4], truth
        before, made = truth, made + 1


def profile(pairs: list[tuple[str, Program, Program]]) -> Timings:
    """Seconds of each step, a list a step."""
    from cadmllm.cad.kernel import load_kernel

    load_kernel()
    build_program(pairs[0][2])  # everything is imported
    found: Timings = defaultdict(list)
    for _, answer, truth in pairs:
        _profile_pair(found, answer, truth)
    return found


def _profile_pair(found: Timings, answer: Program, truth: Program) -> None:
    one, two = timed(found, "build, triangulate (two solids)", lambda: (build_program(answer), build_program(truth)))
    timed(found, "sequence", lambda: sequence(answer, truth))
    if one.ok and two.ok:
        _profile_solids(found, one, two)


def _profile_solids(found: Timings, one: Shape, two: Shape) -> None:
    a, b = one.mesh, two.mesh
    assert a is not None
    assert b is not None
    timed(found, "geometry (all of it)", lambda: measures.geometry(a, b))
    x, y = timed(found, ". surface points of both", lambda: (measures.surface(a, 8192, 0), measures.surface(b, 8192, 1)))
    timed(found, ". neighbours: CD, F-scores, NC", lambda: measures.match(x.centred[:8192], y.centred[:8192]))
    timed(found, ". neighbours: CD (DeepCAD)", lambda: measures.match(x.in_cube, y.in_cube))
    timed(found, ". IoU", lambda: measures.overlap(measures.centred(a), measures.centred(b)))
    timed(found, "topology: SegE, DangEL, SIR, FluxEE", lambda: reported(a, b))
    timed(found, "naive: a search a metric", lambda: naive_distances(x, y))
    if len(found["naive: all distances (2,000 points)"]) < 20:
        timed(found, "naive: all distances (2,000 points)", lambda: all_distances(x.in_cube, y.in_cube))
        exact, counted = _count_points(found, a, b)
        found["(IoU by a grid of points: off by)"].append(abs(exact - counted))
    found["(triangles)"].append(len(a.faces) + len(b.faces))
    found["(floor: CD x 1000)"].append(1000.0 * measures.floor(b)["cd"])  # type: ignore[operator]


def naive_distances(x: measures.Surface, y: measures.Surface) -> None:
    """What a function a metric costs, each with trees of its own: CD, three F-scores, NC."""
    from cadmllm.cad.compare import chamfer, f_score, normal_consistency

    chamfer(x.centred, y.centred)
    for t in measures.THRESHOLDS:
        f_score(x.centred, y.centred, t)
    normal_consistency(x.centred, x.normals, y.centred, y.normals)


def all_distances(x: np.ndarray, y: np.ndarray) -> float:
    """A chamfer distance without a tree."""
    square = ((x[:, None] - y[None]) ** 2).sum(axis=2)
    return float(square.min(axis=0).mean() + square.min(axis=1).mean())


def _count_points(found: Timings, a: Any, b: Any) -> tuple[float, float]:
    from cadmllm.cad.overlap import _sampled

    one, two = measures.centred(a), measures.centred(b)
    counted = timed(found, "naive: IoU by a grid of points", lambda: _sampled(one, two)).iou
    return measures.overlap(one, two).iou, counted


def timed(found: Timings, name: str, what: Callable[[], Any]) -> Any:
    """The result; the processor time that it took is noted: other programs of this machine count for little."""
    begin = time.process_time()
    result = what()
    found[name].append(time.process_time() - begin)
    return result


def table(found: Timings) -> str:
    """Markdown."""
    lines = ["| step, one process | CPU ms a pair (mean) | median | 95 % | pairs/s a core |", "|---|---|---|---|---|"]
    for name, values in found.items():
        if name.startswith("("):
            continue
        mean, median, high = np.mean(values), np.median(values), np.percentile(values, 95)
        lines.append(f"| {name} | {1e3 * mean:.2f} | {1e3 * median:.2f} | {1e3 * high:.2f} | {1 / mean:.1f} |")
    others = [
        f"{name[1:-1]} {np.mean(values):.4g} (median {np.median(values):.4g})" for name, values in found.items() if name[0] == "("
    ]
    return "\n".join([*lines, "", *others, ""])


def throughput(pairs: list[tuple[str, Program, Program]], workers: int, timeout: float) -> str:
    """Pairs per second with everything, and memory on the way."""
    jobs = (ScoreJob(id_, answer, truth, "text") for id_, answer, truth in pairs)
    marks = {round(len(pairs) * share) for share in (0.1, 0.25, 0.5, 0.75, 1.0)}
    lines, verdicts, unscored, sampled = [], defaultdict(int), 0, 0
    begin = last = time.perf_counter()
    sums: dict[str, list[float]] = defaultdict(list)
    slowest = 0.0
    for number, row in enumerate(score_all(jobs, workers=workers, timeout=timeout), 1):
        now = time.perf_counter()
        slowest, last = max(slowest, now - last), now
        verdicts[row["verdict"]] += 1
        unscored += not row["scored"]
        sampled += row["iou_method"] == "sampled"
        for key in ("iou", "cd", "f_score_0.01", "sir"):
            if row[key] is not None:
                sums[key].append(row[key])
        if number in marks:
            spent, largest = workers_state()
            lines.append(
                f"| {number} | {number / (now - begin):.1f} | {number / max(spent, 1e-9):.1f} | {resident(os.getpid()):.0f} |"
                f" {largest:.0f} |"
            )
    means = {key: round(float(np.mean(values)), 5) for key, values in sums.items()}
    head = ["| pairs | pairs/s | pairs per CPU second | this process, MiB | largest worker, MiB |", "|---|---|---|---|---|"]
    told = (
        f"{workers} workers, verdicts {dict(verdicts)}, unscored {unscored}, IoU sampled {sampled}, longest wait {slowest:.1f} s"
    )
    return "\n".join([*head, *lines, "", told, f"means {json.dumps(means)}", ""])


def resident(pid: int) -> float:
    """MiB that a process holds in memory (Linux)."""
    with Path(f"/proc/{pid}/status").open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def workers_state() -> tuple[float, float]:
    """Of the processes that this one's fork server has started (Linux): CPU seconds of all of them so far, MiB of the largest."""
    states: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                states[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
    servers = {pid for pid, state in states.items() if int(state[1]) == os.getpid()}
    live = [pid for pid, state in states.items() if int(state[1]) in servers]
    ticks = sum(int(states[pid][11]) + int(states[pid][12]) for pid in live)
    ticks += sum(int(states[pid][13]) + int(states[pid][14]) for pid in servers)  # of those that have ended
    sizes = [float(states[pid][21]) * os.sysconf("SC_PAGE_SIZE") / 2**20 for pid in live]
    return ticks / os.sysconf("SC_CLK_TCK"), max(sizes, default=0.0)


if __name__ == "__main__":
    main()
