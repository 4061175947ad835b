"""The report of an evaluation: `report.json` (everything to repeat it), `rows.csv` (raw values), `report.md` (to be read)."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cadmllm import __version__
from cadmllm.cad.files import write_whole
from cadmllm.console import jsonable
from cadmllm.evaluate.metrics import METRICS, Metric
from cadmllm.evaluate.pair import FLOOR
from cadmllm.evaluate.summary import IOU_ALL, REASONS, place_of

REPORT, CSV, PAGE, PICTURE = FILES = ("report.json", "rows.csv", "report.md", "sheet.png")
LIBRARIES = ("torch", "transformers", "peft", "numpy", "scipy", "trimesh", "manifold3d", "cadquery-ocp-novtk")
FIRST = ("id", "combination", "verdict", "reason", "extrudes")
BESIDE = ("iou_method", "tokens", "log_likelihood", "chosen_by", "candidates")  # columns of the CSV beside the metrics
SHOWN_IOU_ALL = Metric(IOU_ALL, "IoU %, invalid as 0", "high", False, 100.0, 1, "cadrille, ICLR 2026")
TABLE = (METRICS[0], SHOWN_IOU_ALL, *METRICS[1:])
OVERVIEW = ("iou", IOU_ALL, "f_score_0.01", "f_score_0.02", "f_score_0.05", "cd", "normal_consistency")
BY_EXTRUDES = ("iou", IOU_ALL, "f_score_0.02", "cd", "acc_cmd", "acc_param")
NAMES = {FLOOR: "truth against itself", "files": "files"}


def versions() -> dict[str, str]:
    """Of cadmllm, Python and the libraries that numbers depend on; what is not installed is left out."""
    found = {"cadmllm": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def metric_table() -> list[dict[str, Any]]:
    """What the keys of a report mean."""
    kept = ("key", "name", "better", "scale", "source")
    return [{name: getattr(metric, name) for name in kept} for metric in TABLE]


def write_report(report: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Write `report.json`, `rows.csv` and `report.md`, each whole or not at all. Raises `CadmllmError` E303."""
    write_json(report, folder / REPORT)
    write_whole(folder / CSV, csv_of(rows).encode("utf-8", "backslashreplace"))
    write_whole(folder / PAGE, page(report).encode("utf-8", "backslashreplace"))


