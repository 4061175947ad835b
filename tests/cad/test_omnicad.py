"""DeepCAD / Omni-CAD JSON: what is read, what is written, and that nothing else than a coded error comes of broken files."""

from __future__ import annotations

import copy
import json
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import difference, programs

from cadmllm.cad.omnicad import box_of, parse, read_json, recorded_box, to_json, write_json
from cadmllm.cad.program import Arc, Circle, Extent, ExtentType, Line, Loop, Operation, Profile, Program, validate
from cadmllm.errors import CadmllmError

NO_EXTRUDE = {"0001/00016316", "0001/00017457", "0001/00017536", "0001/00019325", "0001/00019468"}


def xyz(x, y, z=0.0):
    return {"x": x, "y": y, "z": z}


def line(a, b):
    return {"type": "Line3D", "start_point": xyz(*a), "end_point": xyz(*b)}


def circle(center, radius):
    return {"type": "Circle3D", "center_point": xyz(*center), "radius": radius, "normal": xyz(0, 0, 1)}


def square(low=0.0, high=0.02):
    corners = [(low, low), (high, low), (high, high), (low, high)]
    return [line(a, b) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]


def side(distance, taper=0.0):
    return {"type": "DistanceExtentDefinition", "distance": {"value": distance}, "taper_angle": {"value": taper}}


def document(*loops, one=0.01, two=0.0, extent="OneSideFeatureExtentType", operation="NewBodyFeatureOperation"):
    """A file with one sketch 'S' of one profile 'P' and one extrusion 'E', metres."""
    axes = {"origin": xyz(0, 0), "x_axis": xyz(1, 0), "y_axis": xyz(0, 1), "z_axis": xyz(0, 0, 1)}
    profile = {"loops": [{"is_outer": True, "profile_curves": curves} for curves in loops or (square(),)]}
    return {
        "entities": {
            "S": {"type": "Sketch", "transform": axes, "profiles": {"P": profile}},
            "E": {
                "type": "ExtrudeFeature",
                "profiles": [{"sketch": "S", "profile": "P"}],
                "operation": operation,
                "start_extent": {"type": "ProfilePlaneStartDefinition"},
                "extent_type": extent,
                "extent_one": side(one),
                "extent_two": side(two),
            },
        },
        "sequence": [{"index": 0, "type": "Sketch", "entity": "S"}, {"index": 1, "type": "ExtrudeFeature", "entity": "E"}],
    }


def only_profiles(program: Program):
    return program.extrudes[0].sketches[0].profiles


def refusal(data, where="part.json") -> CadmllmError:
    with pytest.raises(CadmllmError) as caught:
        parse(data, where)
    assert caught.value.message.startswith(where)
    assert caught.value.remedy
    return caught.value


# what is read


def test_metres_become_millimetres():
    program = parse(document(), "part")
    assert only_profiles(program)[0].outer.curves[0] == Line((0.0, 0.0), (20.0, 0.0))
    assert program.extrudes[0].extent == Extent(ExtentType.ONE_SIDE, 10.0)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("NewBodyFeatureOperation", Operation.NEW_BODY),
        ("JoinFeatureOperation", Operation.JOIN),
        ("CutFeatureOperation", Operation.CUT),
        ("IntersectFeatureOperation", Operation.INTERSECT),
    ],
)
def test_operations(name, operation):
    assert parse(document(operation=name), "part").extrudes[0].operation is operation


@pytest.mark.parametrize(
    ("extent", "one", "two", "interval"),
    [
        ("OneSideFeatureExtentType", 0.01, 0.0, (0.0, 10.0)),
        ("OneSideFeatureExtentType", -0.01, 0.0, (-10.0, 0.0)),
        ("SymmetricFeatureExtentType", 0.01, 0.0, (-10.0, 10.0)),
        ("SymmetricFeatureExtentType", -0.01, 0.0, (-10.0, 10.0)),
        ("TwoSidesFeatureExtentType", 0.01, 0.005, (-5.0, 10.0)),
        ("TwoSidesFeatureExtentType", -0.01, 0.005, (-10.0, 5.0)),
        ("TwoSidesFeatureExtentType", -0.01, 0.01, (-10.0, 10.0)),
    ],
)
def test_extents(extent, one, two, interval):
    program = parse(document(extent=extent, one=one, two=two), "part")
    assert program.extrudes[0].extent.interval == pytest.approx(interval)


