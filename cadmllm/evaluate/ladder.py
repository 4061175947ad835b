"""Robustness as tables: a line a level, for the terminal, GitHub and a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from cadmllm.evaluate.report import facts_of, metric_of, percent, plain, shown, table
from cadmllm.evaluate.summary import IOU_ALL

JSON, CSV, PAGE, PICTURE = FILES = ("robustness.json", "robustness.csv", "robustness.md", "robustness.png")
AS_IT_IS = "as in the files, normals included"
MEANS = (IOU_ALL, "iou", "f_score_0.02", "cd", "normal_consistency")


def tables(report: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """(title, lines, the head being the first) of each curve."""
    return [(_title(curve), _lines(curve)) for curve in report["curves"]]


def _title(curve: Mapping[str, Any]) -> str:
    whole = plain(curve["shown"])
    return f"Modalities dropped from {whole}" if curve["name"] == "modalities" else f"{curve['title']} (shown: {whole})"


def _lines(curve: Mapping[str, Any]) -> list[list[str]]:
    lines = [["level", "answers", "valid %", "IoU %, invalid as 0", "IoU % of valid", "CD x1000 median", "CD x1000 mean"]]
    if curve["as_it_is"]:
        lines.append(_line(AS_IT_IS, curve["as_it_is"]))
    return lines + [_line(plain(level["label"]), level) for level in curve["levels"]]


def _line(label: str, group: Mapping[str, Any]) -> list[str]:
    metrics = group["metrics"]

    def told(key: str, which: str = "mean") -> str:
        return shown(metrics[key][which], metric_of(key)) if key in metrics else "-"

    interval = metrics.get(IOU_ALL, {}).get("mean_95")
    behind = f" [{', '.join(shown(end, metric_of(IOU_ALL)) for end in interval)}]" if interval else ""
    cells = [told(IOU_ALL) + behind, told("iou"), told("cd", "median"), told("cd")]
    return [label, f"{group['count']:,}", percent(group["valid"]), *cells]


def page(report: Mapping[str, Any]) -> str:
    """`robustness.md`."""
    parts = ["# Robustness", "\n".join(f"* {line}" for line in facts_of(report)), f"![curves]({PICTURE})", LEGEND]
    for title, lines in tables(report):
        parts += [f"## {title}", table(lines)]
    return "\n\n".join(parts) + "\n"


LEGEND = (
    "Clouds are spoilt in the frame of the whole cloud, which stays. Normals are estimated from the points that are left at every"
    " level, the first included, as a real scan has none; the clouds of the data set with the normals of their files are the line"
    " before it. Levels share their draws: the points that miss at 20 % miss at 40 %, too. CD over valid answers: it gets"
    " better where hard parts fail altogether, so IoU with invalid answers as 0 is the curve to look at."
)


def csv_of(report: Mapping[str, Any]) -> str:
    """A line a level, raw values (RFC 4180)."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    ends = ("mean", "mean_low", "mean_high", "median")
    writer.writerow(["curve", "shown", "level", "answers", "valid", *(f"{key}_{end}" for key in MEANS for end in ends)])
    for curve in report["curves"]:
        named = [(level["label"], level) for level in curve["levels"]]
        for label, level in ([(AS_IT_IS, curve["as_it_is"])] if curve["as_it_is"] else []) + named:
            cells: list[Any] = []
            for key in MEANS:
                found = level["metrics"].get(key, {})
                cells += [found.get("mean"), *(found.get("mean_95") or (None, None)), found.get("median")]
            writer.writerow([curve["name"], curve["shown"], label, level["count"], level["valid"], *cells])
    return out.getvalue()
