"""Pairs of boxes that touch, by a balanced tree of boxes: what may meet at all is found without looking at every pair.

The tree splits at the median of the longest axis (Kay and Kajiya's hierarchies, SIGGRAPH 1986, split as kd-trees are); it is
walked against itself in blocks of pairs, so that memory does not grow with the number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 16  # pairs in hand at a time


@dataclass(frozen=True, slots=True)
class Level:
    """The nodes of one depth: node i holds the places starts[i] to starts[i + 1] - 1 of the order, its box [N, 3], and the group
    that all of its boxes belong to, else -1."""

    starts: np.ndarray
    low: np.ndarray
    high: np.ndarray
    group: np.ndarray


@dataclass(frozen=True, slots=True)
class Tree:
    """`order`: [N] the boxes in the order of the leaves; `levels`: from the root to nodes of one or two boxes."""

    order: np.ndarray
    levels: list[Level]


def make_tree(low: np.ndarray, high: np.ndarray, group: np.ndarray) -> Tree:
    """A tree over N > 0 boxes; `low`, `high`: [N, 3]; `group`: [N]."""
    count = len(low)
    depth = count.bit_length() - 1
    middle = low / 2 + high / 2
    order = np.arange(count)
    starts = [(np.arange((1 << level) + 1) * count) >> level for level in range(depth + 1)]
    for start in starts[:-1]:
        node = np.repeat(np.arange(len(start) - 1), np.diff(start))
        inside = middle[order]
        size = np.maximum.reduceat(inside, start[:-1]) - np.minimum.reduceat(inside, start[:-1])
        order = order[np.lexsort((inside[np.arange(count), size.argmax(axis=1)[node]], node))]
    lows, highs, groups = low[order], high[order], group[order]
    levels = []
    for start in starts:
        at = start[:-1]
        least = np.minimum.reduceat(groups, at)
        common = np.where(least == np.maximum.reduceat(groups, at), least, -1)
        levels.append(Level(start, np.minimum.reduceat(lows, at), np.maximum.reduceat(highs, at), common))
    return Tree(order, levels)


def touching(low: np.ndarray, high: np.ndarray, settled: np.ndarray, group: np.ndarray) -> Iterator[np.ndarray]:
    """Each pair of boxes that share a point, once, in blocks; but for those of one group.

    Args:
        low, high: [N, 3], N > 0.
        group: [N] whole numbers; boxes of one group (0 or more) are not compared with each other, -1 is none.
        settled: [N] bool, may be changed between blocks: pairs of which both are settled need not be looked at.

    Yields:
        [P, 2] indices of boxes, P > 0 and of the order of `BLOCK`.
    """
    tree = make_tree(low, high, group)
    low, high, group = low[tree.order], high[tree.order], group[tree.order]
    root = np.zeros(1, np.int64)
    stack = [(0, root, root)]
    done = _settled_before(settled, tree)
    while stack:
        depth, a, b = stack.pop()
        if len(a) > BLOCK:
            half = len(a) // 2
            stack += [(depth, a[half:], b[half:]), (depth, a[:half], b[:half])]
            continue
        starts = tree.levels[depth].starts
        if done[-1]:
            open_ = ~(_all(done, starts, a) & _all(done, starts, b))
            a, b = a[open_], b[open_]
        if depth + 1 < len(tree.levels):
            level = tree.levels[depth + 1]
            a, b = _children(a, b)
            wanted = (a <= b) & ~_one_group(level.group, a, b)
            a, b = _near(level.low, level.high, a[wanted], b[wanted])
            if len(a):
                stack.append((depth + 1, a, b))
            continue
        a, b = _near(low, high, *_held(starts, a, b))
        wanted = ~_one_group(group, a, b)
        a, b = a[wanted], b[wanted]
        if len(a):
            yield np.column_stack([tree.order[a], tree.order[b]])
            done = _settled_before(settled, tree)


def _one_group(group: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (group[a] == group[b]) & (group[a] >= 0)


def _settled_before(settled: np.ndarray, tree: Tree) -> np.ndarray:
    """How many of the boxes before each place of the order are settled: [N + 1]."""
    return np.concatenate([[0], np.cumsum(settled[tree.order])])


def _all(done: np.ndarray, starts: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Whether all boxes of a node are settled."""
    begin, end = starts[node], starts[node + 1]
    return done[end] - done[begin] == end - begin


def _children(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = 2 * a, 2 * b
    return np.concatenate([a, a, a + 1, a + 1]), np.concatenate([b, b + 1, b, b + 1])


def _held(starts: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of places (first < second) that pairs of leaves hold; a leaf has one or two."""
    one = np.concatenate([starts[a], starts[a], starts[a] + 1, starts[a] + 1])
    two = np.concatenate([starts[b], starts[b] + 1, starts[b], starts[b] + 1])
    ends_one, ends_two = np.tile(starts[a + 1], 4), np.tile(starts[b + 1], 4)
    kept = (one < ends_one) & (two < ends_two) & (one < two)
    return one[kept], two[kept]


def _near(low: np.ndarray, high: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of the pairs whose boxes share a point."""
    for axis in range(3):
        kept = (low[a, axis] <= high[b, axis]) & (low[b, axis] <= high[a, axis])
        a, b = a[kept], b[kept]
    return a, b
