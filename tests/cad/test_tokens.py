"""Program <-> tokens <-> text."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.cad.bounds import program_box
from cadmllm.cad.grammar import ALLOWED, DONE, NEXT, START, TO_END, accepts
from cadmllm.cad.program import (
    Arc,
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
from cadmllm.cad.tokens import decode, encode, from_text, parse, to_items, to_text
from cadmllm.cad.vocabulary import INDEX, NUMBER_BASE, VOCABULARY
from cadmllm.errors import CadmllmError
from tests.strategies import programs


def polygon(*points: tuple[float, float]) -> Loop:
    return Loop(tuple(Line(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True)))


def box(x0: float, y0: float, x1: float, y1: float) -> Loop:
    return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def extrude(plane: Plane, *profiles: Profile, op=Operation.NEW_BODY, kind=ExtentType.ONE_SIDE, one=10.0, two=0.0) -> Extrude:
    return Extrude((Sketch(plane, profiles),), op, Extent(kind, one, two))


def walk(seed: int, limit: int = 120) -> list[int]:
    """A random sequence of the grammar."""
    rng = np.random.default_rng(seed)
    state, tokens = START, []
    while state != DONE:
        options = np.flatnonzero(ALLOWED[state])
        if len(tokens) + TO_END[state] >= limit:
            options = options[TO_END[NEXT[state, options]] < TO_END[state]]
        tokens.append(int(rng.choice(options)))
        state = int(NEXT[state, tokens[-1]])
    return tokens


def test_the_vocabulary_keeps_its_promise():
    assert len(VOCABULARY) == len(set(VOCABULARY)) <= 2000


def test_a_plate_with_a_hole_reads_as_a_person_would_write_it():
    plate = Program((extrude(Plane(), Profile(box(0, 0, 40, 20), (Loop((Circle((20, 10), 4.1),)),))),))
    encoded = encode(plate)
    assert to_text(encoded.tokens).splitlines() == [
        "size 40 mm",
        "plane_z -128",
        "rect -512 -256 1024 512",
        "hole_circle 0 0 104.9375",
        "new_up 256",
        "end",
    ]
    back = decode(encoded.tokens)
    hole = back.extrudes[0].sketches[0].profiles[0].inner[0].curves[0]
    assert hole == Circle((0.0, 0.0), 4.1)  # not 4.0991: the roundest number of the cell
    assert back.extrudes[0].extent.one == 10.0


@given(programs())
@settings(max_examples=150, deadline=None)
def test_every_program_is_accepted_and_comes_back_within_the_grid(program):
    encoded = encode(program)
    assert accepts(encoded.tokens)
    assert from_text(to_text(encoded.tokens)) == encoded.tokens
    back = decode(encoded.tokens, encoded.transform)
    if encoded.notes:
        return
    step = 2.0 / encoded.transform.scale / 16384
    tilted = any(max(map(abs, s.plane.normal)) < 1 - 1e-12 for e in program.extrudes for s in e.sketches)
    # an arc's far side moves by more than its ends, a tilted plane's corner by its angle's step times its arm
    slack = step * (40 if tilted else 12)
    for one, two in zip(program_box(program), program_box(back), strict=True):
        assert one == pytest.approx(two, abs=slack)


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_every_accepted_sequence_parses_and_its_text_is_itself(seed):
    tokens = walk(seed)
    assert accepts(tokens)
    text = to_text(tokens)
    again = from_text(text)
    assert parse(again) == parse(tokens)
    assert decode(again) == decode(tokens)
    assert to_text(again) == text


@given(st.integers(0, 2**32), st.integers(0, 10**6), st.integers(0, len(VOCABULARY) - 1))
@settings(max_examples=150, deadline=None)
def test_a_changed_token_is_either_grammatical_or_refused_by_name(seed, place, token):
    tokens = walk(seed)
    tokens[place % len(tokens)] = token
    if accepts(tokens):
        decode(tokens)
    else:
        with pytest.raises(CadmllmError) as caught:
            decode(tokens)
        assert caught.value.code == "E211"


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_program_or_refused(text):
    try:
        tokens = from_text(text)
    except CadmllmError as error:
        assert error.code == "E211"  # noqa: PT017 (either outcome is right)
        return
    assert accepts(tokens)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the end"),
        ("size 40 mm\nend\n", "may not stand"),
        ("size 40 mm\nplane_z 0\nrect 0 0 10\nnew_up 5\nend", "takes 4 values"),
        ("size 40 mm\nplane_z 0\nrect 0 0 10 0\nnew_up 5\nend", "out of range"),
        ("size 40 mm\nplane_z 0\ncircle 0 0 nan\nnew_up 5\nend", "not a number"),
        ("size 40 mm\nplane_z 0\ncircle 0 0 1e300\nnew_up 5\nend", "out of range"),
        ("size 40 mm\nplane_z 9999\ncircle 0 0 1\nnew_up 5\nend", "out of range"),
        ("size 40 mm\nplane_z 0\ncircle 0 0 1\ncut_up 5\nend", "may not stand"),
        ("size 40 mm\nplane_z 0\nloop 0 0\nhline 10\nclose\nnew_up 5\nend", "may not stand"),
        ("size 0 mm\nend", "size"),
        ("cube 3", "unknown command"),
    ],
)
def test_broken_text_says_what_is_wrong(text, said):
    with pytest.raises(CadmllmError) as caught:
        from_text(text)
    assert caught.value.code == "E211"
    assert said in caught.value.message


def test_a_boss_on_a_face_stays_on_it_at_awkward_numbers():
    thickness, height = 7.3331, 11.7177
    plate = extrude(Plane(), Profile(box(0, 0, 53.1234, 31.9)), one=thickness)
    boss = extrude(Plane(origin=(0, 0, thickness)), Profile(Loop((Circle((20.0, 11.1), 5.0),))), op=Operation.JOIN, one=height)
    back = decode(encode(Program((plate, boss))).tokens)
    base, top = back.extrudes
    assert base.sketches[0].plane.origin[2] + base.extent.one == pytest.approx(top.sketches[0].plane.origin[2], abs=1e-12)


def test_equal_holes_stay_equal_and_mirrored_ones_mirrored():
    holes = tuple(Loop((Circle((x, y), 3.3333),)) for x in (-17.77, 17.77) for y in (-9.13, 9.13))
    back = decode(encode(Program((extrude(Plane(), Profile(box(-30.01, -20.02, 30.01, 20.02), holes)),))).tokens)
    circles = [loop.curves[0] for loop in back.extrudes[0].sketches[0].profiles[0].inner]
    assert len({c.radius for c in circles}) == 1
    assert {c.center for c in circles} == {
        (sx * abs(c.center[0]), sy * abs(c.center[1])) for c in circles for sx in (1, -1) for sy in (1, -1)
    }


def test_noise_of_floating_point_does_not_split_equal_coordinates():
    # 10.5 levels: the worst place, the edge between two numbers
    edge = 10.5 / 16 / 512 * 20.0
    for noise in (-1e-10, 0.0, 1e-10):
        profile = Profile(box(-20, -5, 20, edge + noise), (Loop((Circle((0.0, -2.0), 1.0),)),))
        tokens = encode(Program((extrude(Plane(), profile, one=40.0 + noise),))).tokens
        assert tokens == encode(Program((extrude(Plane(), Profile(box(-20, -5, 20, edge), profile.inner), one=40.0),))).tokens


@pytest.mark.parametrize(
    ("kind", "one", "two", "text"),
    [
        (ExtentType.ONE_SIDE, 10.0, 0.0, "new_up"),
        (ExtentType.ONE_SIDE, -10.0, 0.0, "new_down"),
        (ExtentType.SYMMETRIC, 10.0, 0.0, "new_both"),
        (ExtentType.TWO_SIDES, 10.0, 4.0, "new_two"),
        (ExtentType.TWO_SIDES, 10.0, -4.0, "new_up"),  # 4..10 above the plane: the plane moves to 4
        (ExtentType.TWO_SIDES, 10.0, 0.0, "new_up"),
    ],
)
@pytest.mark.parametrize("normal", [(0.0, 0.0, 1.0), (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0), (0.6, 0.0, 0.8), (0.0, -0.6, -0.8)])
def test_every_extent_keeps_its_interval_on_every_plane(kind, one, two, text, normal):
    x_axis = (0.0, 1.0, 0.0) if normal[0] else (1.0, 0.0, 0.0)
    program = Program((extrude(Plane((3.0, 2.0, 1.0), x_axis, normal), Profile(box(0, 0, 30, 20)), kind=kind, one=one, two=two),))
    encoded = encode(program)
    back = decode(encoded.tokens, encoded.transform)
    for a, b in zip(program_box(program), program_box(back), strict=True):
        assert a == pytest.approx(b, abs=0.02)
    if normal == (0.0, 0.0, 1.0):
        assert to_text(encoded.tokens).splitlines()[-2].split()[0] == text


def test_sketches_with_opposite_normals_in_one_extrude():
    up, down = Plane(), Plane((50.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
    sketches = (Sketch(up, (Profile(box(0, 0, 20, 10)),)), Sketch(down, (Profile(box(0, 0, 20, 10)),)))
    program = Program((Extrude(sketches, Operation.NEW_BODY, Extent(ExtentType.ONE_SIDE, 5.0)),))
    encoded = encode(program)
    back = decode(encoded.tokens, encoded.transform)
    for a, b in zip(program_box(program), program_box(back), strict=True):
        assert a == pytest.approx(b, abs=0.01)


def test_arcs_keep_their_side_when_the_loop_is_turned_round():
    # a clockwise half disc: the encoder writes it counter-clockwise
    disc = Loop((Line((10.0, 0.0), (-10.0, 0.0)), Arc((-10.0, 0.0), (10.0, 0.0), -math.pi)))
    program = Program((extrude(Plane(), Profile(disc)),))
    encoded = encode(program)
    back = decode(encoded.tokens, encoded.transform)
    (low, high) = program_box(back)
    assert (low[1], high[1]) == pytest.approx((0.0, 10.0), abs=1e-2)
    assert "arc" in to_text(encoded.tokens)
    assert "arcw" not in to_text(encoded.tokens)


def test_what_is_finer_than_the_grid_is_left_out_and_said():
    speck = Profile(box(0, 0, 1e-5, 1e-5))
    program = Program((extrude(Plane(), Profile(box(0, 0, 100, 100)), speck),))
    encoded = encode(program)
    assert len(encoded.notes) == 1
    assert "left out" in encoded.notes[0]
    assert len(decode(encoded.tokens).extrudes[0].sketches[0].profiles) == 1


def test_a_cut_before_there_is_material_is_left_out_and_said():
    cut = extrude(Plane(), Profile(box(0, 0, 5, 5)), op=Operation.CUT)
    encoded = encode(Program((cut, extrude(Plane(), Profile(box(0, 0, 10, 10))))))
    assert "before there is material" in encoded.notes[0]
    assert len(decode(encoded.tokens).extrudes) == 1


def test_a_cut_far_outside_the_part_is_still_within_the_numbers():
    cut = extrude(Plane(), Profile(box(-500, -500, 500, 5)), op=Operation.CUT, one=400.0)
    program = Program((extrude(Plane(), Profile(box(0, 0, 10, 10))), cut))
    encoded = encode(program)
    back = decode(encoded.tokens, encoded.transform)
    assert program_box(Program(back.extrudes[1:]))[0] == pytest.approx((-500, -500, 0), abs=0.1)


def test_a_size_out_of_all_reason_is_refused():
    tiny = Program((extrude(Plane(), Profile(box(0, 0, 1e-6, 1e-6)), one=1e-6),))
    with pytest.raises(CadmllmError) as caught:
        encode(tiny)
    assert caught.value.code == "E212"


def test_tokens_outside_the_vocabulary_are_refused():
    for tokens in ([], [-1], [len(VOCABULARY)], [INDEX["size"], NUMBER_BASE + 50]):
        with pytest.raises(CadmllmError):
            decode(tokens)


def test_real_programs_are_short_and_true(shared):
    from cadmllm.cad.omnicad import read_json

    counts = []
    for file in sorted((shared / "data/deepcad/json").glob("*/*.json"))[::24]:
        try:
            program = read_json(file)
        except CadmllmError:
            continue
        encoded = encode(program)
        assert accepts(encoded.tokens)
        validate(decode(encoded.tokens))
        counts.append(len(encoded.tokens))
    assert len(counts) >= 45
    assert np.median(counts) <= 60


@pytest.mark.parametrize("radius", [4.0, 10.0, 25.0])
def test_a_round_part_fills_the_cube_like_any_other(radius):
    height = 20.0
    program = Program((extrude(Plane(), Profile(Loop((Circle((0.0, 0.0), radius),))), one=height),))
    assert encode(program).transform.scale == pytest.approx(2.0 / max(2.0 * radius, height), rel=1e-12)


def test_a_huge_circle_that_cuts_is_within_the_numbers():
    cut = extrude(Plane(), Profile(Loop((Circle((0.0, 900.0), 899.0),))), op=Operation.CUT)
    program = Program((extrude(Plane(), Profile(box(0, 0, 10, 10))), cut))
    encoded = encode(program)
    back = decode(encoded.tokens, encoded.transform)
    assert back.extrudes[1].sketches[0].profiles[0].outer.curves[0].radius == pytest.approx(899.0, abs=0.1)


@given(programs(), st.sampled_from(["", " ", "\n", " \n"]))
@settings(max_examples=60)
def test_items_as_an_exported_model_prints_them_are_read(program: Program, between: str) -> None:
    tokens = encode(program).tokens
    items = to_items(tokens)
    assert from_text(between + items.replace("><", f">{between}<") + between) == tokens
    assert (items[:10], items[-9:]) == ("<cad:size>", "<cad:end>")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<cad:size><cad:9999>", "item 2"),
        ("<cad:size> <cad:400", "item 2"),
        ("<cad:size>40 mm", "item 2"),
        ("<cad:plane_z><cad:end>", "may not stand there"),
        ("<cad:size><cad:400><cad:e1>", "the end after"),
        ("<|cad_points|><cad:size>", "line 1"),
    ],
)
def test_items_that_are_no_program_are_refused(text: str, found: str) -> None:
    with pytest.raises(CadmllmError) as error:
        from_text(text)
    assert error.value.code == "E211"
    assert found in error.value.message
