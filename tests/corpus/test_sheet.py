"""Sheets: what is known of an id, drawn; what is missing or broken is labelled."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cadmllm.cad import omnicad
from cadmllm.cad.kernel import BuildResult, Verdict
from cadmllm.cad.mesh import sample_surface
from cadmllm.cad.program import Line, Loop, Profile
from cadmllm.cad.workshop import Workshop
from cadmllm.corpus.exhibit import choose, find, gather, open_any
from cadmllm.corpus.facts import Flaw
from cadmllm.corpus.lettering import ELLIPSIS
from cadmllm.corpus.paper import Box, Paper
from cadmllm.corpus.parts import generate
from cadmllm.corpus.sheet import draw_sheet, write_sheets
from cadmllm.errors import CadmllmError
from cadmllm.settings import DataSettings


@pytest.fixture(scope="module")
def workshop():
    with Workshop(1, 30.0) as shop:
        yield shop


def said(paper: Paper) -> list[str]:
    """Every line on the page; none leaves it, and none runs into another."""
    width, height = paper.image.size
    for text, box in paper.written:
        assert Box(0, 0, width, height).holds(box), text
    boxes = [(text, box) for text, box in paper.written if text.strip()]
    for k, (text, box) in enumerate(boxes):
        for other, beside in boxes[:k]:
            apart = box.right <= beside.left + 1 or beside.right <= box.left + 1
            apart = apart or box.bottom <= beside.top + 4 or beside.bottom <= box.top + 4  # lines are higher than their letters
            assert apart, f"{text!r} runs into {other!r}"
    return [text for text, _ in paper.written]


def sheet(root: Path, id_: str, workshop, **more):
    exhibit = gather(open_any(DataSettings(root=root, **more)), id_, workshop)
    return exhibit, said(draw_sheet(exhibit))


def test_a_whole_id_shows_everything(root, workshop):
    exhibit, lines = sheet(root, "0000/a", workshop)
    assert exhibit.side in ("train", "val")
    assert len(exhibit.views) == 8
    assert exhibit.mesh is not None
    assert {
        "0000/a",
        "part a",
        "2  short a",
        "Views",
        "Built from the program",
        "Point cloud",
        "Program",
        "What is learned",
    } <= set(lines)
    assert {"000", "007", "caption", "program", "cloud", "views", exhibit.side} <= set(lines)
    assert exhibit.text.splitlines()[0] in lines
    program = omnicad.read_json(root / "json" / "0000" / "a.json")
    assert any(line.startswith(f"{len(program.extrudes)} feature") for line in lines)
    figures = exhibit.as_dict()
    assert figures["built"]["verdict"] == "OK"
    assert figures["built"]["volume"] > 0
    assert figures["cloud"]["points"] == 200
    json.dumps(figures, allow_nan=False)


def test_missing_modalities_have_a_labelled_place(root, workshop):
    exhibit, lines = sheet(root, "0000/c", workshop)
    assert "Views drawn from the program" in lines
    assert "No point cloud" in lines
    assert {"cloud: none", "views: none"} <= set(lines)
    assert any("data prepare" in line for line in lines)
    assert exhibit.flaws == []


def test_an_id_of_which_little_is_there(root, workshop):
    (root / "json" / "0000" / "b.json").unlink()
    exhibit, lines = sheet(root, "0000/b", workshop)
    assert exhibit.side == "not used"
    assert {"No program", "No target", "No solid", "No views", "program: none"} <= set(lines)
    assert "Point cloud from behind, below" in lines
    np.save(root / "pcd" / "0000" / "d.npy", np.random.default_rng(0).normal(size=(40, 3)))
    _, lines = sheet(root, "0000/d", workshop)
    assert "This id has no caption: it cannot be trained on." in lines
    assert "coloured by depth: no normals" in lines


def test_what_is_broken_is_said_and_the_rest_is_shown(root, workshop):
    (root / "json" / "0000" / "a.json").write_text('{"entities": 7}')
    (root / "pcd" / "0000" / "a.npz").write_bytes(b"PK not an archive")
    (root / "img" / "0000" / "a_003.png").write_bytes(b"")
    exhibit, lines = sheet(root, "0000/a", workshop)
    codes = {flaw.code for flaw in exhibit.flaws}
    assert "E421" in codes
    assert len(codes) >= 3
    assert {f"{code} fail" for code in codes} <= set(lines)
    assert {"program: broken", "cloud: broken", "views", "view 003", "No solid", "No point cloud", "No program"} <= set(lines)
    assert {"000", "002", "004"} <= set(lines)
    assert exhibit.side == "not used"


def test_a_cloud_of_another_part_is_told(root, workshop):
    parts = list(generate(3, 5))
    omnicad.write_json(parts[1].program, root / "json" / "0000" / "a.json")
    built = workshop.build(parts[1].program, mesh=True).mesh
    assert built is not None
    np.savez(root / "pcd" / "0000" / "a.npz", points=sample_surface(built, 2000, 1)[0])
    exhibit, _ = sheet(root, "0000/a", workshop)
    assert exhibit.distances is not None
    assert np.quantile(exhibit.distances, 0.95) < 0.005
    assert "E462" not in {flaw.code for flaw in exhibit.flaws}
    np.savez(root / "pcd" / "0000" / "a.npz", points=np.random.default_rng(0).uniform(-1, 1, (2000, 3)) ** 3)
    exhibit, lines = sheet(root, "0000/a", workshop)
    assert "E462" in {flaw.code for flaw in exhibit.flaws}
    assert "E462 fail" in lines


def test_long_texts_are_cut_and_counted(root, workshop):
    captions = {f"text caption {k}": f"caption {k} " * 200 for k in range(8)}
    entries = [{"id": "0000/a", "text caption": "x" * 9000, **captions}]
    (root / "txt" / "0000.json").write_text(json.dumps(entries))
    points = [(0.05 * k, float(k % 2) * 3 - 5.0 * (k == 0)) for k in range(400)]
    program = next(iter(generate(1, 0))).program
    loop = Loop(tuple(Line(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True)))
    first = program.extrudes[0]
    long = replace(first, sketches=(replace(first.sketches[0], profiles=(Profile(loop),) * 14),))
    omnicad.write_json(replace(program, extrudes=(long,)), root / "json" / "0000" / "a.json")
    exhibit, lines = sheet(root, "0000/a", workshop)
    assert len(exhibit.captions) == 9
    counted = [line for line in lines if re.search(r"… [\d,]+ more", line)]
    assert any("more characters" in line for line in counted)
    assert any("5 more captions" in line for line in counted)
    assert sum("more lines" in line for line in counted) == 2
    assert draw_sheet(exhibit).image.height < 3000


@pytest.mark.parametrize(
    "caption",
    [
        "日本語のキャプション",
        "Größe 40 × 20 mm³ ≤ ±12.5°",
        "\u202eabc\u0000",
        "\U0001f600 \U0001f469\u200d\U0001f527",
        "a\n\n\tb",
    ],
)
def test_captions_in_any_script_are_drawn(root, workshop, caption):
    (root / "txt" / "0000.json").write_text(json.dumps([{"id": "0000/c", "text caption": caption}]))
    sheet(root, "0000/c", workshop)


def test_many_flaws_are_cut_and_counted(root, workshop):
    exhibit = gather(open_any(DataSettings(root=root)), "0000/c", workshop)
    exhibit.flaws = [Flaw("E201", "warn", "x", f"flaw {k} " + "of a long name " * 40) for k in range(20)]
    exhibit.flaws.append(Flaw("E202", "fail", "x", "the worst"))
    lines = said(draw_sheet(exhibit))
    assert "E202 fail" in lines
    assert "… 15 more" in lines
    assert any(line.endswith(ELLIPSIS) for line in lines)


def test_ids_are_found_or_their_neighbours_named(root):
    dataset = open_any(DataSettings(root=root))
    assert find(dataset, "0000/a") == find(dataset, "a") == "0000/a"
    with pytest.raises(CadmllmError) as caught:
        find(dataset, "0000/aa")
    assert caught.value.code == "E407"
    assert "0000/a" in caught.value.message
    assert "cadmllm data show 0000/" in caught.value.remedy
    for hostile in ("../a", "/etc/passwd", "0000/..", "a\x00"):
        with pytest.raises(CadmllmError) as caught:
            find(dataset, hostile)
        assert caught.value.code == "E403"


def test_a_link_out_of_the_data_set_is_not_read(root, workshop, tmp_path):
    secret = tmp_path / "secret.json"
    (root / "json" / "0000" / "a.json").rename(secret)
    dataset = open_any(DataSettings(root=root))
    (root / "json" / "0000" / "c.json").unlink()
    (root / "json" / "0000" / "c.json").symlink_to(secret)  # after the listing
    exhibit = gather(dataset, "0000/c", workshop)
    assert exhibit.program is None
    assert "E419" in {flaw.code for flaw in exhibit.flaws}
    assert "not used" in said(draw_sheet(exhibit))


def test_random_ids_are_different_and_the_seed_s(root):
    dataset = open_any(DataSettings(root=root))
    assert choose(dataset, 3, 0) == ["0000/a", "0000/b", "0000/c"] == choose(dataset, 9, 4)
    assert {choose(dataset, 1, seed)[0] for seed in range(20)} == {"0000/a", "0000/b", "0000/c"}
    assert choose(dataset, 2, 7) == choose(dataset, 2, 7)


def test_sheets_are_files_and_the_same_bytes_again(root, tmp_path):
    dataset = open_any(DataSettings(root=root))
    made = list(write_sheets(dataset, ["0000/a", "0000/c"], tmp_path / "out", 30.0))
    assert [sheet["sheet"] for sheet in made] == [str(tmp_path / "out" / f"0000_{name}.png") for name in "ac"]
    before = (tmp_path / "out" / "0000_a.png").read_bytes()
    assert Image.open(tmp_path / "out" / "0000_a.png").width == 1600
    (tmp_path / "file").write_text("")
    with pytest.raises(CadmllmError) as caught:
        list(write_sheets(dataset, ["0000/a"], tmp_path / "file" / "x", 30.0))
    assert caught.value.code == "E303"
    list(write_sheets(dataset, ["0000/a"], tmp_path / "one.png", 30.0))
    assert (tmp_path / "one.png").read_bytes() == before


def test_an_empty_place_says_why_inside_itself():
    paper = Paper(400)
    for box, why in ((Box(10, 10, 250, 250), "word " * 300), (Box(300, 10, 1200, 60), "x" * 500)):
        paper.empty(box, "No such thing at all, whatever it may be called", why, broken=True)
        for text, place in paper.written:
            assert box.holds(place), text
        assert any(text.endswith(ELLIPSIS) for text, _ in paper.written)
        paper.written.clear()


class Idle:
    """Stands for a workshop whose kernel has one answer."""

    def __init__(self, answer: BuildResult | CadmllmError) -> None:
        self.answer = answer

    def build(self, program, *, mesh):
        if isinstance(self.answer, CadmllmError):
            raise self.answer
        return self.answer


def test_without_a_kernel_or_in_time_the_rest_is_shown(root):
    missing = CadmllmError("E301", "the CAD kernel is not installed", "pip install it")
    exhibit, lines = sheet(root, "0000/a", Idle(missing))
    assert exhibit.build is None
    assert "E301 the CAD kernel is not installed" in lines
    assert {"No solid", "not built", "Point cloud", "000", "Views"} <= set(lines)
    exhibit, lines = sheet(root, "0000/c", Idle(BuildResult(Verdict.TIMEOUT, "not built within 30 s", seconds=30.0)))
    assert {"No views", "No solid", "TIMEOUT", "E302 warn"} <= set(lines)
    assert exhibit.as_dict()["built"] == {"verdict": "TIMEOUT", "reason": "not built within 30 s"}
