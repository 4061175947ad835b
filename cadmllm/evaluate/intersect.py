"""Which triangles of a mesh meet others, or touch them, beyond the vertices and edges that they share.

Everything is decided by the signs of determinants, as Guigue and Devillers ("Fast and Robust Triangle-Triangle Overlap Test
Using Orientation Predicates", Journal of Graphics Tools 8(1), 2003) propose, after Moeller's rejection by the two planes
("A Fast Triangle-Triangle Intersection Test", Journal of Graphics Tools 2(2), 1997). Coplanar triangles are separated by one of
their edges, or not at all (separating axes in the plane).

**Tolerance.** A determinant counts as zero, and so as touching, where its sign is not certain in float64: within
(7 + 56 u) u (three dimensions) or (3 + 16 u) u (two), u = 2^-53, of the sum of its terms' magnitudes (Shewchuk, "Adaptive
Precision Floating-Point Arithmetic and Fast Robust Geometric Predicates", Discrete & Computational Geometry 18, 1997). For
float32 coordinates that is a distance of about 1e-15 of the triangles' size: far below what float32 can say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cadmllm.evaluate.boxtree import touching

U = 2.0**-53
DOUBT3 = (7.0 + 56.0 * U) * U
DOUBT2 = (3.0 + 16.0 * U) * U
EDGES = ((0, 1), (1, 2), (2, 0))
HUB = 24  # faces at one vertex from which on they are a fan


def self_intersecting(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Which faces [F] bool meet another one, as closed triangles, in more than a vertex or an edge that both have.

    Sharing is by index, touching is by place: two faces with vertices of their own at one point do meet there. Two faces that
    share all three vertices meet. A face without area meets itself and is not looked at any further, as in CGAL.

    Args:
        vertices: [V, 3] float64, finite.
        faces: [F, 3] integer.
    """
    corners = vertices[faces]
    flat = degenerate(corners)
    found = flat.copy()
    rest = np.flatnonzero(~flat)
    if len(rest) < 2:
        return found
    mesh = _planes(corners[rest], faces[rest])
    meets = np.zeros(len(rest), bool)
    hub = _hubs(mesh.faces)
    everything = np.arange(len(rest))
    _mark(mesh, everything, *_boxes(mesh), hub, meets)
    fans = np.flatnonzero(hub >= 0)
    if len(fans):
        low, high = _directions(mesh, fans, hub[fans])
        _mark(mesh, fans, low, high, np.full(len(fans), -1), meets)
    found[rest] = meets
    return found


