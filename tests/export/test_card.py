"""The model card: what it says, what it does not, and that the script in it answers as the checkpoint does."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from export_source import DATA, META, add_papers
from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cadmllm.cad import tokens
from cadmllm.console import jsonable
from cadmllm.corpus.types import Sample
from cadmllm.export.card import write_card
from cadmllm.export.figures import evaluation, find_evaluation
from cadmllm.export.markdown import code, plain, table
from cadmllm.export.papers import training_metadata, write_papers
from cadmllm.export.scripts import TEXT, script
from cadmllm.export.source import Source, open_source
from cadmllm.models.stages import MANIFEST, sha256
from cadmllm.places import bundled

CHECKED: dict[str, Any] = {
    "said": "3 prompts: logits within 1e-05 of their spread",
    "prompts": {"text 1": {"distance": 1.25e-5, "agreement": 1.0}, "a|b_c": {"distance": 2.5e-5, "agreement": 1.0}},
    "worst": {"distance": 2.5e-5, "agreement": 1.0},
    "allowed": {"distance": 1e-3, "divergence": 1e-6},
    "rows": {"compared": 1861},
    "lora": None,
}
# runs a script where cadmllm cannot be imported, and shows that it was not
WITHOUT = """
import sys, torch
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'cadmllm':
            raise ImportError('cadmllm is not to be used here')
sys.meta_path.insert(0, Absent())
torch.set_num_threads(1)
import os
for folder in sys.argv[1:]:
    os.chdir(folder)
    exec(compile(open('plain.txt').read(), 'plain', 'exec'), {'__name__': '__main__'})
assert not any(name.partition('.')[0] == 'cadmllm' for name in sys.modules)
"""


@pytest.fixture(scope="session")
def source(make_base: Any, make_checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A checkpoint of stage 1 whose rows and LoRA say something, over a tied base, with papers; read only."""
    base = make_base(tmp_path_factory.mktemp("home of xyzzy") / "base", tied=True)
    made = make_checkpoint(tmp_path_factory.mktemp("runs") / "stage1_text_model", base)
    add_papers(made.folder)
    return open_source(made.folder, made.settings)


def card(source: Source, folder: Path, kind: str = "merged", dtype: str = "fp32") -> str:
    folder.mkdir(exist_ok=True)
    return write_card(source, folder, kind, dtype, CHECKED).read_text(encoding="utf-8")


def front(text: str) -> dict[str, Any]:
    """The YAML at the beginning."""
    return yaml.safe_load(text.split("---\n")[1])


def script_in(text: str) -> str:
    """The Python block of a card."""
    found = re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def report(sha: str) -> dict[str, Any]:
    """As `cadmllm eval` writes one."""
    metric = {"count": 3, "mean": 0.5, "median": 0.25, "mean_95": [0.1, 0.9], "median_95": [0.1, 0.9]}
    group = {"count": 3, "ids": 3, "valid": 1.0, "invalid_rate": 0.125, "metrics": {"iou_all": metric, "cd": metric}}
    return {
        "evaluation": {"checkpoint": {"stage": 1, "sha256": sha}, "data": {"fingerprint": "ab" * 32, "split": "test"}},
        "settings": {"infer": {"temperature": 0.0, "candidates": 4, "grammar": True}},
        "metrics": [
            {"key": "iou_all", "name": "IoU %, invalid as 0", "scale": 100.0},
            {"key": "cd", "name": "CD x1000", "scale": 1000.0},
        ],
        "summary": {"all": group, "combinations": {"text": group}},
    }


