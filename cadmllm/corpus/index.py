"""What is known of a data set, kept between runs in one SQLite file outside of it; it can be deleted at any time.

SQLite, because a scan changes rows here and there, is killed in between, and must not lose what it had. What training asks
for at every start (ids, lengths, modalities) stands in it as columns that are read at once: the roster.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import sqlite3
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cadmllm.corpus.facts import Facts, Flaw, Kind
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.folders import Folders
    from cadmllm.settings import DataSettings

FORMAT = 3  # of the tables: an index of another format is made anew
PAGE = 2000  # rows read at once
LISTED = "@"  # owner of what the listing of a shard found: '@0000'
_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE folders(kind INTEGER, path TEXT, shard TEXT, mtime INTEGER, PRIMARY KEY(kind, path)) WITHOUT ROWID;
CREATE TABLE items(kind INTEGER, id TEXT, place TEXT, stamp TEXT, examined INTEGER, code TEXT, length INTEGER, facts TEXT,
                   PRIMARY KEY(kind, id)) WITHOUT ROWID;
CREATE INDEX pending ON items(kind, id) WHERE examined = 0;
CREATE INDEX broken ON items(kind, id) WHERE code IS NOT NULL;
CREATE TABLE captions(id TEXT, file TEXT, texts TEXT, PRIMARY KEY(id, file)) WITHOUT ROWID;
CREATE INDEX caption_files ON captions(file);
CREATE TABLE flaws(kind INTEGER, owner TEXT, code TEXT, level TEXT, path TEXT, message TEXT);
CREATE INDEX flaw_owners ON flaws(kind, owner);
CREATE TABLE columns(name TEXT PRIMARY KEY, data BLOB);
"""


class Row(NamedTuple):
    """One file, or the views of one id.

    Attributes:
        place: the file's path; for views their names' ends, joined by '|'.
        stamp: changes when a file does.
        code: why it is not used, None if it is.
        values: what examining it found; empty until then.
    """

    id: str
    place: str
    stamp: str
    code: str | None
    values: dict[str, Any]


