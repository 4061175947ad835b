"""Triangle meshes that several tests measure."""

from __future__ import annotations

import numpy as np

Soup = tuple[np.ndarray, np.ndarray]

BOTTOM, TOP = [[0, 2, 1], [0, 3, 2]], [[4, 5, 6], [4, 6, 7]]
SIDES = [[0, 1, 5], [0, 5, 4], [1, 2, 6], [1, 6, 5], [2, 3, 7], [2, 7, 6], [3, 0, 4], [3, 4, 7]]
CUBE = np.array(BOTTOM + TOP + SIDES)


def cube(at: tuple[float, float, float] = (0.0, 0.0, 0.0), size: float = 1.0) -> Soup:
    """A closed cube of twelve triangles, outward oriented, with its lowest corner at `at`; vertex 6 is the highest."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]], float)
    return corners * size + np.array(at, float), CUBE.copy()


def together(*soups: Soup) -> Soup:
    """Several soups as one; nothing is welded."""
    bases = np.cumsum([0, *(len(vertices) for vertices, _ in soups)])
    faces = [faces + base for (_, faces), base in zip(soups, bases, strict=False)]
    return np.concatenate([vertices for vertices, _ in soups]), np.concatenate(faces)


def moebius(count: int = 12) -> Soup:
    """A strip of 2 `count` triangles with a half turn: one border, one side."""
    angle = np.arange(count) * 2.0 * np.pi / count
    rim = []
    for sign in (-1.0, 1.0):
        radius = 3.0 + sign * np.cos(angle / 2.0)
        rim.append(np.column_stack([radius * np.cos(angle), radius * np.sin(angle), sign * np.sin(angle / 2.0)]))
    faces = []
    for k in range(count):
        after = (k + 1) % count
        a, b, c, d = k, k + count, after, after + count
        if after == 0:  # the half turn: the two rims change places
            c, d = d, c
        faces += [[a, c, b], [c, d, b]]
    return np.concatenate(rim), np.array(faces)
