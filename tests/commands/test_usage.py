"""docs/usage.md says what the program does."""

from __future__ import annotations

import re

import typer.core

from cadmllm.cli import build
from cadmllm.commands._options import SHARED
from cadmllm.commands._usage import PAGE, renewed
from cadmllm.errors import Exit

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_table_of_flags_is_current():
    assert renewed(TEXT) == TEXT, "run: make docs"


def test_every_command_option_and_exit_code_is_on_the_page():
    for name, command in build().commands.items():
        inner = command.commands if isinstance(command, typer.core.TyperGroup) else {}
        line = next(line for line in TEXT.splitlines() if line.startswith(f"| `cadmllm {name}"))
        words = re.findall(rf"cadmllm {name} [a-z\\|]+", TEXT)
        assert line
        assert all(any(child in text for text in words) for child in inner), f"{name}: {list(inner)}"
    assert all(f"| `--{name}" in TEXT for name in SHARED)
    assert all(f"\n| {code.value} |" in TEXT for code in Exit)
