"""What `examining` runs in its processes, but for one file that takes the process down; importable from them."""

from __future__ import annotations

import os

from cadmllm.corpus.facts import Facts


def look_at_all(kind, img, chunk):
    """An outcome a file; the one named 'bomb' ends the process."""
    if any(place == "bomb" for _, place, _ in chunk):
        os._exit(9)
    return [(id_, stamp, Facts({"points": 1})) for id_, _, stamp in chunk]
