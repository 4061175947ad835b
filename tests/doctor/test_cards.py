"""What NVML says, and what it refuses to say."""

from __future__ import annotations

import pytest
from fake_gpu import GIB, card, nvml, wsl_card

from cadmllm.doctor import cards
from cadmllm.doctor.cards import Card, Holder, card_of, cards_of, read_cards, visible
from cadmllm.doctor.check import Situation
from cadmllm.doctor.machine import Machine
from cadmllm.settings import Settings


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What `read_cards` makes of a stub."""

    def read(source: str, **environ: str):
        (tmp_path / "pynvml.py").write_text(source, encoding="utf-8")
        return read_cards({"PYTHONPATH": str(tmp_path), **environ})

    return read


def test_everything_that_nvml_tells(told):
    busy = card(compute=[[7, "/usr/bin/python3", 3 * GIB]], graphics=[[8, "/usr/lib/xorg/Xorg", None]], display=1)
    found = told(nvml(card(name="first", uuid="GPU-a"), busy))
    assert (found.driver, found.cuda, found.error, found.kind, found.lost) == ("580.95.05", (13, 0), "", "", ())
    first, second = found.cards
    assert (first.index, first.name, first.uuid, first.processes, first.display) == (0, "first", "GPU-a", (), False)
    assert second == Card(
        index=1,
        name="NVIDIA GeForce RTX 5070 Ti",
        uuid=busy["uuid"],
        total=16303 << 20,
        free=15800 << 20,
        capability=(12, 0),
        processes=(Holder(7, "/usr/bin/python3", 3 * GIB), Holder(8, "/usr/lib/xorg/Xorg", None, True)),
        display=True,
        temperature=36,
        power=12.0,
        limit=300.0,
        usual_limit=300.0,
        throttle=1,
        generation=1,
        most_generation=5,
        width=16,
        most_width=16,
        utilisation=0,
    )


def test_what_is_refused_is_none(told):
    only = dict.fromkeys(card())
    (seen,) = told(nvml(card(**only | {"total": 8 * GIB, "free": GIB}))).cards
    assert seen == Card(0, "GPU", "", 8 * GIB, GIB, (0, 0))
    (seen,) = told(nvml(wsl_card())).cards
    assert (seen.processes, seen.throttle, seen.power, seen.limit) == (None, None, None, None)
    assert seen.temperature == 36


@pytest.mark.parametrize(
    ("kind", "error"),
    [("LibraryNotFound", "NVML Shared Library Not Found"), ("LibRmVersionMismatch", "Driver/library version mismatch")],
)
def test_a_driver_that_does_not_answer(told, kind, error):
    found = told(nvml(kind=kind, error=error))
    assert (found.cards, found.kind, found.error) == ((), kind, error)


def test_a_driver_that_hangs_or_crashes(told, monkeypatch):
    monkeypatch.setattr(cards, "SECONDS", 0.5)
    found = told(nvml(card(), hangs=True))
    assert (found.kind, found.error) == ("hang", "no answer within 0 s")
    found = told(nvml(card(), crashes=True))
    assert (found.kind, found.error) == ("crash", "killed by SIGSEGV")


def test_pynvml_that_is_missing(told):
    found = told("raise ImportError('No module named pynvml')")
    assert found.kind == "ImportError"


def test_a_card_that_fell_off_the_bus(told):
    found = told(nvml(None, card()))
    assert found.lost == (0,)
    assert [one.index for one in found.cards] == [1]


def test_a_slice_of_a_card(told):
    part = card(name="MIG 1g.10gb", uuid="MIG-1", total=10 * GIB)
    found = told(nvml(card(), slices={"MIG-1": part}), CUDA_VISIBLE_DEVICES="MIG-1")
    assert [one.index for one in found.cards] == [0, -1]
    (seen,) = visible(found.cards, {"CUDA_VISIBLE_DEVICES": "MIG-1"})
    assert (seen.name, seen.total) == ("MIG 1g.10gb", 10 * GIB)
    assert [one.index for one in visible(found.cards, {})] == [0]


@pytest.mark.parametrize(
    ("chosen", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("0,7,1", [0]),
        ("1,1", [1]),
        ("GPU-bbb, GPU-a", [1, 0]),
        ("GPU-", []),
        ("NoDevFiles", []),
    ],
)
def test_what_cuda_may_see(chosen, indices):
    names = ("GPU-aaa", "GPU-bbb", "GPU-ccc")
    three = tuple(Card(k, "x", uuid, GIB, GIB, (8, 9)) for k, uuid in enumerate(names))
    environ = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert [one.index for one in visible(three, environ)] == indices


@pytest.fixture
def situation(tmp_path):
    """A run on `device` beside two cards."""

    def make(device: str, **environ: str) -> Situation:
        (tmp_path / "pynvml.py").write_text(nvml(card(name="A", uuid="GPU-a"), card(name="B", uuid="GPU-b")), encoding="utf-8")
        return Situation(Settings(device=device), machine=Machine(tmp_path, {"PYTHONPATH": str(tmp_path), **environ}))

    return make


@pytest.mark.parametrize(
    ("device", "chosen", "name"),
    [
        ("cpu", None, None),
        ("auto", None, "A"),
        ("cuda", "1", "B"),
        ("cuda:1", None, "B"),
        ("cuda:1", "1,0", "A"),
        ("cuda:1", "GPU-b", None),
        ("auto", "", None),
    ],
)
def test_the_card_of_the_settings(situation, device, chosen, name):
    environ = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    found = card_of(situation(device, **environ))
    assert (found.name if found else None) == name


def test_nvml_is_asked_once_and_not_at_all_for_a_cpu(situation, monkeypatch):
    asked = []
    monkeypatch.setattr(cards, "read_cards", lambda environ: asked.append(environ) or cards.Cards())
    assert card_of(situation("cpu")) is None
    assert asked == []
    here = situation("auto")
    assert cards_of(here) is cards_of(here)
    assert card_of(here) is None
    assert len(asked) == 1
