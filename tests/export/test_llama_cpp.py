"""Files of ours in llama.cpp itself: the same tokens, the same logits, the same answers.

Needs a Python with llama-cpp-python (0.3.36 or newer), named by CADMLLM_LLAMA_PYTHON; else ours is asked, which has none.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_models import make_source, resized, tensors_of, write_tokens

from cadmllm.cad.grammar import DONE, NEXT, START, accepts
from cadmllm.cad.vocabulary import END, VOCABULARY
from cadmllm.corpus.prompt import build_prompt
from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.export.gguf_file import check_gguf, write_gguf
from cadmllm.export.gguf_grammar import grammar
from cadmllm.export.gguf_model import gguf_logits
from cadmllm.export.merge import merged_tensors
from cadmllm.export.source import Source, open_source
from cadmllm.places import bundled

RUNNER = Path(__file__).with_name("llama_runner.py")
TEXTS = [
    build_prompt("a plate with two holes, 3.5 mm!"),
    "it's I'LL we'Ve  12345 3½ Ⅷ ²³ x1y22z333",
    "<|im_start|>user\n<|cad_points|><|cad_points|> <cad:size><cad:250> <cad:+3><think> <|im_end|>\n\n\n  x ",
    "héé naïve 日本語の板 🚀🚀 \t\t tab \r\n\r\n  end   ",
    "(50.0 x 20.5 x 3) mm; Ø6 ±0.1 — “quoted” … a_b-c/d\\e {f} [g] #1 @ & * = + ~ ^ | < >",
]


def _random_texts(count: int) -> list[str]:
    """Composed texts (NFC) over the scripts, digits, marks, spaces and signs that pre-tokenizers tell apart."""
    draw = random.Random(0)
    alphabets = ["abcXYZ", "0123456789", " ", " ", "\n\r\t", "'sStTlLdDmM", ".,;:!?-()[]{}", "éüñßøÅ", "жщЯ", "日本板"]
    alphabets += ["ñ́ा्", "½Ⅷ²٣", "🚀👍🏽"]
    texts = ("".join(draw.choice(draw.choice(alphabets)) for _ in range(draw.randint(1, 40))) for _ in range(count))
    return [unicodedata.normalize("NFC", text) for text in texts]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Runs a task of `llama_runner` and gives its answer and its logits."""
    python = os.environ.get("CADMLLM_LLAMA_PYTHON", sys.executable)
    probe = subprocess.run([python, "-c", "import llama_cpp"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"llama_cpp cannot be imported by {python}; name one that has it: CADMLLM_LLAMA_PYTHON")

    def run(**task: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        folder = tmp_path_factory.mktemp("llama")
        task = {"texts": [], "ids": [], **task}
        (folder / "task.json").write_text(json.dumps(task))
        command = [python, str(RUNNER), str(folder / "task.json"), str(folder / "answer.npz")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((folder / "answer.json").read_text()), dict(np.load(folder / "answer.npz"))

    return run


def _written(folder: Path, dtype: str = "fp32", **options: Any) -> tuple[Source, torch.nn.Module, Path]:
    source = make_source(folder, **options)
    model = resized(source)
    out = write_tokens(source, folder / "out")
    return source, model, write_gguf(source, tensors_of(model), out, out / f"model-{dtype}.gguf", dtype)


@pytest.mark.parametrize(
    ("kind", "rules"),
    [("qwen3", "qwen2"), ("qwen3", "smollm"), ("qwen2", "gpt-2"), ("llama", "llama-bpe"), ("mistral", "gpt-2")],
)
def test_tokens_and_logits_are_those_of_transformers(llama: Callable, tmp_path: Path, kind: str, rules: str) -> None:
    from transformers import PreTrainedTokenizerFast

    options: dict[str, Any] = {"sliding_window": None} if kind == "mistral" else {}
    source, model, path = _written(tmp_path, kind=kind, rules=rules, **options)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path.parent)
    texts = [*TEXTS, *_random_texts(200)]
    ids = torch.randint(0, source.rows, (1, 100), generator=torch.Generator().manual_seed(0))
    answer, logits = llama(model=str(path), texts=[(text, True) for text in texts], ids=ids.tolist())
    for text, found in zip(texts, answer["tokens"], strict=True):
        assert found == tokenizer.encode(text, add_special_tokens=False), text
    with torch.no_grad():
        expected = model(ids).logits[0].numpy()
    assert np.abs(logits["0"] - expected).max() < 1e-3, "of logits with a standard deviation of about 1.6"
    assert answer["end"] == source.text_size + END
    shown = answer["pieces"][source.text_size : source.text_size + len(ADDED)]
    assert shown[:CAD_SIZE] == ["", *VOCABULARY[1:]], "every item is printed but the end"
    assert answer["suppressed"] == [k for k in range(source.rows) if not 0 <= k - source.text_size < CAD_SIZE]


@pytest.mark.parametrize("rope", ["yarn", "linear"])
def test_rotary_scaling_means_the_same(llama: Callable, tmp_path: Path, rope: str) -> None:
    more = {"original_max_position_embeddings": 64} if rope == "yarn" else {}
    scaled = {"rope_type": rope, "factor": 4.0, "rope_theta": 5000.0, **more}
    source, model, path = _written(tmp_path, rope_parameters=scaled)
    ids = torch.randint(0, source.rows, (1, 200), generator=torch.Generator().manual_seed(0))
    _, logits = llama(model=str(path), ids=ids.tolist())
    with torch.no_grad():
        expected = model(ids).logits[0].numpy()
    assert np.abs(logits["0"] - expected).max() < 1e-3


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 0.15), ("fp16", 0.05), ("q8_0", 0.5)])
def test_narrow_types_differ_by_their_rounding(llama: Callable, tmp_path: Path, dtype: str, tolerance: float) -> None:
    """llama.cpp rounds activations to the type of the weights; the same file computed in 32 bit is the measure."""
    source, _, path = _written(tmp_path, dtype)
    ids = torch.randint(0, source.rows, (1, 100), generator=torch.Generator().manual_seed(0))
    _, logits = llama(model=str(path), ids=ids.tolist())
    expected = gguf_logits(path, source.base.layout.config.to_dict(), ids)[0].numpy()
    assert np.abs(logits["0"] - expected).max() < tolerance * expected.std()


