"""Whether there is a GPU where one is needed; the cards are made up."""

from __future__ import annotations

import pytest

from cadmllm.doctor import cards
from cadmllm.doctor.cards import Card, Cards
from cadmllm.doctor.check import Finding, Level, Situation
from cadmllm.doctor.gpu import check_gpu, describe
from cadmllm.doctor.machine import Machine
from cadmllm.plan.sizes import GIB
from cadmllm.resolve import resolve
from cadmllm.settings import Settings

BLACKWELL = Card(0, "NVIDIA GeForce RTX 5070 Ti", "GPU-5070", int(15.9 * GIB), int(15 * GIB), (12, 0))
TURING = Card(1, "Tesla T4", "GPU-t4", 16 * GIB, 15 * GIB, (7, 5))


@pytest.fixture
def check(monkeypatch, tmp_path):
    """check_gpu where NVML says this."""

    def run(settings: Settings, found: Cards, wsl: bool = False, **environ: str):
        monkeypatch.setattr(cards, "read_cards", lambda variables: found)
        (tmp_path / "proc").mkdir(exist_ok=True)
        (tmp_path / "proc" / "version").write_text("Linux 6.6 microsoft-standard-WSL2" if wsl else "Linux 6.6")
        return check_gpu(Situation(settings, machine=Machine(tmp_path, environ)))

    return run


def only(outcome) -> Finding:
    (finding,) = outcome.findings
    return finding


def test_a_card_that_is_there(check):
    outcome = check(Settings(), Cards((BLACKWELL, TURING), "580.1", (13, 0)))
    assert outcome.findings == ()
    assert outcome.summary == "NVIDIA GeForce RTX 5070 Ti, 15.9 GiB (15.0 free), driver 580.1 (CUDA 13.0)"
    assert outcome.details == (describe(BLACKWELL), describe(TURING))
    assert check(Settings(device="cpu"), Cards()).skipped == "device is cpu"


@pytest.mark.parametrize("name", ["8gb", "12gb", "16gb", "24gb", "80gb"])
def test_every_preset_for_a_card_needs_one_and_tiny_does_not(check, name):
    none = Cards(error="NVML Shared Library Not Found", kind="LibraryNotFound")
    finding = only(check(resolve(preset=name, environ={}).settings, none))
    assert (finding.code, finding.level) == ("E811", Level.FAIL)
    assert "device is cuda" in finding.message
    outcome = check(resolve(preset="tiny", environ={}).settings, none)
    assert outcome.findings == ()
    assert outcome.summary.startswith("no GPU: the CPU will train")


def test_a_card_without_a_driver_is_worth_a_warning(check, tmp_path):
    tiny, none = resolve(preset="tiny", environ={}).settings, Cards(error="Driver Not Loaded", kind="DriverNotLoaded")
    for number, vendor, kind in ((0, "0x8086", "0x030000"), (1, "0x10de", "0x040300"), (2, "0x10de", "0x030200")):
        folder = tmp_path / "sys/bus/pci/devices" / f"0000:0{number}:00.0"
        assert check(tiny, none).findings == (), "a card of Intel, or the sound of an NVIDIA card"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    finding = only(check(tiny, none))
    assert (finding.code, finding.level) == ("E811", Level.WARN)
    assert "an NVIDIA card (PCI 0000:02:00.0) and no working driver (NVML: Driver Not Loaded)" in finding.message
    assert only(check(tiny, Cards(driver="580.1"))).level is Level.WARN, "a driver without a card"


def test_a_card_that_is_asked_for_by_name_is_needed(check):
    tiny = resolve(preset="tiny", environ={}).settings.model_copy(update={"device": "cuda"})
    finding = only(check(tiny, Cards()))
    assert finding.level is Level.FAIL
    assert "device is cuda" in finding.message
    assert "takes months" in only(check(Settings(), Cards())).message, "device is auto, and the model large"


