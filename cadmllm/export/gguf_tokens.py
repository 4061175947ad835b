"""The vocabulary of a GGUF file: token texts and types, merges, and the name llama.cpp has for the pre-tokenizer.

llama.cpp knows pre-tokenizers by name, not by their rules: the rules in tokenizer.json are compared, and what is not recognised
is refused, as a wrong name splits words otherwise without a word about it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadmllm.cad.vocabulary import END
from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export.gguf_arch import impossible

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # gguf.TokenType
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES, BYTES_AFTER_WORDS = "bytes", "words as GPT-2, bytes"
# what tokenizer.json does to a text before the merges, and llama.cpp's name for it (src/llama-vocab.cpp)
PRE_TOKENIZERS = {
    (f"split {_ENDINGS}" + r"\p{N}" + _REST, BYTES): "qwen2",
    (f"split {_ENDINGS}" + r"\p{N}{1,3}" + _REST, BYTES): "llama-bpe",
    (r"split \p{N}", BYTES_AFTER_WORDS): "smollm",
    (BYTES_AFTER_WORDS,): "gpt-2",
}
MERGED_WHOLE = ("llama-bpe",)  # llama.cpp looks a whole word up before it merges (`ignore_merges` of tokenizer.json)
# a file needs at least one merge: bytes of UTF-8 text are never 0xFF, so this one never applies
NO_MERGE = "\u00ff \u00ff"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What `tokenizer.ggml.*` says.

    Attributes:
        tokens: text of every id, as many as the vocabulary matrices have rows; all different.
        types: NORMAL, CONTROL, USER_DEFINED or UNUSED of each.
        merges: 'left right', in order.
        pre: llama.cpp's name of the pre-tokenizer.
        eos, bos, pad: ids; `eos` is the CAD end item.
        suppressed: ids that an answer never holds: all but the CAD vocabulary.
        template: of chats, as the folder has it; '' without.
        notes: what llama.cpp does otherwise, in words.
    """

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    eos: int
    bos: int
    pad: int | None
    suppressed: list[int]
    template: str
    notes: tuple[str, ...]


