"""Flaws are counted right, few of them are kept, and each has a command that mends it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.corpus.findings import SHOWN, Gathering
from cadmllm.corpus.remedies import Place, remedy
from cadmllm.errors import CODES

PLACE = Place(Path("/mnt/w/CMU Academics/Omni-CAD"), 2)


@given(st.lists(st.tuples(st.sampled_from(["E404", "E405", "E602"]), st.sampled_from(["fail", "warn"]), st.integers(0, 9))))
def test_counts_are_right_and_paths_few(entries):
    found = Gathering()
    for number, (code, level, _) in enumerate(entries):
        found.add(code, level, f"/{number}", "what")
    findings = found.findings(PLACE)
    assert sum(finding.count for finding in findings) == len(entries)
    assert [f.level for f in findings] == sorted((f.level for f in findings), key=["fail", "warn"].index)
    for finding in findings:
        mine = [f"/{n}" for n, (code, level, _) in enumerate(entries) if (code, level) == (finding.code, finding.level)]
        assert finding.count == len(mine)
        assert finding.paths == mine[:SHOWN]


def test_one_file_counts_once_for_a_code():
    found = Gathering()
    for message in ("first", "second"):
        found.add("E405", "fail", "/a", message)
    (finding,) = found.findings(PLACE)
    assert (finding.count, finding.message) == (1, "first")


def test_memory_does_not_grow_with_the_flaws():
    found = Gathering()
    for number in range(50_000):
        found.add("E404", "fail", f"/{number}", "x" * 100)
    assert found.count("E404") == 50_000
    assert len(next(iter(found._groups.values())).paths) == SHOWN


@pytest.mark.parametrize("code", [code for code in CODES if code.startswith(("E2", "E4")) or code in ("E302", "E602", "E832")])
@pytest.mark.parametrize("level", ["fail", "warn", "info"])
def test_every_remedy_is_a_command_with_quoted_paths(code, level):
    text = remedy(code, level, PLACE, "/mnt/w/CMU Academics/Omni-CAD/json/it's.json")
    assert "{" not in text.replace("{}", "")
    for word in ("CMU Academics", "it's"):
        if word in text:
            assert word in " ".join(part for part in shlex.split(text.replace("(", "").replace(")", "")) if word in part)
    assert "/mnt/w/CMU Academics/Omni-CAD" not in text.replace("'/mnt/w/CMU Academics/Omni-CAD", "")
