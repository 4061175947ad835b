"""Which side of a surface is outside: signs for the normals of a point cloud.

1. Points that go on into each other smoothly become patches, their signs made consistent along a minimum spanning tree (Hoppe et
   al., "Surface Reconstruction from Unorganized Points", SIGGRAPH 1992).
2. A patch first faces the sides that see it, in depth images from 26 directions.
3. Then Gauss's lemma: seen from any point of a closed surface, the rest of the surface fills half of all directions,
   sum_j s_j a_j n_j . (p_j - x) / (4 pi |p_j - x|^3) = 1/2 (used with unknown normals by Lin et al., "Surface Reconstruction from
   Point Clouds without Normals by Parametrizing the Gauss Formula", ACM TOG 42(2), 2022). Here only the signs of patches are
   unknown: they are turned, the best first, as long as the sum of squared deviations from 1/2 shrinks. So the inner side of a
   cup and the wall of a bore are right though hardly any side sees them.
4. What is in no patch (sharp, tiny features) follows its neighbours over edges, as if on an arc between the two points
   (König and Gumhold, "Consistent Propagation of Normal Orientations in Point Clouds", VMV 2009).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 10
CELLS = 64  # of the depth image, a side
LEAST, MOST = 4, 192  # points of a patch; patches, the largest first
WITNESSES = 512  # points at which Gauss's lemma is asked
SWEEPS = 20  # over the patches, each brought to its best
CHUNK = 4096  # points whose parts of the sum are computed at once
_ALONG = 0.9  # least cosine between the normals of two points of one patch
_STEP = 0.05  # of their distance: how far two points may lie on different levels, beside what the bend explains
_SEEN = 0.1  # product of two points' votes, opposite ways, from which on they are not of one patch
_MIXED = 0.02  # share of the votes of a patch that contradict the others
_PLANE, _BEND = 0.004, 0.5  # the same for parallel normals, and what is added a radian
_SIDES = [np.array(s, dtype=np.float64) for s in itertools.product((-1, 0, 1), repeat=3) if any(s)]
DIRECTIONS = [side / np.linalg.norm(side) for side in _SIDES]  # 26: towards faces, edges and corners of the cube


def signs(points: np.ndarray, normals: np.ndarray, slack: float) -> np.ndarray:
    """[N] of 1 or -1, by which unit normals [N, 3] of points [N, 3] of the normalised frame face outwards.

    Args:
        points: all different.
        normals: either way round.
        slack: how far points may be off their surface along their normals; 0: not at all.
    """
    count = len(points)
    if count < 2:
        return np.ones(count)
    links = _Links.of(points, normals, slack)
    votes = _votes(points, normals, slack)
    patch, within = _patches(links, votes)
    size = np.bincount(patch)
    facing = votes * within
    towards, against = (np.bincount(patch, np.maximum(side * facing, 0.0), len(size)) for side in (1.0, -1.0))
    # noise lets the two sides of something thin grow into one patch: then each point speaks for itself
    mixed = (np.minimum(towards, against) > _MIXED * (towards + against)) & (slack > 0.0)
    large = np.argsort(-size, kind="stable")[:MOST]
    large = large[(size[large] >= LEAST) & ~mixed[large]]
    away = np.einsum("ni,ni->n", normals, points - (points.min(axis=0) + points.max(axis=0)) / 2.0)
    alone = np.where(np.abs(votes) > 0.3, votes, away)
    known = np.where(mixed[patch] & (size[patch] >= LEAST), np.where(alone < 0.0, -1.0, 1.0), 0.0)
    if len(large):
        turned = normals * within[:, None]
        inside = _solid_angles(points, turned, links.area, patch, large, len(size))
        seen = np.bincount(patch, facing + 0.1 * away * within, len(size))[large]
        chosen = np.zeros(len(size))
        chosen[large] = _turned(inside, np.where(seen < 0.0, -1.0, 1.0))
        known = np.where(mixed[patch], known, chosen[patch] * within)
    return _followed(links, known, points, normals)


@dataclass(frozen=True, slots=True)
class _Links:
    """Neighbours `one` [L] and `two` [L] of each other, and what speaks for them.

    Attributes:
        cosine: between their normals.
        joined: they are of one smooth surface: their normals agree, and neither lies on a level of its own.
        distance: between them, above 0.
        mirrored: cosine between the normal of one, carried over along an arc, and that of the other.
        arc: how far from an arc they are, as a share of the distance.
        area: [N] of surface about each point.
    """

    one: np.ndarray
    two: np.ndarray
    cosine: np.ndarray
    joined: np.ndarray
    distance: np.ndarray
    mirrored: np.ndarray
    arc: np.ndarray
    area: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, normals: np.ndarray, slack: float) -> _Links:
        from scipy.spatial import KDTree

        count = len(points)
        distances, nearest = KDTree(points).query(points, k=min(NEIGHBOURS + 1, count))
        one, two = np.repeat(np.arange(count), nearest.shape[1] - 1), nearest[:, 1:].ravel()
        step, distance = points[two] - points[one], np.maximum(distances[:, 1:].ravel(), 1e-30)
        cosine = np.einsum("ni,ni->n", normals[one], normals[two])
        rise, fall = np.einsum("ni,ni->n", step, normals[one]), np.einsum("ni,ni->n", step, normals[two])
        mirrored = cosine - 2.0 * rise * fall / distance**2
        level = np.abs(rise + np.where(cosine < 0.0, -fall, fall)) / 2.0
        arc = np.abs(rise + np.where(mirrored < 0.0, -fall, fall)) / distance
        # the angle between the normals: where there is none, both points are of one plane, or of two
        bend = np.sqrt(np.maximum(2.0 - 2.0 * np.abs(cosine), 0.0))
        beside = np.abs(cosine) > _ALONG
        joined = beside & (level < np.minimum(_STEP, _PLANE + _BEND * bend) * distance + slack)
        others = (beside & ~joined).reshape(count, -1).sum(axis=1)  # on the other side of something thin
        area = np.pi * distances[:, -1] ** 2 / (nearest.shape[1] - others)
        return cls(one, two, cosine, joined, distance, mirrored, arc, area)


def _patches(links: _Links, votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The patch of each point [N], and the sign [N] by which its normal agrees with the others of the patch."""
    from scipy.sparse.csgraph import connected_components

    count = len(votes)
    # the two sides of a thin plate are seen from opposite sides
    same = links.joined & (votes[links.one] * votes[links.two] * np.sign(links.cosine) > -_SEEN)
    tree = _tree(links.one[same], links.two[same], 1.0 - np.abs(links.cosine[same]), count)
    number, patch = connected_components(tree, directed=False)
    first = np.full(number, count)
    np.minimum.at(first, patch, np.arange(count))
    pairs = tree.tocoo()
    turn = _between(links.one[same], links.two[same], links.cosine[same], pairs.row, pairs.col, count)
    root = np.full(number, count)
    rows, columns = np.concatenate([pairs.row, root]), np.concatenate([pairs.col, first])
    return patch, _spread(rows, columns, np.concatenate([turn, np.ones(number)]), count)[:count]


