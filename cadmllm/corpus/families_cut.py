"""Families of parts that cuts and intersections shape: housings, cups, grooved and drilled blocks, tees, wedges."""

from __future__ import annotations

import math

from cadmllm.cad.program import Plane
from cadmllm.corpus import shapes
from cadmllm.corpus.captions import Design, Feature, box_size, holes, mm, number, round_size
from cadmllm.corpus.families import MOUNTING, hole_pattern
from cadmllm.corpus.shapes import CUT, INTERSECT, JOIN, Dice, chain, circle, facing_x, facing_y, profile, rectangle, slab


def housing(dice: Dice) -> Design:
    """An open box: a pocket cut into a block, sometimes with bosses or a divider inside."""
    x, y = dice.size(40, 140, 2), dice.size(30, 100, 2)
    x, y, h = max(x, y), min(x, y), dice.size(15, 60)
    wall = dice.between(0.04 * y, 0.1 * y)
    rounded = dice.chance(0.35)
    r = dice.between(0.12 * y, 0.2 * y)
    outer = shapes.rounded_rectangle(x, y, r) if rounded else rectangle(x, y)
    a, b = x - 2 * wall, y - 2 * wall
    pocket = shapes.rounded_rectangle(a, b, r - wall) if rounded and r > 1.2 * wall else rectangle(a, b)
    if rounded and r <= 1.2 * wall:
        outer = rectangle(x, y)
    floor = min(wall, h / 3.0)
    made = [slab(dice, profile(outer), 0, h), slab(dice, profile(pocket), floor, h, operation=CUT)]
    words = ("an open top", "a hollow interior", "a rectangular pocket", "a rectangular cavity open at the top")
    exact = (f"{mm(wall)} mm walls and a {mm(floor)} mm floor", f"a pocket of {mm(a)} x {mm(b)} x {mm(h - floor)} mm")
    found = [Feature(words, exact)]
    extra = dice.weighted((("none", 4.0), ("bosses", 3.0), ("divider", 1.5), ("hole", 1.5)))
    if extra == "bosses":
        boss = dice.between(0.05 * b, 0.1 * b)
        tall = dice.between(0.3 * (h - floor), 0.8 * (h - floor))
        at = [(i * (a / 2.0 - 2 * boss), j * (b / 2.0 - 2 * boss)) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        made.append(slab(dice, [profile(circle(boss, p)) for p in at], floor, floor + tall, operation=JOIN))
        words = ("four cylindrical bosses inside", "four standoffs in the corners", "four posts inside")
        found.append(Feature(words, (f"four {mm(2 * boss)} mm bosses {mm(tall)} mm high",)))
    elif extra == "divider":
        made.append(slab(dice, profile(rectangle(wall, b)), floor, h, operation=JOIN))
        found.append(Feature(("a divider in the middle", "two compartments"), (f"a {mm(wall)} mm divider in the middle",)))
    elif extra == "hole":
        bore = dice.between(0.1 * b, 0.3 * b)
        made.append(slab(dice, profile(circle(bore)), 0, floor, operation=CUT))
        found.append(holes(1, 2 * bore, ("a hole in the bottom", "a round hole in its floor"), "in the floor"))
    names = ("housing", "open box", "rectangular box with an open top", "enclosure", "tray", "hollow box")
    return Design(made, names, box_size(x, y, h), tuple(found), None, (), ("electronic enclosures", "storage", *MOUNTING[:1]))


def cup(dice: Dice) -> Design:
    """A round vessel: a blind bore in a cylinder."""
    r, h = dice.size(10, 60), dice.size(10, 120)
    wall = dice.between(0.06 * r, 0.25 * r)
    floor = min(wall, h / 3.0)
    made = [slab(dice, profile(circle(r)), 0, h), slab(dice, profile(circle(r - wall)), floor, h, operation=CUT)]
    words = ("an open top", "a hollow interior", "a closed bottom and an open top")
    found = Feature(
        words, (f"{mm(wall)} mm walls and a {mm(floor)} mm bottom", f"a {mm(2 * (r - wall))} mm bore closed at the bottom")
    )
    names = ("cup", "cylindrical cup", "cylindrical container", "cylindrical cap", "round container")
    return Design(made, names, round_size(2 * r, h), (found,), None, (), ("storage", "covering pipes"))


def grooved(dice: Dice) -> Design:
    """A block with a rectangular, V-shaped or dovetail groove along its top."""
    x, y, h = dice.size(24, 120, 2), dice.size(20, 80, 2), dice.size(12, 60)
    w = dice.between(0.2 * y, 0.5 * y)
    deep = dice.between(0.2 * h, 0.6 * h)
    a, low = w / 2.0, h - deep
    kind = dice.pick(("rectangular", "rectangular", "V-shaped", "dovetail"))
    mouth = {"rectangular": a, "V-shaped": a, "dovetail": 0.6 * a}[kind]
    foot = {"rectangular": a, "V-shaped": 0.0, "dovetail": a}[kind]
    if kind == "V-shaped":
        outline = chain([(0.0, low), (mouth, h), (-mouth, h)])
    else:
        outline = chain([(-foot, low), (foot, low), (mouth, h), (-mouth, h)])
    made = [
        slab(dice, profile(rectangle(x, y)), 0, h),
        slab(dice, profile(outline), -x / 2.0, x / 2.0, facing_x(), CUT),
    ]
    word = "an open" if kind == "rectangular" else "a " + kind
    words = (f"{word} groove along its top", f"a {kind} slot along the top", f"a {kind} channel cut into the top")
    exact = (f"a {kind} groove {mm(w)} mm wide and {mm(deep)} mm deep along the top",)
    names = ("grooved block", "rectangular block", "slotted block", "guide block")
    return Design(made, names, box_size(x, y, h), (Feature(words, exact),), None, (), MOUNTING)


def notched(dice: Dice) -> Design:
    """A block with a step or a corner cut away."""
    x, y, h = dice.size(24, 120, 2), dice.size(20, 80, 2), dice.size(12, 60)
    a, c = dice.between(0.25 * x, 0.6 * x), dice.between(0.25 * h, 0.6 * h)
    b = y if dice.chance(0.5) else dice.between(0.3 * y, 0.6 * y)
    cut = rectangle(a, b, ((x - a) / 2.0, (y - b) / 2.0))
    made = [slab(dice, profile(rectangle(x, y)), 0, h), slab(dice, profile(cut), h - c, h, operation=CUT)]
    if b == y:
        words = ("a step", "a step cut from one end", "one end lower than the other")
        exact = (f"a step {mm(a)} mm long and {mm(c)} mm deep",)
    else:
        words = ("one corner cut away", "a rectangular notch in one corner", "a corner cutout")
        exact = (f"a {mm(a)} x {mm(b)} x {mm(c)} mm notch in one corner",)
    names = ("block", "stepped block", "rectangular block") if b == y else ("block", "notched block", "rectangular block")
    return Design(made, names, box_size(x, y, h), (Feature(words, exact),), None, (), MOUNTING)


def drilled_block(dice: Dice) -> Design:
    """A block with a hole pattern from above and holes from the side."""
    x, y, h = dice.size(30, 120, 2), dice.size(24, 80, 2), dice.size(16, 60, 2)
    x, y = max(x, y), min(x, y)
    made = [slab(dice, profile(rectangle(x, y)), 0, h)]
    found: list[Feature] = []
    if dice.chance(0.5):
        loops, found_above = hole_pattern(dice, x, y)
        made.append(slab(dice, [profile(loop) for loop in loops], 0, h, operation=CUT))
        found += found_above
    r = dice.between(0.1 * min(y, h), 0.3 * min(y, h))
    if dice.chance(0.5):
        made.append(slab(dice, profile(circle(r, (0.0, h / 2.0))), -x / 2.0, x / 2.0, facing_x(), CUT))
        words = ("a hole along its length", "a horizontal hole through its length", "a lengthwise bore")
        found.append(holes(1, 2 * r, words, "along its length"))
    else:
        made.append(slab(dice, profile(circle(r, (0.0, h / 2.0))), -y / 2.0, y / 2.0, facing_y(), CUT))
        words = ("a hole through its side", "a horizontal hole from front to back", "a cross hole")
        found.append(holes(1, 2 * r, words, "from front to back"))
    names = ("drilled block", "rectangular block", "block", "rectangular solid")
    return Design(made, names, box_size(x, y, h), tuple(found), None, (), MOUNTING)


def counterbored(dice: Dice) -> Design:
    """A plate whose holes have a wider upper part."""
    x, y = dice.size(30, 120, 2), dice.size(24, 80, 2)
    x, y = max(x, y), min(x, y)
    t, n = dice.between(0.12 * y, 0.25 * y), dice.pick((1, 2, 4))
    wide = dice.between(0.08 * y, 0.14 * y)
    small = dice.between(0.45 * wide, 0.7 * wide)
    a, b = x / 2.0 - 1.6 * wide, y / 2.0 - 1.6 * wide
    at = {1: [(0.0, 0.0)], 2: [(-a, 0.0), (a, 0.0)], 4: [(-a, -b), (a, -b), (a, b), (-a, b)]}[n]
    deep = dice.between(0.3 * t, 0.6 * t)
    made = [
        slab(dice, profile(rectangle(x, y)), 0, t),
        slab(dice, [profile(circle(small, p)) for p in at], 0, t, operation=CUT),
        slab(dice, [profile(circle(wide, p)) for p in at], t - deep, t, operation=CUT),
    ]
    s = "s" * (n > 1)
    what = f"{number(n)} counterbored holes" if n > 1 else "a counterbored hole"
    exact = (f"{what}, {mm(2 * small)} mm through and {mm(2 * wide)} mm to a depth of {mm(deep)} mm",)
    found = Feature((what, f"{what} for screws", f"{number(n)} stepped hole{s}"), exact)
    names = ("plate", "mounting plate", "rectangular plate", "base plate")
    return Design(made, names, box_size(x, y, t), (found,), (x, y, t), (), MOUNTING)


def clevis(dice: Dice) -> Design:
    """A fork: a block with a wide slot and a hole across both arms."""
    x, y, h = dice.size(20, 80, 2), dice.size(12, 50, 2), dice.size(24, 90, 2)
    arm, foot = dice.between(0.15 * x, 0.3 * x), dice.between(0.15 * h, 0.4 * h)
    made = [
        slab(dice, profile(rectangle(x, y)), 0, h),
        slab(dice, profile(rectangle(x - 2 * arm, y)), foot, h, operation=CUT),
    ]
    r = dice.between(0.12 * min(y, h - foot), 0.3 * min(y, h - foot))
    made.append(slab(dice, profile(circle(r, (0.0, (foot + h) / 2.0))), -x / 2.0, x / 2.0, facing_x(), CUT))
    words = ("a hole through both arms", "two arms with a hole across", "aligned holes in its two arms")
    found = (
        holes(1, 2 * r, words, "across both arms"),
        Feature(("a wide slot", "two parallel arms"), (f"arms {mm(arm)} mm thick and a {mm(x - 2 * arm)} mm slot",)),
    )
    names = ("clevis", "fork", "U-shaped bracket", "forked block", "yoke")
    return Design(made, names, box_size(x, y, h), found, None, (), MOUNTING)


def pipe_tee(dice: Dice) -> Design:
    """Two cylinders that meet at a right angle, usually bored: a T-shaped or cross-shaped pipe."""
    r = dice.size(8, 40)
    length, branch = dice.between(4 * r, 8 * r), dice.between(0.6 * r, 0.9 * r)
    reach = dice.between(1.8 * r, 4 * r)
    crossing = dice.chance(0.35)
    low = -reach if crossing else 0.0
    made = [
        slab(dice, profile(circle(r)), -length / 2.0, length / 2.0, facing_x()),
        slab(dice, profile(circle(branch)), low, reach, operation=JOIN),
    ]
    found = []
    if dice.chance(0.8):
        bore = dice.between(0.45 * branch, 0.8 * branch)
        made.append(slab(dice, profile(circle(bore)), -length / 2.0, length / 2.0, facing_x(), CUT))
        made.append(slab(dice, profile(circle(bore)), low, reach, operation=CUT))
        found.append(Feature(("a hollow center", "bores that meet inside", "a hollow interior"), (f"{mm(2 * bore)} mm bores",)))
    word = "cross" if crossing else "T"
    found.insert(
        0,
        Feature(
            ("two cylinders crossing at a right angle",) if crossing else ("a branch at a right angle", "a perpendicular branch"),
            (f"a {mm(2 * branch)} mm branch reaching {mm(reach)} mm from the axis" + (" on both sides" if crossing else ""),),
        ),
    )
    names = (f"{word}-shaped pipe", f"{word}-shaped pipe fitting", f"pipe {'cross' if crossing else 'tee'}")
    size = (f"of {mm(2 * r)} mm diameter and {mm(length)} mm length", f"{mm(length)} mm long and {mm(2 * r)} mm in diameter")
    return Design(made, names, size, tuple(found), None, (), ("piping systems",))


def cross_drilled(dice: Dice) -> Design:
    """A cylinder with a hole across it."""
    r = dice.size(8, 50)
    h = dice.between(1.5 * r, 6 * r)
    hole = dice.between(0.15 * r, 0.55 * r)
    made = [
        slab(dice, profile(circle(r)), 0, h),
        slab(dice, profile(circle(hole, (0.0, h / 2.0))), -1.5 * r, 1.5 * r, facing_y(), CUT),
    ]
    words = ("a hole across it", "a transverse hole", "a cross hole through its side")
    names = ("cylinder", "cross-drilled pin", "cylindrical object", "cylindrical pin")
    return Design(made, names, round_size(2 * r, h), (holes(1, 2 * hole, words, "across the middle"),), None, (), MOUNTING)


def wedge(dice: Dice) -> Design:
    """A ramp, plain or with a hole or a boss standing square on its slope."""
    x, y, h = dice.size(30, 120, 2), dice.size(20, 80, 2), dice.size(15, 80)
    outline = chain([(-x / 2.0, 0.0), (x / 2.0, 0.0), (-x / 2.0, h)])
    made = [slab(dice, profile(outline), -y / 2.0, y / 2.0, facing_y())]
    slope = math.hypot(x, h)
    plane = Plane((0.0, 0.0, h / 2.0), (0.0, 1.0, 0.0), (h / slope, 0.0, x / slope))
    what = dice.pick(("plain", "hole", "boss"))
    r = dice.between(0.1 * min(y, slope), 0.2 * min(y, slope))
    found = [Feature(("a sloped top", "an inclined surface", "a sloping side"), (f"a slope from {mm(h)} mm down to 0",))]
    if what == "hole":
        deep = dice.between(0.1 * min(x, h), 0.3 * min(x, h))
        made.append(slab(dice, profile(circle(r)), -deep, 0, plane, CUT))
        words = ("a hole in the sloped face", "a round pocket on the inclined surface")
        found.append(Feature(words, (f"a {mm(2 * r)} mm hole {mm(deep)} mm deep, square to the slope",)))
    elif what == "boss":
        tall = dice.between(0.1 * min(x, h), 0.4 * min(x, h))
        made.append(slab(dice, profile(circle(r)), 0, tall, plane, JOIN))
        words = ("a cylindrical boss on the slope", "a cylinder standing on the inclined surface")
        found.append(Feature(words, (f"a {mm(2 * r)} mm boss {mm(tall)} mm high, square to the slope",)))
    names = ("wedge", "ramp", "triangular block", "wedge-shaped block")
    size = box_size(x, y, h) if what != "boss" else (f"with a base of {mm(x)} x {mm(y)} mm and {mm(h)} mm high",)
    return Design(made, names, size, tuple(found), None, (), ("structural support",))


def intersected(dice: Dice) -> Design:
    """What two shapes have in common: a block with round ends, a lens, a barrel-topped block."""
    kind = dice.pick(("corners", "lens", "barrel"))
    if kind == "corners":
        a, h = dice.size(16, 80, 2), dice.size(4, 50)
        r = dice.between(0.55 * a, 0.66 * a)
        made = [slab(dice, profile(rectangle(a, a)), 0, h), slab(dice, profile(circle(r)), 0, h, operation=INTERSECT)]
        words = ("corners rounded by a circle", "rounded corners", "arched corners")
        names = ("square block", "square block with rounded corners", "square plate")
        return Design(made, names, box_size(a, a, h), (Feature(words, (f"corners cut at a {mm(r)} mm radius",)),))
    if kind == "lens":
        r, h = dice.size(12, 60), dice.size(3, 40)
        apart = dice.between(0.5 * r, 1.2 * r)
        made = [
            slab(dice, profile(circle(r, (-apart / 2.0, 0.0))), 0, h),
            slab(dice, profile(circle(r, (apart / 2.0, 0.0))), 0, h, operation=INTERSECT),
        ]
        words = ("two curved sides that meet in sharp edges", "two pointed ends")
        names = ("lens-shaped block", "lens-shaped plate", "almond-shaped plate")
        exact = (f"sides of {mm(r)} mm radius",)
        return Design(made, names, (f"{mm(2 * r - apart)} mm wide and {mm(h)} mm thick",), (Feature(words, exact),))
    x, y = dice.size(20, 100, 2), dice.size(20, 60, 2)
    r = dice.between(0.6 * y, 1.2 * y)
    crown = r - math.sqrt(r * r - y * y / 4.0)
    side = dice.between(0.2 * y, 0.5 * y)
    h = side + crown
    made = [
        slab(dice, profile(rectangle(x, y)), 0, h),
        slab(dice, profile(circle(r, (0.0, h - r))), -x, x, facing_x(), INTERSECT),
    ]
    words = ("a curved top", "a rounded top", "an arched top surface")
    names = ("block", "block with a curved top", "arched block")
    exact = (f"a top curved at a {mm(r)} mm radius and {mm(side)} mm high sides",)
    return Design(made, names, (f"with a base of {mm(x)} x {mm(y)} mm",), (Feature(words, exact),))


CUTS = (
    (housing, 6.0),
    (cup, 2.5),
    (grooved, 2.5),
    (notched, 2.5),
    (drilled_block, 3.0),
    (counterbored, 2.0),
    (clevis, 2.0),
    (pipe_tee, 2.0),
    (cross_drilled, 1.5),
    (wedge, 3.5),
    (intersected, 2.0),
)
