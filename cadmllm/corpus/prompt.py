"""THE prompt: one builder for training, validation, inference and serving.

    <|im_start|>user\\n{placeholders}{caption}<|im_end|>\\n<|im_start|>assistant\\n

The same string serves Qwen3 and the bundled tiny tokenizer. Each projected feature has one placeholder (clouds first, then
images); a missing modality has none. What a person wrote can never act as a control token or a placeholder.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from cadmllm.corpus.types import CAD_SIZE, IMAGE, PLACEHOLDERS, POINTS
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.types import Sample

HEAD = "<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"
LONGEST_CAPTION = 20_000  # characters; the longest of the real captions has 3,623
BARE_REQUEST = "Generate the CAD model."  # stands for the text when a cloud or an image comes without any

_OPENING = re.compile(r"<(?=[|/A-Za-z_])")


class Tokenizer(Protocol):
    """What is asked of a language model's tokenizer (any of transformers' has it)."""

    pad_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`."""
        ...


def clean_caption(caption: object, where: str = "the prompt") -> str:
    """The caption as it enters a prompt: stripped, without control characters, nothing in it acting as a token.

    Every `<` that could open a control token or a placeholder ('<|im_end|>', '<think>', '<|cad_points|>') gets a space
    behind it, so no tokenizer can read it as one; line breaks and tabs stay.

    Args:
        caption: the text; anything but a str is refused.
        where: what to call it in a message (an id, 'the prompt').

    Raises:
        CadmllmError: E408 when it is no text, blank, or longer than `LONGEST_CAPTION` characters.
    """
    if not isinstance(caption, str):
        raise CadmllmError(
            "E408",
            f"{where}: the caption is {type(caption).__name__}, not text",
            "give a caption as text",
        )
    if len(caption) > LONGEST_CAPTION:
        raise CadmllmError(
            "E408",
            f"{where}: the caption has {len(caption)} characters, more than {LONGEST_CAPTION}",
            "shorten it: a sentence or two is what the model learns from",
        )
    text = caption.encode("utf-8", "replace").decode("utf-8")  # lone surrogates would stop a tokenizer
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc").strip()
    if not text:
        raise CadmllmError(
            "E408",
            f"{where}: the caption is blank",
            "say what to generate, e.g. 'a simple cube'",
        )
    return _OPENING.sub("< ", text)


def features_of(sample: Sample, cloud_tokens: int, image_tokens: int, together: bool) -> tuple[list[int], list[int]]:
    """Placeholders of a sample's clouds and of its images, as `build_prompt` takes them.

    Args:
        sample: what is shown.
        cloud_tokens: of each cloud.
        image_tokens: of each image; `together`: of all images of the sample.
    """
    groups = min(1, sample.image_count) if together else sample.image_count
    return [cloud_tokens] * sample.cloud_count, [image_tokens] * groups


def placeholders(cloud_tokens: Sequence[int], image_tokens: Sequence[int]) -> str:
    """The placeholder string: one token a feature, clouds first, then images, each in the order given."""
    return POINTS * sum(cloud_tokens) + IMAGE * sum(image_tokens)


def build_prompt(caption: str, cloud_tokens: Sequence[int] = (), image_tokens: Sequence[int] = ()) -> str:
    """The prompt as a string.

    Args:
        caption: what a person wrote; neutralised by `clean_caption`.
        cloud_tokens: features of each cloud.
        image_tokens: features of each image, or of all of them together.

    Raises:
        CadmllmError: E408, see `clean_caption`.
    """
    return HEAD + placeholders(cloud_tokens, image_tokens) + clean_caption(caption) + TAIL


def encode_prompt(
    tokenizer: Tokenizer,
    text_size: int,
    caption: str,
    cloud_tokens: Sequence[int] = (),
    image_tokens: Sequence[int] = (),
    limit: int | None = None,
) -> list[int]:
    """Token ids of `build_prompt(...)`; placeholder k of `types.ADDED` becomes text_size + k, the tokenizer never sees it.

    Args:
        tokenizer: the language model's; it is not changed.
        text_size: number of ids it owns.
        caption, cloud_tokens, image_tokens: as for `build_prompt`.
        limit: longest prompt in tokens; the caption is cut at its end to fit, the frame and placeholders never are.

    Returns:
        The ids. Longer than `limit` only when frame and placeholders alone are: the caller judges that.

    Raises:
        CadmllmError: E408, see `clean_caption`.
    """
    head = encode_marked(tokenizer, text_size, HEAD + placeholders(cloud_tokens, image_tokens))
    tail = tokenizer.encode(TAIL, add_special_tokens=False)
    body = tokenizer.encode(clean_caption(caption), add_special_tokens=False)
    if limit is not None:
        body = body[: max(0, limit - len(head) - len(tail))]
    return [*head, *body, *tail]


def encode_marked(tokenizer: Tokenizer, text_size: int, text: str) -> list[int]:
    """Token ids of a trusted string that may hold placeholders: split there, the pieces encoded, the ids inserted."""
    ids: list[int] = []
    for piece in re.split(f"({'|'.join(map(re.escape, PLACEHOLDERS))})", text):
        if piece in PLACEHOLDERS:
            ids.append(text_size + CAD_SIZE + PLACEHOLDERS.index(piece))
        elif piece:
            ids.extend(tokenizer.encode(piece, add_special_tokens=False))
    return ids