def _boxes(mesh: _Planes) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [F, 3] around the triangles: along the axes, or along the main directions of the edges where those fit far better.

    The long triangles of a tilted cylinder have boxes that all touch along the axes, and slim ones along the cylinder.
    """
    edges = (mesh.corners - np.roll(mesh.corners, 1, axis=1)).reshape(-1, 3)
    lengths = np.linalg.norm(edges, axis=1, keepdims=True)
    turn = np.linalg.eigh((edges / lengths).T @ edges)[1]
    turned = mesh.columns.transpose(2, 0, 1) @ turn
    slack = 64.0 * U * np.abs(mesh.columns).max()
    choices = [
        (mesh.corners.min(axis=1), mesh.corners.max(axis=1)),
        (turned.min(axis=1) - slack, turned.max(axis=1) + slack),
    ]
    areas = [float(np.sum(size * np.roll(size, 1, axis=1))) for size in (high - low for low, high in choices)]
    return choices[1] if areas[1] < areas[0] / 2.0 else choices[0]


def _mark(mesh: _Planes, members: np.ndarray, low: np.ndarray, high: np.ndarray, group: np.ndarray, meets: np.ndarray) -> None:
    """Look at the pairs of `members` whose boxes touch and whose groups differ, and set those that intersect in `meets`."""
    settled = meets[members]
    for pairs in touching(low, high, settled, group):
        a, b = members[pairs].T
        unknown = ~(meets[a] & meets[b])
        a, b = a[unknown], b[unknown]
        both = _meet(mesh, a, b)
        meets[a[both]] = meets[b[both]] = True
        settled[:] = meets[members]


def _hubs(faces: np.ndarray) -> np.ndarray:
    """For each face [F] the vertex of it with most faces, if those are `HUB` or more, else -1.

    The boxes of a fan's triangles all touch, n^2 / 2 pairs of n. Triangles that share a vertex meet elsewhere if and only if
    their angles at it do, so that within a fan directions are compared, not places.
    """
    uses = np.bincount(faces.ravel())[faces]
    best = uses.argmax(axis=1)[:, None]
    return np.where(np.take_along_axis(uses, best, 1) >= HUB, np.take_along_axis(faces, best, 1), -1)[:, 0]


def _directions(mesh: _Planes, fans: np.ndarray, hub: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [N, 3] around the arcs that faces span on the unit sphere about their hubs, each hub in a place of its own."""
    at = (mesh.faces[fans] == hub[:, None]).argmax(axis=1)
    corners = mesh.corners[fans]
    rows = np.arange(len(fans))
    rays = [corners[rows, (at + step) % 3] - corners[rows, at] for step in (1, 2)]
    ends = np.stack([ray / np.linalg.norm(ray, axis=1, keepdims=True) for ray in rays])
    chord = np.linalg.norm(ends[1] - ends[0], axis=1, keepdims=True)
    bulge = 1.0 - np.sqrt(np.maximum(1.0 - chord**2 / 4.0, 0.0)) + 1e-9  # an arc lies this near its chord
    place = np.unique(hub, return_inverse=True)[1].reshape(-1, 1) * np.array([[8.0, 0.0, 0.0]])
    return ends.min(axis=0) - bulge + place, ends.max(axis=0) + bulge + place


def degenerate(corners: np.ndarray) -> np.ndarray:
    """Which triangles [F] bool have no area at all: the cross product of two sides of [F, 3, 3] is exactly zero."""
    return np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])).max(axis=1) == 0.0


@dataclass(frozen=True, slots=True)
class _Planes:
    """Triangles with their planes.

    Attributes:
        corners, faces: [F, 3, 3] and [F, 3].
        normal: [F, 3], not of unit length; terms: [F, 3] the magnitudes of the terms of each component.
        across: [F, 2] the two axes on which the triangle is seen largest.
        columns: [3, 3, F] the corners as corner, axis, face, about the middle of all; offset: [F] of the planes there.
        doubt: [F] below which a height over the plane, found by `offset`, is not certain.
    """

    corners: np.ndarray
    faces: np.ndarray
    normal: np.ndarray
    terms: np.ndarray
    across: np.ndarray
    columns: np.ndarray
    offset: np.ndarray
    doubt: np.ndarray


def _planes(corners: np.ndarray, faces: np.ndarray) -> _Planes:
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    one = a[:, [1, 2, 0]] * b[:, [2, 0, 1]]
    two = a[:, [2, 0, 1]] * b[:, [1, 2, 0]]
    normal, terms = one - two, np.abs(one) + np.abs(two)
    across = np.array([[1, 2], [2, 0], [0, 1]])[np.abs(normal).argmax(axis=1)]
    middle = (corners.min(axis=(0, 1)) + corners.max(axis=(0, 1))) / 2.0
    columns = np.ascontiguousarray((corners - middle).transpose(1, 2, 0))
    offset = np.einsum("fj,jf->f", normal, columns[0])
    doubt = 64.0 * U * terms.sum(axis=1) * np.abs(columns).max()
    return _Planes(corners, faces, normal, terms, across, columns, offset, doubt)


