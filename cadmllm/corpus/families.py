"""Families of parts that are one plain outline extruded, with or without holes: blocks, plates, discs, profiles."""

from __future__ import annotations

from collections.abc import Sequence

from cadmllm.cad.program import Extrude, Loop, Point2
from cadmllm.corpus import shapes
from cadmllm.corpus.captions import Design, Feature, box_size, holes, mm, number, round_size
from cadmllm.corpus.shapes import CUT, Dice, circle, profile, rectangle, slab

MOUNTING = ("mechanical applications", "mounting purposes", "structural support", "mechanical or architectural applications")


def drilled(dice: Dice, outer: Loop, inner: Sequence[Loop], height: float) -> list[Extrude]:
    """An outline with holes through it: the holes drawn in the same sketch, or cut afterwards."""
    if not inner or dice.chance(0.65):
        return [slab(dice, profile(outer, *inner), 0.0, height)]
    return [slab(dice, profile(outer), 0.0, height), slab(dice, [profile(loop) for loop in inner], 0.0, height, operation=CUT)]


def on_circle(count: int, radius: float, first: float = 0.0) -> list[Point2]:
    """Points of a bolt circle."""
    return [shapes.polar(radius, first + k * 360.0 / count) for k in range(count)]


def hole_pattern(dice: Dice, x: float, y: float) -> tuple[list[Loop], tuple[Feature, ...]]:
    """Holes that fit an x by y rectangle centred on the origin, and what to say of them."""
    short = min(x, y)
    kind = dice.weighted((("corners", 4.0), ("center", 2.5), ("grid", 2.0), ("row", 1.5), ("bolts", 1.5), ("slot", 1.0)))
    if kind == "corners":
        r = dice.between(0.04 * short, 0.09 * short)
        edge = dice.between(1.8 * r, 0.2 * short)
        a, b = x / 2.0 - edge, y / 2.0 - edge
        words = (
            "four corner holes",
            "four holes at the corners",
            "a hole in each corner",
            "four circular holes near the corners",
        )
        loops = [circle(r, p) for p in ((-a, -b), (a, -b), (a, b), (-a, b))]
        found = [holes(4, 2 * r, words, dice.pick(("at the corners", f"at the corners, {mm(edge)} mm from the edges")))]
        if dice.chance(0.3):
            bore = dice.between(0.1 * short, 0.2 * short)
            loops.append(circle(bore))
            found.append(holes(1, 2 * bore, ("a central hole", "a large hole in the center"), "in the center"))
        return loops, tuple(found)
    if kind == "center":
        r = dice.between(0.08 * short, 0.3 * short)
        words = ("a central hole", "a hole in the center", "a central circular hole", "a cylindrical hole through its center")
        return [circle(r)], (holes(1, 2 * r, words, "in the center"),)
    if kind == "grid":
        nx, ny = dice.whole(2, 4), dice.whole(2, 3)
        step_x, step_y = x / nx, y / ny
        r = dice.between(0.1 * min(step_x, step_y), 0.25 * min(step_x, step_y))
        at = [((i + 0.5) * step_x - x / 2.0, (j + 0.5) * step_y - y / 2.0) for j in range(ny) for i in range(nx)]
        words = (f"a grid of {nx} by {ny} holes", f"{number(nx * ny)} holes in a grid", "a rectangular pattern of holes")
        return [circle(r, p) for p in at], (holes(nx * ny, 2 * r, words, f"in a {nx} x {ny} grid"),)
    if kind == "row":
        n = dice.whole(2, 5)
        step = x / n
        r = dice.between(0.1 * min(step, y), 0.25 * min(step, y))
        at = [((i + 0.5) * step - x / 2.0, 0.0) for i in range(n)]
        words = (
            f"{number(n)} holes in a row",
            f"a row of {number(n)} holes",
            f"{number(n)} evenly spaced holes along its length",
        )
        return [circle(r, p) for p in at], (holes(n, 2 * r, words, f"in a row, {mm(step)} mm apart"),)
    if kind == "bolts":
        n, ring = dice.pick((3, 4, 5, 6, 8)), dice.between(0.28 * short, 0.36 * short)
        r = dice.between(0.03 * short, 0.07 * short)
        words = (f"{number(n)} holes in a circular pattern", f"a bolt circle of {number(n)} holes", "a circular pattern of holes")
        return [circle(r, p) for p in on_circle(n, ring)], (holes(n, 2 * r, words, f"on a {mm(2 * ring)} mm bolt circle"),)
    length, width = dice.between(0.4 * x, 0.7 * x), dice.between(0.1 * min(x, y), 0.3 * min(x, y))
    words = ("a slot through the middle", "a central slot", "an elongated hole in the center")
    exact = (
        f"a central slot {mm(length)} mm long and {mm(width)} mm wide",
        f"a {mm(length)} x {mm(width)} mm slot in the center",
    )
    return [shapes.slot(length, width)], (Feature(words, exact),)


