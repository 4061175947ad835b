"""How the quantities of a data set are distributed: read from the index alone, a few megabytes of numbers for 453,000 ids."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from cadmllm.corpus import fit, roster
from cadmllm.corpus.duplicates import Groups, group
from cadmllm.corpus.facts import Kind

if TYPE_CHECKING:
    from cadmllm.corpus.index import Index, Row
    from cadmllm.settings import Settings

T = TypeVar("T")
Scale = Literal["whole", "share", "log"]
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)  # values of train.max_seq_length that the table tells of
R10 = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)  # ISO 3 preferred numbers: ten steps a decade
BARS = 24  # of whole numbers; what is larger shares one bar
PACE = 1000  # rows between two signs of progress
EXAMPLES = 5  # groups of duplicates that are named, and ids of each
OPERATIONS = ("new_body", "join", "cut", "intersect")
EXTENTS = ("one_side", "symmetric", "two_sides")
CURVES = ("line", "arc", "circle")


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts [K] between edges [K + 1]: a bar holds edge <= value < next edge; the last one holds its upper edge, too.

    Attributes:
        open_ended: whether the last bar gathers all that is larger (its upper edge is the largest value).
    """

    edges: list[float]
    counts: list[int]
    open_ended: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """The usual figures of a distribution; p5 and p95 are its 5 % and 95 % quantiles."""

    count: int
    min: float
    p5: float
    median: float
    mean: float
    p95: float
    max: float


@dataclass(slots=True)
class Measure:
    """One quantity and its values.

    Attributes:
        name: stable, a key of the JSON form.
        title, unit: as a person reads them.
        scale: 'whole' numbers (a bar each), 'share' (0..1), 'log' (bars of equal ratio).
        of: what has one value each: 'program', 'caption', 'id', 'cloud'.
    """

    name: str
    title: str
    unit: str
    scale: Scale
    of: str
    values: array = field(default_factory=lambda: array("d"))

    def numbers(self) -> np.ndarray:
        """The values, float64 [N]."""
        return np.frombuffer(self.values, np.float64) if self.values else np.zeros(0)


@dataclass(slots=True)
class Category:
    """How often each kind of something occurs, and in how many programs."""

    name: str
    title: str
    total: Counter[str]
    programs: Counter[str] = field(default_factory=Counter)

    def add(self, counts: dict[str, int]) -> None:
        """Of one program."""
        for kind, number in counts.items():
            if number:
                self.total[kind] += number
                self.programs[kind] += 1


