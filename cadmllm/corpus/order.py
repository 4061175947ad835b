"""The order of samples and every draw made for one: pure functions of (seed, stage, epoch, position).

Nothing here has a state, so a resumed run computes the same numbers as one that was never stopped, at any step, at once.
"""

from __future__ import annotations

import hashlib

import numpy as np

# one stream per purpose, so that a new draw never shifts another
ORDER, DRAW, CAPTION, CLOUD, VIEWS, BARE, FIXED, DROP = range(8)


def stream(*key: int) -> np.random.Philox:
    """A counter-based bit generator of its own for `key` (integers >= 0).

    Only raw bits are taken from it where the result must never change: numpy keeps those stable between releases.
    """
    return np.random.Philox(np.random.SeedSequence(list(key)))


def uniform(*key: int) -> float:
    """One number in [0, 1) for `key`, the same on every machine and numpy release."""
    return int(stream(*key).random_raw()) / 2.0**64


def whole(*key: int) -> int:
    """One 63-bit integer for `key`: a seed for something else."""
    return int(stream(*key).random_raw()) >> 1


def epoch_order(ids_count: int, seed: int, stage: int, epoch: int) -> np.ndarray:
    """The order of an epoch.

    Args:
        ids_count: number of samples.
        seed, stage, epoch: integers >= 0.

    Returns:
        A permutation of 0..ids_count-1, int64 [ids_count].
    """
    return np.argsort(stream(ORDER, seed, stage, epoch).random_raw(ids_count), kind="stable")


def fraction(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone: what splits a data set by id, however it grows."""
    return (
        int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest(),
            "big",
        )
        / 2.0**56
    )