def test_a_driver_that_was_updated_under_our_feet(check):
    found = Cards(error="Driver/library version mismatch", kind="LibRmVersionMismatch")
    finding = only(check(Settings(), found))
    assert finding.remedy == "sudo reboot"
    assert "wsl --shutdown" in only(check(Settings(), found, wsl=True)).remedy


@pytest.mark.parametrize("kind", ["hang", "crash"])
def test_a_driver_that_hangs_keeps_even_tiny_from_running(check, kind):
    tiny = resolve(preset="tiny", environ={}).settings
    finding = only(check(tiny, Cards(error="no answer within 20 s", kind=kind)))
    assert (finding.code, finding.level) == ("E811", Level.FAIL)
    assert "NVML asks it" in finding.message


def test_wsl_without_its_gpu(check, tmp_path):
    finding = only(check(Settings(), Cards(error="NVML Shared Library Not Found"), wsl=True))
    assert "/dev/dxg" in finding.remedy
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "dxg").touch()
    finding = only(check(Settings(), Cards(error="NVML Shared Library Not Found"), wsl=True))
    assert "on Windows" in finding.remedy
    assert "/dev/dxg" not in finding.remedy
    (tmp_path / "usr/lib/wsl/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/wsl/lib/libcuda.so.1").touch()
    assert "ldconfig" in only(check(Settings(), Cards(error="NVML Shared Library Not Found"), wsl=True)).remedy


def test_a_container_without_its_gpu(check, tmp_path):
    (tmp_path / ".dockerenv").touch()
    assert "--gpus all" in only(check(Settings(), Cards())).remedy


def test_a_card_that_is_not_there(check):
    finding = only(check(Settings(device="cuda:3"), Cards((BLACKWELL,))))
    assert (finding.code, finding.level) == ("E811", Level.FAIL)
    assert "there is 1 GPU" in finding.message
    assert finding.remedy == "--set device=cuda:0"
    finding = only(check(Settings(device="cuda:3"), Cards((BLACKWELL, TURING))))
    assert "there are 2 GPUs" in finding.message
    assert finding.remedy == "--set device=cuda:1"
    finding = only(check(Settings(device="cuda:1"), Cards((BLACKWELL, TURING)), CUDA_VISIBLE_DEVICES="1"))
    assert "CUDA_VISIBLE_DEVICES=1 lets through" in finding.message


def test_cards_that_are_hidden(check):
    finding = only(check(Settings(), Cards((BLACKWELL,)), CUDA_VISIBLE_DEVICES=""))
    assert (finding.code, finding.level) == ("E811", Level.FAIL)
    assert "5070 Ti" in finding.message
    assert finding.remedy.startswith("unset CUDA_VISIBLE_DEVICES")
    tiny = resolve(preset="tiny", environ={}).settings
    assert only(check(tiny, Cards((BLACKWELL,)), CUDA_VISIBLE_DEVICES="-1")).level is Level.WARN


def test_a_lost_card_beside_one_that_works(check):
    finding = only(check(Settings(), Cards((BLACKWELL,), lost=(1,))))
    assert finding.level is Level.WARN
    assert "xid" in finding.remedy


def test_a_card_without_bfloat16(check):
    settings = resolve(preset="16gb", environ={}).settings
    finding = only(check(settings, Cards((TURING,))))
    assert (finding.code, finding.level) == ("E613", Level.FAIL)
    assert finding.remedy.startswith("--set dtype=float16")
    settings.dtype = "float16"
    outcome = check(settings, Cards((TURING,)))
    assert outcome.level is Level.OK
    assert len(outcome.details) == 1
    pascal = Card(0, "NVIDIA GeForce GTX 1080 Ti", "GPU-1080", 11 * GIB, 10 * GIB, (6, 1))
    assert "saves memory here, not time" in check(settings, Cards((pascal,))).details[-1]


def test_nvml_that_is_not_installed(check):
    finding = only(check(Settings(), Cards(error="No module named 'pynvml'", kind="ImportError")))
    assert finding.code == "E802"
    assert "pip install nvidia-ml-py" in finding.remedy
