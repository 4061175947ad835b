"""Broken data sets, made by code: each a healthy small set with one kind of damage, and what must be said of it.

The healthy set has five parts, `IDS`, with caption, program, cloud (1,024 points with normals) and 8 views. This file holds
the table and damage to programs; `broken_texts`, `broken_files` and `broken_places` hold the rest.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

BUNDLED = Path(__file__).resolve().parents[2] / "data"
IDS = ("0000/a", "0000/b", "0000/c", "0001/d", "0001/e")
FROM = ("00000050", "00000000", "00000012", "00000023", "00000034")
SECRET = "xyzzy-plugh-4711"  # stands in every file beside ROOT; must never be shown


@dataclass(frozen=True)
class Breakage:
    """One kind of broken data set.

    Attributes:
        name: what is broken.
        make: damages a healthy set at its argument.
        codes: that `data check` must report.
        loses: id -> what it cannot be used for any more: 'text' (it cannot be trained on), 'point_cloud', 'image'. Every other
            id stays usable for everything.
        ready: whether stage 1 can still train.
        given: further arguments of the command.
        deep: whether only `--deep` can tell.
    """

    name: str
    make: Callable[[Path], None]
    codes: frozenset[str]
    loses: dict[str, str] = field(default_factory=dict)
    ready: bool = True
    given: tuple[str, ...] = ()
    deep: bool = False


def healthy(root: Path) -> None:
    """Make the healthy set at `root`."""
    captions: dict[str, list[dict[str, str]]] = {}
    known = {entry["id"]: entry for entry in json.loads((BUNDLED / "txt" / "0000.json").read_text())}
    for id_, source in zip(IDS, FROM, strict=True):
        shard, name = id_.split("/")
        for folder, suffix in (("json", ".json"), ("pcd", ".npz")):
            (root / folder / shard).mkdir(parents=True, exist_ok=True)
            shutil.copy(BUNDLED / folder / "0000" / f"{source}{suffix}", root / folder / shard / f"{name}{suffix}")
        (root / "img" / shard).mkdir(parents=True, exist_ok=True)
        for k in range(8):
            shutil.copy(BUNDLED / "img" / "0000" / f"{source}_{k:03d}.png", root / "img" / shard / f"{name}_{k:03d}.png")
        captions.setdefault(shard, []).append(known[f"0000/{source}"] | {"id": id_})
    (root / "txt").mkdir()
    for shard, entries in captions.items():
        (root / "txt" / f"{shard}.json").write_text(json.dumps(entries))


def beside(outside: Path) -> None:
    """Files beside ROOT that links lead to and nobody may read: valid ones, so that reading them would go unnoticed."""
    healthy(outside)
    for path in outside.rglob("*.json"):
        path.write_text(path.read_text().replace("Generate", SECRET).replace("sketch_1", SECRET))


def spoilt(name: str, where: str, change: Callable[[bytes], bytes], codes: str, loses: str | None, **more) -> Breakage:
    """A file whose bytes are changed. `where` is relative to ROOT, `loses` what its id loses (None: nothing)."""

    def make(root: Path) -> None:
        (root / where).write_bytes(change((root / where).read_bytes()))

    id_ = "/".join(Path(where).parts[1:]).split(".")[0].split("_")[0]
    return Breakage(name, make, frozenset(codes.split()), {id_: loses} if loses else {}, **more)


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) * 2 // 3]


def reserved(raw: bytes) -> bytes:
    """As a download manager leaves a file that has not arrived yet."""
    return raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2)


def pointer(raw: bytes) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def page(raw: bytes) -> bytes:
    return b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Quota exceeded</body></html>\n"


PROGRAM = "json/0000/a.json"


def program(name: str, change: Callable[[dict], object], codes: str, loses: str | None = "text", **more) -> Breakage:
    """A program whose JSON is changed: `change` edits it in place, or returns another value."""

    def edited(raw: bytes) -> bytes:
        data = json.loads(raw)
        other = change(data)
        return json.dumps(data if other is None else other).encode()

    return spoilt(name, PROGRAM, edited, codes, loses, **more)


def _extrude(data: dict) -> dict:
    return next(entity for entity in data["entities"].values() if entity["type"] == "ExtrudeFeature")


def _loops(data: dict) -> list:
    sketch = next(entity for entity in data["entities"].values() if entity["type"] == "Sketch")
    return next(iter(sketch["profiles"].values()))["loops"]


def _set(*keys: object, to: object) -> Callable[[dict], None]:
    """Sets a value inside the first extrude (or, where the first key is 'loops', in the first profile)."""

    def change(data: dict) -> None:
        at = _loops(data) if keys[0] == "loops" else _extrude(data)
        *way, last = keys[1:] if keys[0] == "loops" else keys
        for key in way:
            at = at[key]
        at[last] = to

    return change


def _open_loop(data: dict) -> None:
    del _loops(data)[1]["profile_curves"][1]


def _no_extrude(data: dict) -> None:
    data["sequence"] = [item for item in data["sequence"] if item["type"] == "Sketch"]


def _too_fine(data: dict) -> None:
    """A part of 0.1 nm."""
    text = json.dumps([_loops(data)[0]])
    _loops(data)[:] = json.loads(text)
    _loops(data)[0]["profile_curves"][0]["radius"] = 1e-10
    _extrude(data)["extent_one"]["distance"]["value"] = 1e-10


def _long(data: dict) -> None:
    circle = _loops(data)[0]["profile_curves"][0]
    holes = [
        circle | {"center_point": {"x": 0.01 * (k % 30), "y": 0.01 * (k // 30), "z": 0.0}, "radius": 0.002} for k in range(600)
    ]
    _loops(data)[:] = [{"profile_curves": [hole]} for hole in holes]


def _concentric(data: dict) -> None:
    circle = _loops(data)[0]["profile_curves"][0]
    _loops(data)[:] = [{"profile_curves": [circle | {"radius": 1e-4 * (k + 1)}]} for k in range(1000)]


def _unreadable(root: Path) -> None:
    os.chmod(root / PROGRAM, 0)
    os.chmod(root / "pcd/0000/b.npz", 0)
    os.chmod(root / "img/0000/c_003.png", 0)


CURVE = ("loops", 0, "profile_curves", 0)
PROGRAMS = [
    spoilt("a program of 0 bytes", PROGRAM, lambda raw: b"", "E421", "text"),
    spoilt("a program of blanks", PROGRAM, lambda raw: b" \r\n\t ", "E421", "text"),
    spoilt("a program cut short", PROGRAM, cut, "E422", "text"),
    spoilt("a program that ends in reserved zeros", PROGRAM, reserved, "E422", "text"),
    spoilt("a program of zeros", PROGRAM, lambda raw: bytes(len(raw)), "E422", "text"),
    spoilt("a program that is a Git LFS pointer", PROGRAM, pointer, "E424", "text"),
    spoilt("a program that is a web page", PROGRAM, page, "E424", "text"),
    spoilt("a program that is no JSON", PROGRAM, lambda raw: raw.replace(b'"', b"'"), "E202", "text"),
    spoilt("a program of brackets", PROGRAM, lambda raw: b"[" * 100_000 + b"]" * 100_000, "E202", "text"),
    spoilt("a program that is packed", PROGRAM, lambda raw: b"\x1f\x8b\x08\x00" + raw[::-1].upper(), "E202", "text"),
    spoilt("a program with text behind its end", PROGRAM, lambda raw: raw + b"}", "E202", "text"),
    spoilt("a program in Latin-1", PROGRAM, lambda raw: raw.replace(b"Sketch 1", b"Skizze \xfcber"), "E410", "text"),
    spoilt("a program in UTF-16", PROGRAM, lambda raw: raw.decode().encode("utf-16"), "E410", None),
    spoilt("a program with a name twice", PROGRAM, lambda raw: raw.replace(b"{", b'{"properties": 7, ', 1), "E203", None),
    spoilt("a number of 5,000 digits", PROGRAM, lambda raw: raw.replace(b"0.037", b"9" * 5000), "E205", "text"),
    program("a program of another schema", lambda data: [data], "E203"),
    program("an unknown curve", _set(*CURVE, "type", to="NurbsCurve3D"), "E204"),
    program("an unknown operation", _set("operation", to="SplitFeatureOperation"), "E204"),
    program("an unknown extent", _set("extent_type", to="ToObject"), "E204"),
    program("a radius that is NaN", _set(*CURVE, "radius", to=float("nan")), "E205"),
    program("a radius that is endless", _set(*CURVE, "radius", to=1e300), "E205"),
    program("a profile that does not exist", _set("profiles", 0, "profile", to="gone"), "E206"),
    program("an open loop", _open_loop, "E207"),
    program("a loop without curves", _set("loops", 0, "profile_curves", to=[]), "E207"),
    program("a radius of zero", _set(*CURVE, "radius", to=0.0), "E208"),
    program("a distance of zero", _set("extent_one", "distance", "value", to=0.0), "E208"),
    program("a program without an extrude", _no_extrude, "E209"),
    program("an extrude without a profile", _set("profiles", to=[]), "E209"),
    program("a tapered extrude", _set("extent_one", "taper_angle", "value", to=0.1), "E214"),
    program("a part of a tenth of a nanometre", _too_fine, "E212"),
    program(
        "a sketch that is named 200,000 times", lambda data: data["sequence"].extend(data["sequence"][-1:] * 200_000), "E212"
    ),
    program("a thousand loops within one another", _concentric, "E212"),
    program("a target that is too long", _long, "E602"),
    Breakage(
        "files without permission",
        _unreadable,
        frozenset({"E201", "E404", "E405"}),
        {"0000/a": "text", "0000/b": "point_cloud", "0000/c": "image"},
    ),
]
