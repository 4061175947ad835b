"""Families of parts that are joined from several extrusions: brackets, shafts, flanges with hubs, tables, wheels."""

from __future__ import annotations

from cadmllm.corpus import shapes
from cadmllm.corpus.captions import Design, Feature, box_size, holes, mm, number, round_size
from cadmllm.corpus.families import MOUNTING, on_circle
from cadmllm.corpus.shapes import CUT, JOIN, NEW, Dice, chain, circle, facing_x, facing_y, profile, rectangle, slab


def bracket(dice: Dice) -> Design:
    """Two plates at a right angle with holes, sometimes stiffened by a gusset."""
    x, y, h = dice.size(24, 100, 2), dice.size(24, 80, 2), dice.size(24, 80, 2)
    t = dice.between(0.1 * min(x, y, h), 0.2 * min(x, y, h))
    back = y / 2.0
    made = [
        slab(dice, profile(rectangle(x, y)), 0, t),
        slab(dice, profile(rectangle(x, t, (0.0, back - t / 2.0))), t, h, operation=JOIN),
    ]
    found = []
    gusset = dice.chance(0.3)
    if gusset:
        g = dice.between(0.4 * min(y - t, h - t), 0.8 * min(y - t, h - t))
        rib = chain([(back - t - g, t), (back - t, t), (back - t, t + g)])
        made.append(slab(dice, profile(rib), -t / 2.0, t / 2.0, facing_x(), JOIN))
        words = ("a triangular gusset", "a stiffening rib", "a triangular rib between the plates")
        found.append(Feature(words, (f"a {mm(g)} mm gusset {mm(t)} mm thick",)))
    n = 2 if gusset else dice.pick((1, 2, 2))
    step = x / n
    r = dice.between(0.1 * min(step, y - t), 0.2 * min(step, y - t))
    across = [(k + 0.5) * step - x / 2.0 for k in range(n)]
    base = slab(dice, [profile(circle(r, (u, -t / 2.0))) for u in across], 0, t, operation=CUT)
    both = dice.chance(0.75)
    if both:
        r = min(r, 0.3 * (h - t))
        base = slab(dice, [profile(circle(r, (u, -t / 2.0))) for u in across], 0, t, operation=CUT)
    made.append(base)
    if both:
        upright = [profile(circle(r, (u, (t + h) / 2.0))) for u in across]
        made.append(slab(dice, upright, 0, t, facing_y(back), CUT))
        words = (f"{number(n)} hole{'s' * (n > 1)} in each plate", f"{number(2 * n)} mounting holes", "holes in both plates")
        exact = (f"{number(n)} {mm(2 * r)} mm hole{'s' * (n > 1)} in each plate",)
        found.insert(0, Feature(words, exact))
    else:
        words = (f"{number(n)} hole{'s' * (n > 1)} in the base", f"{number(n)} mounting hole{'s' * (n > 1)}")
        found.insert(0, holes(n, 2 * r, words, "in the base"))
    names = ("L-shaped bracket", "angle bracket", "mounting bracket", "bracket", "L-bracket")
    return Design(made, names, (*box_size(x, y, h)[:3], f"{box_size(x, y, h)[0]}, {mm(t)} mm thick"), tuple(found), uses=MOUNTING)


