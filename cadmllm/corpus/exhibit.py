"""Everything that is known of one id, read anew and with care: what a sheet shows. What cannot be read says why."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cadmllm.cad import tokens
from cadmllm.cad.compare import nearest
from cadmllm.cad.listing import Entry, listing
from cadmllm.cad.mesh import Mesh, sample_surface
from cadmllm.corpus import points
from cadmllm.corpus.captionfiles import unsafe
from cadmllm.corpus.deep import Look
from cadmllm.corpus.examining import look
from cadmllm.corpus.facts import Flaw, Kind
from cadmllm.corpus.folders import VIEW
from cadmllm.corpus.index import LISTED
from cadmllm.corpus.layout import DataSet
from cadmllm.corpus.pixels import load_rgb
from cadmllm.corpus.scan import open_index
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.cad.kernel import BuildResult
    from cadmllm.cad.program import Program
    from cadmllm.cad.workshop import Workshop
    from cadmllm.console import Console
    from cadmllm.corpus.points import RawCloud
    from cadmllm.settings import DataSettings

VIEWS = 8  # of a complete set, and as many are shown
COMPARED = 4096  # points of a cloud that are laid beside the built part
SURFACE = 32_768  # points of the built part that they are laid beside
_KNOWN = f"SELECT id FROM items WHERE kind BETWEEN {int(Kind.PROGRAM)} AND {int(Kind.VIEWS)} UNION SELECT id FROM captions"
_KINDS = {"program": Kind.PROGRAM, "cloud": Kind.CLOUD, "views": Kind.VIEWS}


class View(NamedTuple):
    """One picture: its number, and its pixels [H, W, 3] uint8 or why there are none."""

    number: int
    pixels: np.ndarray | None
    why: str = ""


@dataclass(slots=True)
class Exhibit:
    """One id.

    Attributes:
        id: as in the data set.
        root: of the data set, as the user named it.
        side: 'train', 'val', 'test' or 'not used'.
        captions: usable ones, the main one first.
        paths: 'program', 'cloud', 'views' -> files that are there.
        values: likewise, what `examine` found of them.
        flaws: what is wrong with them, also what `data check --deep` would find.
        program, entries, text: the program, its listing, its token text; `program_why` where there is none.
        build: what the kernel made of it; `build_why` where it was not asked or could not.
        cloud: what the point file holds; `cloud_why` where there is none.
        distances: from points of the cloud to the built part's surface, in shares of its longest side; None if not compared.
        views: the pictures on file, `VIEWS` at most; `views_why` where there are none.
    """

    id: str
    root: Path = Path()
    side: str = "not used"
    captions: tuple[str, ...] = ()
    paths: dict[str, list[Path]] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    flaws: list[Flaw] = field(default_factory=list)
    program: Program | None = None
    entries: list[Entry] = field(default_factory=list)
    text: str = ""
    program_why: str = ""
    build: BuildResult | None = None
    build_why: str = ""
    cloud: RawCloud | None = None
    cloud_why: str = ""
    distances: np.ndarray | None = None
    views: list[View] = field(default_factory=list)
    views_why: str = ""

    @property
    def mesh(self) -> Mesh | None:
        """The built part."""
        return self.build.mesh if self.build is not None else None

    def short(self, message: str) -> str:
        """A message in which files of this id are called by the end of their path."""
        for paths in self.paths.values():
            for path in paths:
                message = message.replace(str(path), "/".join(path.parts[-3:]))
        return message

    def place(self, path: Path) -> str:
        """A file as a person would open it: under the root as it was named, or the whole path."""
        home = self.root.resolve()
        return str(self.root / path.relative_to(home)) if path.is_relative_to(home) else str(path)

    def as_dict(self) -> dict[str, Any]:
        """The figures, under stable names; lengths in mm."""
        build = self.build
        built = None if build is None else {"verdict": build.verdict.value, "reason": build.reason}
        if build is not None and build.ok and build.box is not None:
            size = [b - a for a, b in zip(*build.box, strict=True)]
            counts = {"solids": build.solids, "faces": build.faces, "edges": build.edges}
            built = {**(built or {}), "volume": build.volume, "area": build.area, "size": size, **counts}
        off = None
        if self.distances is not None:
            off = {"median": float(np.median(self.distances)), "p95": float(np.quantile(self.distances, 0.95))}
        return {
            "id": self.id,
            "side": self.side,
            "captions": list(self.captions),
            "paths": {name: [str(path) for path in paths] for name, paths in self.paths.items()},
            "program": self.values.get("program"),
            "cloud": self.values.get("cloud"),
            "views": self.values.get("views"),
            "built": built,
            "points_off_surface": off,
            "flaws": [{"code": f.code, "level": f.level, "path": f.path, "message": f.message} for f in self.flaws],
        }


def open_any(data: DataSettings, console: Console | None = None, *, examine: bool = False, workers: int = 1) -> DataSet:
    """The data set, also one of which nothing can be trained on.

    Args:
        data: which one.
        console: for progress and for what deserves to be said.
        examine: read the programs that are new; else they are listed alone.
        workers: processes that examine.

    Raises:
        CadmllmError: E401 when there is no such folder, E482.
    """
    if not data.root.is_dir() and not (data.txt or data.json_ or data.img or data.points):
        remedy = "give a data set in the Omni-CAD layout: --set data.root=FOLDER"
        raise CadmllmError("E401", f"the data set folder {data.root} does not exist", remedy)
    return DataSet(data, open_index(data, contents=False, programs=examine, workers=workers, console=console))


def gather(dataset: DataSet, id_: str, workshop: Workshop) -> Exhibit:
    """Read all files of an id and build its program. Nothing that a file holds makes this fail.

    Args:
        dataset: any, also one that nothing could be trained on.
        id_: one that the data set knows (`find`).
        workshop: builds the program in a process that can be killed.
    """
    out = Exhibit(id_, dataset.data.root, captions=dataset.captions(id_))
    for name, kind in _KINDS.items():
        _examine(dataset, out, name, kind)
    out.flaws += _flaws_of(dataset, id_)
    _read_program(dataset, out)
    _build(out, workshop)
    _read_cloud(out)
    _judge(out)
    _read_views(out)
    out.side = _side(dataset, out)
    return out


def find(dataset: DataSet, asked: str) -> str:
    """The id that is meant: itself, or the only one whose name without the shard it is.

    Raises:
        CadmllmError: E403 for an id that is never opened, E407 with the nearest ids for one that the data set does not know.
    """
    root = dataset.data.root
    if reason := unsafe(asked):
        raise CadmllmError("E403", f"{ascii(asked)[:90]}: {reason}", "give an id of the data set: cadmllm data show 0000/ID")
    ask = dataset.index.db.execute
    if ask(f"SELECT 1 FROM ({_KNOWN}) WHERE id = ?", (asked,)).fetchone():
        return asked
    tail = f"/{asked}"
    same = [id_ for (id_,) in ask(f"SELECT id FROM ({_KNOWN}) WHERE substr(id, ?) = ? LIMIT 9", (-len(tail), tail))]
    if len(same) == 1:
        return same[0]
    near = same or _near(dataset, asked)
    if not near:
        raise CadmllmError("E401", f"{root} holds no caption, program, cloud or view", f"cadmllm data check {root}")
    shown = ", ".join(near[:5])
    raise CadmllmError("E407", f"{root} has no id {asked!r}; near it are {shown}", f"cadmllm data show {near[0]} --root {root}")


def _near(dataset: DataSet, asked: str) -> list[str]:
    """Ids like the one that was asked for, best first: those about it in order, and those with the same name elsewhere."""
    cases = ("id > ? ORDER BY id", "id < ? ORDER BY id DESC", "instr(id, ?) > 0")
    names = (asked, asked, asked.rpartition("/")[2])
    found = set()
    for case, name in zip(cases, names, strict=True):
        found |= {id_ for (id_,) in dataset.index.db.execute(f"SELECT id FROM ({_KNOWN}) WHERE {case} LIMIT 50", (name,))}
    return difflib.get_close_matches(asked, sorted(found), n=5, cutoff=0.0)


def choose(dataset: DataSet, count: int, seed: int) -> list[str]:
    """`count` different ids at random, sorted: of those with a caption and a program, else of those with a program.

    Raises:
        CadmllmError: E401 when there is none.
    """
    from cadmllm.corpus import order

    ids = dataset.ids
    if not len(ids):
        found = dataset.index.db.execute("SELECT id FROM items WHERE kind = ? ORDER BY id", (Kind.PROGRAM,))
        ids = [id_ for (id_,) in found]
    if not len(ids):
        raise CadmllmError("E401", f"{dataset.data.root} holds no program", f"cadmllm data check {dataset.data.root}")
    return sorted(ids[int(k)] for k in order.epoch_order(len(ids), seed, 0, 0)[:count])


def _examine(dataset: DataSet, out: Exhibit, name: str, kind: Kind) -> None:
    row = dataset.index.row(kind, out.id)
    if row is None:
        return
    try:
        if kind is Kind.VIEWS:
            out.paths[name] = dataset.view_paths(out.id)
        else:
            path = dataset.program_path(out.id) if kind is Kind.PROGRAM else dataset.cloud_path(out.id)
            out.paths[name] = [path] if path is not None else []
        facts = look(kind, dataset.folders.img, out.id, row.place)
    except CadmllmError as error:  # a link that was put there since the scan
        out.flaws.append(Flaw(error.code, "fail", row.place, error.message))
        return
    out.values[name] = facts.values
    out.flaws += facts.flaws


def _flaws_of(dataset: DataSet, id_: str) -> list[Flaw]:
    """What the listing of the folders said of the id."""
    sql = "SELECT code, level, path, message FROM flaws WHERE substr(owner, 1, 1) = ? AND instr(message, ?) > 0 ORDER BY rowid"
    return [Flaw(*found) for found in dataset.index.db.execute(sql, (LISTED, id_))]


def _read_program(dataset: DataSet, out: Exhibit) -> None:
    if not out.paths.get("program"):
        out.program_why = _refused(out, "json") or "There is no program: no file in json/."
        return
    try:
        out.program = dataset.program(out.id)
        out.entries = listing(out.program)
        out.text = tokens.to_text(tokens.encode(out.program).tokens)
    except CadmllmError as error:
        out.program_why = f"{error.code} {error.message}"


def _refused(out: Exhibit, folder: str) -> str:
    """What kept a file from being opened at all."""
    flaws = (flaw for flaw in out.flaws if flaw.code in ("E403", "E419", "E420") and f"/{folder}" in flaw.path)
    return next((f"{flaw.code} {flaw.message}" for flaw in flaws), "")


def _build(out: Exhibit, workshop: Workshop) -> None:
    if out.program is None:
        out.build_why = "Nothing to build: the program cannot be read."
        return
    try:
        out.build = workshop.build(out.program, mesh=True)
    except CadmllmError as error:  # no kernel on this machine: the rest of the sheet is still worth having
        out.build_why = f"{error.code} {error.message}"
        return
    if not out.build.ok:
        out.build_why = f"The kernel says {out.build.verdict}: {out.build.reason}"


def _judge(out: Exhibit) -> None:
    """What `data check --deep` would say: the same rules, at once."""
    if out.build is None:
        return
    cloud = str(out.paths["cloud"][0]) if out.cloud is not None else None
    values = out.values.get("program", {})
    bound = values.get("operations", {}).get("intersect", 0) > 0
    look = Look(str(out.paths["program"][0]), cloud, values.get("box"), out.build.seconds, bound)
    out.flaws += look.judge(out.build).flaws


def _read_cloud(out: Exhibit) -> None:
    if not out.paths.get("cloud"):
        out.cloud_why = _refused(out, "pcd") or "No point file in pcd/ or pointcloud/."
        return
    try:
        out.cloud = points.read_cloud(out.paths["cloud"][0])
    except CadmllmError as error:
        out.cloud_why = f"{error.code} {error.message}"
        return
    if out.mesh is None:
        return
    out.distances = distances(out.cloud, out.mesh)


def distances(cloud: RawCloud, mesh: Mesh) -> np.ndarray:
    """How far points of a cloud lie from a part's surface, in shares of its longest side, [<= `COMPARED`].

    The surface is a dense sample: near it the distance is that to the plane of the nearest sample, so that a point of the
    surface between two samples has none. Both are normalised by their boxes first, unless the cloud knows its own way to mm.
    """
    surface, normals = sample_surface(mesh, SURFACE, 0)
    low, high = mesh.box
    side = float((high - low).max())
    step = -(-len(cloud.points) // COMPARED)
    if cloud.transform is not None and all(remark.code != "E435" for remark in cloud.remarks):
        seen = cloud.transform.invert(cloud.points)[::step]
    else:
        least, most = cloud.points.min(axis=0), cloud.points.max(axis=0)
        scale = side / float((most - least).max())
        seen = ((cloud.points - (least + most) / 2.0) * scale + (low + high) / 2.0)[::step]
    apart, index = nearest(seen, surface)
    flat = np.abs(np.sum((seen - surface[index]) * normals[index], axis=1))
    return np.where(apart < 0.02 * side, flat, apart) / side


def _read_views(out: Exhibit) -> None:
    paths = out.paths.get("views", [])
    if not paths:
        out.views_why = _refused(out, "img") or "No picture in img/."
    for place, path in enumerate(paths[:VIEWS]):
        match = VIEW.match(path.name)
        number = int(match[2][1:].split(".")[0]) if match else place
        try:
            out.views.append(View(number, load_rgb(path)))
        except CadmllmError as error:
            out.views.append(View(number, None, f"{error.code} {error.message}"))


def _side(dataset: DataSet, out: Exhibit) -> str:
    broken = any(flaw.level == "fail" and flaw.path in map(str, out.paths.get("program", ())) for flaw in out.flaws)
    if out.id not in dataset.ids or broken or out.program is None:
        return "not used"
    try:
        train, val = dataset.split()
        named = {"train": train, "val": val, "test": dataset.test_ids()}
    except CadmllmError as error:
        out.flaws.append(Flaw(error.code, "warn", str(dataset.data.root), error.message))
        return "not used"
    return next((name for name, ids in named.items() if out.id in ids), "not used")