def test_curves_in_any_order_and_direction_are_chained():
    curves = square()
    rng = random.Random(3)
    for _ in range(20):
        for curve in curves:
            if rng.random() < 0.5:
                curve["start_point"], curve["end_point"] = curve["end_point"], curve["start_point"]
        rng.shuffle(curves)
        loop = only_profiles(parse(document(curves), "part"))[0].outer.curves
        assert len(loop) == 4
        assert all(a.end == b.start for a, b in zip(loop, loop[1:] + loop[:1], strict=True))


def test_a_gap_of_rounding_is_closed_exactly():
    curves = square()
    curves[1]["start_point"]["x"] += 1e-8
    loop = only_profiles(parse(document(curves), "part"))[0].outer.curves
    assert all(a.end == b.start for a, b in zip(loop, loop[1:] + loop[:1], strict=True))


def arc(begin, sweep, swapped=False, normal=(0, 0, 1), radius=0.01):
    """An arc about the origin that runs counter-clockwise by `sweep` from the angle `begin`."""
    first, last = ((radius * math.cos(a), radius * math.sin(a)) for a in (begin, begin + sweep))
    start, end = (last, first) if swapped else (first, last)
    return {
        "type": "Arc3D",
        "start_point": xyz(*start),
        "end_point": xyz(*end),
        "center_point": xyz(0, 0),
        "radius": radius,
        "start_angle": 0.0,
        "end_angle": sweep,
        "normal": xyz(*normal),
        "reference_vector": xyz(math.cos(begin), math.sin(begin)),
    }


@pytest.mark.parametrize("normal", [(0, 0, 1), (0, 0, -1), (0, -1, 0)])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("sweep", [0.4, math.pi, 4.0, 6.2])
def test_arcs_bulge_to_the_side_their_angles_say(sweep, swapped, normal):
    data = arc(0.3, sweep, swapped, normal)
    chord = {"type": "Line3D", "start_point": data["end_point"], "end_point": data["start_point"]}
    curve = only_profiles(parse(document([data, chord]), "part"))[0].outer.curves[0]
    assert isinstance(curve, Arc)
    assert curve.sweep == pytest.approx(-sweep if swapped else sweep)
    middle = (10.0 * math.cos(0.3 + sweep / 2), 10.0 * math.sin(0.3 + sweep / 2))
    assert curve.mid == pytest.approx(middle, abs=1e-6)


def test_a_clockwise_arc_of_another_exporter_is_understood():
    data = arc(0.3, 1.0)
    data["end_point"] = xyz(0.01 * math.cos(0.3 - 1.0), 0.01 * math.sin(0.3 - 1.0))
    chord = {"type": "Line3D", "start_point": data["end_point"], "end_point": data["start_point"]}
    curve = only_profiles(parse(document([data, chord]), "part"))[0].outer.curves[0]
    assert curve.sweep == pytest.approx(-1.0)


def test_a_full_arc_is_a_circle():
    assert only_profiles(parse(document([arc(0.0, 2 * math.pi)]), "part"))[0].outer.curves == (Circle((0.0, 0.0), 10.0),)


def test_holes_are_found_geometrically():
    hole, boss = [circle((0.01, 0.01), 0.005)], [circle((0.01, 0.01), 0.002)]
    profiles = only_profiles(parse(document(hole, square(), boss), "part"))
    assert [len(profile.inner) for profile in profiles] == [1, 0]
    assert isinstance(profiles[0].outer.curves[0], Line)
    assert profiles[0].inner[0].curves == (Circle((10.0, 10.0), 5.0),)
    assert profiles[1].outer.curves == (Circle((10.0, 10.0), 2.0),)


def test_disjoint_outer_loops_become_several_profiles():
    profiles = only_profiles(parse(document(square(), square(0.03, 0.05), [circle((0.04, 0.04), 0.005)]), "part"))
    assert [len(profile.inner) for profile in profiles] == [0, 1]