@dataclass(slots=True)
class Stats:
    """Everything that `data stats` tells.

    Attributes:
        counts: ids with a usable caption ('captions'), 'programs', 'usable_programs', 'trainable' (both), 'clouds', 'views'; and
            of the latter how many were 'examined_clouds', 'examined_views'.
        measures, categories: by name.
        fits: rows of (max_seq_length, stage, longest target, targets that fit, their share).
        exact, near: groups of the same token sequence, and of near-duplicates (`duplicates.signatures`).
    """

    counts: dict[str, int]
    measures: dict[str, Measure]
    categories: dict[str, Category]
    fits: list[tuple[int, int, int, int, float]]
    exact: Groups
    near: Groups

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, names stable."""
        measures = {}
        for name, measure in self.measures.items():
            numbers = measure.numbers()
            shape = {"title": measure.title, "unit": measure.unit, "of": measure.of}
            measures[name] = {**shape, **_fields(summary(numbers)), "histogram": _fields(histogram(numbers, measure.scale))}
        categories = {
            name: {kind: {"count": n, "programs": c.programs[kind]} for kind, n in c.total.items()}
            for name, c in self.categories.items()
        }
        keys = ("max_seq_length", "stage", "longest_target", "targets", "share")
        return {
            "counts": self.counts,
            "measures": measures,
            "categories": categories,
            "fit": [dict(zip(keys, row, strict=True)) for row in self.fits],
            "duplicates": {"exact": doubles(self.exact), "near": doubles(self.near)},
        }


def _fields(value: Histogram | Summary | None) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).__slots__} if value is not None else {"count": 0}


def summary(values: np.ndarray) -> Summary | None:
    """The figures of values [N]; None when there are none."""
    if not len(values):
        return None
    p5, median, p95 = (float(q) for q in np.quantile(values, (0.05, 0.5, 0.95)))
    return Summary(len(values), float(values.min()), p5, median, float(values.mean()), p95, float(values.max()))


def histogram(values: np.ndarray, scale: Scale) -> Histogram | None:
    """Bars for values [N]; None when there are none.

    Args:
        values: whole numbers for 'whole', 0..1 for 'share', >= 0 for 'log' (what is 0 or below its first bar counts in it).
        scale: see `Measure`.
    """
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    open_ended = False
    if scale == "share":
        edges = np.linspace(0.0, 1.0, 21)
    elif scale == "whole":
        first, last = math.floor(low), math.floor(high)
        open_ended = last - first > BARS
        edges = np.arange(first, (first + BARS if open_ended else last + 1) + 1, dtype=np.float64)
        if open_ended:
            edges = np.append(edges, high)
    else:
        edges = np.array(preferred(low if low > 0.0 else float(values[values > 0.0].min(initial=high)), high))
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return Histogram(edges.tolist(), counts.tolist(), open_ended)


def preferred(low: float, high: float) -> list[float]:
    """Preferred numbers (ISO 3, R10) from the last one <= low to the first one > high; at least two.

    Args:
        low, high: 0 <= low <= high; numbers below 1e-9 count as 1e-9.
    """
    low, high = max(low, 1e-9), max(high, 1e-9)
    found = []
    decade = math.floor(math.log10(low)) - 1
    while not found or found[-1] <= high:
        for step in R10:
            value = float(f"{step}e{decade}")
            if value <= low:
                found = [value]
            elif found[-1] <= high:
                found.append(value)
        decade += 1
    return found


def doubles(groups: Groups) -> dict[str, Any]:
    """How many groups of two or more, the ids in them, how many would go if one of each stayed, and the largest groups."""
    sizes = groups.sizes
    many = sizes[sizes > 1]
    largest = [{"size": len(ids), "ids": ids[:EXAMPLES]} for ids in groups.members()[:EXAMPLES]]
    return {"groups": len(many), "ids": int(many.sum()), "surplus": int((many - 1).sum()), "largest": largest}


def _measures() -> dict[str, Measure]:
    rows: tuple[tuple[str, str, str, Scale, str], ...] = (
        ("tokens", "Length of the target", "tokens", "log", "program"),
        ("extrudes", "Extrudes", "a program", "whole", "program"),
        ("profiles", "Profiles", "a program", "whole", "program"),
        ("loops", "Loops", "a program", "whole", "program"),
        ("curves", "Curves", "a program", "log", "program"),
        ("size", "Longest side", "mm", "log", "program"),
        ("flatness", "Shortest over longest side", "0 flat, 1 cube", "share", "program"),
        ("captions", "Captions", "an id", "whole", "id"),
        ("caption_words", "Length of a caption", "words", "log", "caption"),
        ("caption_characters", "Length of a caption", "characters", "log", "caption"),
        ("points", "Points", "a cloud", "log", "cloud"),
        ("views", "Views", "an id", "whole", "id"),
    )
    return {row[0]: Measure(*row) for row in rows}


def _categories() -> dict[str, Category]:
    rows = (("operations", "Operations", OPERATIONS), ("extents", "Extents", EXTENTS), ("curves", "Curves by type", CURVES))
    return {name: Category(name, title, Counter(dict.fromkeys(kinds, 0))) for name, title, kinds in rows}


def gather(index: Index, settings: Settings, advance: Callable[[int], None] = lambda number: None) -> Stats:
    """Read the index once; no file of the data set is opened.

    Args:
        index: from `scan.open_index`.
        settings: sizes of features, the stages' shares of modalities.
        advance: called with how many rows more were read, `rows_of` in all.
    """
    measures, categories = _measures(), _categories()
    digests = array("Q")
    near = group(_programs(_told(index.rows(Kind.PROGRAM), advance), measures, categories, digests))
    exact = group((id_, (f"{digest:016x}",)) for id_, digest in zip(near.ids, digests, strict=True))
    for _, texts in _told(index.all_captions(), advance):
        measures["captions"].values.append(len(texts))
        for text in texts:
            measures["caption_words"].values.append(len(text.split()))
            measures["caption_characters"].values.append(len(text))
    examined = {
        "examined_clouds": _clouds(_told(index.rows(Kind.CLOUD), advance), measures),
        "examined_views": _views(_told(index.rows(Kind.VIEWS), advance), measures),
    }
    kinds = {"captions": Kind.CAPTIONS, "programs": Kind.PROGRAM, "clouds": Kind.CLOUD, "views": Kind.VIEWS}
    counts = {name: index.count(kind) for name, kind in kinds.items()} | {"usable_programs": len(digests)} | examined
    counts["trainable"] = int((roster.read(index).lengths > 0).sum())
    return Stats(counts, measures, categories, fits(measures["tokens"].numbers(), settings), exact, near)


def rows_of(index: Index) -> int:
    """How many rows `gather` reads."""
    return sum(index.count(kind) for kind in (Kind.CAPTIONS, Kind.PROGRAM, Kind.CLOUD, Kind.VIEWS))


def _told(items: Iterable[T], advance: Callable[[int], None]) -> Iterator[T]:
    """The items, and now and then how many more they were."""
    number = 0
    for number, item in enumerate(items, 1):
        yield item
        if number % PACE == 0:
            advance(PACE)
    advance(number % PACE)


def _programs(
    rows: Iterable[Row], measures: dict[str, Measure], categories: dict[str, Category], digests: array
) -> Iterator[tuple[str, Sequence[str]]]:
    """(id, signatures) of every usable program; its figures are added on the way."""
    names = {"tokens": "length", "extrudes": "extrudes", "profiles": "sketches", "loops": "loops"}
    for row in rows:
        values = row.values
        if row.code is not None or not values:
            continue
        for name, key in names.items():
            measures[name].values.append(values[key])
        measures["curves"].values.append(sum(values["curves"].values()))
        longest = max(values["size"])
        measures["size"].values.append(longest)
        measures["flatness"].values.append(min(values["size"]) / longest if longest > 0.0 else 0.0)
        for name, category in categories.items():
            category.add(values[name])
        digests.append(int(values["digest"], 16))
        yield row.id, values["near"]


def _clouds(rows: Iterable[Row], measures: dict[str, Measure]) -> int:
    """Add the points of every cloud that was examined and can be used; how many those are."""
    found = [row.values["points"] for row in rows if row.code is None and "points" in row.values]
    measures["points"].values.extend(found)
    return len(found)


def _views(rows: Iterable[Row], measures: dict[str, Measure]) -> int:
    """Add the views of every id; how many ids' views were examined."""
    examined = 0
    for row in rows:
        measures["views"].values.append(row.place.count("|") + 1)
        examined += bool(row.values)
    return examined


def fits(tokens: np.ndarray, settings: Settings, lengths: Iterable[int] = LENGTHS) -> list[tuple[int, int, int, int, float]]:
    """Which targets fit: (max_seq_length, stage, tokens a target may have, targets that fit, their share) of each.

    Args:
        tokens: lengths of the targets [N].
        settings: the features of a stage take room, as in training (`fit`).
        lengths: values of `train.max_seq_length`.
    """
    ordered = np.sort(tokens)
    rows = []
    for length in lengths:
        for stage in (1, 2, 3):
            taken = fit.feature_tokens(settings, settings.stages[stage].reached) + fit.FRAME
            longest = max(0, length - taken)
            number = int(np.searchsorted(ordered, longest, side="right"))
            rows.append((length, stage, longest, number, number / len(ordered) if len(ordered) else 0.0))
    return rows
