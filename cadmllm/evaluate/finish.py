"""Rows to a folder that is done: what is left out, the summary, the tables, the picture sheet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cadmllm.cad.files import write_whole
from cadmllm.cad.kernel import Verdict
from cadmllm.corpus.paper import BLUE, MUTED
from cadmllm.errors import CadmllmError
from cadmllm.evaluate.held_out import LeftOut
from cadmllm.evaluate.ledger import Key, Ledger, key_of
from cadmllm.evaluate.pair import FLOOR
from cadmllm.evaluate.report import FILES, PICTURE, metric_table, percent, versions, write_report
from cadmllm.evaluate.sheet import Panel, choose, draw_sheet
from cadmllm.evaluate.summary import IOU_ALL, Row, summarise

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.settings import Settings

Panels = Callable[[Sequence[Row]], list[Panel]]

NO_TRUTH = "the truth is no solid"


@dataclass(slots=True)
class Evaluation:
    """What a report needs beside the rows.

    Attributes:
        sources: [{"what": 'checkpoint', "is": in words}], for people.
        identity: as in the ledger.
        notes: what deserves to be said.
        left: ids that could not be shown, counted.
        seconds: what a clock says of this invocation.
    """

    sources: list[dict[str, str]]
    identity: dict[str, Any]
    notes: list[str]
    left: LeftOut
    seconds: dict[str, float] = field(default_factory=dict)


def finish(ledger: Ledger, settings: Settings, ran: Evaluation, panels: Panels, console: Console) -> dict[str, Any]:
    """Sum up, draw and write; returns the report.

    Raises:
        CadmllmError: E712 when no truth is a solid; E713 when no id could be shown; E303.
    """
    rows, floor = settle(ledger.rows(), ran)
    summary = summarise(rows, floor, resamples=settings.eval.bootstrap, seed=settings.eval.seed)
    report = {
        "evaluation": ran.identity,
        "sources": ran.sources,
        "settings": {**ran.identity["settings"], "eval": settings.eval.model_dump(mode="json", exclude={"out"})},
        "versions": versions(),
        "left_out": ran.left.plain(),
        "notes": ran.notes,
        "metrics": metric_table(),
        "summary": summary,
    }
    picture = _draw(rows, summary, ran, panels, console)
    report["seconds"] = ran.seconds
    report["files"] = [*FILES, ledger.path.name, ledger.beside.name]
    write_report(report, rows, settings.eval.out)
    write_whole(settings.eval.out / PICTURE, picture)
    return report


def settle(found: Iterable[Row], ran: Evaluation) -> tuple[list[Row], list[Row]]:
    """The rows of answers and of truths against themselves, without those of ids whose truth is no solid, which are counted.

    Raises:
        CadmllmError: E712, E713.
    """
    rows, floor = [], []
    for row in found:
        (floor if row["combination"] == FLOOR else rows).append(row)
    bad = {row["id"]: row["reason"] for row in floor if row["verdict"] != Verdict.OK}
    kept = [row for row in rows if row["id"] not in bad]
    for row in rows:
        if row["id"] in bad:
            ran.left.note(row["combination"], NO_TRUTH)
    if bad:
        first = min(bad)
        ran.notes.append(f"E712: {len(bad)} truths are no solids and are left out; the first is {first}: {bad[first]}")
    unscored = [row for row in kept if not row.get("scored", True)]
    if unscored:
        some = min(unscored, key=key_of)
        ran.notes.append(f"{len(unscored)} rows lack a measure; the first is {some['id']}: {some['reason']}")
    if not kept and bad:
        raise CadmllmError(
            "E712",
            f"none of the {len(bad)} truths is a solid; the first is {first}: {bad[first]}",
            "see what is in such a file: cadmllm eval mesh FILE",
        )
    if not kept:
        raise CadmllmError("E713", "not one id could be shown", "see what is wrong with the data: cadmllm data check")
    return kept, [row for row in floor if row["id"] not in bad]


def _draw(rows: Sequence[Row], summary: Mapping[str, Any], ran: Evaluation, panels: Panels, console: Console) -> bytes:
    began = time.monotonic()
    sections = choose(rows)
    wanted = [row for part in sections.values() for row in part]
    console.note(f"drawing {len(wanted)} answers")
    drawn: dict[Key, Panel] = {key_of(row): panel for row, panel in zip(wanted, panels(wanted), strict=True)}
    whole = summary["all"]
    facts = [(f"{percent(whole['valid'])} % of {whole['count']:,} answers are valid solids", BLUE)]
    if IOU_ALL in whole["metrics"]:
        facts.append((f"IoU {percent(whole['metrics'][IOU_ALL]['mean'])} %, invalid as 0", MUTED))
    paper = draw_sheet(
        {name: [drawn[key_of(row)] for row in part] for name, part in sections.items()},
        facts,
        ran.sources[0]["is"],
        f"cadmllm eval; {'; '.join(source['is'] for source in ran.sources[1:])}",
    )
    ran.seconds["sheet"] = round(time.monotonic() - began, 1)
    return paper.png()
