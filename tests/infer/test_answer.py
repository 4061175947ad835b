"""Files of an answer: all of one run, or none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cadmllm.cad.convert import read_program
from cadmllm.cad.frame import Transform
from cadmllm.cad.omnicad import read_json, recorded_box
from cadmllm.cad.program import Program
from cadmllm.cad.tokens import decode, from_text
from cadmllm.cad.workshop import Workshop
from cadmllm.errors import CadmllmError
from cadmllm.infer import part as room
from cadmllm.infer.answer import FILES, check_out, no_solid
from cadmllm.infer.checkpoint import shown
from cadmllm.infer.generate import Answer
from cadmllm.infer.judge import program_of
from cadmllm.infer.part import Part, command_counts, measures

BOX = "size 40 mm\nplane_z -128\nrect -512 -256 1024 512\nhole_circle 0 0 64\nnew_up 256\nend\n"
NOTHING = "size 40 mm\nplane_z 0\nloop 0 0\nhline 100\nhline 50\nhline 0\nclose\nnew_up 256\nend\n"


def answer_of(text: str) -> Answer:
    return Answer(tuple(from_text(text)), True, -1.0, 5)


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop(1, 20.0) as open_one:
        yield open_one


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of full size takes over a second."""
    monkeypatch.setattr(room, "PIXELS", 96)


def part_of(
    answer: Answer | str, workshop: Workshop, transform: Transform | None = None, unit: str = "mm", **record: Any
) -> Part:
    answer = answer_of(answer) if isinstance(answer, str) else answer
    found = program_of(answer, transform)
    program = found if isinstance(found, Program) else None
    result = workshop.build(found, mesh=True) if isinstance(found, Program) else found
    whole = {**record, **measures(program, result), "notes": []}
    return Part("part", program, result, answer.tokens, whole, workshop, unit, transform is not None)


def deliver(part: Part, out: Path) -> dict[str, Any]:
    assert part.save(out) == part.record["files"]
    return part.record


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_solid_leaves_files_that_agree(tmp_path: Path, workshop: Workshop) -> None:
    out = tmp_path / "deep" / "er"
    record = deliver(part_of(BOX, workshop, prompt="a plate"), out)
    assert names(out) == set(FILES) == set(record["files"])
    assert names(tmp_path) == {"deep"}
    assert json.loads((out / "record.json").read_text()) == record
    assert (record["verdict"], record["prompt"]) == ("OK", "a plate")
    assert record["size_mm"] == pytest.approx([40.0, 20.0, 10.0], abs=1e-6)
    assert record["volume_mm3"] == pytest.approx(8000.0 - np.pi * 2.5**2 * 10.0, rel=1e-6)
    assert record["commands"] == {"extrude": 1, "line": 4, "arc": 0, "circle": 1}
    assert from_text((out / "program.txt").read_text()) == from_text(BOX)
    assert command_counts(read_json(out / "program.json")) == record["commands"]
    assert np.allclose(recorded_box(out / "program.json"), record["box_mm"], atol=1e-6)
    assert (out / "model.step").read_text().startswith("ISO-10303-21")
    assert "export_step" in (out / "program.py").read_text()
    assert (out / "model.glb").read_bytes()[:4] == b"glTF"
    assert (out / "model.stl").stat().st_size == 84 + 50 * part_of(BOX, workshop).mesh.faces.shape[0]
    with Image.open(out / "model.png") as picture:
        assert picture.size == (96, 96)
        pixels = np.asarray(picture.convert("L"))
    assert 0.05 < (pixels < 250).mean() < 0.9


def test_the_same_answer_gives_the_same_bytes(tmp_path: Path, workshop: Workshop) -> None:
    for name in ("a", "b"):
        deliver(part_of(BOX, workshop), tmp_path / name)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_cloud_gives_its_coordinates_and_every_form_of_the_program_has_them(tmp_path: Path, workshop: Workshop) -> None:
    frame = Transform((100.0, 0.0, -50.0), 2.0 / 80.0)
    record = deliver(part_of(BOX, workshop, frame), tmp_path / "out")
    assert np.allclose(record["box_mm"], [(60.0, -20.0, -60.0), (140.0, 20.0, -40.0)], atol=1e-6)
    for name in ("program.json", "program.txt"):
        built = workshop.build(read_program(tmp_path / "out" / name)[0])
        assert built.box is not None
        assert np.allclose(built.box, record["box_mm"], atol=1e-3), name


