"""Each check on its own; the report; the page that is written from them."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Report, Situation
from cadmllm.doctor.docs import OPTIONS, PAGE, explanation, page
from cadmllm.doctor.runner import CHECKS, chosen, run_checks
from cadmllm.errors import CODES, CadmllmError
from cadmllm.remedies import REMEDIES, remedy_of
from cadmllm.settings import Settings

WARNING = Finding("E811", Level.WARN, "a", "no GPU", "buy one")
FAILURE = Finding("E821", Level.FAIL, "b", "no room", "make some")


def check(name: str, result: Outcome | Exception, **options) -> Check:
    def run(_: Situation) -> Outcome:
        if isinstance(result, Exception):
            raise result
        return result

    return Check(name, f"{name} is well", (), run, **options)


def test_a_check_that_raises_is_a_finding_and_the_others_go_on():
    heard = []
    checks = [check("a", ValueError("odd")), check("b", CadmllmError("E401", "gone", "look")), check("c", Outcome("well"))]
    report = run_checks(Situation(Settings()), lambda c, o, _: heard.append((c.name, o.level)), checks)
    assert heard == [("a", Level.FAIL), ("b", Level.FAIL), ("c", Level.OK)]
    assert [(f.code, f.check, f.message) for f in report.findings] == [
        ("E899", "a", "the check a failed: ValueError: odd"),
        ("E401", "b", "gone"),
    ]
    assert not report.ready


def test_checks_without_what_they_need_are_skipped_with_the_reason():
    checks = [
        check("a", Outcome("well"), needs=("numpy",)),
        check("b", Outcome("well")),
        check("c", Outcome("x"), needs_settings=False),
    ]
    report = run_checks(Situation(None, broken={"numpy"}), checks=checks)
    assert [outcome.level for _, outcome in report.outcomes] == [Level.SKIP, Level.SKIP, Level.OK]
    report = run_checks(Situation(Settings(), broken={"numpy"}), checks=checks)
    assert report.outcomes[0][1].skipped == "numpy cannot be imported"
    assert report.outcomes[1][1].level is Level.OK
    assert report.ready


def test_only_failures_keep_from_being_ready_and_stand_first():
    report = Report([(check("a", Outcome()), Outcome(findings=(WARNING,)))])
    assert report.ready
    report.outcomes.append((check("b", Outcome()), Outcome(findings=(WARNING, FAILURE))))
    assert not report.ready
    assert report.outcomes[1][1].level is Level.FAIL
    assert report.findings == [FAILURE, WARNING, WARNING]
    assert report.as_dict() == {"schema": 1, "ready": False, "findings": [FAILURE, WARNING, WARNING], "plan": {}}


def test_names_and_codes_of_the_checks():
    names = [c.name for c in CHECKS]
    assert len(set(names)) == len(names)
    assert {code for c in CHECKS for code in c.codes} <= set(CODES)
    assert names.index("packages") < names.index("gpu"), "later checks leave out what needs a broken package"


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make docs"


@pytest.fixture(scope="module")
def now() -> str:
    """The page as it would be written now, whatever the file says."""
    return page()


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_on_the_page_and_can_be_explained(code, now):
    assert f"| {code} | {CODES[code]} | {REMEDIES[code]} |" in now
    said = explanation(code).splitlines()
    assert (said[0], said[-1]) == (f"{code}: {CODES[code]}", f"what mends it: {remedy_of(code)}")
    assert [line.split()[4] for line in said[1:-1]] == [check.name for check in CHECKS if code in check.codes]


def test_every_check_is_on_the_page(now):
    for check in CHECKS:
        part = "deep" if check.deep else "quick"
        kept = check.cached_by.replace("|", r"\|") or "-"
        assert f"| `{check.name}` | {check.group} | {part} | {check.what} | {kept} | " in now


def test_the_options_on_the_page_are_those_of_the_command():
    from cadmllm.cli import build

    declared = {spelling for param in build().commands["doctor"].params for spelling in param.opts}
    told = {word for names, _ in OPTIONS for word in re.findall(r"(?<!\S)--?[a-z-]+", names.replace("`", ""))}
    assert told == declared | {"--json"}


def test_the_json_of_the_page_is_that_of_a_report(now):
    shown = json.loads(now.partition("```json\n")[2].partition("```")[0])
    report = Report([(check("a", Outcome()), Outcome(findings=(WARNING,)))])
    assert shown.keys() == report.as_dict().keys()
    assert shown["findings"][0].keys() == dataclasses.asdict(WARNING).keys()
    for name in (*shown, *(f"findings[].{name}" for name in shown["findings"][0])):
        assert f"| `{name}` |" in now


def test_what_an_earlier_check_has_found_is_told_once():
    gone = CadmllmError("E401", "gone", "look")
    other = CadmllmError("E401", "gone elsewhere", "look")
    found = Outcome(findings=(Finding("E401", Level.FAIL, "e", "another matter", "look"),))
    checks = [
        check("a", gone),
        check("b", gone, group="disk"),
        check("c", other),
        check("d", other, group="data"),
        check("e", found),
    ]
    report = run_checks(Situation(Settings()), checks=checks)
    repeated = "E401, as a has found"
    assert [outcome.skipped for _, outcome in report.outcomes] == ["", repeated, repeated, "", ""]
    assert [finding.check for finding in report.findings] == ["a", "d", "e"]


def test_which_checks_are_meant():
    quick, deep = chosen(), chosen(deep=True)
    assert not any(c.deep for c in quick)
    assert set(quick) < set(deep) == set(CHECKS)
    assert {c.group for c in chosen(["proofs"])} == {"proofs"}, "deep, as they were asked for by name"
    assert not any(c.deep for c in chosen(["gpu"])), "the quick ones of a group that has both"
    assert [c.name for c in chosen(["numbers"])] == ["numbers"]
    assert not {c.name for c in chosen(skip=["gpu", "disk"])} & {c.name for c in CHECKS if c.group in ("gpu", "disk")}
    for only, skip, code in ((["nothing"], [], "E106"), ([], ["nothing"], "E106"), (["disk"], ["disk"], "E105")):
        with pytest.raises(CadmllmError) as caught:
            chosen(only, skip)
        assert (caught.value.code, caught.value.exit_code) == (code, 2)
