"""A data set in the Omni-CAD layout, any subset of modalities at any degree of completeness.

    ROOT/json/0000/ID.json   ROOT/txt/0000.json   ROOT/img/0000/ID_000.png   ROOT/pcd/0000/ID.npz (or ROOT/pointcloud/...)

Every folder is listed once with `os.scandir`, no file is touched before it is wanted. What cannot be used is left out and
said in `DataSet.problems`; what is merely absent (a caption without a program, a part without views) is no problem.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.corpus import order
from cadmllm.corpus.captionfiles import IdList, read_captions, read_ids, unsafe
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    import numpy as np

    from cadmllm.cad.program import Program
    from cadmllm.corpus.types import Cloud
    from cadmllm.settings import DataSettings

POINT_FOLDERS = ("pcd", "pointcloud")  # both names are in use; where both exist, the first wins
POINT_FORMATS = (".npz", ".npy", ".ply")  # where an id has several, the first wins
VAL_LIST = "val.txt"  # held-out ids that a data set brings along
IMAGE_FORMATS = ("png", "jpg", "jpeg")
_VIEW = re.compile(rf"(.+)_(\d{{1,3}})\.({'|'.join(IMAGE_FORMATS)})$", re.IGNORECASE)

Views = tuple[tuple[int, str], ...]  # (view number, the file name's end) in order


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was found and left out: a code of `errors.CODES`, the id or file, what is wrong."""

    code: str
    where: str
    message: str


