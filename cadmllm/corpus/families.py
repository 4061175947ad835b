"""Families of parts that are one outline extruded, with or without holes: plates, discs, profiles, polygons, gears."""

from __future__ import annotations

import math
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


def polygon(dice: Dice) -> Design:
    """A regular prism, solid or with a round hole: hex nuts among them."""
    sides = dice.weighted(((3, 2.0), (5, 1.0), (6, 6.0), (8, 2.0)))
    r = dice.size(6, 60)
    nut = sides == 6 and dice.chance(0.5)
    h = dice.between(0.4 * r, 1.2 * r) if nut else dice.between(0.2 * r, 4 * r)
    word = {3: "triangular", 5: "pentagonal", 6: "hexagonal", 8: "octagonal"}[sides]
    outer = shapes.regular_polygon(sides, r)
    side = 2 * r * math.sin(math.pi / sides)
    flats = 2 * r * math.cos(math.pi / sides)
    size = [
        f"with {mm(2 * r)} mm across corners and {mm(h)} mm height",
        f"of {mm(h)} mm height with {mm(round(side, 2))} mm sides",
    ]
    if sides % 2 == 0:
        size.append(f"{mm(round(flats, 2))} mm across flats and {mm(h)} mm high")
    names = (f"{word} prism", f"{word} block", f"{word} solid", f"prism with {_article_side(sides)} base")
    found: tuple[Feature, ...] = ()
    inner: list[Loop] = []
    if nut or dice.chance(0.35):
        bore = dice.between(0.25 * flats / 2, 0.65 * flats / 2)
        inner = [circle(bore)]
        found = (holes(1, 2 * bore, ("a central hole", "a hole through the center", "a cylindrical bore"), "in the center"),)
        names = (f"{word} tube", f"{word} block", f"{word} ring", f"{word} shape")
    if nut:
        names = ("hex nut", "hexagonal nut", "nut", "six-sided nut")
    return Design(drilled(dice, outer, inner, h), names, tuple(size), found, None, ("with a flat top and bottom",))


def _article_side(sides: int) -> str:
    """'a triangular', 'an octagonal' ... with its article."""
    return {3: "a triangular", 5: "a pentagonal", 6: "a hexagonal", 8: "an octagonal"}[sides]


def obround(dice: Dice) -> Design:
    """A slot-shaped plate, often a link with a hole at each end."""
    w = dice.size(10, 50, 2)
    x = w + dice.between(0.6 * w, 3 * w)
    z = dice.between(0.1 * w, 0.6 * w)
    names = ("slotted plate", "obround plate", "plate with rounded ends", "stadium-shaped plate", "oval plate")
    inner: list[Loop] = []
    found: tuple[Feature, ...] = ()
    if dice.chance(0.6):
        r, a = dice.between(0.15 * w, 0.33 * w), (x - w) / 2.0
        inner = [circle(r, (-a, 0.0)), circle(r, (a, 0.0))]
        found = (holes(2, 2 * r, ("two holes", "a hole at each end", "two circular holes at the ends"), "at the ends"),)
        names = ("connecting link", "link", "plate with rounded ends", "flat link with rounded ends")
    return Design(drilled(dice, shapes.slot(x, w), inner, z), names, box_size(x, w, z), found, (x, w, z), (), MOUNTING)


def toothed(dice: Dice) -> Design:
    """A gear or a star, with or without a bore."""
    if dice.chance(0.3):
        n, r = dice.pick((4, 5, 5, 6, 8)), dice.size(15, 60)
        root, h = dice.between(0.4 * r, 0.7 * r), dice.size(2, 25)
        names = ("star", f"{number(n)}-pointed star", "star-shaped plate", "star-shaped object")
        tips = (f"{number(n)} points", f"{number(n)} pointed tips")
        found = [Feature(tips, (f"{number(n)} points and an inner radius of {mm(root)} mm",))]
        outer, size = shapes.star(n, r, root), (f"of {mm(r)} mm outer radius and {mm(h)} mm thickness",)
    else:
        n, r = dice.pick((6, 8, 10, 12, 16, 18, 20, 24)), dice.size(15, 70)
        root, h = dice.between(0.78 * r, 0.88 * r), dice.size(4, 30)
        names = ("gear", "spur gear", "toothed wheel", "gear wheel", "cog")
        teeth = (f"{number(n)} teeth", "teeth around its edge", f"{number(n)} evenly spaced teeth")
        found = [Feature(teeth, (f"{number(n)} teeth", f"{number(n)} teeth on a {mm(2 * root)} mm root circle"))]
        outer, size = shapes.gear(n, r, root), (f"of {mm(2 * r)} mm tip diameter and {mm(h)} mm thickness",)
    inner: list[Loop] = []
    if dice.chance(0.7):
        bore = dice.between(0.15 * root, 0.5 * root)
        inner = [circle(bore)]
        found.append(holes(1, 2 * bore, ("a central hole", "a central bore", "a hole in the center"), "in the center"))
    return Design(
        drilled(dice, outer, inner, h), names, size, tuple(found), None, (), ("power transmission", "mechanical systems")
    )


