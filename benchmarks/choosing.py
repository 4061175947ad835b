"""How often does each criterion of `infer --candidates` find the right part among wrong ones?

    python benchmarks/choosing.py                  # 80 parts, 5 wrong ones beside each
    python benchmarks/choosing.py --count 200 --root ../shared/data/deepcad

Every part stands against variants of itself that differ in what a model gets wrong: a hole of another size, other proportions,
a missing feature, another size of the whole; and, by pictures, among other parts. Clouds are sampled anew (not the points that
the comparison draws), pictures are rendered by `cad.render`. All candidates are equally likely, so that a tie shows as one.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from cadmllm.cad.convert import read_program
from cadmllm.cad.kernel import BuildResult
from cadmllm.cad.mesh import Mesh, normalise, sample_surface
from cadmllm.cad.program import Circle, Extrude, Loop, Operation, Profile, Program, Sketch
from cadmllm.cad.render import render
from cadmllm.cad.rescale import scaled, stretched
from cadmllm.cad.workshop import Job, Workshop
from cadmllm.corpus import parts
from cadmllm.corpus.types import Cloud, Sample
from cadmllm.infer.choose import Candidate, choose
from cadmllm.infer.dimensions import dimensions_in
from cadmllm.infer.fitting import fit
from cadmllm.infer.generate import Answer

POINTS = 4096
NOISE = 0.005  # of a scan, as a share of half the longest side


def main() -> None:
    """Build, choose, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a data set; default: generated parts of another seed than the bundled ones")
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--others", type=int, default=7, help="other parts beside each, for the silhouettes")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    dice = random.Random(7)
    named = list(taken(args))
    trials = []
    with Workshop(args.workers, 30.0) as workshop:
        built = list(workshop.map([Job(program, mesh=True) for _, program, _ in named]))
        kept = [(item, result) for item, result in zip(named, built, strict=True) if result.ok]
        for (name, program, caption), truth in kept:
            wrong = [(what, other) for what, other in variants(program, dice) if other != program]
            results = list(workshop.map([Job(other, mesh=True) for _, other in wrong]))
            rest = [(what, other, one) for (what, other), one in zip(wrong, results, strict=True) if one.ok]
            trials.append((name, program, caption, truth, rest))
    print(f"{len(trials)} parts, {sum(len(t[4]) for t in trials)} wrong variants that build\n")
    near(trials)
    views(trials, args.others)
    if args.root is None:
        sizes()


def taken(args: argparse.Namespace) -> Iterator[tuple[str, Program, str]]:
    """Name, program, caption with dimensions."""
    if args.root is None:
        for part in parts.generate(args.count, 99):
            yield part.id, part.program, part.captions["dimensioned"]
        return
    for path in sorted((args.root / "json").rglob("*.json"))[: args.count]:
        yield path.stem, read_program(path)[0], ""


def variants(program: Program, dice: random.Random) -> Iterator[tuple[str, Program]]:
    """What a model gets wrong, as far as this program can be got wrong in that way."""
    for what, share in (("a hole 5 % off", 0.95), ("a hole 20 % off", 0.8)):
        other = holes(program, lambda radius, share=share: radius * share)
        if other != program:
            yield what, other
    factors = [1.0, 1.0, 1.0]
    factors[dice.randrange(3)] = dice.choice((0.85, 1.15))
    other = stretched_or_none(program, (factors[0], factors[1], factors[2]))
    if other is not None:
        yield "a side 15 % off", other
    factors = [1.03 if factor != 1.0 else 1.0 for factor in factors]
    other = stretched_or_none(program, (factors[0], factors[1], factors[2]))
    if other is not None:
        yield "a side 3 % off", other
    if len(program.extrudes) > 1:
        yield "the last feature missing", Program(program.extrudes[:-1])
    other = without_hole(program)
    if other != program:
        yield "a hole missing", other
    yield "the whole 10 % larger", scaled(program, 1.1)


def stretched_or_none(program: Program, factors: tuple[float, float, float]) -> Program | None:
    """Stretched, circles round; None where arcs or tilted planes stand against it."""
    from cadmllm.errors import CadmllmError

    try:
        return stretched(program, factors, keep_round=True)
    except CadmllmError:
        return None


def holes(program: Program, change: Callable[[float], float]) -> Program:
    """All round holes with another radius."""

    def loop(one: Loop, is_hole: bool) -> Loop:
        curve = one.curves[0]
        return Loop((Circle(curve.center, change(curve.radius)),)) if is_hole and isinstance(curve, Circle) else one

    def extrude(one: Extrude) -> Extrude:
        cut = one.operation is Operation.CUT
        return dataclasses.replace(
            one,
            sketches=tuple(
                Sketch(
                    sketch.plane,
                    tuple(Profile(loop(p.outer, cut), tuple(loop(q, True) for q in p.inner)) for p in sketch.profiles),
                )
                for sketch in one.sketches
            ),
        )

    return Program(tuple(extrude(one) for one in program.extrudes))


def without_hole(program: Program) -> Program:
    """Without the last inner loop of the first profile that has one."""
    for k, one in enumerate(program.extrudes):
        for s, sketch in enumerate(one.sketches):
            for p, profile in enumerate(sketch.profiles):
                if profile.inner:
                    profiles = list(sketch.profiles)
                    profiles[p] = Profile(profile.outer, profile.inner[:-1])
                    sketches = list(one.sketches)
                    sketches[s] = Sketch(sketch.plane, tuple(profiles))
                    changed = dataclasses.replace(one, sketches=tuple(sketches))
                    return Program((*program.extrudes[:k], changed, *program.extrudes[k + 1 :]))
    return program


