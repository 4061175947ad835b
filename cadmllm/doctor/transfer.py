"""What the loader's processes send to training: how many bytes and tensors wait at once. Arithmetic only.

A loader process hands each tensor over as a piece of /dev/shm with an open file of its own (torch's 'file_descriptor' strategy)
and keeps both until it is taken. `train.prefetch` steps of each process wait in this way, each a whole accumulation window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cadmllm.plan.parts import UnknownShape, given_tokens

if TYPE_CHECKING:
    from cadmllm.settings import Settings

PAGE = 4096  # bytes: the least that a tensor takes in shared memory
TEXT = 128  # tokens of caption, frame and target, about (the median target has 35)
PIXELS = 3 * 224 * 224 * 4  # bytes of a view
POINT = 6 * 4  # bytes of a point with its normal
PATCHES = 256  # of a view, where its encoder is not known here
FEATURE = 1024 * 2  # bytes of a cached feature: DINOv2-large's in 16 bit, more than Michelangelo's


@dataclass(frozen=True, slots=True)
class Window:
    """One optimizer step's data as it crosses from a loader process.

    Attributes:
        bytes: with the shares of the stage.
        most: bytes if every sample showed everything.
        tensors: of its micro-batches.
    """

    bytes: int
    most: int
    tensors: int


def window_of(settings: Settings, stage: int) -> Window:
    """The data of a step of a stage, about."""
    train, model = settings.train, settings.model
    shown = settings.stages[stage].reached
    shares = {kind: min(1.0, sum(share for name, share in shown.items() if kind in name)) for kind in ("point_cloud", "image")}
    cloud, view = model.point_count * POINT, model.image_views * PIXELS
    features = settings.data.features
    stored_clouds = features is not None and (features / "points").is_dir()
    stored_views = features is not None and (features / "images").is_dir()
    if stored_clouds:
        cloud = given_tokens(settings, "points") * FEATURE
    if stored_views:
        view = model.image_views * _kept_of_a_view(settings) * FEATURE
    places = {"point_cloud": model.point_tokens, "image": model.view_tokens}
    tokens = TEXT + sum(share * places[kind] for kind, share in shares.items())
    samples = train.batch_size * train.accumulation
    batches = _batches(settings, samples, tokens)
    each = 3 + 1  # ids, mask, positions, labels
    each += (1 if stored_clouds else 2) * (shares["point_cloud"] > 0) + (shares["image"] > 0)
    text = samples * min(tokens, train.max_seq_length) * 8 * 4
    least = each * batches * PAGE
    mean = text + samples * (shares["point_cloud"] * cloud + shares["image"] * view)
    most = text + samples * ((shares["point_cloud"] > 0) * cloud + (shares["image"] > 0) * view)
    return Window(int(mean + least), int(most + least), each * batches)


def _kept_of_a_view(settings: Settings) -> int:
    try:
        return given_tokens(settings, "images")
    except UnknownShape:
        return PATCHES


def waiting(settings: Settings, window: Window) -> tuple[int, int]:
    """Bytes that wait in /dev/shm, with the stage's shares and at most: what is prepared ahead, and the step being computed."""
    steps = settings.train.workers * settings.train.prefetch + 1 if settings.train.workers else 0
    return steps * window.bytes, steps * window.most


def open_files(settings: Settings, window: Window) -> int:
    """Files that the busiest process keeps open for tensors: a loader process those of its prepared steps, training those of one
    step of every loader process. Measured with 2 x 4 steps of 56 tensors: 237 in a loader process, 13 of them its own.
    """
    if not settings.train.workers:
        return 0
    return max(settings.train.prefetch, settings.train.workers + 1) * window.tensors


def _batches(settings: Settings, samples: int, tokens: float) -> int:
    """Micro-batches of a step: packed rows are filled with several samples."""
    train = settings.train
    if not train.packing:
        return train.accumulation
    room = train.pack_tokens or train.batch_size * train.max_seq_length
    return max(1, min(samples, int(samples * tokens / room) + 1))
