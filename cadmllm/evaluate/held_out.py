"""Held-out ids answered by a model: who is asked, what is shown, in groups that are the same after a kill."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cadmllm.cad.program import Program
from cadmllm.cad.tokens import encode, to_text
from cadmllm.corpus import order
from cadmllm.corpus.prompt import BARE_REQUEST
from cadmllm.corpus.sample import join_modalities, load_sample
from cadmllm.errors import CadmllmError, Exit
from cadmllm.evaluate.ledger import Key
from cadmllm.evaluate.summary import SHOWN
from cadmllm.infer.inputs import Shown
from cadmllm.infer.request import Request
from cadmllm.settings import COMBINATIONS

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.layout import DataSet
    from cadmllm.corpus.points import Sampling
    from cadmllm.corpus.roster import Ids
    from cadmllm.corpus.types import Cloud, Sample
    from cadmllm.infer.api import CadModel
    from cadmllm.infer.part import Part
    from cadmllm.models.fusion import CadMLLM
    from cadmllm.settings import EvalSettings, Settings

ENCODERS = {"point_cloud": ("point clouds", 2), "image": ("images", 3)}


@dataclass(frozen=True, slots=True)
class Case:
    """One way to show ids.

    Attributes:
        name: the rows' `combination`.
        shows: modalities, one of `summary.SHOWN`; without 'text' the prompt is `BARE_REQUEST`.
        ids: of the data set, sorted.
        views: images shown; None: as many as the model was trained with.
        cloud: reads the cloud of an id with so many points, in place of the data set's own.
    """

    name: str
    shows: str
    ids: tuple[str, ...]
    views: int | None = None
    cloud: Callable[[DataSet, str, int, int, Sampling], Cloud] | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """The ids that are asked.

    Attributes:
        split: whose they are.
        ids: those with a usable program, in an order that depends on `eval.seed` alone; the first `eval.samples` are asked.
        notes: what deserves to be said.
    """

    split: str
    ids: list[str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """An id that was answered, with what is right.

    Attributes:
        case: name of the case.
        id: of the data set.
        part: the answer.
        truth: the data set's program.
    """

    case: str
    id: str
    part: Part
    truth: Program

    def columns(self) -> dict[str, Any]:
        """What a row says beside its measures; nothing that a clock decides."""
        record = self.part.record
        tried = record["candidates"]
        return {
            "prompt": record["prompt"],
            "tokens": record["tokens"],
            "log_likelihood": record["log_likelihood"],
            "chosen_by": record["chosen"]["by"],
            "candidates": len(tried),
            "repairs": list(record["repairs"]),
            "program": _spelled(self.part),
        }


@dataclass(slots=True)
class LeftOut:
    """Ids that could not be shown, by case and reason."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def note(self, case: str, reason: str) -> None:
        self.counts.setdefault(case, Counter())[reason] += 1

    def plain(self) -> dict[str, dict[str, int]]:
        """For a report."""
        return {case: dict(sorted(reasons.items())) for case, reasons in sorted(self.counts.items())}


def choose_side(dataset: DataSet, asked: EvalSettings) -> Side:
    """The ids of the split that is evaluated; test falls back to val, which is said.

    Raises:
        CadmllmError: E713 when there is none.
    """
    train, val = dataset.split()
    found = {"train": train, "val": val, "test": dataset.test_ids()}
    split, notes = asked.split, [f"{problem.code} {problem.message}" for problem in dataset.of_lists]
    if split == "test" and not found["test"]:
        split = "val"
        notes.append(
            f"{dataset.data.root} has no test ids (test.txt, or --set data.test=FILE): the held-out ids of val are asked"
        )
    ids = found[split]
    if not ids:
        raise CadmllmError(
            "E713",
            f"{dataset.data.root}: the split '{split}' has no ids",
            "cadmllm data split ROOT, or name another: --split val",
        )
    usable = _usable(dataset, ids)
    if len(usable) < len(ids):
        notes.append(f"{len(ids) - len(usable)} of {len(ids)} ids have no usable program and are left out: cadmllm data check")
    if not usable:
        raise CadmllmError("E713", f"none of the {len(ids)} ids of '{split}' has a usable program", "cadmllm data check")
    shuffled = order.epoch_order(len(usable), asked.seed, 0, 0)
    return Side(split, [usable[int(k)] for k in shuffled], tuple(notes))


