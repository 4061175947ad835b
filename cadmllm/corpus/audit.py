"""Is every sample of a data set readable, and what can each stage train on?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cadmllm.corpus.layout import DataSet, Problem
from cadmllm.corpus.sample import target_of
from cadmllm.errors import CODES, CadmllmError

SHOWN = 5  # paths a finding lists
NEEDS: dict[int, frozenset[str]] = {
    1: frozenset({"text"}),
    2: frozenset({"text", "point_cloud"}),
    3: frozenset({"text", "point_cloud", "image"}),
}
_REMEDIES = {
    "E403": "rename these files or remove the links: such names are never opened",
    "E404": "make these clouds again: cadmllm data prepare ROOT --out DIR --points",
    "E405": "make these views again: cadmllm data prepare ROOT --out DIR --views",
    "E602": "leave them out, as training does, or make room: --set train.max_seq_length=4096",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of problem: its code, how many samples have it, the first few, and what mends it."""

    code: str
    level: str
    count: int
    paths: list[str]
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found.

    Attributes:
        counts: captions, programs, clouds, views, and ids that have caption and program.
        stages: by stage the ids that show all of it, and whether it can train at all.
        findings: problems by code, the most frequent first.
    """

    counts: dict[str, int]
    stages: dict[int, dict[str, Any]]
    findings: list[Finding]

    def as_dict(self, stage: int) -> dict[str, Any]:
        """The JSON form; `ready` speaks of `stage`."""
        findings = [asdict(finding) for finding in self.findings]
        return {"ready": self.stages[stage]["ready"], "counts": self.counts, "stages": self.stages, "findings": findings}


def audit(dataset: DataSet, longest: int, advance: Callable[[], None] = lambda: None) -> Audit:
    """Read every program, cloud and view of the data set once.

    Args:
        dataset: from `layout.open_dataset`.
        longest: longest target in tokens that training takes.
        advance: called once an id.
    """
    problems = list(dataset.problems)
    have: dict[str, set[str]] = {}
    for id_ in dataset.ids:
        have[id_] = _examine(dataset, id_, longest, problems)
        advance()
    stages = {}
    for stage, needs in NEEDS.items():
        full = sum(needs <= modalities for modalities in have.values())
        stages[stage] = {"ids": full, "of": len(dataset.ids), "ready": full > 0}
    return Audit(dataset.counts | {"ids": len(dataset.ids)}, stages, _findings(problems))


def _examine(dataset: DataSet, id_: str, longest: int, problems: list[Problem]) -> set[str]:
    """What of the id can be shown in training; what cannot is added to `problems`."""
    good: set[str] = set()
    try:
        length = len(target_of(dataset, id_))
    except CadmllmError as error:
        problems.append(Problem(error.code, id_, error.message))
        return good
    if length > longest:
        problems.append(Problem("E602", id_, f"{id_}: the target has {length} tokens, more than {longest}"))
        return good
    good.add("text")
    try:
        if "point_cloud" in dataset.modalities(id_):
            dataset.cloud(id_, 16, 0)
            good.add("point_cloud")
    except CadmllmError as error:
        problems.append(Problem(error.code, id_, error.message))
    try:
        for view in range(dataset.view_count(id_)):
            dataset.view(id_, view)
        if dataset.view_count(id_):
            good.add("image")
    except CadmllmError as error:
        problems.append(Problem(error.code, id_, error.message))
    return good


def _findings(problems: list[Problem]) -> list[Finding]:
    groups: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.code].append(problem)
    found = []
    for code, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        remedy = _REMEDIES.get(code, "correct or remove these files; training leaves them out")
        message = group[0].message if len(group) == 1 else f"{CODES[code]}; the first: {group[0].message}"
        found.append(Finding(code, "warn", len(group), [p.where for p in group[:SHOWN]], message, remedy))
    return found