def write_json(report: Mapping[str, Any], path: Path) -> None:
    """Write plain JSON; numbers that it lacks are null. Raises `CadmllmError` E303."""
    text = json.dumps(jsonable(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, text.encode("utf-8", "backslashreplace"))


def csv_of(rows: Iterable[Mapping[str, Any]], more: Sequence[str] = ()) -> str:
    """A line a row, raw values (RFC 4180): a value that there is none of is empty. Truths against themselves are left out."""
    columns = [*FIRST, *more, *(metric.key for metric in METRICS), *BESIDE]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    for row in sorted(rows, key=lambda row: (place_of(str(row["combination"])), str(row["id"]))):
        if row["combination"] != FLOOR:
            writer.writerow(["" if row.get(name) is None else row[name] for name in columns])
    return out.getvalue()


def page(report: Mapping[str, Any]) -> str:
    """`report.md`: tables for GitHub, metrics in the units that papers print."""
    summary = report["summary"]
    groups = groups_of(summary)
    parts = [
        "# Evaluation",
        "\n".join(f"* {line}" for line in facts(report)),
        "## Overview",
        table(overview(groups)),
        _legend(report),
        "## Answers that are no solid",
        "Share of the answers, by what became of them.",
        table(invalid(groups)),
        "## All metrics",
        "Mean [95 % interval of the mean] / median. Metrics of solids: over valid answers; of programs: over all that parsed.",
        table(everything(groups)),
    ]
    parts += _extrudes(summary)
    parts += ["## How it was made", _made(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def groups_of(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The groups of a summary that a table shows, by name: combinations, all of them where there are several, the floor."""
    groups = dict(summary["combinations"])
    if len(groups) > 1:
        groups["all"] = summary["all"]
    if summary["floor"]:
        groups[FLOOR] = summary["floor"]
    return groups


def plain(name: str) -> str:
    """A combination as people write it."""
    return NAMES.get(name, name.replace("+", " + ").replace("_", " "))


def facts(report: Mapping[str, Any]) -> list[str]:
    """What was evaluated, in words."""
    counts = report["summary"]["all"]
    return [*facts_of(report), f"{counts['count']:,} answers to {counts['ids']:,} ids"]


def facts_of(report: Mapping[str, Any]) -> list[str]:
    """What any report says of its sources, of what was left out, and of what was odd."""
    said = [f"{source['what']}: {source['is']}" for source in report["sources"]]
    for case, reasons in report["left_out"].items():
        words = ", ".join(f"{count:,} ({why})" for why, count in reasons.items())
        said.append(f"left out of {plain(case)}: {words}")
    return said + [str(note) for note in report["notes"]]


def overview(groups: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A line a group: answers, invalid rate, what is looked at first. The head is the first line."""
    metrics = [metric for metric in TABLE if metric.key in OVERVIEW]
    head = ["shown", "answers", "IR %", *(metric.name for metric in metrics), "CD x1000 median"]
    lines = [head]
    for name, group in groups.items():
        cells = [_told(group, metric, interval=metric.key == "iou") for metric in metrics]
        lines.append(
            [plain(name), f"{group['count']:,}", percent(group["invalid_rate"]), *cells, _told(group, metric_of("cd"), "median")]
        )
    return lines


def invalid(groups: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A line a group: shares of answers by verdict."""
    lines = [["shown", "IR %", *(f"{reason.value.lower()} %" for reason in REASONS)]]
    for name, group in groups.items():
        if name != FLOOR:
            lines.append([plain(name), percent(group["invalid_rate"]), *(percent(group["reasons"][r.value]) for r in REASONS)])
    return lines


def everything(groups: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A line a metric that any group has."""
    lines = [["metric", "better", *map(plain, groups)]]
    for metric in TABLE:
        if any(metric.key in group["metrics"] for group in groups.values()):
            cells = [_both(group, metric) for group in groups.values()]
            lines.append([metric.name, metric.better, *cells])
    return lines


def by_extrudes(groups: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A line a number of extrudes of the truth."""
    metrics = [metric for metric in TABLE if metric.key in BY_EXTRUDES]
    lines = [["extrudes", "answers", "IR %", *(m.name for m in metrics), "CD x1000 median"]]
    for name, group in groups.items():
        cells = [_told(group, metric, interval=metric.key == "iou") for metric in metrics]
        lines.append(
            [name, f"{group['count']:,}", percent(group["invalid_rate"]), *cells, _told(group, metric_of("cd"), "median")]
        )
    return lines


def _extrudes(summary: Mapping[str, Any]) -> list[str]:
    of = {name: groups for name, groups in summary["by_extrudes"].items() if groups}
    if not of:
        return []
    parts = ["## By number of extrudes of the truth"]
    if len(of) == 2:  # one combination, and the same under 'all'
        del of["all"]
    for name, groups in of.items():
        parts += [f"### {plain(name)}" if len(of) > 1 else "", table(by_extrudes(groups))]
    return parts


def metric_of(key: str) -> Metric:
    """A row of the table."""
    return next(metric for metric in TABLE if metric.key == key)


def shown(value: float | None, metric: Metric) -> str:
    """A raw value in the unit that people read."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value * metric.scale:.{metric.digits}f}"


def percent(share: float | None) -> str:
    """0.125 as '12.5'."""
    return "-" if share is None else f"{100.0 * share:.1f}"


def _told(group: Mapping[str, Any], metric: Metric, which: str = "mean", interval: bool = False) -> str:
    found = group["metrics"].get(metric.key)
    if not found:
        return "-"
    limits = found[f"{which}_95"]
    behind = f" [{shown(limits[0], metric)}, {shown(limits[1], metric)}]" if interval and limits else ""
    return shown(found[which], metric) + behind


def _both(group: Mapping[str, Any], metric: Metric) -> str:
    return f"{_told(group, metric, interval=True)} / {_told(group, metric, 'median')}" if metric.key in group["metrics"] else "-"


def table(lines: Sequence[Sequence[str]]) -> str:
    """Markdown: the first line is the head, the first column to the left, the others to the right."""
    safe = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    rule = ["---", *["---:"] * (len(safe[0]) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (safe[0], rule, *safe[1:]))


def _legend(report: Mapping[str, Any]) -> str:
    resamples = report["settings"]["eval"]["bootstrap"]
    interval = f"[a, b]: 95 % interval of the mean, {resamples:,} bootstrap resamples of ids. " if resamples else ""
    return (
        "IR: answers that are no valid solid. IoU, F-score, CD and NC: mean over valid answers, both solids centred, longest "
        f"side 1; CD: mean squared distances there and back, x 1000. {interval}"
        "'Truth against itself' is what a perfect answer would get: other points of the same surface."
    )


def _made(report: Mapping[str, Any]) -> str:
    lines = [["what", "value"]]
    for name, values in report["settings"].items():
        lines += [[f"{name}.{key}" if isinstance(values, Mapping) else name, _cell(value)] for key, value in _items(values)]
    lines += [[f"version of {name}", text] for name, text in report["versions"].items()]
    said = "Everything behind it, fingerprints included, stands in `report.json`; the rows in `rows.jsonl` and `rows.csv`."
    return f"{said}\n\n{table(lines).replace('---:', '---')}"


def _items(values: Any) -> list[tuple[str, Any]]:
    return list(values.items()) if isinstance(values, Mapping) else [("", values)]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)
