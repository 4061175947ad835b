"""From the folders of a data set to its index: list what changed, examine what is new, keep the rest.

Training trusts the folders' times: a folder whose entries did not change is not listed again. `data check` looks at every
file's size and time. A file rewritten in place between two checks is therefore met when it is read (its sample is then left
out and said), everything else before the first step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.corpus import roster
from cadmllm.corpus.captionfiles import examine_captions
from cadmllm.corpus.examine import VERSION
from cadmllm.corpus.examining import KINDS, examine, view_paths
from cadmllm.corpus.facts import Facts, Flaw, Kind
from cadmllm.corpus.folders import RACE, Folders, ids_in, list_folder, locate, mtime_of, stamp_of
from cadmllm.corpus.index import LISTED, Index, open_store

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.settings import DataSettings

GIVEN = f"{LISTED}folders"  # owner of the flaws of the folders themselves


def open_index(
    data: DataSettings, *, contents: bool, programs: bool = True, workers: int = 1, console: Console | None = None
) -> Index:
    """The index of a data set, brought up to date.

    Args:
        data: which data set; folders that are missing are no error here.
        contents: look at every file again, and examine clouds and views as well (what `data check` needs). Else only folders
            that changed are listed, and only programs and caption files examined (what training needs).
        programs: examine programs; false: list alone.
        workers: processes that examine.
        console: for progress and for what deserves to be said.

    Raises:
        CadmllmError: E482 when the index cannot be written.
    """
    folders = locate(data)
    index = open_store(data, folders)
    if console is not None:
        for note in index.notes:
            console.warn(note)
    _forget_old_examinations(index)
    with index.writing():
        index.replace_flaws(Kind.PROGRAM, GIVEN, folders.flaws)
    _captions(index, folders)
    for kind in KINDS:
        if not contents:
            _look_at_broken_again(index, folders, kind)
        _list(index, folders, kind, everything=contents)
    if programs or contents:
        examine(index, folders, KINDS if contents else (Kind.PROGRAM,), workers, console)
    if not roster.is_there(index):
        _twins(index)
        roster.make(index)
    return index


def _forget_old_examinations(index: Index) -> None:
    if index.meta("examiner") != VERSION:
        with index.writing() as db:
            db.execute("UPDATE items SET examined = 0, code = NULL, length = NULL, facts = NULL")
            db.execute("DELETE FROM items WHERE kind IN (?, ?)", (Kind.CAPTIONS, Kind.DEEP))
            db.execute("DELETE FROM flaws WHERE substr(owner, 1, 1) <> ?", (LISTED,))
            index.set_meta("examiner", VERSION)
            index.touch()


# listing


def _captions(index: Index, folders: Folders) -> None:
    """Read the caption files that changed."""
    found: dict[str, str] = {}
    flaws: list[Flaw] = []
    if folders.txt is not None and folders.txt.is_dir():
        listing = list_folder(folders.txt, folders.fence(folders.txt))
        flaws = list(listing.flaws)
        for file in listing.files:
            path = folders.txt / file.name
            if path.suffix == ".json":
                found[str(path)] = stamp_of([file[1:]])
            else:
                flaws.append(Flaw("E415", "warn", str(path), f"{path} is not used: caption files (0000.json) belong here"))
    elif folders.txt is not None:
        status = folders.txt.stat()
        found[str(folders.txt)] = stamp_of([(status.st_size, status.st_mtime_ns)])
    with index.writing() as db:
        if flaws or db.execute("SELECT 1 FROM flaws WHERE kind = ? AND owner = ?", (Kind.CAPTIONS, LISTED)).fetchone():
            index.replace_flaws(Kind.CAPTIONS, LISTED, flaws)
        known = dict(db.execute("SELECT id, stamp FROM items WHERE kind = ?", (Kind.CAPTIONS,)))
        for path in known.keys() - found.keys():
            _drop_captions(index, path)
    for path, stamp in sorted(found.items()):
        if known.get(path) != stamp:
            _read_captions(index, path, stamp)


def _drop_captions(index: Index, path: str) -> None:
    index.db.execute("DELETE FROM captions WHERE file = ?", (path,))
    index.db.execute("DELETE FROM items WHERE kind = ? AND id = ?", (Kind.CAPTIONS, path))
    index.replace_flaws(Kind.CAPTIONS, path, ())
    index.touch()


def _read_captions(index: Index, path: str, stamp: str) -> None:
    captions, flaws = examine_captions(Path(path))
    facts = Facts({"ids": len(captions)}, flaws)
    with index.writing() as db:
        _drop_captions(index, path)
        rows = ((id_, path, json.dumps(texts, ensure_ascii=False)) for id_, texts in captions.items())
        db.executemany("INSERT INTO captions VALUES(?, ?, ?)", rows)
        values = json.dumps(facts.values)
        db.execute("INSERT INTO items VALUES(?, ?, ?, ?, 1, ?, NULL, ?)", (Kind.CAPTIONS, path, path, stamp, facts.code, values))
        index.replace_flaws(Kind.CAPTIONS, path, flaws)


def _list(index: Index, folders: Folders, kind: Kind, *, everything: bool) -> None:
    """Bring the rows of a kind in line with what stands in its folders."""
    tops = folders.of(kind)
    rows = index.db.execute("SELECT path, shard, mtime FROM folders WHERE kind = ?", (kind,)).fetchall()
    known = {path: (shard, mtime) for path, shard, mtime in rows}
    shards = {""} | {shard for shard, _ in known.values()}
    top_listings = {}
    for top in tops:
        if everything or known.get(str(top)) != ("", mtime_of(top)):
            top_listings[top] = list_folder(top, folders.fence(top))
            shards.update(top_listings[top].folders)
    for shard in sorted(shards):
        places = [top / shard if shard else top for top in tops]
        now = {str(place): mtime for place in places if (mtime := mtime_of(place)) is not None}
        before = {path: mtime for path, (its, mtime) in known.items() if its == shard}
        if everything or now != before:
            _relist(index, folders, kind, shard, tops, now, top_listings)


def _relist(
    index: Index, folders: Folders, kind: Kind, shard: str, tops: Sequence[Path], now: dict[str, int], top_listings: dict
) -> None:
    """One shard: rows that are gone go, new ones come, changed ones are to be examined again."""
    listings = []
    for top in tops:
        place = top / shard if shard else top
        if str(place) not in now:
            continue
        if shard and place.is_symlink() and not place.resolve().is_relative_to(folders.fence(top).resolve()):
            continue  # a flaw of the folder above
        listing = top_listings.get(top) if not shard else None
        listings.append((place, listing or list_folder(place, folders.fence(top))))
    found, flaws = ids_in(kind, shard, listings)
    low, high = (f"{shard}/", f"{shard}0") if shard else ("", "")
    where = "id >= ? AND id < ?" if shard else "instr(id, '/') = 0 AND ? = ?"
    settled = time.time_ns() - RACE  # a folder that changed later may change again without its time changing
    with index.writing() as db:
        old = db.execute(f"SELECT id, place, stamp FROM items WHERE kind = ? AND {where}", (kind, low, high))
        known = {id_: (place, stamp) for id_, place, stamp in old}
        changed = [(kind, id_, *there) for id_, there in found.items() if known.get(id_) != there]
        gone = [(kind, id_) for id_ in known.keys() - found.keys()]
        outdated = gone + [(kind, id_) for _, id_, _, _ in changed if id_ in known]
        db.executemany("DELETE FROM items WHERE kind = ? AND id = ?", gone)
        db.executemany("DELETE FROM flaws WHERE kind = ? AND owner = ?", outdated)
        db.executemany("INSERT OR REPLACE INTO items VALUES(?, ?, ?, ?, 0, NULL, NULL, NULL)", changed)
        if gone or changed:
            index.touch()
        index.replace_flaws(kind, LISTED + shard, flaws)
        db.execute("DELETE FROM folders WHERE kind = ? AND shard = ?", (kind, shard))
        stamps = [(kind, path, shard, mtime if mtime < settled else -1) for path, mtime in now.items()]
        db.executemany("INSERT INTO folders VALUES(?, ?, ?, ?)", stamps)


def _look_at_broken_again(index: Index, folders: Folders, kind: Kind) -> None:
    """What could not be used may have been mended in place, which its folder does not tell: then list that folder again."""
    rows = index.db.execute(
        "SELECT id, place, stamp FROM items INDEXED BY broken WHERE kind = ? AND code IS NOT NULL", (kind,)
    ).fetchall()
    mended = {id_.rpartition("/")[0] for id_, place, stamp in rows if _stamp_now(kind, folders.img, id_, place) != stamp}
    if mended:
        with index.writing() as db:
            db.executemany("UPDATE folders SET mtime = -1 WHERE kind = ? AND shard = ?", [(kind, shard) for shard in mended])


def _stamp_now(kind: Kind, img: Path | None, id_: str, place: str) -> str | None:
    paths = [Path(place)] if kind is not Kind.VIEWS else view_paths(img, id_, place) if img else []
    try:
        return stamp_of([(status.st_size, status.st_mtime_ns) for status in map(Path.stat, paths)])
    except OSError:
        return None


def _twins(index: Index) -> None:
    """Ids that a Windows drive cannot keep apart, and programs that lie in two shards."""
    stem = "substr(id, length(rtrim(id, replace(id, '/', ''))) + 1)"
    cases = (("lower(id)", "differ in letter case alone"), (stem, "have the same name in different shards"))
    flaws = []
    for key, how in cases:
        sql = f"SELECT group_concat(id, ', '), MIN(id) FROM items WHERE kind = ? GROUP BY {key} HAVING COUNT(*) > 1 ORDER BY 2"
        for names, first in index.db.execute(sql, (Kind.PROGRAM,)):
            flaws.append(Flaw("E418", "warn", first, f"{names[:200]} {how}"))
    with index.writing():
        index.replace_flaws(Kind.PROGRAM, f"{LISTED}twins", flaws)
