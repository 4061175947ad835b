"""What a step of benchmarks/gpu.py is fed: samples with the lengths of real ones, showing what the stage's shares say."""

from __future__ import annotations

import argparse
import math
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from cadmllm.corpus.batch import Collator, Encoded
    from cadmllm.corpus.types import Batch, Sample
    from cadmllm.models.fusion import CadMLLM
    from cadmllm.settings import Settings

Stored = dict[str, tuple[int, int]]  # (features, width) that a store holds of a cloud ('points') and of a view ('images')
LENGTHS = ((0.0, 12), (0.05, 18), (0.5, 45), (0.75, 88), (0.9, 184), (0.95, 348), (0.99, 1543), (1.0, 1900))  # of real programs
CAPTION = " ".join(["a flat plate with rounded corners and four holes"] * 3)


def stored_by(args: argparse.Namespace, settings: Settings, stage: int) -> Stored:
    """(features, width) that a store holds of a cloud, and of a view."""
    from cadmllm.plan.parts import MICHELANGELO, given_tokens, vit_shape

    held = {"points": (given_tokens(settings, "points"), 64 if args.tiny else MICHELANGELO[1])}
    return held if stage < 3 else held | {"images": (given_tokens(settings, "images"), vit_shape(settings).width)}


def packed_rows(args: argparse.Namespace, settings: Settings, stage: int, model: CadMLLM, stored: Stored | None) -> list[Batch]:
    """Micro-batches of samples with real lengths, each filled to `pack_tokens`."""
    from cadmllm.corpus.batch import Collator

    room = settings.train.pack_tokens
    tokens = model.cloud_tokens, model.image_tokens, settings.train.max_seq_length
    collate = Collator(model.tokenizer, model.text_size, *tokens, model.images_together)
    draw, batches, row = random.Random(stage), [], []
    while len(batches) < args.micro_batches:
        encoded = sample_of(settings, stage, draw, collate, stored)
        if row and sum(map(len, row)) + len(encoded) > room:
            batches.append(collate.pack(row))
            row = []
        row.append(encoded)
    return batches


def filled_row(settings: Settings, stage: int, model: CadMLLM) -> Batch:
    """One micro-batch, packed or padded as the settings say: as many samples as there is room for, one at least."""
    from cadmllm.corpus.batch import Collator

    tokens = model.cloud_tokens, model.image_tokens, settings.train.max_seq_length
    collate = Collator(model.tokenizer, model.text_size, *tokens, model.images_together)
    draw, found = random.Random(stage), []
    while True:
        encoded = sample_of(settings, stage, draw, collate)
        together = [*map(len, found), len(encoded)]
        computed = sum(together) if settings.train.packing else len(together) * max(together)
        if found and computed > settings.train.pack_tokens:
            return (collate.pack if settings.train.packing else collate.pad)(found)
        found.append(encoded)


def sample_of(settings: Settings, stage: int, draw: random.Random, collate: Collator, stored: Stored | None = None) -> Encoded:
    """A sample of a real length that shows what the stage's shares say; what it shows is random."""
    import numpy as np

    from cadmllm.cad.frame import Transform
    from cadmllm.corpus.fit import longest_target
    from cadmllm.corpus.types import CAD_SIZE, Cloud, Sample

    shares = settings.stages[stage].probabilities
    shown = draw.choices(list(shares), list(shares.values()))[0]
    rng = np.random.default_rng(draw.randrange(2**32))
    length = min(length_at(draw.random()), longest_target(settings, {shown: 1.0}))
    shows: dict[str, Any] = {}

    def features(part: str) -> np.ndarray:
        """Random features as a store holds them: the bits of bfloat16."""
        assert stored is not None
        return (rng.normal(size=stored[part]).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)

    views = range(settings.model.image_views)
    if stored is not None:
        shows["cloud_features"] = (features("points"),) if "point_cloud" in shown else ()
        shows["image_features"] = tuple(features("images") for _ in views) if "image" in shown else ()
    elif "point_cloud" in shown:
        normals = rng.normal(size=(settings.model.point_count, 3)).astype(np.float32)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        shows["clouds"] = (Cloud(normals * 0.9, normals, Transform((0.0, 0.0, 0.0), 1.0)),)
    if stored is None and "image" in shown:
        shows["images"] = tuple(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in views)
    sample: Sample = Sample("random", shown, CAPTION, rng.integers(0, CAD_SIZE, length), **shows)
    return collate.encode(sample)


def length_at(share: float) -> int:
    """Tokens of the real program at this share of all, from the known shares, straight on a logarithmic scale."""
    for (low, short), (high, long) in zip(LENGTHS, LENGTHS[1:], strict=False):
        if share <= high:
            return round(math.exp(math.log(short) + (share - low) / (high - low) * math.log(long / short)))
    return LENGTHS[-1][1]
