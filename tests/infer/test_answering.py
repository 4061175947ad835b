"""From requests to parts: attempts, candidates, repair, size, and what the record says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cadmllm.cad.tokens import from_text
from cadmllm.cad.workshop import Workshop
from cadmllm.console import Console
from cadmllm.errors import CadmllmError
from cadmllm.infer import answering
from cadmllm.infer.api import CadModel, changed
from cadmllm.infer.generate import Answer
from cadmllm.infer.request import Request
from cadmllm.settings import InferSettings, Settings

GOOD = "size 40 mm\nplane_z -128\nrect -512 -256 1024 512\nnew_up 256\nend\n"
CUBE = "size 10 mm\nplane_z -512\nrect -512 -512 1024 1024\nnew_up 1024\nend\n"
FLAT = "size 40 mm\nplane_z 0\nloop 0 0\nhline 100\nhline 50\nhline 0\nclose\nnew_up 256\nend\n"
TORN = "size 40 mm\nplane_z -128\nrect -512 -256 1024 512\nhole 0 0\nline 100 100\nvline 0\nline 0 100\nclose\nnew_up 256\nend\n"


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop(1, 20.0) as open_one:
        yield open_one


class Scripted:
    """Stands for `generate`: gives the texts in their order and remembers what it was asked for."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.calls = iter(texts), []

    def __call__(self, _model: Any, samples: Sequence[Any], **asked: Any) -> list[Answer]:
        self.calls.append({**asked, "samples": samples})
        count = len(samples) * asked["copies"]
        return [Answer(tuple(from_text(next(self.texts))), True, -float(place + 1), 5) for place in range(count)]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, workshop: Workshop, fake):
    """A model that says what it is told to: `model(texts, **infer)` gives (CadModel, its calls)."""

    def make(texts: Sequence[str], **infer: Any) -> tuple[CadModel, list[dict[str, Any]]]:
        scripted = Scripted(texts)
        monkeypatch.setattr(answering, "generate", scripted)
        settings = Settings(infer=InferSettings(**infer))
        settings.model.point_count = 256
        network = fake()
        network.settings, network.stage, network.fingerprint = settings, 3, {}
        checkpoint = SimpleNamespace(model=network, folder=None, name="scripted", described=lambda: {"path": "scripted"})
        cad = CadModel(checkpoint, settings, Console(quiet=True), workshop)  # ty: ignore[invalid-argument-type]
        return cad, scripted.calls

    return make


def test_a_first_answer_that_builds_is_taken_as_it_is(model) -> None:
    cad, calls = model([GOOD], seed=7)
    part = cad.generate("a plate")
    assert [(call["seed"], call["temperature"]) for call in calls] == [(7, [0.0])]
    assert part.ok
    assert list(part.tokens) == from_text(GOOD)
    assert part.record["size_mm"] == pytest.approx([40.0, 20.0, 10.0])
    assert [row["verdict"] for row in part.record["candidates"]] == ["OK"]
    assert part.record["notes"] == []


def test_a_bad_answer_is_drawn_again_and_both_are_recorded(model) -> None:
    cad, calls = model([FLAT, GOOD], seed=7)
    part = cad.generate("a plate")
    assert [(call["seed"], call["temperature"]) for call in calls] == [(7, [0.0]), (8, [answering.RETRY_TEMPERATURE])]
    assert [row["verdict"] == "OK" for row in part.record["candidates"]] == [False, True]
    assert [row["attempt"] for row in part.record["candidates"]] == [1, 2]
    assert any(note.startswith("drawn 2 times") for note in part.record["notes"])
    assert part.ok


def test_the_attempts_end(model) -> None:
    cad, calls = model([FLAT] * 3, attempts=3, temperature=1.2)
    part = cad.generate("a plate")
    assert [(call["seed"], call["temperature"]) for call in calls] == [(0, [1.2]), (1, [1.2]), (2, [1.2])]
    assert not part.ok
    assert part.reason
    assert part.record["verdict"] == part.verdict.value != "OK"


