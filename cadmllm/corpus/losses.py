"""What of a data set cannot be used, counted by code from the index alone: queries, no file is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cadmllm.corpus.facts import Kind
from cadmllm.corpus.index import LISTED

if TYPE_CHECKING:
    from cadmllm.corpus.index import Index

_AFTER = chr(ord(LISTED) + 1)  # owners of listings sort before it


@dataclass(frozen=True, slots=True)
class Loss:
    """Files, entries or folders with the same flaw.

    Attributes:
        code: of `errors.CODES`.
        level: 'fail' (not used) or 'warn' (an entry or a neighbour of it is not used, or it is suspect).
        kind: of what.
        count: how many.
        path, message: of the first.
    """

    code: str
    level: str
    kind: Kind
    count: int
    path: str
    message: str


def losses(index: Index) -> list[Loss]:
    """What is left out of the ids that have a caption and a program, and what is wrong with folders and caption files.

    Clouds and views count only where a check has looked into them.

    Args:
        index: up to date.
    """
    return [*_of_folders(index), *_of_ids(index)]


def _of_folders(index: Index) -> list[Loss]:
    found = []
    sql = """SELECT code, level, COUNT(*), MIN(rowid) FROM flaws WHERE kind = ?1 AND level <> 'info'
             AND (?2 OR (owner >= ?3 AND owner < ?4)) GROUP BY code, level ORDER BY 4"""
    for kind in (Kind.CAPTIONS, Kind.PROGRAM, Kind.CLOUD, Kind.VIEWS):
        rows = index.db.execute(sql, (kind, kind is Kind.CAPTIONS, LISTED, _AFTER)).fetchall()
        for code, level, count, first in rows:
            path, message = index.db.execute("SELECT path, message FROM flaws WHERE rowid = ?", (first,)).fetchone()
            found.append(Loss(code, level, kind, count, path, message))
    return found


def _of_ids(index: Index) -> list[Loss]:
    found = []
    known = "EXISTS(SELECT 1 FROM captions t WHERE t.id = i.id)"
    also = "(kind = ?2 OR EXISTS(SELECT 1 FROM items p WHERE p.kind = ?2 AND p.id = i.id))"
    sql = f"""SELECT code, COUNT(*), MIN(id) FROM items i INDEXED BY broken WHERE kind = ?1 AND code IS NOT NULL
              AND {known} AND {also} GROUP BY code ORDER BY 2 DESC, 1"""
    for kind in (Kind.PROGRAM, Kind.CLOUD, Kind.VIEWS):
        for code, count, first in index.db.execute(sql, (kind, Kind.PROGRAM)).fetchall():
            flaw = "SELECT path, message FROM flaws WHERE kind = ? AND owner = ? AND code = ? ORDER BY rowid LIMIT 1"
            path, message = index.db.execute(flaw, (kind, first, code)).fetchone() or (first, f"{first} cannot be used")
            found.append(Loss(code, "fail", kind, count, path, message))
    return found
