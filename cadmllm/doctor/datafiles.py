"""Deep: files of a sample of ids are read as training reads them, their programs built and compared with their clouds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.data import needed_kinds, opened
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.findings import Gathering
    from cadmllm.corpus.layout import DataSet

NAME = "data-files"
SAMPLE = 400  # ids, spread evenly over those that are trained on
SECONDS = 30.0  # that reading may take, and building as much again
LEAK = 0.05  # share of the held-out programs that are trained on as well from which on it is worth a warning
_WORDS = {"PROGRAM": "programs", "CLOUD": "clouds", "VIEWS": "sets of views"}


@dataclass(slots=True)
class _Seen:
    """How many ids were looked at, by kind of file, and how many of them cannot be used."""

    read: dict[str, int] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)

    def note(self, kind: str, broken: bool) -> None:
        self.read[kind] = self.read.get(kind, 0) + 1
        self.bad[kind] = self.bad.get(kind, 0) + broken


def check_files(situation: Situation) -> Outcome:
    """What is read of a sample is fit for use.

    Raises:
        CadmllmError: E401, E402, E407, E482 from the data set.
    """
    settings = situation.needed
    if settings.data.synthetic:
        return Outcome(skipped=f"{settings.data.synthetic} parts will be generated")
    from cadmllm.corpus.findings import Gathering
    from cadmllm.corpus.remedies import Place

    dataset = opened(situation)
    train = dataset.split()[0]
    chosen = list(train[:: max(1, -(-len(train) // SAMPLE))])
    found, seen = Gathering(), _Seen()
    read = _read(situation, dataset, chosen, found, seen)
    built, why_not = _built(situation, dataset, chosen, found)
    place = Place(settings.data.root, max(situation.stages, default=1))
    told = [finding for finding in found.findings(place) if finding.level != "info"]
    findings = [*_useless(seen, settings.data.root)]
    of = f" (of {read:,} ids that were looked at)"
    findings += [Finding(f.code, Level.WARN, NAME, f"{f.count:,} x {f.message}{of}", f.remedy) for f in told]
    findings += _leaks(dataset)
    sample = "all" if len(chosen) == len(train) else f"{len(chosen):,} of {len(train):,}"
    details = [f"read {count:,} {_WORDS[kind]}, {seen.bad[kind]:,} of no use" for kind, count in seen.read.items()]
    details += [f"all files of all ids, and every program built: cadmllm data check {settings.data.root} --deep"]
    late = "" if read == len(chosen) else f", {len(chosen) - read:,} not within {SECONDS:.0f} s"
    building = why_not or f"{built:,} programs built" + ("" if built == len(chosen) else f" within {SECONDS:.0f} s")
    return Outcome(f"{sample} training ids read{late}; {building}", tuple(findings), details=tuple(details))


def _read(situation: Situation, dataset: DataSet, chosen: list[str], found: Gathering, seen: _Seen) -> int:
    """Examine the files that the stages to be trained read; the number of ids that there was time for."""
    from cadmllm.corpus.examining import look
    from cadmllm.corpus.facts import Kind

    kinds = [Kind(kind) for kind in sorted(needed_kinds(situation)) if kind != Kind.CAPTIONS]
    for number, id_ in enumerate(_within(SECONDS, chosen)):
        for kind in kinds:
            where = dataset.index.place(kind, id_)
            if where is None:
                continue
            facts = look(kind, dataset.folders.img, id_, where)
            seen.note(kind.name, facts.code is not None)
            for flaw in facts.flaws:
                found.add(flaw.code, flaw.level, flaw.path, flaw.message)
        read = number + 1
    return read if chosen else 0


def _within(seconds: float, items: list[str], clock: Callable[[], float] = time.monotonic) -> Iterator[str]:
    """The items, the first at least, until the time is over."""
    end = clock() + seconds
    for number, item in enumerate(items):
        if number and clock() > end:
            return
        yield item


def _built(situation: Situation, dataset: DataSet, chosen: list[str], found: Gathering) -> tuple[int, str]:
    """(programs that the kernel has built and measured, why none was)."""
    if "OCP" in situation.broken:
        return 0, "no program built: the CAD kernel cannot be loaded"
    from cadmllm.corpus.deep import look_at
    from cadmllm.corpus.facts import Kind

    kernel = situation.needed.kernel
    timeout = min(kernel.timeout, SECONDS)
    built = 0
    try:
        clouds, ids = Kind.CLOUD in needed_kinds(situation), _within(SECONDS, chosen)
        for _, facts in look_at(dataset.index, ids, clouds=clouds, workers=kernel.workers, timeout=timeout, memory=kernel.memory):
            built += 1
            for flaw in facts.flaws:
                found.add(flaw.code, flaw.level, flaw.path, flaw.message)
    except CadmllmError as error:
        if error.code != "E301":
            raise
        return 0, f"no program built: {error.message}"
    return built, ""


def _useless(seen: _Seen, root: object) -> Iterator[Finding]:
    """Not one of the files of a kind can be used: the run would never show any."""
    for kind, count in seen.read.items():
        if seen.bad[kind] == count:
            message = f"not one of the {count:,} {_WORDS[kind]} that were read can be used"
            yield Finding("E406", Level.FAIL, NAME, message, f"see what is wrong with them: cadmllm data check {root}")


def _leaks(dataset: DataSet) -> Iterator[Finding]:
    """Held-out programs that are trained on under another id: the held-out loss is then too good."""
    from cadmllm.corpus.completeness import held_out_again

    train, held_out = dataset.split()
    twice, first = held_out_again(dataset.index, train, held_out)
    if twice and twice >= LEAK * len(held_out):
        message = (
            f"{twice:,} of {len(held_out):,} held-out programs are trained on as well, under other ids ({first} for one):"
            " the held-out loss is better than the model"
        )
        remedy = f"split so that the same parts stay on one side: cadmllm data split {dataset.data.root}"
        yield Finding("E463", Level.WARN, NAME, message, remedy)


CHECKS = (
    Check(
        NAME,
        "files of a sample are fit for use, their programs build, clouds and programs belong together",
        (
            *("E201", "E202", "E203", "E204", "E205", "E206", "E207", "E208", "E209", "E212", "E214", "E302", "E404", "E405"),
            *("E406", "E421", "E422", "E424", "E430", "E431", "E432", "E433", "E434", "E435", "E436", "E437", "E438", "E440"),
            *("E441", "E442", "E444", "E445", "E461", "E462", "E463"),
        ),
        check_files,
        needs=("numpy",),
        group="data",
        deep=True,
    ),
)
