"""What a point file holds, what the views of an id show: the examiners of what is no text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cadmllm.corpus.facts import Facts, Flaw
from cadmllm.corpus.points import read_cloud
from cadmllm.errors import CadmllmError

SMALL = 64  # pixels of the shortest side below which edges of a part are no longer told apart
_NUMBER = re.compile(r"_(\d{1,3})\.\w+$")


def examine_cloud(path: Path) -> Facts:
    """What a point file holds.

    Returns:
        Values: `points` (count), `normals` ('file' or 'none': they are estimated when it is read), `low`, `high` ([x, y, z]
        of the file's own points), `transform` (center and scale that the file was stored with, 4 numbers, or None).
        Flaws: E404, E420 to E422, E424, E430 to E438.
    """
    try:
        raw = read_cloud(path)
    except CadmllmError as error:
        return Facts({}, (Flaw(error.code, "fail", str(path), error.message),))
    transform = [*raw.transform.center, raw.transform.scale] if raw.transform else None
    return Facts(
        {
            "points": len(raw.points),
            "normals": "none" if raw.normals is None else "file",
            "low": raw.points.min(axis=0).tolist(),
            "high": raw.points.max(axis=0).tolist(),
            "transform": transform,
        },
        raw.remarks,
    )


def examine_views(paths: Sequence[Path]) -> Facts:
    """What the views of one id show. One that cannot be used spoils them all: training draws any of them.

    A view of one colour is suspect (no side of a solid is empty: its rendering failed), and drawn once in a while it does
    little harm; where all views are of one colour there is nothing to learn from, and they are not used.

    Args:
        paths: all view files of the id.

    Returns:
        Values: `views` (count), `numbers` (as in the files' names), `width`, `height` (of the smallest view, pixels).
        Flaws: E405, E420, E421, E424, E440 to E442, E444, E445.
    """
    from cadmllm.corpus.pixels import SMALLEST, is_blank, load_rgb  # needs Pillow, which text alone does without

    flaws: list[Flaw] = []
    sizes: list[tuple[int, int]] = []
    good = 0
    for path in paths:
        try:
            picture = load_rgb(path)
        except CadmllmError as error:
            flaws.append(Flaw(error.code, "fail", str(path), error.message))
            continue
        height, width = picture.shape[:2]
        sizes.append((width, height))
        blank, tiny = is_blank(picture), min(width, height) < SMALLEST
        good += not blank and not tiny
        if min(width, height) < SMALL:
            message = f"{path} has {width} x {height} pixels: the image encoder sees 224 x 224"
            flaws.append(Flaw("E441", "fail" if tiny else "warn", str(path), message))
        if blank:
            flaws.append(Flaw("E442", "fail", str(path), f"{path} shows nothing: it is of one colour"))
    if len(set(sizes)) > 1:
        said = ", ".join(f"{width} x {height}" for width, height in sorted(set(sizes))[:4])
        flaws.append(Flaw("E445", "warn", str(paths[0]), f"{paths[0]} and the other views of this id differ in size: {said}"))
    if not sizes:
        return Facts({}, tuple(flaws))
    width, height = min(sizes, key=min)
    numbers = sorted(int(found[1]) for path in paths if (found := _NUMBER.search(path.name)))
    return Facts({"views": len(paths), "numbers": numbers, "width": width, "height": height}, tuple(flaws), rest=good > 0)
