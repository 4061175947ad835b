"""What looking at a file of a data set finds: facts to count with, flaws to tell of."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from cadmllm.errors import CODES

Level = Literal["fail", "warn", "info"]  # fail: the file is not used; warn: used, but suspect; info: good to know
Value = int | float | str | list[float] | list[int] | list[str] | dict[str, int] | None


class Kind(IntEnum):
    """What a row of the index speaks of."""

    CAPTIONS = 0  # a caption file; its row's id is the file's path
    PROGRAM = 1
    CLOUD = 2
    VIEWS = 3  # all views of an id
    DEEP = 4  # what the kernel found of an id


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something wrong with a file.

    Attributes:
        code: of `errors.CODES`.
        level: see `Level`.
        path: the file or folder, as a person would open it; an id where there is no file.
        message: one sentence, the path in it where that helps.
    """

    code: str
    level: Level
    path: str
    message: str

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise KeyError(self.code)


@dataclass(frozen=True, slots=True)
class Facts:
    """Outcome of examining one file (or the views of one id).

    Attributes:
        values: small JSON values, by name; what they are called is said by the function that made them.
        flaws: what is wrong; the first of level 'fail' keeps the file from being used.
        rest: of several files: some of them can be used, so what is wrong with the others keeps the id from nothing.
    """

    values: dict[str, Value] = field(default_factory=dict)
    flaws: tuple[Flaw, ...] = ()
    rest: bool = False

    @property
    def code(self) -> str | None:
        """Why the file, or every one of several, is not used; None if it is."""
        if self.rest:
            return None
        return next((flaw.code for flaw in self.flaws if flaw.level == "fail"), None)
