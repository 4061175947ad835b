"""Flaws of single files, gathered by kind: how many, the first few, and the command that mends them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cadmllm.corpus.facts import Flaw, Level
from cadmllm.corpus.remedies import Place, remedy
from cadmllm.errors import CODES

SHOWN = 5  # paths a finding lists
_RANK: dict[str, int] = {"fail": 0, "warn": 1, "info": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of flaw.

    Attributes:
        code: of `errors.CODES`.
        level: fail (these are not used), warn (used, but suspect, or missing), info.
        count: how many files, folders or ids have it.
        paths: the first few of them.
        message: what was found.
        remedy: the command that mends it.
    """

    code: str
    level: Level
    count: int
    paths: list[str]
    message: str
    remedy: str


@dataclass(slots=True)
class _Group:
    level: Level
    count: int = 0
    paths: list[str] = field(default_factory=list)
    message: str = ""
    remedy: str = ""
    last: str | None = None


class Gathering:
    """Gathers flaws; keeps the first few of each code and level, so that memory does not grow with the data set."""

    def __init__(self, flaws: Iterable[Flaw] = ()) -> None:
        self._groups: dict[tuple[str, Level], _Group] = {}
        self._titles: dict[str, str] = {}
        for flaw in flaws:
            self.add(flaw.code, flaw.level, flaw.path, flaw.message)

    def title(self, code: str, text: str) -> None:
        """What a finding of this code says before its first example, in place of the code's meaning."""
        self._titles[code] = text

    def add(self, code: str, level: Level, path: str, message: str, remedy: str = "") -> None:
        """One more file (or folder, or id). A path that comes again at once is counted once.

        Args:
            code, level, path, message: as of a `Flaw`.
            remedy: where this one is not mended as others of its code are.
        """
        group = self._groups.setdefault((code, level), _Group(level))
        if group.last == path:
            return
        group.last = path
        group.count += 1
        if group.count == 1:
            group.message, group.remedy = message, remedy
        if len(group.paths) < SHOWN:
            group.paths.append(path)

    def count(self, code: str) -> int:
        """How many have this code, at any level."""
        return sum(group.count for (its, _), group in self._groups.items() if its == code)

    def findings(self, place: Place) -> list[Finding]:
        """Findings in order of what hurts most: failures first, the most frequent first."""
        found = []
        for (code, level), group in self._groups.items():
            title = self._titles.get(code, CODES[code])
            message = group.message if group.count == 1 else f"{title}; the first: {group.message}"
            mends = group.remedy or remedy(code, level, place, group.paths[0], group.message)
            found.append(Finding(code, level, group.count, group.paths, message, mends))
        return sorted(found, key=lambda finding: (_RANK[finding.level], -finding.count, finding.code))