def test_profiles_of_several_sketches():
    data = document()
    other = copy.deepcopy(data["entities"]["S"])
    other["transform"]["origin"] = xyz(0, 0, 0.05)
    other["profiles"]["Q"] = {"loops": [{"profile_curves": square(0.03, 0.05)}]}
    data["entities"]["T"] = other
    data["entities"]["E"]["profiles"] = [{"sketch": s, "profile": p} for s, p in (("S", "P"), ("T", "P"), ("T", "Q"))]
    sketches = parse(data, "part").extrudes[0].sketches
    assert [(sketch.plane.origin[2], len(sketch.profiles)) for sketch in sketches] == [(0.0, 1), (50.0, 2)]


def test_an_extrusion_without_profile_is_left_out_and_said():
    data = document()
    data["entities"]["F"] = {**data["entities"]["E"], "profiles": []}
    data["sequence"].append({"index": 2, "type": "ExtrudeFeature", "entity": "F"})
    notes: list[str] = []
    assert len(parse(data, "part", notes).extrudes) == 1
    assert notes == ["part: extrude 'F' names no profile: left out"]


def test_box():
    data = document()
    assert box_of(data) is None
    data["properties"] = {"bounding_box": {"min_point": xyz(0, 0, 0), "max_point": xyz(0.02, 0.02, 0.01)}}
    assert box_of(data) == ((0.0, 0.0, 0.0), (20.0, 20.0, 10.0))


def test_real_files_are_read_or_lack_an_extrude(shared):
    refused = {}
    files = sorted((shared / "data" / "deepcad" / "json").rglob("*.json")) + sorted(
        (shared / "data" / "deepcad_hard").rglob("*.json")
    )
    assert len(files) == 1222
    for path in files:
        try:
            validate(read_json(path), str(path))
        except CadmllmError as error:
            refused[f"{path.parent.name}/{path.stem}"] = error.code
    assert refused == dict.fromkeys(NO_EXTRUDE, "E209")


# what is written


@settings(max_examples=80, deadline=None)
@given(programs())
def test_what_is_written_is_read_again(program):
    data = json.loads(json.dumps(to_json(program)))
    assert difference(parse(data, "again"), program) < 1e-9


def test_real_programs_survive_writing(shared, tmp_path):
    files = sorted((shared / "data" / "deepcad_hard").rglob("*.json"))
    for path in files:
        program = read_json(path)
        write_json(program, tmp_path / "copy.json", recorded_box(path))
        assert difference(read_json(tmp_path / "copy.json"), program) < 1e-9
        for written, original in zip(recorded_box(tmp_path / "copy.json"), recorded_box(path), strict=True):
            assert written == pytest.approx(original)


def test_the_same_program_gives_the_same_bytes_and_no_left_overs(tmp_path):
    program = parse(document(square(), [circle((0.01, 0.01), 0.005)]), "part")
    for name in ("a.json", "b.json"):
        write_json(program, tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]
    data = json.loads((tmp_path / "a.json").read_text())
    assert [item["entity"] for item in data["sequence"]] == ["sketch_1", "extrude_1"]
    assert data["properties"]["bounding_box"]["max_point"] == pytest.approx(xyz(0.02, 0.02, 0.01))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(CadmllmError) as caught:
        write_json(parse(document(), "part"), tmp_path / "nowhere" / "a.json")
    assert caught.value.code == "E303"
    assert "nowhere" in caught.value.message


def test_an_arc_that_is_all_but_straight_is_refused(tmp_path):
    program = parse(document([arc(0.0, 1.0), line((0.01 * math.cos(1.0), 0.01 * math.sin(1.0)), (0.01, 0.0))]), "part")
    extrude = program.extrudes[0]
    sketch = extrude.sketches[0]
    curves = sketch.profiles[0].outer.curves
    loop = Loop((Arc(curves[0].start, curves[0].end, 1e-12), *curves[1:]))
    flat = Program((replace(extrude, sketches=(replace(sketch, profiles=(Profile(loop),)),)),))
    with pytest.raises(CadmllmError) as caught:
        write_json(flat, tmp_path / "a.json")
    assert caught.value.code == "E212"
    assert not list(tmp_path.iterdir())


