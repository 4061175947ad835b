"""Does a part have the outline that pictures show? Without their cameras: training's views and those along the axes are tried.

A silhouette is cropped to its box and brought to one square, its proportions kept, so that neither distance nor place matter.
Two of them agree by intersection over union of their pixels. Each picture takes one view, no two the same one (the assignment
that agrees most), and the part's agreement is the mean over the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cadmllm.cad.mesh import Mesh
from cadmllm.cad.render import VIEWS, coverage

SIDE = 128  # pixels of the square that silhouettes are compared in
READ = 512  # longest side of a picture that is looked at
BORDER = 0.02  # of the shorter side: the frame that tells the background
UNIFORM = 0.75  # of the frame is one colour, or there is no background to tell (a part may touch the rest)
LEAST, MOST = 12.0, 40.0  # grey levels by which the part differs from the background, by how noisy that is
SPECK = 0.02  # of the largest piece: smaller ones are dust and captions
LINES = 0.4  # of the filled outline: a picture that is inked less is a line drawing
FINE = 640  # pixels of the longest side at which edges are placed
OUTLINED = 1.4  # times as dark as the face behind it is a line
THIN = 2.0  # pixels that the thinnest part shows

# towards the camera: those of training, and along the axes (from the front, the right, above, and opposite)
DIRECTIONS: tuple[tuple[int, int, int], ...] = (*VIEWS, (1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (0, -1, 0), (0, 0, -1))


@dataclass(frozen=True, slots=True)
class Silhouette:
    """What a picture shows of a part.

    Attributes:
        mask: [SIDE, SIDE] bool, cropped and centred.
        filled: the picture is a line drawing, of which the inside is counted, holes and all.
    """

    mask: np.ndarray
    filled: bool = False


def silhouette_of(picture: np.ndarray) -> Silhouette | str:
    """The silhouette in a picture with a plain background (one colour, or an even gradient), or why there is none.

    A shadow on the ground counts as part of what stands there: nothing in one picture tells it from a dark face.

    Args:
        picture: [H, W, 3] uint8; transparency is white already.
    """
    from scipy import ndimage

    pixels = _smaller(picture).astype(np.float64)
    difference = _difference(pixels)
    if isinstance(difference, str):
        return difference
    pieces, count = ndimage.label(difference > 0.0, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    if count == 0 or sizes.max() < 16:
        return "it shows nothing but its background"
    difference[sizes[pieces] < SPECK * sizes.max()] = 0.0
    mask = difference > 0.0
    whole = ndimage.binary_fill_holes(mask)
    assert whole is not None
    if mask.sum() < LINES * whole.sum():
        return Silhouette(_squared(whole), True)
    return Silhouette(_squared(_sharp(difference)))


def _sharp(difference: np.ndarray) -> np.ndarray:
    """Where the part is, enlarged to about `FINE` pixels: edges half-way up their slope, outlines counted by half their width.

    Args:
        difference: [H, W] from the background, 0 where there is none.
    """
    from scipy import ndimage

    rows, columns = np.flatnonzero(difference.any(axis=1)), np.flatnonzero(difference.any(axis=0))
    difference = np.pad(difference[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 2)
    finer = max(1, min(4, FINE // max(difference.shape)))
    around = ndimage.maximum_filter(difference, 3)
    bare = ndimage.minimum_filter(difference, 3) <= 0.0  # pixels beside the background: partly covered
    cover = np.where(bare, difference / np.maximum(around, 1e-9), (difference > 0.0).astype(np.float64))
    fine = ndimage.zoom(cover, finer, order=1, grid_mode=True, mode="grid-constant") >= 0.5
    depth = ndimage.distance_transform_edt(fine)
    sharp = depth > finer * _outline_width(difference, cover >= 0.5) / 2.0
    return sharp if sharp.any() else fine


def _outline_width(difference: np.ndarray, mask: np.ndarray) -> float:
    """Pixels that a dark line along the edges of the part is wide; 0.0 where there is none. It is drawn half outside."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    rings = [difference[(depth > k) & (depth <= k + 1)] for k in range(8)]
    levels = np.array([np.median(ring) if len(ring) >= 8 else np.nan for ring in rings])
    inner = np.nanmin(levels)
    if not levels[:2].max() > OUTLINED * inner:
        return 0.0
    excess = (levels - inner) / (np.nanmax(levels[:3]) - inner)
    # where it has fallen to a half, between the middles of two rings; what fades more slowly is the shade of a round face
    fallen = next((k for k in range(1, len(excess)) if not excess[k] > 0.5), 0)
    if not fallen or np.isnan(excess[fallen]):
        return 0.0
    return fallen - 0.5 + float((excess[fallen - 1] - 0.5) / max(excess[fallen - 1] - excess[fallen], 1e-9))


