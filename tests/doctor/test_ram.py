"""Main memory against what the run keeps there; limits of containers and of .wslconfig."""

from __future__ import annotations

from pathlib import Path

import pytest

from cadmllm.doctor import ram
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.machine import Machine
from cadmllm.plan.memory import predict
from cadmllm.settings import Settings

GIB = 2**30


def machine(root: Path, total: float, free: float | None = None, swap: float = 0.0, **files: str) -> Machine:
    kib = [int(size * 2**20) for size in (total, total if free is None else free, swap)]
    files["proc__meminfo"] = f"MemTotal: {kib[0]} kB\nMemAvailable: {kib[1]} kB\nSwapTotal: {kib[2]} kB\nSwapFree: {kib[2]} kB\n"
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(root, {})


def tiny(**train: object) -> Settings:
    model = {"llm": "tiny", "points_encoder": "fourier", "image_encoder": "tiny"}
    return Settings(model=model, device="cpu", train={"max_seq_length": 512, **train})


def test_memory_is_read_from_meminfo(tmp_path):
    found = ram.main_memory(machine(tmp_path, 2, 1, 4))
    assert found == ram.Memory(2 * GIB, GIB, 4 * GIB, 4 * GIB)
    assert ram.main_memory(Machine(tmp_path / "absent", {})) is None
    assert ram.check_memory(Situation(None, machine=Machine(tmp_path / "absent", {}))).skipped


