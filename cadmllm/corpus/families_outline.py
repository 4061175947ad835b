"""Families of parts that are one special outline extruded: polygons and nuts, obrounds, gears and stars, keyed and half-round."""

from __future__ import annotations

import math

from cadmllm.cad.program import Loop
from cadmllm.corpus import shapes
from cadmllm.corpus.captions import Design, Feature, box_size, holes, mm, number, round_size
from cadmllm.corpus.families import MOUNTING, drilled
from cadmllm.corpus.shapes import Dice, circle, profile, slab


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


OUTLINES = (
    (polygon, 7.0),
    (obround, 4.0),
    (toothed, 4.0),
    (keyed, 3.0),
    (half_round, 3.0),
)