def test_invalid_candidates_are_dropped_and_the_likeliest_valid_one_is_chosen(model) -> None:
    cad, calls = model([FLAT, GOOD, CUBE], candidates=3)
    part = cad.generate("a thing")
    assert calls[0]["copies"] == 3
    assert calls[0]["temperature"] == [0.0, answering.RETRY_TEMPERATURE, answering.RETRY_TEMPERATURE]
    assert list(part.tokens) == from_text(GOOD)  # -2 over its tokens against -3 over fewer
    assert [row["chosen"] for row in part.record["candidates"]] == [False, True, False]
    assert part.record["chosen"]["by"] == "likelihood"


def test_a_cloud_chooses_what_lies_in_it_and_gives_its_coordinates(model) -> None:
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (4000, 3))
    on = np.argmax(np.abs(points), axis=1)
    points[np.arange(4000), on] = np.sign(points[np.arange(4000), on])
    cad, _ = model([GOOD, CUBE], candidates=2)
    part = cad.generate(points=points * 5.0 + [100.0, 0.0, 0.0])
    assert list(part.tokens) == from_text(CUBE)
    assert part.record["chosen"]["by"] == "point cloud"
    assert np.allclose(part.record["box_mm"], [(95.0, -5.0, -5.0), (105.0, 5.0, 5.0)], atol=0.05)
    assert part.record["frame"] == "point cloud"
    assert part.record["points"] == {"count": cad.model.settings.model.point_count, "sampling": "uniform"}


def test_repair_says_what_it_did_and_is_not_done_unasked(model) -> None:
    cad, _ = model([TORN] * 8, attempts=1)
    assert not cad.generate("a plate").ok
    mended = cad.generate("a plate", repair=True)
    assert mended.ok
    assert mended.record["repairs"]
    assert 7800.0 < mended.record["volume_mm3"] <= 8000.0
    assert mended.altered


@pytest.mark.parametrize(("text", "size"), [("a plate", "80x40x20mm"), ("a plate 80 x 40 x 20 mm", None)])
def test_a_size_scales_the_result(model, text: str, size: str | None) -> None:
    cad, _ = model([GOOD])
    part = cad.generate(text, size=size)
    assert part.record["size_mm"] == pytest.approx([80.0, 40.0, 20.0], rel=1e-6)
    assert part.record["volume_mm3"] == pytest.approx(64000.0)
    assert part.altered


def test_requests_are_answered_side_by_side_and_in_order(model) -> None:
    cad, calls = model([GOOD, CUBE, GOOD, GOOD], batch_size=2)
    requests = [Request("a", "one"), Request("b", "two"), Request("c", "three"), Request("d", "four", seed=9)]
    parts = list(cad.answer(requests))
    assert [part.name for part in parts if not isinstance(part, CadmllmError)] == ["a", "b", "c", "d"]
    assert [(len(call["samples"]), call["seed"]) for call in calls] == [(2, 0), (1, 0), (1, 9)]
    assert [part.record["size_mm"][0] for part in parts] == pytest.approx([40.0, 10.0, 40.0, 40.0])


def test_one_bad_request_does_not_stop_the_others(model) -> None:
    cad, _ = model([GOOD, GOOD])
    found = list(cad.answer([Request("a", "one"), Request("b"), Request("c", "x", size="nonsense"), Request("d", "two")]))
    assert [type(item).__name__ for item in found] == ["Part", "CadmllmError", "CadmllmError", "Part"]
    assert [item.code for item in found if isinstance(item, CadmllmError)] == ["E703", "E705"]


def test_settings_of_a_call_are_checked() -> None:
    assert changed(InferSettings(seed=3), {"candidates": 4, "temperature": None}) == InferSettings(seed=3, candidates=4)
    for wrong in ({"candidates": 0}, {"temprature": 1.0}, {"top_p": 2.0}):
        with pytest.raises(CadmllmError) as caught:
            changed(InferSettings(), wrong)
        assert caught.value.code == "E102"
        assert next(iter(wrong)) in caught.value.message
