"""The output folders of a preparation: what stands there already, and whose it is."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cadmllm.corpus.derive import Product, targets
from cadmllm.corpus.folders import IMAGE_FORMATS, POINT_FOLDERS, POINT_FORMATS
from cadmllm.corpus.manifest import Line, make_folder, unwritable
from cadmllm.errors import CadmllmError

FOLDERS: dict[Product, tuple[str, ...]] = {"points": POINT_FOLDERS, "step": ("step",), "views": ("img",)}
FORMATS: dict[Product, tuple[str, ...]] = {"points": POINT_FORMATS, "step": (".step", ".stp")}
KEPT = 8  # folders whose listing is remembered: ids come shard by shard
_VIEW = re.compile(rf"(.+)_\d{{1,3}}\.(?:{'|'.join(IMAGE_FORMATS)})$", re.IGNORECASE | re.DOTALL)


class Shelves:
    """The folders below `out`. A shard is listed once, before anything of this run is written to it.

    Args:
        out: the output folder.
        own: whether all files in it are ours, also those that no manifest knows.
    """

    def __init__(self, out: Path, own: bool = False) -> None:
        self.out, self.own = out, own
        self._root = out.resolve()
        self._listed: dict[tuple[str, Product], set[str]] = {}
        self._ready: set[Path] = set()

    def has(self, id_: str, product: Product) -> bool:
        """Whether someone else has a file of this product for the id: in another format or under the other folder name, too."""
        if self.own:
            return False
        shard, _, name = id_.rpartition("/")
        return name in self._names(shard, product)

    def whole(self, id_: str, product: Product) -> bool:
        """Whether all files of the product are there."""
        return all((self.out / name).is_file() for name in targets(id_, product))

    def intact(self, id_: str, product: Product, entry: Line) -> bool:
        """Whether all files that a manifest's entry names are there with the size it says."""
        files = entry.get("files")
        names = targets(id_, product)
        if not isinstance(files, list) or len(files) != len(names):
            return False
        try:
            return all(os.lstat(self.out / name).st_size == made[0] for name, made in zip(names, files, strict=True))
        except (OSError, TypeError, IndexError, KeyError):
            return False

    def make_room(self, id_: str, product: Product) -> None:
        """Make the folder that the files go to.

        Raises:
            CadmllmError: E303 when it cannot be made, E419 when a link leads out of the output folder.
        """
        folder = (self.out / targets(id_, product)[0]).parent
        if folder in self._ready:
            return
        existing = folder
        while not existing.exists() and not existing.is_symlink():
            existing = existing.parent
        if not existing.resolve().is_relative_to(self._root):
            raise CadmllmError("E419", f"{existing} is a link that leaves {self.out}", "give another folder: --out DIR")
        make_folder(folder)
        if len(self._ready) > 64:
            self._ready.clear()
        self._ready.add(folder)

    def _names(self, shard: str, product: Product) -> set[str]:
        if (shard, product) not in self._listed:
            while len(self._listed) >= KEPT:
                del self._listed[next(iter(self._listed))]
            found: set[str] = set()
            for folder in FOLDERS[product]:
                found |= self._stems(self.out / folder / shard, product)
            self._listed[shard, product] = found
        return self._listed[shard, product]

    def _stems(self, folder: Path, product: Product) -> set[str]:
        """Names of the parts that have a file in the folder."""
        try:
            if not folder.resolve().is_relative_to(self._root):
                return set()
            names = os.listdir(folder)
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise unwritable(folder, error) from error
        if product == "views":
            return {match[1] for match in map(_VIEW.match, names) if match}
        pairs = (os.path.splitext(name) for name in names)
        return {stem for stem, suffix in pairs if suffix.lower() in FORMATS[product]}
