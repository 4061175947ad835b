"""One sample for one place of an epoch: which modalities are shown, which caption, which points, which views."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cadmllm.corpus import order
from cadmllm.corpus.prompt import BARE_REQUEST
from cadmllm.corpus.types import Sample
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    import numpy as np

    from cadmllm.corpus.features import FeatureStore
    from cadmllm.corpus.layout import DataSet
    from cadmllm.corpus.points import Sampling

SEED_SCHEME = 1  # of `fixed_seed`; raise it when the fixed draws change, since features that were encoded are then others
BARE_SHARE = 0.15  # of the samples that show a cloud or an image
DROPPABLE = ("point_cloud", "image")  # in this order in the stream of drops: add at the end


@dataclass(frozen=True, slots=True)
class Draw:
    """What the curriculum asked for and what is shown, both names of `settings.COMBINATIONS`.

    Attributes:
        wanted: what was drawn.
        shown: what of it the sample has, less what was dropped.
        dropped: modalities that the sample has and that modality dropout took away.
    """

    wanted: str
    shown: str
    dropped: tuple[str, ...] = ()

    @property
    def fell_back(self) -> bool:
        """Whether something that was asked for is not there (the training loop reports it); a drop is no such thing."""
        return self.wanted != join_modalities({*self.shown.split("+"), *self.dropped})


def join_modalities(modalities: Iterable[str]) -> str:
    """The combination's name: 'text' first, then 'point_cloud', then 'image'."""
    have = set(modalities)
    return "+".join(name for name in ("text", "point_cloud", "image") if name in have)


def draw_combination(
    probabilities: Mapping[str, float],
    available: frozenset[str],
    *,
    seed: int,
    stage: int,
    epoch: int,
    position: int,
    dropout: float = 0.0,
) -> Draw:
    """Draw the modality combination for place `position` of an epoch.

    A combination that the sample cannot show falls back to the richest part of it that it can: everything of the wanted
    combination that is there. The draw itself does not depend on what is there, so that completing a data set later moves
    no other sample.

    Args:
        probabilities: combination -> share; the shares sum to 1.
        available: the sample's modalities, with 'text'.
        seed, stage, epoch, position: where we are.
        dropout: each modality beside the text that would be shown is dropped with this probability (0 <= p < 1), by numbers
            of its own: what is drawn and every other draw of the place stay as they are without. (Entire modalities, as the
            curriculum document has it; Neverova et al. 2016, "ModDrop", is the source of the idea.)
    """
    names = sorted(name for name, share in probabilities.items() if share > 0.0)
    at = order.uniform(order.DRAW, seed, stage, epoch, position) * sum(probabilities[name] for name in names)
    wanted = names[-1]
    for name in names:
        at -= probabilities[name]
        if at < 0.0:
            wanted = name
            break
    able = available & set(wanted.split("+"))
    key = (seed, stage, epoch, position)
    dropped = tuple(
        name
        for place, name in enumerate(DROPPABLE)
        if dropout > 0.0 and name in able and order.uniform(order.DROP, *key, place) < dropout
    )
    return Draw(wanted, join_modalities({"text"} | (able - set(dropped))), dropped)


def load_sample(
    dataset: DataSet,
    id_: str,
    combination: str,
    *,
    seed: int,
    stage: int,
    epoch: int,
    position: int,
    point_count: int = 4096,
    sampling: Sampling = "uniform",
    views: int = 1,
    draws: int = 0,
    features: FeatureStore | None = None,
) -> Sample:
    """Read the sample as place `position` of an epoch shows it.

    The caption is one of those the id has, the points are drawn anew each time (or are one of `draws` fixed draws), `views`
    different views are chosen. A cloud or a view that cannot be read is noted in `dataset.problems`, the sample goes on
    without that modality, and `Sample.combination` says what is really shown: one bad file does not end a run of days.

    Where a cloud or an image is shown, `BARE_SHARE` of the samples say `BARE_REQUEST` in place of their caption: that is
    what inference says when a person gives a scan and no text.

    Args:
        dataset: from `layout.open_dataset`.
        id_: one of `dataset.ids`.
        combination: what to show (`Draw.shown`).
        seed, stage, epoch, position: what the draws depend on.
        point_count: points of a cloud.
        sampling: which of its points (`points.draw_cloud`).
        views: images shown (fewer where the id has fewer).
        draws: 0: other points at each visit; K: one of K fixed draws of points, chosen anew at each visit.
        features: what it holds (of clouds, of views) is taken from it, the same draws and views as without.

    Raises:
        CadmllmError: E2xx when the program is unreadable or cannot be expressed: there is nothing to learn then.
    """
    key = (seed, stage, epoch, position)
    asked = combination.split("+")
    shown = ["text"]
    shows: dict[str, Any] = {}
    if "point_cloud" in asked:
        try:
            shows |= _cloud(dataset, id_, point_count, sampling, order.whole(order.CLOUD, *key), draws, features)
            shown.append("point_cloud")
        except CadmllmError as error:
            dataset.note(error, id_)
    if "image" in asked and (images := _images(dataset, id_, views, key, features)):
        shows |= images
        shown.append("image")
    caption = dataset.caption(id_, order.whole(order.CAPTION, *key))
    if len(shown) > 1 and order.uniform(order.BARE, *key) < BARE_SHARE:
        caption = BARE_REQUEST
    return Sample(id_, join_modalities(shown), caption, target_of(dataset, id_), **shows)


def fixed_seed(draw: int) -> int:
    """The seed of the points of fixed draw `draw` (from 0), the same for every id, run and stage."""
    return order.whole(order.FIXED, draw)


def _cloud(
    dataset: DataSet, id_: str, count: int, sampling: Sampling, pick: int, draws: int, features: FeatureStore | None
) -> dict[str, Any]:
    if features is not None and "points" in features.parts:
        return {"cloud_features": (features.cloud(id_, pick % (draws or features.draws)),)}
    return {"clouds": (dataset.cloud(id_, count, fixed_seed(pick % draws) if draws else pick, sampling),)}


def _images(
    dataset: DataSet, id_: str, wanted: int, key: tuple[int, ...], features: FeatureStore | None
) -> dict[str, tuple[np.ndarray, ...]]:
    """Those of the views drawn for this place that can be read; {} where none can."""
    cached = features if features is not None and "images" in features.parts else None
    available = dataset.view_count(id_)
    if not available:
        remedy = "make the views: cadmllm data prepare ROOT --views"
        dataset.note(CadmllmError("E405", f"{id_} has no view", remedy), id_)
    found = []
    for k in _choose_views(available, wanted, key):
        try:
            found.append(dataset.view(id_, k) if cached is None else cached.view(id_, k))
        except CadmllmError as error:
            dataset.note(error, id_)
    return {"images" if cached is None else "image_features": tuple(found)} if found else {}


def target_of(dataset: DataSet, id_: str) -> np.ndarray:
    """The CAD vocabulary indices of the id's program, int64 [T], end token included.

    Raises:
        CadmllmError: E2xx, as the program's reader and the codec raise them.
    """
    import numpy as np

    from cadmllm.cad import tokens

    return np.asarray(tokens.encode(dataset.program(id_)).tokens, dtype=np.int64)


def _choose_views(available: int, wanted: int, key: tuple[int, ...]) -> list[int]:
    """`wanted` different view indices, fewer where there are fewer."""
    raw = order.stream(order.VIEWS, *key).random_raw(available)
    return sorted(int(k) for k in raw.argsort(kind="stable")[:wanted])