def keyed(dice: Dice) -> Design:
    """A hub with a keyway, or a shaft with a flat."""
    r = dice.size(10, 50)
    if dice.chance(0.5):
        bore = dice.between(0.35 * r, 0.6 * r)
        width = dice.between(0.4 * bore, 0.7 * bore)
        depth, h = dice.between(0.15 * bore, 0.3 * bore), dice.between(0.5 * r, 2 * r)
        words = ("a keyed bore", "a central hole with a keyway", "a bore with a rectangular keyway")
        exact = (f"a {mm(2 * bore)} mm bore and a keyway {mm(width)} mm wide and {mm(depth)} mm deep",)
        made = drilled(dice, circle(r), [shapes.keyed_circle(bore, width, depth)], h)
        names = ("hub", "cylindrical hub", "keyed hub", "collar")
        return Design(made, names, round_size(2 * r, h), (Feature(words, exact),), None, (), ("power transmission",))
    flat, h = dice.between(0.3 * r, 0.8 * r), dice.size(20, 150)
    words = ("a flat along one side", "one flat side", "a flat face cut along its length")
    exact = (f"a flat {mm(flat)} mm from the axis",)
    names = ("D-shaped shaft", "D-shaft", "cylindrical shaft", "shaft")
    made = [slab(dice, profile(shapes.d_shape(r, flat)), 0, h)]
    return Design(made, names, (*round_size(2 * r, h)[:2],), (Feature(words, exact),), None, (), ("power transmission",))


def half_round(dice: Dice) -> Design:
    """A half disc, or an arch: a block with a half-round opening."""
    r, h = dice.size(10, 60), dice.size(4, 60)
    if dice.chance(0.4):
        made = [slab(dice, profile(shapes.d_shape(r, 0.0)), 0, h)]
        names = ("half cylinder", "semicircular block", "half disc", "half-round block")
        return Design(made, names, (f"of {mm(r)} mm radius and {mm(h)} mm height",), (), None, ("with one flat side",))
    side, top = dice.between(0.3 * r, r), dice.between(0.3 * r, r)
    a = r + side
    outline = Loop(
        (
            shapes.Line((-a, 0.0), (-r, 0.0)),
            shapes.Arc((-r, 0.0), (r, 0.0), -math.pi),
            shapes.Line((r, 0.0), (a, 0.0)),
            shapes.Line((a, 0.0), (a, r + top)),
            shapes.Line((a, r + top), (-a, r + top)),
            shapes.Line((-a, r + top), (-a, 0.0)),
        )
    )
    opening = Feature(
        ("a semicircular opening", "a half-round cutout", "an arched opening"), (f"a half-round opening of {mm(r)} mm radius",)
    )
    names = ("arch", "arched block", "bridge-shaped block", "block")
    return Design([slab(dice, profile(outline), 0, h)], names, box_size(2 * a, r + top, h), (opening,), None, (), MOUNTING)


FLAT = (
    (cube, 3.0),
    (block, 5.0),
    (plate, 14.0),
    (frame, 4.0),
    (cylinder, 4.0),
    (tube, 7.0),
    (bolted_disc, 6.0),
    (section, 10.0),
    (polygon, 7.0),
    (obround, 4.0),
    (toothed, 4.0),
    (keyed, 3.0),
    (half_round, 3.0),
)
