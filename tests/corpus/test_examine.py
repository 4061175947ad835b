"""Examiners, file by file: what they find in good files, and that they judge anything without raising."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cadmllm.cad import omnicad, tokens
from cadmllm.cad.bounds import program_box
from cadmllm.corpus import duplicates
from cadmllm.corpus.captionfiles import examine_captions
from cadmllm.corpus.examine import VERSION, examine_cloud, examine_program, examine_views
from cadmllm.corpus.facts import Facts
from cadmllm.corpus.points import load_cloud
from cadmllm.corpus.rawfile import json_of, read_raw
from cadmllm.errors import CODES, CadmllmError

BUNDLED = Path(__file__).resolve().parents[2] / "data"
SOME = ("00000000", "00000050", "00000033")
FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def told(facts: Facts) -> list[tuple[str, str]]:
    return [(flaw.code, flaw.level) for flaw in facts.flaws]


def sound(facts: Facts) -> Facts:
    """What holds of the outcome for any file: JSON values, known codes, the path in every message."""
    json.dumps(facts.values, allow_nan=False)
    assert (facts.values == {}) == any(flaw.level == "fail" for flaw in facts.flaws) or facts.values.get("views")
    for flaw in facts.flaws:
        assert flaw.code in CODES
        assert flaw.path in flaw.message
    return facts


# programs


@pytest.mark.parametrize("name", SOME)
def test_a_program_is_counted(name):
    path = BUNDLED / "json" / "0000" / f"{name}.json"
    facts = sound(examine_program(path))
    program = omnicad.read_json(path)
    assert facts.flaws == ()
    assert facts.code is None
    values = facts.values
    assert values["length"] == len(tokens.encode(program).tokens)
    assert values["near"] == list(duplicates.signatures(program))
    assert values["extrudes"] == len(program.extrudes) == sum(values["operations"].values()) == sum(values["extents"].values())
    text = path.read_text()
    for name_, kind in (("line", "Line3D"), ("arc", "Arc3D"), ("circle", "Circle3D")):
        assert values["curves"][name_] == text.count(f'"{kind}"')
    assert values["loops"] == text.count('"profile_curves"')
    assert values["sketches"] == sum(len(sketch.profiles) for extrude in program.extrudes for sketch in extrude.sketches)
    low, high = program_box(program)
    assert values["size"] == pytest.approx([b - a for a, b in zip(low, high, strict=True)])
    assert values["box"] == pytest.approx([*low, *high], abs=1e-6)


def test_the_digest_tells_programs_apart_and_not_their_files(tmp_path):
    first, other = (BUNDLED / "json" / "0000" / f"{name}.json" for name in SOME[:2])
    same = tmp_path / "same.json"
    same.write_text(json.dumps(json.loads(first.read_text()), indent=3))
    found = [examine_program(path).values["digest"] for path in (first, other, same)]
    assert found[0] == found[2] != found[1]
    assert all(len(digest) == 16 and int(digest, 16) >= 0 for digest in found)


def test_what_is_left_out_of_a_program_is_said(tmp_path):
    data = json.loads((BUNDLED / "json" / "0000" / "00000050.json").read_text())
    data["entities"]["none"] = data["entities"]["extrude_1"] | {"profiles": []}
    data["sequence"].append({"index": 9, "type": "ExtrudeFeature", "entity": "none"})
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data))
    facts = sound(examine_program(path))
    assert told(facts) == [("E209", "info")]
    assert facts.values["extrudes"] == 1


@FUZZ
@given(JSON)
def test_json_that_ends_early_is_told_from_json_that_is_wrong(value):
    text = json.dumps([value, {"end": 1}])
    path = Path("x.json")
    notes: list[str] = []
    assert json_of(text.encode(), path, "E202", "", notes) == [value, {"end": 1}]
    for size in range(1, len(text)):
        with pytest.raises(CadmllmError) as caught:
            json_of(text[:size].encode(), path, "E202", "", notes)
        assert caught.value.code == "E422", text[:size]
    for wrong in (f"{text},", f"{text}]", f"{{{text}}}", text.replace('"end"', "end")):
        with pytest.raises(CadmllmError) as caught:
            json_of(wrong.encode(), path, "E202", "", notes)
        assert caught.value.code == "E202", wrong
    assert notes == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_every_encoding_of_unicode_is_read(tmp_path, encoding):
    text = (BUNDLED / "json" / "0000" / f"{SOME[0]}.json").read_text()
    (tmp_path / "a.json").write_bytes(text.encode(encoding))
    facts = examine_program(tmp_path / "a.json")
    assert facts.values["length"] > 0
    assert told(facts) == ([] if encoding.startswith("utf-8") else [("E410", "warn")])
    entries = [{"id": "a", "text caption": "Würfel"}]
    (tmp_path / "b.json").write_bytes(json.dumps(entries, ensure_ascii=False).encode(encoding))
    captions, flaws = examine_captions(tmp_path / "b.json")
    assert captions == {"a": ("Würfel",)}
    assert [flaw.code for flaw in flaws] == ([] if encoding.startswith("utf-8") else ["E410"])


def test_a_character_cut_in_two_is_a_cut_file(tmp_path):
    (tmp_path / "a.json").write_bytes('[{"id": "a", "text caption": "Wü'.encode()[:-1])
    assert [flaw.code for flaw in examine_captions(tmp_path / "a.json")[1]] == ["E422"]


# clouds and views


def test_a_cloud_is_measured():
    path = BUNDLED / "pcd" / "0000" / f"{SOME[0]}.npz"
    facts = sound(examine_cloud(path))
    with np.load(path) as data:
        points = data["points"].astype(float)
        stored = [*data["center"].tolist(), float(data["scale"])]
    assert facts.flaws == ()
    assert (facts.values["points"], facts.values["normals"]) == (len(points), "file")
    assert facts.values["low"] == points.min(axis=0).tolist()
    assert facts.values["high"] == points.max(axis=0).tolist()
    assert facts.values["transform"] == stored


def put(path: Path, points: np.ndarray, **more: np.ndarray | float) -> Path:
    np.savez(path / "a.npz", points=points, **more)
    return path / "a.npz"


BALL = np.random.default_rng(0).normal(size=(500, 3))
BALL /= np.linalg.norm(BALL, axis=1, keepdims=True)
BOX = np.random.default_rng(1).uniform(-1, 1, (500, 3)) * [1.0, 0.4, 0.2]
BOX[:2] = [[-1.0, -0.4, -0.2], [1.0, 0.4, 0.2]]
TURN = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]


@pytest.mark.parametrize(
    ("points", "more", "expected"),
    [
        (BALL, {"normals": BALL}, []),
        (BOX, {}, [("E436", "info")]),
        (BALL, {"normals": BALL * 2.0}, [("E436", "info")]),
        (BALL, {"normals": BALL * 0.0}, [("E436", "warn")]),
        (BALL, {"normals": np.abs(BALL) * 255.0 * BOX[:, :1]}, [("E436", "warn")]),
        (BALL * 35.0 + 7.0, {"normals": BALL}, [("E435", "info")]),
        (BALL * 9.0, {"normals": BALL, "center": np.zeros(3), "scale": 1.0}, [("E435", "warn")]),
        (BALL * 0.96, {"normals": BALL, "center": np.ones(3), "scale": 0.5}, []),  # a sample never quite fills the part's box
        ((BOX * [1, 1, 0]) @ TURN, {"normals": BALL}, [("E435", "info"), ("E434", "warn")]),
        ((BOX * [1, 1, 1e-3]), {"normals": BALL}, []),  # a plate of 0.2 mm in 1 m
        ((BOX * [1, 0, 0]) @ TURN + 3.0, {"normals": BALL}, [("E433", "fail")]),
        (np.tile([1e8, 2e8, 3e8], (500, 1)), {}, [("E433", "fail")]),
    ],
)
def test_flaws_of_clouds_and_their_levels(tmp_path, points, more, expected):
    facts = sound(examine_cloud(put(tmp_path, points, **more)))
    assert told(facts) == expected


def test_training_meets_what_the_examiner_found(tmp_path):
    for name, content in (
        ("a.npy", b""),
        ("b.npz", b"PK\x03\x04"),
        ("c.ply", b"ply\n"),
        ("d.npy", b"<html>"),
        ("e.npy", bytes(99)),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CadmllmError) as caught:
            load_cloud(path, 16, 0)
        (flaw,) = examine_cloud(path).flaws
        assert (flaw.code, flaw.message) == (caught.value.code, caught.value.message)


def test_views_are_counted(tmp_path):
    paths = [BUNDLED / "img" / "0000" / f"{SOME[0]}_{k:03d}.png" for k in range(8)]
    facts = sound(examine_views(paths))
    assert facts == Facts({"views": 8, "numbers": list(range(8)), "width": 224, "height": 224}, rest=True)
    Image.open(paths[0]).convert("RGB").resize((90, 70)).save(tmp_path / "a_12.jpg")
    facts = sound(examine_views([*paths[:2], tmp_path / "a_12.jpg"]))
    assert told(facts) == [("E445", "warn")]
    assert facts.values == {"views": 3, "numbers": [0, 1, 12], "width": 90, "height": 70}


def test_flaws_of_views_and_their_levels(tmp_path):
    good = BUNDLED / "img" / "0000" / f"{SOME[0]}_000.png"
    for name, size, colour in (("blank", (224, 224), 250), ("small", (13, 300), 7), ("little", (60, 60), 7)):
        picture = Image.new("L", size, colour)
        if name != "blank":
            picture.putpixel((3, 3), 200)
        picture.save(tmp_path / f"{name}_001.png")
    blank, small, little = (tmp_path / f"{name}_001.png" for name in ("blank", "small", "little"))
    assert told(examine_views([good, blank])) == [("E442", "fail")]
    assert examine_views([good, blank]).code is None, "the other one can be used"
    assert told(examine_views([blank, blank])) == [("E442", "fail")] * 2
    assert examine_views([blank, blank]).code == "E442"
    assert told(examine_views([small])) == [("E441", "fail")]
    assert told(examine_views([little])) == [("E441", "warn")]
    facts = examine_views([tmp_path / "gone_001.png"])
    assert (told(facts), facts.values) == ([("E405", "fail")], {})
    noisy = Image.fromarray(np.random.default_rng(0).integers(248, 252, (80, 80, 3), dtype=np.uint8))
    noisy.save(tmp_path / "noise_001.png")
    assert told(examine_views([tmp_path / "noise_001.png"])) == [("E442", "fail")]  # what compression makes of one colour


# any file at all


SUFFIXES = (".json", ".npz", ".npy", ".ply", ".png", ".jpg")
SEEDS = {
    ".json": (BUNDLED / "json" / "0000" / f"{SOME[1]}.json").read_bytes(),
    ".npz": (BUNDLED / "pcd" / "0000" / f"{SOME[0]}.npz").read_bytes(),
    ".png": (BUNDLED / "img" / "0000" / f"{SOME[0]}_000.png").read_bytes(),
}


def judge(path: Path) -> Facts:
    if path.suffix == ".json":
        captions, flaws = examine_captions(path)
        sound(Facts({"ids": len(captions)} if not any(flaw.level == "fail" for flaw in flaws) else {}, flaws))
        return examine_program(path)
    return examine_cloud(path) if path.suffix in (".npz", ".npy", ".ply") else examine_views([path])


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SUFFIXES), st.data())
def test_nothing_that_a_file_may_hold_raises(tmp_path, suffix, data):
    content = bytearray(data.draw(st.sampled_from([SEEDS.get(suffix, b""), SEEDS[".npz"], b"ply\nformat ascii 1.0\n", b""])))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(content)))
        piece = data.draw(st.binary(max_size=8) | st.sampled_from([b"9" * 30, b'"', b"{", b"1e400", b"-", b"null", b"NaN"]))
        content[place : place + data.draw(st.integers(0, 12))] = piece
    path = tmp_path / f"a_000{suffix}"
    path.write_bytes(content)
    sound(judge(path))


@FUZZ
@given(st.data())
def test_no_edit_of_a_program_raises(tmp_path, data):
    """Values inside a valid program replaced by any JSON: what the schema's readers must stand."""
    program = json.loads(SEEDS[".json"])
    for _ in range(data.draw(st.integers(1, 3))):
        at = program
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = data.draw(st.sampled_from(keys))
            if isinstance(at[key], (dict, list)) and at[key] and data.draw(st.booleans()):
                at = at[key]
                continue
            at[key] = data.draw(JSON | st.sampled_from([1e-9, -1.0, 1e6, 1e308, 0, "profile_1", "sketch_1"]))
            break
        if not isinstance(program, dict):
            break
    path = tmp_path / "a.json"
    path.write_text(json.dumps(program))
    sound(examine_program(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_file_is_not_opened(tmp_path, suffix):
    pipe, folder, device = (tmp_path / f"{name}_000{suffix}" for name in ("pipe", "folder", "device"))
    os.mkfifo(pipe)  # whoever opens it to read waits for ever
    folder.mkdir()
    device.symlink_to("/dev/zero")
    for path in (pipe, folder, device):
        facts = sound(judge(path))
        assert facts.code == "E420"


@pytest.mark.parametrize(("suffix", "code"), [(".json", "E201"), (".npz", "E404"), (".png", "E405")])
def test_what_may_not_be_read_is_said(tmp_path, suffix, code, monkeypatch):
    path = tmp_path / f"a_000{suffix}"
    assert judge(path).code == code
    path.write_bytes(SEEDS[suffix])

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    facts = sound(judge(path))
    assert facts.code == code
    assert "Permission denied" in facts.flaws[0].message
    if suffix == ".json":
        assert [flaw.code for flaw in examine_captions(path)[1]] == ["E402"]


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no space
    assert examine_program(path).code == "E201"
    assert [flaw.code for flaw in examine_captions(path)[1]] == ["E402"]
    with pytest.raises(CadmllmError):
        read_raw(path, 2**30, "E404", "")


def test_the_version_changes_with_what_judges(monkeypatch):
    import importlib

    from cadmllm.cad import vocabulary
    from cadmllm.corpus import examine

    seen = {VERSION}
    for module, name, value in (
        (vocabulary, "VOCABULARY", (*vocabulary.VOCABULARY, "more")),
        (duplicates, "VERSION", "another"),
        (importlib.import_module("cadmllm"), "__version__", "9.9"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(module, name, value)
            seen.add(importlib.reload(examine).VERSION)
    assert importlib.reload(examine).VERSION == VERSION
    assert len(seen) == 4
