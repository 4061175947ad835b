"""Generated parts as a data set on disk, in the Omni-CAD layout (`parts` makes the parts themselves)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from cadmllm.cad import files, omnicad
from cadmllm.corpus.captionfiles import CAPTION
from cadmllm.corpus.duplicates import signatures
from cadmllm.corpus.manifest import make_folder
from cadmllm.corpus.parts import SHARD, VERSION, Part, generate, part_id
from cadmllm.corpus.prepare import POINT_COUNT, Recipe, Report, Told, prepare
from cadmllm.corpus.sides import VAL_LIST
from cadmllm.errors import CadmllmError

__all__ = ["Part", "generate", "write_dataset"]

RECIPE = "recipe.json"  # says how a folder was made; a folder with another recipe, or without one, is left alone
HELD_OUT = 10  # every tenth part is held out (val.txt), unless it nearly repeats one to train on


def write_dataset(
    out: Path,
    count: int,
    seed: int,
    points: bool = False,
    views: bool = False,
    workers: int = 2,
    *,
    point_count: int = POINT_COUNT,
    size: int = 224,
    compact: bool = False,
    timeout: float = 30.0,
    advance: Callable[[int], None] = lambda n: None,
    told: Told = lambda count, report: None,
) -> Report:
    """Write parts 0 .. count-1 of a seed: json/, txt/, val.txt, and pcd/ and img/ when asked for.

    The main caption of an id stands in its entry's 'text caption', as everywhere; 'text caption dimensioned' and
    'text caption short' beside it are ours, and readers that do not know them pass over them. A folder that this function
    made with the same count and seed is completed, not made anew.

    Args:
        out: new or empty folder, or one of ours.
        count, seed: as for `generate`.
        points, views: whether to make clouds and the 8 views.
        workers: processes that build and draw.
        point_count: surface points a cloud.
        size: pixels of a view's side.
        compact: see `derive.Recipe`.
        timeout: seconds a part may take.
        advance: called with the number of programs written.
        told: see `prepare`.

    Raises:
        CadmllmError: E409 when the folder holds something else, E303 when it cannot be written.
    """
    out = Path(out)
    what = Recipe(point_count if points else 0, views, False, size, compact, seed)
    _claim(out, {"generator": VERSION, "count": count, "seed": seed} | _recipe(what))
    _write_parts(out, count, seed, advance)
    if not points and not views:
        return Report(total=count, made=count)
    ids = [part_id(number) for number in range(count)]
    return prepare(ids, out / "json", out, what, workers=workers, timeout=timeout, own=True, told=told)


def _recipe(what: Recipe) -> dict[str, object]:
    """What tells clouds and views of this kind from others."""
    out: dict[str, object] = {}
    if what.points:
        out["points"] = {"count": what.points, "compact": what.compact, "seed": what.seed}
    if what.views:
        out["views"] = {"size": what.size, "compact": what.compact}
    return out


def _write_parts(out: Path, count: int, seed: int, advance: Callable[[int], None]) -> None:
    entries: list[dict[str, str]] = []
    aside = _HeldOut()
    make_folder(out / "txt")
    for number, part in enumerate(generate(count, seed)):
        path = out / "json" / f"{part.id}.json"
        if number % SHARD == 0:
            make_folder(path.parent)
        if not path.exists():
            omnicad.write_json(part.program, path)
        entries.append(_entry(part))
        aside.see(number, part)
        if number % SHARD == SHARD - 1 or number == count - 1:
            _write_text(out / "txt" / f"{part.id.split('/')[0]}.json", json.dumps(entries, ensure_ascii=False, indent=0) + "\n")
            entries = []
        advance(1)
    if held_out := aside.ids():
        _write_text(out / VAL_LIST, "".join(f"{id_}\n" for id_ in held_out))


class _HeldOut:
    """Every tenth part, but for near-duplicates of the others: what is held out must not have been learned by heart."""

    def __init__(self) -> None:
        self._learned: set[int] = set()
        self._tenth: list[tuple[str, list[int]]] = []

    def see(self, number: int, part: Part) -> None:
        marks = [int(mark, 16) for mark in signatures(part.program)]
        if number % HELD_OUT == HELD_OUT - 1:
            self._tenth.append((part.id, marks))
        else:
            self._learned.update(marks)

    def ids(self) -> list[str]:
        return [id_ for id_, marks in self._tenth if self._learned.isdisjoint(marks)]


def _entry(part: Part) -> dict[str, str]:
    main, *others = part.captions
    return {"id": part.id, CAPTION: part.captions[main]} | {f"{CAPTION} {style}": part.captions[style] for style in others}


def _claim(out: Path, recipe: dict[str, object]) -> None:
    """Make `out` ours, or see that it already is; its recipe then names everything that was ever asked for."""
    make_folder(out)
    path = out / RECIPE
    try:
        empty = not any(os.scandir(out))
    except OSError as error:
        raise CadmllmError("E303", f"{out} cannot be read: {error.strerror}", "give another --out") from error
    if not empty:
        before = _recipe_of(path)
        differs = [key for key in recipe if key in before and before[key] != recipe[key]]
        if not before or differs:
            what = f"was made with another {differs[0]} ({before[differs[0]]})" if before else "is not empty"
            raise CadmllmError("E409", f"{out} {what}", "give another --out, or remove that folder first")
        recipe = before | recipe
    _write_text(path, json.dumps(recipe, indent=2, sort_keys=True) + "\n")


def _recipe_of(path: Path) -> dict[str, object]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # no recipe of ours: whatever lies there is someone else's
    return data if isinstance(data, dict) and "generator" in data else {}


def _write_text(path: Path, text: str) -> None:
    files.write_whole(path, text.encode("utf-8"))