def cube(dice: Dice) -> Design:
    """A cube."""
    a = dice.size(5, 100)
    size = (*box_size(a, a, a)[:3], f"with an edge length of {mm(a)} mm", f"with {mm(a)} mm sides")
    names = ("cube", "simple cube", "solid cube", "cubic block", "cube with equal sides")
    return Design([slab(dice, profile(rectangle(a, a)), 0, a)], names, size)


def block(dice: Dice) -> Design:
    """A rectangular prism."""
    x, y = dice.size(20, 120), dice.size(10, 80)
    x, y, z = max(x, y), min(x, y), dice.size(4, 80)
    names = (
        "rectangular block",
        "rectangular prism",
        "box",
        "rectangular solid",
        "simple box",
        "cuboid",
        "solid rectangular block",
    )
    remarks = ("with a flat top and bottom", "with straight edges and flat surfaces", "with no holes or cutouts")
    return Design([slab(dice, profile(rectangle(x, y)), 0, z)], names, box_size(x, y, z), (), (x, y, z), remarks, MOUNTING)


def plate(dice: Dice) -> Design:
    """A plate with a hole pattern, its corners sharp or rounded."""
    x, y = dice.size(30, 150, 2), dice.size(24, 100, 2)
    x, y = max(x, y), min(x, y)
    z = dice.between(0.04 * y, 0.16 * y)
    inner, found = hole_pattern(dice, x, y)
    if dice.chance(0.35):
        # a corner hole stands at least 0.11 of the short side from the edges: such rounding cannot reach it
        r = dice.between(0.03 * y, 0.1 * y)
        outer = shapes.rounded_rectangle(x, y, r)
        names = ("rectangular plate with rounded corners", "rounded rectangular plate", "flat plate with rounded corners")
        found = (*found, Feature(("smooth rounded edges",), (f"corner radii of {mm(r)} mm", f"{mm(r)} mm corner radius")))
    else:
        outer = rectangle(x, y)
        names = ("rectangular plate", "flat plate", "flat rectangular plate", "mounting plate", "plate")
    return Design(drilled(dice, outer, inner, z), names, box_size(x, y, z), found, (x, y, z), (), MOUNTING)


def frame(dice: Dice) -> Design:
    """A rectangle with a rectangular window: a frame, or long a rectangular tube."""
    x, y = dice.size(30, 120, 2), dice.size(20, 100, 2)
    x, y = max(x, y), min(x, y)
    wall = dice.between(0.06 * y, 0.2 * y)
    long = dice.chance(0.45)
    z = dice.size(60, 200, 5) if long else dice.between(0.06 * y, 0.3 * y)
    if long:
        names = ("rectangular tube", "hollow rectangular tube", "rectangular pipe", "hollow rectangular profile")
        words = ("a hollow center", "an open rectangular channel through it", "a hollow interior")
    else:
        names = ("rectangular frame", "flat rectangular frame", "window frame", "open rectangular frame")
        words = ("a large rectangular opening", "a rectangular cutout in the center", "an open center")
    exact = (f"a wall of {mm(wall)} mm", f"a {mm(x - 2 * wall)} x {mm(y - 2 * wall)} mm opening")
    made = drilled(dice, rectangle(x, y), [rectangle(x - 2 * wall, y - 2 * wall)], z)
    return Design(made, names, box_size(x, y, z), (Feature(words, exact),), None, (), MOUNTING)