@pytest.mark.parametrize(
    ("group", "folder", "names"),
    [
        ("0::/\n", "sys__fs__cgroup", ("memory.max", "memory.current", "inactive_file")),
        (
            "0::/system.slice/job_1/step_0\n",
            "sys__fs__cgroup__system.slice__job_1",
            ("memory.max", "memory.current", "inactive_file"),
        ),
        (
            "9:cpu:/x\n5:memory:/docker/abc\n",
            "sys__fs__cgroup__memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_the_limit_of_a_group_goes_before_the_machine(tmp_path, group, folder, names):
    limit, used, cached = names
    made = machine(
        tmp_path,
        64,
        60,
        proc__self__cgroup=group,
        **{f"{folder}__{limit}": f"{8 * GIB}", f"{folder}__{used}": f"{3 * GIB}", f"{folder}__memory.stat": f"{cached} {GIB}\n"},
    )
    found = ram.main_memory(made)
    assert found is not None
    assert (found.total, found.available) == (8 * GIB, 6 * GIB)
    assert "control group" in found.limit


def test_a_group_without_a_limit_limits_nothing(tmp_path):
    made = machine(tmp_path, 64, proc__self__cgroup="0::/\n", **{"sys__fs__cgroup__memory.max": "max\n"})
    found = ram.main_memory(made)
    assert found is not None
    assert (found.total, found.limit) == (64 * GIB, "")


def test_what_is_needed_is_the_plans_and_the_workers(tmp_path):
    made = machine(tmp_path, 64)
    alone = dict(ram.needed(Situation(tiny(), machine=made)))
    assert alone["the model and its training"] == max(predict(tiny(), stage, device="cpu").ram for stage in (1, 2, 3))
    busy = dict(ram.needed(Situation(tiny(workers=3, judge_samples=8), machine=made)))
    assert busy["3 loader processes and what they prepare"] > 3 * ram.LOADER
    assert busy["2 processes of the CAD kernel"] == 2 * ram.KERNEL
    unknown = Settings(model={"llm": "some/model"}, device="cuda")
    assert [name for name, _ in ram.needed(Situation(unknown, machine=made))] == ["the system and cadmllm itself", "CUDA"]


def test_auto_computes_in_main_memory_where_no_gpu_is_to_be_seen(tmp_path):
    auto = Settings(device="auto")
    assert ram.computes_on_cpu(Situation(auto, machine=Machine(tmp_path, {})))
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/dxg").touch()
    assert not ram.computes_on_cpu(Situation(auto, machine=Machine(tmp_path, {})))
    assert ram.computes_on_cpu(Situation(Settings(device="cpu"), machine=Machine(tmp_path, {})))


def test_levels_by_what_is_missing(tmp_path):
    need = sum(size for _, size in ram.needed(Situation(tiny(), machine=Machine(tmp_path, {})))) / GIB

    def look(total: float, free: float | None = None, swap: float = 0.0) -> tuple[Level, str]:
        outcome = ram.check_memory(Situation(tiny(), machine=machine(tmp_path, total, free, swap)))
        return outcome.level, outcome.findings[0].message if outcome.findings else ""

    assert look(need + 1)[0] is Level.OK
    level, message = look(need + 1, need - 0.5, 4)
    assert (level, "other programs will be swapped out" in message) == (Level.WARN, True)
    level, message = look(need - 0.5, None, 4)
    assert (level, "swapped, which is slow" in message) == (Level.WARN, True)
    level, message = look(need - 0.5)
    assert (level, "more than there is" in message) == (Level.FAIL, True)


def test_under_wsl_the_edit_of_wslconfig_is_the_remedy(tmp_path):
    kernel = {"proc__version": "5.15-microsoft-standard-WSL2"}
    (finding,) = ram.check_memory(Situation(tiny(), machine=machine(tmp_path, 1, **kernel))).findings
    assert (finding.code, finding.level) == ("E815", Level.FAIL)
    assert r"[wsl2] memory=2GB into %UserProfile%\.wslconfig (now: half of the RAM)" in finding.remedy
    assert "wsl --shutdown" in finding.remedy
    config = {"mnt__c__Users__me__.wslconfig": "[wsl2]\nmemory=1GB\n"}
    (finding,) = ram.check_memory(Situation(tiny(), machine=machine(tmp_path, 1, **kernel, **config))).findings
    assert r"C:\Users\me\.wslconfig (now: memory=1GB)" in finding.remedy
    config = {"mnt__c__Users__me__.wslconfig": "[wsl2]\nmemory=16GB\n"}
    (finding,) = ram.check_memory(Situation(tiny(), machine=machine(tmp_path, 1, **kernel, **config))).findings
    assert "allows 16 GB, which is not in effect yet" in finding.remedy


def test_options_that_need_less(tmp_path):
    settings = tiny(workers=2, batch_size=4, accumulation=4)
    (finding,) = ram.check_memory(Situation(settings, machine=machine(tmp_path, 0.5))).findings
    assert "--set train.workers=0 --set train.gradient_checkpointing=true" in finding.remedy
    assert "--set train.batch_size=1 --set train.accumulation=16" in finding.remedy
    card = Settings(model={"llm": "tiny", "embedding_device": "cpu"}, device="cuda", train={"offload_activations": True})
    (finding,) = ram.check_memory(Situation(card, machine=machine(tmp_path, 0.5))).findings
    assert "--set train.offload_activations=false --set model.embedding_device=auto" in finding.remedy


def test_a_limit_of_addresses_is_said(tmp_path):
    limits = {"proc__self__limits": f"Max address space         {8 * GIB}           unlimited            bytes     \n"}
    (finding,) = ram.check_memory(Situation(tiny(), machine=machine(tmp_path, 64, **limits))).findings
    assert (finding.code, finding.level, finding.remedy) == ("E814", Level.WARN, "ulimit -v unlimited")
    limits = {"proc__self__limits": f"Max address space         {GIB // 2}           unlimited            bytes     \n"}
    assert ram.check_memory(Situation(tiny(), machine=machine(tmp_path, 64, **limits))).level is Level.FAIL
    limits = {"proc__self__limits": "Max address space         unlimited           unlimited            bytes     \n"}
    assert ram.check_memory(Situation(tiny(), machine=machine(tmp_path, 64, **limits))).level is Level.OK
