"""STEP files read back the same in any unit, and tell other programs what they need to know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cadmllm import __version__
from cadmllm.cad.kernel import build_shape, measure, read_step, write_step
from cadmllm.cad.program import Profile
from tests.cad.parts import BOX, PLATE, circle, extrude, program, rectangle

SQUARE = rectangle(0, 0, 10, 10)


def test_step_reads_back_as_it_was_built(tmp_path: Path):
    shape = build_shape(PLATE)
    write_step(shape, tmp_path / "plate.step", "plate")
    built, again = measure(shape), measure(read_step(tmp_path / "plate.step"))
    for name in ("volume", "area", "solids", "faces", "edges"):
        assert again[name] == pytest.approx(built[name], rel=1e-9), name
    assert again["box"][0] == pytest.approx(built["box"][0], abs=1e-6)
    assert again["box"][1] == pytest.approx(built["box"][1], abs=1e-6)
    text = (tmp_path / "plate.step").read_text()
    assert "PRODUCT('plate'" in text
    assert "SI_UNIT(.MILLI.,.METRE.)" in text


@pytest.mark.parametrize(
    ("unit", "mm", "header"),
    [
        ("mm", 1.0, "SI_UNIT(.MILLI.,.METRE.)"),
        ("cm", 10.0, "SI_UNIT(.CENTI.,.METRE.)"),
        ("m", 1000.0, "SI_UNIT($,.METRE.)"),
        ("in", 25.4, "CONVERSION_BASED_UNIT('INCH'"),
        ("ft", 304.8, "CONVERSION_BASED_UNIT('FOOT'"),
    ],
)
def test_a_step_file_is_in_its_unit_and_reads_back_in_mm(tmp_path: Path, unit: str, mm: float, header: str):
    part = program(extrude(Profile(rectangle(0, 0, 7 * mm, 3 * mm), (circle(2 * mm, mm, 0.5 * mm),)), one=2 * mm))
    shape = build_shape(part)
    write_step(shape, tmp_path / "p.step", "p", unit)
    text = (tmp_path / "p.step").read_text()
    assert header in text
    points = [tuple(map(float, found)) for found in re.findall(r"CARTESIAN_POINT\('',\(([^,()]+),([^,()]+),([^,()]+)\)\)", text)]
    assert [max(axis) for axis in zip(*points, strict=True)] == pytest.approx([7, 3, 2])
    unsure = re.search(r"UNCERTAINTY_MEASURE_WITH_UNIT\(LENGTH_MEASURE\(([^)]+)\)", text)
    assert unsure
    assert float(unsure[1]) * mm == pytest.approx(1e-7)
    built, again = measure(shape), measure(read_step(tmp_path / "p.step"))
    assert again["volume"] == pytest.approx(built["volume"], rel=1e-9)
    assert again["box"][1] == pytest.approx(built["box"][1], rel=1e-9)
    write_step(shape, tmp_path / "mm.step", "p")
    write_step(shape, tmp_path / "again.step", "p", unit)
    assert (tmp_path / "again.step").read_text() == text
    assert "SI_UNIT(.MILLI.,.METRE.)" in (tmp_path / "mm.step").read_text()


def test_the_header_of_a_step_file_names_its_maker_and_nobody_else(tmp_path: Path):
    write_step(build_shape(BOX), tmp_path / "a.step", "Gehäuse 零件 😀")
    text = (tmp_path / "a.step").read_text("ascii")
    assert "AUTOMOTIVE_DESIGN" in text
    assert f"cadmllm {__version__}" in text
    assert "Author" not in text
    assert r"PRODUCT('Geh\X2\00E4\X0\use \X2\96F64EF6\X0\ \X4\0001F600\X0\'" in text.replace("\n  ", "")


def test_step_is_the_same_bytes_again_and_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    write_step(build_shape(PLATE), tmp_path / "a.step", "part")
    write_step(build_shape(BOX), tmp_path / "other.step", "other")
    write_step(build_shape(PLATE), tmp_path / "b.step", "part")
    assert (tmp_path / "a.step").read_bytes() == (tmp_path / "b.step").read_bytes()
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.step", "b.step", "other.step"]


def test_several_bodies_are_one_part_in_step(tmp_path: Path):
    shape = build_shape(program(extrude(SQUARE), extrude(rectangle(20, 0, 10, 10))))
    write_step(shape, tmp_path / "pair.step", "pair")
    again = measure(read_step(tmp_path / "pair.step"))
    assert (again["solids"], again["volume"]) == (2, pytest.approx(2000))
    names = re.findall(r"MANIFOLD_SOLID_BREP\('([^']*)'", (tmp_path / "pair.step").read_text())
    assert names == ["pair body 1", "pair body 2"]
