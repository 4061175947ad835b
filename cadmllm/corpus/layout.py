"""A data set in the Omni-CAD layout, any subset of modalities at any degree of completeness.

    ROOT/json/0000/ID.json   ROOT/txt/0000.json   ROOT/img/0000/ID_000.png   ROOT/pcd/0000/ID.npz (or ROOT/pointcloud/...)

What is there is read from the index (`scan`); a sample's files are opened when it is wanted. What cannot be used is left out
and said in `DataSet.problems`; what is merely absent (a caption without a program, a part without views) is no problem.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cadmllm.corpus import roster
from cadmllm.corpus.captionfiles import unsafe
from cadmllm.corpus.examining import view_paths
from cadmllm.corpus.facts import Flaw, Kind
from cadmllm.corpus.folders import Folders, locate
from cadmllm.corpus.index import LISTED
from cadmllm.corpus.roster import Ids
from cadmllm.corpus.scan import open_index
from cadmllm.corpus.sides import sides
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.cad.program import Program
    from cadmllm.console import Console
    from cadmllm.corpus.index import Index
    from cadmllm.corpus.points import Sampling
    from cadmllm.corpus.types import Cloud
    from cadmllm.settings import DataSettings

TOLD = 1000  # flaws of the index that `problems` begins with, at most


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was found and left out: a code of `errors.CODES`, the id or file, what is wrong."""

    code: str
    where: str
    message: str


