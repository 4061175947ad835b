"""The source is Python, harmless, readable, and says the same as the program. A small reader of the tree checks the numbers."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import programs

from cadmllm.cad.omnicad import read_json
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
)
from cadmllm.cad.script import to_script
from cadmllm.errors import CadmllmError

MODES = {"ADD": "add", "SUBTRACT": "cut", "INTERSECT": "intersect"}
KNOWN = {
    *("BuildPart", "BuildSketch", "BuildLine", "Plane", "Locations", "Circle", "Rectangle", "Line", "Polyline"),
    *("ThreePointArc", "make_face", "extrude", "Mode", "export_step"),
}


def in_order(points: list) -> list:
    """Sorted along a skew direction, in which no two points of a drawing lie level: rounding cannot change the order."""
    return sorted(points, key=lambda point: point[0] + 0.4714045207910317 * point[1])


class Source:
    """What a script draws, read from its tree: nothing is executed."""

    def __init__(self, text: str) -> None:
        tree = ast.parse(text)
        self.text = text
        self.docstring, importing, *rest = tree.body
        assert isinstance(importing, ast.ImportFrom)
        assert importing.module == "build123d"
        self.imported = {alias.name for alias in importing.names}
        self.names = {}
        while isinstance(rest[0], ast.Assign):
            target = rest[0].targets[0]
            assert isinstance(target, ast.Name)
            self.names[target.id] = ast.literal_eval(rest[0].value)
            rest.pop(0)
        block, export = rest
        assert isinstance(block, ast.With)
        self.export = ast.unparse(export)
        self.features = list(self._features(block.body))

    def value(self, node: ast.expr):
        """A number, name, tuple, sign or sum."""
        if isinstance(node, ast.Name):
            return self.names[node.id]
        if isinstance(node, ast.UnaryOp):
            return -self.value(node.operand)
        if isinstance(node, ast.BinOp):
            return self.value(node.left) + self.value(node.right)
        if isinstance(node, ast.Tuple):
            return tuple(self.value(item) for item in node.elts)
        return ast.literal_eval(node)

    def _features(self, body: list[ast.stmt]) -> Iterator[dict]:
        sketches: list = []
        for statement in body:
            if isinstance(statement, ast.With):
                sketches.append(self._sketch(statement))
            elif isinstance(statement, ast.Expr):
                call = statement.value
                assert isinstance(call, ast.Call)
                options = {word.arg: word.value for word in call.keywords}
                amount = self.value(options["amount"])
                low, high = (-amount, amount) if "both" in options else (0.0, amount)
                shift = sketches[0]["shift"]
                ends = sorted((low + shift, high + shift))
                yield {"mode": options["mode"].attr, "ends": ends, "sketches": sketches}
                sketches = []

    def _sketch(self, block: ast.With) -> dict:
        plane, shift = block.items[0].context_expr.args[0], 0.0
        if isinstance(plane, ast.Call) and isinstance(plane.func, ast.Attribute):
            shift = self.value(plane.args[0])
            plane = plane.func.value
        if isinstance(plane, ast.Attribute):
            assert ast.unparse(plane) == "Plane.XY"
            frame = ((0, 0, 0), (1, 0, 0), (0, 0, 1))
        else:
            frame = tuple(self.value(word.value) for word in plane.keywords)
        loops: list = []
        pending: list = []
        for statement in block.body:
            center, inner = (0, 0), statement
            if isinstance(statement, ast.With):
                opened = statement.items[0].context_expr
                if opened.func.id == "BuildLine":
                    pending = [point for item in statement.body for point in self._points(item.value)]
                    continue
                center, inner = self.value(opened.args[0]), statement.body[0]
            call = inner.value
            hole = any(word.arg == "mode" for word in call.keywords)
            if call.func.id == "make_face":
                loops.append((hole, in_order(pending)))
            elif call.func.id == "Circle":
                loops.append((hole, ["circle", *center, self.value(call.args[0])]))
            else:
                width, length = (self.value(argument) / 2 for argument in call.args)
                corners = [(center[0] + i * width, center[1] + j * length) for i in (-1, 1) for j in (-1, 1)]
                loops.append((hole, in_order(corners)))
        return {"plane": frame, "shift": shift, "loops": loops}

    def _points(self, call: ast.Call) -> list:
        points = [self.value(argument) for argument in call.args]
        return points if call.func.id == "Polyline" else points[:-1]


def corners(loop: Loop) -> list:
    first = loop.curves[0]
    if isinstance(first, Circle):
        return ["circle", *first.center, first.radius]
    return in_order([point for c in loop.curves for point in ((c.start, c.mid) if isinstance(c, Arc) else (c.start,))])


def flat(value) -> list:
    return [item for part in value for item in flat(part)] if isinstance(value, (tuple, list)) else [value]


def close(a, b) -> bool:
    one, two = flat(a), flat(b)
    return len(one) == len(two) and all(
        x == y or x == pytest.approx(y, rel=1e-9, abs=1e-8) for x, y in zip(one, two, strict=True)
    )


def says_the_same(program: Program) -> None:
    source = Source(to_script(program, "part"))
    adds = [e.operation in (Operation.NEW_BODY, Operation.JOIN) for e in program.extrudes]
    kept = program.extrudes[adds.index(True) :] if any(adds) else ()
    assert len(source.features) == len(kept)
    for extrude, feature in zip(kept, source.features, strict=True):
        wanted = {"new": "add", "join": "add"}.get(extrude.operation.value, extrude.operation.value)
        assert MODES[feature["mode"]] == wanted
        assert close(feature["ends"], extrude.extent.interval)
        for sketch, drawn in zip(extrude.sketches, feature["sketches"], strict=True):
            plane = sketch.plane
            assert close(drawn["plane"], (plane.origin, plane.x_axis, plane.normal))
            loops = [(k > 0, corners(loop)) for p in sketch.profiles for k, loop in enumerate((p.outer, *p.inner))]
            assert len(loops) == len(drawn["loops"])
            for loop in loops:
                assert any(close(loop, other) for other in drawn["loops"])
    assert source.imported <= KNOWN
    used = {node.id for node in ast.walk(ast.parse(source.text)) if isinstance(node, ast.Name)}
    assert source.imported <= used
    assert used <= source.imported | set(source.names) | {"part"}


@settings(max_examples=60, deadline=None)
@given(programs())
def test_any_program(program):
    says_the_same(program)


def test_real_programs(shared):
    files = sorted((shared / "data" / "deepcad_hard").rglob("*.json"))
    files += sorted((shared / "data" / "deepcad" / "json").rglob("*.json"))[::15]
    seen = 0
    for path in files:
        try:
            program = read_json(path)
        except CadmllmError:
            continue
        assert max(len(line) for line in to_script(program, path.stem).splitlines()) < 20_000
        says_the_same(program)
        seen += 1
    assert seen > 90


def box(width: float, length: float, height: Extent, operation=Operation.NEW_BODY, hole: float | None = None) -> Extrude:
    points = [(0.0, 0.0), (width, 0.0), (width, length), (0.0, length)]
    outer = Loop(tuple(Line(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True)))
    inner = (Loop((Circle((width / 2, length / 2), hole),)),) if hole else ()
    return Extrude((Sketch(Plane(), (Profile(outer, inner),)),), operation, height)


def test_a_plate_reads_well():
    program = Program((box(25.400000000000002, 20.0, Extent(ExtentType.ONE_SIDE, -3.0), hole=2.5),))
    expected = '''"""plate: made by cadmllm. Run it with Python after `pip install build123d`. Lengths in millimetres."""

from build123d import BuildPart, BuildSketch, Circle, export_step, extrude, Locations, Mode, Plane, Rectangle

# dimensions, mm
height_1 = 3  # extrusion 1
width_1 = 25.4  # extrusion 1
length_1 = 20  # extrusion 1
radius_1 = 2.5  # extrusion 1

with BuildPart() as part:
    # extrusion 1: new body
    with BuildSketch(Plane.XY):
        with Locations((12.7, 10)):
            Rectangle(width_1, length_1)
        with Locations((12.7, 10)):
            Circle(radius_1, mode=Mode.SUBTRACT)
    extrude(amount=-height_1, mode=Mode.ADD)

export_step(part.part, "plate.step")
'''
    assert to_script(program, "plate") == expected


def test_equal_radii_share_a_name():
    program = Program(tuple(box(20, 20, Extent(ExtentType.ONE_SIDE, 5.0), hole=2.5) for _ in range(3)))
    source = Source(to_script(program, "part"))
    assert [name for name in source.names if name.startswith("radius")] == ["radius_1"]
    assert [name for name in source.names if name.startswith("height")] == ["height_1", "height_2", "height_3"]


def test_a_disc_in_a_ring_is_drawn_after_the_ring():
    ring = Profile(Loop((Circle((0, 0), 10.0),)), (Loop((Circle((0, 0), 6.0),)),))
    disc = Profile(Loop((Circle((0, 0), 5.0),)))
    part = Program((Extrude((Sketch(Plane(), (disc, ring)),), Operation.NEW_BODY, Extent(ExtentType.ONE_SIDE, 1.0)),))
    loops = Source(to_script(part, "part")).features[0]["sketches"][0]["loops"]
    assert [(hole, loop[-1]) for hole, loop in loops] == [(False, 10), (True, 6), (False, 5)]


def test_a_cut_from_nothing_is_said_and_left_out():
    up = Extent(ExtentType.ONE_SIDE, 1.0)
    text = to_script(Program((box(2, 2, up, Operation.CUT), box(9, 9, up))), "part")
    assert "# extrusion 1 (cut): there is no body yet, so it does nothing" in text
    assert len(Source(text).features) == 1
    ast.parse(to_script(Program((box(2, 2, up, Operation.CUT),)), "part"))


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_name_cannot_smuggle_code(name):
    source = Source(to_script(Program((box(2, 2, Extent(ExtentType.ONE_SIDE, 1.0)),)), name))
    assert source.text.isascii()
    call = ast.parse(source.export).body[0].value
    file = ast.literal_eval(call.args[1])
    assert file.endswith(".step")
    assert "/" not in file
    assert not file.startswith(".")
    assert not keyword.iskeyword(file)
