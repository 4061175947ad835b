"""Cached encoder features as training reads them: by id and draw or view, from any process, without torch.

Rows are read with `pread` rather than mapped: a shard that is cut short while a run goes on is then an error with a name (a
mapped one ends the process with SIGBUS), memory does not grow with what was touched, and forked loader processes can share
the open files. Every row is checked against its CRC-32 (0.2 ms for 400 KB).
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cadmllm.corpus.shards import DTYPES, FLAGS, INDEX, PARTS, broken_file, read_index, shard_paths
from cadmllm.errors import CadmllmError

OPEN_FILES = 64  # shards that are kept open
SAMPLED_ROWS = 64  # rows that `Part.check_files` reads


def stamp_of(paths: Sequence[Path]) -> str:
    """32 hexadecimal digits that change when a source file is replaced or written: names, sizes and times, no content."""
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        stat = os.stat(path)
        found.update(f"{os.path.basename(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def digest_of(paths: Sequence[Path]) -> str:
    """32 hexadecimal digits of what source files hold, whatever their times."""
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        with open(path, "rb") as file:
            inner = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        found.update(f"{os.path.basename(path)}\0{inner.hexdigest()}\0".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


class Part:
    """The features of one encoder.

    Args:
        folder: DIR/points or DIR/images.

    Attributes:
        recipe: what they were made by.
        ids: their number.

    Raises:
        CadmllmError: E471 when there is no index, or a broken one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            found = len(shard_paths(self.folder))
            raise broken_file(
                self.folder / INDEX, f"there is none: the {found} shards beside it are those of an encoding that was not finished"
            )
        self.recipe, self._shards, columns = read_index(self.folder / INDEX)
        names = np.ascontiguousarray(columns["ids"])
        self._names = names.view(f"S{names.shape[1]}").ravel()
        self._columns = columns
        self._base = np.cumsum([0, *(rows for _, _, rows, _ in self._shards)])
        self._files: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": OrderedDict()}  # another process opens its own

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """The place of each id, -1 where it has no features, int64 [len(ids)]."""
        return self.places(np.array([id_.encode() for id_ in ids], dtype="S") if ids else np.zeros(0, dtype="S1"))

    def places(self, names: np.ndarray) -> np.ndarray:
        """`find` for ids as `roster.Ids.names` has them, bytes [N]."""
        if not len(self._names):
            return np.full(len(names), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self._names, names), len(self._names) - 1)
        return np.where(self._names[places] == names, places, -1)

    def stamp(self, place: int) -> str:
        """`stamp_of` the id's source files when it was encoded."""
        return self._columns["stamp"][place].tobytes().hex()

    def digest(self, place: int) -> str:
        """`digest_of` the id's source files when it was encoded."""
        return self._columns["digest"][place].tobytes().hex()

    def read(self, id_: str, k: int) -> np.ndarray | None:
        """Row `k` of an id, [tokens, width] in the numpy type of `recipe.dtype`; None where its source could not be read.

        Raises:
            CadmllmError: E471 when the id or the row is not there, or its bytes are not those that were written.
        """
        place = int(self.find([id_])[0])
        if place < 0 or not 0 <= k < int(self._columns["count"][place]):
            raise CadmllmError(
                "E471",
                f"{self.folder} has no features of {id_}, number {k}",
                f"encode what is missing: {self.command()}",
            )
        shard, row = int(self._columns["shard"][place]), int(self._columns["row"][place]) + k
        values = self._row(shard, row)
        return None if _is_nan(values) else values

    def _row(self, shard: int, row: int) -> np.ndarray:
        name, _, _, offset = self._shards[shard]
        size = self.recipe.row_bytes
        try:
            content = os.pread(self._open(shard), size, offset + row * size)
        except OSError as error:
            raise broken_file(self.folder / name, error.strerror or str(error)) from error
        if len(content) != size or zlib.crc32(content) != int(self._columns["crc"][self._base[shard] + row]):
            raise broken_file(self.folder / name, f"row {row} is not what was written (its checksum differs)")
        return np.frombuffer(content, dtype=DTYPES[self.recipe.dtype][1]).reshape(self.recipe.tokens, self.recipe.width)

    def _open(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        if len(self._files) >= OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        self._files[shard] = os.open(self.folder / self._shards[shard][0], os.O_RDONLY | os.O_CLOEXEC)
        return self._files[shard]

    def close(self) -> None:
        """Let go of the shards."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if "_files" in self.__dict__:  # an index that could not be read has none
            self.close()

    def check_files(self) -> None:
        """Every shard is there in its size, and `SAMPLED_ROWS` rows, evenly spread, hold what was written.

        Raises:
            CadmllmError: E471 naming the first shard that is missing, cut short or changed.
        """
        for name, size, _, _ in self._shards:
            try:
                found = os.stat(self.folder / name).st_size
            except OSError as error:
                raise broken_file(self.folder / name, error.strerror or str(error)) from error
            if found != size:
                raise broken_file(self.folder / name, f"it has {found} bytes, and {size} were written")
        rows = int(self._base[-1])
        for row in np.unique(np.linspace(0, max(0, rows - 1), min(rows, SAMPLED_ROWS), dtype=np.int64)):
            shard = int(np.searchsorted(self._base, row, side="right")) - 1
            self._row(shard, int(row - self._base[shard]))

    def command(self, root: str = "ROOT", draws: int = 0) -> str:
        """What renews this part, with at least so many draws of points."""
        drawn = f" --draws {max(draws, self.recipe.draws)}" if self.recipe.draws else ""
        return (
            f"cadmllm data encode {root} --out {self.folder.parent} {FLAGS[self.folder.name]}{drawn} --dtype {self.recipe.dtype}"
        )


class FeatureStore:
    """The features in a folder that `data encode` wrote.

    Args:
        folder: the setting data.features.

    Attributes:
        folder: the folder.
        parts: 'points', 'images': those that were encoded.

    Raises:
        CadmllmError: E471 when it holds no features, or a part is unfinished or broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.parts = {name: Part(self.folder / name) for name in PARTS if (self.folder / name).is_dir()}
        if not self.parts:
            what = "holds no cached features" if self.folder.is_dir() else "is no folder"
            raise CadmllmError(
                "E471",
                f"data.features={folder} {what}",
                f"make them: cadmllm data encode ROOT --out {folder}, or leave data.features unset",
            )

    @property
    def draws(self) -> int:
        """Fixed draws of points that an id has; 0 when the store has no clouds."""
        return self.parts["points"].recipe.draws if "points" in self.parts else 0

    def cloud(self, id_: str, draw: int) -> np.ndarray:
        """Features of a draw of points, [tokens, width].

        Raises:
            CadmllmError: E404 when the cloud was unreadable when it was encoded; E471.
        """
        return self._read("points", id_, draw, "E404", "point file")

    def view(self, id_: str, k: int) -> np.ndarray:
        """Features of the k-th view, [tokens, width].

        Raises:
            CadmllmError: E405 when it was unreadable when it was encoded; E471.
        """
        return self._read("images", id_, k, "E405", f"view {k}")

    def _read(self, part: str, id_: str, k: int, code: str, what: str) -> np.ndarray:
        found = self.parts[part].read(id_, k)
        if found is None:
            message = f"{id_}: its {what} could not be read when it was encoded"
            raise CadmllmError(code, message, "look at it: cadmllm data check ROOT")
        return found


def _is_nan(row: np.ndarray) -> bool:
    """Whether a row is one of those that stand for an unreadable source."""
    first = row.flat[0]
    return bool((int(first) & 0x7FFF) > 0x7F80 if row.dtype == np.uint16 else np.isnan(first))
