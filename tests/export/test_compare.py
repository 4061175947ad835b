"""Distances of logits by hand, what is refused, and the room that a comparison finds."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.cad.grammar import ALLOWED, NEXT, START
from cadmllm.cad.vocabulary import END
from cadmllm.corpus.types import CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export.compare import EXACT, ROUNDED, Distance, Tolerance, agreement, measure, refuse_far, summary, tolerance
from cadmllm.export.prompts import targets
from cadmllm.export.room import WORK, find_room, free_bytes
from cadmllm.infer.constrain import cad_tables
from cadmllm.settings import Settings

TABLES = cad_tables("cpu")


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, CAD_SIZE, generator=torch.Generator().manual_seed(seed)) * 3.0


def test_the_same_logits_have_no_distance():
    ours = logits(5)
    answer = tuple(int(t) for t in targets()[0][:3])
    found = measure(ours, ours.clone(), answer, TABLES)
    assert (found.distance, found.divergence) == (0.0, 0.0)


@given(st.floats(1e-6, 1e3), st.floats(-50.0, 50.0))
def test_distance_is_in_units_of_the_spread_and_divergence_knows_no_offset(scale: float, offset: float):
    ours, step = logits(3).double() * scale, 0.25
    theirs = ours.clone()
    theirs[1, 7] += step * ours[1].std()
    found = measure(ours, theirs, (), TABLES)
    assert math.isclose(found.distance, step, rel_tol=1e-6)
    shifted = measure(ours, ours + offset * scale, (), TABLES)
    assert abs(shifted.divergence) < 1e-9


def test_the_divergence_of_two_coins():
    ours = torch.full((1, CAD_SIZE), -1e4)
    ours[0, :2] = 0.0
    theirs = ours.clone()
    theirs[0, 0] = math.log(3.0)  # 3 to 1
    wanted = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert math.isclose(measure(ours, theirs, (), TABLES).divergence, wanted, rel_tol=1e-6)


def test_agreement_is_under_the_grammar():
    answer = tuple(int(t) for t in targets()[0][:20])
    scores = torch.zeros(len(answer), CAD_SIZE)
    scores[range(len(answer)), list(answer)] = 1.0
    scores[0, END] = 2.0  # more likely, and not allowed where an answer begins
    assert agreement(scores, answer, TABLES) == 1.0
    state = START
    for token in answer[:5]:
        state = int(NEXT[state, token])
    other = next(int(token) for token in np.flatnonzero(ALLOWED[state]) if token != answer[5])
    scores[5, other] = 1.5
    assert agreement(scores, answer, TABLES) == 0.95, "the answer goes on as the checkpoint wrote it"


@pytest.mark.parametrize("value", [0.31, math.nan, math.inf])
def test_what_is_too_far_names_prompt_distance_and_tolerance(value: float):
    with pytest.raises(CadmllmError) as caught:
        refuse_far("text-long", Distance(value, 0.0, 1.0), EXACT["bf16"], "bf16")
    assert caught.value.code == "E721"
    assert "'text-long'" in caught.value.message
    assert "0.3" in caught.value.message
    assert "--dtype fp32" in caught.value.remedy
    with pytest.raises(CadmllmError):
        refuse_far("text-long", Distance(0.0, value, 1.0), EXACT["bf16"], "bf16")
    refuse_far("text-long", Distance(0.1, 0.001, 0.5), EXACT["bf16"], "bf16")


def test_tolerances_grow_with_what_is_rounded():
    order = [EXACT[name].distance for name in ("fp32", "fp16", "bf16", "q8_0")]
    assert order == sorted(order)
    for name in EXACT:
        assert tolerance(name, torch.float32) == EXACT[name]
        assert tolerance(name, torch.bfloat16).distance >= max(EXACT[name].distance, ROUNDED.distance)
    worst = summary({"a": Distance(0.1, 0.2, 1.0), "b": Distance(0.3, 0.1, 0.5)}, Tolerance(1.0, 1.0))["worst"]
    assert worst == {"distance": 0.3, "divergence": 0.2, "agreement": 0.5}


def source(parameters: int, *, lora: bool = True, held: torch.dtype = torch.bfloat16) -> Any:
    tensors = SimpleNamespace(names=lambda: ["w"], dtype=lambda name: held)
    state = SimpleNamespace(names=list, shape=lambda name: ())
    shapes = {"w": (parameters,)}
    return SimpleNamespace(
        shapes=lambda: shapes, lora=lora, base=SimpleNamespace(tensors=tensors), state=state, rows=10, width=10
    )


@pytest.mark.parametrize(
    ("parameters", "free", "lora", "dtype", "paged"),
    [
        (10**9, 6 * 10**9, True, torch.float32, False),
        (10**9, 4 * 10**9, True, torch.bfloat16, False),
        (10**9, 2 * 10**9, True, torch.bfloat16, True),
        (8 * 10**9, 64 * 10**9, True, torch.bfloat16, False),  # 32 bit would take minutes a prompt
        (8 * 10**9, 64 * 10**9, False, torch.float32, False),  # but a whole decoder is held in it
    ],
)
def test_the_most_exact_way_that_fits(
    parameters: int, free: int, lora: bool, dtype: torch.dtype, paged: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cadmllm.export.room.free_bytes", lambda device: free)
    found = find_room(source(parameters, lora=lora), Settings(device="cpu"), torch.bfloat16)
    assert (found.dtype, found.paged) == (dtype, paged)


def test_too_little_memory_is_said_with_figures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cadmllm.export.room.free_bytes", lambda device: WORK)
    for lora, written in ((True, None), (True, torch.float32), (False, torch.bfloat16)):
        with pytest.raises(CadmllmError) as caught:
            find_room(source(8 * 10**9, lora=lora), Settings(device="cpu"), written)
        assert caught.value.code == "E814"
        assert "8.00 billion" in caught.value.message
        assert "1.1 GB free" in caught.value.message


def test_free_memory_is_that_of_the_machine_or_of_the_container(tmp_path: Path):
    cpu = torch.device("cpu")
    assert free_bytes(cpu, tmp_path) == 1 << 62, "a system that does not say"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   64 kB\n")
    assert free_bytes(cpu, tmp_path) == 64 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    for limit, wanted in (("max\n", 64 * 1024), ("5000\n", 4000), ("500\n", 0)):
        (group / "memory.max").write_text(limit)
        assert free_bytes(cpu, tmp_path) == wanted
    assert free_bytes(cast("Any", cpu)) > 0
