"""Which ids train, which are held out, which are for evaluation: lists that the user or the data set brings, or a share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cadmllm.corpus.captionfiles import Note, read_ids
from cadmllm.corpus.roster import Ids, Roster
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.settings import DataSettings

TRAIN_LIST, VAL_LIST, TEST_LIST = "train.txt", "val.txt", "test.txt"  # ids that a data set brings along


def sides(data: DataSettings, roster: Roster) -> tuple[tuple[Ids, Ids, Ids], list[Note]]:
    """(training, held-out, evaluation) ids, each sorted, without overlap, and what deserves to be said.

    An id on several lists belongs to test before val before train. Without a list to hold out, `data.val_share` of the ids is
    held out by a hash of the id, so an id never changes sides when the data set grows.

    Raises:
        CadmllmError: E407 when a list is unreadable or none of its ids is in the data set.
    """
    reader = _Lists(data, roster.ids)
    names = roster.ids.names
    usable = ~reader.mask(data.exclude, known=False) if data.exclude else np.ones(len(names), dtype=bool)
    listed = reader.side(data.train, TRAIN_LIST)
    train = usable if listed is None else listed & usable
    test = reader.side(data.test, TEST_LIST)
    if test is None:
        test = np.zeros(len(names), dtype=bool)
    val = reader.side(data.val, VAL_LIST)
    if val is None:
        val = train & ~test & (roster.fractions < data.val_share)
    both = int((val & test).sum()) + (int((listed & (val | test)).sum()) if listed is not None and data.val else 0)
    if both:
        message = f"{both} ids are on several lists: they are held out, not trained on"
        reader.notes.append(("E407", str(data.train or data.root), message))
    chosen = (train & ~val & ~test, val & ~test & usable, test & usable)
    return (Ids(names[chosen[0]]), Ids(names[chosen[1]]), Ids(names[chosen[2]])), reader.notes


class _Lists:
    """Reads lists of ids and keeps what is to be said of them."""

    def __init__(self, data: DataSettings, ids: Ids) -> None:
        self.data, self.ids = data, ids
        self.notes: list[Note] = []

    def side(self, given: Path | None, name: str) -> np.ndarray | None:
        """bool [N], the ids of the list that was given, or of the one beside the captions; None without one."""
        if given is not None:
            return self.mask(given)
        path = self.data.root / name
        if self.data.txt is not None or not os.path.lexists(path):  # captions from elsewhere: the root's lists are not theirs
            return None
        if not path.resolve().is_relative_to(self.data.root.resolve()):
            self.notes.append(("E419", str(path), f"{path} leads out of the data set and is not read"))
            return None
        return self.mask(path)

    def mask(self, path: Path, *, known: bool = True) -> np.ndarray:
        """bool [N], the ids that a list names; `known`: that some of them are here matters."""
        wanted = read_ids(path)
        self.notes += wanted.notes
        mask = self.ids.mask(wanted.ids)
        found = int(mask.sum())
        if known and not found:
            raise CadmllmError(
                "E407",
                f"{path}: none of its {len(wanted.ids)} ids has a caption and a program in {self.data.root}",
                "give a list of ids such as '0000/00000071_00005', an id a line, or a caption file",
            )
        if known and found < len(wanted.ids):
            missing = min(id_ for id_ in wanted.ids if id_ not in self.ids)
            message = (
                f"{path}: {len(wanted.ids) - found} of {len(wanted.ids)} ids are not in the data set, the first is {missing}"
            )
            self.notes.append(("E407", str(path), message))
        return mask