def test_the_scripts_in_the_cards_answer_as_the_checkpoint_does(make_checkpoint: Any, tmp_path: Path) -> None:
    from cadmllm.export.adapter import write_adapter
    from cadmllm.export.merge import write_merged
    from cadmllm.infer.generate import generate
    from cadmllm.models.weights import load_model

    made = make_checkpoint(tmp_path / "stage1_text_model", bundled("checkpoints/tiny-base"))  # it has something to say
    source = open_source(made.folder, made.settings)
    source.settings.infer.max_new_tokens = 48
    for kind in ("merged", "adapter"):
        folder = tmp_path / kind
        folder.mkdir()
        write_papers(source, folder, kind, "fp32")
        if kind == "merged":
            write_merged(source, folder, torch.float32, 100_000)
        else:
            write_adapter(source, folder, torch.float32)
        written = script_in(card(source, folder, kind))
        if kind == "adapter":
            assert 'base = ".", "tiny-base"' in written
            written = written.replace('"tiny-base"', repr(str(source.base.folder)))
        (folder / "plain.txt").write_text(written)
    command = [sys.executable, "-I", "-c", WITHOUT, str(tmp_path / "merged"), str(tmp_path / "adapter")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    model = load_model(source.folder, source.settings)
    answer = generate(model, [Sample("a", "text", TEXT, None)], max_new_tokens=48, grammar=False)[0]
    assert len(set(answer.tokens)) > 10
    assert ran.stdout.splitlines() == [tokens.to_items(answer.tokens)] * 2


@given(st.text(min_size=1, max_size=30))
def test_whatever_a_base_is_called_the_script_is_one(name: str) -> None:
    written = script("adapter", "bf16", base=name, rows=2000, longest=64, context=512)
    assigned = next(node for node in ast.parse(written).body if "base" in ast.unparse(node))
    assert isinstance(assigned, ast.Assign)
    assert ast.literal_eval(assigned.value) == (".", name)


@pytest.mark.parametrize(
    ("kind", "library", "relation"),
    [("adapter", "peft", "adapter"), ("merged", "transformers", "finetune"), ("gguf", "gguf", "quantized")],
)
def test_hubs_read_what_it_is(source: Source, tmp_path: Path, kind: str, library: str, relation: str) -> None:
    named = replace(source, base=replace(source.base, name="Qwen/Qwen3-8B"))
    told = front(card(named, tmp_path, kind))
    assert (told["library_name"], told["base_model"], told["base_model_relation"]) == (library, "Qwen/Qwen3-8B", relation)
    assert (told["license"], told["license_name"], told["pipeline_tag"]) == ("other", "see-base-and-data", "text-generation")
    assert "cad" in told["tags"]
    assert ("lora" in told["tags"]) == (kind == "adapter")


def test_of_a_local_base_hubs_are_told_nothing(source: Source, tmp_path: Path) -> None:
    assert "base_model" not in front(card(source, tmp_path))


@pytest.mark.parametrize(
    ("data", "model", "stage", "free"),
    [
        ({"synthetic": 40}, {}, 1, True),
        ({"root": str(bundled("data"))}, {}, 1, True),
        ({}, {}, 1, False),
        ({"synthetic": 40}, {"points_encoder": "michelangelo"}, 1, True),
        ({"synthetic": 40}, {"points_encoder": "michelangelo"}, 2, False),
        ({"synthetic": 40}, {"image_encoder": "facebook/dinov2-large"}, 3, False),
        ({"synthetic": 40}, {}, 3, True),
    ],
)
def test_a_licence_is_named_only_where_all_parts_are_ours(
    source: Source, tmp_path: Path, data: dict[str, Any], model: dict[str, Any], stage: int, free: bool
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    add_papers(folder, **data)
    record = {**source.record, "stage": stage, "model": {**source.record["model"], "llm": "tiny", **model}}
    ours = replace(source, folder=folder, record=record, base=replace(source.base, name="tiny"))
    told = front(card(ours, tmp_path / "out"))
    assert told["license"] == ("apache-2.0" if free else "other")


def test_terms_of_every_part_are_told_or_unknown(source: Source, tmp_path: Path) -> None:
    model = {**source.record["model"], "points_encoder": "michelangelo", "image_encoder": "facebook/dinov2-large"}
    whole = replace(source, record={**source.record, "stage": 3, "model": model}, base=replace(source.base, name="org/other-7b"))
    text = card(whole, tmp_path)
    assert "| base model `org/other-7b` | unknown: see its model card |" in text
    assert "GPL-3.0" in text
    assert "dinov2-large (images) | Apache-2.0" in text
    assert "Omni-CAD | unknown" in text
    assert "CC BY-NC-SA 4.0" in text
    assert "--pc part.npz" in text
    assert "--image part.png" in text
    assert {"point-cloud", "image-to-cad"} <= set(front(text)["tags"])


def test_figures_and_data_are_the_checkpoints(source: Source, tmp_path: Path) -> None:
    text = card(source, tmp_path)
    assert "| text | 7.2500 | 1.1932 | 87.5% |" in text
    assert "| trained on | 207 ids" in text
    assert "cc" * 32 in text
    assert "Not evaluated" in text
    assert "ids 259 to 1858 are allowed and that 259 ends an answer" in text
    assert "| a\\|b\\_c | 2.5e-05 | 1 |" in text
    assert "| **allowed** | 0.001 |" in text
    assert "cadmllm export --verify ." in text
    for heading in ("Use", "Intended use", "Training data", "Figures", "Terms", "How the export was checked", "Files"):
        assert f"## {heading}\n" in text


def test_nobodys_folders_stand_in_it(source: Source, tmp_path: Path) -> None:
    source.notes.append(f"the base is {source.base.folder}: a note")
    for kind in ("adapter", "merged", "gguf"):
        text = card(source, tmp_path, kind)
        assert "xyz" not in text
        assert str(tmp_path.parent) not in text
        assert "/home" not in text


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["\ud800", "/home/xyz/a", "a|b\n# c"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def like(known: Any) -> st.SearchStrategy[Any]:
    """A document whose entries are as they should be, gone, or anything else."""
    if not isinstance(known, dict):
        return st.just(known) | ANYTHING
    return st.fixed_dictionaries({}, optional={name: like(value) for name, value in known.items()}) | ANYTHING


@options(max_examples=60)
@given(like(META), like(DATA), like({"stages": [{"name": "a", "epochs": 3}]}))
def test_papers_that_hold_anything_do_no_harm(source: Source, meta: Any, data: Any, stages: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in (("training_metadata.json", meta), ("data.json", data), ("curriculum.json", stages)):
            (folder / file).write_text(json.dumps(content))
        hurt = replace(source, folder=folder)
        out = folder / "out"
        out.mkdir()
        assert "/home" not in card(hurt, out, "gguf")
        told = json.dumps(jsonable(training_metadata(hurt, "gguf", "fp32")), ensure_ascii=False, allow_nan=False)
        assert b"/home" not in told.encode()


@given(like(report("0")))
def test_reports_that_hold_anything_do_no_harm(content: Any) -> None:
    assert evaluation(content)


def test_a_checkpoint_without_papers_has_a_card_that_says_so(kept: Any, tmp_path: Path) -> None:
    text = card(open_source(kept.folder, kept.settings), tmp_path)
    assert "Unknown: the checkpoint has no data.json." in text
    assert "The run measured no held-out loss." in text


def test_an_evaluation_of_this_checkpoint_is_shown_and_no_other(source: Source, tmp_path: Path) -> None:
    source.settings.eval.out = tmp_path / "eval"
    source.settings.eval.out.mkdir()
    place = source.settings.eval.out / "report.json"
    place.write_text(json.dumps(report("0" * 64)))
    assert find_evaluation(source) is None
    place.write_text(json.dumps(report(sha256(source.folder / MANIFEST))))
    assert "| text | 3 | 12.5% | 50 | 500 |" in card(source, tmp_path / "out")
    assert "4 candidates, grammar on" in evaluation(find_evaluation(source))


@pytest.mark.parametrize(
    "broken", [[], {"metrics": 3}, {"metrics": [], "summary": {}}, {"metrics": [{"key": 1}], "summary": None}]
)
def test_a_report_of_another_kind_is_not_shown(broken: Any) -> None:
    assert "another version" in evaluation(broken)


@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(["", "- ", "1. ", "# ", "> ", "<b>", "`", "|"]))
def test_names_are_shown_as_they_are(first: str, second: str, opening: str) -> None:
    """In a table, a list and a paragraph: what a reader sees is the text, with blanks collapsed, and nothing else."""
    seen = [" ".join("".join(c if c.isprintable() else " " for c in opening + text).split()) for text in (first, second)]
    one, two = opening + first, opening + second
    if not all(seen):
        return
    reader = MarkdownIt("commonmark").enable("table")
    cells = [t for t in reader.parse(table(("a", "b"), [(plain(one), code(two))])) if t.type == "inline"][2:]
    assert [shown(cell) for cell in cells] == seen
    for text in (f"* {plain(one)}", plain(one)):
        assert [shown(token) for token in reader.parse(text) if token.type == "inline"] == seen[:1]


def shown(token: Any) -> str:
    assert {child.type for child in token.children} <= {"text", "code_inline"}
    return "".join(child.content for child in token.children)
