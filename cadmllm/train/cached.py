"""Training from cached features: are they those of this encoder, this preprocessing and these files?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cadmllm.corpus.features import FeatureStore, Part, digest_of, stamp_of
from cadmllm.corpus.roster import Ids
from cadmllm.corpus.shards import Recipe
from cadmllm.corpus.sources import MODALITY, Source, inputs_of, sources_of
from cadmllm.errors import CadmllmError
from cadmllm.models.frozen import encoder_name, feature_tokens, files_hash, refuse_trained, why_trained
from cadmllm.plan.parts import MICHELANGELO_TOKENS

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.layout import DataSet
    from cadmllm.settings import Settings
    from cadmllm.train.curriculum import Stage

COMPARED = 20_000  # ids whose source files are looked at before a run (about 2 s); `data encode` looks at all
HASHED = 500  # files that were touched since: so many are read to see whether they changed
STAGES = {"points": 2, "images": 3}  # from which on the model has the branch
NAMES = {"points": "clouds", "images": "views"}


@dataclass(frozen=True, slots=True)
class Cached:
    """Features that a run uses.

    Attributes:
        store: where samples read them.
        shapes: (features of a cloud or a view, width of one) by branch, for `build_model`.
        recipes: by branch.
        draws: fixed draws of points that an id shows.
    """

    store: FeatureStore
    shapes: dict[str, tuple[int, int]]
    recipes: dict[str, Recipe]
    draws: int

    def mark(self, stage: int) -> dict[str, object]:
        """What of it changes the numbers of a stage, flat, for `sameness.fingerprint`."""
        found: dict[str, object] = {}
        for part, recipe in sorted(self.recipes.items()):
            if STAGES[part] <= stage:
                found[f"features.{part}"] = recipe.key
                found |= {"data.draws": self.draws} if recipe.draws else {}
        return found

    def as_dict(self) -> dict[str, dict[str, object]]:
        """For a checkpoint's metadata."""
        return {
            part: {"folder": str(self.store.folder), "recipe": recipe.key, "dtype": recipe.dtype, "weights": recipe.weights}
            for part, recipe in sorted(self.recipes.items())
        }


def weights_of(settings: Settings, part: str) -> tuple[str, int]:
    """The hash of the encoder's weights and the width of its features; the encoder is loaded for that.

    Raises:
        CadmllmError: E502.
    """
    from cadmllm.models.features import FrozenEncoder

    encoder = FrozenEncoder(settings, part)
    return encoder.weights, encoder.width


@dataclass(frozen=True, slots=True)
class Means:
    """How it is found out whether features are those of an encoder and of files.

    Attributes:
        files: (settings, part) -> hash of the encoder's files, '' where they are not on this machine.
        weights: (settings, part) -> hash of its weights and its width; asked where the files are others than those it was.
        compared: ids whose source files are looked at.
        hashed: files that were touched since: so many are read to see whether they changed.
    """

    files: Callable[[Settings, str], str] = files_hash
    weights: Callable[[Settings, str], tuple[str, int]] = weights_of
    compared: int = COMPARED
    hashed: int = HASHED


TRAINING = Means()


def open_features(
    settings: Settings, stages: Sequence[Stage], dataset: DataSet, console: Console, means: Means = TRAINING
) -> Cached | None:
    """The features that `data.features` names, checked for all stages of a run before the first of them; None without.

    Raises:
        CadmllmError: E470 when they are of another encoder, preprocessing or source file; E471 when some are missing or broken;
            E472 when they are of an encoder that is trained.
    """
    latest = max(stage.number for stage in stages)
    if settings.data.features is None or latest < min(STAGES.values()):
        return None
    store = FeatureStore(settings.data.features)
    shapes, recipes = {}, {}
    for name, first in STAGES.items():
        if latest < first:
            continue
        if name not in store.parts:
            if not why_trained(settings, name):
                console.note(f"{store.folder} has no features of {NAMES[name]}: their encoder is loaded and run")
            continue
        part = store.parts[name]
        refuse_trained(settings, name)
        _check_recipe(settings, part, console, means)
        part.check_files()
        _check_ids(part, dataset, console, means)
        shapes[name], recipes[name] = (part.recipe.tokens, part.recipe.width), part.recipe
        console.note(
            f"features of {NAMES[name]}: {part.folder} ({len(part):,} ids, {part.recipe.dtype}); their encoder is not loaded"
        )
    if "points" in recipes and not settings.data.draws:
        console.note(f"data.draws is not set: each cloud is shown in one of the {store.draws} draws that {store.folder} holds")
    return Cached(store, shapes, recipes, settings.data.draws or store.draws) if shapes else None


