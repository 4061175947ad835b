"""Runs the frozen encoders once over a data set and keeps their features; stopped at any moment, it goes on where it was.

The shards are the truth: each says in its header which ids it holds and what their files were like. The index is made of them
at the end. What is to be done is cut into shards in the order of the ids, and a shard stands whole or not at all, so what an
interrupted run left is a beginning of what an undisturbed one writes, to the byte.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.corpus.features import digest_of, stamp_of
from cadmllm.corpus.shards import (
    FLAGS,
    INDEX,
    PARTS,
    Entry,
    Recipe,
    Shard,
    damaged_rows,
    latest_entries,
    read_index,
    read_shard,
    shard_paths,
    write_index,
)
from cadmllm.corpus.sources import Source, Sources, inputs_of, sources_of
from cadmllm.errors import CadmllmError
from cadmllm.models.features import FrozenEncoder
from cadmllm.models.frozen import encoder_name, feature_tokens, files_hash, refuse_trained, why_trained
from cadmllm.train.cached import differences
from cadmllm.train.shardwriter import ShardWriter

if TYPE_CHECKING:
    from cadmllm.console import Console, Progress
    from cadmllm.corpus.layout import DataSet
    from cadmllm.settings import Settings

OVERHEAD = 1.02  # headers, checksums and the index, over the features themselves
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Options:
    """How to encode.

    Attributes:
        parts: 'points', 'images'; None: every frozen encoder's.
        draws: fixed draws of points an id.
        dtype: of what is stored, a key of `shards.DTYPES`.
        workers: processes that read clouds and views; 0: this one.
        batch_size: clouds or views that the encoder sees at once.
        verify: read every stored feature back first; what is damaged is encoded again.
        overwrite: throw away features made by another recipe.
    """

    parts: tuple[str, ...] | None = None
    draws: int = 1
    dtype: str = "bfloat16"
    workers: int = 0
    batch_size: int = 16
    verify: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class PartReport:
    """What became of a part.

    Attributes:
        encoded, kept, touched: ids that were encoded now, that had their features, of those the ones whose files were touched.
        unreadable, problems: rows without features, and what is wrong with the first of them.
        rows, shards, bytes: of the store.
        seconds: of all; rate: rows encoded a second, 0 when there was nothing to encode.
    """

    part: str
    encoded: int
    kept: int
    touched: int
    unreadable: int
    rows: int
    shards: int
    bytes: int
    seconds: float
    rate: float
    problems: tuple[str, ...] = ()


def encode(settings: Settings, dataset: DataSet, out: Path, options: Options, console: Console) -> list[PartReport]:
    """Bring the features in `out` up to date with the data set and the encoders of the settings.

    Raises:
        CadmllmError: E472 (an encoder is trained), E502 (it cannot be loaded, or gives NaN), E406 (no cloud or view), E409 (the
            folder holds something else, or is being written), E470 (it holds features of another recipe), E821 (disk), E303.
    """
    parts = options.parts or tuple(part for part in PARTS if not why_trained(settings, part))
    for part in parts or PARTS[:1]:
        refuse_trained(settings, part)
    listed = {part: list(sources_of(dataset, part, dataset.ids)) for part in parts}
    absent = [part for part in parts if not listed[part]]
    if absent and (options.parts or len(absent) == len(parts)):
        what = " or ".join({"points": "point file", "images": "view"}[part] for part in absent)
        remedy = f"make them: cadmllm data prepare {dataset.data.root} {' '.join(FLAGS[part] for part in absent)}"
        raise CadmllmError("E406", f"no id of {dataset.data.root} has a {what}: there is nothing to encode", remedy)
    for part in absent:
        console.note(f"no id has {'a point file' if part == 'points' else 'views'}: {part} are left out")
    _check_out(out)
    with _locked(out):
        planned = [PartEncoding(settings, out / part, options, console, listed[part]) for part in parts if part not in absent]
        _check_disk(out, planned, console)
        return [encoding.run() for encoding in planned]


class PartEncoding:
    """One part of `encode`: what there is to do is found out when it is made, and done by `run`.

    Attributes:
        todo: what has no features of its files as they are.
        needed: bytes that this will take, less those that are thrown away before.
    """

    def __init__(self, settings: Settings, folder: Path, options: Options, console: Console, listed: Sequence[Source]) -> None:
        self.settings, self.folder, self.options, self.console, self.listed = settings, folder, options, console, listed
        self.part = folder.name
        self._encoder: FrozenEncoder | None = None
        self.rate = 0.0
        self.begun = time.perf_counter()
        folder.mkdir(exist_ok=True)
        shards = self._good_shards()
        self.recipe = self._recipe(shards)
        self._foreign = self._refuse_foreign(shards)
        self._shards = [shard for shard in shards if shard.recipe == self.recipe]
        self.todo, self._stamps, self._touched = self._missing()
        rows = sum(map(self._sources(self.todo).rows, self.todo))
        self.needed = int(rows * self.recipe.row_bytes * OVERHEAD) - sum(shard.bytes for shard in self._foreign)

    def run(self) -> PartReport:
        """Encode what is missing and write the index."""
        if self._foreign:
            self.console.note(f"{self.folder}: {len(self._foreign)} shards made otherwise are thrown away")
            (self.folder / INDEX).unlink(missing_ok=True)
            for shard in self._foreign:
                shard.path.unlink()
        kept, dead = _divided([*self._shards, *self._encode()])
        if self._touched or not self._indexed(kept):
            write_index(self.folder, self.recipe, kept, self._stamps)
        for shard in dead:
            shard.path.unlink()
        self._encoder = None  # the next part's needs the memory
        return self._report(kept, time.perf_counter() - self.begun)

    def _sources(self, listed: Sequence[Source]) -> Sources:
        return Sources(self.part, listed, self.settings.model.point_count, self.options.draws, self.settings.model.point_sampling)

    # what is there

    def _good_shards(self) -> list[Shard]:
        """The shards that are whole; what a kill or a full disk left behind is removed, broken ones are said."""
        for leftover in self.folder.glob(".*.safetensors"):
            leftover.unlink()
        good = []
        paths = shard_paths(self.folder)
        for path in paths:
            try:
                shard = read_shard(path)
                if self.options.verify and (damaged := damaged_rows(shard)):
                    raise CadmllmError("E471", f"{path}: {damaged} of {shard.rows} rows are not what was written", "")
            except CadmllmError as error:
                self.console.warn(f"{error.code} {error.message}; its ids are encoded again")
                path.unlink()
                (self.folder / INDEX).unlink(missing_ok=True)
            else:
                good.append(shard)
        return good

    def _recipe(self, shards: Sequence[Shard]) -> Recipe:
        """What the settings ask for; the encoder is loaded only where its files do not tell that it is the one that was used."""
        kind, source = encoder_name(self.settings, self.part)
        files = files_hash(self.settings, self.part)
        model = self.settings.model
        inputs = inputs_of(self.part, model.point_count, self.options.draws, model.point_sampling)
        found = shards[-1].recipe if shards else None
        same = found is not None and files and found.files == files and found.compute == self.settings.dtype
        weights, width = (found.weights, found.width) if same and found else (self.encoder.weights, self.encoder.width)
        tokens = feature_tokens(self.settings, self.part, found.tokens if same and found else 0) or self.encoder.tokens
        return Recipe(kind, weights, tokens, width, self.settings.dtype, self.options.dtype, inputs, files, source)

    @property
    def encoder(self) -> FrozenEncoder:
        """Loaded when it is first needed."""
        if self._encoder is None:
            self._encoder = FrozenEncoder(self.settings, self.part)
        return self._encoder

    def _refuse_foreign(self, shards: Sequence[Shard]) -> list[Shard]:
        """The shards of another recipe, if they may be thrown away."""
        foreign = [shard for shard in shards if shard.recipe != self.recipe]
        if foreign and not self.options.overwrite:
            said = "; ".join(differences(foreign[0].recipe, self.recipe))
            raise CadmllmError(
                "E470",
                f"{self.folder} holds features made otherwise: {said}",
                "make them anew: add --overwrite to the command; or keep them and name another folder: --out DIR",
            )
        return foreign

    def _missing(self) -> tuple[list[Source], dict[str, str], int]:
        """What has no features of its files as they are; newer stamps of unchanged files, and how many of them are new."""
        latest = {id_: entry for id_, (_, entry) in latest_entries(self._shards).items()}
        known = {id_: entry.stamp for id_, entry in latest.items()} | self._touched_before(latest)
        rows = self._sources(self.listed).rows
        todo, doubtful = [], []
        for source in self.listed:
            entry = latest.get(source.id)
            if entry is None or entry.count != rows(source):
                todo.append(source)
            elif known[source.id] != _stamp(source):
                doubtful.append(source)
        with self.console.progress(len(doubtful), f"{self.part}: comparing touched files") as bar:
            same = {source.id: _stamp(source) for source in doubtful if _same(source, latest[source.id], bar)}
        changed = {source.id for source in doubtful} - same.keys()
        wanted = changed | {source.id for source in todo}
        todo = [source for source in self.listed if source.id in wanted]
        carried = {id_: stamp for id_, stamp in known.items() if stamp != latest[id_].stamp and id_ not in changed}
        return todo, carried | same, len(same)

    def _touched_before(self, latest: dict[str, Entry]) -> dict[str, str]:
        """Newer stamps that the index has of entries that still count."""
        try:
            _, _, columns = read_index(self.folder / INDEX)
        except CadmllmError:
            return {}  # none yet, or a broken one: files that were touched are compared again
        found = {}
        for name, stamp, digest in zip(columns["ids"], columns["stamp"], columns["digest"], strict=True):
            id_ = name.tobytes().rstrip(b"\0").decode()
            if id_ in latest and latest[id_].digest == digest.tobytes().hex():
                found[id_] = stamp.tobytes().hex()
        return found

    def _indexed(self, shards: Sequence[Shard]) -> bool:
        """Whether the index is one of exactly these shards."""
        try:
            recipe, kept, _ = read_index(self.folder / INDEX)
        except CadmllmError:
            return False
        return recipe == self.recipe and kept == [(shard.path.name, shard.bytes, shard.rows, shard.offset) for shard in shards]

    # what is made

    def _encode(self) -> list[Shard]:
        if not self.todo:
            return []
        writer = ShardWriter(self.encoder, self.recipe, self.options.batch_size)
        number = 1 + max((shard.number for shard in self._shards), default=-1)
        made = writer.write(self.folder, number, self._sources(self.todo), self.options.workers, self.console)
        self.rate = writer.rate
        return made

    def _report(self, shards: Sequence[Shard], seconds: float) -> PartReport:
        latest = latest_entries(shards)
        broken = [item for place, shard in enumerate(shards) for item in shard.broken if latest[item.id][0] == place]
        return PartReport(
            self.part,
            len(self.todo),
            len(self.listed) - len(self.todo),
            self._touched,
            len(broken),
            sum(shard.rows for shard in shards),
            len(shards),
            sum(shard.bytes for shard in shards) + (self.folder / INDEX).stat().st_size,
            seconds,
            self.rate,
            tuple(f"{item.code} {item.message}" for item in broken[:3]),
        )


def _divided(shards: Sequence[Shard]) -> tuple[list[Shard], list[Shard]]:
    """(those with an entry that counts, those without one)."""
    alive = {place for place, _ in latest_entries(shards).values()}
    kept = [shard for place, shard in enumerate(shards) if place in alive]
    return kept, [shard for place, shard in enumerate(shards) if place not in alive]


def _stamp(source: Source) -> str:
    try:
        return stamp_of(source.paths)
    except OSError:
        return ""  # gone since it was listed: it is met again, and told of, when it is read


def _same(source: Source, entry: Entry, bar: Progress) -> bool:
    """Whether files that were touched hold what they held."""
    bar.advance()
    try:
        return digest_of(source.paths) == entry.digest
    except OSError:
        return False


def _check_out(out: Path) -> None:
    """Write only into a folder that is ours, empty or new."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        found = sorted(path.name for path in out.iterdir() if path.name not in (*PARTS, LOCK))
    except OSError as error:
        raise CadmllmError(
            "E303", f"cannot write {out}: {error.strerror}", "give a folder that can be written: --out DIR"
        ) from error
    links = [name for name in PARTS if (out / name).is_symlink()]
    if found or links:
        raise CadmllmError(
            "E409", f"{out} holds {(found or links)[0]!r}, which is no cache of features", "give another folder: --out DIR"
        )


def _check_disk(out: Path, planned: Sequence[PartEncoding], console: Console) -> None:
    """Say what will be encoded, and refuse what cannot fit."""
    free = shutil.disk_usage(out).free
    for encoding in planned:
        if encoding.todo:
            console.note(f"{encoding.part}: {len(encoding.todo):,} ids to encode, {encoding.needed / 2**30:.2f} GiB more")
    needed = sum(encoding.needed for encoding in planned)
    if needed > free:
        raise CadmllmError(
            "E821",
            f"the features need {needed / 2**30:.1f} GiB more, and {out} has {free / 2**30:.1f} GiB free",
            "name a folder on a larger disk: --out DIR; or keep fewer numbers: --draws 1, --points alone, --dtype bfloat16,"
            " --set model.image_bridge=mlp with fewer model.image_tokens (a perceiver reads all patches)",
        )


@contextmanager
def _locked(out: Path) -> Generator[None]:
    """One `data encode` at a time; the system frees the lock of a process that was killed."""
    with (out / LOCK).open("w") as file:
        try:
            # not flock, which the loader processes of a killed run would go on holding
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = f"another `cadmllm data encode` is writing {out}"
            raise CadmllmError("E409", message, "wait for it, or give another folder: --out DIR") from error
        yield