def read_vocabulary(folder: Path, text_size: int, rows: int) -> Vocabulary:
    """The vocabulary of a base's tokenizer, or of an exported one, with the added items behind it.

    Args:
        folder: with tokenizer.json, and perhaps tokenizer_config.json.
        text_size: ids below it are the base tokenizer's; item k of `ADDED` has id text_size + k.
        rows: of the vocabulary matrices, V.

    Raises:
        CadmllmError: E723 when llama.cpp would read texts otherwise, or the tokenizer does not belong to the model.
    """
    raw = _load(folder / "tokenizer.json")
    options = _load(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    pre = pre_tokenizer(raw)
    tokens, types = _texts(raw, text_size, rows)
    merges = [_merge(pair) for pair in raw["model"].get("merges") or []]
    pad, bos = (_named(options.get(f"{name}_token"), tokens) for name in ("pad", "bos"))
    template = folder / "chat_template.jinja"
    answer = range(text_size, text_size + CAD_SIZE)
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=merges or [NO_MERGE],
        pre=pre,
        eos=text_size + END,
        bos=next(known for known in (bos, pad, text_size + END) if known is not None),
        pad=pad,
        suppressed=[token for token in range(rows) if token not in answer],
        template=template.read_text(encoding="utf-8") if template.is_file() else "",
        notes=tuple(_differences(raw)),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CadmllmError(
            "E722", f"{path} is missing or unreadable", "export again: cadmllm export --to gguf --out NEW_FOLDER"
        ) from error
    if not isinstance(found, dict):
        raise impossible(f"{path} is not a tokenizer's file")
    return found


def pre_tokenizer(raw: dict[str, Any]) -> str:
    """llama.cpp's name for what a tokenizer.json does before its merges.

    Raises:
        CadmllmError: E723 naming the rules found, when it has none.
    """
    model = raw.get("model") or {}
    for name, usual in (("type", "BPE"), ("byte_fallback", False), ("continuing_subword_prefix", ""), ("end_of_word_suffix", "")):
        found = model.get(name)
        if (found or type(usual)()) != usual:
            raise impossible(f"a tokenizer with {name}={found!r}: a byte-level BPE as Qwen's and GPT-2's is needed")
    normalizer = (raw.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        raise impossible(f"a tokenizer that normalises texts by {normalizer}: llama.cpp would not")
    stage = raw.get("pre_tokenizer") or {}
    stages = stage.get("pretokenizers", []) if stage.get("type") == "Sequence" else [stage]
    rules = tuple(_rule(one) for one in stages)
    name = PRE_TOKENIZERS.get(rules)
    if name is None:
        raise impossible(f"llama.cpp has no name for this pre-tokenizer: {', then '.join(rules)}")
    if bool(model.get("ignore_merges")) != (name in MERGED_WHOLE):
        raise impossible(f"a tokenizer with ignore_merges={bool(model.get('ignore_merges'))} and the pre-tokenizer {name!r}")
    return name


def _rule(stage: dict[str, Any]) -> str:
    """One step of a pre-tokenizer, in words that are the same for steps that do the same."""
    kind, pattern = stage.get("type"), stage.get("pattern") or {}
    if kind == "Split" and stage.get("behavior") == "Isolated" and not stage.get("invert") and "Regex" in pattern:
        return f"split {pattern['Regex']}"
    if kind == "Digits" and stage.get("individual_digits"):
        return r"split \p{N}"
    if kind == "ByteLevel" and not stage.get("add_prefix_space"):
        return BYTES_AFTER_WORDS if stage.get("use_regex", True) else BYTES
    return json.dumps(stage, ensure_ascii=False)


def _texts(raw: dict[str, Any], text_size: int, rows: int) -> tuple[list[str], list[int]]:
    """Text and type of every id below `rows`."""
    found: dict[int, tuple[str, int]] = {int(token): (text, NORMAL) for text, token in raw["model"]["vocab"].items()}
    for entry in raw.get("added_tokens") or []:
        text, token = str(entry["content"]), int(entry["id"])
        hidden = bool(entry.get("special")) or (text.startswith("<|") and text.endswith("|>"))
        found[token] = (text, CONTROL if hidden else USER_DEFINED)
    for k, item in enumerate(ADDED):
        text, _ = found.get(text_size + k, (item, 0))
        if text != item:
            raise impossible(f"token {text_size + k} of the tokenizer is {text!r}, and the model has {item!r} there")
        # control tokens are read in prompts but printed on request alone; the items of an answer are to be seen
        found[text_size + k] = (item, USER_DEFINED if k < CAD_SIZE and k != END else CONTROL)
    beyond = sorted(token for token in found if not 0 <= token < text_size + len(ADDED))
    if beyond or text_size + len(ADDED) > rows:
        raise impossible(f"the tokenizer has {max(found) + 1} items, the model {text_size} + {len(ADDED)} in {rows} rows")
    taken = {text for text, _ in found.values()}
    for token in range(rows):
        if token not in found:
            text = f"[PAD{token}]"
            while text in taken:
                text = f"[{text}]"
            found[token] = (text, UNUSED)
    tokens = [found[token][0] for token in range(rows)]
    twice, count = Counter(tokens).most_common(1)[0]
    if count > 1:
        raise impossible(f"{count} tokens have the text {twice!r}")
    return tokens, [found[token][1] for token in range(rows)]


def _merge(pair: str | list[str]) -> str:
    """'left right', in either form that tokenizer.json may have."""
    left, _, right = pair.partition(" ") if isinstance(pair, str) else (pair[0], "", pair[1])
    if not left or not right or " " in left + right:
        raise impossible(f"the merge {pair!r}: parts with spaces in them are no bytes")
    return f"{left} {right}"


def _named(entry: str | dict[str, Any] | None, tokens: list[str]) -> int | None:
    """Id of a token that tokenizer_config.json names."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return tokens.index(text) if text in tokens else None


def _differences(raw: dict[str, Any]) -> list[str]:
    found = []
    if raw.get("normalizer"):
        found.append(
            "llama.cpp does not compose accents (NFC) as the tokenizer does: hand it composed text,"
            " e.g. by Python's unicodedata.normalize('NFC', text)"
        )
    for entry in raw.get("added_tokens") or []:
        if any(entry.get(name) for name in ("lstrip", "rstrip", "single_word")):
            found.append(f"{entry['content']} takes spaces or word limits along in the tokenizer, and not in llama.cpp")
    return found
