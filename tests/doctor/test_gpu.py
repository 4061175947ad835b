"""Judgements about cards and builds of torch that this machine does not have."""

from __future__ import annotations

import pytest

from cadmllm.doctor import gpu
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.gpu import Card, Torch, check_gpu, has_kernels, judge_torch
from cadmllm.plan.sizes import GIB
from cadmllm.resolve import resolve
from cadmllm.settings import Settings

BLACKWELL = Card("NVIDIA GeForce RTX 5070 Ti", int(15.9 * GIB), int(15 * GIB), (12, 0))
CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
CU128 = (*CU126, "sm_100", "sm_120")
GOOD = Torch("2.13.0+cu128", "12.8", True, CU128)


@pytest.fixture
def machine(monkeypatch):
    """check_gpu on a machine with these cards and this torch."""

    def check(settings: Settings, cards: list[Card], torch: Torch = GOOD, broken: set[str] = frozenset()):
        monkeypatch.setattr(gpu, "read_cards", lambda: (cards, "570.1"))
        monkeypatch.setattr(gpu, "read_torch", lambda: torch)
        return check_gpu(Situation(settings, broken=set(broken)))

    return check


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (CU126, (12, 0), False),
        (CU128, (12, 0), True),
        (CU126, (8, 9), True),
        (("sm_90",), (8, 9), False),
        (("sm_90a",), (9, 0), True),
        (("sm_86",), (8, 0), False),
        (("compute_90",), (12, 0), True),
        (("compute_120",), (9, 0), False),
        ((), (8, 0), False),
    ],
)
def test_which_build_runs_on_which_card(archs, capability, runs):
    assert has_kernels(archs, capability) is runs


def test_a_build_before_cuda_128_has_no_kernels_for_blackwell():
    (finding,) = judge_torch(Torch("2.8.0+cu126", "12.6", True, CU126), BLACKWELL, required=False)
    assert (finding.code, finding.level) == ("E812", Level.FAIL)
    assert "sm_120" in finding.message
    assert "whl/cu128" in finding.remedy


def test_a_cpu_build_beside_a_gpu():
    (finding,) = judge_torch(Torch("2.13.0+cpu", None, False, ()), BLACKWELL, required=True)
    assert (finding.code, finding.level) == ("E812", Level.FAIL)
    assert "CPU build" in finding.message
    (finding,) = judge_torch(Torch("2.13.0+cpu", None, False, ()), BLACKWELL, required=False)
    assert finding.level is Level.WARN, "the tiny preset trains all the same"


def test_a_driver_that_torch_cannot_use():
    (finding,) = judge_torch(Torch("2.13.0", "13.0", False, ()), BLACKWELL, required=True)
    assert finding.code == "E811"
    assert "driver" in finding.remedy


def test_the_guides_bf16_does_not_fit_16_gb_and_ours_does(machine):
    ours = resolve(preset="16gb", environ={}).settings
    assert machine(ours, [BLACKWELL]).level is Level.OK
    guide = ours.model_copy(update={"model": ours.model.model_copy(update={"quantization": "none", "embedding_device": "auto"})})
    (finding,) = machine(guide, [BLACKWELL]).findings
    assert (finding.code, finding.level) == ("E813", Level.FAIL)
    assert "17.1 GiB for weights, what trains them and CUDA, before activations" in finding.message
    busy = Card(BLACKWELL.name, BLACKWELL.total, 2 * GIB, (12, 0))
    (finding,) = machine(ours, [busy]).findings
    assert (finding.code, finding.level) == ("E813", Level.WARN)
    assert "before activations" in finding.message
    tight = Card(BLACKWELL.name, BLACKWELL.total, 11 * GIB, (12, 0))
    (finding,) = machine(ours, [tight]).findings
    assert (finding.code, finding.level) == ("E813", Level.WARN)
    assert "10,240 tokens a micro-batch" in finding.message
    assert "train.pack_tokens=" in finding.remedy


@pytest.mark.parametrize("name", ["8gb", "12gb", "16gb", "24gb", "80gb"])
def test_every_preset_fits_its_card_and_needs_one(machine, name):
    settings = resolve(preset=name, environ={}).settings
    size = int(name.removesuffix("gb"))
    card = Card(f"a card of {name}", int(size * 0.97 * GIB), int(size * 0.95 * GIB), (8, 9))
    assert machine(settings, [card]).level is Level.OK
    (finding,) = machine(settings, []).findings
    assert (finding.code, finding.level) == ("E811", Level.FAIL)


def test_a_card_without_bfloat16(machine):
    settings = resolve(preset="16gb", environ={}).settings
    turing = Card("Tesla T4", 16 * GIB, 15 * GIB, (7, 5))
    (finding,) = machine(settings, [turing]).findings
    assert (finding.code, finding.level) == ("E613", Level.FAIL)
    assert finding.remedy.startswith("--set dtype=float16")
    settings.dtype = "float16"
    assert machine(settings, [turing]).level is Level.OK


def test_without_a_gpu_tiny_is_warned_and_a_large_model_refused(machine):
    tiny = resolve(preset="tiny", environ={}).settings
    (finding,) = machine(tiny, []).findings
    assert (finding.code, finding.level) == ("E811", Level.WARN)
    (finding,) = machine(Settings(), []).findings
    assert finding.level is Level.FAIL
    assert machine(Settings(device="cpu"), []).skipped


def test_a_card_that_is_not_there(machine):
    (finding,) = machine(Settings(device="cuda:3"), [BLACKWELL]).findings
    assert "1 GPU" in finding.message
    assert finding.remedy == "--set device=cuda:0"


def test_without_torch_the_card_is_still_named(machine):
    outcome = machine(Settings(), [BLACKWELL], broken={"torch"})
    assert "5070 Ti" in outcome.skipped


def test_a_machine_without_a_driver_has_no_cards(monkeypatch, tmp_path):
    (tmp_path / "pynvml.py").write_text(
        "class NVMLError(Exception): pass\ndef nvmlInit(): raise NVMLError('Driver Not Loaded')\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert gpu.read_cards() == ([], "")


def test_the_cards_that_nvml_names(monkeypatch, tmp_path):
    (tmp_path / "pynvml.py").write_text(
        "class NVMLError(Exception): pass\n"
        "def nvmlInit(): print('noise')\n"
        "def nvmlSystemGetDriverVersion(): return '570.1'\n"
        "def nvmlDeviceGetCount(): return 2\n"
        "def nvmlDeviceGetHandleByIndex(k): return k\n"
        "def nvmlDeviceGetMemoryInfo(k):\n    class M: total, free = 16 * 2**30, k * 2**30\n    return M\n"
        "def nvmlDeviceGetCudaComputeCapability(k): return 12, 0\n"
        "def nvmlDeviceGetName(k): return f'card {k}'\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cards, driver = gpu.read_cards()
    assert driver == "570.1"
    assert cards == [Card("card 0", 16 * GIB, 0, (12, 0)), Card("card 1", 16 * GIB, GIB, (12, 0))]
