"""Version ranges, and requirements as packages declare them (PEP 440, PEP 508); without `packaging`, which may be broken."""

from __future__ import annotations

import operator
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

_VERSION = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<phase>alpha|a|beta|b|preview|pre|c|rc)[-_.]?(?P<pre>\d*))?"
    r"(?P<post>-\d+|[-_.]?(?:post|rev|r)[-_.]?\d*)?"
    r"(?P<dev>[-_.]?dev[-_.]?\d*)?"
    r"(?:\+(?P<local>[a-z0-9._-]+))?",
    re.IGNORECASE,
)
_PHASES = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}
_CLAUSE = re.compile(r"(===|~=|==|!=|<=|>=|<|>)\s*(\S+)")
_LINE = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?\s*\(?([^;)@]*)\)?\s*(?:@[^;]*)?(?:;(.*))?$")
_TOKEN = re.compile(r"\s*(\(|\)|'[^']*'|\"[^\"]*\"|===|~=|==|!=|<=|>=|<|>|not\s+in\b|[A-Za-z_]\w*)")
_COMPARE: dict[str, Callable[[tuple, tuple], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Version:
    """A version: `key` orders versions without their local part, which is `local` ('cpu' of '2.13.0+cpu')."""

    release: tuple[int, ...]
    key: tuple
    local: str
    early: bool
    late: bool


def parse_version(text: str) -> Version:
    """A version in parts; what follows them is left out, a text without a number is version 0."""
    found = _VERSION.match(text.strip())
    if found is None:
        return Version((0,), (0, (0,), (9, 0), -1, 1 << 62), "", False, False)
    numbers = [int(part) for part in found["release"].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    post = None if found["post"] is None else int(re.sub(r"\D", "", found["post"]) or 0)
    dev = None if found["dev"] is None else int(re.sub(r"\D", "", found["dev"]) or 0)
    phase = (9, 0) if found["phase"] is None else (_PHASES[found["phase"].lower()], int(found["pre"] or 0))
    if found["phase"] is None and post is None and dev is not None:
        phase = (-1, 0)
    release = tuple(numbers)
    key = (int(found["epoch"] or 0), release, phase, -1 if post is None else post, 1 << 62 if dev is None else dev)
    early = found["phase"] is not None or dev is not None
    return Version(release, key, (found["local"] or "").lower(), early, post is not None)


def in_range(version: str, wanted: str) -> bool:
    """Whether a version ('2.13.0+cpu') satisfies a range ('>=2.8,<3', '~=1.4', '==2.*'); early versions count like others."""
    return all(_satisfies(version, sign, bound) for sign, bound in _CLAUSE.findall(wanted.replace(",", " , ")))


def _satisfies(version: str, sign: str, bound: str) -> bool:
    if sign == "===":
        return version.strip().lower() == bound.lower()
    have, limit = parse_version(version), parse_version(bound)
    if sign == "!=":
        return not _satisfies(version, "==", bound)
    if sign == "~=":
        places = bound.partition("+")[0].count(".")
        prefix = ".".join(bound.split(".")[: max(1, places)])
        return have.key >= limit.key and _starts(have, prefix)
    if sign == "==" and bound.endswith(".*"):
        return _starts(have, bound[:-2])
    if sign == "==" and limit.local:
        return have.key == limit.key and have.local == limit.local
    if sign == "<" and have.early and not limit.early and have.release == limit.release:
        return False  # 8.1rc1 is no 8.0
    if sign == ">" and have.release == limit.release and have.late and not limit.late:
        return False
    return _COMPARE[sign](have.key, limit.key)


def _starts(have: Version, prefix: str) -> bool:
    epoch, _, numbers = prefix.rpartition("!")
    wanted = [int(part) for part in numbers.split(".") if part.isdigit()]
    padded = [*have.release, *[0] * len(wanted)]
    return have.key[0] == int(epoch or 0) and padded[: len(wanted)] == wanted


def normal(name: str) -> str:
    """A distribution's name as it is compared: 'PyYAML_x' is 'pyyaml-x'."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line of `Requires-Dist`: a name, extras of it, a range (with blanks taken out), and when it applies."""

    name: str
    extras: tuple[str, ...]
    wanted: str
    marker: str

    def applies(self, extras: tuple[str, ...] = ()) -> bool:
        """Whether it counts here, for a package that was asked for with these extras."""
        return not self.marker or any(holds(self.marker, extra) for extra in ("", *extras))


def parse_requirement(line: str) -> Requirement:
    """A requirement line in parts.

    Raises:
        ValueError: it is none.
    """
    found = _LINE.match(line)
    if found is None:
        raise ValueError(f"not a requirement: {line!r}")
    extras = tuple(normal(extra.strip()) for extra in (found[2] or "").split(",") if extra.strip())
    return Requirement(normal(found[1]), extras, re.sub(r"\s+", "", found[3]), (found[4] or "").strip())


def holds(marker: str, extra: str = "") -> bool:
    """Whether an environment marker ('platform_system == "Linux" and python_version < "3.12"') is true here.

    Raises:
        ValueError: it is no marker.
    """
    tokens: list[str] = []
    place = 0
    while marker[place:].strip():
        found = _TOKEN.match(marker, place)
        if found is None:
            raise ValueError(f"not a marker: {marker!r}")
        tokens.append(re.sub(r"\s+", " ", found[1]))
        place = found.end()
    tokens.reverse()
    value = _either(tokens, extra)
    if tokens:
        raise ValueError(f"not a marker: {marker!r}")
    return value


def _either(tokens: list[str], extra: str) -> bool:
    value = _both(tokens, extra)
    while tokens and tokens[-1] == "or":
        tokens.pop()
        value = _both(tokens, extra) or value
    return value


def _both(tokens: list[str], extra: str) -> bool:
    value = _single(tokens, extra)
    while tokens and tokens[-1] == "and":
        tokens.pop()
        value = _single(tokens, extra) and value
    return value


def _single(tokens: list[str], extra: str) -> bool:
    if len(tokens) < 3:
        raise ValueError("a marker ends too early")
    first = tokens.pop()
    if first == "(":
        value = _either(tokens, extra)
        if not tokens or tokens.pop() != ")":
            raise ValueError("a marker lacks a bracket")
        return value
    sign, second = tokens.pop(), tokens.pop()
    left, right = _value(first, extra), _value(second, extra)
    if sign == "in":
        return left in right
    if sign == "not in":
        return left not in right
    if "extra" in (first, second):
        same = normal(left) == normal(right)
        return same if sign == "==" else not same
    if any("version" in name for name in (first, second)) and _VERSION.match(right) and _VERSION.match(left):
        return in_range(left, f"{sign}{right}") if "version" in first else in_range(right, f"{_turned(sign)}{left}")
    return left == right if sign in ("==", "===") else left != right if sign == "!=" else _COMPARE[sign]((left,), (right,))


def _turned(sign: str) -> str:
    return {"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(sign, sign)


def _value(token: str, extra: str) -> str:
    if token[0] in "'\"":
        return token[1:-1]
    if token not in _FACTS:
        raise ValueError(f"a marker speaks of {token!r}")
    return extra if token == "extra" else _FACTS[token]()


_FACTS: dict[str, Callable[[], str]] = {
    "extra": lambda: "",
    "os_name": lambda: os.name,
    "sys_platform": lambda: sys.platform,
    "platform_machine": lambda: os.uname().machine,
    "platform_system": lambda: os.uname().sysname,
    "platform_release": lambda: os.uname().release,
    "platform_version": lambda: os.uname().version,
    "platform_python_implementation": platform.python_implementation,
    "implementation_name": lambda: sys.implementation.name,
    "implementation_version": platform.python_version,
    "python_version": lambda: f"{sys.version_info[0]}.{sys.version_info[1]}",
    "python_full_version": platform.python_version,
}