def _smaller(picture: np.ndarray) -> np.ndarray:
    longest = max(picture.shape[:2])
    if longest <= READ:
        return picture
    from PIL import Image

    width, height = (max(1, round(side * READ / longest)) for side in (picture.shape[1], picture.shape[0]))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def _difference(pixels: np.ndarray) -> np.ndarray | str:
    """How much a picture differs from the colour of its frame, [H, W], 0 within the noise; or why that cannot be said."""
    height, width = pixels.shape[:2]
    wide = max(1, round(BORDER * min(height, width)))
    frame = np.ones((height, width), bool)
    frame[wide : height - wide, wide : width - wide] = False
    rows, columns = np.nonzero(frame)
    colours = pixels[frame]
    place = np.column_stack([np.ones(len(rows)), columns / width, rows / height])
    # from the commonest colour to a plane through what is like it: programs paint a gradient behind a part
    background = np.tile(np.median(colours, axis=0), (len(rows), 1))
    share, plane = 0.0, np.zeros((3, 3))
    for limit in (60.0, 24.0, 24.0):
        like = np.abs(colours - background).max(axis=1) <= limit
        share = float(like.mean())
        if share < UNIFORM:
            return f"its background is not plain: {share:.0%} of its frame has one colour, {UNIFORM:.0%} are needed"
        plane = np.linalg.lstsq(place[like], colours[like], rcond=None)[0]
        background = place @ plane
    noise = float(np.sqrt(np.mean((colours[like] - background[like]) ** 2)))
    y, x = np.mgrid[:height, :width]
    ground = np.stack([np.ones((height, width)), x / width, y / height], axis=2) @ plane
    different = np.abs(pixels - ground).max(axis=2)
    return np.where(different > min(MOST, max(LEAST, 6.0 * noise)), different, 0.0)


def _squared(mask: np.ndarray) -> np.ndarray:
    """The mask's box in the middle of a square, its longer side filling it."""
    from PIL import Image

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = SIDE / max(cut.shape)
    height, width = (min(SIDE, max(int(THIN), round(side * scale))) for side in cut.shape)
    how = Image.Resampling.BOX if scale < 1.0 else Image.Resampling.BILINEAR
    grown = Image.fromarray(cut.astype(np.uint8) * 255).resize((width, height), how)
    square = np.zeros((SIDE, SIDE), bool)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    square[top : top + height, left : left + width] = np.asarray(grown) >= 128
    return square


def part_silhouettes(mesh: Mesh) -> np.ndarray:
    """Silhouettes of a part from `DIRECTIONS`, [14, SIDE, SIDE] bool; parallel projection, z up."""
    half = {direction: _outline(mesh, direction) for direction in DIRECTIONS if direction > (0, 0, 0)}
    # from the other side a parallel projection is the mirror image
    masks = [half[d] if d in half else half[(-d[0], -d[1], -d[2])][:, ::-1] for d in DIRECTIONS]
    return np.stack(masks)


def _outline(mesh: Mesh, direction: tuple[int, int, int]) -> np.ndarray:
    towards = np.array(direction) / np.linalg.norm(direction)
    upright = np.array([0.0, 0.0, 1.0]) if direction[:2] != (0, 0) else np.array([0.0, 1.0, 0.0])
    right = np.cross(upright, towards)
    right /= np.linalg.norm(right)
    flat = mesh.vertices @ np.column_stack([right, -np.cross(towards, right)])
    low, high = flat.min(axis=0), flat.max(axis=0)
    span = np.maximum(high - low, 1e-12)
    scale = SIDE / span.max()
    places = (flat - (low + high) / 2.0) * np.maximum(scale, THIN / span) + SIDE / 2.0
    return coverage(places[mesh.faces], SIDE)


def agreement(shown: Sequence[Silhouette], views: np.ndarray) -> float:
    """How well a part fits the pictures: the mean of their intersections over union, 0..1.

    Args:
        shown: one or more; where there are more of them than views, a view serves again.
        views: of the part, from `part_silhouettes`.
    """
    from scipy.ndimage import binary_fill_holes
    from scipy.optimize import linear_sum_assignment

    scores = np.empty((len(shown), len(views)))
    whole = None
    for k, one in enumerate(shown):
        if one.filled and whole is None:
            whole = np.stack([binary_fill_holes(view) for view in views])
        against = whole if one.filled and whole is not None else views
        common = (against & one.mask).sum(axis=(1, 2))
        scores[k] = common / np.maximum(1, (against | one.mask).sum(axis=(1, 2)))
    times = -(-len(shown) // len(views))
    tiled = np.tile(scores, (1, times))
    rows, columns = linear_sum_assignment(tiled, maximize=True)
    return float(tiled[rows, columns].mean())
