"""`cadmllm data`: is a data set whole; generated parts; points and views for programs that lack them."""

from __future__ import annotations

import typer

from cadmllm.commands.data.check import check
from cadmllm.commands.data.encode import encode
from cadmllm.commands.data.prepare import prepare
from cadmllm.commands.data.show import show
from cadmllm.commands.data.split import split
from cadmllm.commands.data.stats import stats
from cadmllm.commands.data.synth import synth


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Check data, generate parts, make points and views of existing programs.", no_args_is_help=True)
    group.command("check")(check)
    group.command("show")(show)
    group.command("stats")(stats)
    group.command("split")(split)
    group.command("synth")(synth)
    group.command("prepare")(prepare)
    group.command("encode")(encode)
    app.add_typer(group, name="data")