class DataSet:
    """Samples by id. Made by `open_dataset`.

    Attributes:
        data: the settings.
        folders: where the files lie.
        index: what is known of them.
        ids: sorted; those with a caption and a program.
        problems: what was left out or could not be read so far.
        of_lists: of these, what is wrong with lists of ids; known after `split`.
        counts: how many captions, programs, clouds and view sets were found.
    """

    def __init__(self, data: DataSettings, index: Index) -> None:
        self.data, self.index = data, index
        self.folders: Folders = locate(data)
        self._roster = roster.read(index)
        self.problems = [Problem(flaw.code, flaw.path, flaw.message) for flaw in _worth_saying(index, self._roster.ids)]
        self.of_lists: list[Problem] = []
        self._split: tuple[Ids, Ids, Ids] | None = None
        self.ids: Ids = self._roster.ids
        self.counts = self._roster.counts

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        """SHA-256 of what training sees of the index: every id, the length of its target, what it has. No file is read."""
        found = hashlib.sha256(b"\n".join(self.ids.names.tolist()))
        for column, dtype in ((self._roster.lengths, "<i4"), (self._roster.flags, "u1")):
            found.update(column.astype(dtype).tobytes())
        return found.hexdigest()

    def modalities(self, id_: str) -> frozenset[str]:
        """Of 'text', 'point_cloud', 'image': what the id has on disk.

        What is broken counts: samples are drawn from what is there, whether or not a check has looked into it, so that a run
        shows the same before and after one. What cannot be read is then left out of the sample.
        """
        at = self.ids.place(id_)
        flags = 0 if at is None else int(self._roster.flags[at])
        have = ["text"]
        if flags & roster.CLOUD:
            have.append("point_cloud")
        if flags & roster.VIEWS:
            have.append("image")
        return frozenset(have)

    def lengths(self, ids: Ids) -> np.ndarray:
        """int32 [len(ids)], tokens of the target of each of `ids` (a part of `self.ids`); 0 where its program cannot be used."""
        return self._roster.lengths[np.searchsorted(self.ids.names, ids.names)]

    def length(self, id_: str) -> int:
        """Tokens of the id's target, end token included; 0 when its program cannot be used."""
        at = self.ids.place(id_)
        return 0 if at is None else int(self._roster.lengths[at])

    def captions(self, id_: str) -> tuple[str, ...]:
        """Every caption of the id, in the order of its file; the main one first."""
        return self.index.captions(id_)

    def caption(self, id_: str, pick: int = 0) -> str:
        """One caption: any integer `pick` chooses among those there are; 0 is the main one."""
        texts = self.captions(id_)
        return texts[pick % len(texts)]

    def program_path(self, id_: str) -> Path:
        """The id's JSON file."""
        return self._checked((self.folders.json or self.data.root / "json") / f"{id_}.json", id_)

    def program(self, id_: str) -> Program:
        """The program, mm.

        Raises:
            CadmllmError: E2xx, naming the file.
        """
        from cadmllm.cad import omnicad

        return omnicad.read_json(self.program_path(id_))

    def cloud_path(self, id_: str) -> Path | None:
        """The id's point file, if it has one."""
        place = self.index.place(Kind.CLOUD, id_)
        return self._checked(Path(place), id_) if place else None

    def cloud(self, id_: str, count: int, seed: int, sampling: Sampling = "uniform") -> Cloud:
        """`count` points of the id's cloud, drawn by `seed` (`points.draw_cloud`).

        Raises:
            CadmllmError: E404 when there is none or it is unreadable, E43x for what else may be wrong with it.
        """
        from cadmllm.corpus import points

        path = self.cloud_path(id_)
        if path is None:
            raise CadmllmError("E404", f"{id_} has no point file", f"cadmllm data prepare {self.data.root} --points")
        return points.load_cloud(path, count, seed, sampling)

    def view_paths(self, id_: str) -> list[Path]:
        """The id's views, by number."""
        place = self.index.place(Kind.VIEWS, id_)
        if place is None or self.folders.img is None:
            return []
        return [self._checked(path, id_) for path in view_paths(self.folders.img, id_, place)]

    def view_count(self, id_: str) -> int:
        """Number of views the id has."""
        place = self.index.place(Kind.VIEWS, id_)
        return place.count("|") + 1 if place else 0

    def view(self, id_: str, k: int) -> np.ndarray:
        """The k-th of the id's views (0 <= k < view_count), RGB uint8 [H, W, 3].

        Raises:
            CadmllmError: E405 when there is none or it is unreadable, E44x for what else may be wrong with it.
        """
        from cadmllm.corpus.pixels import load_view

        paths = self.view_paths(id_)
        if not 0 <= k < len(paths):
            raise CadmllmError(
                "E405", f"{id_} has {len(paths)} views, no number {k}", f"cadmllm data prepare {self.data.root} --views"
            )
        return load_view(paths[k])

    def _checked(self, path: Path, id_: str) -> Path:
        """The path, if it is still what the scan saw: no link that was put in its place meanwhile leads out.

        Raises:
            CadmllmError: E403, E419.
        """
        if reason := unsafe(id_):
            raise CadmllmError("E403", f"{ascii(id_)[:90]}: {reason}", "such an id is never opened")
        if path.is_symlink() or path.parent.is_symlink():
            fence = self.folders.fence(path.parents[id_.count("/")])
            if not path.resolve().is_relative_to(fence.resolve()):
                raise CadmllmError("E419", f"{path} leads out of the data set", f"remove the link: rm {path}")
        return path

    def note(self, error: CadmllmError, where: str) -> None:
        """Record that something could not be read and was left out."""
        self.problems.append(Problem(error.code, where, error.message))

    def usable(self, ids: Ids, longest: int) -> tuple[Ids, list[Problem]]:
        """Those of `ids` (a part of `self.ids`) whose target is known and not too long, and the reasons against the others.

        Args:
            ids: from `split`.
            longest: longest target in tokens.
        """
        at = np.searchsorted(self.ids.names, ids.names)
        lengths = self._roster.lengths[at]
        broken, long = lengths == 0, lengths > longest
        bad = [self._reason(id_) for id_ in Ids(ids.names[broken])]
        for id_, length in zip(Ids(ids.names[long]), lengths[long], strict=True):
            bad.append(Problem("E602", id_, f"{id_}: the target has {length} tokens, more than {longest}"))
        return Ids(ids.names[~(broken | long)]), bad

    def _reason(self, id_: str) -> Problem:
        sql = "SELECT code, message FROM flaws WHERE kind = ? AND owner = ? AND level = 'fail'"
        code, message = self.index.db.execute(sql, (Kind.PROGRAM, id_)).fetchone() or ("E201", f"{id_} was not examined")
        return Problem(code, id_, message)

    def having(self, ids: Ids, modality: str) -> Ids:
        """Those of `ids` (a part of `self.ids`) that have 'point_cloud' or 'image'."""
        flag = {"point_cloud": roster.CLOUD, "image": roster.VIEWS}[modality]
        return Ids(ids.names[self._roster.flags[np.searchsorted(self.ids.names, ids.names)] & flag > 0])

    def shows(self, ids: Ids) -> dict[str, np.ndarray]:
        """By 'point_cloud' and 'image': bool [len(ids)], which of `ids` (a part of `self.ids`) have it, as far as known."""
        at = np.searchsorted(self.ids.names, ids.names)
        return {name: self._roster.can_show(name)[at] for name in ("point_cloud", "image")}

    def modality_counts(self, ids: Ids) -> Counter[str]:
        """How many of `ids` (a part of `self.ids`) have 'text', 'point_cloud' and 'image', but for what is known to be broken."""
        return Counter({"text": len(ids)} | {name: int(there.sum()) for name, there in self.shows(ids).items()})

    def split(self) -> tuple[Ids, Ids]:
        """(training ids, held-out ids), both sorted, without overlap; ids for evaluation are in neither.

        `data.train`, `data.val` and `data.test` are lists of ids or caption files; `train.txt`, `val.txt` and `test.txt` beside
        the root's captions are used where they are not set. Without any list to hold out, a fixed share of the ids is held out
        by a hash of the id, so an id never changes sides when the data set grows. An id on several lists belongs to test before
        val before train. Ids of `data.exclude` are left out of everything.

        Raises:
            CadmllmError: E407 when a list is unreadable or none of its ids is in the data set.
        """
        return self._sides()[:2]

    def test_ids(self) -> Ids:
        """Ids for evaluation, sorted: `data.test`, else `test.txt` beside the root's captions; often none."""
        return self._sides()[2]

    def _sides(self) -> tuple[Ids, Ids, Ids]:
        if self._split is None:
            found, notes = sides(self.data, self._roster)
            self.of_lists = [Problem(*note) for note in notes]
            self.problems += self.of_lists
            self._split = found
        return self._split


