"""Pictures of parts with numpy alone: shaded faces, dark feature edges, white ground. No GPU, no X server, no GL.

Orthographic projection along the eight diagonals of a cube, z up. All views of a part have one scale, at which the largest
fits, and the centre of its box in the middle: so they can be compared. The light moves with the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from cadmllm.cad.files import write_whole
from cadmllm.cad.mesh import Mesh

# Where view k looks at the part from: round the z axis from above, then in the same order from below.
VIEWS: tuple[tuple[int, int, int], ...] = (
    (1, 1, 1),
    (-1, 1, 1),
    (-1, -1, 1),
    (1, -1, 1),
    (1, 1, -1),
    (-1, 1, -1),
    (-1, -1, -1),
    (1, -1, -1),
)
SAMPLES = 3  # a pixel along each axis
LINE = 1.0 / 224.0  # width of an edge as a share of the picture, a pixel at least
STEP = 6.0  # depth in sample widths that the surface must jump by to get a contour
COLOUR = np.array([196.0, 213.0, 235.0])  # of a face that looks into the light
INK = np.array([24.0, 32.0, 46.0], np.float32)
OPACITY = 0.88  # of the lines, so that a comb of them still shows the faces between
LIGHT = np.array([-0.52, 0.62, 0.59])  # right, up, towards the camera: top brightest, then left, then right
AMBIENT = 0.36
PLANE = 1e-13  # change of a unit normal from one sample to the next that is rounding
LAYERS = 6  # surfaces behind each other up to which the nearest is found by writing again


def render(mesh: Mesh, view: int = 0, size: int = 224, margin: float = 0.1, tints: np.ndarray | None = None) -> np.ndarray:
    """One view of a part.

    Args:
        mesh: any mesh; `edges` are drawn where they are not hidden.
        view: 0..7, an index of `VIEWS`.
        size: side of the picture in pixels, >= 8.
        margin: white share of the picture on each side, 0..0.4; DINOv2's centre crop takes 0.0625 a side.
        tints: [F, 3] RGB, 0..255, colours of triangles that look into the light; None: `COLOUR` for all.

    Returns:
        [size, size, 3] uint8 RGB.
    """
    return _render(mesh, _smooth_normals(mesh), view, size, margin, tints)


def render_views(mesh: Mesh, size: int = 224, margin: float = 0.1) -> list[np.ndarray]:
    """The eight views in the order of `VIEWS`, each [size, size, 3] uint8 RGB."""
    normals = _smooth_normals(mesh)
    return [_render(mesh, normals, view, size, margin) for view in range(len(VIEWS))]


def _render(mesh: Mesh, normals: np.ndarray, view: int, size: int, margin: float, tints: np.ndarray | None = None) -> np.ndarray:
    if not 0 <= view < len(VIEWS) or size < 8 or not 0.0 <= margin <= 0.4:
        raise ValueError(f"view {view} (0..7), size {size} (>= 8), margin {margin} (0..0.4)")
    pixels = size * SAMPLES
    axes = axes_of(VIEWS[view])
    low, high = mesh.box
    center = (low + high) / 2.0
    scale = pixels * (1.0 - 2.0 * margin) / extent_of(mesh.vertices - center)
    place = np.array([pixels / 2.0, pixels / 2.0, 0.0])
    turn = axes.T * np.array([1.0, -1.0, -1.0]) * scale  # columns: right, down, away from the camera, in samples
    corners = (mesh.vertices - center) @ turn + place
    window = _window(corners, pixels)  # all work is done in here: the rest of the picture is white
    depth, owner = _rasterise(corners[mesh.faces], pixels, window)
    shape = (window[0].stop - window[0].start, window[1].stop - window[1].start)
    seen = np.flatnonzero(owner >= 0)
    inked = np.full((len(owner), 3), 255.0, np.float32)
    row, column = np.divmod(seen, shape[1])
    inked[seen] = _shaded(
        normals @ axes.T, corners[mesh.faces][:, :, :2], owner[seen], column + window[1].start, row + window[0].start
    )
    if tints is not None:
        inked[seen] = np.minimum(inked[seen] * (tints / COLOUR).astype(np.float32)[owner[seen]], 255.0)
    inked, depth = inked.reshape(*shape, 3), depth.reshape(shape)
    ink = _contours(depth)
    _draw_edges(ink, depth, [(line - center) @ turn + place - [window[1].start, window[0].start, 0.0] for line in mesh.edges])
    marks = _thick(ink, max(1.0, LINE * pixels / 2.0))
    inked[marks] = (1.0 - OPACITY) * inked[marks] + OPACITY * INK
    picture = np.full((size, size, 3), 255, np.uint8)
    rows, columns = (slice(side.start // SAMPLES, side.stop // SAMPLES) for side in window)
    picture[rows, columns] = np.round(_blocks(inked))
    return picture


def _blocks(samples: np.ndarray) -> np.ndarray:
    """Means [H, W, 3] of the samples of each pixel, summed row by row."""
    total = samples[0::SAMPLES, 0::SAMPLES].copy()
    for k in range(1, SAMPLES * SAMPLES):
        total += samples[k // SAMPLES :: SAMPLES, k % SAMPLES :: SAMPLES]
    return total / np.float32(SAMPLES * SAMPLES)


def contact_sheet(images: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Pictures of one size side by side, row by row, on white.

    Args:
        images: [H, W, 3] uint8 each, at least one.
        columns: pictures a row, >= 1.
        gap: white pixels between pictures.
    """
    if not images or columns < 1:
        raise ValueError(f"{len(images)} pictures in {columns} columns")
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for k, image in enumerate(images):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_png(array: np.ndarray, path: str | Path) -> None:
    """Write [H, W, 3] uint8 RGB as PNG, whole or not at all. Raises `CadmllmError` E303."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    write_whole(path, buffer.getvalue())


def axes_of(view: tuple[int, int, int]) -> np.ndarray:
    """Rows: right, up and towards the camera as unit vectors of space."""
    towards = np.array(view) / np.sqrt(3.0)
    right = np.cross([0.0, 0.0, 1.0], towards)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(towards, right), towards])


def extent_of(points: np.ndarray) -> float:
    """Twice the largest distance right or up from the centre in any of the views, in the points' unit."""
    largest = max(np.abs(points @ axes_of(view)[:2].T).max() for view in VIEWS[:4])
    return 2.0 * float(max(largest, 1e-300))