def cylinder(dice: Dice) -> Design:
    """A solid cylinder, a disc or a rod."""
    r, h = dice.size(5, 50), dice.size(3, 150)
    names = ("cylinder", "simple cylinder", "solid cylinder", "cylindrical object", "cylindrical shape")
    if h < 0.3 * r:
        names = ("disc", "flat disc", "circular plate", "round plate", "thin cylinder")
    elif h > 6 * r:
        names = ("rod", "cylindrical rod", "long cylinder", "round bar", "pin")
    remarks = ("with a flat top and bottom", "with a smooth surface", "with a smooth, curved surface")
    return Design([slab(dice, profile(circle(r)), 0, h)], names, round_size(2 * r, h), (), None, remarks, MOUNTING)


def tube(dice: Dice) -> Design:
    """A hollow cylinder: washer, ring or pipe."""
    r = dice.size(6, 60)
    bore = dice.between(0.3 * r, 0.9 * r)
    kind = dice.pick(("washer", "ring", "tube"))
    if kind == "washer":
        h, bore = dice.between(0.08 * r, 0.25 * r), dice.between(0.3 * r, 0.65 * r)
        names = ("washer", "flat washer", "circular disc with a hole", "flat ring", "annular disc")
    elif kind == "ring":
        h, bore = dice.between(0.3 * r, 1.2 * r), dice.between(0.55 * r, 0.9 * r)
        names = ("ring", "cylindrical ring", "circular ring", "bushing")
    else:
        h = dice.between(2.2 * r, 8 * r)
        names = ("tube", "hollow cylinder", "cylindrical tube", "pipe", "cylindrical shape", "sleeve")
    words = ("a hollow center", "a central hole", "a hole through its center", "a cylindrical bore")
    found = holes(1, 2 * bore, words, "along its axis" if kind == "tube" else "in the center")
    return Design(drilled(dice, circle(r), [circle(bore)], h), names, round_size(2 * r, h), (found,), None, (), MOUNTING)


def bolted_disc(dice: Dice) -> Design:
    """A flat flange: a disc with a bore and a bolt circle."""
    r = dice.size(20, 90)
    h = dice.between(0.08 * r, 0.3 * r)
    n = dice.pick((3, 4, 4, 5, 6, 6, 8, 10, 12))
    ring = dice.between(0.68 * r, 0.78 * r)
    small = dice.between(0.04 * r, min(0.1, 1.6 / n) * r)
    loops = [circle(small, p) for p in on_circle(n, ring, dice.pick((0.0, 0.0, 180.0 / n)))]
    words = (
        f"{number(n)} bolt holes",
        f"{number(n)} holes evenly spaced around the edge",
        f"a circular pattern of {number(n)} holes",
    )
    found = [holes(n, 2 * small, words, f"on a {mm(2 * ring)} mm bolt circle")]
    names = ("disc", "circular plate", "round plate")
    if dice.chance(0.75):
        bore = dice.between(0.2 * r, 0.5 * r)
        loops.append(circle(bore))
        found.insert(0, holes(1, 2 * bore, ("a central hole", "a central bore", "a hollow center"), "in the center"))
        names = ("flange", "circular flange", "flat round flange", "disc flange")
    return Design(drilled(dice, circle(r), loops, h), names, round_size(2 * r, h), tuple(found), None, (), MOUNTING)