def _tree(one: np.ndarray, two: np.ndarray, cost: np.ndarray, count: int):  # noqa: ANN202 - scipy's own type
    """A minimum spanning forest; links that stand there twice count once, by the lower cost."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree

    low, high = np.minimum(one, two), np.maximum(one, two)
    order = np.lexsort((cost, high, low))
    low, high, cost = low[order], high[order], cost[order]
    new = np.append(True, (low[1:] != low[:-1]) | (high[1:] != high[:-1]))[: len(low)]
    graph = coo_matrix((cost[new] + 1e-6, (low[new], high[new])), shape=(count, count)).tocsr()
    return minimum_spanning_tree(graph)


def _between(
    one: np.ndarray, two: np.ndarray, value: np.ndarray, rows: np.ndarray, columns: np.ndarray, count: int
) -> np.ndarray:
    """1 or -1 for each pair (row, column): the sign of the value that stands for it."""
    key = np.minimum(one, two).astype(np.int64) * count + np.maximum(one, two)
    order = np.argsort(key, kind="stable")
    wanted = np.minimum(rows, columns).astype(np.int64) * count + np.maximum(rows, columns)
    found = value[order][np.searchsorted(key[order], wanted)]
    return np.where(found < 0.0, -1.0, 1.0)


def _spread(rows: np.ndarray, columns: np.ndarray, turn: np.ndarray, root: int) -> np.ndarray:
    """Signs [root + 1] along a tree from its root: `turn` along each of its links; 0 for what it does not reach."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order

    links = coo_matrix((turn, (rows, columns)), shape=(root + 1, root + 1)).tocsr()
    links = links + links.T
    order, before = breadth_first_order(links, root, directed=True)
    sign = [0.0] * (root + 1)
    sign[root] = 1.0
    if len(order) == 1:
        return np.array(sign)
    value = np.asarray(links[order[1:], before[order[1:]]]).ravel()
    for place, parent, turned in zip(order[1:].tolist(), before[order[1:]].tolist(), value.tolist(), strict=True):
        sign[place] = sign[parent] * turned
    return np.array(sign)


