"""Builds of torch and cards that this machine does not have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_gpu import CU126, CU130, UUID
from fake_gpu import torch as fake_torch

from cadmllm.doctor import cards, torchbuild
from cadmllm.doctor.cache import Cache
from cadmllm.doctor.cards import Card, Cards
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.torchbuild import BUILDS, PINNED, build_for, check_torch, has_kernels
from cadmllm.plan.sizes import GIB
from cadmllm.resolve import resolve
from cadmllm.settings import Settings

BLACKWELL = Card(0, "NVIDIA GeForce RTX 5070 Ti", f"GPU-{UUID}", int(15.9 * GIB), int(15 * GIB), (12, 0))
ADA = Card(0, "NVIDIA GeForce RTX 4090", f"GPU-{UUID}", 24 * GIB, 23 * GIB, (8, 9))
PASCAL = Card(0, "NVIDIA GeForce GTX 1080 Ti", f"GPU-{UUID}", 11 * GIB, 10 * GIB, (6, 1))


@pytest.fixture
def check(monkeypatch, tmp_path):
    """check_torch with this stub of torch beside this card."""

    def run(source: str, card: Card = BLACKWELL, cuda=(13, 0), wsl=False, settings=None, found=None):
        (tmp_path / "torch.py").write_text(source, encoding="utf-8")
        (tmp_path / "proc").mkdir(exist_ok=True)
        (tmp_path / "proc" / "version").write_text("Linux microsoft" if wsl else "Linux")
        monkeypatch.setattr(cards, "read_cards", lambda environ: found or Cards((card,), "570.1", cuda))
        machine = Machine(tmp_path, {"PYTHONPATH": str(tmp_path)})
        return check_torch(Situation(settings or Settings(), machine=machine, cache=Cache(tmp_path / "cache.json")))

    return run


def only(outcome):
    (finding,) = outcome.findings
    return finding


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (CU126, (12, 0), False),
        (CU130, (12, 0), True),
        (CU126, (8, 9), True),
        (("sm_90",), (8, 9), False),
        (("sm_90a",), (9, 0), True),
        (("sm_100a",), (10, 3), False),
        (("sm_100f",), (10, 3), True),
        (("sm_120",), (12, 1), True),
        (("sm_86",), (8, 0), False),
        (("compute_90",), (12, 0), True),
        (("compute_120",), (9, 0), False),
        ((), (8, 0), False),
        (CU126, (0, 0), True),
    ],
)
def test_which_build_runs_on_which_card(archs, capability, runs):
    assert has_kernels(archs, capability) is runs


@pytest.mark.parametrize(
    ("capability", "cuda", "build"),
    [
        ((12, 0), (13, 0), (PINNED, "cu130")),
        ((12, 0), None, (PINNED, "cu130")),
        ((12, 0), (12, 8), ("2.11.0", "cu128")),
        ((8, 9), (12, 4), (PINNED, "cu126")),
        ((6, 1), (13, 0), (PINNED, "cu126")),
        ((8, 6), (11, 4), None),
        ((3, 5), None, None),
        ((0, 0), (13, 2), (PINNED, "cu130")),
    ],
)
def test_the_build_for_a_card_and_a_driver(capability, cuda, build):
    found = build_for(capability, cuda)
    assert (found and (found.version, found.tag)) == build


def test_the_build_that_is_named_is_the_one_that_is_tested_with():
    pinned = re.search(r"^torch==(\S+)$", Path(torchbuild.__file__).parents[2].joinpath("constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert pinned[1] == PINNED


def test_a_good_answer_is_kept_until_the_driver_changes(check, tmp_path):
    outcome = check(fake_torch())
    assert outcome.findings == ()
    assert outcome.summary == "torch 2.13.0+cu130 (CUDA 13.0) computes on the NVIDIA GeForce RTX 5070 Ti"
    assert "sm_120" in outcome.details[0]
    broken = "raise ImportError('libcudart.so.13: cannot open shared object file')"
    assert check(broken).summary == outcome.summary, "torch is not asked again"
    finding = only(check(broken, found=Cards((BLACKWELL,), "580.2", (13, 0))))
    assert "libcudart" in finding.message
    assert check(fake_torch(), found=Cards((BLACKWELL,), "580.2", (13, 0))).findings == (), "what failed is asked again"


def test_a_build_before_cuda_128_has_no_kernels_for_blackwell(check):
    finding = only(check(fake_torch("2.8.0+cu126", "12.6", CU126)))
    assert (finding.code, finding.level) == ("E812", Level.FAIL)
    assert "needs sm_120 (CUDA 12.8 or newer)" in finding.message
    assert finding.remedy.endswith(f"torch=={PINNED}+cu130 --extra-index-url https://download.pytorch.org/whl/cu130")
    finding = only(check(fake_torch("2.8.0+cu126", "12.6", CU126), cuda=(12, 8)))
    assert "torch==2.11.0+cu128" in finding.remedy
    assert "580 or newer" in finding.remedy


def test_an_old_card_needs_the_older_build(check):
    finding = only(check(fake_torch(), PASCAL, settings=Settings(dtype="float16")))
    assert finding.code == "E812"
    assert f"torch=={PINNED}+cu126" in finding.remedy


def test_a_kernel_that_cannot_be_launched(check):
    said = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be ..."
    finding = only(check(fake_torch(launch=said)))
    assert (finding.code, finding.level) == ("E812", Level.FAIL)


def test_a_cpu_build_beside_a_gpu(check):
    finding = only(check(fake_torch("2.13.0+cpu", None)))
    assert (finding.code, finding.level) == ("E812", Level.FAIL)
    assert "CPU build" in finding.message
    assert "cu130" in finding.remedy
    tiny = resolve(preset="tiny", environ={}).settings
    assert only(check(fake_torch("2.13.0+cpu", None), settings=tiny)).level is Level.WARN, "tiny trains all the same"


def test_a_driver_too_old_for_this_torch(check):
    said = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver"
    finding = only(check(fake_torch(init=said), ADA, cuda=(12, 4)))
    assert (finding.code, finding.level) == ("E851", Level.FAIL)
    assert "supports CUDA 12.4 at most" in finding.message
    assert f"torch=={PINNED}+cu126" in finding.remedy
    assert "on Windows" in only(check(fake_torch(init=said), ADA, cuda=(12, 4), wsl=True)).remedy
    assert "torch==" not in only(check(fake_torch(init=said), ADA, cuda=(11, 4))).remedy


def test_minor_versions_work_together(check):
    outcome = check(fake_torch("2.11.0+cu128", "12.8", CU130), ADA, cuda=(12, 4))
    assert outcome.findings == ()
    assert "within a major version" in outcome.details[-1]


@pytest.mark.parametrize(
    ("said", "wsl", "code", "remedy"),
    [
        ("Found no NVIDIA driver on your system.", False, "E811", "NVIDIA_DRIVER_CAPABILITIES"),
        ("Found no NVIDIA driver on your system.", True, "E811", "/usr/lib/wsl/lib/libcuda.so.1"),
        ("Unexpected error. Error 803: system has unsupported display driver / cuda driver combination", False, "E811", "reboot"),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", False, "E811", "nvidia-smi -c DEFAULT"),
        ("CUDA unknown error - this may be due to an incorrectly set up environment", False, "E811", "modprobe nvidia_uvm"),
        ("CUDA unknown error - this may be due to an incorrectly set up environment", True, "E811", "wsl --shutdown"),
        ("CUDA error: out of memory", False, "E852", "nvidia-smi"),
    ],
)
def test_what_cuda_refuses(check, said, wsl, code, remedy):
    finding = only(check(fake_torch(init=said), wsl=wsl))
    assert finding.code == code
    assert remedy in finding.remedy


def test_a_card_that_computes_wrong(check):
    finding = only(check(fake_torch(product=215.0)))
    assert (finding.code, finding.level) == ("E853", Level.FAIL)


def test_a_crash_of_cuda(check):
    finding = only(check(fake_torch().replace("def init():", "def init():\n    import os; os.kill(os.getpid(), 11)")))
    assert finding.code == "E811"
    assert "SIGSEGV" in finding.message


def test_cards_in_another_order_than_nvmls(check):
    both = Cards((Card(0, "Tesla T4", "GPU-t4", 16 * GIB, 15 * GIB, (7, 5)), BLACKWELL), "580.1", (13, 0))
    outcome = check(fake_torch(), settings=Settings(dtype="float16"), found=both)
    finding = only(outcome)
    assert finding.level is Level.WARN
    assert "would compute on the NVIDIA GeForce RTX 5070 Ti, not on the Tesla T4" in finding.message
    (fix,) = outcome.fixes
    assert (fix.kind, fix.name, fix.value) == ("environment", "CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def test_every_build_has_an_index_of_its_own():
    assert len({build.command for build in BUILDS}) == len(BUILDS)
