"""Robustness curves: how answers get worse with noise, missing parts, fewer points, fewer views and fewer modalities.

The CAD-MLLM paper (arXiv 2411.04954) claims robustness to noisy and incomplete points and to dropped views and modalities;
here each of these is a curve over levels, measured on the same ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cadmllm.cad.files import write_whole
from cadmllm.corpus.layout import open_dataset
from cadmllm.errors import CadmllmError
from cadmllm.evaluate import ladder
from cadmllm.evaluate.finish import Evaluation, settle
from cadmllm.evaluate.held_out import Case, LeftOut, able, choose_side, combinations_of, shown_by
from cadmllm.evaluate.ledger import Ledger
from cadmllm.evaluate.report import versions, write_json
from cadmllm.evaluate.run import fill, identity_of, sources_of
from cadmllm.evaluate.spoil import Spoilt
from cadmllm.evaluate.summary import SHOWN, Bootstrap, group

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.layout import DataSet
    from cadmllm.infer.api import CadModel
    from cadmllm.settings import Settings

NOISE = (0.0, 0.005, 0.01, 0.02, 0.05)
MISSING = (0.0, 0.1, 0.2, 0.4, 0.6)
POINTS = (4096, 1024, 256, 64)
VIEWS = (8, 4, 2, 1)
STEM = "robustness_rows"


@dataclass(frozen=True, slots=True)
class Level:
    """One point of a curve: what the axis says, and the case that is measured."""

    label: str
    value: float | None
    case: Case


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity that gets worse.

    Attributes:
        name: 'noise', 'missing half', 'missing ball', 'points', 'views', 'modalities'.
        title: for people, with the unit of the axis.
        shows: what the model was shown.
        levels: from unspoilt to worst.
        reference: the same ids as they are in the data set, with the files' own normals; None where that is the first level.
    """

    name: str
    title: str
    shows: str
    levels: tuple[Level, ...]
    reference: Case | None = None


def plan_curves(dataset: DataSet, ids: Sequence[str], cad: CadModel, settings: Settings, notes: list[str]) -> list[Curve]:
    """The curves that the model has the encoders for and some id shows; what is left out is noted.

    Raises:
        CadmllmError: E102 (modalities), E713 when there is not one curve.
    """
    named = combinations_of(settings.eval.modalities)
    clouds = [name for name in named if "point_cloud" in name] or ([] if named else ["text+point_cloud"])
    views = [name for name in named if "image" in name] or ([] if named else ["text+image"])
    have, most = able(cad.model), settings.eval.samples
    curves: list[Curve] = []
    for shows, make in [*((name, _of_clouds) for name in clouds), *((name, _of_views) for name in views)]:
        lacking = set(shows.split("+")) - have
        if lacking:
            notes.append(f"no curves of {shows}: {cad.name} has no encoder for {' and '.join(sorted(lacking))}")
            continue
        found, _ = shown_by(dataset, ids, shows, most)
        if found:
            curves += make(shows, found, cad)
        else:
            notes.append(f"no curves of {shows}: none of the {len(ids)} ids has all of it")
    curves += _of_modalities(dataset, ids, have, most)
    if not curves:
        raise CadmllmError(
            "E713",
            f"{cad.name} knows {' and '.join(sorted(have))} alone: there is nothing to take away",
            "name a checkpoint of stage 2 or 3: cadmllm eval robustness --checkpoint D",
        )
    return curves


def _of_clouds(shows: str, ids: tuple[str, ...], cad: CadModel) -> list[Curve]:
    count = cad.model.settings.model.point_count
    clean = Case(f"{shows}/clean", shows, ids, cloud=Spoilt())
    reference = Case(f"{shows}/as it is", shows, ids)

    def levels(values: Iterable[tuple[str, float, Spoilt]], name: str) -> tuple[Level, ...]:
        found = []
        for label, value, spoilt in values:
            case = clean if spoilt == Spoilt() else Case(f"{shows}/{name} {label}", shows, ids, cloud=spoilt)
            found.append(Level(label, value, case))
        return tuple(found)

    noise = levels(((f"{100.0 * v:g} %", v, Spoilt(noise=v)) for v in NOISE), "noise")
    half = levels(((f"{100.0 * v:g} %", v, Spoilt(missing=v) if v else Spoilt()) for v in MISSING), "missing half")
    ball = levels(((f"{100.0 * v:g} %", v, Spoilt(missing=v, how="ball") if v else Spoilt()) for v in MISSING), "missing ball")
    fewer = [(f"{count:,}", float(count), Spoilt())]
    fewer += [(f"{n:,}", float(n), Spoilt(points=n)) for n in POINTS if n < count]
    found = [
        Curve("noise", "Noise on points, sigma in % of the longest side", shows, noise, reference),
        Curve("missing half", "Points missing on one side, %", shows, half, reference),
        Curve("missing ball", "Points missing in a ball, %", shows, ball, reference),
        Curve("points", "Points that are left", shows, levels(fewer, "points"), reference),
    ]
    return [curve for curve in found if len(curve.levels) > 1]


