"""`doctor --report FILE`: a Markdown page to paste into an issue, without what nobody else should see."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm import __version__
from cadmllm.doctor.check import Check, Level, Outcome, Report, Situation
from cadmllm.doctor.packages import required_ranges
from cadmllm.doctor.redact import redacted

if TYPE_CHECKING:
    from cadmllm.resolve import Resolved

CHECKOUT = Path(__file__).resolve().parents[2]


def page(report: Report, situation: Situation, resolved: Resolved | None, command: str) -> str:
    """The page.

    Args:
        report: of the checks.
        situation: that they looked at.
        resolved: the settings with their origins; None where they could not be read.
        command: the line that was typed.

    Returns:
        Markdown without tokens, home folders, user and host names (`redact.redacted`).
    """
    lines = [
        f"## cadmllm doctor: {'ready' if report.ready else 'not ready'}",
        "",
        f"`{command}`, {time.strftime('%Y-%m-%d %H:%M %z')}, cadmllm {__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()}{' (WSL)' if situation.machine.wsl else ''}, {os.cpu_count()} cores, "
        f"stages {', '.join(map(str, situation.stages))}",
        "",
        "| check | result | seconds |",
        "|---|---|---|",
    ]
    for check, outcome in report.outcomes:
        lines += [f"| {check.name} | {text} | {report.seconds.get(check.name, 0.0):.2f} |" for text in _results(outcome)]
    lines += _details(report.outcomes)
    if resolved is not None:
        lines += ["", "<details><summary>settings that are not defaults</summary>", "", *_settings(resolved), "", "</details>"]
    lines += ["", "<details><summary>packages</summary>", "", *_versions(), "", "</details>"]
    if report.plan:
        plan = json.dumps(report.plan, indent=1, default=str)
        lines += ["", "<details><summary>plan</summary>", "", "```json", plan, "```", "", "</details>"]
    return redacted("\n".join(lines) + "\n", situation.machine)


def _results(outcome: Outcome) -> list[str]:
    if outcome.skipped:
        return [_cell(f"skip: {outcome.skipped}")]
    if not outcome.findings:
        return [_cell(f"ok: {outcome.summary}")]
    bold = {Level.FAIL: "**fail**", Level.WARN: "warn"}
    return [_cell(f"{bold[f.level]} {f.code} {f.message} -> `{f.remedy}`") for f in outcome.findings]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _details(outcomes: list[tuple[Check, Outcome]]) -> list[str]:
    found = [f"{check.name}: {line}" for check, outcome in outcomes for text in outcome.details for line in text.splitlines()]
    return ["", "<details><summary>details</summary>", "", "```", *found, "```", "", "</details>"] if found else []


def _settings(resolved: Resolved) -> list[str]:
    from cadmllm.keys import as_toml, flat

    values: Mapping[str, object] = flat(resolved.settings)
    changed = [key for key, origin in resolved.origins.items() if origin.kind != "default" and key in values]
    rows = [f"| `{key}` | `{_cell(as_toml(values[key]))}` | {_cell(str(resolved.origins[key]))} |" for key in changed]
    return ["| setting | value | from |", "|---|---|---|", *rows]


def _versions() -> list[str]:
    from importlib import metadata

    found = []
    for name in required_ranges():
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} (not installed)")
    return [f"{sys.executable}", "", ", ".join(found)]
