"""docs/doctor.md: every check and every code, written from the code itself. `python -m cadmllm.doctor.docs` writes it anew."""

from __future__ import annotations

import sys
from pathlib import Path

from cadmllm.doctor.runner import CHECKS
from cadmllm.errors import CODES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "doctor.md"
_RANGES = {
    "1": "Settings and command line",
    "2": "The CAD language and its files",
    "3": "Kernel and outputs",
    "4": "Data sets",
    "5": "Models, encoders and checkpoints",
    "6": "Training",
    "7": "Inference",
    "8": "Environment",
    "9": "Internal",
}


def explanation(code: str) -> str:
    """What a code means and which checks find it."""
    finders = [check for check in CHECKS if code in check.codes]
    lines = [f"{code}: {CODES[code]}"]
    lines += [f"found by the check {check.name}: {check.what}" for check in finders]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    lines = [
        "# Doctor: checks and codes",
        "",
        "`cadmllm doctor` looks at everything that a run needs, one line a check, and ends with `ready` (exit code 0) or",
        "`not ready` (1). `--stage N` looks at what one stage needs, `--json` prints the problems as JSON, `--explain CODE`",
        "explains a code, `--list` lists the checks. Settings and presets count as in `train`: `cadmllm doctor --preset 16gb`.",
        "",
        "This page is written by `make docs`.",
        "",
        "## Checks",
        "",
        "| check | makes sure that | codes |",
        "|---|---|---|",
    ]
    lines += [f"| `{check.name}` | {check.what} | {', '.join(check.codes)} |" for check in CHECKS]
    lines += ["", "Any check that fails itself is E899, and the others go on.", "", "## Codes", ""]
    for digit, title in _RANGES.items():
        lines += [f"### E{digit}xx: {title}", "", "| code | meaning |", "|---|---|"]
        lines += [f"| {code} | {meaning} |" for code, meaning in sorted(CODES.items()) if code[1] == digit]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)
