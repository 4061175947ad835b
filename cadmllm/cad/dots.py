"""Pictures of point clouds: dots that hide each other, in the box of the cloud. The cameras are those of `render`."""

from __future__ import annotations

import itertools

import numpy as np

from cadmllm.cad.render import VIEWS, axes_of, extent_of

SAMPLES = 2  # a pixel along each axis
MOST = 30_000  # points drawn: more add nothing to a picture
NEAR, MIDDLE, FAR = np.array([38.0, 70.0, 132.0]), np.array([72.0, 146.0, 178.0]), np.array([206.0, 226.0, 206.0])
FRONT_LINE, BACK_LINE = np.array([158.0, 168.0, 184.0]), np.array([216.0, 222.0, 230.0])


def render_points(
    points: np.ndarray, normals: np.ndarray | None = None, view: int = 0, size: int = 224, margin: float = 0.1
) -> np.ndarray:
    """One view of a point cloud.

    Args:
        points: [N, 3] finite numbers, N >= 1, in any unit.
        normals: unit normals [N, 3]: they colour the dots (red, green, blue for +x, +y, +z), what faces away is pale
            and behind the rest. Without them the depth does.
        view: 0..7, an index of `render.VIEWS`.
        size: side of the picture in pixels, >= 8.
        margin: white share of the picture on each side, 0..0.4.

    Returns:
        [size, size, 3] uint8 RGB.
    """
    if not 0 <= view < len(VIEWS) or size < 8 or not 0.0 <= margin <= 0.4:
        raise ValueError(f"view {view} (0..7), size {size} (>= 8), margin {margin} (0..0.4)")
    low, high = points.min(axis=0), points.max(axis=0)
    step = -(-len(points) // MOST)
    points, normals = points[::step], normals[::step] if normals is not None else None
    axes, pixels = axes_of(VIEWS[view]), size * SAMPLES
    corners = np.array(list(itertools.product(*zip(low, high, strict=True)))) - (low + high) / 2.0
    scale = pixels * (1.0 - 2.0 * margin) / extent_of(corners)
    turn = axes.T * np.array([1.0, -1.0, -1.0]) * scale  # columns: right, down, away from the camera
    seen = (points - (low + high) / 2.0) @ turn + [pixels / 2.0, pixels / 2.0, 0.0]
    frame = corners @ turn + [pixels / 2.0, pixels / 2.0, 0.0]
    picture = np.full((pixels, pixels, 3), 255.0)
    edges = [(a, b) for a, b in itertools.combinations(range(8), 2) if (a ^ b) in (1, 2, 4)]
    hidden = int(frame[:, 2].argmax())
    _draw_lines(picture, frame, [edge for edge in edges if hidden in edge], BACK_LINE)
    away = np.zeros(len(points), bool) if normals is None else np.asarray(normals @ axes[2] < -0.05)
    spacing = _spacing(points) * scale
    colours = _colours(seen[:, 2], frame[:, 2], normals, away)
    _draw_dots(picture, seen, colours, away, float(np.clip(0.9 * spacing, 0.9 * SAMPLES, 6.0 * SAMPLES)))
    _draw_lines(picture, frame, [edge for edge in edges if hidden not in edge], FRONT_LINE)
    return np.round(picture.reshape(size, SAMPLES, size, SAMPLES, 3).mean(axis=(1, 3))).astype(np.uint8)


def _spacing(points: np.ndarray) -> float:
    """Median distance of a point from its nearest neighbour, in the points' unit; of a part of them where there are many."""
    if len(points) < 2:
        return 0.0
    from scipy.spatial import KDTree

    return float(np.median(KDTree(points).query(points[:: -(-len(points) // 2000)], k=2)[0][:, 1]))


def _colours(depth: np.ndarray, frame: np.ndarray, normals: np.ndarray | None, away: np.ndarray) -> np.ndarray:
    """Colours [N, 3]; what lies far back is paler, what faces away nearly white."""
    share = np.clip((depth - frame.min()) / max(float(np.ptp(frame)), 1e-300), 0.0, 1.0)[:, None]
    if normals is None:
        return np.where(share < 0.5, NEAR + (MIDDLE - NEAR) * 2.0 * share, MIDDLE + (FAR - MIDDLE) * (2.0 * share - 1.0))
    colour = 52.0 + 178.0 * (0.5 + 0.5 * normals)
    paler = np.where(away[:, None], 0.72, 0.22 * share)
    return colour * (1.0 - paler) + 255.0 * paler


def _draw_dots(picture: np.ndarray, seen: np.ndarray, colours: np.ndarray, away: np.ndarray, radius: float) -> None:
    """Discs about the points [N, 3] (right, down, away), nearer over farther ones, all over those that face away."""
    pixels = len(picture)
    reach = int(radius)
    grid = np.arange(-reach, reach + 1)
    down, right = (offsets.ravel() for offsets in np.meshgrid(grid, grid, indexing="ij"))
    disc = right**2 + down**2 <= radius**2
    order = np.lexsort((-seen[:, 2], ~away))
    column = np.floor(seen[order, 0]).astype(np.int64)[:, None] + right[disc]
    row = np.floor(seen[order, 1]).astype(np.int64)[:, None] + down[disc]
    inside = (column >= 0) & (row >= 0) & (column < pixels) & (row < pixels)
    rank = np.broadcast_to(np.arange(len(seen))[:, None], inside.shape)
    owner = np.full(pixels * pixels, -1, np.int64)
    np.maximum.at(owner, (row * pixels + column)[inside], rank[inside])
    drawn = np.flatnonzero(owner >= 0)
    picture.reshape(-1, 3)[drawn] = colours[order[owner[drawn]]]


def _draw_lines(picture: np.ndarray, frame: np.ndarray, edges: list[tuple[int, int]], colour: np.ndarray) -> None:
    for a, b in edges:
        count = int(np.abs(frame[b, :2] - frame[a, :2]).max()) + 2
        places = np.floor(frame[a, :2] + (frame[b, :2] - frame[a, :2]) * np.linspace(0.0, 1.0, count)[:, None]).astype(np.int64)
        for right, down in itertools.product(range(SAMPLES), repeat=2):
            at = np.clip(places + [right, down], 0, len(picture) - 1)
            picture[at[:, 1], at[:, 0]] = colour