def shaft(dice: Dice) -> Design:
    """Cylinders of different diameters in a row, sometimes bored through."""
    n = dice.weighted(((2, 3.0), (3, 4.0), (4, 1.5)))
    radii = sorted({dice.size(5, 40) for _ in range(n)}, reverse=True)
    while len(radii) < 2:
        radii.append(radii[-1] / 2.0)
    if len(radii) > 2 and dice.chance(0.4):
        radii[0], radii[1] = radii[1], radii[0]  # the thickest in the middle
    lengths = [dice.size(5, 60) for _ in radii]
    made, low = [], 0.0
    for k, (r, length) in enumerate(zip(radii, lengths, strict=True)):
        made.append(slab(dice, profile(circle(r)), low, low + length, operation=JOIN if k else NEW))
        low += length
    diameters = ", ".join(mm(2 * r) for r in radii)
    words = (f"{number(len(radii))} steps", f"{number(len(radii))} sections of different diameters", "decreasing diameters")
    if radii != sorted(radii, reverse=True):
        words = (*words[:2], "a thicker middle section")
    exact = (f"sections of {diameters} mm diameter and {', '.join(mm(v) for v in lengths)} mm length",)
    found = [Feature(words, exact)]
    names = ("stepped shaft", "stepped cylinder", "cylindrical shaft", "shaft with steps")
    if dice.chance(0.3):
        bore = dice.between(0.3 * min(radii), 0.7 * min(radii))
        made.append(slab(dice, profile(circle(bore)), 0, low, operation=CUT))
        found.append(holes(1, 2 * bore, ("a bore along its axis", "a central hole", "a hollow center"), "along its axis"))
        names = ("stepped bushing", "stepped sleeve", "hollow stepped shaft", "stepped hollow cylinder")
    return Design(made, names, round_size(2 * max(radii), low)[:3], tuple(found), None, (), ("power transmission", *MOUNTING[:1]))


def hub_flange(dice: Dice) -> Design:
    """A disc with a raised hub, a bore through both and a bolt circle."""
    r = dice.size(25, 90)
    t, hub = dice.between(0.1 * r, 0.25 * r), dice.between(0.35 * r, 0.5 * r)
    top = t + dice.between(0.2 * r, 1.2 * r)
    made = [slab(dice, profile(circle(r)), 0, t), slab(dice, profile(circle(hub)), t, top, operation=JOIN)]
    words = ("a raised hub", "a cylindrical boss in the center", "a raised central cylinder")
    found = [Feature(words, (f"a {mm(2 * hub)} mm hub {mm(top - t)} mm high",))]
    if dice.chance(0.8):
        bore = dice.between(0.4 * hub, 0.8 * hub)
        made.append(slab(dice, profile(circle(bore)), 0, top, operation=CUT))
        found.append(holes(1, 2 * bore, ("a central bore", "a central hole", "a hole through the hub"), "through the hub"))
    n = dice.pick((3, 4, 4, 6, 6, 8))
    small, ring = dice.between(0.04 * r, 0.09 * r), dice.between(0.72 * r, 0.8 * r)
    made.append(slab(dice, [profile(circle(small, p)) for p in on_circle(n, ring)], 0, t, operation=CUT))
    words = (f"{number(n)} bolt holes", f"{number(n)} holes around the hub", f"a circular pattern of {number(n)} holes")
    found.append(holes(n, 2 * small, words, f"on a {mm(2 * ring)} mm bolt circle"))
    names = ("flange", "hub flange", "flanged hub", "circular flange", "flange with a raised hub")
    return Design(made, names, round_size(2 * r, top), tuple(found), None, (), ("piping or structural applications", *MOUNTING))


def bolt(dice: Dice) -> Design:
    """A hexagonal or round head on a cylindrical shank."""
    head, shank = dice.size(6, 30), 0.0
    shank = dice.between(0.4 * head, 0.65 * head)
    t, length = dice.between(0.5 * head, 0.9 * head), dice.between(2 * head, 8 * head)
    hexed = dice.chance(0.65)
    outer = shapes.regular_polygon(6, head) if hexed else circle(head)
    made = [slab(dice, profile(outer), 0, t), slab(dice, profile(circle(shank)), t, t + length, operation=JOIN)]
    names = (
        ("bolt", "hex bolt", "hexagonal bolt", "screw")
        if hexed
        else ("pin with a head", "rivet", "headed pin", "round-head bolt")
    )
    kind = "hexagonal head" if hexed else "round head"
    across = "across corners" if hexed else "in diameter"
    found = Feature(
        (f"a {kind}", f"a {kind} and a cylindrical shank", f"a cylindrical shaft and a {kind}"),
        (f"a {kind} {mm(2 * head)} mm {across} and {mm(t)} mm high and a shank {mm(2 * shank)} mm in diameter",),
    )
    return Design(
        made, names, (f"of {mm(t + length)} mm length", f"{mm(t + length)} mm long"), (found,), None, (), ("fastening parts",)
    )


