"""A tokenizer's file: how many items, which numbers they have, and whether they fit the embedding. Standard library only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.doctor.cache import file_key
from cadmllm.doctor.headers import what_it_is

if TYPE_CHECKING:
    from cadmllm.doctor.cache import Cache

CHAT = ("<|im_start|>", "<|im_end|>")  # what the frame of every prompt is made of (corpus/prompt)
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
VERSION = 1  # of what is kept


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a tokenizer knows.

    Attributes:
        size: items, as `len(tokenizer)`: the first added item of cadmllm gets this number.
        top: highest number of an item.
        digest: as `Backbone.fingerprint['tokenizer']`; '' where it cannot be told from the files.
        chat: whether the marks of a chat are items.
    """

    size: int
    top: int
    digest: str
    chat: bool


def read_vocabulary(folder: Path, cache: Cache) -> Vocabulary:
    """The vocabulary of `tokenizer.json`; large ones (11 MB) are read once and remembered.

    Raises:
        ValueError: it cannot be read, or is no fast tokenizer, in words that follow the file's name.
    """
    key = (VERSION, file_key(folder / "tokenizer.json"), file_key(folder / "tokenizer_config.json"))
    kept = cache.get("tokenizer", *key)
    if kept is not None:
        return Vocabulary(**kept)
    found = _read(folder)
    cache.put("tokenizer", *key, answer=asdict(found))
    return found


def _read(folder: Path) -> Vocabulary:
    content = _json(folder / "tokenizer.json")
    try:
        words = content["model"]["vocab"]
        items = {str(entry[0]): number for number, entry in enumerate(words)} if isinstance(words, list) else dict(words)
        for token in content.get("added_tokens") or []:
            items[token["content"]] = token["id"]
        numbers = list(items.values())
        if not numbers or not all(isinstance(number, int) for number in numbers):
            raise ValueError("holds no vocabulary")
    except (KeyError, TypeError, AttributeError, IndexError):
        raise ValueError("is not a fast tokenizer's file (no model.vocab)") from None
    extra = _named(folder) - items.keys()  # transformers adds them behind the others
    text = json.dumps(sorted(items.items(), key=lambda item: item[1]))
    digest = "" if extra else hashlib.sha256(text.encode()).hexdigest()[:16]
    size = len(items) + len(extra)
    return Vocabulary(size, max(max(numbers), size - 1 if extra else 0), digest, all(mark in items for mark in CHAT))


def _named(folder: Path) -> set[str]:
    """Special tokens that `tokenizer_config.json` names."""
    path = folder / "tokenizer_config.json"
    config = _json(path) if path.is_file() else {}
    found = {_content(config.get(name)) for name in NAMED}
    added = config.get("added_tokens_decoder")
    found |= {_content(entry) for entry in added.values()} if isinstance(added, dict) else set()
    return found - {""}


def _content(entry: Any) -> str:
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        other = what_it_is(path) if path.is_file() else ""
        raise ValueError(f"is {other}, not JSON" if other else "is not readable JSON") from None
    if not isinstance(content, dict):
        raise ValueError("is not a table")
    return content


def misfit(found: Vocabulary, rows: int) -> str:
    """Why a tokenizer does not go with an embedding of so many rows, in words; '' where it does."""
    if found.size > rows or found.top >= rows:
        return f"the tokenizer has {found.size:,} items up to number {found.top:,}, and the embedding {rows:,} rows"
    if found.top >= found.size:
        return (
            f"the tokenizer has {found.size:,} items and numbers up to {found.top:,}: with such gaps the CAD vocabulary,"
            " which begins where it ends, would take the numbers of words"
        )
    return ""
