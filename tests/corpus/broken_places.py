"""Damage to folders, names and links; what only the kernel finds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from broken import IDS, PROGRAM, Breakage

A = {"0000/a": "text"}


def place(name: str, make: Callable[[Path], object], codes: str, loses: dict[str, str] | None = None, **more) -> Breakage:
    def made(root: Path) -> None:
        make(root)

    return Breakage(name, made, frozenset(codes.split()), loses or {}, **more)


def _link(where: str, target: str) -> Callable[[Path], None]:
    """A link at `where` in ROOT in place of what stands there; `target` is relative to the folder beside ROOT, or absolute."""

    def make(root: Path) -> None:
        path = root / where
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(root.parent / "outside" / target)

    return make


def _circle(root: Path) -> None:
    (root / "json/0002").symlink_to(root / "json/0003")
    (root / "json/0003").symlink_to(root / "json/0002")
    (root / "pcd/0000/x.npz").symlink_to("x.npz")


def _within(root: Path) -> None:
    """Links that stay inside: allowed."""
    (root / "json/0000/b.json").rename(root / "json/0000/.real")
    (root / "json/0000/b.json").symlink_to(".real")


def _new(where: str, content: bytes = b"x") -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for name in where.split("|"):
            path = os.fsencode(root) + b"/" + name.encode("utf-8", "surrogateescape")
            with open(path, "wb") as file:
                file.write(content)

    return make


def _renamed(new: str) -> Callable[[Path], None]:
    """Id 0000/c under a hard name that is allowed."""

    def make(root: Path) -> None:
        for folder, suffixes in (("json", [".json"]), ("pcd", [".npz"]), ("img", [f"_{k:03d}.png" for k in range(8)])):
            for suffix in suffixes:
                (root / folder / f"0000/c{suffix}").rename(root / folder / f"0000/{new}{suffix}")
        text = root / "txt/0000.json"
        text.write_text(text.read_text().replace('"0000/c"', json.dumps(f"0000/{new}")))

    return make


def _copied(old: str, new: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / old, root / new)

    return make


def _moved_points(root: Path) -> None:
    """Part of the clouds in the other folder: not broken."""
    (root / "pointcloud").mkdir()
    (root / "pcd/0001").rename(root / "pointcloud/0001")


def _cased(root: Path) -> None:
    _copied(PROGRAM, "json/0000/A.json")(root)


def _same_program(root: Path) -> None:
    _copied(PROGRAM, "json/0001/other.json")(root)
    text = root / "txt/0001.json"
    text.write_text(json.dumps([*json.loads(text.read_text()), {"id": "0001/other", "text caption": "the same"}]))


def _remove(*names: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for name in names:
            shutil.rmtree(root / name)

    return make


def _emptied(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def _folder_as_file(root: Path) -> None:
    (root / PROGRAM).unlink()
    (root / PROGRAM).mkdir()


def _file_as_folder(root: Path) -> None:
    shutil.rmtree(root / "img")
    (root / "img").write_text("")


def _sealed(root: Path) -> None:
    os.chmod(root / "json/0000", 0)


def _deeper(root: Path) -> None:
    (root / "json/0000/more").mkdir()
    _copied(PROGRAM, "json/0000/more/x.json")(root)


DOWNLOADS = "|".join(f"json/0000/new{suffix}" for suffix in (".json.part", ".json.crdownload", ".json.aria2", ".json.tmp"))
FIRST = {"0000/a": "text", "0000/b": "text", "0000/c": "text"}
NONE = dict.fromkeys(IDS, "text")
PLACES = [
    place("a program that is a link out", _link(PROGRAM, "json/0000/a.json"), "E419", A),
    place("a cloud that is a link out", _link("pcd/0000/a.npz", "pcd/0000/a.npz"), "E419", {"0000/a": "point_cloud"}),
    place("a view that is a link out", _link("img/0000/a_000.png", "img/0000/a_000.png"), "E419"),
    place("a caption file that is a link out", _link("txt/0000.json", "txt/0000.json"), "E419", FIRST),
    place("a shard that is a link out", _link("json/0000", "json/0000"), "E419", FIRST),
    place("a folder of clouds that is a link out", _link("pcd", "pcd"), "E419", dict.fromkeys(IDS, "point_cloud")),
    place("a folder of programs that is a link out", _link("json", "json"), "E419", NONE, ready=False),
    place("a link to a device", _link(PROGRAM, "/dev/zero"), "E419", A),
    place("a link that leads nowhere", _link(PROGRAM, "gone"), "E419", A),
    place("links in a circle", _circle, "E419"),
    place("a link that stays inside", _within, ""),
    place("a name with a line break", _new("json/0000/a\nb.json"), "E403"),
    place("a name with a backslash and a colon", _new("pcd/0000/..\\x.npz|img/0000/C:x_000.png"), "E403"),
    place("a name that is not UTF-8", _new("json/0000/\udcff\udcfe.json"), "E403"),
    place("a name with spaces", _renamed("part 7 (new)"), "", {"0000/c": "text"}),
    place("a name with other letters", _renamed("Würfel 立方体"), "", {"0000/c": "text"}),
    place("ids that differ in letter case", _cased, "E418"),
    place("one name in two shards", _copied(PROGRAM, "json/0001/a.json"), "E418"),
    place("both folders of points", _moved_points, ""),
    place("a cloud in both folders", _copied("pcd/0000/a.npz", "pointcloud/0000/a.npz"), "E417"),
    place("a cloud in two formats", _new("pcd/0000/a.ply|pcd/0000/a.npy"), "E417"),
    place("a cloud of nobody", _copied("pcd/0000/a.npz", "pcd/0000/nobody.npz"), "E413"),
    place("views of nobody", _copied("img/0000/a_000.png", "img/0000/nobody_000.png"), "E414"),
    place("one program under two ids", _same_program, "E463"),
    place("foreign files", _new("json/0000/a.step|pcd/0000/a.xyz|img/0000/sheet.png|img/0000/a.svg"), "E415"),
    place("a folder too many", _deeper, "E415"),
    place("a folder in place of a program", _folder_as_file, "E415 E411", A),
    place("downloads that have not ended", _new(DOWNLOADS), "E422"),
    place("no captions at all", _remove("txt"), "E401", NONE, ready=False),
    place("no programs at all", _remove("json"), "E401", NONE, ready=False),
    place("no points and no views", _remove("pcd", "img"), "E401", dict.fromkeys(IDS, "point_cloud image")),
    place("a file in place of a folder", _file_as_folder, "E401", dict.fromkeys(IDS, "image")),
    place("an empty data set", _emptied, "E401", NONE, ready=False),
    place("a folder without permission", _sealed, "E401", FIRST),
]


def _other_cloud(root: Path) -> None:
    shutil.copy(root / "pcd/0001/e.npz", root / "pcd/0000/a.npz")


def _other_box(root: Path) -> None:
    path = root / "json/0000/b.json"
    data = json.loads(path.read_text())
    for corner in ("min_point", "max_point"):
        data["properties"]["bounding_box"][corner]["x"] += 0.5
    path.write_text(json.dumps(data))


def _no_solid(root: Path) -> None:
    """A cut that takes everything away."""
    path = root / "json/0000/c.json"
    data = json.loads(path.read_text())
    name, extrude = next((name, entity) for name, entity in data["entities"].items() if entity["type"] == "ExtrudeFeature")
    data["entities"]["all"] = extrude | {"operation": "CutFeatureOperation"}
    data["sequence"] = [item for item in data["sequence"] if item["type"] == "Sketch" or item["entity"] == name]
    data["sequence"].append({"index": 99, "type": "ExtrudeFeature", "entity": "all"})
    path.write_text(json.dumps(data))


DEEP = [
    place("a cloud of another part", _other_cloud, "E462", deep=True),
    place("a recorded box that disagrees", _other_box, "E461", deep=True),
    place("a program that leaves nothing", _no_solid, "E302", deep=True),
]