def _usable(dataset: DataSet, ids: Ids) -> list[str]:
    lengths = dataset.lengths(ids)
    return [id_ for id_, length in zip(ids, lengths.tolist(), strict=True) if length > 0]


def combinations_of(text: str) -> list[str]:
    """What `eval.modalities` names, each once, in the order of the table; [] for 'all'.

    Raises:
        CadmllmError: E102.
    """
    if text.strip().lower() == "all":
        return []
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name = join_modalities(word.strip() for word in part.split("+"))
        if name not in SHOWN or name.count("+") != part.count("+"):
            raise CadmllmError(
                "E102",
                f"eval.modalities: there is no combination {part!r}",
                f"write --modalities all, or one or several of {', '.join(SHOWN)}",
                exit_code=Exit.USAGE,
            )
        found.append(name)
    if not found:
        raise CadmllmError("E102", "eval.modalities names no combination", "write --modalities all", exit_code=Exit.USAGE)
    return [name for name in SHOWN if name in found]


def able(model: CadMLLM) -> set[str]:
    """The modalities that a model can be shown."""
    return {"text", *(["point_cloud"] if model.points is not None else []), *(["image"] if model.images is not None else [])}


def check_able(shows: str, model: CadMLLM, checkpoint: str) -> None:
    """Refuse a combination that the model has no encoder for. Raises `CadmllmError` E701."""
    for name, (what, stage) in ENCODERS.items():
        if name in shows.split("+") and name not in able(model):
            raise CadmllmError(
                "E701",
                f"{checkpoint} has no encoder for {what} ('{shows}'): stage {stage} of the curriculum adds it",
                f"train it: cadmllm train stage{stage}; or show what it knows: --modalities {'+'.join(sorted(able(model)))}",
            )


def shown_by(dataset: DataSet, ids: Sequence[str], shows: str, most: int) -> tuple[tuple[str, ...], int]:
    """The first `most` (0: all) of `ids` that have every modality of `shows`, sorted, and how many of `ids` have not."""
    needed = set(shows.split("+")) - {"text"}
    have = [id_ for id_ in ids if needed <= dataset.modalities(id_)]
    return tuple(sorted(have[:most] if most else have)), len(ids) - len(have)


def plan_cases(dataset: DataSet, side: Side, cad: CadModel, asked: EvalSettings, left: LeftOut) -> list[Case]:
    """A case a combination; ids that lack a modality are counted in `left`.

    Raises:
        CadmllmError: E102, E701, E713.
    """
    named = combinations_of(asked.modalities)
    for name in named:
        check_able(name, cad.model, cad.name)
    cases = []
    for name in named or [name for name in COMBINATIONS if set(name.split("+")) <= able(cad.model)]:
        ids, without = shown_by(dataset, side.ids, name, asked.samples)
        if without:
            lacking = " or ".join(part.replace("_", " ") for part in name.split("+") if part != "text")
            left.counts.setdefault(name, Counter())[f"no {lacking}"] += without
        if ids:
            cases.append(Case(name, name, ids))
        elif named:
            raise CadmllmError(
                "E713",
                f"none of the {len(side.ids)} ids of '{side.split}' can be shown as '{name}'",
                f"make what is missing: cadmllm data prepare {dataset.data.root} --points --views; or --modalities all",
            )
    return cases


