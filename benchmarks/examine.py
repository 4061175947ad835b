"""What `data check` costs a file: processor time of the examiners, and of merely reading the same files.

    python benchmarks/examine.py ROOT [--count 400]

Processor time, not the clock's: the figures hold on a busy machine, too. The first reading warms the file cache.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cadmllm.corpus.examine import examine_cloud, examine_program, examine_views
from cadmllm.corpus.facts import Facts

Examiner = Callable[[Sequence[Path]], Facts]
KINDS: dict[str, tuple[str, tuple[str, ...], Examiner]] = {
    "program": ("json", (".json",), lambda paths: examine_program(paths[0])),
    "cloud": ("pcd", (".npz", ".npy", ".ply"), lambda paths: examine_cloud(paths[0])),
    "view": ("img", (".png", ".jpg", ".jpeg"), examine_views),
}


def spent(work: Callable[[], object]) -> float:
    """Milliseconds of processor time."""
    begin = time.process_time()
    work()
    return (time.process_time() - begin) * 1e3


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--count", type=int, default=400, help="files a kind")
    args = parser.parse_args()
    print(f"{'kind':<8} {'files':>6} {'kB':>8} {'read ms':>8} {'median':>8} {'mean':>8} {'95 %':>8}  not usable")
    for kind, (folder, suffixes, examine) in KINDS.items():
        files = sorted(path for path in (args.root / folder).rglob("*") if path.suffix in suffixes)
        files = files[:: max(1, len(files) // args.count)][: args.count]
        if not files:
            continue
        sizes = [len(path.read_bytes()) for path in files]
        reading = spent(lambda files=files: [path.read_bytes() for path in files]) / len(files)
        examine(files[:1])  # what is imported and compiled once is not counted
        bad = 0
        times = []
        for path in files:
            begin = time.process_time()
            bad += examine([path]).code is not None
            times.append((time.process_time() - begin) * 1e3)
        middle, mean, high = statistics.median(times), statistics.mean(times), statistics.quantiles(times, n=20)[-1]
        size = statistics.mean(sizes) / 1e3
        print(f"{kind:<8} {len(files):>6} {size:>8.1f} {reading:>8.3f} {middle:>8.2f} {mean:>8.2f} {high:>8.2f}  {bad}")


if __name__ == "__main__":
    main()