# broken files


def edit(path, value):
    """A document with the item at `path` replaced (or, for `...`, taken out)."""
    data = document(square(), [circle((0.01, 0.01), 0.005)])
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


LINES = ("entities", "S", "profiles", "P", "loops", 0, "profile_curves")
HOLE = ("entities", "S", "profiles", "P", "loops", 1, "profile_curves", 0)
BROKEN = {
    "a list": ([], "E203"),
    "null": (None, "E203"),
    "no entities": (edit(("entities",), ...), "E203"),
    "entities a list": (edit(("entities",), []), "E203"),
    "no sequence": (edit(("sequence",), ...), "E203"),
    "sequence of numbers": (edit(("sequence",), [1]), "E203"),
    "empty sequence": (edit(("sequence",), []), "E209"),
    "sequence names nothing": (edit(("sequence", 1, "entity"), "X"), "E206"),
    "unknown entity": (edit(("entities", "E", "type"), "RevolveFeature"), "E204"),
    "unknown operation": (edit(("entities", "E", "operation"), "Fold"), "E204"),
    "operation a list": (edit(("entities", "E", "operation"), []), "E204"),
    "unknown extent": (edit(("entities", "E", "extent_type"), "ThroughAll"), "E204"),
    "unknown extent side": (edit(("entities", "E", "extent_one", "type"), "ThroughAllExtentDefinition"), "E204"),
    "start offset": (edit(("entities", "E", "start_extent", "type"), "OffsetStartDefinition"), "E204"),
    "unknown curve": (edit((*LINES, 0, "type"), "Nurbs3D"), "E204"),
    "curve a number": (edit((*LINES, 0), 5), "E203"),
    "taper": (edit(("entities", "E", "extent_one", "taper_angle", "value"), 0.1), "E214"),
    "nan": (edit((*LINES, 0, "start_point", "x"), math.nan), "E205"),
    "infinity": (edit((*HOLE, "radius"), math.inf), "E205"),
    "1e300": (edit((*LINES, 0, "start_point", "x"), 1e300), "E205"),
    "a huge integer": (edit((*LINES, 0, "start_point", "x"), 10**400), "E205"),
    "a text": (edit((*LINES, 0, "start_point", "x"), "1"), "E205"),
    "true": (edit((*HOLE, "radius"), True), "E205"),
    "a missing number": (edit((*LINES, 0, "start_point", "y"), ...), "E205"),
    "a missing point": (edit((*LINES, 0, "start_point"), ...), "E205"),
    "off the plane": (edit((*LINES, 0, "start_point", "z"), 0.01), "E205"),
    "a missing distance": (edit(("entities", "E", "extent_one", "distance", "value"), ...), "E205"),
    "skew axes": (edit(("entities", "S", "transform", "x_axis", "z"), 0.5), "E205"),
    "left-handed axes": (edit(("entities", "S", "transform", "y_axis", "y"), -1.0), "E205"),
    "missing sketch": (edit(("entities", "S"), ...), "E206"),
    "missing profile": (edit(("entities", "S", "profiles", "P"), ...), "E206"),
    "a sketch that is an extrusion": (edit(("entities", "E", "profiles", 0, "sketch"), "E"), "E206"),
    "open loop": (edit((*LINES, 1), ...), "E207"),
    "empty loop": (edit(LINES, []), "E207"),
    "circle among lines": (edit((*LINES, 0), circle((0, 0), 0.01)), "E207"),
    "zero length": (edit((*LINES, 0, "end_point"), xyz(0.0, 0.0)), "E208"),
    "zero radius": (edit((*HOLE, "radius"), 0.0), "E208"),
    "negative radius": (edit((*HOLE, "radius"), -0.005), "E208"),
    "zero distance": (edit(("entities", "E", "extent_one", "distance", "value"), 0), "E208"),
    "no profile": (edit(("entities", "E", "profiles"), []), "E209"),
    "profile without loop": (edit(("entities", "S", "profiles", "P", "loops"), []), "E209"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_documents_are_refused_by_code(name):
    data, code = BROKEN[name]
    if name == "missing sketch":
        data["sequence"].pop(0)
    assert refusal(data).code == code


def test_a_small_file_that_names_one_sketch_without_end_is_refused():
    data = document(square(), *([circle((0.001 + 0.0002 * k, 0.001), 0.00005)] for k in range(60)))
    data["sequence"] += [{"index": k, "type": "ExtrudeFeature", "entity": "E"} for k in range(10_000)]
    assert refusal(data).code == "E212"


def test_what_takes_the_square_of_its_number_is_limited():
    angles = [2.0 * math.pi * k / 5001 for k in range(5001)]
    corners = [(math.cos(a), math.sin(a)) for a in angles]
    many = [line(a, b) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]
    random.Random(0).shuffle(many)
    within = [[circle((0, 0), 0.001 * (k + 1))] for k in range(300)]
    beside = [[circle((0.01 * k, 0), 0.001)] for k in range(10_001)]
    for loops in ([many], within, beside):
        error = refusal(document(*loops))
        assert error.code == "E212"
        assert "'P'" in error.message
    assert len(parse(document(*within[:200]), "part.json").extrudes[0].sketches[0].profiles) == 100


def test_messages_name_the_entity():
    message = refusal(BROKEN["negative radius"][0]).message
    for part in ("part.json", "'E'", "'S'", "'P'", "loop 2", "curve 1", "-5 mm"):
        assert part in message


def test_arcs_that_contradict_themselves_are_refused():
    data = arc(0.3, 1.0)
    chord = {"type": "Line3D", "start_point": data["end_point"], "end_point": data["start_point"]}
    data["end_angle"] = 2.0
    assert refusal(document([data, chord])).code == "E205"
    data["end_angle"] = 0.0
    assert refusal(document([data, chord])).code == "E208"


FILES = {
    "empty": (b"", "E202"),
    "blank": (b" \n", "E202"),
    "truncated": (json.dumps(document()).encode()[:-20], "E202"),
    "binary": (bytes(range(256)), "E202"),
    "text": (b"solid part\n", "E202"),
    "deeply nested": (b"[" * 200_000 + b"]" * 200_000, "E202"),
    "a number of 10,000 digits": (b'{"entities": ' + b"9" * 10_000 + b"}", "E202"),
}


@pytest.mark.parametrize("name", FILES)
def test_broken_files_are_refused_by_code(name, tmp_path):
    raw, code = FILES[name]
    path = tmp_path / "part.json"
    path.write_bytes(raw)
    with pytest.raises(CadmllmError) as caught:
        read_json(path)
    assert caught.value.code == code
    assert "part.json" in caught.value.message


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none.json", tmp_path, "a\0b.json"):
        with pytest.raises(CadmllmError) as caught:
            read_json(path)
        assert caught.value.code == "E201"


def test_a_byte_order_mark_and_utf_16_are_read(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        path = tmp_path / f"{encoding}.json"
        path.write_text(json.dumps(document()), encoding=encoding)
        assert read_json(path) == parse(document(), "part")


# fuzz: a valid program or a coded error, never anything else


def survives(data) -> None:
    message = ""
    try:
        validate(parse(data, "fuzz"))
    except CadmllmError as error:
        message = error.message
    assert message.isprintable()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=300))
def test_random_bytes(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(raw)
    with pytest.raises(CadmllmError):
        read_json(path)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_random_json(data):
    survives(data)


def places(data, path=()):
    """The path of every item of a JSON value."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


SHAPED = document([arc(0.0, math.pi), arc(math.pi, math.pi)], [circle((0.0, 0.0), 0.004)])
PLACES = list(places(SHAPED))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES | st.floats(-1, 1)), min_size=1, max_size=3))
def test_mutated_documents(edits):
    data = copy.deepcopy(SHAPED)
    for path, value in edits:
        place = data
        for key in path[:-1]:
            try:
                place = place[key]
            except (KeyError, IndexError, TypeError):
                break
        if isinstance(place, dict) or (isinstance(place, list) and isinstance(path[-1], int) and path[-1] < len(place)):
            place[path[-1]] = value
    survives(data)