def spool(dice: Dice) -> Design:
    """Two discs on a thinner core: a pulley, a spool, a dumbbell."""
    r = dice.size(12, 60)
    core, t = dice.between(0.3 * r, 0.75 * r), dice.between(0.1 * r, 0.5 * r)
    gap = dice.between(0.3 * r, 3 * r)
    top = 2 * t + gap
    made = [
        slab(dice, profile(circle(r)), 0, t),
        slab(dice, profile(circle(core)), t, t + gap, operation=JOIN),
        slab(dice, profile(circle(r)), t + gap, top, operation=JOIN),
    ]
    words = ("two discs joined by a cylinder", "two flanges and a narrower middle", "a groove around its middle")
    found = [Feature(words, (f"two {mm(t)} mm thick flanges and a {mm(2 * core)} mm core",))]
    if dice.chance(0.5):
        bore = dice.between(0.3 * core, 0.7 * core)
        made.append(slab(dice, profile(circle(bore)), 0, top, operation=CUT))
        found.append(holes(1, 2 * bore, ("a central hole", "a bore along its axis"), "along its axis"))
    names = ("spool", "pulley", "grooved wheel", "reel") if gap < r else ("spool", "bobbin", "dumbbell-shaped part", "reel")
    return Design(made, names, round_size(2 * r, top), tuple(found), None, (), MOUNTING[:1])


def table(dice: Dice) -> Design:
    """A plate on four legs."""
    x, y = dice.size(40, 150, 2), dice.size(30, 100, 2)
    x, y, h = max(x, y), min(x, y), dice.size(30, 120, 2)
    leg, t = dice.between(0.08 * y, 0.16 * y), dice.between(0.04 * h, 0.12 * h)
    a, b = x / 2.0 - leg, y / 2.0 - leg
    at = ((-a, -b), (a, -b), (a, b), (-a, b))
    round_legs = dice.chance(0.4)
    legs = [profile(circle(leg / 2.0, p) if round_legs else rectangle(leg, leg, p)) for p in at]
    made = [slab(dice, profile(rectangle(x, y)), h - t, h), slab(dice, legs, 0, h - t, operation=JOIN)]
    kind = "cylindrical" if round_legs else "square"
    found = Feature(
        ("four legs", f"four {kind} legs", "a flat top and four legs"),
        (f"a {mm(t)} mm thick top and four {kind} legs {mm(leg)} mm {'in diameter' if round_legs else 'wide'}",),
    )
    names = ("table", "simple table", "rectangular table", "stool", "bench")
    return Design(made, names, box_size(x, y, h), (found,), None, (), ("furniture design",))


def heat_sink(dice: Dice) -> Design:
    """A base plate with equal upright fins."""
    n, gap, fin = dice.whole(3, 9), dice.size(3, 8), dice.size(1, 4)
    x = n * fin + (n - 1) * gap
    y, t, h = dice.size(20, 100, 2), dice.size(2, 8), 0.0
    h = t + dice.between(8 * dice.unit, 40 * dice.unit)
    fins = [profile(rectangle(fin, y, (k * (fin + gap) + fin / 2.0 - x / 2.0, 0.0))) for k in range(n)]
    made = [slab(dice, profile(rectangle(x, y)), 0, t), slab(dice, fins, t, h, operation=JOIN)]
    words = (f"{number(n)} parallel fins", f"{number(n)} upright fins on a flat base", "a series of parallel ridges")
    exact = (f"{number(n)} fins {mm(fin)} mm thick and {mm(gap)} mm apart on a {mm(t)} mm base",)
    names = ("heat sink", "finned plate", "ribbed plate", "finned block")
    return Design(made, names, box_size(x, y, h), (Feature(words, exact),), None, (), ("cooling electronic parts",))


