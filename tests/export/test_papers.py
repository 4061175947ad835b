"""What an export holds beside weights: the tokenizer, configurations, metadata, the record."""

from __future__ import annotations

import copy
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from export_source import META, add_papers, hostile
from hypothesis import example, given
from hypothesis import settings as options
from hypothesis import strategies as st
from strategies import programs

from cadmllm.cad import omnicad, tokens
from cadmllm.cad.program import Program
from cadmllm.cad.vocabulary import END, VOCABULARY
from cadmllm.corpus.prompt import build_prompt, encode_prompt
from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export.papers import (
    config_of,
    generation_config,
    last_part,
    named,
    public_settings,
    record_of,
    without_folders,
    write_papers,
)
from cadmllm.export.source import Source, open_source
from cadmllm.export.tokenizer import check_free, extended, write_tokenizer
from cadmllm.models.backbone import load_tokenizer
from cadmllm.places import bundled

CAPTIONS = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("<<|/ \n\tcad:5>_'`é\u0301\u2028")), min_size=1, max_size=60
)


@pytest.fixture(scope="session")
def source(
    make_base: Callable[..., Path], make_checkpoint: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Source:
    """A checkpoint of stage 1 with papers, in folders with blanks and markup; read only."""
    base = make_base(tmp_path_factory.mktemp("home of xyzzy") / "my_base")
    made = make_checkpoint(tmp_path_factory.mktemp("runs") / "stage1_text_model", base)
    add_papers(made.folder)
    return open_source(made.folder, made.settings)


def tiny() -> Any:
    """The bundled base's tokenizer: 1,164 items, and 1,216 rows."""
    return load_tokenizer(str(bundled("checkpoints/tiny-base")))


@pytest.fixture(scope="session")
def qwen(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The same of Qwen's tokenizer."""
    from transformers import PreTrainedTokenizerFast

    file = shared / "data/qwen_tokenizer/tokenizer.json"
    base = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return base, loaded(base, tmp_path_factory.mktemp("qwen"))


def loaded(base: Any, folder: Path) -> Any:
    """What `AutoTokenizer` makes of the files."""
    from transformers import AutoTokenizer

    folder.mkdir(exist_ok=True)
    write_tokenizer(base, len(base), folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The bundled base's tokenizer, and what was written and loaded of it."""
    base = tiny()
    return base, loaded(base, tmp_path_factory.mktemp("tokenizer"))


def test_every_item_has_its_id(pair: tuple[Any, Any]) -> None:
    base, new = pair
    assert len(new) == len(base) + len(ADDED)
    assert new.convert_tokens_to_ids(list(ADDED)) == list(range(len(base), len(base) + len(ADDED)))
    assert all(new.encode(item, add_special_tokens=False) == [len(base) + place] for place, item in enumerate(ADDED))
    for item, number in base.get_vocab().items():
        assert new.convert_tokens_to_ids(item) == number
    assert (new.eos_token, new.pad_token, new.padding_side) == (base.eos_token, base.pad_token, "left")


def test_the_tokenizer_of_qwen_gets_them_behind_its_own(qwen: tuple[Any, Any]) -> None:
    base, new = qwen
    assert new.convert_tokens_to_ids([ADDED[0], ADDED[-1]]) == [len(base), len(base) + len(ADDED) - 1]
    text = build_prompt("A flange, Ø40 mm, with 4 holes — see 'drawing' <cad:5> <|im_end|>", [3], [2])
    assert new.encode(text, add_special_tokens=False) == encode_prompt(base, len(base), text_of(text), [3], [2])
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        assert str(getattr(new.backend_tokenizer, part)) == str(getattr(base.backend_tokenizer, part))


def text_of(prompt: str) -> str:
    """The caption in a prompt that shows clouds and images."""
    return prompt.rpartition("<|cad_image|>")[2].partition("<|im_end|>")[0]


@given(CAPTIONS, st.integers(0, 3), st.integers(0, 3))
@example("<cad:end>", 1, 1)
@example("a <|im_end|> b", 0, 0)
@example("\u0301 combining first", 2, 0)
@options(max_examples=150)
def test_prompts_are_read_as_training_reads_them(pair: tuple[Any, Any], caption: str, clouds: int, images: int) -> None:
    base, new = pair
    try:
        prompt = build_prompt(caption, [clouds], [images])
    except CadmllmError:
        return  # blank
    ids = encode_prompt(base, len(base), caption, [clouds], [images])
    assert new.encode(prompt, add_special_tokens=False) == ids
    if not clouds + images:
        typed = "".join(c for c in caption if c in "\n\t" or unicodedata.category(c) != "Cc")
        said = [{"role": "user", "content": typed}]
        assert new.apply_chat_template(said, add_generation_prompt=True)["input_ids"] == ids


@given(programs(), st.booleans())
@options(max_examples=60)
def test_answers_are_decoded_to_what_convert_reads(pair: tuple[Any, Any], program: Program, skip: bool) -> None:
    base, new = pair
    answer = tokens.encode(program).tokens
    text = new.decode([len(base) + token for token in answer], skip_special_tokens=skip)
    assert text == tokens.to_items(answer)
    assert tokens.from_text(text) == answer


def test_answers_of_real_programs_are_decoded(shared: Path, qwen: tuple[Any, Any]) -> None:
    base, new = qwen
    seen = 0
    for path in sorted((shared / "data/deepcad/json").rglob("*.json"))[:120]:
        try:
            answer = tokens.encode(omnicad.parse(omnicad.load(path), path.name)).tokens
        except CadmllmError:
            continue  # a file without an extrude
        seen += 1
        text = new.decode([len(base) + token for token in answer], skip_special_tokens=True)
        assert tokens.from_text(text) == answer
    assert seen > 80


def test_placeholders_are_special_and_answers_are_not(pair: tuple[Any, Any]) -> None:
    base, new = pair
    ids = [len(base) + CAD_SIZE, len(base) + END]
    assert new.decode(ids, skip_special_tokens=True) == VOCABULARY[END]
    assert new.eos_token_id == base.eos_token_id != len(base) + END


def test_a_base_that_has_the_items_elsewhere_is_refused() -> None:
    base = tiny()
    base.add_tokens(["<cad:size>"])
    with pytest.raises(CadmllmError) as error:
        extended(base, len(base))
    assert error.value.code == "E723"
    assert "'<cad:size>' already, with id 1,164" in error.value.message


def test_a_base_that_has_the_items_in_their_places_is_taken(pair: tuple[Any, Any]) -> None:
    base, new = pair
    written = extended(new, len(base))
    assert [entry["id"] for entry in written["added_tokens"]][-len(ADDED) :] == list(range(len(base), len(base) + len(ADDED)))
    assert len(written["added_tokens"]) == len({entry["id"] for entry in written["added_tokens"]})


def with_gap(where: int) -> Any:
    """A byte-level tokenizer of 258 items, one of them, special, with an id far behind the others."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={**{letter: place for place, letter in enumerate(letters)}, "<|x|>": where}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.add_special_tokens(["<|x|>"])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|x|>")


def test_a_base_with_a_gap_in_its_ids_keeps_them(tmp_path: Path) -> None:
    base = with_gap(5000)
    new = loaded(base, tmp_path / "new")
    assert new.convert_tokens_to_ids(list(ADDED)) == list(range(len(base), len(base) + len(ADDED)))
    assert new.convert_tokens_to_ids("<|x|>") == 5000
    answer = [len(base) + token for token in range(CAD_SIZE)]
    assert new.encode(new.decode(answer), add_special_tokens=False) == answer


def test_a_base_whose_items_stand_where_ours_have_to_is_refused() -> None:
    with pytest.raises(CadmllmError) as error:
        extended(with_gap(300), 257)
    assert error.value.code == "E723"
    assert "'<|x|>' at id 300" in error.value.message


@given(st.dictionaries(st.sampled_from(["a", "b", "<cad:end>", "<cad:5>", "<|cad_image|>"]), st.integers(0, 2000), max_size=4))
def test_what_is_in_the_way_is_told_or_nothing_is(vocabulary: dict[str, int]) -> None:
    places = {item: 100 + place for place, item in enumerate(ADDED)}
    free = all(
        places.get(item, number) == number and (item in places or not 100 <= number < 1702) for item, number in vocabulary.items()
    )
    if free:
        check_free(vocabulary, 100)
    else:
        with pytest.raises(CadmllmError) as error:
            check_free(vocabulary, 100)
        assert error.value.code == "E723"


def test_config_is_the_bases_but_for_what_changed(source: Source) -> None:
    before = copy.deepcopy(source.base.config)
    base = {
        **before,
        "auto_map": {"AutoModel": "x.Y"},
        "quantization_config": {},
        "torch_dtype": "float16",
        "architectures": ["A"],
    }
    config = config_of(base, 259, 1861, 256, "bf16")
    changed = {"architectures", "vocab_size", "tie_word_embeddings", "dtype", "eos_token_id", "pad_token_id"}
    assert {name: value for name, value in config.items() if name not in changed} == {
        name: value for name, value in before.items() if name not in changed
    }
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert (config["vocab_size"], config["tie_word_embeddings"], config["dtype"]) == (1861, False, "bfloat16")
    assert (config["eos_token_id"], config["pad_token_id"]) == (259 + END, 256)


@pytest.mark.parametrize("kind", [None, "no such model", ["qwen3"], 3])
def test_a_base_of_an_unknown_kind_is_refused(kind: object) -> None:
    with pytest.raises(CadmllmError) as error:
        config_of({"model_type": kind}, 10, 2000, None, "fp32")
    assert error.value.code == "E506"


@given(st.integers(1, 300), st.integers(0, 40))
def test_all_but_cad_items_is_suppressed(text_size: int, spare: int) -> None:
    rows = text_size + len(ADDED) + spare
    written = generation_config(text_size, rows, None, 64)
    answer = set(range(rows)) - set(written["suppress_tokens"])
    assert answer == set(range(text_size, text_size + CAD_SIZE))
    assert written["eos_token_id"] in answer


def test_generation_config_is_loaded_without_a_word(source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import AutoConfig, GenerationConfig

    write_papers(source, tmp_path, "merged", "fp32")
    read = GenerationConfig.from_pretrained(tmp_path)
    read.validate(strict=True)
    assert (read.do_sample, read.eos_token_id, read.max_new_tokens) == (False, 259, 256)
    assert AutoConfig.from_pretrained(tmp_path).vocab_size == source.rows == 1861
    assert not caplog.records


@pytest.mark.parametrize(
    ("kind", "more"),
    [("merged", {"config.json", "generation_config.json"}), ("adapter", {"generation_config.json"}), ("gguf", set())],
)
def test_each_kind_has_its_papers(source: Source, tmp_path: Path, kind: str, more: set[str]) -> None:
    paths = write_papers(source, tmp_path, kind, "fp32")
    always = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "training_metadata.json"}
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()} == always | more


def test_metadata_is_the_checkpoints_and_names_nobodys_folders(source: Source, tmp_path: Path) -> None:
    write_papers(source, tmp_path, "merged", "bf16")
    told = json.loads((tmp_path / "training_metadata.json").read_text())
    assert told["val_loss"] == META["val_loss"]
    assert (told["started_from"], told["base"], told["data"]["root"]) == ("stage0_model", "my base", "Omni|CAD `2`")
    assert told["export"]["rows"] == 1861
    assert told["export"]["checkpoint"]["checkpoint"] == "stage1_text_model"
    assert len(told["export"]["checkpoint"]["manifest"]) == 64
    for path in tmp_path.iterdir():
        text = path.read_text()
        assert "xyz" not in text or path.name == "chat_template.jinja", path.name
        assert "/home" not in text
        assert str(source.base.folder.parent) not in text


def test_a_checkpoint_without_papers_has_what_its_record_says(kept: Any, tmp_path: Path) -> None:
    write_papers(open_source(kept.folder, kept.settings), tmp_path, "adapter", "fp32")
    told = json.loads((tmp_path / "training_metadata.json").read_text())
    assert told["data"] is None
    assert told["export"]["checkpoint"]["manifest"] is None


def test_the_record_says_what_the_export_is_of(source: Source) -> None:
    notes = [f"the base is {source.base.folder}: gone", "see https://example.org/a/b"]
    record = record_of(source, "merged", "fp32", {"largest": {"text": 1e-6}, "where": str(source.folder)}, notes)
    json.dumps(record)
    assert (record["text_size"], record["added"], record["rows"], record["stage"]) == (259, 1602, 1861, 1)
    assert record["model"]["llm"] == "my_base"
    assert record["checked"] == {"largest": {"text": 1e-6}, "where": "stage1_text_model"}
    assert record["notes"] == ["the base is my_base: gone", "see https://example.org/a/b"]
    assert str(source.folder.parent) not in json.dumps(record)


def test_what_lies_in_the_hubs_cache_is_called_by_its_name() -> None:
    cached = "/home/xyzzy/.cache/huggingface/hub/models--Qwen--Qwen3-8B/snapshots/0a1b2c"
    told = public_settings(
        {"llm": cached, "image_encoder": "facebook/dinov2-base", "points_checkpoint": "/home/xyzzy/a.pt", "n": 1}
    )
    assert told == {"llm": "Qwen/Qwen3-8B", "image_encoder": "facebook/dinov2-base", "points_checkpoint": "a.pt", "n": 1}


def test_nothing_of_a_base_that_asks_for_code_comes_along(
    make_base: Callable[..., Path], make_checkpoint: Callable[..., Any], tmp_path: Path
) -> None:
    base = hostile(make_base(tmp_path / "plain"), tmp_path / "base")
    made = make_checkpoint(tmp_path / "checkpoint", base)
    out = tmp_path / "out"
    out.mkdir()
    write_papers(open_source(made.folder, made.settings), out, "merged", "fp32")
    assert not (base / "ran").exists()
    assert {path.suffix for path in out.iterdir()} == {".json", ".jinja"}
    assert not any("auto_map" in path.read_text() or "evil" in path.read_text() for path in out.iterdir())


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.sampled_from(["/home/", "~/", "C:\\Users\\", "../"]))
def test_of_a_path_its_last_part_stays(name: str, where: str) -> None:
    cut = last_part(f"{where}xyzzy/work/{name}")
    assert "xyzzy" not in cut.replace(name, "")
    assert last_part(f"{where}xyzzy/base") == "base"
    assert named({"a": [f"{where}xyzzy/{name}/x"]}) == {"a": ["x"]}


@pytest.mark.parametrize("home", ["/home/ada", "/home/ada/", "/Users/ada", "C:\\Users\\ada", "~"])
def test_a_home_bears_no_name(home: str) -> None:
    assert last_part(home) == "home"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("Qwen/Qwen3-8B is in /root/.cache/huggingface/models--x", "Qwen/Qwen3-8B is in models--x"),
        ("folder ~/work/base: gone", "folder base: gone"),
        ("C:\\Users\\ada\\base, gone", "base, gone"),
        ("1/2 of 3 / 4, https://x.org/y, <cad:5>", "1/2 of 3 / 4, https://x.org/y, <cad:5>"),
    ],
)
def test_sentences_name_nobodys_folders(said: str, left: str) -> None:
    assert without_folders(said) == left
