"""`cadmllm convert`: every direction, folders, what is refused, and that nothing is left behind."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import difference, programs

from cadmllm.cad import convert as room
from cadmllm.cad.bounds import program_box
from cadmllm.cad.deepcad_vec import read_h5
from cadmllm.cad.omnicad import read_json, write_json
from cadmllm.cad.program import (
    Circle,
    Extent,
    ExtentType,
    Extrude,
    Line,
    Loop,
    Operation,
    Plane,
    Profile,
    Program,
    Sketch,
    validate,
)
from cadmllm.cli import main
from cadmllm.errors import CadmllmError, Exit


def plate(width: float = 40.0, hole: float = 5.0, operation: Operation = Operation.NEW_BODY) -> Program:
    """A plate with a hole, away from the origin."""
    points = [(0.0, 0.0), (width, 0.0), (width, 20.0), (0.0, 20.0)]
    outer = Loop(tuple(Line(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True)))
    profile = Profile(outer, (Loop((Circle((width / 2, 10.0), hole),)),))
    sketch = Sketch(Plane(origin=(100.0, -50.0, 7.0)), (profile,))
    return Program((Extrude((sketch,), operation, Extent(ExtentType.ONE_SIDE, 5.0)),))


CROSSING = Loop(tuple(Line(a, b) for a, b in (((0, 0), (9, 9)), ((9, 9), (9, 0)), ((9, 0), (0, 5)), ((0, 5), (0, 0)))))


@pytest.fixture
def part(tmp_path: Path) -> Path:
    write_json(plate(), tmp_path / "part.json")
    return tmp_path / "part.json"


def run(*words: object, kernel: int = 1) -> int:
    return main(["convert", *map(str, words), "--set", f"kernel.workers={kernel}"])


def left(folder: Path) -> list[str]:
    """Every file and folder under `folder`, hidden ones included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# directions


@pytest.mark.parametrize("middle", ["json", "h5", "txt"])
def test_programs_survive_every_program_format(part, middle, capsys):
    other, back = part.with_name(f"other.{middle}"), part.with_name("back.json")
    assert run(part, other) == Exit.DONE
    assert run(other, back) == Exit.DONE
    assert capsys.readouterr().out.splitlines() == [
        f"{other}: 1 of 1 converted, 0 failed",
        f"{back}: 1 of 1 converted, 0 failed",
    ]
    program = read_json(back)
    if middle == "h5":  # 8 bits and no size: the shape alone
        assert len(program.extrudes[0].sketches[0].profiles[0].inner) == 1
        return
    assert difference(program, plate()) < 1e-9 or middle == "txt"
    for found, wanted in zip(program_box(program), program_box(plate()), strict=True):
        assert found == pytest.approx(wanted, abs=0.01)


def test_vectors_are_scaled_by_the_recorded_box(part, tmp_path):
    write_json(plate(), tmp_path / "far.json", ((0.0, 0.0, 0.0), (800.0, 0.0, 0.0)))
    for name in ("part", "far"):
        assert run(tmp_path / f"{name}.json", tmp_path / f"{name}.h5") == Exit.DONE
    near, far = (program_box(read_h5(tmp_path / f"{name}.h5")) for name in ("part", "far"))
    assert far[1][0] < near[1][0] / 3


def test_source(part):
    assert run(part, part.with_name("a.py")) == Exit.DONE
    text = part.with_name("a.py").read_text()
    ast.parse(text)
    assert 'export_step(part.part, "a.step")' in text


@pytest.mark.parametrize(
    ("ending", "magic"), [("step", b"ISO-10303-21"), ("stl", b""), ("glb", b"glTF"), ("png", b"\x89PNG"), ("STP", b"ISO-10303")]
)
def test_solids_and_pictures(part, ending, magic):
    target = part.with_name(f"a.{ending}")
    assert run(part, target) == Exit.DONE
    raw = target.read_bytes()
    assert raw.startswith(magic)
    assert len(raw) > 1000
    assert left(part.parent) == sorted([target.name, part.name])


def test_a_missing_folder_is_made(part, tmp_path):
    assert run(part, tmp_path / "new" / "er" / "a.txt") == Exit.DONE
    assert run(part, tmp_path / "folder", "--to", ".TXT") == Exit.DONE
    assert left(tmp_path) == ["folder", "folder/part.txt", "new", "new/er", "new/er/a.txt", "part.json"]


# folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good programs, a broken one, and one that gives no solid, in sub-folders."""
    root = tmp_path / "in"
    for name in ("0000/a", "0000/b", "0001/c"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(plate(), root / f"{name}.json")
    (root / "0001" / "broken.json").write_text("{")
    bad = Program((Extrude((Sketch(Plane(), (Profile(CROSSING),)),), Operation.NEW_BODY, Extent(ExtentType.ONE_SIDE, 5.0)),))
    (root / "0002").mkdir()
    write_json(bad, root / "0002" / "crossing.json")
    return root


def test_a_folder_keeps_its_sub_folders_and_reports_failures(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(folder, out, "--to", "step", "--json", "--workers", "2") == Exit.USER
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert report == {
        "total": 5,
        "ok": 3,
        "failed": 2,
        "verdicts": {"INVALID": 1, "OK": 3, "PARSE": 1},
        "failures": report["failures"],
    }
    assert [(item["file"], item["code"]) for item in report["failures"]] == [
        (str(folder / "0001" / "broken.json"), "E202"),
        (str(folder / "0002" / "crossing.json"), "E302"),
    ]
    assert all(item["file"] in item["reason"] for item in report["failures"])
    assert left(out) == ["0000", "0000/a.step", "0000/b.step", "0001", "0001/c.step"]
    assert "converting" in shown.err


def test_a_folder_for_people(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "out", "--to", "txt", "--quiet") == Exit.USER
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == f"{tmp_path / 'out'}: 4 of 5 converted, 1 failed"
    assert "E202" in shown.out
    assert shown.err == ""


def test_what_was_written_into_the_folder_before_is_no_input(folder, capsys):
    (folder / "0001" / "broken.json").unlink()
    for _ in range(2):
        assert run(folder, folder / "text", "--to", "txt", "--json") == Exit.DONE
        assert json.loads(capsys.readouterr().out)["total"] == 4


def test_one_format_of_a_mixed_folder(folder, tmp_path, capsys):
    assert run(folder / "0000", folder / "0000", "--to", "h5") == Exit.DONE
    assert run(folder / "0000", tmp_path / "out", "--to", "py") == Exit.USAGE
    assert "--from" in capsys.readouterr().err
    assert run(folder / "0000", tmp_path / "out", "--to", "py", "--from", "h5") == Exit.DONE
    assert left(tmp_path / "out") == ["a.py", "b.py"]


def test_left_out_extrusions_are_said(part, capsys):
    data = json.loads(part.read_text())
    data["entities"]["empty"] = {**data["entities"]["extrude_1"], "profiles": []}
    data["sequence"].append({"index": 2, "type": "ExtrudeFeature", "entity": "empty"})
    part.write_text(json.dumps(data))
    assert run(part, part.with_name("a.txt")) == Exit.DONE
    assert "extrude 'empty' names no profile: left out" in capsys.readouterr().err


# what is refused


IMPOSSIBLE = {
    "step": "the finished shape, not its sketches",
    "stp": "the finished shape, not its sketches",
    "stl": "triangles",
    "glb": "triangles",
    "png": "infer --image",
    "py": "never executed",
    "dwg": "no format of a program",
}


@pytest.mark.parametrize("ending", IMPOSSIBLE)
def test_impossible_directions_say_why(tmp_path, ending, capsys):
    source = tmp_path / f"part.{ending}"
    source.write_bytes(b"ISO-10303-21;")
    assert run(source, tmp_path / "a.json") == Exit.USER
    shown = capsys.readouterr().err
    assert "E213" in shown
    assert IMPOSSIBLE[ending] in shown
    assert left(tmp_path) == [source.name]


def test_the_input_is_never_overwritten(part, capsys):
    before = part.read_bytes()
    os.link(part, part.with_name("hard.json"))
    part.with_name("soft.json").symlink_to(part)
    for target in ("part.json", "hard.json", "soft.json", "./part.json"):
        assert run(part, part.parent / target) == Exit.USER
        assert "E213" in capsys.readouterr().err
    assert run(part.parent, part.parent, "--to", "json") == Exit.USER
    assert part.read_bytes() == before


def test_another_input_of_the_folder_is_never_overwritten(folder, capsys):
    assert run(folder / "0000" / "a.json", folder / "0000" / "b.h5") == Exit.DONE
    before = (folder / "0000" / "b.json").read_bytes()
    assert run(folder / "0000", folder / "0000", "--to", "json", "--from", "h5") == Exit.DONE
    assert (folder / "0000" / "b.json").read_bytes() != before  # asked for: json was no input then
    assert run(folder / "0000", folder / "0000", "--to", "json") == Exit.USER
    assert "E213" in capsys.readouterr().err


USAGE = {
    "folder without format": ("in", "out"),
    "unknown format": ("in", "out", "--to", "dwg"),
    "unknown input format": ("in", "out", "--to", "step", "--from", "docx"),
    "folder to file": ("in", "in/0000/a.json", "--to", "step"),
    "file to folder without format": ("in/0000/a.json", "in"),
    "contradiction": ("in/0000/a.json", "b.step", "--to", "stl"),
}


@pytest.mark.parametrize("name", USAGE)
def test_misuse(folder, name, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    before = left(folder.parent)
    assert run(*USAGE[name]) == Exit.USAGE
    assert "E105" in capsys.readouterr().err
    assert left(folder.parent) == before


def test_files_that_are_not_there(tmp_path, capsys):
    assert run(tmp_path / "none.json", tmp_path / "a.step", "--json") == Exit.USER
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E201"
    assert run("x" * 5000, tmp_path / "a.step") == Exit.USER
    assert "E201" in capsys.readouterr().err
    assert run(tmp_path, tmp_path / "out", "--to", "step") == Exit.USER
    assert "E213" in capsys.readouterr().err
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere.json")
    assert run(tmp_path / "gone.json", tmp_path / "a.txt") == Exit.USER
    assert "E201" in capsys.readouterr().err


def test_an_output_that_cannot_be_written(part, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    before = left(tmp_path)
    assert run(part, tmp_path / "file" / "a.txt") == Exit.USER
    assert "E303" in capsys.readouterr().err
    assert run(part, tmp_path / "a.unknown") == Exit.USER
    assert "E213" in capsys.readouterr().err
    assert left(tmp_path) == before


BAD = {
    "empty.json": (b"", "E202"),
    "truncated.json": (b'{"entities": {', "E202"),
    "text.json": (b"solid part", "E202"),
    "deep.json": (b"[" * 100_000, "E202"),
    "captions.json": (b'[{"id": "0000/1", "text caption": "a plate"}]', "E203"),
    "other.json": (b'{"vertices": []}', "E203"),
    "empty.h5": (b"", "E210"),
    "text.h5": (b"not hdf", "E210"),
    "empty.txt": (b"", "E211"),
    "words.txt": (b"a plate with a hole", "E211"),
    "half.txt": (b"size 40 mm\nplane_z 0\nrect 0 0", "E211"),
    "binary.txt": (b"\xff\xfe\xfd\x00", "E211"),
    "huge.txt": (b"#" * 2_000_000, "E211"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_leaves_a_coded_message_and_nothing_else(name, tmp_path, capsys):
    raw, code = BAD[name]
    (tmp_path / name).write_bytes(raw)
    assert run(tmp_path / name, tmp_path / "new" / "a.step") == Exit.USER
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"error: {code}" in shown.err
    assert name in shown.err
    assert "Traceback" not in shown.err
    assert run(tmp_path / name, tmp_path / "a.txt", "--json") == Exit.USER
    report = json.loads(capsys.readouterr().out)
    assert [item["code"] for item in report["failures"]] == [code]
    assert report["verdicts"] == {"PARSE": 1}
    assert left(tmp_path) == [name]


def test_a_program_without_a_solid_gives_no_file(tmp_path, capsys):
    write_json(plate(operation=Operation.CUT), tmp_path / "cut.json")
    assert run(tmp_path / "cut.json", tmp_path / "new" / "a.stl") == Exit.USER
    shown = capsys.readouterr().err
    assert "E302" in shown
    assert "EMPTY" in shown
    assert left(tmp_path) == ["cut.json"]


# the room


@settings(max_examples=25, deadline=None)
@given(program=programs(most=2))
def test_any_program_as_text_is_read_again_or_refused_by_code(tmp_path_factory, program):
    path = tmp_path_factory.getbasetemp() / "fuzz.txt"
    try:
        room.write_program(program, None, path)
    except CadmllmError as error:
        assert error.code == "E212"  # noqa: PT017
        return
    again, _ = room.read_program(path)
    validate(again)


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(st.text(max_size=20) | st.sampled_from(["size 40 mm", "plane_z 0", "end", "# center 1 x 2 mm"]), max_size=6)
)
def test_any_text_is_a_program_or_a_coded_error(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    with pytest.raises(CadmllmError):
        room.read_program(path)


def test_text_without_a_place_is_centred(part):
    target = part.with_name("a.txt")
    room.write_program(plate(), None, target)
    words = target.read_text()
    assert words.startswith("# center 120 -40 9.5 mm\nsize 40 mm\n")
    target.write_text(words.split("\n", 1)[1])
    program, box = room.read_program(target)
    assert box is None
    assert program_box(program)[0] == pytest.approx((-20.0, -10.0, -2.5), abs=0.01)


@pytest.mark.parametrize("line", ["# center 1 2 three mm", "# center nan 0 0 mm", "# center 1e300 0 0 mm"])
def test_a_place_that_is_no_point_is_refused(part, line):
    target = part.with_name("a.txt")
    room.write_program(plate(), None, target)
    target.write_text(line + "\n" + target.read_text().split("\n", 1)[1])
    with pytest.raises(CadmllmError) as caught:
        room.read_program(target)
    assert caught.value.code in ("E205", "E211")
    assert "a.txt" in caught.value.message


def test_what_is_too_slow_or_too_large_is_told_how_to_get_more(part: Path, tmp_path: Path, monkeypatch, capsys):
    from cadmllm.cad import kernel
    from cadmllm.cad.workshop import Workshop

    for verdict, reason, remedy in (
        (kernel.Verdict.TIMEOUT, "not done within 30 s, at extrude 1 of 1", "--set kernel.timeout=120"),
        (kernel.Verdict.BUILD, "more than 4,096 MiB of memory, at extrude 1 of 1", "--set kernel.memory=16384"),
    ):
        monkeypatch.setattr(
            Workshop, "map", lambda self, jobs, found=(verdict, reason): (kernel.BuildResult(*found) for _ in jobs)
        )
        assert run(part, tmp_path / "o.step") == Exit.USER
        shown = capsys.readouterr().err
        assert reason in shown
        assert remedy in shown