def stacked(dice: Dice) -> Design:
    """Ever smaller blocks or discs on top of each other."""
    n, size = dice.pick((2, 3, 3, 4)), dice.size(24, 100, 2)
    cut = dice.between(0.1 * size / n, 0.8 * size / n)
    step = dice.size(3, 20)
    kind = dice.pick(("square", "round", "rectangular"))
    deep = size if kind != "rectangular" else dice.between(0.6 * size, 0.9 * size) + n * 0.0
    made = []
    for k in range(n):
        outer = circle((size - k * cut) / 2.0) if kind == "round" else rectangle(size - k * cut, deep - k * cut * deep / size)
        made.append(slab(dice, profile(outer), k * step, (k + 1) * step, operation=JOIN if k else NEW))
    words = (f"{number(n)} stacked layers", f"{number(n)} levels of decreasing size", f"{number(n)} steps on every side")
    exact = (
        f"{number(n)} layers {mm(step)} mm high, each {mm(cut)} mm {'smaller in diameter' if kind == 'round' else 'shorter'}",
    )
    names = ("stepped pyramid", "stack of blocks", "stepped block") if kind != "round" else ("stack of discs", "stepped disc")
    dims = round_size(size, n * step) if kind == "round" else box_size(size, deep, n * step)
    return Design(made, names, dims, (Feature(words, exact),), None, (), ("architectural applications", "a base or pedestal"))


def wheel(dice: Dice) -> Design:
    """A rim, a hub and straight spokes, bored."""
    r, t = dice.size(25, 90), dice.size(5, 25)
    rim, hub = dice.between(0.78 * r, 0.88 * r), dice.between(0.2 * r, 0.3 * r)
    bars, width = dice.pick((1, 2, 2, 3)), dice.between(0.06 * r, 0.14 * r)
    reach = (r + rim) / 2.0
    made = [slab(dice, profile(circle(r), circle(rim)), 0, t)]
    for k in range(bars):
        angle = k * 180.0 / bars
        made.append(slab(dice, profile(turned_bar(2 * reach, width, angle)), 0, t, operation=JOIN))
    made.append(slab(dice, profile(circle(hub)), 0, t, operation=JOIN))
    bore = dice.between(0.3 * hub, 0.7 * hub)
    made.append(slab(dice, profile(circle(bore)), 0, t, operation=CUT))
    n = number(2 * bars)
    found = (
        Feature((f"{n} spokes", f"{n} straight spokes", f"a central hub and {n} spokes"), (f"{n} spokes {mm(width)} mm wide",)),
        Feature(("a central hole", "a bored hub"), (f"a {mm(2 * hub)} mm hub with a {mm(2 * bore)} mm bore",)),
    )
    names = ("wheel", "spoked wheel", "wheel with spokes", "handwheel")
    return Design(made, names, round_size(2 * r, t), found, None, (), ("mechanical systems",))


def turned_bar(length: float, width: float, degrees: float) -> shapes.Loop:
    """A rectangle about the origin, turned."""
    ux, uy = shapes.polar(length / 2.0, degrees)
    vx, vy = shapes.polar(width / 2.0, degrees + 90.0)
    return chain([(-ux - vx, -uy - vy), (ux - vx, uy - vy), (ux + vx, uy + vy), (-ux + vx, -uy + vy)])


def ladder(dice: Dice) -> Design:
    """Two rails and equal rungs."""
    n, x, rail = dice.whole(3, 8), dice.size(30, 60, 2), dice.size(3, 7)
    step, t = dice.size(12, 30), dice.size(3, 8)
    y = (n + 1) * step
    rails = [profile(rectangle(rail, y, (side * (x - rail) / 2.0, 0.0))) for side in (-1, 1)]
    rung = min(rail, step / 2.0)
    rungs = [profile(rectangle(x - 2 * rail, rung, (0.0, (k + 1) * step - y / 2.0))) for k in range(n)]
    made = [slab(dice, rails, 0, t), slab(dice, rungs, 0, t, operation=JOIN)]
    found = Feature(
        (f"{number(n)} rungs", f"two rails and {number(n)} rungs", "multiple rungs"), (f"{number(n)} rungs {mm(step)} mm apart",)
    )
    return Design(
        made, ("ladder", "simple ladder", "straight ladder"), box_size(x, y, t), (found,), None, (), ("home improvement",)
    )