def _solid_angles(
    points: np.ndarray, normals: np.ndarray, area: np.ndarray, patch: np.ndarray, large: np.ndarray, patches: int
) -> np.ndarray:
    """[E, S]: the share of all directions that each large patch fills, seen from some of the points."""
    witness = points[:: max(1, len(points) // WITNESSES)].astype(np.float32)
    column = np.full(patches, -1)
    column[large] = np.arange(len(large))
    found = np.zeros((len(witness), len(large)))
    order = np.argsort(patch, kind="stable")
    order = order[column[patch[order]] >= 0]
    soft = np.float32(1e-6)  # 0.001 of the half side: a point says nothing about itself
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        source, weighted = points[rows].astype(np.float32), (normals[rows] * area[rows, None]).astype(np.float32)
        square = np.zeros((len(witness), len(rows)), np.float32)
        flux = np.zeros_like(square)
        for axis in range(3):
            step = source[:, axis] - witness[:, axis, None]
            square += step * step
            flux += step * weighted[:, axis]
        square += soft
        flux /= square * np.sqrt(square)
        begins = np.flatnonzero(np.append(True, patch[rows][1:] != patch[rows][:-1]))
        found[:, column[patch[rows[begins]]]] += np.add.reduceat(flux, begins, axis=1)
    return np.clip(found / (4.0 * np.pi), -1.0, 1.0)


def _turned(inside: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Signs [S] of patches, turned one by one, the best first, while that brings the sums nearer to 1/2.

    It begins at `sign`, and once more at the signs of the best numbers in [-1, 1]; the better end counts.
    """
    ends = [_descended(inside, start.copy()) for start in (sign, np.where(_relaxed(inside, sign) < 0.0, -1.0, 1.0))]
    return min(ends, key=lambda end: end[0])[1]


def _descended(inside: np.ndarray, sign: np.ndarray) -> tuple[float, np.ndarray]:
    """The sum of squared deviations, and the signs [S] where turning one more does not help."""
    off = np.einsum("es,s->e", inside, sign) - 0.5
    weight = np.einsum("es,es->s", inside, inside)
    for _ in range(4 * len(sign)):
        gain = 4.0 * (weight - sign * np.einsum("es,e->s", inside, off))
        best = int(np.argmin(gain))
        if gain[best] >= -1e-9:
            break
        off -= 2.0 * sign[best] * inside[:, best]
        sign[best] = -sign[best]
    return float(np.einsum("e,e->", off, off)), sign


def _relaxed(inside: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Numbers [S] in [-1, 1] that bring the sums nearest to 1/2, patch after patch, a few times over."""
    columns = np.ascontiguousarray(inside.T)
    weight = np.einsum("se,se->s", columns, columns) + 1e-12
    value = 0.1 * sign
    off = np.einsum("es,s->e", inside, value) - 0.5
    for _ in range(SWEEPS):
        for place, column in enumerate(columns):
            new = min(1.0, max(-1.0, value[place] - float(np.einsum("e,e->", column, off)) / weight[place]))
            off += (new - value[place]) * column
            value[place] = new
    return value


def _followed(links: _Links, known: np.ndarray, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """`known` signs [N], and in place of zeros those that follow from neighbours; away from the centre where none can say."""
    count = len(known)
    if not known.all():
        node = np.where(known != 0.0, count, np.arange(count))
        one, two = node[links.one], node[links.two]
        turn = np.where(links.mirrored < 0.0, -1.0, 1.0)
        for end in (links.one, links.two):
            turn = turn * np.where(known[end] != 0.0, known[end], 1.0)
        open_ = one != two
        cost = (1.0 - np.minimum(np.abs(links.mirrored), 1.0) + links.arc)[open_]
        one, two, turn = one[open_], two[open_], turn[open_]
        # of links that join the same two the cheapest speaks
        order = np.argsort(cost, kind="stable")
        one, two, turn, cost = one[order], two[order], turn[order], cost[order]
        pairs = _tree(one, two, cost, count + 1).tocoo()
        value = _between(one, two, turn, pairs.row, pairs.col, count + 1)
        follow = _spread(pairs.row, pairs.col, value, count)[:count]
        known = np.where(known != 0.0, known, follow)
    away = np.einsum("ni,ni->n", normals, points - (points.min(axis=0) + points.max(axis=0)) / 2.0)
    return np.where(known != 0.0, known, np.where(away < 0.0, -1.0, 1.0))


def _votes(points: np.ndarray, normals: np.ndarray, slack: float) -> np.ndarray:
    """[N]: sum over the sides that see a point squarely enough of the cosine between its normal and that side.

    A side sees what lies no deeper than the foremost point of its cell by more than a cell, and not on a level behind it: so the
    far side of a plate is not seen through the near one, however thin the plate.
    """
    reach = float(np.abs(points).max()) * 1.75 + 1e-12  # the half diagonal of the cube, rounded up
    cell = 2.0 * reach / CELLS
    votes = np.zeros(len(points))
    for direction in DIRECTIONS:
        across = np.cross(direction, [0.0, 0.0, 1.0] if abs(direction[2]) < 0.9 else [1.0, 0.0, 0.0])
        across /= np.linalg.norm(across)
        at = _cells(np.einsum("ni,ij->nj", points, np.column_stack([across, np.cross(direction, across)])), reach, cell)
        depth, cosine = np.einsum("ni,i->n", points, direction), np.einsum("ni,i->n", normals, direction)
        order = np.lexsort((depth, at))
        last = np.append(at[order][1:] != at[order][:-1], True)
        foremost = np.empty(CELLS * CELLS, np.int64)
        foremost[at[order[last]]] = order[last]
        square = np.flatnonzero(np.abs(cosine) > 0.5)
        front = foremost[at[square]]
        step = points[front] - points[square]
        alike = np.einsum("ni,ni->n", normals[front], normals[square])
        rise, fall = np.einsum("ni,ni->n", step, normals[square]), np.einsum("ni,ni->n", step, normals[front])
        level = np.abs(rise + np.where(alike < 0.0, -fall, fall)) / 2.0
        bend = np.sqrt(np.maximum(2.0 - 2.0 * np.abs(alike), 0.0))
        behind = (np.abs(alike) > _ALONG) & (level > slack + (_PLANE + _BEND * bend) * cell)
        seen = (depth[front] - depth[square] <= cell) & ~behind
        votes[square] += np.where(seen, cosine[square], 0.0)
    return votes


def _cells(flat: np.ndarray, reach: float, cell: float) -> np.ndarray:
    """The cell index of each projected point."""
    at = np.clip(((flat + reach) / cell).astype(np.int64), 0, CELLS - 1)
    return at[:, 0] * CELLS + at[:, 1]
