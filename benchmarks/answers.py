"""What the grammar, candidates and repair are worth: one checkpoint evaluated each way.

    python benchmarks/answers.py [--checkpoint D] [--split val] [--samples N] [--out DIR]

Without a checkpoint a model is trained for about a minute first (`cadmllm train all --preset tiny`). Every way is one
`cadmllm eval --preset tiny`, where an answer that is no solid is not drawn again; DIR gets a folder a way with its report, rows
and picture sheet, and the table is printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS: dict[str, tuple[str, ...]] = {
    "no grammar, greedy": ("--no-grammar",),
    "no grammar, temperature 1": ("--no-grammar", "--temperature", "1"),
    "grammar, greedy": (),
    "grammar, temperature 1": ("--temperature", "1"),
    "grammar, temperature 1, repair": ("--temperature", "1", "--repair"),
    "grammar, 4 candidates": ("--candidates", "4"),
    "grammar, 16 candidates": ("--candidates", "16"),
}
COLUMNS = ("invalid", "parse", "IoU", "IoU, invalid as 0", "F-score 0.02", "CD x1000, median", "ACC_cmd", "ACC_param", "s")


def cadmllm(*words: str) -> None:
    """Run a command of ours; its notes go to standard error."""
    subprocess.run([sys.executable, "-m", "cadmllm", *words, "--quiet"], check=True, stdout=sys.stderr)


def row_of(report: dict[str, Any], seconds: float) -> list[str]:
    """The figures of a report, in the order of `COLUMNS`."""
    group = report["summary"]["all"]
    metrics = group["metrics"]

    def percent(key: str) -> str:
        return f"{100.0 * metrics[key]['mean']:.1f}" if key in metrics else "-"

    invalid = f"{100.0 * group['invalid_rate']:.1f}"
    parse = f"{100.0 * group['reasons'].get('PARSE', 0.0):.1f}"
    distance = f"{1000.0 * metrics['cd']['median']:.2f}" if "cd" in metrics else "-"
    quality = [percent("iou"), percent("iou_all"), percent("f_score_0.02"), distance, percent("acc_cmd"), percent("acc_param")]
    return [invalid, parse, *quality, f"{seconds:.0f}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--samples", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="cadmllm-answers-"))
    checkpoint = args.checkpoint or out / "run"
    if args.checkpoint is None:
        began = time.perf_counter()
        cadmllm("train", "all", "--preset", "tiny", "--output_dir", str(checkpoint))
        print(f"trained for {time.perf_counter() - began:.0f} s, its judged prompts included\n")
    print(f"| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for number, (way, words) in enumerate(WAYS.items(), 1):
        folder = out / f"{number}-{way.replace(',', '').replace(':', '').replace(' ', '-')}"
        began = time.perf_counter()
        given = ("--checkpoint", str(checkpoint), "--split", args.split, "--samples", str(args.samples), "--out", str(folder))
        cadmllm("eval", "--preset", "tiny", *given, *words)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        print(f"| {way} | {' | '.join(row_of(report, time.perf_counter() - began))} |", flush=True)
    print(f"\nreports and picture sheets: {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