def coverage(triangles: np.ndarray, size: int) -> np.ndarray:
    """Which pixels have their middle within one of the triangles: a silhouette, without depth or shading.

    Args:
        triangles: [F, 3, 2], right and down, in pixels.
        size: side of the picture, pixels.

    Returns:
        [size, size] bool.
    """
    heights = triangles[:, :, 1]
    first = np.maximum(0, np.ceil(heights.min(axis=1) - 0.5)).astype(np.int64)
    last = np.minimum(size - 1, np.floor(heights.max(axis=1) - 0.5)).astype(np.int64)
    which, row = _ranges(first, np.maximum(0, last - first + 1))
    left, right = _spans(triangles, which, row + 0.5)
    start = np.clip(np.ceil(left - 0.5).astype(np.int64), 0, size)
    stop = np.clip(np.floor(right - 0.5).astype(np.int64) + 1, start, size)
    cells = size * (size + 1)
    opened = np.bincount(row * (size + 1) + start, minlength=cells)
    closed = np.bincount(row * (size + 1) + stop, minlength=cells)
    return np.cumsum((opened - closed).reshape(size, size + 1), axis=1)[:, :-1] > 0


def _rasterise(triangles: np.ndarray, pixels: int, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """Depth and front triangle of each sample of the window, row by row: float (inf where empty) and int (-1 where empty).

    Every triangle is cut into one span a row, and every span into samples: work goes with the area that is covered, so that
    long thin triangles cost little.
    """
    flat = triangles[:, :, :2]
    doubled = _cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])
    front = np.flatnonzero(doubled < -1e-9)  # y points down: what faces the camera runs the other way round
    tall = triangles[front]
    first = np.maximum(0, np.ceil(tall[:, :, 1].min(axis=1) - 0.5)).astype(np.int64)
    last = np.minimum(pixels - 1, np.floor(tall[:, :, 1].max(axis=1) - 0.5)).astype(np.int64)
    which, row = _ranges(first, np.maximum(0, last - first + 1))
    left, right = _spans(tall, which, row + 0.5)
    start = np.maximum(0, np.ceil(left - 0.5)).astype(np.int64)
    stop = np.minimum(pixels, np.floor(right - 0.5).astype(np.int64) + 1)
    gradient, origin = _depth_gradient(tall), tall[:, 0]
    count = np.maximum(0, stop - start)
    column = np.arange(count.sum()) + np.repeat(start - (np.cumsum(count) - count), count)
    slope, offset = np.repeat(gradient[which, 0], count), np.repeat(origin[which, 0], count)
    depth = np.repeat(origin[which, 2], count) + slope * (column + 0.5 - offset)
    depth += np.repeat(gradient[which, 1] * (row + 0.5 - origin[which, 1]), count)
    which, row = np.repeat(which, count), np.repeat(row, count)
    width = window[1].stop - window[1].start
    place = (row - window[0].start) * width + (column - window[1].start)
    nearest = _nearest(place, depth, width * (window[0].stop - window[0].start))
    owner = np.full(len(nearest), -1, np.int64)
    wins = depth <= nearest[place]
    owner[place[wins]] = front[which[wins]]
    return nearest, owner


