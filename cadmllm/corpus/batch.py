"""Samples to tensors: prompts tokenised, placeholders and targets inserted, labelled, then padded or packed into one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cadmllm.corpus.pixels import to_pixels
from cadmllm.corpus.prompt import Tokenizer, encode_prompt, features_of
from cadmllm.corpus.types import IGNORE, Batch, Sample
from cadmllm.errors import CadmllmError


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample with its tokens: ids [T] and labels [T] (IGNORE on the prompt)."""

    sample: Sample
    ids: list[int]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.ids)


class Collator:
    """Makes a `Batch` of samples; what it makes depends on nothing but them.

    Args:
        tokenizer: the language model's.
        text_size: ids it owns; added item k has id text_size + k.
        cloud_tokens: features, hence placeholders, of a cloud.
        image_tokens: the same of an image; with `together` of all images of a sample.
        max_seq_length: longest sequence in tokens, features and target included.
        together: the images of a sample are read together (`CadMLLM.images_together`).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        text_size: int,
        cloud_tokens: int,
        image_tokens: int,
        max_seq_length: int,
        together: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.text_size = text_size
        self.cloud_tokens = cloud_tokens
        self.image_tokens = image_tokens
        self.max_seq_length = max_seq_length
        self.together = together

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """`pad` of samples that are not encoded yet."""
        return self.pad([self.encode(sample) for sample in samples])

    def encode(self, sample: Sample) -> Encoded:
        """The sample's tokens. One that is too long loses the end of its caption, never a placeholder or a part of its target.

        Raises:
            CadmllmError: E602 naming the id when frame, placeholders and target alone exceed max_seq_length; E408.
        """
        if sample.target is None:
            raise ValueError(f"{sample.id} has no target: use .prompts()")
        target = [int(t) for t in sample.target]
        prompt = self._prompt(sample, self.max_seq_length - len(target))
        return Encoded(sample, prompt + [self.text_size + t for t in target], [IGNORE] * len(prompt) + target)

    def pad(self, encoded: Sequence[Encoded]) -> Batch:
        """A row a sample, right-padded; labels on the target's positions alone."""
        batch = self._assemble([e.sample for e in encoded], [e.ids for e in encoded], left=False)
        batch.labels = _pad([e.labels for e in encoded], IGNORE, left=False)
        return batch

    def pack(self, encoded: Sequence[Encoded]) -> Batch:
        """All samples behind each other in one row, no padding; positions start at 0 in each (`documents` has the lengths)."""
        ids = [token for e in encoded for token in e.ids]
        batch = self._assemble([e.sample for e in encoded], [ids], left=False)
        batch.labels = torch.tensor([[label for e in encoded for label in e.labels]], dtype=torch.int64)
        batch.position_ids = torch.cat([torch.arange(len(e)) for e in encoded]).unsqueeze(0)
        batch.documents = [len(e) for e in encoded]
        return batch

    def prompts(self, samples: Sequence[Sample]) -> Batch:
        """Left-padded prompts without targets, for generation; `labels` is None.

        Raises:
            CadmllmError: E602 when frame and placeholders alone exceed max_seq_length; E408.
        """
        return self._assemble(
            samples,
            [self._prompt(sample, self.max_seq_length) for sample in samples],
            left=True,
        )

    def _prompt(self, sample: Sample, limit: int) -> list[int]:
        features = features_of(sample, self.cloud_tokens, self.image_tokens, self.together)
        ids = encode_prompt(
            self.tokenizer,
            self.text_size,
            sample.caption,
            *features,
            limit=max(0, limit),
        )
        if len(ids) > limit:
            needed = len(ids) + self.max_seq_length - limit
            raise CadmllmError(
                "E602",
                f"{sample.id}: prompt frame, {sum(map(sum, features))} features and target need {needed} tokens"
                f" where max_seq_length is {self.max_seq_length}",
                f"--set train.max_seq_length={needed}, or leave this id out of the training list",
            )
        return ids

    def _assemble(self, samples: Sequence[Sample], rows: list[list[int]], *, left: bool) -> Batch:
        pad = self.tokenizer.pad_token_id
        mask = _pad([[1] * len(row) for row in rows], 0, left=left)
        clouds = [cloud for sample in samples for cloud in sample.clouds]
        images = [image for sample in samples for image in sample.images]
        return Batch(
            input_ids=_pad(rows, 0 if pad is None else pad, left=left),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            labels=None,
            points=_stack([cloud.points for cloud in clouds]),
            normals=_stack([cloud.normals for cloud in clouds]),
            pixels=_stack([to_pixels(image) for image in images]),
            cloud_features=_stack_features([cloud for sample in samples for cloud in sample.cloud_features]),
            image_features=_stack_features([image for sample in samples for image in sample.image_features]),
            ids=[sample.id for sample in samples],
            combinations=[sample.combination for sample in samples],
            cloud_counts=[sample.cloud_count for sample in samples],
            image_counts=[sample.image_count for sample in samples],
        )


def split(batch: Batch, first: int) -> tuple[Batch, Batch]:
    """A batch of B samples as one of its `first` and one of the others (0 < first < B); rows lose what padding they can."""
    assert 0 < first < len(batch.ids)
    if batch.documents:
        at = sum(batch.documents[:first])
        tokens = [slice(0, at), slice(at, None)]
        rows = [slice(None), slice(None)]
    else:
        lengths = batch.attention_mask.sum(1).tolist()
        tokens = [slice(0, int(max(lengths[:first]))), slice(0, int(max(lengths[first:])))]
        rows = [slice(0, first), slice(first, None)]
    samples = [slice(0, first), slice(first, None)]
    clouds, images = sum(batch.cloud_counts[:first]), sum(batch.image_counts[:first])
    features = dict.fromkeys(("points", "normals", "cloud_features"), clouds)
    features |= dict.fromkeys(("pixels", "image_features"), images)
    halves = []
    for k in (0, 1):
        parts: dict[str, Any] = {}
        for name in Batch.__slots__:
            value = getattr(batch, name)
            if isinstance(value, list):
                parts[name] = value[samples[k]]
            elif name in features:
                parts[name] = _some(value, slice(0, features[name]) if k == 0 else slice(features[name], None))
            else:
                parts[name] = None if value is None else value[rows[k], tokens[k]]
        halves.append(Batch(**parts))
    return halves[0], halves[1]


def _some(values: torch.Tensor | None, which: slice) -> torch.Tensor | None:
    chosen = None if values is None else values[which]
    return chosen if chosen is not None and len(chosen) else None


def _stack(arrays: list[np.ndarray]) -> torch.Tensor | None:
    """Equal arrays as one float32 tensor, None of none."""
    return torch.from_numpy(np.stack(arrays).astype(np.float32, copy=False)) if arrays else None


def _stack_features(arrays: list[np.ndarray]) -> torch.Tensor | None:
    """Equal arrays as one tensor in the precision they were stored in, None of none."""
    if not arrays:
        return None
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked.view(torch.bfloat16) if stacked.dtype == torch.uint16 else stacked  # numpy has no bfloat16


def _pad(rows: list[list[int]], value: int, *, left: bool) -> torch.Tensor:
    """Rows as one int64 [B, T] tensor, filled with `value` on one side."""
    longest = max(len(row) for row in rows)
    filled = [[value] * (longest - len(row)) + row if left else row + [value] * (longest - len(row)) for row in rows]
    return torch.tensor(filled, dtype=torch.int64)
