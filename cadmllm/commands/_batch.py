"""`cadmllm infer --batch FILE.jsonl`: checked, then loaded, then answered; the summary."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.console import Console
    from cadmllm.errors import Exit
    from cadmllm.infer.batch import BatchReport


def batch(shared: Shared, file: Path) -> Exit:
    """Answer a batch file into `infer.out`.

    Raises:
        CadmllmError: E706, E303 before the model is loaded; as `infer.api.load` and `infer.batch.run_batch`.
    """
    from cadmllm.infer.answer import check_out
    from cadmllm.infer.api import load
    from cadmllm.infer.batch import run_batch
    from cadmllm.infer.batchfile import check_batch

    settings, console = shared.settings(), shared.console
    checked = check_batch(file, settings.infer.units)
    check_out(settings.infer.out)
    with load(settings=settings, console=console) as cad:
        report = run_batch(cad, checked, settings.infer.out, console)
    _say(console, report)
    return report.exit_code


def _say(console: Console, report: BatchReport) -> None:
    verdicts = ", ".join(f"{count} {name}" for name, count in report.verdicts.most_common())
    codes = ", ".join(f"{count} {code}" for code, count in report.errors.most_common())
    console.print(f"requests   {report.requests}" + (f" ({report.kept} were done before)" if report.kept else ""))
    console.print(f"verdicts   {verdicts}" + (f" ({codes})" if codes else ""))
    if report.answered:
        pace = f"{report.solids_per_second:.2g}"
        console.print(f"time       {report.seconds:.1f} s for {report.answered}, {pace} solids/s")
    console.print(f"files      {report.out}: a folder an id, and {report.results.name} with a record a line")
    console.json({**{field.name: getattr(report, field.name) for field in fields(report)}, "exit_code": int(report.exit_code)})