def _nearest(place: np.ndarray, depth: np.ndarray, count: int) -> np.ndarray:
    """The least depth at each of `count` places, inf where there is none.

    Few surfaces lie behind each other: writing all, then again those that should have won, is faster than a minimum one by one.
    """
    nearest = np.full(count, np.inf)
    nearest[place] = depth
    for _ in range(LAYERS):
        lost = np.flatnonzero(depth < nearest[place])
        if not len(lost):
            return nearest
        place, depth = place[lost], depth[lost]
        nearest[place] = depth
    np.minimum.at(nearest, place, depth)
    return nearest


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _ranges(start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each i, i repeated count[i] times, beside start[i], start[i] + 1, ..."""
    owner = np.repeat(np.arange(len(count)), count)
    before = np.cumsum(count) - count
    return owner, np.arange(len(owner)) - before[owner] + start[owner]


def _spans(triangles: np.ndarray, which: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the horizontal line at `level` enters and leaves each triangle."""
    left, right = np.full(len(which), np.inf), np.full(len(which), -np.inf)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        p, q = triangles[:, a, :2], triangles[:, b, :2]
        rise = q[:, 1] - p[:, 1]
        slope = (q[:, 0] - p[:, 0]) / np.where(rise == 0.0, 1.0, rise)
        ya, yb = p[which, 1], q[which, 1]
        crosses = (np.minimum(ya, yb) <= level) & (level < np.maximum(ya, yb))
        x = p[which, 0] + (level - ya) * slope[which]
        left = np.where(crosses, np.minimum(left, x), left)
        right = np.where(crosses, np.maximum(right, x), right)
    hit = right >= left
    return np.where(hit, left, 0.0), np.where(hit, right, -1.0)


def _depth_gradient(triangles: np.ndarray) -> np.ndarray:
    """Change of depth for a step right and a step down, [T, 2]."""
    u, v = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    doubled = _cross(u[:, :2], v[:, :2])
    right = (u[:, 2] * v[:, 1] - v[:, 2] * u[:, 1]) / doubled
    down = (v[:, 2] * u[:, 0] - u[:, 2] * v[:, 0]) / doubled
    return np.column_stack([right, down])


def _window(corners: np.ndarray, pixels: int) -> tuple[slice, slice]:
    """Rows and columns about the part, whole pixels, with room for its lines."""
    low, high = np.floor(corners[:, :2].min(axis=0)).astype(int), np.ceil(corners[:, :2].max(axis=0)).astype(int)
    room = 3 + int(LINE * pixels)
    (left, top), (right, bottom) = np.maximum(0, low - room), np.minimum(pixels, high + room)
    left, top, right, bottom = left - left % SAMPLES, top - top % SAMPLES, right + -right % SAMPLES, bottom + -bottom % SAMPLES
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def _shaded(normals: np.ndarray, flat: np.ndarray, owner: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Colours [K, 3] of samples: normals are smooth within a B-rep face and break at its edges.

    Args:
        normals: [F, 3, 3] at the corners of each triangle: right, up, towards the camera.
        flat: [F, 3, 2] where the corners are in the picture.
        owner: [K] the triangle that each sample shows.
        column, row: [K] where it is in the picture.
    """
    is_shown = np.zeros(len(flat), bool)
    is_shown[owner] = True
    shown, owner = np.flatnonzero(is_shown), (np.cumsum(is_shown) - 1)[owner]
    p, u, v = flat[shown, 0], flat[shown, 1] - flat[shown, 0], flat[shown, 2] - flat[shown, 0]
    doubled = _cross(u, v)[:, None]
    a, b, c = np.moveaxis(normals[shown], 1, 0)
    # a normal between three corners is an affine map of the place in the picture: three gathers instead of twelve
    across = ((b - a) * v[:, 1:] - (c - a) * u[:, 1:]) / doubled
    down = ((c - a) * u[:, :1] - (b - a) * v[:, :1]) / doubled
    base = (a - across * (p[:, :1] - 0.5) - down * (p[:, 1:] - 0.5)).astype(np.float32)
    # where the normals of a triangle are one but for rounding, so is its colour
    bends = np.maximum(np.abs(across).max(axis=1), np.abs(down).max(axis=1)) > PLANE
    colours = _lit(base)[owner]
    curved = np.flatnonzero(bends[owner])
    owner, column, row = owner[curved], column[curved].astype(np.float32)[:, None], row[curved].astype(np.float32)[:, None]
    colours[curved] = _lit(base[owner] + across.astype(np.float32)[owner] * column + down.astype(np.float32)[owner] * row)
    return colours


def _lit(normal: np.ndarray) -> np.ndarray:
    """Colours [K, 3] of surfaces with normals [K, 3] of any length."""
    normal = normal / np.maximum(np.sqrt(np.einsum("ij,ij->i", normal, normal)), 1e-6)[:, None]
    # half Lambert (Mitchell et al., "Illustrative Rendering in Team Fortress 2", 2007, eq. 1): the dark side keeps its shape
    lit = normal @ (LIGHT / np.linalg.norm(LIGHT)).astype(np.float32) * 0.5 + 0.5
    grazing = (1.0 - np.clip(normal[:, 2], 0.0, 1.0)) ** 2  # what turns away darkens a little: round things look round
    strength = AMBIENT + (1.0 - AMBIENT) * lit - 0.12 * grazing
    return np.minimum(COLOUR.astype(np.float32) * strength[:, None] + (16.0 * lit**12)[:, None], 255.0)


def _smooth_normals(mesh: Mesh) -> np.ndarray:
    """Unit normals [F, 3, 3] at the corners of each triangle: area-weighted means over the triangles of the same B-rep face."""
    triangle = mesh.vertices[mesh.faces]
    normal = np.cross(triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0])
    keys, where = np.unique(mesh.face_ids[:, None].astype(np.int64) * len(mesh.vertices) + mesh.faces, return_inverse=True)
    where = where.ravel()
    summed = np.stack([np.bincount(where, np.repeat(normal[:, k], 3), len(keys)) for k in range(3)], axis=1)
    lengths = np.linalg.norm(summed, axis=1)
    return (summed / np.where(lengths > 0.0, lengths, 1.0)[:, None])[where].reshape(-1, 3, 3)


def _contours(depth: np.ndarray) -> np.ndarray:
    """Samples on the near side of a jump in depth: outlines, and where a curved face turns away."""
    ink = np.zeros(depth.shape, bool)
    solid = np.isfinite(depth)
    far = np.where(solid, depth, 1e9)
    for axis in (0, 1):
        rise = np.roll(far, -1, axis) - far
        for shift in (-1, 1):  # where the sample beside is: after, before
            place = list(np.nonzero(rise > STEP if shift < 0 else rise < -STEP))
            jump = np.abs(rise[tuple(place)])
            if shift > 0:
                place[axis] = (place[axis] + 1) % far.shape[axis]
            opposite = list(place)
            opposite[axis] = (place[axis] + shift) % far.shape[axis]
            here, before = far[tuple(place)], far[tuple(opposite)]
            slope = np.where(before < 1e8, np.maximum(0.0, here - before), 0.0)  # a steep face is no jump
            kept = jump > STEP + 2.0 * slope
            ink[place[0][kept], place[1][kept]] = True
    ink &= solid
    return ink


def _draw_edges(ink: np.ndarray, depth: np.ndarray, lines: list[np.ndarray]) -> None:
    """Mark the samples of polylines [K, 3] that no face hides."""
    lines = [line for line in lines if len(line) > 1]
    if not lines:
        return
    starts = np.concatenate([line[:-1] for line in lines])
    moves = np.concatenate([line[1:] - line[:-1] for line in lines])
    count = np.ceil(np.abs(moves[:, :2]).max(axis=1)).astype(np.int64) + 1
    which, step = _ranges(np.zeros(len(count), np.int64), count + 1)
    points = starts[which] + moves[which] * (step / count[which])[:, None]
    column, row = np.floor(points[:, 0]).astype(np.int64), np.floor(points[:, 1]).astype(np.int64)
    inside = (column >= 0) & (row >= 0) & (column < depth.shape[1]) & (row < depth.shape[0])
    column, row, away = column[inside], row[inside], points[inside, 2]
    # an edge lies on two faces: compare with the farthest sample about it, or the nearer face would hide it here and there
    behind = np.full(len(away), -np.inf)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            r, c = np.clip(row + down, 0, depth.shape[0] - 1), np.clip(column + right, 0, depth.shape[1] - 1)
            behind = np.maximum(behind, depth[r, c])
    visible = away <= behind + 1.0
    ink[row[visible], column[visible]] = True


def _thick(ink: np.ndarray, radius: float) -> np.ndarray:
    """The marked samples and all within `radius` of one."""
    reach = int(radius)
    result = ink.copy()
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if (down or right) and down * down + right * right <= radius * radius:
                result |= np.roll(ink, (down, right), (0, 1))
    return result