def _of_views(shows: str, ids: tuple[str, ...], cad: CadModel) -> list[Curve]:
    """As the model was trained: from its number of views down to none, where something else is shown beside them."""
    trained = cad.model.settings.model.image_views
    counts = [trained, *(n for n in VIEWS if n < trained)]
    levels = [Level(f"{n}", float(n), Case(f"{shows}/views {n}", shows, ids, views=n)) for n in counts]
    rest = "+".join(part for part in shows.split("+") if part != "image")
    if rest:
        levels.append(Level("0", 0.0, Case(f"{shows}/views 0", rest, ids)))
    return [Curve("views", "Views that are shown", shows, tuple(levels))] if len(levels) > 1 else []


def _of_modalities(dataset: DataSet, ids: Sequence[str], have: set[str], most: int) -> list[Curve]:
    """Everything the model knows, and every part of it, on ids that have all."""
    names = sorted((name for name in SHOWN if set(name.split("+")) <= have), key=lambda name: -name.count("+"))
    richest = names[0]
    found, _ = shown_by(dataset, ids, richest, most)
    if len(names) < 2 or not found:
        return []
    levels = tuple(Level(name, None, Case(f"modalities/{name}", name, found)) for name in names)
    return [Curve("modalities", "Modalities that are shown", richest, levels)]


def cases_of(curves: Sequence[Curve]) -> list[Case]:
    """Every case once."""
    found: dict[str, Case] = {}
    for curve in curves:
        for case in (*((curve.reference,) if curve.reference else ()), *(level.case for level in curve.levels)):
            found.setdefault(case.name, case)
    return list(found.values())


def evaluate(settings: Settings, console: Console) -> dict[str, Any]:
    """Measure every level and write `robustness.json`, `.csv`, `.md` and `.png` into `eval.out`.

    Args:
        settings: as for `run.evaluate_checkpoint`; `eval.modalities` names what point and view curves show ('all':
            text+point_cloud and text+image).
        console: progress, and what deserves to be said.

    Returns:
        The report, as in `robustness.json`.

    Raises:
        CadmllmError: as `run.evaluate_checkpoint`.
    """
    from cadmllm.infer.api import load

    combinations_of(settings.eval.modalities)
    dataset = open_dataset(settings.data, console=console, workers=settings.kernel.workers)
    side = choose_side(dataset, settings.eval)
    notes = list(side.notes)
    with load(settings=settings, console=console) as cad:
        curves = plan_curves(dataset, side.ids, cad, settings, notes)
        for note in notes:
            console.note(note)
        cases = cases_of(curves)
        identity = identity_of(cad, dataset, side, cases, settings)
        ran = Evaluation(sources_of(cad, dataset, side), identity, notes, LeftOut())
        with Ledger(settings.eval.out, identity, STEM, "cadmllm eval robustness") as ledger:
            fill(ledger, cad, dataset, cases, settings, ran, console)
            rows, floor = settle(ledger.rows(), ran)
            return _finish(ledger, rows, floor, curves, settings, ran)


def _finish(
    ledger: Ledger,
    rows: Sequence[Mapping[str, Any]],
    floor: Sequence[Mapping[str, Any]],
    curves: Sequence[Curve],
    settings: Settings,
    ran: Evaluation,
) -> dict[str, Any]:
    from cadmllm.evaluate.curves import draw_curves

    draws = Bootstrap(settings.eval.bootstrap, settings.eval.seed)
    by: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by.setdefault(str(row["combination"]), []).append(row)
    groups = {name: group(part, draws) for name, part in by.items()}
    report: dict[str, Any] = {
        "evaluation": ran.identity,
        "sources": ran.sources,
        "settings": {**ran.identity["settings"], "eval": settings.eval.model_dump(mode="json", exclude={"out"})},
        "versions": versions(),
        "left_out": ran.left.plain(),
        "notes": ran.notes,
        "curves": [_plain(curve, groups) for curve in curves],
        "floor": group(floor, draws),
        "seconds": ran.seconds,
        "files": [*ladder.FILES, ledger.path.name, ledger.beside.name],
    }
    folder = settings.eval.out
    write_json(report, folder / ladder.JSON)
    write_whole(folder / ladder.CSV, ladder.csv_of(report).encode())
    write_whole(folder / ladder.PAGE, ladder.page(report).encode("utf-8", "backslashreplace"))
    write_whole(folder / ladder.PICTURE, draw_curves(report).png())
    return report


def _plain(curve: Curve, groups: Mapping[str, Any]) -> dict[str, Any]:
    """A curve for the report; a level that nobody could be shown is left out."""
    levels = [
        {"label": level.label, "value": level.value, "case": level.case.name, **groups[level.case.name]}
        for level in curve.levels
        if level.case.name in groups
    ]
    reference = groups.get(curve.reference.name) if curve.reference else None
    return {"name": curve.name, "title": curve.title, "shown": curve.shows, "levels": levels, "as_it_is": reference}
