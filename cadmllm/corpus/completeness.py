"""What of a data set is missing, too little, too long or there twice: what only the whole of it, or the settings, can tell."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cadmllm.corpus import fit
from cadmllm.corpus.census import Entry, orphan
from cadmllm.corpus.facts import Kind
from cadmllm.corpus.folders import POINT_FOLDERS, Folders, locate
from cadmllm.corpus.prompt import HEAD, TAIL, clean_caption
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.findings import Gathering
    from cadmllm.corpus.index import Index
    from cadmllm.corpus.readiness import StageReport
    from cadmllm.corpus.roster import Ids
    from cadmllm.settings import DataSettings, Settings

VIEWS = 8  # of an id, in the Omni-CAD layout
LETTERS = 4  # a token, about, where no tokenizer is at hand
_WHAT = {"txt": "captions", "json": "programs", "img": "views", "points": "clouds"}


def places(data: DataSettings) -> Folders:
    """Where the data set lies at this moment."""
    return locate(data)


def folders_that_lack(settings: Settings, folders: Folders, stage: int, found: Gathering) -> None:
    """E401 for folders that are not there: without captions and programs nothing trains, the others are for later stages."""
    data = settings.data
    have = {"txt": folders.txt, "json": folders.json, "img": folders.img, "points": folders.points[0] if folders.points else None}
    given = {"txt": data.txt, "json": data.json_, "img": data.img, "points": data.points}
    shown = fit.shown(settings.stages[stage].reached)
    needed = {"txt", "json"} | {name for name, what in (("img", "image"), ("points", "point_cloud")) if what in shown}
    refused = {flaw.path for flaw in folders.flaws}
    for name, path in have.items():
        defaults = [data.root / folder for folder in (POINT_FOLDERS if name == "points" else (name,))]
        if path is not None or (given[name] is None and refused & {str(place) for place in defaults}):
            continue
        where = given[name] or defaults[0]
        level = "fail" if name in ("txt", "json") else "warn" if name in needed else "info"
        missing = "does not exist" if not where.exists() else "is not a folder"
        found.add("E401", level, str(where), f"{where} {missing}: there are no {_WHAT[name]}", how_to_make(settings, name))


def how_to_make(settings: Settings, name: str) -> str:
    """The command that makes what a folder ('txt', 'json', 'img', 'points') should hold."""
    from cadmllm.corpus.remedies import Place

    words = Place(settings.data.root).words
    if name in ("img", "points"):
        what = "--views" if name == "img" else "--points"
        made = f"{words['derived']}/{'img' if name == 'img' else 'pcd'}"
        return f"cadmllm data prepare {words['root']} --out {words['derived']} {what}, then --set data.{name}={made}"
    return f"name it: --set data.{name}=FOLDER; or make parts: cadmllm data synth --count 500 --out parts --points --views"


def noting_orphans(entries: Iterable[Entry], found: Gathering) -> Iterator[Entry]:
    """The entries of a walk as they are; what belongs to nothing is noted on the way (E411 to E414)."""
    for entry in entries:
        for code, what in orphan(entry[1]):
            found.add(code, "warn", entry[0], f"{entry[0]} {what}")
        yield entry


def files_that_lack(index: Index, settings: Settings, found: Gathering) -> None:
    """Captions of one id in several files (E416), clouds with too few points (E432), missing views (E443), programs that are
    there twice (E463)."""
    for id_, files in index.db.execute("SELECT id, COUNT(*) n FROM captions GROUP BY id HAVING n > 1"):
        found.add("E416", "info", id_, f"{id_} has captions in {files} files: all of them are its captions")
    wanted = settings.model.point_count
    sql = "SELECT place, json_extract(facts, '$.points') n FROM items WHERE kind = ? AND code IS NULL AND n < ? ORDER BY id"
    for place, points in index.db.execute(sql, (Kind.CLOUD, wanted)):
        found.add("E432", "warn", place, f"{place} has {points:,} points where an encoder sees {wanted:,}: some are drawn twice")
    for id_, numbers in _views(index):
        missing = sorted(set(range(numbers[0], numbers[0] + VIEWS)) - set(numbers))
        if missing:
            which = ", ".join(f"{number:03d}" for number in missing)
            found.add("E443", "warn", id_, f"{id_} has {len(numbers)} views; missing: {which}")
    for id_, first in _again(index):
        found.add("E463", "info", id_, f"{id_} has the same commands and values as {first}")


def _views(index: Index) -> Iterator[tuple[str, list[int]]]:
    """(id, view numbers, ascending) of ids whose views are fewer than eight, or not in a row."""
    sql = """SELECT id, place FROM items WHERE kind = ? AND code IS NULL AND (json_extract(facts, '$.views') < ?
             OR json_extract(facts, '$.numbers[#-1]') - json_extract(facts, '$.numbers[0]') >= json_extract(facts, '$.views'))
             ORDER BY id"""
    for id_, place in index.db.execute(sql, (Kind.VIEWS, VIEWS)):
        yield id_, sorted({int(end[1:].partition(".")[0]) for end in place.split("|")})


def _again(index: Index) -> Iterator[tuple[str, str]]:
    """(id, first id with the same target) of programs that say what another has said before."""
    sql = "SELECT json_extract(facts, '$.digest') FROM items WHERE kind = ? AND code IS NULL ORDER BY id"
    digests = np.fromiter((int(text, 16) for (text,) in index.db.execute(sql, (Kind.PROGRAM,)) if text), dtype=np.uint64)
    values, counts = np.unique(digests, return_counts=True)
    several = {int(value) for value in values[counts > 1]}
    if not several:
        return
    first: dict[int, str] = {}
    named = "SELECT id, json_extract(facts, '$.digest') FROM items WHERE kind = ? AND code IS NULL ORDER BY id"
    for id_, text in index.db.execute(named, (Kind.PROGRAM,)):
        digest = int(text, 16)
        if digest in several and first.setdefault(digest, id_) != id_:
            yield id_, first[digest]


def held_out_again(index: Index, train: Ids, held_out: Ids) -> tuple[int, str]:
    """(held-out programs whose very commands and values are trained on, the first of them); all digests are read."""
    sql = "SELECT id, json_extract(facts, '$.digest') FROM items WHERE kind = ? AND code IS NULL ORDER BY id"
    rows = [(id_.encode(), int(text, 16)) for id_, text in index.db.execute(sql, (Kind.PROGRAM,)) if text]
    names = np.array([name for name, _ in rows], dtype=np.bytes_)
    digests = np.array([digest for _, digest in rows], dtype=np.uint64)
    trained = digests[np.isin(names, train.names)]
    twice = names[np.isin(names, held_out.names) & np.isin(digests, trained)]
    return len(twice), bytes(twice[0]).decode() if len(twice) else ""


def sequences(index: Index, settings: Settings, stages: dict[int, StageReport], stage: int, found: Gathering) -> None:
    """Targets that do not fit (E602), captions that lose their end (E451), for the stage that was asked for."""
    report = stages[stage]
    if report.too_long:
        sql = """SELECT p.id, p.length FROM items p WHERE p.kind = ? AND p.code IS NULL AND p.length > ?
                 AND EXISTS(SELECT 1 FROM captions c WHERE c.id = p.id) ORDER BY p.id"""
        for id_, length in index.db.execute(sql, (Kind.PROGRAM, report.longest)):
            found.add(
                "E602", "warn", id_, f"{id_}: the target has {length:,} tokens; stage {stage} has room for {report.longest:,}"
            )
        others = ", ".join(f"stage {number}: {other.too_long:,}" for number, other in stages.items())
        found.title("E602", f"targets longer than train.max_seq_length leaves room for ({others})")
    _cut_captions(index, settings, stage, report.longest, found)


def _cut_captions(index: Index, settings: Settings, stage: int, longest: int, found: Gathering) -> None:
    """A token is a byte at least: only captions with more bytes than there is room are counted in tokens."""
    shares = settings.stages[stage].reached
    space = fit.caption_room(settings, shares, 0)
    sql = """SELECT c.id, p.length FROM captions c JOIN items p ON p.kind = ? AND p.id = c.id AND p.code IS NULL
             WHERE p.length <= ? AND length(CAST(c.texts AS BLOB)) > ? - p.length ORDER BY c.id"""
    count: Callable[[str], int] | None = None
    frame = 0
    exact = False
    for id_, target in index.db.execute(sql, (Kind.PROGRAM, longest, space)):
        room = fit.caption_room(settings, shares, target)
        texts = [text for text in index.captions(id_) if len(text.encode()) > room]
        if not texts:
            continue
        if count is None:
            count, exact = _counter(settings)
            frame = count(HEAD) + count(TAIL) if exact else fit.PROMPT_FRAME
        room += fit.PROMPT_FRAME - frame
        lengths = [length for text in texts if (length := count(clean_caption(text))) > room]
        if lengths:
            about = "" if exact else "about "
            message = f"{id_}: a caption of {about}{max(lengths):,} tokens loses its end: there is room for {room:,}"
            found.add("E451", "warn", id_, message)
    if count is not None and not exact:
        found.title("E451", "captions that will lose their end (estimated: the tokenizer is not on this machine)")


def _counter(settings: Settings) -> tuple[Callable[[str], int], bool]:
    """How many tokens a text has, and whether that is exact: the model's tokenizer is on this machine."""
    path = _tokenizer_file(settings.model.llm)
    if path is not None:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception:  # the library raises bare exceptions for files that it cannot read
            return lambda text: -(-len(text) // LETTERS), False
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), True
    return lambda text: -(-len(text) // LETTERS), False


def _tokenizer_file(llm: str) -> Path | None:
    """tokenizer.json of the model, if it is on this machine; nothing is downloaded."""
    from cadmllm.places import bundled

    if llm == "tiny":
        try:
            folder = bundled("checkpoints") / "tiny-base"
        except CadmllmError:
            return None
    else:
        folder = Path(llm)
    if (folder / "tokenizer.json").is_file():
        return folder / "tokenizer.json"
    if llm == "tiny" or os.path.isabs(llm) or llm.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(llm, "tokenizer.json")
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None