def test_units_are_those_asked_for(tmp_path: Path, workshop: Workshop) -> None:
    deliver(part_of(BOX, workshop, unit="in"), tmp_path / "out")
    assert "INCH" in (tmp_path / "out" / "model.step").read_text().upper()
    stl = np.frombuffer((tmp_path / "out" / "model.stl").read_bytes()[84:], np.uint8).reshape(-1, 50)[:, 12:48]
    corners = np.ascontiguousarray(stl).view("<f4").reshape(-1, 3)
    assert np.allclose(np.ptp(corners, axis=0), np.array([40.0, 20.0, 10.0]) / 25.4, atol=1e-4)


def test_the_solid_is_the_part(workshop: Workshop) -> None:
    from cadmllm.cad.kernel import measure

    part = part_of(BOX, workshop)
    assert measure(part.solid)["volume"] == pytest.approx(part.result.volume)
    assert from_text(part.text) == list(part.tokens)
    nothing = part_of(NOTHING, workshop)
    assert nothing.solid is None
    with pytest.raises(CadmllmError) as caught:
        nothing.to_step("never.step")
    assert caught.value.code == "E302"


def test_no_solid_leaves_program_and_record_and_nothing_of_an_earlier_answer(tmp_path: Path, workshop: Workshop) -> None:
    out = tmp_path / "out"
    deliver(part_of(BOX, workshop), out)
    (out / "mine.txt").write_text("not ours")
    record = deliver(part_of(NOTHING, workshop), out)
    assert record["verdict"] != "OK"
    assert record["reason"]
    assert {"program.txt", "record.json", "mine.txt"} <= names(out)
    assert not {"model.step", "model.png", "model.stl", "model.glb"} & names(out)
    error = no_solid(record, out)
    assert error.code == "E702"
    assert record["verdict"] in error.message
    assert record["reason"] in error.message


def test_an_arc_that_cannot_be_drawn_is_a_verdict_not_a_crash(tmp_path: Path, workshop: Workshop) -> None:
    text = BOX.replace("hole_circle 0 0 64", "hole 0 0\nhline 50\narc 50 0 90\nvline 50\nclose")
    record = deliver(part_of(text, workshop), tmp_path / "out")
    assert record["verdict"] == "INVALID"
    assert names(tmp_path / "out") == {"program.txt", "record.json"}
    assert any("program.json" in note for note in record["notes"])


def test_an_answer_that_never_ended_leaves_its_record(tmp_path: Path, workshop: Workshop) -> None:
    record = deliver(part_of(Answer(tuple(from_text(BOX)[:-1]), False, -1.0, 5), workshop), tmp_path / "out")
    assert record["verdict"] == "PARSE"
    assert names(tmp_path / "out") == {"record.json"}


def test_a_failure_on_the_way_keeps_the_earlier_answer(
    tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    deliver(part_of(BOX, workshop, prompt="first"), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_: object) -> None:
        raise CadmllmError("E303", "the disk is full", "make room")

    monkeypatch.setattr(room, "write_png", fail)
    with pytest.raises(CadmllmError):
        deliver(part_of(BOX.replace("40", "50"), workshop, prompt="second"), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(CadmllmError):
        deliver(part_of(BOX, workshop), tmp_path / "new")
    assert names(tmp_path) == {"out"}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CadmllmError) as caught:
            check_out(out)
        assert caught.value.code == "E303"
    check_out(tmp_path / "not" / "yet")
    check_out(Path("not-yet"))
    assert names(tmp_path) == {"file"}


def test_a_record_names_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "run" / "stage1") == "run/stage1"
    assert shown(Path("a.png")) == "a.png"
    assert shown(Path("/home/somebody/secret/run/stage1")) == "run/stage1"


def test_commands_are_counted() -> None:
    program = decode(
        from_text("size 40 mm\nplane_z 0\nrect -512 -256 1024 512\nnew_up 256\nplane_z 256\ncircle 0 0 100\njoin_up 9\nend\n")
    )
    assert command_counts(program) == {"extrude": 2, "line": 4, "arc": 0, "circle": 1}
