"""The vocabulary of a GGUF file: types, names of pre-tokenizers, and what is refused."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_models import make_tokenizer

from cadmllm.cad.vocabulary import END
from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export.gguf_tokens import CONTROL, NO_MERGE, NORMAL, UNUSED, USER_DEFINED, pre_tokenizer, read_vocabulary
from cadmllm.places import bundled

SHARED = Path(os.environ.get("CADMLLM_SHARED", "../shared"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """tokenizer.json by the rules of its pre-tokenizer; a copy each."""
    found: dict[str, str] = {}

    def load(rules: str) -> dict[str, Any]:
        if rules not in found:
            folder = tmp_path_factory.mktemp(rules)
            make_tokenizer(folder, rules)
            found[rules] = (folder / "tokenizer.json").read_text()
        return json.loads(found[rules])

    return load


def _saved(folder: Path, raw: dict[str, Any], **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


@pytest.mark.parametrize("rules", ["qwen2", "llama-bpe", "smollm", "gpt-2"])
def test_pre_tokenizers_are_known_by_their_rules(raw: Callable, rules: str) -> None:
    assert pre_tokenizer(raw(rules)) == rules


def test_the_bundled_base_and_qwen_are_known() -> None:
    tiny = json.loads((Path(bundled("checkpoints/tiny-base")) / "tokenizer.json").read_text())
    assert pre_tokenizer(tiny) == "smollm"
    qwen = SHARED / "data" / "qwen_tokenizer" / "tokenizer.json"
    if not qwen.is_file():
        pytest.skip(f"{qwen} is not there: set CADMLLM_SHARED")
    assert pre_tokenizer(json.loads(qwen.read_text())) == "qwen2"


def test_digits_one_by_one_are_a_split(raw: Callable) -> None:
    found = raw("smollm")
    found["pre_tokenizer"]["pretokenizers"][0] = {"type": "Digits", "individual_digits": True}
    assert pre_tokenizer(found) == "smollm"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t["pre_tokenizer"].update(pretokenizers=[{"type": "Whitespace"}]), '"Whitespace"'),
        (lambda t: t.update(pre_tokenizer=None), "pre-tokenizer"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\d+"), r"split \\d\+"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "add_prefix_space"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(invert=True), "invert"),
        (lambda t: t["model"].update(type="Unigram"), "type='Unigram'"),
        (lambda t: t["model"].update(byte_fallback=True), "byte_fallback"),
        (lambda t: t["model"].update(ignore_merges=True), "ignore_merges"),
        (lambda t: t["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (lambda t: t.update(normalizer={"type": "Lowercase"}), "Lowercase"),
    ],
)
def test_others_are_refused_by_name(raw: Callable, change: Callable[[dict], None], named: str) -> None:
    found = raw("qwen2")
    change(found)
    with pytest.raises(CadmllmError, match=named) as refused:
        pre_tokenizer(found)
    assert refused.value.code == "E723"


def test_every_row_has_a_text_and_a_type(raw: Callable, tmp_path: Path) -> None:
    found = raw("qwen2")
    size = len(found["model"]["vocab"]) + 4
    rows = size + len(ADDED) + 7
    options = {"pad_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>"}}
    vocabulary = read_vocabulary(_saved(tmp_path, found, **options), size, rows)
    texts, types = vocabulary.tokens, vocabulary.types
    assert len(texts) == len(types) == len(set(texts)) == rows
    kinds = dict(zip(texts, types, strict=True))
    assert kinds["<|im_start|>"] == kinds["<|cad_points|>"] == kinds["<cad:end>"] == CONTROL
    assert kinds["<think>"] == kinds["<cad:size>"] == kinds["<cad:+15>"] == USER_DEFINED
    assert kinds["Ġ"] == NORMAL
    assert texts[size : size + len(ADDED)] == list(ADDED)
    assert types[size : size + CAD_SIZE].count(USER_DEFINED) == CAD_SIZE - 1
    assert types[-7:] == [UNUSED] * 7
    assert vocabulary.eos == size + END
    assert vocabulary.pad == vocabulary.bos == texts.index("<|endoftext|>")
    assert set(range(rows)) - set(vocabulary.suppressed) == set(range(size, size + CAD_SIZE))
    assert vocabulary.template == ""


def test_an_exported_tokenizer_gives_the_same(raw: Callable, tmp_path: Path) -> None:
    found = raw("qwen2")
    size = len(found["model"]["vocab"]) + 4
    plain = read_vocabulary(_saved(tmp_path / "plain", found), size, size + len(ADDED))
    for k, item in enumerate(ADDED):
        found["added_tokens"].append({"id": size + k, "content": item, "special": False})
    folder = _saved(tmp_path / "added", found)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    added = read_vocabulary(folder, size, size + len(ADDED))
    assert (added.tokens, added.types, added.merges) == (plain.tokens, plain.types, plain.merges)
    assert added.template == "{{ messages }}"


def test_placeholders_of_rows_never_meet_a_token(raw: Callable, tmp_path: Path) -> None:
    found = raw("gpt-2")
    size = len(found["model"]["vocab"]) + 4
    last = size + len(ADDED)
    found["added_tokens"][-1]["content"] = f"[PAD{last}]"
    vocabulary = read_vocabulary(_saved(tmp_path, found), size, last + 1)
    assert vocabulary.tokens[last] == f"[[PAD{last}]]"
    assert vocabulary.pad is None
    assert vocabulary.bos == vocabulary.eos, "without a token of its own it is one that no text holds"


def test_merges_of_either_form_are_read(raw: Callable, tmp_path: Path) -> None:
    found = raw("qwen2")
    size = len(found["model"]["vocab"]) + 4
    rows = size + len(ADDED)
    pairs = read_vocabulary(_saved(tmp_path / "a", found), size, rows).merges
    older = copy.deepcopy(found)
    older["model"]["merges"] = pairs
    assert read_vocabulary(_saved(tmp_path / "b", older), size, rows).merges == pairs
    older["model"]["merges"] = []
    assert read_vocabulary(_saved(tmp_path / "c", older), size, rows).merges == [NO_MERGE]
    older["model"]["merges"] = [["a b", "c"]]
    with pytest.raises(CadmllmError, match="a b"):
        read_vocabulary(_saved(tmp_path / "d", older), size, rows)


@pytest.mark.parametrize(
    ("change", "rows", "named"),
    [
        (lambda t, size: t["added_tokens"].append({"id": size + 3, "content": "<mine>", "special": True}), 0, "'<mine>'"),
        (lambda t, size: t["model"]["vocab"].update({"<cad:end>": 0}), 0, "'<cad:end>'"),
        (lambda t, size: t["added_tokens"].append({"id": size + 2000, "content": "<far>", "special": True}), 0, "items"),
        (lambda t, size: None, -1, "1602 in"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(
    raw: Callable, tmp_path: Path, change: Callable[[dict, int], None], rows: int, named: str
) -> None:
    found = raw("qwen2")
    size = len(found["model"]["vocab"]) + 4
    change(found, size)
    with pytest.raises(CadmllmError, match=named) as refused:
        read_vocabulary(_saved(tmp_path, found), size, size + len(ADDED) + rows)
    assert refused.value.code == "E723"


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_broken_file_is_no_traceback(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CadmllmError) as refused:
        read_vocabulary(tmp_path, 10, 2000)
    assert refused.value.code in ("E722", "E723")
    with pytest.raises(CadmllmError, match="missing"):
        read_vocabulary(tmp_path / "none", 10, 2000)


def test_what_llama_cpp_reads_otherwise_is_said(raw: Callable, tmp_path: Path) -> None:
    found = raw("qwen2")
    size = len(found["model"]["vocab"]) + 4
    found["added_tokens"][-1]["lstrip"] = True
    notes = read_vocabulary(_saved(tmp_path, found), size, size + len(ADDED)).notes
    assert any("NFC" in note for note in notes)
    assert any(note.startswith("<think>") for note in notes)
    found["normalizer"] = None
    found["added_tokens"][-1]["lstrip"] = False
    assert read_vocabulary(_saved(tmp_path, found), size, size + len(ADDED)).notes == ()
