"""The base's tokenizer with the added items as ordinary tokens: item k of `corpus.types.ADDED` has exactly id text_size + k.

Placeholders are special tokens. CAD items are not: decoding with `skip_special_tokens=True`, which servers and pipelines do,
would drop the whole answer. The end of an answer is `generation_config.json`'s business; the tokenizer's own end of text stays
what it was, as prompts are written with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENIZER, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
# transformers 4 and 5 take tokenizer.json as it stands for this one; what 5 writes itself ('TokenizersBackend') 4 does not know
CLASS = "PreTrainedTokenizerFast"
KEPT = ("model_max_length", "bos_token", "eos_token", "pad_token", "unk_token")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# the prompt of corpus/prompt.py; a '<' that could open a control token gets a space behind it, as `clean_caption` gives it
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- set said = namespace(text=message['content'] | trim) %}"
    "{%- if message['role'] != 'assistant' %}"
    "{%- for next in " + json.dumps(["|", "/", "_", *LETTERS]) + " %}"
    "{%- set said.text = said.text | replace('<' ~ next, '< ' ~ next) %}"
    "{%- endfor %}"
    "{%- endif %}"
    "{{- '<|im_start|>' ~ message['role'] ~ '\\n' ~ said.text ~ '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def check_free(vocabulary: Mapping[str, int], text_size: int) -> None:
    """Refuse a base whose own items stand where the added ones have to.

    Args:
        vocabulary: item -> id of the base's tokenizer, added tokens included.
        text_size: id of the first added item.

    Raises:
        CadmllmError: E723 naming the first item that is in the way.
    """
    held = {number: item for item, number in vocabulary.items()}
    for number, item in enumerate(ADDED, text_size):
        found, there = vocabulary.get(item, number), held.get(number, item)
        if found != number:
            raise _taken(f"its tokenizer has {item!r} already, with id {found:,}, where this checkpoint's rows have {number:,}")
        if there != item:
            raise _taken(f"its tokenizer has {there!r} at id {number:,}, which is {item!r} in this checkpoint")


def extended(tokenizer: PreTrainedTokenizerFast, text_size: int) -> dict[str, Any]:
    """`tokenizer.json` of the base's tokenizer with the added items.

    Args:
        tokenizer: the base's; it is not changed.
        text_size: id of the first added item.

    Raises:
        CadmllmError: E723, see `check_free`.
    """
    check_free(tokenizer.get_vocab(), text_size)
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    written["truncation"] = written["padding"] = None  # of whoever used it last
    listed = {entry["content"] for entry in written["added_tokens"]}
    for place, item in enumerate(ADDED):
        if item not in listed:
            written["added_tokens"].append(_entry(item, text_size + place, special=place >= CAD_SIZE))
    written["added_tokens"].sort(key=lambda entry: entry["id"])
    if _ids(written) != list(range(text_size, text_size + len(ADDED))):
        # ids of added tokens go on from the base's highest; what is in the model's own vocabulary keeps the id it has there
        _pin(written["model"], text_size)
        if _ids(written) != list(range(text_size, text_size + len(ADDED))):
            raise _taken("its tokenizer gives the added items other ids than the checkpoint's")
    return written


def write_tokenizer(tokenizer: PreTrainedTokenizerFast, text_size: int, folder: Path) -> list[Path]:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`; `AutoTokenizer` loads them without code.

    Args:
        tokenizer: the base's; it is not changed.
        text_size: id of the first added item.
        folder: of the export.

    Raises:
        CadmllmError: E723, see `check_free`.
    """
    options = {name: getattr(tokenizer, name, None) for name in KEPT}
    config = {
        "tokenizer_class": CLASS,
        **{name: value for name, value in options.items() if value is not None},
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",  # an answer goes on where its prompt ends
    }
    paths = [folder / TOKENIZER, folder / CONFIG, folder / TEMPLATE]
    paths[0].write_text(json.dumps(extended(tokenizer, text_size), ensure_ascii=False), encoding="utf-8")
    paths[1].write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    paths[2].write_text(CHAT_TEMPLATE, encoding="utf-8")
    return paths


def pad_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """What batches are padded with: the pad token, else the end of text, as the collator of training has it."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def _entry(item: str, number: int, *, special: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": item, **plain, "special": special}


def _ids(written: Mapping[str, Any]) -> list[int | None]:
    """The ids that the items get when the file is read."""
    from tokenizers import Tokenizer

    read = Tokenizer.from_str(json.dumps(written))
    return [read.token_to_id(item) for item in ADDED]


def _pin(model: dict[str, Any], text_size: int) -> None:
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict):  # a Unigram model numbers its items by their place
        raise _taken(f"its tokenizer ({model.get('type')}) has gaps in its ids")
    for number, item in enumerate(ADDED, text_size):
        vocabulary[item] = number


def _taken(reason: str) -> CadmllmError:
    return CadmllmError(
        "E723",
        f"the base model leaves no room for the CAD vocabulary: {reason}",
        "train on the base as its authors published it: --set model.llm=Qwen/Qwen3-8B",
    )
