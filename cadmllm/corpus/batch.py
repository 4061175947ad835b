"""Samples to tensors: prompts tokenised, placeholders and targets inserted, padded, labelled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cadmllm.corpus.pixels import to_pixels
from cadmllm.corpus.prompt import Tokenizer, encode_prompt
from cadmllm.corpus.types import IGNORE, Batch, Sample
from cadmllm.errors import CadmllmError


class Collator:
    """Makes a `Batch` of samples; what it makes depends on nothing but them.

    Args:
        tokenizer: the language model's.
        text_size: ids it owns; added item k has id text_size + k.
        cloud_tokens: features, hence placeholders, of a cloud.
        image_tokens: the same of an image.
        max_seq_length: longest sequence in tokens, features and target included.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        text_size: int,
        cloud_tokens: int,
        image_tokens: int,
        max_seq_length: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.text_size = text_size
        self.cloud_tokens = cloud_tokens
        self.image_tokens = image_tokens
        self.max_seq_length = max_seq_length

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Right-padded training batch with labels on the target's positions alone.

        A sample that is too long loses the end of its caption, never a placeholder or a part of its target.

        Raises:
            CadmllmError: E602 naming the id when frame, placeholders and target alone exceed max_seq_length; E408.
        """
        rows: list[list[int]] = []
        labels: list[list[int]] = []
        for sample in samples:
            if sample.target is None:
                raise ValueError(f"{sample.id} has no target: use .prompts()")
            target = [int(t) for t in sample.target]
            prompt = self._prompt(sample, self.max_seq_length - len(target))
            rows.append(prompt + [self.text_size + t for t in target])
            labels.append([IGNORE] * len(prompt) + target)
        batch = self._assemble(samples, rows, left=False)
        batch.labels = _pad(labels, IGNORE, left=False)
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
        features = (
            [self.cloud_tokens] * sample.cloud_count,
            [self.image_tokens] * sample.image_count,
        )
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
        )


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
