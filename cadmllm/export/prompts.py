"""The fixed prompts that an export is compared by: every combination that a stage shows, and a fixed answer to each.

Nothing here is random and nothing is read from a file: two people who compare the same export ask the same questions.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from cadmllm.cad.frame import Transform
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
    Point2,
    Profile,
    Program,
    Sketch,
)
from cadmllm.corpus.types import Cloud, Sample
from cadmllm.settings import COMBINATIONS, Settings

SHORT = "a simple cube"
# digits, units, accents, another script, an emoji, and words of our own vocabulary that the tokenizer must still read as words
LONG = (
    "Eine Grundplatte 80 × 40 × 8 mm (±0.05) mit 4 Bohrungen Ø6,5, boss r=12.75 on top; línea, plane_z -128, rect, end,"
    " < cad:end>: 法兰盘 12345678 🔩 naïve façade №7."
)
VIEWS = 3  # of the prompts with several
CARRIED = {1: COMBINATIONS[:1], 2: COMBINATIONS[:2], 3: COMBINATIONS}
_GOLDEN = math.pi * (3.0 - math.sqrt(5.0))  # angle between neighbours of a sunflower's seeds


def prompts(stage: int, settings: Settings) -> list[Sample]:
    """The prompts of a stage, each with its target.

    Args:
        stage: 1: texts, one short, one long; 2: and clouds; 3: and one view, several views, and all together.
        settings: `model.point_count` points are shown.
    """
    clouds = (cloud(settings.model.point_count),)
    one, several = (view(0),), tuple(view(k) for k in range(VIEWS))
    asked = [
        ("text-short", "text", SHORT, (), ()),
        ("text-long", "text", LONG, (), ()),
        ("cloud-short", "text+point_cloud", SHORT, clouds, ()),
        ("view-long", "text+image", LONG, (), one),
        ("views-short", "text+image", SHORT, (), several),
        ("cloud-views-long", "text+point_cloud+image", LONG, clouds, several),
    ]
    answers = targets()
    return [
        Sample(name, combination, caption, answers[k % len(answers)], clouds=shown, images=views)
        for k, (name, combination, caption, shown, views) in enumerate(asked)
        if combination in CARRIED[stage]
    ]


@cache
def targets() -> tuple[np.ndarray, np.ndarray]:
    """Two programs as CAD vocabulary indices: lines, arcs and circles, holes, every operation, tilted planes, fine numbers."""
    from cadmllm.cad.tokens import encode

    made = []
    for program in (_bracket(), _wedge()):
        tokens = np.array(encode(program).tokens, dtype=np.int64)
        tokens.setflags(write=False)
        made.append(tokens)
    return made[0], made[1]


def _polygon(*points: Point2) -> Loop:
    return Loop(tuple(Line(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True)))


def _slot(left: float, right: float, half: float) -> Loop:
    corners = ((left, -half), (right, -half), (right, half), (left, half))
    return Loop(
        (
            Line(corners[0], corners[1]),
            Arc(corners[1], corners[2], math.pi),
            Line(corners[2], corners[3]),
            Arc(corners[3], corners[0], math.pi),
        )
    )


def _extrude(plane: Plane, profile: Profile, operation: Operation, kind: ExtentType, one: float, two: float = 0.0) -> Extrude:
    return Extrude((Sketch(plane, (profile,)),), operation, Extent(kind, one, two))


def _bracket() -> Program:
    """A plate with four holes, a boss on it, and a slot through both."""
    holes = tuple(Loop((Circle((x, y), 3.25),)) for x in (-32.0, 32.0) for y in (-13.0, 13.0))
    plate = _polygon((-40.0, -20.0), (40.0, -20.0), (40.0, 20.0), (-40.0, 20.0))
    top = Plane(origin=(0.0, 0.0, 8.0))
    return Program(
        (
            _extrude(Plane(), Profile(plate, holes), Operation.NEW_BODY, ExtentType.ONE_SIDE, 8.0),
            _extrude(top, Profile(Loop((Circle((0.0, 0.0), 12.75),))), Operation.JOIN, ExtentType.ONE_SIDE, 17.3),
            _extrude(Plane(), Profile(_slot(-6.1, 6.1, 2.0)), Operation.CUT, ExtentType.SYMMETRIC, 30.0),
        )
    )


def _wedge() -> Program:
    """A five-sided block cut by an oblique plane's circle and trimmed on two sides."""
    outline = _polygon((0.0, 0.0), (31.7, 0.0), (44.9, 18.2), (20.3, 39.1), (-3.6, 22.8))
    slant = math.sqrt(0.5)
    oblique = Plane(origin=(20.0, 15.0, 6.0), x_axis=(slant, 0.0, -slant), normal=(slant, 0.0, slant))
    window = _polygon((5.0, 2.0), (35.0, 2.0), (35.0, 34.0), (5.0, 34.0))
    return Program(
        (
            _extrude(Plane(), Profile(outline), Operation.NEW_BODY, ExtentType.TWO_SIDES, 11.0, 4.5),
            _extrude(oblique, Profile(Loop((Circle((0.0, 0.0), 4.4),))), Operation.CUT, ExtentType.SYMMETRIC, 40.0),
            _extrude(Plane(), Profile(window), Operation.INTERSECT, ExtentType.ONE_SIDE, 9.0),
        )
    )


def cloud(count: int) -> Cloud:
    """`count` points of a cylinder (radius 1, half height 0.6) with its own normals, spread like a sunflower's seeds."""
    side, half = round(count * 0.54), 0.6
    k = np.arange(count)
    angle = k * _GOLDEN
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points, normals = np.zeros((count, 3)), np.zeros((count, 3))
    points[:side, :2] = normals[:side, :2] = around[:side]
    points[:side, 2] = half * (2.0 * (k[:side] + 0.5) / side - 1.0)
    caps = count - side
    points[side:, :2] = around[side:] * np.sqrt((k[:caps] + 0.5) / caps)[:, None]
    sign = np.where(k[:caps] % 2 == 0, 1.0, -1.0)
    points[side:, 2], normals[side:, 2] = half * sign, sign
    return Cloud(points.astype(np.float32), normals.astype(np.float32), Transform((0.0, 0.0, 0.0), 0.05))


def view(number: int) -> np.ndarray:
    """A shaded ball behind a box and a bar on white, RGB uint8 [240, 320, 3]; a different light and place for each number."""
    rows, columns = np.mgrid[0:240, 0:320].astype(np.float64)
    picture = np.full((240, 320, 3), 255.0)
    turn = 0.7 * number
    x, y = (columns - 160.0 - 25.0 * math.sin(turn)) / 80.0, (rows - 120.0) / 80.0
    inside = x * x + y * y < 1.0
    z = np.sqrt(np.clip(1.0 - x * x - y * y, 0.0, None))
    light = np.clip(x * math.cos(turn) * 0.5 - y * 0.4 + z * 0.75, 0.05, 1.0)
    for channel, strength in enumerate((150.0, 170.0, 200.0)):
        picture[..., channel] = np.where(inside, strength * light, picture[..., channel])
    picture[150:200, 90 + 15 * number : 190 + 15 * number] = (70.0, 90.0, 60.0 + 40.0 * number)
    picture[60:75, 60:260] = picture[60:75, 60:260] * 0.5
    return np.rint(picture).astype(np.uint8)
