"""Sketch planes as the three angles of DeepCAD's vectors. Only the `.h5` interchange uses them."""

from __future__ import annotations

import math

from cadmllm.cad.program import Plane, Point3

Angles = tuple[float, float, float]


def polar(vector: Point3) -> tuple[float, float]:
    """(theta, phi) of a direction as the original has them: phi by arctan, so that one with negative x comes out mirrored."""
    x, y, z = (round(value, 6) for value in vector)
    return math.acos(z / math.hypot(x, y, z)), math.atan(y / (x + 1e-15))


def direction(theta: float, phi: float) -> Point3:
    """The unit vector at polar angle theta from z and azimuth phi."""
    return math.sin(theta) * math.cos(phi), math.sin(theta) * math.sin(phi), math.cos(theta)


def cross(a: Point3, b: Point3) -> Point3:
    """a x b."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def dot(a: Point3, b: Point3) -> float:
    """a . b."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def _reference(theta: float, phi: float) -> Point3:
    """Where the x axis goes when z is turned to (theta, phi): about y by theta, then about z by phi."""
    return math.cos(theta) * math.cos(phi), math.cos(theta) * math.sin(phi), -math.sin(theta)


def angles_of(plane: Plane) -> Angles:
    """(theta, phi, gamma): the normal's direction and the turn of the x axis about it, radians."""
    theta, phi = polar(plane.normal)
    reference = _reference(theta, phi)
    gamma = math.acos(min(1.0, max(-1.0, round(dot(plane.x_axis, reference), 6))))
    return theta, phi, -gamma if dot(cross(reference, plane.x_axis), plane.normal) < 0.0 else gamma


def axes_from(angles: Angles) -> tuple[Point3, Point3]:
    """(x axis, normal) of the plane that the angles describe."""
    theta, phi, gamma = angles
    normal, reference = direction(theta, phi), _reference(theta, phi)
    side = cross(normal, reference)
    c, s = math.cos(gamma), math.sin(gamma)
    return (
        c * reference[0] + s * side[0],
        c * reference[1] + s * side[1],
        c * reference[2] + s * side[2],
    ), normal
