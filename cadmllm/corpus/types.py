"""What a sample and a batch are: the one corpus module that `models` may import. Nothing heavy at the top.

Token ids: the language model's tokenizer owns `0 .. text_size - 1`; item k of `ADDED` has id `text_size + k`. The first
`CAD_SIZE` added items are the CAD vocabulary (the head's rows, in this order); the rest are placeholders, input only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cadmllm.cad.frame import Transform
from cadmllm.cad.vocabulary import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

POINTS = "<|cad_points|>"  # one per projected point feature
IMAGE = "<|cad_image|>"  # one per projected image feature
PLACEHOLDERS = (POINTS, IMAGE)
CAD_SIZE = len(VOCABULARY)
ADDED: tuple[str, ...] = (*VOCABULARY, *PLACEHOLDERS)
IGNORE = -100  # label of a position that is not supervised


@dataclass(frozen=True, slots=True)
class Cloud:
    """Surface points [N, 3] float32 in the normalised frame, unit normals [N, 3] float32, and how they got there."""

    points: np.ndarray
    normals: np.ndarray
    transform: Transform


@dataclass(frozen=True, slots=True)
class Sample:
    """One training or inference sample, before tokenisation of the prompt.

    Attributes:
        id: '0000/00000071_00005'.
        combination: one of `settings.COMBINATIONS`; what of the sample is shown.
        caption: the text.
        target: CAD vocabulary indices [T] (end token included), 0 <= t < CAD_SIZE; None at inference.
        clouds: at most a few; empty where the combination has no point cloud.
        images: RGB uint8 [H, W, 3] each; empty where the combination has no image.
        cloud_features, image_features: in place of the above where an encoder's features are read from a store:
            [tokens, width] each, float32, float16, or uint16 that holds the bits of bfloat16.
    """

    id: str
    combination: str
    caption: str
    target: np.ndarray | None
    clouds: tuple[Cloud, ...] = ()
    images: tuple[np.ndarray, ...] = ()
    cloud_features: tuple[np.ndarray, ...] = ()
    image_features: tuple[np.ndarray, ...] = ()

    @property
    def cloud_count(self) -> int:
        """Clouds that are shown, as points or as features."""
        return len(self.clouds) + len(self.cloud_features)

    @property
    def image_count(self) -> int:
        """Images that are shown, as pixels or as features."""
        return len(self.images) + len(self.image_features)


@dataclass(slots=True)
class Batch:
    """Collated samples: a row each, right-padded (left-padded prompts for generation), or all in one row (packed).

    Attributes:
        input_ids: [B, T] int64; ids >= text_size are added items. Packed: [1, T].
        attention_mask: [B, T] int64, 1 where there is a token.
        position_ids: [B, T] int64, from 0 in each sample.
        labels: [B, T] int64; a CAD index (0..CAD_SIZE-1) to be predicted *at* this position's predecessor, else IGNORE.
            labels[b, t] is the item standing at t: the logits of position t - 1 answer for it.
        points, normals: [C, N, 3] float32, clouds of the batch in order of their placeholders; None without a cloud.
        pixels: [I, 3, 224, 224] float32 normalised (ImageNet), images in order of their placeholders; None without.
        cloud_features, image_features: [C, tokens, width] and [I, tokens, width] of a frozen encoder, in place of the above.
        ids, combinations: of the samples.
        documents: tokens of each sample of a packed row, in their order; empty in a padded batch.
        cloud_counts, image_counts: clouds and images of each sample.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor | None
    points: torch.Tensor | None = None
    normals: torch.Tensor | None = None
    pixels: torch.Tensor | None = None
    cloud_features: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    ids: list[str] = field(default_factory=list)
    combinations: list[str] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    cloud_counts: list[int] = field(default_factory=list)
    image_counts: list[int] = field(default_factory=list)

    def to(self, device: torch.device | str) -> Batch:
        """The batch with every tensor on `device`."""
        return self.mapped(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from which a GPU copies while it computes."""
        return self.mapped(lambda value: value.pin_memory())

    def mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The batch with `change` made to every tensor."""
        moved = {name: getattr(self, name) for name in self.__slots__}
        changed: dict[str, Any] = {
            name: value if value is None or isinstance(value, list) else change(value) for name, value in moved.items()
        }
        return Batch(**changed)

    @property
    def supervised(self) -> int:
        """Number of supervised positions."""
        return 0 if self.labels is None else int((self.labels != IGNORE).sum())

    @property
    def tokens(self) -> int:
        """Tokens, without padding."""
        return int(self.attention_mask.sum())

    @property
    def computed(self) -> int:
        """Positions that are computed, padding included."""
        return self.input_ids.numel()
