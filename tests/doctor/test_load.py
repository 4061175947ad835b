"""What else is on a card and what holds it back; the cards are made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cadmllm.doctor import cards, load
from cadmllm.doctor.cards import Card, Cards, Holder
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.load import check_load, check_spill, judge_heat, judge_link, judge_power, plan_total, spilled_at
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.probe import run_probe
from cadmllm.plan.sizes import GIB
from cadmllm.resolve import resolve

IDLE = Card(
    index=0,
    name="NVIDIA GeForce RTX 5070 Ti",
    uuid="GPU-5070",
    total=int(15.9 * GIB),
    free=int(15.5 * GIB),
    capability=(12, 0),
    processes=(),
    display=False,
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


@pytest.fixture
def situation(monkeypatch, tmp_path):
    """A run of the preset 16gb on this card."""

    def make(card: Card, wsl: bool = False) -> Situation:
        monkeypatch.setattr(cards, "read_cards", lambda environ: Cards((card,), "580.1", (13, 0)))
        (tmp_path / "proc").mkdir(exist_ok=True)
        (tmp_path / "proc" / "version").write_text("Linux microsoft" if wsl else "Linux")
        return Situation(resolve(preset="16gb", environ={}).settings, machine=Machine(tmp_path, {}))

    return make


@pytest.mark.parametrize("wsl", [False, True])
def test_an_idle_card_is_well(situation, wsl):
    outcome = check_load(situation(IDLE, wsl))
    assert outcome.findings == ()
    assert outcome.summary == "15.5 of 15.9 GiB free, 36 C, PCIe x16 of x16"
    assert "NVML does not tell" not in " ".join(outcome.details)


def test_what_nvml_refuses_is_said_and_no_finding(situation):
    bare = Card(0, "x", "", int(15.9 * GIB), int(15.5 * GIB), (12, 0))
    outcome = check_load(situation(bare, wsl=True))
    assert outcome.findings == ()
    assert outcome.details[-1] == "NVML does not tell here: other processes, temperature, power, throttling, PCIe link"


def test_who_holds_the_memory(situation):
    holders = (
        Holder(11, "/usr/lib/xorg/Xorg", GIB // 3, draws=True),
        Holder(12, "/home/someone/.venv/bin/python3", 4 * GIB),
        Holder(13, "C:\\Games\\game.exe", None),
    )
    busy = replace(IDLE, free=11 * GIB, processes=holders, display=True)
    (finding,) = check_load(situation(busy)).findings
    assert (finding.code, finding.level) == ("E852", Level.WARN)
    assert "11.0 of 15.9 GiB are free" in finding.message
    assert "by python3 (pid 12) 4.0 GiB, Xorg (pid 11) 0.3 GiB, game.exe (pid 13), among it the screen" in finding.message
    assert "/home" not in finding.message
    assert finding.remedy == "close what else uses the GPU: kill 12", "nobody is told to end the desktop"


def test_memory_that_is_held_and_not_missed_is_no_finding(situation):
    need = plan_total(situation(IDLE))
    assert check_load(situation(replace(IDLE, free=need + 1))).findings == ()
    assert [f.code for f in check_load(situation(replace(IDLE, free=need - 1))).findings] == ["E852"]


def test_a_run_that_the_card_is_too_small_for_is_not_the_others_fault(situation):
    assert check_load(situation(replace(IDLE, total=8 * GIB, free=7 * GIB))).findings == ()


def test_wsl_spills(situation):
    held = replace(IDLE, free=9 * GIB, processes=None)
    who, spill = check_load(situation(held, wsl=True)).findings
    assert (who.code, spill.code) == ("E852", "E856")
    assert "NVML does not name here" in who.message
    assert "Task Manager" in who.remedy
    assert spill.remedy.startswith("--set train.")
    assert "Prefer No Sysmem Fallback" in spill.remedy
    small = replace(IDLE, total=8 * GIB, free=7 * GIB)
    assert [f.code for f in check_load(situation(small, wsl=True)).findings] == ["E856"]


@pytest.mark.parametrize(
    ("changed", "said", "remedy"),
    [
        ({"temperature": 91}, "is at 91 C before the run", "-pl 255"),
        ({"throttle": 0x40, "temperature": 80}, "too hot (hardware)", "-pl 255"),
        ({"throttle": 0x20 | 0x4}, "too hot (driver)", "give it air"),
        ({"throttle": 0x80 | 0x8}, "power supply", "cable"),
        ({"throttle": 0x8}, "hardware slows it down", "PERFORMANCE"),
        ({"throttle": 0x40, "limit": None, "usual_limit": None}, "too hot", "-pl WATTS"),
    ],
)
def test_heat_and_throttling(changed, said, remedy):
    (finding,) = judge_heat(replace(IDLE, **changed), wsl=False)
    assert (finding.code, finding.level) == ("E854", Level.WARN)
    assert said in finding.message
    assert remedy in finding.remedy
    (finding,) = judge_heat(replace(IDLE, temperature=91), wsl=True)
    assert "terminal of Windows: nvidia-smi" in finding.remedy


@pytest.mark.parametrize("bits", [0, 1, 2, 4, 0x10, 0x100, None])
def test_clocks_that_are_low_for_good_reasons(bits):
    assert judge_heat(replace(IDLE, throttle=bits, temperature=85), wsl=False) == []


def test_a_low_power_limit():
    (finding,) = judge_power(replace(IDLE, limit=150.0), wsl=False)
    assert (finding.code, finding.remedy) == ("E854", "sudo nvidia-smi -i GPU-5070 -pl 300 (a laptop: plug it in)")
    assert judge_power(replace(IDLE, limit=0.85 * 300), wsl=False) == [], "our own advice for a hot card"
    assert judge_power(replace(IDLE, limit=None), wsl=False) == []


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, False),  # an idle card drops its generation
        ({"width": 1}, True),
        ({"width": 4}, True),
        ({"width": 8}, False),
        ({"width": 4, "most_width": 4}, False),  # all that the slot has
        ({"generation": 5, "utilisation": 99}, False),
        ({"generation": 2, "utilisation": 99}, True),
        ({"generation": 4, "utilisation": 99}, False),
        ({"width": None, "most_width": None, "generation": None}, False),
    ],
)
def test_the_link(changed, found):
    codes = [finding.code for finding in judge_link(replace(IDLE, **changed))]
    assert codes == (["E855"] if found else [])


@pytest.mark.parametrize(
    ("rates", "at"),
    [
        ([], None),
        ([400.0] * 9, None),
        ([400.0, 410.0, 395.0, 400.0, 20.0, 400.0, 400.0], None),  # a hiccup
        ([400.0, 410.0, 395.0, 400.0, 20.0, 18.0], 4),
        ([400.0, 410.0, 395.0, 400.0, 20.0], 4),
        ([30.0, 400.0, 400.0, 400.0, 400.0, 400.0], None),  # the first is slow: kernels are being loaded
    ],
)
def test_where_a_spill_begins(rates, at):
    assert spilled_at(rates) == at


def test_memory_is_filled_block_by_block():
    pytest.importorskip("torch")
    probe = run_probe(load._SPILL, "cpu", "0.5", str(2**20), str(2**24), seconds=60)
    assert probe.end == "", probe.stderr
    assert sum("rate" in line for line in probe.lines) == 8
    assert all(line["rate"] > 0 for line in probe.lines if "rate" in line)


@pytest.mark.parametrize(
    ("lines", "end", "level", "said"),
    [
        ([{"rate": 4e11}] * 40, "", Level.OK, "10.0 GiB filled without a spill"),
        ([{"rate": 4e11}] * 40 + [{"full": "CUDA out of memory"}], "", Level.OK, "10.0 GiB"),
        ([{"rate": 4e11}] * 40 + [{"rate": 1e10}] * 5, "", Level.WARN, "from 10.00 GiB on"),
        ([{"rate": 4e11}] * 40, "no answer within 120 s", Level.WARN, "no answer"),
        ([{"rate": 4e11}] * 4, "killed by SIGSEGV", Level.FAIL, "1.0 GiB"),
    ],
)
def test_what_filling_the_card_says(situation, monkeypatch, lines, end, level, said):
    monkeypatch.setattr(load, "run_probe", lambda *a, **k: load.Probe(lines, end, ""))
    outcome = check_spill(situation(IDLE, wsl=True))
    assert outcome.level is level
    assert said in outcome.summary + "".join(finding.message for finding in outcome.findings)


def test_spilling_is_of_windows_alone(situation):
    assert "WSL" in check_spill(situation(IDLE)).skipped
