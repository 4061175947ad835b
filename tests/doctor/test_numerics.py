"""That wrong numbers are caught, on a CPU at small size, and what is made of them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scene import build

from cadmllm.doctor import cards, numerics, numerics_probe
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.numerics import Answer, ask, check_numbers, judge, needed_of, request_of, wanted_tests
from cadmllm.doctor.numerics_probe import LEVELS, LIMITS, TESTS, Request, examine, plain_attention
from cadmllm.models import attention
from cadmllm.resolve import resolve

SMALL = {"heads": 4, "kv_heads": 2, "head_dim": 16, "hidden": 64}
ON_CPU = ("product", "attention: sdpa", "attention: eager", "attention: encoders", "sdpa kernel: math", "nf4")
ON_CPU += ("optimizer: adamw", "optimizer: adamw_8bit")


def answers_of(*tests: str, dtype: str = "float32", **changed) -> dict[str, Answer]:
    """As `ask` makes them, in this process."""
    answers = {name: Answer(name) for name in tests}
    for row in examine(Request(dtype=dtype, tests=tests, **(SMALL | changed))):
        if "part" in row:
            answers[row["test"]].parts.append((row["part"], row["error"], row["limit"]))
        elif "absent" in row:
            answers[row["test"]].absent = row["absent"]
    return answers


@pytest.mark.parametrize("dtype", LIMITS)
def test_everything_that_runs_on_a_cpu_is_right(dtype):
    for name, answer in answers_of(*ON_CPU, dtype=dtype).items():
        assert answer.right, answer.told()
        part, error, limit = answer.worst
        assert 0 < error < limit / 2, f"{name}: {part}: the limit is near what is usual"


def test_what_does_not_run_here_says_why():
    answers = answers_of("attention: varlen", "attention: flex", "attention: flash_attention_2")
    assert all(answer.absent and not answer.right for answer in answers.values())
    assert "flash_attn" in answers["attention: flash_attention_2"].absent


def test_the_references_know_an_attention_by_hand():
    q = k = torch.zeros(1, 1, 3, 2, dtype=torch.float64)
    v = torch.tensor([[[[1.0, 0.0], [3.0, 0.0], [8.0, 2.0]]]], dtype=torch.float64)
    causal = plain_attention(q, k, v, (2, 1), causal=True)[0, :, 0]
    assert causal.tolist() == [[1.0, 0.0], [2.0, 0.0], [8.0, 2.0]]
    every = plain_attention(q, k, v, (3,), causal=False)[0, :, 0]
    assert every.tolist() == [[4.0, pytest.approx(2 / 3)]] * 3


def test_the_levels_are_bitsandbytes_own():
    from bitsandbytes.functional import get_4bit_type

    assert get_4bit_type("nf4", device="cpu").tolist() == pytest.approx(LEVELS, abs=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (lambda out, q, k, v: out * 1.1, ""),
        (lambda out, q, k, v: out.index_fill(1, torch.tensor([17]), 0.0), "output"),  # one token of 366
        (lambda out, q, k, v: out.index_fill(1, torch.tensor([17]), math.nan), "output"),
        (lambda out, q, k, v: out.detach() + 0.0 * out, "gradient"),
        (lambda out, q, k, v: out + 0.0 * k.detach().sum() + (k - k.detach()).sum(), "gradient of k"),
    ],
)
def test_an_attention_that_is_wrong_is_caught(monkeypatch, dtype, wrong, part):
    right = attention.by_document

    def spoiled(module, q, k, v, *others, **more):
        out, weights = right(module, q, k, v, *others, **more)
        return wrong(out, q, k, v), weights

    monkeypatch.setattr(attention, "by_document", spoiled)
    answers = answers_of("attention: sdpa", "attention: eager", dtype=dtype)
    assert not answers["attention: sdpa"].right
    assert part in answers["attention: sdpa"].worst[0]
    assert answers["attention: eager"].right
    settings = resolve(preset="tiny", environ={}).settings
    (finding,) = judge(answers, ("attention: sdpa", "attention: eager"), settings, "cpu")
    assert (finding.code, finding.level, finding.remedy) == ("E853", Level.FAIL, "--set model.attention=eager")


def test_documents_that_see_each_other_are_caught(monkeypatch):
    right = attention.by_document

    def leaking(module, q, k, v, mask, documents, *others):
        return right(module, q, k, v, mask, [sum(documents)], *others)

    monkeypatch.setattr(attention, "by_document", leaking)
    assert not answers_of("attention: sdpa", dtype="bfloat16")["attention: sdpa"].right


def test_weights_that_come_back_wrong_are_caught(monkeypatch):
    import bitsandbytes.functional

    right = bitsandbytes.functional.dequantize_4bit
    monkeypatch.setattr(bitsandbytes.functional, "dequantize_4bit", lambda *given: right(*given).roll(1, 0))
    answer = answers_of("nf4")["nf4"]
    assert not answer.right
    assert answer.worst[1] > 0.02


def test_a_product_with_nf4_that_is_wrong_is_caught(monkeypatch):
    from bitsandbytes.nn import Linear4bit

    right = Linear4bit.forward

    def single(self, x):
        return right(self, x) * (0.5 if x.shape[0] == 1 else 1.0)

    monkeypatch.setattr(Linear4bit, "forward", single)
    assert answers_of("nf4")["nf4"].worst[0] == "output for a single token"


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit"])
def test_an_optimizer_that_is_wrong_is_caught(monkeypatch, name):
    from cadmllm.train.eightbit import MixedAdamW

    kind = torch.optim.AdamW if name == "adamw" else MixedAdamW
    right = kind.step

    def slow(self, *given):
        for group in self.param_groups:
            if group["lr"] == numerics_probe.RATE:  # not the trial that mixed_adamw makes
                group["lr"] *= 0.9
        return right(self, *given)

    monkeypatch.setattr(kind, "step", slow)
    answers = answers_of(f"optimizer: {name}")
    assert not answers[f"optimizer: {name}"].right


def test_an_error_of_cuda_ends_the_process(monkeypatch):
    def broken(request):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(TESTS, "product", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        list(examine(Request(tests=("product",))))


@pytest.mark.long
def test_one_that_crashes_costs_its_own_test_alone(monkeypatch):
    crash = "import os, signal\nfrom cadmllm.doctor import numerics_probe\n"
    crash += "numerics_probe.TESTS['attention: eager'] = lambda request: os.kill(os.getpid(), signal.SIGSEGV)\n"
    monkeypatch.setattr(numerics, "_PROBE", crash + numerics._PROBE)
    answers = ask({**SMALL, "device": "cpu", "dtype": "float32"}, ("product", "attention: eager", "optimizer: adamw"))
    assert answers["product"].right
    assert answers["optimizer: adamw"].right
    assert answers["attention: eager"].broken == "killed by SIGSEGV"


def test_the_command_line_of_the_probe_needs_no_settings():
    request = json.dumps({**SMALL, "tests": ["attention: sdpa", "optimizer: adamw_8bit"]})
    code = "import sys, cadmllm.doctor.numerics_probe as n\nn.main()\n"
    code += "print(sorted({'pydantic', 'transformers', 'OCP', 'peft'} & set(sys.modules)))"
    root = Path(numerics_probe.__file__).parents[2]
    command = [sys.executable, "-c", code, request]
    *rows, heavy = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=True).stdout.splitlines()
    assert json.loads(rows[0]) == {"begun": "attention: sdpa"}
    assert json.loads(rows[1])["part"] == "output"
    assert json.loads(rows[-1]) == {"done": "optimizer: adamw_8bit"}
    assert heavy == "[]"


def test_what_a_run_uses():
    ours = resolve(preset="16gb", environ={}).settings
    used, others = wanted_tests(ours, (1, 2, 3), "cuda:0")
    assert used[:5] == ("product", *(f"attention: {name}" for name in ("flash_attention_2", "varlen", "sdpa", "eager")))
    assert used[5:] == ("attention: encoders", "nf4", f"optimizer: {ours.train.optimizer}")
    assert others == ("optimizer: adamw", *(f"sdpa kernel: {name}" for name in numerics.KERNELS))
    assert "attention: encoders" not in wanted_tests(ours, (1,), "cuda:0")[0]
    ours.model.attention = "flex"
    used, others = wanted_tests(ours, (1,), "cuda:0")
    assert used[1] == "attention: flex"
    assert "attention: eager" in others
    assert {*used, *others} <= set(TESTS)
    assert request_of(ours, "cuda:0") == {
        "device": "cuda:0",
        "dtype": "bfloat16",
        "heads": 32,
        "kv_heads": 8,
        "head_dim": 128,
        "hidden": 4096,
    }


def test_the_first_candidate_that_runs_is_the_one_that_counts():
    settings = resolve(preset="16gb", environ={}).settings
    used = ("attention: flash_attention_2", "attention: varlen", "attention: sdpa", "nf4")
    answers = {name: Answer(name, [("output", 1e-3, 0.04)]) for name in used}
    answers["attention: flash_attention_2"] = Answer("attention: flash_attention_2", absent="not installed")
    assert needed_of(answers, used, settings) == ["attention: varlen", "nf4"]
    assert judge(answers, used, settings, "cuda:0") == []
    answers["attention: varlen"].parts.append(("gradient of q", 0.2, 0.04))
    answers["attention: sdpa"].broken = "killed by SIGSEGV"
    answers["attention: eager"] = Answer("attention: eager", [("output", 1e-3, 0.04)])
    (finding,) = judge(answers, used, settings, "cuda:0")
    assert "gradient of q is off by 0.2, where 0.04 is allowed" in finding.message
    assert finding.remedy == "--set model.attention=eager"


@pytest.mark.parametrize(
    ("name", "answer", "code", "remedy"),
    [
        ("nf4", {"parts": [("output", math.nan, 0.04)]}, "E853", "model.quantization=none"),
        ("nf4", {"absent": "no library for CUDA 13.2"}, "E613", "model.quantization=none"),
        ("optimizer: paged_adamw_8bit", {"parts": [("the way", 0.3, 0.05)]}, "E853", "--set train.optimizer=adamw"),
        ("attention: sdpa", {"absent": "no kernel"}, "E612", "--set model.attention=eager"),
        ("attention: sdpa", {"broken": "killed by SIGSEGV"}, "E853", "--set model.attention=eager"),
        ("product", {"parts": [("output", 0.3, 0.04)]}, "E853", "newest driver and torch"),
        ("attention: encoders", {"parts": [("output", 0.3, 0.04)]}, "E853", "--set dtype=float32"),
    ],
)
def test_what_to_do_about_it(name, answer, code, remedy):
    settings = resolve(preset="16gb", environ={}).settings
    settings.model.attention = "sdpa"
    good = [("output", 1e-3, 0.04)]
    answers = {other: Answer(other, good) for other in ("attention: eager", "optimizer: adamw")}
    answers[name] = Answer(name, **answer)
    (finding,) = judge(answers, (name,), settings, "cuda:0")
    assert (finding.code, finding.level) == (code, Level.FAIL)
    assert remedy in finding.remedy


def test_a_test_that_was_not_reached_is_a_warning():
    settings = resolve(preset="tiny", environ={}).settings
    (finding,) = judge({"product": Answer("product")}, ("product",), settings, "cpu")
    assert finding.level is Level.WARN


@pytest.mark.long
def test_the_check_itself(tmp_path, monkeypatch):
    ((_, outcome),) = build(tmp_path, monkeypatch).examine("numbers").outcomes
    assert outcome.findings == ()
    assert outcome.summary == "product, sdpa, encoders, optimizer: adamw: right on cpu in float32"
    assert any(line.startswith("attention: eager: right") for line in outcome.details)


def test_a_gpu_that_is_not_there_is_said_by_another_check(monkeypatch):
    monkeypatch.setattr(cards, "read_cards", lambda environ: cards.Cards())
    settings = resolve(preset="tiny", environ={}).settings
    settings.device = "cuda:7"
    assert "there is no GPU" in check_numbers(Situation(settings)).skipped
