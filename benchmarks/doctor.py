"""What the doctor costs: the time from the start of a process to its end, beside `cadmllm --help`.

    python benchmarks/doctor.py                       # medians of 5 runs each, preset tiny
    python benchmarks/doctor.py --runs 9 --deep --json

Every run is a process of its own. `cold` has an empty cache (everything is imported, hashed and measured), `warm` the cache
that a run before has left. The share of the doctor in `train` is what the command `train stage1 --max-steps 1` takes longer
than with `--skip-doctor`, both warm. CPU seconds count all processes and are what to compare on a busy machine. Files are in
the page cache: a first run after boot is slower.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGE_0 = """
from cadmllm.console import Console
from cadmllm.doctor import first
from cadmllm.doctor.check import Situation
from cadmllm.doctor.lines import lines
from cadmllm.doctor.running import make_checks
checks = [check for check in first.checks() if check.name != "packages"]
console = Console()
def say(check, outcome, seconds):
    for line in lines(console, check, outcome):
        console.print(line)
make_checks(Situation(None), checks, say)
"""
DOCTOR = ["-m", "cadmllm", "doctor", "--preset", "tiny"]
TRAIN = ["-m", "cadmllm", "train", "stage1", "--preset", "tiny", "--overwrite", "--set", "train.max_steps=1"]


def main() -> None:
    """Measure each command and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each command; of --deep and train a third")
    parser.add_argument("--deep", action="store_true", help="the proofs, too: minutes")
    parser.add_argument("--train", action="store_true", help="the quick part inside train, too: minutes")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cadmllm-doctor-") as folder:
        rows = measure(Path(folder), args.runs, args.deep, args.train)
    base = rows["cadmllm --help"]["median"]
    for row in rows.values():
        row["ratio"] = row["median"] / base
    if args.json:
        print(json.dumps({"python": sys.version.split()[0], "cores": os.cpu_count(), "rows": rows}, indent=1))
        return
    print("| command | median, s | least to most, s | of them CPU, s | runs | times --help | exit code |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        span = f"{row['least']:.2f} to {row['most']:.2f}"
        print(
            f"| {name} | {row['median']:.2f} | {span} | {row['cpu']:.2f} | {row['runs']} | {row['ratio']:.1f} | {row['code']} |"
        )


def measure(folder: Path, runs: int, deep: bool, train: bool) -> dict[str, dict]:
    """Seconds of each command."""
    warm = folder / "warm"
    rows = {
        "python -c pass": timed(["-c", "pass"], folder, runs, warm),
        "cadmllm --help": timed(["-m", "cadmllm", "--help"], folder, runs, warm),
        "stage 0": timed(["-c", STAGE_0], folder, runs, warm),
        "quick, cold cache": timed(DOCTOR, folder, max(1, runs // 2), None),
    }
    timed(DOCTOR, folder, 1, warm)
    rows["quick, warm cache"] = timed(DOCTOR, folder, runs, warm)
    fewer = max(1, runs // 3)
    if deep:
        rows["--deep"] = timed([*DOCTOR, "--deep"], folder, fewer, warm)
    if train:
        timed(TRAIN, folder, 1, warm)
        rows["train, one step"] = timed(TRAIN, folder, fewer, warm)
        rows["train, one step, --skip-doctor"] = timed([*TRAIN, "--skip-doctor"], folder, fewer, warm)
    return rows


def timed(command: list[str], folder: Path, runs: int, cache: Path | None) -> dict:
    """Median, least and most seconds of a command, each run in a fresh process; without a cache, in a new folder for it."""
    seconds, cpu, code = [], [], 0
    for number in range(runs):
        place = cache or folder / f"cold-{number}"
        environ = {**os.environ, "XDG_CACHE_HOME": str(place), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
        work = folder / "work"
        work.mkdir(exist_ok=True)
        start, used = time.perf_counter(), used_by_children()
        done = subprocess.run([sys.executable, *command], cwd=work, env=environ, capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        cpu.append(used_by_children() - used)
        code = done.returncode
        if code > 1:
            sys.exit(f"{' '.join(command[:6])} ended with {code}:\n{done.stdout}\n{done.stderr}")
    row = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
    return {**row, "cpu": statistics.median(cpu), "runs": runs, "code": code}


def used_by_children() -> float:
    """CPU seconds of all processes that have ended: what remains of a time on a machine where others work, too."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