def section(dice: Dice) -> Design:
    """An L, T, U, H, I, Z, cross or stair outline, extruded flat or long; sometimes with a hole."""
    kind = dice.pick("LTUHIZ+S")
    w, h = dice.size(20, 80, 2), dice.size(20, 80, 2)
    t = dice.between(0.12 * min(w, h), 0.3 * min(w, h))
    z = dice.size(60, 200, 5) if dice.chance(0.4) else dice.size(4, 50)
    a, b, c = w / 2.0, h / 2.0, t / 2.0
    corners: dict[str, list[Point2]] = {
        "L": [(-a, -b), (a, -b), (a, -b + t), (-a + t, -b + t), (-a + t, b), (-a, b)],
        "T": [(-c, -b), (c, -b), (c, b - t), (a, b - t), (a, b), (-a, b), (-a, b - t), (-c, b - t)],
        "U": [(-a, -b), (a, -b), (a, b), (a - t, b), (a - t, -b + t), (-a + t, -b + t), (-a + t, b), (-a, b)],
        "H": [(-a, -b), (-a + t, -b), (-a + t, -c), (a - t, -c), (a - t, -b), (a, -b)]
        + [(a, b), (a - t, b), (a - t, c), (-a + t, c), (-a + t, b), (-a, b)],
        "I": [(-a, -b), (a, -b), (a, -b + t), (c, -b + t), (c, b - t), (a, b - t)]
        + [(a, b), (-a, b), (-a, b - t), (-c, b - t), (-c, -b + t), (-a, -b + t)],
        "Z": [(-a, -b), (c, -b), (c, b - t), (a, b - t), (a, b), (-c, b), (-c, -b + t), (-a, -b + t)],
        "+": [(-c, -b), (c, -b), (c, -c), (a, -c), (a, c), (c, c), (c, b), (-c, b), (-c, c), (-a, c), (-a, -c), (-c, -c)],
    }
    wall = Feature(("straight edges",), (f"a wall thickness of {mm(t)} mm", f"{mm(t)} mm thick walls"))
    if kind == "S":
        return _stairs(dice, w, h, z)
    beam = "beam" if z > 2 * max(w, h) else "block"
    names = {
        "L": ("L-shaped profile", f"L-shaped {beam}", "L-profile", "angle profile", "L-shape"),
        "T": ("T-shaped profile", f"T-shaped {beam}", "T-profile", "T-shape"),
        "U": ("U-shaped profile", f"U-shaped {beam}", "U-channel", "channel", "U-shape"),
        "H": ("H-shaped profile", f"H-shaped {beam}", "H-profile", "H-shape"),
        "I": ("I-shaped profile", "I-beam", "I-profile", "structural beam with two flanges"),
        "Z": ("Z-shaped profile", f"Z-shaped {beam}", "Z-profile", "Z-shape"),
        "+": ("cross", "cross-shaped block", "plus-shaped profile", "cross-shaped profile"),
    }[kind]
    made = [slab(dice, profile(shapes.chain(corners[kind])), 0, z)]
    uses = ("structural support", "construction purposes", "mechanical or structural applications")
    return Design(made, names, box_size(w, h, z), (wall,), None, ("with a constant cross-section", "with flat surfaces"), uses)


def _stairs(dice: Dice, w: float, h: float, z: float) -> Design:
    """Equal steps going up to the left, drawn as one outline."""
    n = dice.whole(2, 6)
    run, rise = w / n, h / n
    points: list[Point2] = [(-w / 2.0, -h / 2.0), (w / 2.0, -h / 2.0)]
    for k in range(n):
        points += [(w / 2.0 - k * run, (k + 1) * rise - h / 2.0), (w / 2.0 - (k + 1) * run, (k + 1) * rise - h / 2.0)]
    steps = Feature(
        (f"{number(n)} steps", f"{number(n)} equal steps"), (f"{number(n)} steps, each {mm(run)} mm deep and {mm(rise)} mm high",)
    )
    names = ("staircase", "set of stairs", "stepped block", "stair-shaped block")
    return Design([slab(dice, profile(shapes.chain(points)), 0, z)], names, box_size(w, h, z), (steps,))


FLAT = (
    (cube, 3.0),
    (block, 5.0),
    (plate, 14.0),
    (frame, 4.0),
    (cylinder, 4.0),
    (tube, 7.0),
    (bolted_disc, 6.0),
    (section, 10.0),
)