def _meet(mesh: _Planes, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which of the pairs of faces a [N], b [N] intersect: [N] bool."""
    result = np.zeros(len(a), bool)
    left = np.flatnonzero(~_clear(mesh, a, b))
    left = left[~_clear(mesh, b[left], a[left])]
    a, b = a[left], b[left]
    common = mesh.faces[a][:, :, None] == mesh.faces[b][:, None, :]
    shared = common.sum(axis=(1, 2))
    side_b, side_a = _sides(mesh, a, b), _sides(mesh, b, a)
    near = np.flatnonzero(_reaches(side_b, shared) & _reaches(side_a, shared))
    a, b, common, shared, side_a, side_b = (x[near] for x in (a, b, common, shared, side_a, side_b))
    plane = ~side_a.any(axis=1) | ~side_b.any(axis=1)
    hit = np.zeros(len(near), bool)
    if plane.any():
        hit[plane] = _meet_in_plane(mesh, a[plane], b[plane], common[plane], shared[plane])
    space = ~plane & (shared < 2)
    if space.any():
        hit[space] = _meet_in_space(mesh, a[space], b[space], common[space], side_a[space], side_b[space])
    result[left[near]] = hit
    return result


def _clear(mesh: _Planes, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether b surely lies on one side of the plane of a: the quick look that most pairs end with."""
    normal, offset, doubt = mesh.normal.T[:, a], mesh.offset[a], mesh.doubt[a]
    above, below = np.ones(len(a), bool), np.ones(len(a), bool)
    for x, y, z in mesh.columns:
        height = normal[0] * x[b] + normal[1] * y[b] + normal[2] * z[b] - offset
        above &= height > doubt
        below &= height < -doubt
    return above | below


def _sides(mesh: _Planes, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """On which side of the plane of a each corner of b lies: [N, 3] int8, 0 on it."""
    away = mesh.corners[b] - mesh.corners[a, 0][:, None, :]
    value = np.einsum("nij,nj->ni", away, mesh.normal[a])
    doubt = np.einsum("nij,nj->ni", np.abs(away), mesh.terms[a])
    return _sign(value, DOUBT3 * doubt)


def _sign(value: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    return (value > doubt).astype(np.int8) - (value < -doubt)


def _reaches(side: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Whether a triangle reaches the other's plane other than by the vertices that they share."""
    crosses = (side > 0).any(axis=1) & (side < 0).any(axis=1)
    return crosses | ((side == 0).sum(axis=1) > shared) | (shared == 3)


def _meet_in_plane(mesh: _Planes, a: np.ndarray, b: np.ndarray, common: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """The same for pairs in one plane, projected along the axis on which the first is seen largest."""
    rows = np.arange(len(a))[:, None, None]
    axes = mesh.across[a][:, None, :]
    one = mesh.corners[a][rows, np.arange(3)[None, :, None], axes]
    two = mesh.corners[b][rows, np.arange(3)[None, :, None], axes]
    hit = shared == 3
    for count, decide in ((0, _overlap), (1, _share_angle), (2, _share_side)):
        some = np.flatnonzero(shared == count)
        if len(some):
            hit[some] = decide(one[some], two[some], common[some])
    return hit


def _overlap(one: np.ndarray, two: np.ndarray, common: np.ndarray) -> np.ndarray:
    """No edge of either triangle [N, 3, 2] has the other one strictly outside."""
    left = np.flatnonzero(~_separated(one, two))
    hit = np.zeros(len(one), bool)
    hit[left] = ~_separated(two[left], one[left])
    return hit


def _separated(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Whether an edge of triangle `one` [N, 3, 2] has all points of `two` [N, K, 2] strictly outside."""
    apart = np.zeros(len(one), bool)
    left = np.arange(len(one))
    turn = _turn(one[:, 0], one[:, 1], one[:, 2])
    for i, j in EDGES:
        begin, end = one[left, i], one[left, j]
        outside = np.ones(len(left), bool)
        for k in range(two.shape[1]):
            outside &= turn[left] * _turn(begin, end, two[left, k]) < 0
        apart[left[outside]] = True
        left = left[~outside]
    return apart


def _share_angle(one: np.ndarray, two: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Triangles with one common corner meet elsewhere, too, if a side of one that begins there lies in the other's angle."""
    rows = np.arange(len(one))
    at_one, at_two = common.any(axis=2).argmax(axis=1), common.any(axis=1).argmax(axis=1)
    apex = one[rows, at_one]
    rays = [[triangle[rows, (at + step) % 3] for step in (1, 2)] for triangle, at in ((one, at_one), (two, at_two))]
    hit = np.zeros(len(one), bool)
    for (left, right), others in ((rays[0], rays[1]), (rays[1], rays[0])):
        turn = _turn(apex, left, right)
        for ray in others:
            hit |= (turn * _turn(apex, left, ray) >= 0) & (turn * _turn(apex, ray, right) >= 0)
    return hit


def _share_side(one: np.ndarray, two: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Triangles with a common edge overlap if their third corners lie on one side of it."""
    rows = np.arange(len(one))
    at_one, at_two = common.any(axis=2).argmin(axis=1), common.any(axis=1).argmin(axis=1)
    begin, end = one[rows, (at_one + 1) % 3], one[rows, (at_one + 2) % 3]
    return _turn(begin, end, one[rows, at_one]) * _turn(begin, end, two[rows, at_two]) > 0


def _meet_in_space(
    mesh: _Planes, a: np.ndarray, b: np.ndarray, common: np.ndarray, side_a: np.ndarray, side_b: np.ndarray
) -> np.ndarray:
    """The same for pairs in different planes that share a vertex or none.

    Two triangles meet if and only if an edge of one meets the other; beyond a vertex that they share, if and only if the edge
    opposite to it does.
    """
    hit = np.zeros(len(a), bool)
    free_a, free_b = common.sum(axis=2) == 0, common.sum(axis=1) == 0
    for edge, face, free, side in ((a, b, free_a, side_a), (b, a, free_b, side_b)):
        for i, j in EDGES:
            rows = np.flatnonzero(~hit & free[:, i] & free[:, j] & (side[:, i] * side[:, j] <= 0))
            if not len(rows):
                continue
            ends = mesh.corners[edge[rows]]
            hit[rows] = _pierces(mesh, ends[:, i], ends[:, j], face[rows], ~(side[rows, i] | side[rows, j]).astype(bool))
    return hit


def _pierces(mesh: _Planes, p: np.ndarray, q: np.ndarray, face: np.ndarray, lies: np.ndarray) -> np.ndarray:
    """Whether segments p q [N, 3], which reach the planes of the faces, reach the faces; `lies`: [N] those within the plane."""
    hit = np.zeros(len(p), bool)
    through = np.flatnonzero(~lies)
    corners = mesh.corners[face[through]]
    sides = [_volume(p[through], q[through], corners[:, i], corners[:, j]) for i, j in EDGES]
    hit[through] = (np.min(sides, axis=0) >= 0) | (np.max(sides, axis=0) <= 0)
    within = np.flatnonzero(lies)
    axes = mesh.across[face[within]]
    rows = np.arange(len(within))[:, None]
    u, v = p[within][rows, axes], q[within][rows, axes]
    corners = mesh.corners[face[within]][rows[:, :, None], np.arange(3)[None, :, None], axes[:, None, :]]
    beside = [_turn(u, v, corners[:, k]) for k in range(3)]
    apart = (np.min(beside, axis=0) > 0) | (np.max(beside, axis=0) < 0)
    hit[within] = ~(apart | _separated(corners, np.stack([u, v], axis=1)))
    return hit


def _volume(p: np.ndarray, q: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """On which side of the plane p, q, a the point b lies, [N, 3] each: int8 [N]."""
    u, v, w = q - p, a - p, b - p
    one, two = v[:, [1, 2, 0]] * w[:, [2, 0, 1]], v[:, [2, 0, 1]] * w[:, [1, 2, 0]]
    value = np.einsum("ij,ij->i", u, one - two)
    doubt = np.einsum("ij,ij->i", np.abs(u), np.abs(one) + np.abs(two))
    return _sign(value, DOUBT3 * doubt)


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """1 if a, b, c [N, 2] turn left, -1 right, 0 on one line: int8 [N]."""
    u, v = a - c, b - c
    one, two = u[:, 0] * v[:, 1], u[:, 1] * v[:, 0]
    return _sign(one - two, DOUBT2 * (np.abs(one) + np.abs(two)))