def differences(found: Recipe, wanted: Recipe) -> list[str]:
    """'what (found, wanted)' of each respect in which two recipes differ; empty where they agree."""
    pairs = [(name, getattr(found, name), getattr(wanted, name)) for name in ("encoder", "tokens", "width", "compute", "dtype")]
    pairs += [(name, found.inputs.get(name), wanted.inputs.get(name)) for name in sorted(found.inputs.keys() | wanted.inputs)]
    if found.weights != wanted.weights:
        pairs.append(("encoder weights", f"{found.weights[:12]} of {found.source}", f"{wanted.weights[:12]} of {wanted.source}"))
    names = {"compute": "computed in", "dtype": "stored in"}
    return [f"{names.get(name, name)} {was} there, {now} wanted" for name, was, now in pairs if was != now]


def _check_recipe(settings: Settings, part: Part, console: Console, means: Means) -> None:
    """What the settings ask for is what is there: the files of the encoder decide, or where they are others, its weights."""
    name, found = part.folder.name, part.recipe
    kind, source = encoder_name(settings, name)
    files = means.files(settings, name)
    # fewer draws than are there are the first of them
    draws = max(found.draws, settings.data.draws)
    inputs = inputs_of(name, settings.model.point_count, draws, settings.model.point_sampling)
    # one that only the encoder could tell is no less than what is asked of it
    tokens = feature_tokens(settings, name, found.tokens) or max(MICHELANGELO_TOKENS, settings.model.point_tokens)

    def wanted(weights: str, width: int) -> Recipe:
        return Recipe(kind, weights, tokens, width, settings.dtype, found.dtype, inputs, files, source)

    said = differences(found, wanted(found.weights, found.width))
    if not said and not files:
        console.note(f"{source} is not on this machine: whether the features are its own was not checked")
    elif not said and files != found.files:
        said = differences(found, wanted(*means.weights(settings, name)))
    if said:
        command = part.command(str(settings.data.root), settings.data.draws)
        raise CadmllmError(
            "E470",
            f"the features in {part.folder} are of another encoder or other settings: {'; '.join(said)}",
            f"make them anew: {command} --overwrite (with this run's options); or train with the settings they were made with",
        )


def _check_ids(part: Part, dataset: DataSet, console: Console, means: Means) -> None:
    """Every id that the run may show has features, and of its files as they are."""
    name = part.folder.name
    ids = Ids(np.concatenate([dataset.having(side, MODALITY[name]).names for side in dataset.split()]))
    places = part.places(ids.names)
    if (places < 0).any():
        missing = Ids(ids.names[places < 0])
        raise CadmllmError(
            "E471",
            f"{part.folder} lacks the features of {len(missing):,} of {len(ids):,} ids, for instance {missing[0]}",
            f"encode what is missing: {part.command(str(dataset.data.root))}",
        )
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), means.compared), dtype=np.int64)) if len(ids) else []
    if len(chosen) < len(ids):
        console.note(f"compared {len(chosen):,} of {len(ids):,} source files with {part.folder} (`data encode` compares all)")
    touched = list(_touched(part, sources_of(dataset, name, [ids[k] for k in chosen])))
    changed = [source for source in touched[: means.hashed] if _digest(source) != part.digest(int(part.find([source.id])[0]))]
    if changed or len(touched) > means.hashed:
        first = (changed or touched)[0]
        count, verb = (len(changed), "changed") if changed else (len(touched), "touched")
        raise CadmllmError(
            "E470",
            f"the features in {part.folder} are of other files: those of {count:,} of {len(chosen):,} ids were {verb} since,"
            f" for instance {first.paths[0]}",
            f"bring them up to date: {part.command(str(dataset.data.root))}",
        )


def _touched(part: Part, sources: Iterator[Source]) -> Iterator[Source]:
    for source in sources:
        try:
            now = stamp_of(source.paths)
        except OSError:
            now = ""
        if now != part.stamp(int(part.find([source.id])[0])):
            yield source


def _digest(source: Source) -> str:
    try:
        return digest_of(source.paths)
    except OSError:
        return ""
