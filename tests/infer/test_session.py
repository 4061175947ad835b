"""Attempts: the first answer that the kernel makes a solid of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cadmllm.cad.tokens import from_text
from cadmllm.cad.workshop import Workshop
from cadmllm.console import Console
from cadmllm.corpus.types import Sample
from cadmllm.infer import session
from cadmllm.infer.generate import Answer
from cadmllm.settings import InferSettings

GOOD = "size 40 mm\nplane_z -128\nrect -512 -256 1024 512\nnew_up 256\nend\n"
FLAT = "size 40 mm\nplane_z 0\nloop 0 0\nhline 100\nhline 50\nhline 0\nclose\nnew_up 256\nend\n"
SAMPLE = Sample("prompt", "text", "a plate", None)


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop(1, 20.0) as open_one:
        yield open_one


def attempts_with(monkeypatch, workshop, texts: list[str], asked: InferSettings):
    """What `first_solid` returns when the model's answers are these, and the (seed, temperature) of each call."""
    calls: list[tuple[int, float]] = []

    def scripted(_model, _samples, *, max_new_tokens, temperature, top_p, seed):
        calls.append((seed, temperature))
        return [Answer(tuple(from_text(texts[len(calls) - 1])), True, -1.0, 5)]

    monkeypatch.setattr(session, "generate", scripted)
    answer, tried = session.first_solid(None, SAMPLE, asked, workshop, Console(quiet=True))
    return answer, tried, calls


def test_a_first_answer_that_builds_is_taken_as_it_is(monkeypatch, workshop):
    answer, tried, calls = attempts_with(monkeypatch, workshop, [GOOD], InferSettings(seed=7))
    assert calls == [(7, 0.0)]
    assert [a["verdict"] for a in tried] == ["OK"]
    assert list(answer.tokens) == from_text(GOOD)


def test_a_bad_answer_is_drawn_again_and_both_are_recorded(monkeypatch, workshop):
    answer, tried, calls = attempts_with(monkeypatch, workshop, [FLAT, GOOD], InferSettings(seed=7))
    assert calls == [(7, 0.0), (8, session.RETRY_TEMPERATURE)]
    assert [a["verdict"] == "OK" for a in tried] == [False, True]
    assert list(answer.tokens) == from_text(GOOD)


def test_the_attempts_end(monkeypatch, workshop):
    answer, tried, calls = attempts_with(monkeypatch, workshop, [FLAT] * 3, InferSettings(attempts=3, temperature=1.2))
    assert calls == [(0, 1.2), (1, 1.2), (2, 1.2)]
    assert len(tried) == 3
    assert list(answer.tokens) == from_text(FLAT)
