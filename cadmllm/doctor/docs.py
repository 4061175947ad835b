"""docs/doctor.md: every check and every code, written from the code itself. `python -m cadmllm.doctor.docs` writes it anew."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from cadmllm.console import jsonable
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Report
from cadmllm.doctor.runner import CHECKS, GROUPS
from cadmllm.errors import CODES
from cadmllm.remedies import REMEDIES, remedy_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "doctor.md"
# what `plan` holds under --json: Markdown, written with doctor/fit.py
PLAN = (
    "The keys of `plan` stand in [checking.md](checking.md#plan-in-json); with proofs, `plan.measured` holds what they measured "
    "(`memory`, `save`, `loader`, `time`). It is an empty object where the group `plan` was not asked for, or the settings could "
    "not be read."
)
OPTIONS = (
    ("`--stage N`", "what stage N alone needs; otherwise all stages with epochs, or those from `--start_from_stage`"),
    ("`--deep`", "the proofs as well: real steps, a save, a reload (about a minute on a GPU)"),
    (
        "`--only NAME`",
        "these checks or groups alone; again and again, or with commas: `--only gpu,disk`; deep ones, too",
    ),
    ("`--skip NAME`", "all but these checks or groups"),
    ("`--strict`", "a warning keeps from being ready, too"),
    ("`--fresh`", "forget cached answers: look at everything anew"),
    ("`-v`, `--verbose`", "details of each check, and the time it took"),
    ("`--json`", "the report as JSON on standard output, nothing else there"),
    ("`--report FILE`", "a Markdown page to paste into an issue, without tokens, home folders, user and host names"),
    ("`--fix`", "show what can be mended here (make folders, write `cadmllm.toml`, an environment hint), ask, do it, look again"),
    ("`-y`, `--yes`", "agree to `--fix` without being asked"),
    ("`--apply`", "write what makes the run fit into `cadmllm.toml`, look again"),
    ("`--resume`, `--overwrite`, `--from-scratch`", "the run will be started with that option of `train`"),
    ("`--explain CODE`", "what a code means, what mends it, which checks find it"),
    ("`--list`", "the checks, their groups and codes"),
)
_EXITS = (
    ("0", "ready"),
    ("1", "not ready: a check failed (with `--strict`: or warned)"),
    ("2", "the command line or a setting is wrong"),
    ("3", "an internal error; the message names the file with the traceback"),
)
_FIELDS = (
    ("`schema`", "int", "1; another number when a field changes its meaning or goes"),
    ("`ready`", "bool", "as the exit code says: true is 0, false is 1"),
    ("`findings`", "list", "problems only, failures first; empty on a healthy machine"),
    ("`findings[].code`", "str", "a stable code of the tables below"),
    ("`findings[].level`", "str", '`"warn"` or `"fail"`; only a failure keeps from being ready (with `--strict`: both)'),
    ("`findings[].check`", "str", "the name of the check that found it"),
    ("`findings[].message`", "str", "what was found, where, with numbers; for people, its words may change"),
    ("`findings[].remedy`", "str", "the exact command or edit that mends it"),
    ("`plan`", "object", "what the run will take, see below"),
)
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
    """What a code means, what mends it in general, and which checks find it."""
    lines = [f"{code}: {CODES[code]}"]
    for check in CHECKS:
        if code in check.codes:
            lines.append(f"found by the check {check.name} (cadmllm doctor --only {check.name}): {check.what}")
    lines.append(f"what mends it: {remedy_of(code)}")
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    return "\n".join([*_head(), *_checks(), *_report(), *_codes()])


def _head() -> list[str]:
    return [
        "# Doctor: checks and codes",
        "",
        *_prose(
            "`cadmllm doctor` looks at everything that this run needs, one line a check, and ends with `ready` or `not ready`. "
            "Settings and presets count as in `train`: `cadmllm doctor --preset 16gb --stage 3` looks at what `cadmllm train "
            "stage3 --preset 16gb` would do. `train` makes the quick checks itself before it starts; `--skip-doctor` leaves "
            "them out."
        ),
        "",
        "This page is written from the code by `make docs`.",
        "",
        *_table(("option", "what it does"), OPTIONS),
        "",
        *_table(("exit code", "meaning"), _EXITS),
        "",
    ]


def _checks() -> list[str]:
    quick = sum(not check.deep for check in CHECKS)
    rows = [
        (
            f"`{check.name}`",
            check.group,
            "deep" if check.deep else "quick",
            check.what,
            check.cached_by or "-",
            ", ".join(check.codes) or "-",
        )
        for check in CHECKS
    ]
    return [
        "## Checks",
        "",
        *_prose(
            f"{quick} quick ones, made always, and {len(rows) - quick} deep ones, made with `--deep`. Good answers that take "
            "long to find are kept in `~/.cache/cadmllm/doctor.json` (`$XDG_CACHE_HOME/cadmllm`) under a key that holds all they "
            "depend on; what fails is looked at anew each time, and `--fresh` forgets all. Groups, for `--only` and `--skip`: "
            f"{', '.join(f'`{name}`' for name in GROUPS)}."
        ),
        "",
        *_table(("check", "group", "part", "makes sure that", "its cached answer is keyed by", "codes"), rows),
        "",
        "Any check that fails itself is E899, and the others go on.",
        "",
    ]


def _report() -> list[str]:
    finding = Finding(
        "E832",
        Level.WARN,
        "drives",
        "data.root (/mnt/w/Omni-CAD) lies on a Windows drive",
        "cp -r /mnt/w/Omni-CAD ~/data, then --set data.root=~/data",
    )
    check = Check("drives", "", ("E832",), lambda _: Outcome())
    example = jsonable(Report([(check, Outcome(findings=(finding,)))]).as_dict())
    return [
        "## The report as JSON",
        "",
        *_prose(
            "`cadmllm doctor --json` prints one document on standard output and nothing else there. Where the command line or a "
            'setting is wrong (exit code 2), it is `{"error": {"code", "message", "remedy"}}` instead.'
        ),
        "",
        "```json",
        json.dumps(example, indent=2),
        "```",
        "",
        *_table(("field", "type", "meaning"), _FIELDS),
        "",
        PLAN,
        "",
    ]


def _codes() -> list[str]:
    lines = [
        "## Codes",
        "",
        *_prose(
            "A code never changes its meaning. A message names the exact file, value and command; what stands here is what mends "
            "it in general. Capitals are yours to fill in, and what begins with `--` is added to the command that failed."
        ),
        "",
    ]
    for digit, title in _RANGES.items():
        rows = [(code, meaning, REMEDIES[code]) for code, meaning in sorted(CODES.items()) if code[1] == digit]
        lines += [f"### E{digit}xx: {title}", "", *_table(("code", "meaning", "what mends it"), rows), ""]
    return lines


def _prose(text: str) -> list[str]:
    """A paragraph in lines of a length that is read well; no break within a word such as `--only`."""
    return textwrap.wrap(text, 125, break_long_words=False, break_on_hyphens=False)


def _table(headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Markdown; a bar within a cell would end it."""
    cells = [headers, ("---",) * len(headers), *rows]
    head, rule, *rest = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in cells]
    return [head, rule.replace(" ", ""), *rest]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)