class Scanner:
    """Lists data folders, each once; what is unsafe is left out and noted in `problems`."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems

    def files(self, folder: Path) -> Iterator[tuple[str, str]]:
        """('0000/', 'ID.json') of every file one shard deep, ('', 'ID.json') of files beside the shards.

        Raises:
            CadmllmError: E401 when a folder cannot be read.
        """
        for entry in self._entries(folder, folder):
            if entry.is_dir():
                yield from ((f"{entry.name}/", inner.name) for inner in self._entries(Path(entry.path), folder))
            else:
                yield "", entry.name

    def programs(self, folder: Path) -> set[str]:
        """Ids of the .json files in a folder of programs."""
        return {shard + name[:-5] for shard, name in self.files(folder) if name.endswith(".json")}

    def _entries(self, folder: Path, root: Path) -> Iterator[os.DirEntry[str]]:
        """Entries of a folder; links that leave `root` and names that are no ids are noted and left out."""
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    reason = unsafe(entry.name)
                    if not reason and entry.is_symlink() and not _inside(Path(entry.path), root):
                        reason = "a link that leaves the data set"
                    if reason:
                        self.problems.append(Problem("E403", entry.path, f"{entry.path}: {reason}"))
                    else:
                        yield entry
        except OSError as error:
            remedy = "check the path and its permissions"
            raise CadmllmError("E401", f"{folder} cannot be read: {error.strerror}", remedy) from error


class DataSet:
    """Samples by id. Made by `open_dataset`.

    Attributes:
        ids: sorted; those with a caption and a program.
        problems: what was left out or could not be read so far.
        counts: how many captions, programs, clouds and view sets were found.
    """

    def __init__(self, data: DataSettings) -> None:
        self.data = data
        self.problems: list[Problem] = []
        self._split: tuple[list[str], list[str]] | None = None
        self._json, self._img, self._points = _folders(data)
        self._captions, notes = read_captions(data.txt or data.root / "txt")
        self.problems += [Problem(*note) for note in notes]
        self._scanner = Scanner(self.problems)
        self._programs = self._scanner.programs(self._json)
        self._views = self._list_views()
        self._clouds = self._list_clouds()
        self.ids = sorted(self._captions.keys() & self._programs)
        self.counts = {
            "captions": len(self._captions),
            "programs": len(self._programs),
            "clouds": len(self._clouds),
            "views": len(self._views),
        }
        if not self.ids:
            raise CadmllmError(
                "E401",
                f"{data.root}: no id has both a caption ({len(self._captions)} found) and a program ({len(self._programs)})",
                "the ids of txt/*.json must name files of json/: compare them, or " + _remedy(data.root),
            )

    def __len__(self) -> int:
        return len(self.ids)

    def modalities(self, id_: str) -> frozenset[str]:
        """Of 'text', 'point_cloud', 'image': what the id has on disk."""
        have = ["text"]
        if id_ in self._clouds:
            have.append("point_cloud")
        if id_ in self._views:
            have.append("image")
        return frozenset(have)

    def captions(self, id_: str) -> tuple[str, ...]:
        """Every caption of the id, in the order of its file; the main one first."""
        return self._captions[id_]

    def caption(self, id_: str, pick: int = 0) -> str:
        """One caption: any integer `pick` chooses among those there are; 0 is the main one."""
        texts = self._captions[id_]
        return texts[pick % len(texts)]

    def program_path(self, id_: str) -> Path:
        """The id's JSON file."""
        return self._json / f"{id_}.json"

    def program(self, id_: str) -> Program:
        """The program, mm.

        Raises:
            CadmllmError: E2xx, naming the file.
        """
        from cadmllm.cad import omnicad

        return omnicad.read_json(self.program_path(id_))

    def cloud(self, id_: str, count: int, seed: int) -> Cloud:
        """`count` points of the id's cloud, drawn by `seed`.

        Raises:
            CadmllmError: E404 when there is none or it is unreadable.
        """
        from cadmllm.corpus import points

        found = self._clouds.get(id_)
        if found is None:
            raise CadmllmError("E404", f"{id_} has no point file", f"cadmllm data prepare {self.data.root} --out DIR --points")
        folder, suffix = found
        return points.load_cloud(self._points[folder] / f"{id_}{suffix}", count, seed)

    def view_count(self, id_: str) -> int:
        """Number of views the id has."""
        return len(self._views.get(id_, ()))

    def view(self, id_: str, k: int) -> np.ndarray:
        """The k-th of the id's views (0 <= k < view_count), RGB uint8 [H, W, 3].

        Raises:
            CadmllmError: E405 when there is none or it is unreadable.
        """
        from cadmllm.corpus.pixels import load_rgb

        views = self._views.get(id_, ())
        if self._img is None or not 0 <= k < len(views):
            raise CadmllmError(
                "E405", f"{id_} has {len(views)} views, no number {k}", f"cadmllm data prepare {self.data.root} --out DIR --views"
            )
        return load_rgb(self._img / f"{id_}{views[k][1]}")

    def note(self, error: CadmllmError, where: str) -> None:
        """Record that something could not be read and was left out."""
        self.problems.append(Problem(error.code, where, error.message))

    def split(self) -> tuple[list[str], list[str]]:
        """(training ids, held-out ids), both sorted, without overlap.

        `data.val` and `data.train` are lists of ids or caption files. Without `data.val` and without a `val.txt` beside the
        root's captions, a fixed share of the ids is held out by a hash of the id, so an id never changes sides when the data
        set grows. An id on both lists is held out.

        Raises:
            CadmllmError: E407 when a list is unreadable or none of its ids is in the data set.
        """
        if self._split is None:
            train, val = self._divide(set(self.ids))
            self._split = sorted(train - val), sorted(val)
        return list(self._split[0]), list(self._split[1])

    def _divide(self, known: set[str]) -> tuple[set[str], set[str]]:
        """(chosen for training, held out): the first may still hold ids of the second."""
        chosen = self._listed(self.data.train, known) if self.data.train else known
        held_out = self.data.val or self.data.root / VAL_LIST
        # captions that come from elsewhere are another data set: the root's list is not theirs
        if self.data.val is None and (self.data.txt is not None or not held_out.is_file()):
            val = {id_ for id_ in chosen if order.fraction(id_) < self.data.val_share}
        else:
            val = self._listed(held_out, known)
            both = len(chosen & val) if self.data.train else 0
            if both:
                message = f"{both} ids are on both lists: they are held out, not trained on"
                self.problems.append(Problem("E407", str(self.data.train), message))
        return chosen, val

    def _listed(self, path: Path, known: set[str]) -> set[str]:
        wanted: IdList = read_ids(path)
        self.problems += [Problem(*note) for note in wanted.notes]
        found = wanted.ids & known
        if not found:
            raise CadmllmError(
                "E407",
                f"{path}: none of its {len(wanted.ids)} ids has a caption and a program in {self.data.root}",
                "give a list of ids such as '0000/00000071_00005', an id a line, or a caption file",
            )
        if missing := sorted(wanted.ids - known):
            message = f"{path}: {len(missing)} of {len(wanted.ids)} ids are not in the data set, the first is {missing[0]}"
            self.problems.append(Problem("E407", str(path), message))
        return found

    def _list_views(self) -> dict[str, Views]:
        if self._img is None:
            return {}
        found: dict[str, list[tuple[int, str]]] = {}
        for shard, name in self._scanner.files(self._img):
            match = _VIEW.match(name)
            if match:
                found.setdefault(shard + match[1], []).append((int(match[2]), name[len(match[1]) :]))
        shared: dict[Views, Views] = {}  # most ids have the same eight ends: one tuple serves them all
        out: dict[str, Views] = {}
        for id_, views in found.items():
            numbered = tuple(sorted(views))
            out[id_] = shared.setdefault(numbered, numbered)
        return out

    def _list_clouds(self) -> dict[str, tuple[int, str]]:
        found: dict[str, tuple[int, str]] = {}
        for index, folder in enumerate(self._points):
            for shard, name in self._scanner.files(folder):
                stem, suffix = os.path.splitext(name)
                if suffix not in POINT_FORMATS:
                    continue
                rank = (index, POINT_FORMATS.index(suffix))
                old = found.get(shard + stem)
                if old is None or rank < (old[0], POINT_FORMATS.index(old[1])):
                    found[shard + stem] = (index, suffix)
        return found