def _of_the_index(index: Index) -> list[Problem]:
    """How the index was opened, where that was not as usual: elsewhere, or made anew."""
    return [Problem("E482", str(index.path), note) for note in index.notes]


def _worth_saying(index: Index, ids: Ids) -> Iterator[Flaw]:
    """What stands between the data set and what a person thinks it is; programs that cannot be used are told by `usable`."""
    for kind, owner, flaw in itertools.islice(index.flaws(), TOLD):
        of_a_folder = flaw.level != "info" and (owner.startswith(LISTED) or kind is Kind.CAPTIONS)
        if of_a_folder or (flaw.level == "fail" and kind in (Kind.CLOUD, Kind.VIEWS) and owner in ids):
            yield flaw


def open_dataset(data: DataSettings, *, console: Console | None = None, workers: int = 1) -> DataSet:
    """Open the data set that the settings name.

    Args:
        data: `settings.data`.
        console: for the progress of a first scan and what deserves to be said.
        workers: processes that examine new programs.

    Raises:
        CadmllmError: E401 (folder missing, nothing in it), E402 (no caption file is a list), E482 (no place for the index).
    """
    _require(data)
    dataset = DataSet(data, open_index(data, contents=False, workers=workers, console=console))
    if console is None:  # nobody was told
        dataset.problems += _of_the_index(dataset.index)
    if not dataset.ids:
        counts = dataset.counts
        for _, _, flaw in dataset.index.flaws(TOLD, "fail"):
            if not counts["captions"] and flaw.code in ("E402", "E410", "E421", "E422", "E424"):
                raise CadmllmError(flaw.code, flaw.message, f"see all of it: cadmllm data check {data.root}")
        raise CadmllmError(
            "E401",
            f"{data.root}: no id has both a caption ({counts['captions']} found) and a program ({counts['programs']})",
            "the ids of txt/*.json must name files of json/: compare them, or " + _remedy(data.root),
        )
    return dataset


def program_ids(root: Path, every: bool = False) -> tuple[Sequence[str], list[Problem]]:
    """The ids of the programs under a root, sorted, and what was left out. No program is opened.

    Args:
        root: folder with json/, and txt/ if there are captions.
        every: those without a caption, too. Without a txt/ folder all are taken anyway.

    Raises:
        CadmllmError: E401 when there is no json/ or it is empty.
    """
    from cadmllm.settings import DataSettings

    data = DataSettings(root=root)
    folders = locate(data)
    if folders.json is None:
        why = folders.flaws[0].message if folders.flaws else f"{root} has no json/ folder"
        raise CadmllmError("E401", why, "give the root of a data set in the Omni-CAD layout")
    index = open_index(data, contents=False, programs=False)
    problems = _of_the_index(index)
    problems += [Problem(f.code, f.path, f.message) for _, _, f in index.flaws(TOLD, "fail")]
    captions = " AND EXISTS(SELECT 1 FROM captions t WHERE t.id = p.id)" if not every and folders.txt is not None else ""
    found = index.db.execute(f"SELECT p.id FROM items p WHERE p.kind = ?{captions} ORDER BY p.id", (Kind.PROGRAM,))
    ids = [id_ for (id_,) in found]
    if not ids:
        raise CadmllmError(
            "E401", f"{folders.json} holds no program that is wanted", "give --all to take those without a caption, too"
        )
    return ids, problems


def _require(data: DataSettings) -> None:
    """The folders without which there is nothing: captions and programs."""
    given = {"txt": data.txt, "json": data.json_, "img": data.img, "points": data.points}
    if not data.root.is_dir() and not (data.txt and data.json_):
        raise CadmllmError("E401", f"the data set folder {data.root} does not exist", _remedy(data.root))
    for name, path in given.items():
        if path is not None and not path.exists():
            raise CadmllmError("E401", f"data.{name}: {path} does not exist", f"correct it: --set data.{name}=FOLDER")
    folders = locate(data)
    for name, path in (("txt", folders.txt), ("json", folders.json)):
        if path is None:
            refused = next((flaw for flaw in folders.flaws if flaw.path == str(folders.root / name)), None)
            raise CadmllmError(
                refused.code if refused else "E401",
                refused.message if refused else f"{data.root} has no {name}/ folder",
                _remedy(data.root, name),
            )


def _remedy(root: Path, lacking: str = "") -> str:
    make = f"make one: cadmllm data synth --count 500 --seed 0 --out {root} --points --views"
    point = f"point to it: --set data.{lacking or 'root'}=FOLDER"
    return f"{point}; or {make}"
