"""Where the parts of a data set lie, and what stands in its folders. Names and links from the data are never trusted."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cadmllm.corpus.captionfiles import unsafe
from cadmllm.corpus.facts import Flaw, Kind

if TYPE_CHECKING:
    from cadmllm.settings import DataSettings

POINT_FOLDERS = ("pcd", "pointcloud")  # both names are in use; where both exist, the first wins
POINT_FORMATS = (".npz", ".npy", ".ply")  # where an id has several, the first wins
IMAGE_FORMATS = ("png", "jpg", "jpeg")
VIEW = re.compile(rf"(.+)(_\d{{1,3}}\.(?:{'|'.join(IMAGE_FORMATS)}))$", re.IGNORECASE | re.DOTALL)
RACE = 2_000_000_000  # ns: file systems of Windows drives tell time in steps of up to two seconds
_DOWNLOADS = (
    ".part",
    ".partial",
    ".crdownload",
    ".download",
    ".opdownload",
    ".filepart",
    ".aria2",
    ".tmp",
    ".temp",
    ".!ut",
    ".!qb",
)
_RSYNC = re.compile(r"\..+\.(json|npz|npy|ply|png|jpe?g)\.\w{6}$", re.IGNORECASE)  # how rsync names a file on its way
_IGNORED = {"thumbs.db", "desktop.ini", "readme.md", "readme.txt", "license", "license.txt"}


class Found(NamedTuple):
    """A regular file of a folder."""

    name: str
    size: int
    mtime: int  # ns


@dataclass(slots=True)
class Listing:
    """What stands in one folder."""

    files: list[Found] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where each kind of file lies.

    Attributes:
        root: of the data set.
        txt: folder of caption files or one file; None where there is none.
        json, img: folders or None.
        points: the folders of clouds, the preferred one first.
        flaws: default folders that are links out of the root: they are not used.
    """

    root: Path
    txt: Path | None
    json: Path | None
    img: Path | None
    points: tuple[Path, ...]
    flaws: tuple[Flaw, ...] = ()

    def of(self, kind: Kind) -> tuple[Path, ...]:
        """The folders that hold files of a kind."""
        return {
            Kind.PROGRAM: (self.json,) if self.json else (),
            Kind.CLOUD: self.points,
            Kind.VIEWS: (self.img,) if self.img else (),
        }[kind]

    def fence(self, folder: Path) -> Path:
        """What links in `folder` must not leave: the root, or a folder that the user named elsewhere."""
        return self.root if folder.is_relative_to(self.root) else folder


def locate(data: DataSettings) -> Folders:
    """The folders of a data set, those that are there, as absolute paths without links.

    A folder that the settings name may be anywhere; a default folder (ROOT/img) that is a link out of ROOT is not followed.
    """
    flaws: list[Flaw] = []
    root = data.root.resolve()

    def default(name: str) -> Path | None:
        path = root / name
        if not path.exists():
            return None
        target = path.resolve()
        if target.is_relative_to(root):
            return target
        setting = "points" if name in POINT_FOLDERS else name
        message = f"{path} leads out of the data set, to {target}: if you trust it, --set data.{setting}={target}"
        flaws.append(Flaw("E419", "fail", str(path), message))
        return None

    def one(given: Path | None, name: str) -> Path | None:
        return (given.resolve() if given.exists() else None) if given else default(name)

    img, json = one(data.img, "img"), one(data.json_, "json")
    points = [one(data.points, "")] if data.points else [default(name) for name in POINT_FOLDERS]
    return Folders(
        root=root,
        txt=one(data.txt, "txt"),
        json=json if json and json.is_dir() else None,
        img=img if img and img.is_dir() else None,
        points=tuple(path for path in points if path and path.is_dir()),
        flaws=tuple(flaws),
    )


def list_folder(folder: Path, fence: Path) -> Listing:
    """The regular files and the folders in `folder`; what is unsafe, odd or on its way is a flaw and left out.

    Args:
        folder: to list; nothing in it is opened.
        fence: links that lead out of it are not followed.
    """
    out = Listing()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                _sort_in(entry, fence, out)
    except OSError as error:
        out.flaws.append(Flaw("E401", "fail", str(folder), f"{folder} cannot be read: {error.strerror}"))
    return out


def _sort_in(entry: os.DirEntry[str], fence: Path, out: Listing) -> None:
    def flaw(code: str, why: str, level: str = "fail") -> None:
        shown = ascii(entry.path)[1:-1] if not entry.path.isprintable() else entry.path
        out.flaws.append(Flaw(code, "fail" if level == "fail" else "warn", shown, f"{shown}: {why}"))

    name = entry.name
    if name.startswith(".") or name.lower() in _IGNORED:
        if _RSYNC.match(name):
            flaw("E422", "a file that rsync has not finished", "warn")
        return
    if name.lower().endswith(_DOWNLOADS):
        flaw("E422", "the name of a download that has not ended", "warn")
        return
    if reason := unsafe(name):
        flaw("E403", reason)
        return
    try:
        if entry.is_symlink() and not _inside(entry.path, fence):
            flaw("E419", "a link that leaves the data set, or leads nowhere")
        elif entry.is_dir():
            out.folders.append(name)
        else:
            status = entry.stat()
            if stat.S_ISREG(status.st_mode):
                out.files.append(Found(name, status.st_size, status.st_mtime_ns))
            else:
                flaw("E420", "neither a file nor a folder; it is not opened")
    except FileNotFoundError:
        return  # gone since it was listed
    except OSError as error:
        flaw("E201", f"cannot be looked at: {error.strerror}")