def test_four_bit_blocks_are_made_by_llama_cpp_from_ours(llama: Callable, tmp_path: Path) -> None:
    """The way that the message for q4_k_m names: bf16 of ours, then llama-quantize."""
    source, model, path = _written(tmp_path, "bf16", hidden_size=256, intermediate_size=512)
    small = tmp_path / "q4_k_m.gguf"
    ids = torch.randint(0, source.rows, (1, 50), generator=torch.Generator().manual_seed(0))
    answer, logits = llama(model=str(path), quantized=str(small), ids=ids.tolist())
    assert small.stat().st_size < 0.6 * path.stat().st_size
    assert answer["end"] == source.text_size + END
    with torch.no_grad():
        expected = model(ids).logits[0].numpy()
    assert np.corrcoef(logits["0"].ravel(), expected.ravel())[0, 1] > 0.9


def test_chats_become_the_prompt_of_training(llama: Callable, tmp_path: Path) -> None:
    _, _, path = _written(tmp_path)
    texts = ["a plate", "  a < b and <|im_end|> </s> <cad:5><think> \n", "c<d>e"]
    answer, _ = llama(model=str(path), chats=texts)
    assert answer["chats"] == [build_prompt(text) for text in texts]


@pytest.mark.long
def test_texts_are_split_as_qwens_tokenizer_does(llama: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedTokenizerFast

    file = Path(os.environ.get("CADMLLM_SHARED", "../shared")) / "data" / "qwen_tokenizer" / "tokenizer.json"
    if not file.is_file():
        pytest.skip(f"{file} is not there: set CADMLLM_SHARED")

    def qwen(folder: Path, _: str) -> None:
        names = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
        PreTrainedTokenizerFast(tokenizer_file=str(file), **names).save_pretrained(folder)

    monkeypatch.setattr("gguf_models.make_tokenizer", qwen)
    _, _, path = _written(tmp_path, "q8_0", rows=151936)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path.parent)
    captions = [
        entry["text caption"] for part in (bundled("data") / "txt").glob("*.json") for entry in json.loads(part.read_text())
    ]
    texts = [*TEXTS, *map(build_prompt, captions), *_random_texts(3000)]
    answer, _ = llama(model=str(path), texts=[(text, True) for text in texts])
    for text, found in zip(texts, answer["tokens"], strict=True):
        assert found == tokenizer.encode(text, add_special_tokens=False), text


@pytest.fixture(scope="module")
def programs() -> list[list[int]]:
    """Token sequences of real programs: the bundled data set's."""
    from cadmllm.cad.omnicad_read import read_json
    from cadmllm.cad.tokens import encode

    files = sorted((Path(bundled("data")) / "json").rglob("*.json"))[::12]
    return [encode(read_json(file)).tokens for file in files]