def bearing_block(dice: Dice) -> Design:
    """A base plate with an upright, round-topped block and a bore through it."""
    r = dice.size(10, 40)
    x, y = 2 * r + dice.between(1.6 * r, 3 * r), dice.between(1.2 * r, 2 * r)
    t, axis = dice.between(0.3 * r, 0.5 * r), 0.0
    axis = t + dice.between(0.5 * r, 1.4 * r)
    upright = shapes.Loop(
        (
            shapes.Line((-r, t), (r, t)),
            shapes.Line((r, t), (r, axis)),
            shapes.Arc((r, axis), (-r, axis), 3.141592653589793),
            shapes.Line((-r, axis), (-r, t)),
        )
    )
    w = dice.between(0.5 * y, y)
    made = [
        slab(dice, profile(rectangle(x, y)), 0, t),
        slab(dice, profile(upright), -w / 2.0, w / 2.0, facing_y(), JOIN),
    ]
    bore = dice.between(0.4 * r, 0.75 * r)
    made.append(slab(dice, profile(circle(bore, (0.0, axis))), -w / 2.0, w / 2.0, facing_y(), CUT))
    words = ("a round-topped upright with a hole", "a horizontal bore", "a rounded top and a bore through it")
    found = [Feature(words, (f"a {mm(2 * bore)} mm bore {mm(axis)} mm above the base",))]
    if dice.chance(0.7):
        room = x / 2.0 - r
        small = dice.between(0.12 * min(room, y), 0.25 * min(room, y))
        at = [(side * (r + room / 2.0), 0.0) for side in (-1, 1)]
        made.append(slab(dice, [profile(circle(small, p)) for p in at], 0, t, operation=CUT))
        found.append(holes(2, 2 * small, ("two mounting holes in the base", "two holes in the base plate"), "in the base"))
    names = ("bearing block", "pillow block", "support with a bore", "lug on a base plate")
    return Design(made, names, box_size(x, y, axis + r), tuple(found), None, (), MOUNTING)


def bodies(dice: Dice) -> Design:
    """Two or three separate equal bodies side by side."""
    n, gap, h = dice.pick((2, 2, 3)), dice.size(5, 30), dice.size(5, 80)
    if dice.chance(0.5):
        r = dice.size(5, 25)
        pitch, outer, word, dims = 2 * r + gap, circle(r), "cylinder", round_size(2 * r, h)[0]
    else:
        a, b = dice.size(8, 40), dice.size(8, 60)
        pitch, outer, word, dims = a + gap, rectangle(a, b), "block", box_size(a, b, h)[0]
    made = [slab(dice, profile(shapes.moved(outer, (k - (n - 1) / 2.0) * pitch, 0.0)), 0, h, operation=NEW) for k in range(n)]
    names = (
        f"set of {number(n)} separate {word}s",
        f"group of {number(n)} {word}s side by side",
        f"row of {number(n)} equal {word}s",
    )
    return Design(made, names, (f"of {dims} each, {mm(gap)} mm apart", f"with a gap of {mm(gap)} mm, each {dims}"))


JOINED = (
    (bracket, 6.0),
    (shaft, 6.0),
    (hub_flange, 4.0),
    (bolt, 3.0),
    (spool, 2.5),
    (table, 2.0),
    (heat_sink, 2.0),
    (stacked, 2.0),
    (wheel, 1.5),
    (ladder, 1.0),
    (bearing_block, 2.5),
    (bodies, 1.5),
)
