"""What fits into a sequence of `train.max_seq_length` tokens: arithmetic that training and the data check share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cadmllm.settings import Settings

FRAME = 64  # tokens kept free for the prompt's frame and a short caption
PROMPT_FRAME = 16  # tokens of the prompt that are neither caption nor feature; 8 in Qwen's vocabulary, 12 in the tiny base's


def shown(probabilities: Mapping[str, float]) -> tuple[str, ...]:
    """The modalities that a stage may show, of 'text', 'point_cloud', 'image', in this order."""
    names = {part for name, share in probabilities.items() if share > 0 for part in name.split("+")}
    return tuple(part for part in ("text", "point_cloud", "image") if part in names)


def feature_tokens(settings: Settings, probabilities: Mapping[str, float]) -> int:
    """Most placeholder tokens a prompt can hold under these shares of the modality combinations."""
    most = 0
    for name, share in probabilities.items():
        if share > 0:
            clouds = settings.model.point_tokens if "point_cloud" in name else 0
            images = settings.model.view_tokens if "image" in name else 0
            most = max(most, clouds + images)
    return most


def longest_target(settings: Settings, probabilities: Mapping[str, float]) -> int:
    """Tokens a target may have: what the most features and a short prompt leave of `train.max_seq_length`."""
    return settings.train.max_seq_length - feature_tokens(settings, probabilities) - FRAME


def caption_room(settings: Settings, probabilities: Mapping[str, float], target: int) -> int:
    """Tokens that are left for the caption of a target of `target` tokens; what is longer loses its end."""
    return max(0, settings.train.max_seq_length - feature_tokens(settings, probabilities) - PROMPT_FRAME - target)
