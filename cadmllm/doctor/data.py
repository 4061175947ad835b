"""The data set has what the stages show: completeness and integrity, from the index, as `data check` and training tell them."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor.check import Check, Finding, Fix, Level, Outcome, Situation
from cadmllm.errors import CODES, CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.layout import DataSet
    from cadmllm.corpus.losses import Loss
    from cadmllm.corpus.readiness import Stock
    from cadmllm.settings import Settings

NAME = "data"
MANY = 0.1  # share of captions without programs, or of programs without captions, that is worth a warning
HALF = 0.5  # share of training ids that should have what a stage shows
NEIGHBOURS = 300  # folders that are looked through for the data set, where it is not where it should be
_WORDS = {"text": "text", "point_cloud": "points", "image": "views"}
_FOLDERS = {"point_cloud": "points", "image": "img"}
_PARTS = ("json", "txt", "img", "pcd", "pointcloud")


def check_data(situation: Situation) -> Outcome:
    """The data set can be read, its lists name its ids, and it holds what the stages to be trained show."""
    settings = situation.needed
    if settings.data.synthetic:
        return Outcome(skipped=f"{settings.data.synthetic} parts will be generated")
    try:
        dataset = opened(situation)
    except CadmllmError as error:
        return _elsewhere(error, settings)
    findings = [*_of_the_index(dataset), *_orphans(dataset)]
    try:
        train, held_out = dataset.split()
    except CadmllmError as error:
        findings.insert(0, Finding(error.code, Level.FAIL, NAME, error.message, error.remedy))
        return Outcome(f"{len(dataset):,} ids ({settings.data.root})", (*findings, *_lost(situation, dataset)))
    stocks = stocks_of(situation)
    findings += [*_lists(dataset), *_validation(situation, len(held_out))]
    for number in situation.stages:
        findings += _stage(situation, number, stocks)
    findings += [*_window(situation, stocks), *_lost(situation, dataset)]
    shows = stocks[0].shows  # of all stages
    clouds, views = int(shows["point_cloud"].sum()), int(shows["image"].sum())
    counts = f"{len(train):,} to train on ({clouds:,} with points, {views:,} with views)"
    summary = f"{counts}, {len(held_out):,} held out ({settings.data.root})"
    fixes = tuple(_fixes(situation, findings, stocks))
    return Outcome(summary, tuple(findings), details=tuple(_readiness(situation, stocks)), fixes=fixes)


def opened(situation: Situation) -> DataSet:
    """The data set; before it is opened for the first time its folders are looked at, so that what grows is seen to.

    Raises:
        CadmllmError: E401, E402, E407, E482.
    """
    from cadmllm.corpus import completeness, growth

    situation.once("look at the data", lambda: growth.look(completeness.places(situation.needed.data)))
    return situation.dataset


def stocks_of(situation: Situation) -> dict[int, Stock]:
    """What each stage can train on, by number; under 0 what a stage could that shows everything.

    Raises:
        CadmllmError: E407 from the lists of ids.
    """

    from cadmllm.corpus import readiness

    return situation.once("stocks of the data", lambda: readiness.stocks_of(situation.needed, opened(situation)))


def _elsewhere(error: CadmllmError, settings: Settings) -> Outcome:
    """The data set cannot be opened; where it lies next to the place that was named, that is said."""
    near = _near(settings.data.root) if error.code == "E401" else None
    if near is None:
        return Outcome(findings=(Finding(error.code, Level.FAIL, NAME, error.message, error.remedy),))
    from cadmllm.corpus.remedies import quoted

    message = f"{error.message}; a data set lies in {near}"
    finding = Finding(error.code, Level.FAIL, NAME, message, f"name its folder: --set data.root={quoted(near)}")
    return Outcome(findings=(finding,), fixes=(Fix("setting", "data.root", str(near), "the data set lies there"),))


def _near(root: Path) -> Path | None:
    """A data set one level deeper or higher, or beside it under nearly the same name."""
    if root.name in _PARTS and _is_set(root.parent):
        return root.parent
    if root.is_dir():
        within = [path for path in _folders(root) if _is_set(path)]
        return within[0] if len(within) == 1 else None
    beside = {path.name: path for path in _folders(root.parent) if _is_set(path)}
    alike = difflib.get_close_matches(root.name, beside, 1, 0.8)
    return beside[alike[0]] if alike else None


def _is_set(folder: Path) -> bool:
    return (folder / "json").is_dir() and (folder / "txt").exists()


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in itertools.islice(folder.iterdir(), NEIGHBOURS) if path.is_dir())
    except OSError:
        return []


def _of_the_index(dataset: DataSet) -> Iterator[Finding]:
    """The index lies elsewhere than usual, or had to be made anew."""
    for note in dataset.index.notes:
        remedy = "give a folder on a local disk that can be written: --set data.index=FOLDER"
        if "made anew" in note:
            remedy = "nothing need be done: this was its last start; when it comes again, --set data.index=FOLDER"
        yield Finding("E482", Level.WARN, NAME, note, remedy)


def _orphans(dataset: DataSet) -> Iterator[Finding]:
    """Many captions wait for programs, or the other way round: a download that has not ended, or a folder of another set."""
    from cadmllm.corpus.facts import Kind
    from cadmllm.corpus.remedies import Place, remedy

    both = len(dataset)
    cases = (
        ("E411", "captions", "program", Kind.CAPTIONS, Kind.PROGRAM),
        ("E412", "programs", "caption", Kind.PROGRAM, Kind.CAPTIONS),
    )
    for code, have, lack, of, other in cases:
        known = dataset.counts[have]
        if known - both > MANY * known:
            first = next(dataset.index.lacking(of, [other]), "")
            message = f"{known - both:,} of {known:,} {have} have no {lack} and are not trained on, the first is {first}"
            yield Finding(code, Level.WARN, NAME, message, remedy(code, "warn", Place(dataset.data.root), first))


def _lists(dataset: DataSet) -> Iterator[Finding]:
    """What is wrong with lists of ids that can be used all the same."""
    for problem in dataset.of_lists:
        remedy = f"correct the list, or make new ones: cadmllm data split {dataset.data.root}"
        yield Finding(problem.code, Level.WARN, NAME, problem.message, remedy)


def _validation(situation: Situation, held_out: int) -> Iterator[Finding]:
    """Settings that count on held-out ids, of which there are none."""
    train = situation.needed.train
    asked = [
        f"train.{name}={value}" for name in ("val_steps", "sample_steps", "judge_samples") if (value := getattr(train, name))
    ]
    waits = [n for n in situation.stages if situation.needed.stages[n].patience]
    asked += [f"stages.{n}.patience={situation.needed.stages[n].patience}" for n in waits]
    if asked and not held_out:
        message = f"no id is held out, and {' and '.join(asked)} need{'s' if len(asked) == 1 else ''} some"
        remedy = "hold some out: --set data.val_share=0.1, or name them: --set data.val=FILE (an id a line)"
        yield Finding("E105", Level.WARN, NAME, message, remedy)


def _stage(situation: Situation, number: int, stocks: dict[int, Stock]) -> Iterator[Finding]:
    """Whether a stage has what it shows. (That targets are too long is the check `sequences`' to say.)"""
    settings, stock = situation.needed, stocks[number]
    ids, root = len(stock.lengths), settings.data.root
    usable = stock.lengths > 0
    if not ids:
        message = f"no id is left for stage {number} to train on: all are held out, for evaluation or excluded"
        yield Finding("E406", Level.FAIL, NAME, message, f"correct the lists of ids, or make new ones: cadmllm data split {root}")
        return
    if not usable.any():
        message = f"none of the {ids} training ids can train stage {number}: no program of theirs can be used"
        yield Finding("E406", Level.FAIL, NAME, message, f"look at the data: cadmllm data check {root} --stage {number}")
        return
    for need, there in stock.shows.items():
        having = int((there & usable).sum())
        if not having:
            message = f"stage {number} shows {need.replace('_', ' ')}s, and none of the {ids} training ids has {_WORDS[need]}"
            yield Finding("E406", Level.FAIL, NAME, message, f"{_make(settings, need)}; {_meanwhile(situation, number, stocks)}")
        elif having < HALF * int(usable.sum()):
            share = having / int(usable.sum())
            message = (
                f"stage {number} shows {need.replace('_', ' ')}s, and {having:,} of {ids:,} training ids ({share:.1%}) have"
                f" {_WORDS[need]}: the others are shown without, whatever stages.{number}.probabilities say"
            )
            wait = "when a download is going on, wait for its end"
            yield Finding("E466", Level.WARN, NAME, message, f"{wait}; else make them: {_make(settings, need)}")


def _make(settings: Settings, need: str) -> str:
    """What brings a modality: its folder where it was made and not named, else the command that makes it."""
    from cadmllm.corpus.completeness import how_to_make
    from cadmllm.corpus.remedies import quoted

    made = _made(settings, need)
    if made is not None:
        return f"{made} has some: --set data.{_FOLDERS[need]}={quoted(made)}"
    return how_to_make(settings, _FOLDERS[need])


def _made(settings: Settings, need: str) -> Path | None:
    """The folder that `data prepare` writes where it is told so, if it is there and the settings do not name one."""
    data = settings.data
    if (data.points if need == "point_cloud" else data.img) is not None:
        return None
    whole = data.root.absolute()
    folder = whole.parent / f"{whole.name}-derived" / ("pcd" if need == "point_cloud" else "img")
    return folder if folder.is_dir() else None


def _fixes(situation: Situation, findings: list[Finding], stocks: dict[int, Stock]) -> Iterator[Fix]:
    """Clouds or views that a finding misses, and that are there."""
    if not any(finding.code in ("E406", "E466") for finding in findings):
        return
    for need in dict.fromkeys(need for number in situation.stages for need in stocks[number].shows):
        made = _made(situation.needed, need)
        if made is not None:
            yield Fix("setting", f"data.{_FOLDERS[need]}", str(made), f"the {_WORDS[need]} of the data set were made there")


def _meanwhile(situation: Situation, number: int, stocks: dict[int, Stock]) -> str:
    """What can be done without what is missing."""
    able = [n for n in (1, 2, 3) if n < number and _trains(stocks[n])]
    if able:
        return f"meanwhile train what comes before: cadmllm train {' '.join(f'stage{n}' for n in able)}"
    return f"or leave the stage out: --set stages.{number}.epochs=0"


def _trains(stock: Stock) -> bool:
    """Whether a stage has samples, and some of everything that it shows."""
    return bool(stock.fits.any()) and all((there & stock.fits).any() for there in stock.shows.values())


def _window(situation: Situation, stocks: dict[int, Stock]) -> Iterator[Finding]:
    """Fewer samples than a step takes: every epoch is one smaller step."""
    train = situation.needed.train
    window = train.batch_size * train.accumulation
    few = [(int(stocks[n].fits.sum()), n) for n in situation.stages]
    count, number = min(few, default=(0, 0))
    if 0 < count < window:
        message = (
            f"stage {number} has {count} samples, and a step takes {window}"
            f" (train.batch_size {train.batch_size} x train.accumulation {train.accumulation}): an epoch is one smaller step"
        )
        fewer = f"--set train.accumulation={count // train.batch_size}"
        if count < train.batch_size:
            fewer = f"--set train.batch_size={count} --set train.accumulation=1"
        yield Finding("E465", Level.WARN, NAME, message, f"{fewer}; or more data: cadmllm data synth --count 500 --out parts")


def _lost(situation: Situation, dataset: DataSet) -> Iterator[Finding]:
    """What the index knows to be unusable, a finding a code; what no stage to be trained shows may wait."""
    from cadmllm.corpus.losses import losses
    from cadmllm.corpus.remedies import Place, remedy

    place = Place(dataset.data.root, max(situation.stages, default=1))
    groups: dict[str, list[Loss]] = {}
    for loss in losses(dataset.index):
        if loss.kind in needed_kinds(situation):
            groups.setdefault(loss.code, []).append(loss)
    for code, found in groups.items():
        first, count = found[0], sum(loss.count for loss in found)
        level = "fail" if first.level == "fail" else "warn"
        message = first.message if count == 1 else f"{count:,} times: {CODES[code]}; the first: {first.message}"
        yield Finding(code, Level.WARN, NAME, message, remedy(code, level, place, first.path, first.message))


def needed_kinds(situation: Situation) -> set[int]:
    """Kinds of files (`corpus.facts.Kind`) that the stages to be trained read."""
    from cadmllm.corpus import fit
    from cadmllm.corpus.facts import Kind

    shown = {part for number in situation.stages for part in fit.shown(situation.needed.stages[number].reached)}
    modal = {Kind.CLOUD: "point_cloud", Kind.VIEWS: "image"}
    return {Kind.CAPTIONS, Kind.PROGRAM} | {kind for kind, name in modal.items() if name in shown}


def _readiness(situation: Situation, stocks: dict[int, Stock]) -> Iterator[str]:
    """A line a stage, those that were not asked for as well: something may be trained while the rest is downloaded."""
    settings = situation.needed
    for number in (1, 2, 3):
        stock = stocks[number]
        fits = stock.fits
        parts = [f"{int(fits.sum()):,} of {len(fits):,} training ids fit"]
        parts += [f"{int((there & fits).sum()):,} of them have {_WORDS[need]}" for need, there in stock.shows.items()]
        asked = "" if number in situation.stages else " (not asked for)"
        yield f"stage {number}{asked}: {'ready' if _trains(stock) else 'not ready'}: {', '.join(parts)}"
        for need, there in stock.shows.items():
            missing = int((~there & fits).sum())
            if missing:
                yield f"  {_WORDS[need]} of {missing:,} ids are missing: {_make(settings, need)}"


CHECKS = (
    Check(
        NAME,
        "the data set can be read, its lists name its ids, and it has what the stages show",
        (
            *("E105", "E201", "E202", "E203", "E204", "E205", "E206", "E207", "E208", "E209", "E212", "E214"),
            *("E401", "E402", "E403", "E404", "E405", "E406", "E407", "E408", "E410", "E411", "E412", "E415", "E416", "E417"),
            *("E418", "E419", "E420", "E421", "E422", "E424", "E430", "E431", "E432", "E433", "E437", "E440", "E441", "E444"),
            *("E465", "E466", "E482", "E490"),
        ),
        check_data,
        needs=("numpy",),
        group="data",
        cached_by="the index of the data set: the folders' times of change",
    ),
)