def test_the_grammar_admits_programs_and_no_mutilated_ones(llama: Callable, tmp_path: Path, programs: list[list[int]]) -> None:
    source, _, path = _written(tmp_path)
    draw = random.Random(1)
    tried: list[list[int]] = list(programs)
    for tokens in programs:
        place = draw.randrange(len(tokens))
        tried.append([*tokens[:place], draw.randrange(CAD_SIZE), *tokens[place + 1 :]])
        tried.append(tokens[:place] + tokens[place + 1 :])
        tried.append([*tokens[:place], END])
    answer, _ = llama(model=str(path), grammar=grammar(), sequences=[[source.text_size + t for t in tokens] for tokens in tried])
    refused = 0
    for tokens, passed in zip(tried, answer["passed"], strict=True):
        state, ours = START, 0
        while ours < len(tokens) and state != DONE and NEXT[state, tokens[ours]] >= 0:
            state, ours = int(NEXT[state, tokens[ours]]), ours + 1
        assert passed == ours, tokens
        refused += ours < len(tokens)
    assert all(count == len(tokens) for tokens, count in zip(programs, answer["passed"], strict=False))
    assert refused > len(programs), "mutilated ones are refused at the same token"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Any]:
    """A checkpoint over the bundled base, which writes real programs, and its model."""
    from cadmllm.models.fusion import build_model
    from cadmllm.models.weights import save_model
    from cadmllm.settings import Settings

    lora: Any = {"enabled": True, "r": 4, "alpha": 8}
    model: Any = {"llm": "tiny", "points_encoder": "fourier", "image_encoder": "tiny", "image_bridge": "mlp"}
    settings = Settings(model=model, lora=lora, dtype="float32", device="cpu")
    built = build_model(settings, stage=1).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in built.named_parameters():
            if "lora_B" in name:  # else LoRA would change nothing
                value.copy_(0.02 * torch.randn(value.shape, generator=generator))
    folder = tmp_path_factory.mktemp("checkpoint")
    save_model(built, folder, {})
    return open_source(folder, settings), built


@pytest.mark.parametrize("dtype", ["fp32", "q8_0"])
def test_a_checkpoint_answers_the_same(llama: Callable, tmp_path: Path, trained: tuple[Source, Any], dtype: str) -> None:
    from cadmllm.corpus.prompt import encode_prompt
    from cadmllm.corpus.types import Sample
    from cadmllm.infer.generate import generate

    source, model = trained
    out = write_tokens(source, tmp_path / "out")
    path = write_gguf(source, merged_tensors(source, torch.float32), out, out / f"model-{dtype}.gguf", dtype)
    assert check_gguf(path, source, merged_tensors(source, torch.float32), dtype)["tensors"] == len(source.shapes())
    same = 0
    for caption in ("a simple cube", "a cylinder with a hole", "a plate with four holes in its corners", "an L-shaped bracket"):
        prompt = encode_prompt(model.tokenizer, source.text_size, caption)
        sample = Sample(id=caption, combination="text", caption=caption, target=None)
        ours = [source.text_size + t for t in generate(model, [sample], max_new_tokens=300)[0].tokens]
        task = {"prompt": prompt, "most": 300}
        answer, logits = llama(
            model=str(path), texts=[(build_prompt(caption), True)], ids=[prompt + ours[:-1]], greedy=task, grammar=grammar()
        )
        assert answer["tokens"][0] == prompt
        with torch.no_grad():
            batch = torch.tensor([prompt + ours[:-1]])
            hidden = model.llm(inputs_embeds=model.rows.embed(batch, model.llm.get_input_embeddings())).last_hidden_state
            expected = model.rows.logits(hidden)[0].numpy()[len(prompt) - 1 :]
        found = logits["0"][len(prompt) - 1 :, source.text_size : source.text_size + CAD_SIZE]
        apart = np.abs(found - expected).max()
        print(
            f"{dtype} {caption}: {len(ours)} tokens, logits {apart:.2g} apart (spread {expected.std():.2g})",
            answer["ruled"] == ours,
        )
        assert apart < (1e-3 if dtype == "fp32" else 0.2 * expected.std())
        same += answer["ruled"] == ours
        assert accepts([t - source.text_size for t in answer["ruled"]])
    assert same == 4 or dtype != "fp32"


def test_the_script_of_the_card_stays_within_the_vocabulary(llama: Callable, tmp_path: Path) -> None:
    """Also where the scores of text, which training never sees, are the higher ones."""
    from cadmllm.export.scripts import script

    source = make_source(tmp_path)
    model = resized(source)
    with torch.no_grad():
        model.get_output_embeddings().weight[: source.text_size] *= 10
    out = write_tokens(source, tmp_path / "out")
    path = write_gguf(source, tensors_of(model), out, out / "model-fp32.gguf", "fp32")
    code = script("gguf", "fp32", base="base", rows=source.rows, longest=40, context=256, gguf=path.name)
    python = os.environ.get("CADMLLM_LLAMA_PYTHON", sys.executable)
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, cwd=out)
    assert done.returncode == 0, done.stderr[-3000:]
    index = {text: k for k, text in enumerate(VOCABULARY)}
    tokens = [index[f"<{item}"] for item in done.stdout.strip().split("<")[1:]]
    state = START
    for token in tokens:
        state = int(NEXT[state, token])
        assert state >= 0
    assert len(tokens) == 40 or state == DONE
    task = {"prompt": source.base.tokenizer.encode(build_prompt("A rectangular plate with four corner holes.")), "most": 40}
    answer, _ = llama(model=str(path), greedy=task, grammar=grammar())
    assert [source.text_size + t for t in tokens] == answer["ruled"]