class Index:
    """The rows of a data set. Every process, also a forked one, has its own connection.

    Args:
        path: the SQLite file.
        notes: what deserves to be said about how it was opened.
    """

    def __init__(self, path: Path, notes: Sequence[str] = ()) -> None:
        self.path = path
        self.notes = list(notes)
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "notes": self.notes, "_connection": None, "_process": 0}

    @property
    def db(self) -> sqlite3.Connection:
        """This process' connection."""
        if self._connection is None or self._process != os.getpid():
            self._connection, self._process = _connect(self.path), os.getpid()
        return self._connection

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection = None

    @contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """A transaction: all of it or nothing. Raises `CadmllmError` E482 when the disk is full or the file is locked."""
        try:
            self.db.execute("BEGIN IMMEDIATE")
            yield self.db
            self.db.execute("COMMIT")
        except sqlite3.Error as error:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise _unusable(self.path, error) from error
        except BaseException:
            self.db.execute("ROLLBACK")
            raise

    # what is there

    def rows(self, kind: Kind, after: str = "") -> Iterator[Row]:
        """Rows of a kind, ordered by id, a page at a time."""
        sql = "SELECT id, place, stamp, code, facts FROM items WHERE kind = ? AND id > ? ORDER BY id LIMIT ?"
        while page := self.db.execute(sql, (kind, after, PAGE)).fetchall():
            yield from (_row(found) for found in page)
            after = page[-1][0]

    def row(self, kind: Kind, id_: str) -> Row | None:
        """The row of an id, if there is one."""
        found = self.db.execute(
            "SELECT id, place, stamp, code, facts FROM items WHERE kind = ? AND id = ?", (kind, id_)
        ).fetchone()
        return _row(found) if found else None

    def place(self, kind: Kind, id_: str) -> str | None:
        """Where an id's file lies, None without one: `Row.place` alone."""
        found = self.db.execute("SELECT place FROM items WHERE kind = ? AND id = ?", (kind, id_)).fetchone()
        return found[0] if found else None

    def count(self, kind: Kind) -> int:
        """Rows of a kind. Of CAPTIONS: ids that have a usable caption."""
        sql = "SELECT COUNT(DISTINCT id) FROM captions" if kind is Kind.CAPTIONS else "SELECT COUNT(*) FROM items WHERE kind = ?"
        return self.db.execute(sql, () if kind is Kind.CAPTIONS else (kind,)).fetchone()[0]

    def pending(self, kind: Kind) -> int:
        """Rows of a kind that have not been examined since they changed."""
        return self.db.execute(
            "SELECT COUNT(*) FROM items INDEXED BY pending WHERE kind = ? AND examined = 0", (kind,)
        ).fetchone()[0]

    def captions(self, id_: str) -> tuple[str, ...]:
        """Usable captions of an id, the main one first."""
        rows = self.db.execute("SELECT texts FROM captions WHERE id = ? ORDER BY file", (id_,)).fetchall()
        return _texts(rows)

    def all_captions(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(id, captions) of every id that has any, ordered by id, a page at a time."""
        after = ""
        last = "SELECT MAX(id) FROM (SELECT id FROM captions WHERE id > ? ORDER BY id LIMIT ?)"
        sql = "SELECT id, texts FROM captions WHERE id > ? AND id <= ? ORDER BY id, file"
        while (until := self.db.execute(last, (after, PAGE)).fetchone()[0]) is not None:
            rows = self.db.execute(sql, (after, until)).fetchall()
            for id_, group in itertools.groupby(rows, key=itemgetter(0)):
                yield id_, _texts([(texts,) for _, texts in group])
            after = until

    def flaws(self, limit: int | None = None, level: str | None = None) -> Iterator[tuple[Kind, str, Flaw]]:
        """(kind, owner, flaw) of files and folders, in a stable order; the owner is an id, or '@shard' for a listing."""
        sql = "SELECT kind, owner, code, level, path, message FROM flaws WHERE ?1 IS NULL OR level = ?1"
        sql += " ORDER BY kind, owner, rowid LIMIT ?2"
        for kind, owner, *rest in self.db.execute(sql, (level, -1 if limit is None else limit)):
            yield Kind(kind), owner, Flaw(*rest)

    def lacking(self, have: Kind, lack: Sequence[Kind]) -> Iterator[str]:
        """Ids that have a row of one kind and none of any of the others, ordered (of CAPTIONS: a usable caption)."""

        def within(kind: Kind, id_: str) -> str:
            if kind is Kind.CAPTIONS:
                return f"EXISTS(SELECT 1 FROM captions c WHERE c.id = {id_})"
            return f"EXISTS(SELECT 1 FROM items o WHERE o.kind = {int(kind)} AND o.id = {id_})"

        source = "SELECT DISTINCT id FROM captions" if have is Kind.CAPTIONS else f"SELECT id FROM items WHERE kind = {int(have)}"
        conditions = " AND ".join(f"NOT {within(kind, 's.id')}" for kind in lack)
        for (id_,) in self.db.execute(f"SELECT s.id FROM ({source}) s WHERE {conditions} ORDER BY s.id"):
            yield id_

    # what is written

    def store(self, kind: Kind, results: Iterable[tuple[str, str, Facts]]) -> None:
        """Keep (id, stamp, facts) of what was examined. Rows that changed or went meanwhile are left alone (but of DEEP)."""
        with self.writing() as db:
            for id_, stamp, facts in results:
                values = json.dumps(facts.values, separators=(",", ":"))
                if kind is Kind.DEEP:
                    db.execute(
                        "INSERT OR REPLACE INTO items VALUES(?, ?, '', ?, 1, ?, NULL, ?)", (kind, id_, stamp, facts.code, values)
                    )
                else:
                    sql = "UPDATE items SET examined = 1, code = ?, length = ?, facts = ? WHERE kind = ? AND id = ? AND stamp = ?"
                    if not db.execute(sql, (facts.code, facts.values.get("length"), values, kind, id_, stamp)).rowcount:
                        continue
                self.replace_flaws(kind, id_, facts.flaws)
            if kind is not Kind.DEEP:
                self.touch()

    def replace_flaws(self, kind: Kind, owner: str, flaws: Iterable[Flaw]) -> None:
        """Inside `writing`: the flaws of an owner, in place of those it had."""
        self.db.execute("DELETE FROM flaws WHERE kind = ? AND owner = ?", (kind, owner))
        rows = [(kind, owner, flaw.code, flaw.level, flaw.path, flaw.message) for flaw in flaws]
        self.db.executemany("INSERT INTO flaws VALUES(?, ?, ?, ?, ?, ?)", rows)

    def touch(self) -> None:
        """Inside `writing`: the roster no longer tells the truth."""
        self.db.execute("DELETE FROM columns")

    def meta(self, key: str) -> str | None:
        """A fact about the index itself."""
        found = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    def set_meta(self, key: str, value: str) -> None:
        """Inside `writing`: keep such a fact."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, value))


def _row(found: tuple[str, str, str, str | None, str | None]) -> Row:
    return Row(*found[:4], json.loads(found[4]) if found[4] else {})


def _texts(rows: list[tuple[str]]) -> tuple[str, ...]:
    """The captions of several files, each text once."""
    return tuple(dict.fromkeys(text for (texts,) in rows for text in json.loads(texts)))


def cache_folder(data: DataSettings) -> Path:
    """Where indices lie: `data.index`, else cadmllm's folder in the user's cache."""
    if data.index is not None:
        return data.index
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cadmllm"


def open_store(data: DataSettings, folders: Folders) -> Index:
    """The index of these folders, empty if there was none. What is not an index of this format is replaced.

    Raises:
        CadmllmError: E482 when neither the cache folder nor the system's temporary folder can be written.
    """
    places = [folders.root, folders.txt, folders.json, folders.img, *folders.points]
    key = hashlib.sha256("\n".join(str(path.resolve()) if path else "" for path in places).encode("utf-8", "surrogatepass"))
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', folders.root.resolve().name)[:40] or 'data'}-{key.hexdigest()[:16]}.sqlite"
    notes: list[str] = []
    spare = Path(tempfile.gettempdir()) / f"cadmllm-{os.getuid()}"
    for base in (cache_folder(data), spare):
        try:
            base.mkdir(parents=True, exist_ok=True, mode=0o700)
            if base == spare and base.lstat().st_uid != os.getuid():
                raise PermissionError(13, "it belongs to another user")
            return Index(base / name, [*notes, *_prepared(base / name)])
        except (OSError, sqlite3.Error) as error:
            notes.append(f"the index cannot lie in {base} ({getattr(error, 'strerror', None) or error})")
    raise CadmllmError("E482", "; ".join(notes), "give a folder on a local disk: --set data.index=FOLDER")


def _prepared(path: Path) -> list[str]:
    """Make the tables, or see that they are there; says it when what was there had to go."""
    notes = []
    for attempt in (1, 2):
        connection = _connect(path)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == FORMAT:
                connection.execute("SELECT COUNT(*) FROM meta").fetchone()
                return notes
            if version == 0 and not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
                _create(connection)
                return notes
            notes = [f"{path} was written by another version of cadmllm: it is made anew"]
        except sqlite3.DatabaseError as error:
            if attempt == 2 or isinstance(error, sqlite3.OperationalError):
                raise
            notes = [f"{path} is damaged ({error}): it is made anew"]
        finally:
            connection.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    return notes


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    if not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:  # another process may have been faster
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60.0, isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "mmap_size = 4294967296", "cache_size = -32768"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _unusable(path: Path, error: Exception) -> CadmllmError:
    return CadmllmError("E482", f"the index {path} cannot be written: {error}", "free some space, or --set data.index=FOLDER")