def _inside(path: str, fence: Path) -> bool:
    """Whether a link's target lies inside `fence` (broken links and circles do not)."""
    try:
        return Path(path).resolve(strict=True).is_relative_to(fence.resolve())
    except (OSError, RuntimeError):
        return False


def mtime_of(path: Path) -> int | None:
    """When a folder's entries last changed, ns; None if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def ids_in(kind: Kind, shard: str, listings: list[tuple[Path, Listing]]) -> tuple[dict[str, tuple[str, str]], list[Flaw]]:
    """The ids that one shard holds.

    Args:
        kind: PROGRAM, CLOUD or VIEWS.
        shard: '0000', or '' for files beside the shards.
        listings: (folder, what stands in it), the preferred folder first.

    Returns:
        (id -> (place, stamp); flaws). The place is the file's path, or for views their names' ends joined by '|'. The stamp
        changes when a file does.
    """
    collect = {Kind.PROGRAM: _programs, Kind.CLOUD: _clouds, Kind.VIEWS: _views}[kind]
    flaws = [flaw for _, listing in listings for flaw in listing.flaws]
    prefix = f"{shard}/" if shard else ""
    found = collect(prefix, listings, flaws)
    for folder, listing in listings if shard else []:
        for name in listing.folders:
            flaws.append(Flaw("E415", "warn", str(folder / name), f"{folder / name}: a folder deeper than the layout has any"))
    return found, flaws


def stamp_of(files: Sequence[tuple[int, int]]) -> str:
    """A text that changes when one of the files does, of their (size, mtime in ns).

    A file written within the last moments may change again without its time changing: it counts as changed at the next look.
    """
    now = time.time_ns()
    moving = "~" if any(0 <= now - mtime < RACE for _, mtime in files) else ""
    text = ";".join(f"{size}:{mtime}" for size, mtime in files)
    return (text if len(files) == 1 else hashlib.blake2b(text.encode(), digest_size=8).hexdigest()) + moving


def _foreign(path: Path, wanted: str) -> Flaw:
    return Flaw("E415", "warn", str(path), f"{path} is not used: {wanted} belong here")


def _programs(prefix: str, listings: list[tuple[Path, Listing]], flaws: list[Flaw]) -> dict[str, tuple[str, str]]:
    found = {}
    for folder, file in _files(listings):
        stem, suffix = os.path.splitext(file.name)
        if suffix == ".json":
            found[prefix + stem] = (str(folder / file.name), stamp_of([file[1:]]))
        else:
            flaws.append(_foreign(folder / file.name, "programs (ID.json)"))
    return found


def _clouds(prefix: str, listings: list[tuple[Path, Listing]], flaws: list[Flaw]) -> dict[str, tuple[str, str]]:
    by_id: dict[str, list[tuple[int, int, Path, Found]]] = {}
    for rank, (folder, listing) in enumerate(listings):
        for file in listing.files:
            stem, suffix = os.path.splitext(file.name)
            if suffix in POINT_FORMATS:
                by_id.setdefault(prefix + stem, []).append((rank, POINT_FORMATS.index(suffix), folder, file))
            else:
                flaws.append(_foreign(folder / file.name, "clouds (ID.npz, .npy, .ply)"))
    found = {}
    for id_, files in by_id.items():
        (_, _, folder, file), *others = sorted(files)
        found[id_] = (str(folder / file.name), stamp_of([file[1:]]))
        for _, _, other, spare in others:
            message = f"{id_}: {folder / file.name} is used, {other / spare.name} is not"
            flaws.append(Flaw("E417", "warn", str(other / spare.name), message))
    return found


def _views(prefix: str, listings: list[tuple[Path, Listing]], flaws: list[Flaw]) -> dict[str, tuple[str, str]]:
    by_id: dict[str, list[tuple[int, str, tuple[int, int]]]] = {}
    for folder, file in _files(listings):
        match = VIEW.match(file.name)
        if match:
            number = int(match[2][1:].split(".")[0])
            by_id.setdefault(prefix + match[1], []).append((number, match[2], file[1:]))
        else:
            flaws.append(_foreign(folder / file.name, "views (ID_000.png)"))
    found = {}
    for id_, views in by_id.items():
        views.sort()
        found[id_] = ("|".join(end for _, end, _ in views), stamp_of([status for _, _, status in views]))
    return found


def _files(listings: list[tuple[Path, Listing]]) -> Iterator[tuple[Path, Found]]:
    for folder, listing in listings:
        for file in listing.files:
            yield folder, file
