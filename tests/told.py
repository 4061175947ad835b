"""Commands that messages name, read as the command line reads them."""

from __future__ import annotations

import re

from cadmllm.resolve import Assignment, Origin, parse_value, resolve
from cadmllm.settings import Settings


def given_settings(remedy: str) -> Settings:
    """The settings that all `--set` of a text make, read as the command line reads them."""
    pairs = re.findall(r"--set (?:'([^']+)'|([^\s;,]+))", remedy)
    assert pairs, remedy
    assignments = []
    for quoted, bare in pairs:
        key, _, text = (quoted or bare).partition("=")
        assignments.append(Assignment(key, parse_value(text), Origin("command line")))
    return resolve(assignments=assignments, environ={}).settings
