"""What a person sees while a stage trains: a panel at a terminal, a line every few steps elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cadmllm.console import Console

SMOOTHING = 0.1  # weight of the newest step in the shown speed and loss
WIDTH = 30  # of the bar


class Board:
    """Shows the records of `metrics.jsonl` as they are made.

    Args:
        console: nothing is shown under --quiet; a panel when its error stream is a terminal, else lines.
        label: 'stage 2 of 3'.
        every: steps between two plain lines.
    """

    def __init__(self, console: Console, label: str, every: int) -> None:
        self._console, self._label, self._every = console, label, every
        self._seconds: float | None = None
        self._loss: float | None = None
        self._first: int | None = None
        self._live: Any = None

    def __enter__(self) -> Board:
        if self._console.err.isatty() and not self._console.is_quiet:
            from rich.console import Console as RichConsole
            from rich.live import Live

            # transient: the lines that remain are the summary's
            self._live = Live(console=RichConsole(file=self._console.err), refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.__exit__(kind, value, trace)

    def step(self, record: dict[str, Any]) -> None:
        """Show a step."""
        self._seconds = _smooth(self._seconds, record["seconds"])
        self._loss = _smooth(self._loss, record["loss"])
        done, total = record["step"], record["total_steps"]
        if self._first is None:
            self._first = done
        if self._live is not None:
            self._live.update(self._panel(record))
        elif done == self._first or done == total or done % self._every == 0:
            self._console.note(f"{self._label}: {plain_line(record, self._left(record))}")

    def _left(self, record: dict[str, Any]) -> float:
        return (record["total_steps"] - record["step"]) * (self._seconds or 0.0)

    def _panel(self, record: dict[str, Any]) -> object:
        from rich.panel import Panel
        from rich.table import Table

        done, total = record["step"], record["total_steps"]
        filled = round(WIDTH * done / total)
        table = Table.grid(padding=(0, 2))
        table.add_row("step", f"{done}/{total}  {'█' * filled}{'░' * (WIDTH - filled)}  {duration(self._left(record))} left")
        table.add_row("loss", f"{record['loss']:.4f}  (smoothed {self._loss:.4f})")
        table.add_row("rate", f"{record['lr']:.3g}   gradient norm {_norm(record)}")
        table.add_row("speed", f"{record['tokens_per_s']:,.0f} tokens/s, {record['samples_per_s']:.1f} samples/s")
        table.add_row("shown", ", ".join(f"{name} {count}" for name, count in record["mix"].items()))
        if "val_loss" in record:
            table.add_row("held out", ", ".join(f"{name} {loss:.4f}" for name, loss in record["val_loss"].items()))
        return Panel(table, title=self._label, title_align="left", expand=False)


def plain_line(record: dict[str, Any], left: float) -> str:
    """One step as a line for logs."""
    line = (
        f"step {record['step']}/{record['total_steps']}  loss {record['loss']:.4f}  lr {record['lr']:.3g}  "
        f"grad {_norm(record)}  {record['tokens_per_s']:,.0f} tokens/s  {duration(left)} left"
    )
    return line + ("" if "val_loss" not in record else f"  held-out loss {record['val_loss'].get('all', float('nan')):.4f}")


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 05 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _norm(record: dict[str, Any]) -> str:
    return "overflow" if record["grad_norm"] is None else f"{record['grad_norm']:.3g}"


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else (1 - SMOOTHING) * old + SMOOTHING * new