def candidate(program: Program, result: BuildResult) -> Candidate:
    """As if a model had answered it."""
    return Candidate(Answer((0,), True, -1.0, 1), program, result, 0, 0.0)


def cloud_of(mesh: Mesh, seed: int, noise: float = 0.0, share: float = 1.0) -> Cloud:
    """A cloud of the part in its own coordinates, with noise, or with a part of it missing."""
    frame = normalise(mesh)
    points, normals = sample_surface(mesh, POINTS, seed)
    points = frame.apply(points) + np.random.default_rng(seed).normal(0.0, noise, points.shape) if noise else frame.apply(points)
    if share < 1.0:
        kept = points[:, 0] <= np.quantile(points[:, 0], share)
        points, normals = points[kept], normals[kept]
    return Cloud(points.astype(np.float32), normals.astype(np.float32), frame)


def near(trials: list) -> None:
    """The right part against each of its wrong variants alone: by what was shown, and by what is wrong."""
    shown: dict[str, Callable[[str, Mesh], Sample]] = {
        "cloud": lambda caption, mesh: Sample("", "", caption, None, (cloud_of(mesh, 5),)),
        "cloud, noise 0.5 %": lambda caption, mesh: Sample("", "", caption, None, (cloud_of(mesh, 5, NOISE),)),
        "cloud, a fifth missing": lambda caption, mesh: Sample("", "", caption, None, (cloud_of(mesh, 5, 0.0, 0.8),)),
        "1 view": lambda caption, mesh: Sample("", "", caption, None, (), (render(mesh, 0),)),
        "4 views": lambda caption, mesh: Sample("", "", caption, None, (), tuple(render(mesh, k) for k in range(4))),
        "dimensions": lambda caption, mesh: Sample("", "", caption, None),
    }
    print("| shown | wrong | trials | right one chosen | tie | wrong one chosen | ms a candidate |")
    print("|---|---|---|---|---|---|---|")
    for how, sample_of in shown.items():
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        seconds = []
        for _, program, caption, truth, wrong in trials:
            dimensions = dimensions_in(caption) if how == "dimensions" else ()
            if how == "dimensions" and not any(item.kind != "distance" for item in dimensions):
                continue
            sample = sample_of(caption, truth.mesh)
            for what, other, result in wrong:
                two = [candidate(other, result), candidate(program, truth)]
                began = time.perf_counter()
                choice = choose(two, sample, dimensions)
                seconds.append((time.perf_counter() - began) / 2)
                outcome = "tie" if choice.by == "likelihood" else "right" if choice.place == 1 else "wrong"
                counts[what][outcome] += 1
                counts["all"][outcome] += 1
        for what, found in counts.items():
            total = sum(found.values())
            ms = f"{1000 * statistics.median(seconds):.0f}" if what == "all" else ""
            print(
                f"| {how} | {what} | {total} | {found['right'] / total:.1%} | {found['tie'] / total:.1%} | "
                f"{found['wrong'] / total:.1%} | {ms} |"
            )


def views(trials: list, others: int) -> None:
    """The right part among other parts, random ones and those of the most alike proportions, by pictures of it."""
    dice = random.Random(3)
    shapes = [np.sort(np.ptp(np.array(truth.box), axis=0)) for *_, truth, _ in trials]
    shapes = [np.log(np.maximum(sides, 1e-9) / sides[-1]) for sides in shapes]
    print("\n| pictures | beside it | trials | right one first | within 0.005 of the first |")
    print("|---|---|---|---|---|")
    for count in (1, 2, 4, 8):
        for beside in ("random", "of the most alike proportions"):
            right = tied = 0
            for place, (_, program, _, truth, _) in enumerate(trials):
                rest = [k for k in range(len(trials)) if k != place]
                if beside == "random":
                    rest = dice.sample(rest, others)
                else:
                    rest = sorted(rest, key=lambda k: float(np.abs(shapes[k] - shapes[place]).sum()))[:others]  # noqa: B023
                images = tuple(render(truth.mesh, k) for k in dice.sample(range(8), count))
                wrong = [candidate(trials[k][1], trials[k][3]) for k in rest]
                choice = choose([*wrong, candidate(program, truth)], Sample("", "", "", None, (), images))
                scores = [score["silhouette"] for score in choice.scores]
                right += scores[-1] >= max(scores)
                tied += scores[-1] >= max(scores) - 0.005
            share = f"{right / len(trials):.1%} | {tied / len(trials):.1%}"
            print(f"| {count} | {others} {beside} | {len(trials)} | {share} |")


def sizes() -> None:
    """What the prompt's dimensions do to answers that are right, and to right ones in a wrong size (generated captions)."""
    count = kept = restored = 0
    for part in parts.generate(300, 41):
        dimensions = dimensions_in(part.captions["dimensioned"])
        count += bool(dimensions)
        for factor in (1.0, 1.3):
            found = fit(scaled(part.program, factor), None, None, dimensions)
            right = max(abs(own * factor - 1.0) for own in found.factors) < 0.005
            kept, restored = kept + (right and factor == 1.0), restored + (right and factor != 1.0)
    print(f"\n{count} captions with dimensions: {kept} right answers left alone, {restored} of 1.3 times the size brought back")


if __name__ == "__main__":
    main()
