"""One program, everything made of it: the same bytes always, and no input that does more than fail."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cadmllm.cad import kernel, omnicad
from cadmllm.cad.kernel import Verdict
from cadmllm.cad.mesh import Mesh, sample_surface
from cadmllm.cad.render import render
from cadmllm.corpus import derive as room
from cadmllm.corpus.derive import Piece, Recipe, cloud_bytes, derive, digest, targets, view_bytes
from cadmllm.errors import CadmllmError
from tests.cad.parts import BOW, PLATE

ALL = Recipe(points=64, views=True, step=True, size=32)


@pytest.fixture(scope="module")
def plate() -> Mesh:
    return kernel.tessellate(kernel.build_shape(PLATE))


def piece(root: Path, program=PLATE, recipe: Recipe = ALL, id_: str = "0000/a") -> Piece:
    path = root / "json" / f"{id_}.json"
    for folder in (path.parent, root / "aside", *((root / name).parent for p in recipe.products for name in targets(id_, p))):
        folder.mkdir(parents=True, exist_ok=True)
    if program is not None:
        omnicad.write_json(program, path)
    return Piece(id_, path, root, root / "aside", recipe.products, recipe)


def test_everything_is_made_and_told_of(tmp_path: Path):
    given = piece(tmp_path)
    outcome = derive(given)
    assert outcome.ok
    assert outcome.program == hashlib.sha256(given.program.read_bytes()).hexdigest()
    assert list(outcome.seconds) == list(room.STAGES)
    for product in ALL.products:
        for name, made in zip(targets("0000/a", product), outcome.files[product], strict=True):
            content = (tmp_path / name).read_bytes()
            assert (made.size, made.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    with np.load(tmp_path / "pcd/0000/a.npz", allow_pickle=False) as cloud:
        assert cloud["points"].shape == cloud["normals"].shape == (64, 3)
        assert (*cloud["center"], cloud["scale"]) == outcome.transform == (0.0, 0.0, 4.0, 2.0 / 80.0)
        in_mm = cloud["points"] / cloud["scale"] + cloud["center"]
        assert (in_mm.min(axis=0) >= np.array([-40, -20, 0]) - 1e-3).all()
        assert (in_mm.max(axis=0) <= np.array([40, 20, 8]) + 1e-3).all()
        assert np.ptp(in_mm, axis=0)[:2] == pytest.approx([80, 40], rel=0.3)
    low, high = kernel.measure(kernel.read_step(tmp_path / "step/0000/a.step"))["box"]  # STEP stays in mm, where the part is
    assert np.allclose([low, high], [(-40, -20, 0), (40, 20, 8)])
    assert Image.open(tmp_path / "img/0000/a_007.png").size == (32, 32)
    assert list((tmp_path / "aside").iterdir()) == []


def test_the_same_bytes_again_and_at_another_time(tmp_path: Path, monkeypatch):
    first = derive(piece(tmp_path / "one"))
    monkeypatch.setattr(zipfile.time, "localtime", lambda *a: (2044, 2, 29, 12, 0, 0, 0, 60, 0))
    monkeypatch.setattr(zipfile.time, "time", lambda: 2.34e9)
    monkeypatch.setattr(os, "umask", lambda mask: 0o077)
    again = derive(piece(tmp_path / "two"))
    assert (first.files, first.transform, first.program) == (again.files, again.transform, again.program)


def test_a_clouds_file_has_no_date_and_no_machine_in_it(plate):
    with zipfile.ZipFile(io.BytesIO(cloud_bytes(plate, "0000/a", ALL))) as archive:
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert (entry.compress_type, entry.create_system, entry.extra, entry.comment) == (zipfile.ZIP_STORED, 3, b"", b"")


def test_points_depend_on_seed_and_id(plate):
    bytes_of = {cloud_bytes(plate, id_, Recipe(points=16, seed=seed)) for id_ in ("0000/a", "0000/b") for seed in (0, 1)}
    assert len(bytes_of) == 4


def test_compact_files_are_smaller_and_show_the_same(plate):
    small = Recipe(points=512, views=True, size=96, compact=True)
    large = Recipe(points=512, views=True, size=96)
    assert len(cloud_bytes(plate, "a", small)) < 0.6 * len(cloud_bytes(plate, "a", large))
    for a, b in zip(view_bytes(plate, small), view_bytes(plate, large), strict=True):
        assert len(a) < len(b)
        difference = np.asarray(Image.open(io.BytesIO(a)).convert("RGB")).astype(int) - np.asarray(Image.open(io.BytesIO(b)))
        assert np.abs(difference).mean() < 6.0


@pytest.mark.parametrize(
    ("text", "code"),
    [("", "E202"), ("{", "E202"), ("[" * 100_000, "E202"), ("{}", "E203"), ('{"entities": {}, "sequence": []}', "E209")],
)
def test_what_is_no_program_is_a_verdict(tmp_path: Path, text: str, code: str):
    given = piece(tmp_path, None)
    given.program.write_text(text)
    outcome = derive(given)
    assert (outcome.verdict, outcome.code) == (Verdict.PARSE, code)
    assert str(tmp_path) not in outcome.reason
    assert outcome.program == hashlib.sha256(text.encode()).hexdigest()
    assert not list((tmp_path / "pcd/0000").iterdir())


def test_a_solid_that_cannot_be_is_a_verdict(tmp_path: Path):
    outcome = derive(piece(tmp_path, BOW))
    assert (outcome.verdict, outcome.code, outcome.files) == (Verdict.INVALID, "E302", {})


def test_pipes_sockets_folders_and_giants_are_not_read(tmp_path: Path):
    def fifo(path: Path) -> None:
        os.mkfifo(path)

    def bound(path: Path) -> None:
        os.chdir(path.parent)  # a socket's path may have 108 characters
        socket.socket(socket.AF_UNIX).bind(path.name)

    def giant(path: Path) -> None:
        with open(path, "wb") as file:
            file.truncate(room.LARGEST_PROGRAM + 1)

    here = os.getcwd()
    cases = ((fifo, "E420"), (bound, "E420"), (Path.mkdir, "E201"), (giant, "E202"), (lambda path: None, "E201"))
    for number, (make, code) in enumerate(cases):
        given = piece(tmp_path / str(number), None)
        make(given.program)
        os.chdir(here)
        outcome = derive(given)
        assert (outcome.verdict, outcome.code, outcome.program) == (Verdict.PARSE, code, ""), outcome
        with pytest.raises(CadmllmError):
            digest(given.program)


def test_what_goes_wrong_in_a_stage_is_that_programs_verdict(tmp_path: Path, monkeypatch):
    def broken(*args):
        raise MemoryError("too many triangles")

    monkeypatch.setattr(room, "cloud_bytes", broken)
    outcome = derive(piece(tmp_path))
    assert (outcome.verdict, outcome.reason) == (Verdict.BUILD, "points: MemoryError: too many triangles")
    assert not list((tmp_path / "img/0000").iterdir())


def test_a_place_that_cannot_be_written_is_the_runs_error(tmp_path: Path):
    given = piece(tmp_path)
    (tmp_path / "pcd/0000").rmdir()
    with pytest.raises(CadmllmError) as caught:
        derive(given)
    assert caught.value.code == "E303"
    assert list((tmp_path / "aside").iterdir()) == []


def test_versions_are_raised_when_results_change(plate):
    """If this fails, what is made has changed: raise BUILDER, SAMPLER or RENDERER in derive.py, then the figures here."""
    assert (room.BUILDER, room.SAMPLER, room.RENDERER) == (1, 1, 1)
    assert len(plate.faces) == 524
    points, normals = sample_surface(plate, 3, 7)
    assert np.allclose(
        points[:2], [[6.954541838786876, 12.389601195794633, 0.0], [-24.429234272520766, -13.514368556892766, 8.0]]
    )
    assert np.allclose(normals[:2], [[0, 0, -1], [0, 0, 1]])
    rows = {
        4: [255, 255, 255, 212, 80, 89, 73, 102, 212, 255, 255, 255, 255, 255, 255, 255],
        7: [255, 124, 53, 52, 121, 189, 205, 205, 205, 205, 189, 89, 80, 212, 255, 255],
        10: [255, 255, 255, 255, 255, 255, 124, 54, 52, 104, 137, 49, 48, 100, 212, 255],
    }
    picture = render(plate, 1, 16).mean(axis=2)
    for row, expected in rows.items():
        assert np.abs(picture[row] - expected).max() < 3.0


def test_parameters_name_all_that_decides_the_bytes():
    assert ALL.products == ("points", "step", "views")
    texts = {json.dumps([recipe.parameters(p) for p in recipe.products]) for recipe in (ALL, Recipe(64, True, True, 32, seed=1))}
    assert len(texts) == 2
    assert kernel_named(ALL)


def kernel_named(recipe: Recipe) -> bool:
    return all(room.kernel_version() in recipe.parameters(product)["by"] for product in recipe.products)
