"""Which prediction belongs to which truth: by name, in two folders of anyone's files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cadmllm.cad.convert import kind_of
from cadmllm.errors import CadmllmError

# the first that is there is read: a program tells most, STEP is exact; .txt comes last, as captions end in it, too
PREFERRED = ("json", "h5", "step", "stl", "ply", "obj", "glb", "off", "3mf", "gltf", "txt")
RECORD = "record.json"  # `cadmllm infer` writes a folder an answer, with this beside `program.json` and `model.step`
OWN = ("program", "model")
INSIDE = ("json", "step", "vec")  # folders of a data set in which truths lie
NAMED = 5  # names that a note tells


@dataclass(frozen=True, slots=True)
class Pair:
    """A truth and the prediction of the same name, None where there is none."""

    id: str
    prediction: Path | None
    truth: Path


@dataclass(frozen=True, slots=True)
class Pairing:
    """The pairs of two folders.

    Attributes:
        pairs: one a truth, sorted by id.
        missing: ids of truths without a prediction: they count as answers that are no solid.
        surplus: ids of predictions without a truth: they are not looked at.
        notes: what deserves to be said of all this.
    """

    pairs: list[Pair]
    missing: list[str]
    surplus: list[str]
    notes: list[str]


def pairs(predictions: Path, truth: Path) -> list[Pair]:
    """The pairs of `pairing` alone."""
    return pairing(predictions, truth).pairs


def pairing(predictions: Path, truth: Path) -> Pairing:
    """Match two folders by path, or two files with each other.

    Files are looked for at any depth and belong together when their paths within the two folders are the same but for the
    ending. A folder that `cadmllm infer` wrote stands for its answer. Where no path fits, names alone are compared, if each is
    there once. Of several files of one name the first kind of `PREFERRED` is taken.

    Raises:
        CadmllmError: E711 when nothing belongs together, E201 for a path that is not there.
    """
    predictions, truth = Path(predictions), Path(truth)
    for path in (predictions, truth):
        if not path.exists():
            raise CadmllmError("E201", f"{path} is not there", "check the path: cadmllm eval --predictions DIR --truth DIR")
    if predictions.is_file() != truth.is_file():
        raise _apart(f"{predictions} and {truth}: one is a file, the other a folder", "name two folders, or two files")
    if predictions.is_file():
        return Pairing([Pair(truth.stem, predictions, truth)], [], [], [])
    notes: list[str] = []
    found, true = _files(predictions, notes), _files(truth, notes)
    for folder, files in ((predictions, found), (truth, true)):
        if not files:
            raise _apart(f"no file in {folder} is a shape", f"give {' '.join('.' + kind for kind in PREFERRED)} files")
    if not found.keys() & true.keys():
        found = _by_name(predictions, truth, found, true, notes)
    missing, surplus = sorted(true.keys() - found.keys()), sorted(found.keys() - true.keys())
    if missing:
        notes.append(f"{len(missing)} of {len(true)} truths have no prediction and count as no solid: {_some(missing)}")
    if surplus:
        notes.append(f"{len(surplus)} predictions have no truth and are left out: {_some(surplus)}")
    return Pairing([Pair(id_, found.get(id_), true[id_]) for id_ in sorted(true)], missing, surplus, notes)


def _files(folder: Path, notes: list[str]) -> dict[str, Path]:
    """The preferred file of each id."""
    kinds: dict[str, dict[str, Path]] = {}
    for path in _walk(folder):
        kind = kind_of(path)
        if kind in PREFERRED and path.name != RECORD:
            kinds.setdefault(_id_of(path, folder), {}).setdefault(kind, path)
    several = [id_ for id_, files in kinds.items() if len(files) > 1]
    if several:
        which = sorted({min(kinds[id_], key=PREFERRED.index) for id_ in several}, key=PREFERRED.index)
        notes.append(
            f"{folder}: {len(several)} ids have files of several kinds; read is .{' or .'.join(which)} (the first of"
            f" {' '.join('.' + kind for kind in PREFERRED)})"
        )
    return {id_: files[min(files, key=PREFERRED.index)] for id_, files in kinds.items()}


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below, but for hidden ones and those in hidden folders; sorted, links to folders are not followed."""
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(base, name) for name in sorted(names) if not name.startswith("."))


def _id_of(path: Path, folder: Path) -> str:
    if path.stem in OWN and path.parent != folder and (path.parent / RECORD).is_file():
        return path.parent.relative_to(folder).as_posix()
    return path.relative_to(folder).with_suffix("").as_posix()


def _by_name(predictions: Path, truth: Path, found: dict[str, Path], true: dict[str, Path], notes: list[str]) -> dict[str, Path]:
    """The predictions under the ids of the truths that have the same name in another folder."""
    names: dict[str, list[str]] = {}
    for id_ in true:
        names.setdefault(id_.rpartition("/")[2], []).append(id_)
    ours: dict[str, list[str]] = {}
    for id_ in found:
        ours.setdefault(id_.rpartition("/")[2], []).append(id_)
    common = names.keys() & ours.keys()
    double = sorted(name for name in common if len(names[name]) > 1 or len(ours[name]) > 1)
    if not common or double:
        why = f"; the name {double[0]} is there more than once" if double else ""
        examples = f"say {_some(sorted(found)[:1])} and {_some(sorted(true)[:1])}"
        message = f"no file in {predictions} has the name of one in {truth} ({examples}){why}"
        below = next((name for name in INSIDE if any(id_.startswith(f"{name}/") for id_ in true)), None)
        remedy = (
            f"name the folder that truths lie in, {truth / below}" if below else "give files the same names but for the ending"
        )
        raise _apart(message, remedy)
    notes.append(f"the folders are laid out differently: {len(common)} files were matched by their names alone")
    return {names[name][0] if name in common else id_: found[id_] for name, ids in ours.items() for id_ in ids}


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _apart(message: str, remedy: str) -> CadmllmError:
    return CadmllmError("E711", message, f"{remedy}: cadmllm eval --predictions DIR --truth DIR")