def position_of(id_: str) -> int:
    """What an id's draws (caption, points, views) depend on beside the seed: itself, not who else is asked."""
    return int.from_bytes(hashlib.blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little")


def load_shown(dataset: DataSet, model: CadMLLM, case: Case, id_: str, seed: int) -> Sample:
    """What a case shows of an id. What cannot be read is an error here: a row must show what its name says.

    Raises:
        CadmllmError: E2xx (program), E404 to E408, E43x, E44x (cloud, views).
    """
    shape = model.settings.model
    modalities = set(case.shows.split("+"))
    before, position = len(dataset.problems), position_of(id_)
    read = modalities - {"point_cloud"} if case.cloud else modalities
    sample = load_sample(
        dataset,
        id_,
        join_modalities({"text", *read}),
        seed=seed,
        stage=0,
        epoch=0,
        position=position,
        point_count=shape.point_count,
        sampling=shape.point_sampling,
        views=case.views or shape.image_views,
        draws=model.settings.data.draws,
    )
    found = dataset.problems[before:]
    if found:  # of this id: it was just read
        del dataset.problems[before:]
        raise CadmllmError(found[0].code, found[0].message, f"cadmllm data show {id_}")
    if case.cloud:
        sample = replace(sample, clouds=(case.cloud(dataset, id_, shape.point_count, seed, shape.point_sampling),))
    # training leaves the caption out now and then; here the combination's name says whether there is one
    key = (seed, 0, 0, position)
    caption = dataset.caption(id_, order.whole(order.CAPTION, *key)) if "text" in modalities else BARE_REQUEST
    return replace(sample, caption=caption, combination=join_modalities({"text", *modalities}), target=None)


def answers(
    cad: CadModel, dataset: DataSet, cases: Sequence[Case], done: set[Key], settings: Settings, left: LeftOut, console: Console
) -> Iterator[Asked]:
    """Every answer that is not there yet, case by case, in the order of the ids.

    Groups are the same whatever is done already, and a group that lacks one row is written again as a whole: so the rows of a
    run that was killed are those of one that was not, in 16 bit, too.

    Args:
        cad: the model; `settings.infer` is what it is asked with, one attempt an answer.
        dataset: of the ids.
        cases: what is shown.
        done: rows that are there.
        settings: resolved.
        left: counts what cannot be read.
        console: told what is left out.

    Raises:
        CadmllmError: what concerns all answers: E102, E704.
    """
    together = max(1, settings.infer.batch_size // settings.infer.candidates)
    for case in cases:
        for first in range(0, len(case.ids), together):
            group = case.ids[first : first + together]
            if all((case.name, id_) in done for id_ in group):
                continue
            for asked in _answer_group(cad, dataset, case, group, done, settings, left, console):
                if (case.name, asked.id) not in done:
                    yield asked


def _answer_group(
    cad: CadModel,
    dataset: DataSet,
    case: Case,
    ids: Sequence[str],
    done: set[Key],
    settings: Settings,
    left: LeftOut,
    console: Console,
) -> Iterator[Asked]:
    requests, truths = [], []
    for id_ in ids:
        try:
            sample = load_shown(dataset, cad.model, case, id_, settings.eval.seed)
            truths.append(dataset.program(id_))
        except CadmllmError as error:
            left.note(case.name, f"{error.code}")
            console.warn(f"{id_} ({case.name}) is left out: {error.code} {error.message}")
            continue
        requests.append(Request(id_, sample.caption, shown=Shown(sample, [], [])))
    if all((case.name, request.name) in done for request in requests):
        return  # what is missing cannot be shown
    # one attempt: how often a model fails at the first go is what is measured
    parts = cad.answer(requests, attempts=1)
    for request, truth, part in zip(requests, truths, parts, strict=True):
        if isinstance(part, CadmllmError):
            left.note(case.name, part.code)
            console.warn(f"{request.name} ({case.name}) is left out: {part.code} {part.message}")
        else:
            yield Asked(case.name, request.name, part, truth)


def _spelled(part: Part) -> str | None:
    """The answer as token text: as it was written, or, where it was mended or brought to size, what came of that.

    None where it spells no program. (A cloud's frame is left out of it: what is compared is normalised.)
    """
    changed = part.record["repairs"] or (part.altered and part.record["frame"] == "centred")
    try:
        if part.program is None:
            return None
        return to_text(list(encode(part.program).tokens)) if changed else part.text
    except CadmllmError:
        return None