def open_dataset(data: DataSettings) -> DataSet:
    """Open the data set that the settings name.

    Args:
        data: `settings.data`.

    Raises:
        CadmllmError: E401 (folder missing, nothing in it), E402 (a caption file is not a list).
    """
    return DataSet(data)


def programs_of(root: Path, every: bool = False) -> tuple[list[tuple[str, Callable[[], Program]]], list[Problem]]:
    """(id, reader) of the programs under a root, sorted by id, and what was left out.

    Args:
        root: folder with json/, and txt/ if there are captions.
        every: those without a caption, too. Without a txt/ folder all are taken anyway.

    Raises:
        CadmllmError: E401 when there is no json/ or it is empty, E402 for a broken caption file.
    """
    from cadmllm.cad import omnicad

    folder = root / "json"
    if not folder.is_dir():
        raise CadmllmError("E401", f"{root} has no json/ folder", "give the root of a data set in the Omni-CAD layout")
    problems: list[Problem] = []
    ids = Scanner(problems).programs(folder)
    if not every and (root / "txt").exists():
        captions, notes = read_captions(root / "txt")
        problems += [Problem(*note) for note in notes]
        ids &= captions.keys()
    if not ids:
        raise CadmllmError("E401", f"{folder} holds no program that is wanted", "give --all to take those without a caption, too")
    return [(id_, functools.partial(omnicad.read_json, folder / f"{id_}.json")) for id_ in sorted(ids)], problems


def _folders(data: DataSettings) -> tuple[Path, Path | None, list[Path]]:
    """(json, img or None, point folders), each checked for being there."""
    given = {"txt": data.txt, "json": data.json_, "img": data.img, "points": data.points}
    if not data.root.is_dir() and not (data.txt and data.json_):
        raise CadmllmError("E401", f"the data set folder {data.root} does not exist", _remedy(data.root))
    for name, path in given.items():
        if path is not None and not path.exists():
            raise CadmllmError("E401", f"data.{name}: {path} does not exist", f"correct it: --set data.{name}=FOLDER")
    for name in ("txt", "json"):
        if given[name] is None and not (data.root / name).is_dir():
            raise CadmllmError("E401", f"{data.root} has no {name}/ folder", _remedy(data.root, name))
    img = data.img or data.root / "img"
    points = [data.points] if data.points else [data.root / name for name in POINT_FOLDERS]
    return data.json_ or data.root / "json", img if img.is_dir() else None, [p for p in points if p.is_dir()]


def _remedy(root: Path, lacking: str = "") -> str:
    make = f"make one: cadmllm data synth --count 500 --seed 0 --out {root} --points --views"
    point = f"point to it: --set data.{lacking or 'root'}=FOLDER"
    return f"{point}; or {make}"


def _inside(path: Path, root: Path) -> bool:
    """Whether a link's target lies inside the folder it was found in (broken links do not)."""
    try:
        return path.resolve(strict=True).is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False
