"""The GPU's warnings, with an NVML and a clock made for the purpose."""

from __future__ import annotations

import io
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from told import given_settings

from cadmllm.console import Console
from cadmllm.settings import TrainSettings
from cadmllm.train.watch import GpuWatch

CUDA = torch.device("cuda:0")
GIB = 2**30


def text(console: Console, *, out: bool = False) -> str:
    """All that was said so far."""
    stream = console.out if out else console.err
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


class NVMLError(Exception):
    pass


class Nvml:
    """What `watch` asks of pynvml; `broken` names what fails."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    nvmlClocksThrottleReasonHwSlowdown = 8
    nvmlClocksThrottleReasonSwThermalSlowdown = 32
    nvmlClocksThrottleReasonHwThermalSlowdown = 64
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 128

    def __init__(self) -> None:
        self.used, self.total, self.busy, self.degrees, self.bits, self.watts = 8.0, 16.0, 99, 60, 4, 250.0
        self.broken: set[str] = set()
        self.asked: list[str] = []
        self.closed = 0
        self.polled = threading.Event()

    def _get(self, what: str, value: Any) -> Any:
        if what in self.broken:
            raise NVMLError(f"{what}: Not Supported")
        return value

    def nvmlInit(self) -> None:
        self._get("init", None)

    def nvmlShutdown(self) -> None:
        self.closed += 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked.append(uuid)
        return self._get("handle" if uuid.startswith("GPU-") else "mig", "card")

    def nvmlDeviceGetMemoryInfo(self, _handle: str) -> Any:
        self.polled.set()
        return self._get("memory", SimpleNamespace(used=int(self.used * GIB), total=int(self.total * GIB)))

    def nvmlDeviceGetUtilizationRates(self, _handle: str) -> Any:
        return self._get("utilisation", SimpleNamespace(gpu=self.busy))

    def nvmlDeviceGetTemperature(self, _handle: str, _sensor: int) -> int:
        return self._get("temperature", self.degrees)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _handle: str) -> int:
        return self._get("throttling", self.bits)

    def nvmlDeviceGetPowerUsage(self, _handle: str) -> int:
        return self._get("power", int(self.watts * 1000))

    def nvmlDeviceGetPowerManagementLimit(self, _handle: str) -> int:
        return self._get("limit", 300_000)


class Bench:
    """A watch whose thread never comes round, a clock that is turned by hand."""

    def __init__(self, console: Console, nvml: Nvml | None = None, wsl: bool = False, **train: Any) -> None:
        self.nvml, self.now, self.console = nvml or Nvml(), 1000.0, console
        known: dict[str, Any] = {"nvml": self.nvml, "uuid": "GPU-1", "reserved": lambda: 7.0, "clock": lambda: self.now}
        self.watch = GpuWatch(CUDA, console, 1e6, 600.0, train=TrainSettings(**train), wsl=wsl, **known)

    def __enter__(self) -> Bench:
        self.watch.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.__exit__()

    def polls(self, count: int = 1, seconds: float = 5.0) -> str:
        """What was said meanwhile."""
        before = len(text(self.console))
        for _ in range(count):
            self.now += seconds
            self.watch.poll()
        return text(self.console)[before:]


def test_a_calm_card_gives_readings_and_nothing_to_say(console: Console) -> None:
    with Bench(console) as bench:
        assert bench.polls(50) == ""
        assert bench.watch.reading() == {
            "gpu_memory_gib": 8.0,
            "gpu_memory_total_gib": 16.0,
            "gpu_utilisation": 99.0,
            "gpu_temperature": 60.0,
            "gpu_throttled": False,
            "gpu_power_w": 250.0,
        }
    assert bench.nvml.closed == 1
    assert text(console) == ""
    assert text(console, out=True) == ""


def test_a_cpu_has_no_readings_and_no_line(console: Console) -> None:
    with GpuWatch(torch.device("cpu"), console) as watch:
        assert watch.reading() == {}
    assert text(console) == ""


@pytest.mark.parametrize(("total", "calm", "full"), [(16.0, 14.9, 15.1), (8.0, 6.9, 7.1), (80.0, 74.9, 75.1), (24.0, 22.4, 22.6)])
def test_memory_close_to_the_end(console: Console, total: float, calm: float, full: float) -> None:
    with Bench(console, batch_size=4, max_seq_length=2048) as bench:
        bench.nvml.total, bench.nvml.used = total, calm
        assert bench.polls() == ""
        bench.nvml.used = full
        said = bench.polls()
        assert said.count("warning:") == 1
        assert f"{full:.1f} of {total:.1f} GiB" in said
        assert "7.0 by this run" in said
        assert given_settings(said).train.pack_tokens == 4096


def test_the_same_warning_is_given_again_after_a_while_only(console: Console) -> None:
    with Bench(console) as bench:
        bench.nvml.used = 15.5
        assert bench.polls(120, 5.0).count("warning:") == 1
        assert bench.polls(1, 5.0).count("warning:") == 1
        bench.nvml.degrees = 90
        assert "90 C" in bench.polls(), "another kind has its own clock"


def test_low_utilisation_needs_a_whole_minute(console: Console) -> None:
    with Bench(console, workers=0, batch_size=1, max_seq_length=512) as bench:
        bench.polls(20)
        bench.nvml.busy = 30
        assert bench.polls(3) == "", "the mean of the minute is still above 80 %"
        said = bench.polls(20)
        assert said.count("warning:") == 1
        assert "% of the last minute (wanted: 80 %). " in said
        assert "--set train.workers=" in said
        assert "--set train.pack_tokens=1024" in said


def test_a_short_start_or_a_validation_is_no_low_utilisation(console: Console) -> None:
    with Bench(console) as bench:
        bench.nvml.busy = 0
        assert bench.polls(11) == ""
        with bench.watch.paused():
            assert bench.polls(100) == ""
        assert bench.polls(11) == "", "the minute starts anew"
        assert "busy 0 %" in bench.polls(2)


def test_the_share_of_waiting_decides_the_remedy(console: Console) -> None:
    with Bench(console, workers=0) as bench:
        bench.nvml.busy = 40
        for _ in range(100):
            bench.watch.told(0.5)
        said = bench.polls(20)
        assert "50% of the time is spent waiting for data" in said
        assert "--resume --set train.workers=" in said
        assert "pack_tokens" not in said
        for _ in range(100):
            bench.watch.told(0.0)
        bench.now += 600
        said = bench.polls(30)
        assert "0% of the time" in said
        assert "workers" not in said
        assert "pack_tokens=16384" in said


def test_heat_names_a_power_limit_for_this_card(console: Console) -> None:
    with Bench(console) as bench:
        bench.nvml.degrees = 85
        assert bench.polls() == ""
        bench.nvml.degrees = 86
        assert "86 C (wanted: 85 at most)" in (said := bench.polls())
        assert "sudo nvidia-smi -i GPU-1 -pl 255" in said
    with Bench(console, wsl=True) as bench:
        bench.nvml.degrees, bench.nvml.broken = 86, {"limit"}
        assert "Windows: nvidia-smi -i GPU-1 -pl WATTS" in bench.polls()


@pytest.mark.parametrize(
    ("bits", "words", "remedy"),
    [
        (64 | 8, "too hot (hardware)", "-pl 255"),
        (32, "too hot (driver)", "-pl 255"),
        (128 | 8, "power supply brakes it", "-q -d PERFORMANCE"),
        (8, "the hardware slows it down", "-q -d PERFORMANCE"),
    ],
)
def test_throttling_that_lasts_is_named(console: Console, bits: int, words: str, remedy: str) -> None:
    with Bench(console) as bench:
        bench.nvml.bits = bits
        assert bench.polls(2) == ""
        assert bench.watch.reading()["gpu_throttled"] is True
        bench.nvml.bits = 4  # the software power cap is no throttling
        assert bench.polls(1) == ""
        assert bench.watch.reading()["gpu_throttled"] is False
        bench.nvml.bits = bits
        said = bench.polls(5)
        assert said.count("warning:") == 1
        assert words in said
        assert remedy in said


def test_values_that_fail_in_the_middle_are_said_once_and_come_back(console: Console) -> None:
    with Bench(console) as bench:
        bench.nvml.broken = {"temperature", "throttling"}
        said = bench.polls(5)
        assert said.count("\n") == 2
        assert "NVML no longer gives the GPU's temperature (temperature: Not Supported); the run goes on" in said
        assert set(bench.watch.reading()) == {"gpu_memory_gib", "gpu_memory_total_gib", "gpu_utilisation", "gpu_power_w"}
        bench.nvml.broken = set()
        assert bench.polls() == ""
        assert "gpu_temperature" in bench.watch.reading()
        bench.nvml.broken = {"memory", "utilisation", "temperature", "throttling", "power"}
        assert bench.polls().count("\n") == 3
        assert bench.watch.reading() == {}


def test_what_is_absent_from_the_start_is_one_line(console: Console) -> None:
    nvml = Nvml()
    nvml.broken = {"power", "throttling"}
    with Bench(console, nvml) as bench:
        assert text(console) == "NVML does not give the GPU's throttling, power (throttling: Not Supported)\n"
        assert bench.polls(10) == ""


def test_under_wsl_the_line_says_what_nvml_hides_there(console: Console) -> None:
    nvml = Nvml()
    nvml.broken = {"power"}
    with Bench(console, nvml, wsl=True) as bench:
        said = text(console)
        assert said.startswith("under WSL NVML does not give power (power: Not Supported); nor the memory of other programs")
        assert said.count("\n") == 1
        bench.nvml.used = 15.9
        assert "the driver spills into system memory" in bench.polls()


def test_without_a_driver_or_the_card_one_line_says_why(console: Console) -> None:
    nvml = Nvml()
    nvml.broken = {"init"}
    with Bench(console, nvml) as bench:
        assert bench.watch.reading() == {}
    assert "NVML says: init: Not Supported; see what nvidia-smi says\n" in text(console)
    nvml.broken = {"handle", "mig"}
    with Bench(console, nvml) as bench:
        assert bench.watch.reading() == {}
    assert "NVML does not know the card GPU-1" in text(console)
    assert text(console).count("\n") == 2
    assert nvml.closed == 1


def test_without_the_package_one_line_says_so(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with GpuWatch(CUDA, console) as watch:
        assert watch.reading() == {}
    assert text(console).count("\n") == 1
    assert "pip install nvidia-ml-py" in text(console)


def test_the_card_is_found_by_what_torch_calls_it(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda d: asked.append(d) or SimpleNamespace(uuid="ab-cd"))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    device = torch.device("cuda:1")
    with GpuWatch(device, console, 1e6) as watch:
        assert watch.reading()["gpu_utilisation"] == 99.0
    assert asked == [device]
    assert nvml.asked == ["GPU-ab-cd"]
    nvml.broken = {"handle"}
    with GpuWatch(device, console, 1e6) as watch:
        assert watch.reading() != {}, "a slice of a card (MIG)"
    assert nvml.asked[-2:] == ["GPU-ab-cd", "MIG-ab-cd"]


def test_a_driver_that_hangs_gives_no_old_values(console: Console) -> None:
    bench = Bench(console)
    bench.watch._interval = 5.0
    bench.watch._handle = "card"
    bench.polls()
    bench.now += 30
    assert bench.watch.reading()
    bench.now += 60
    assert bench.watch.reading() == {}


def test_the_thread_polls_until_the_run_ends(console: Console) -> None:
    nvml = Nvml()
    with GpuWatch(CUDA, console, 0.001, nvml=nvml, uuid="GPU-1", wsl=False) as watch:
        nvml.polled.clear()
        assert nvml.polled.wait(30), "the thread has not come round"
        thread = watch._thread
        assert thread is not None
        assert thread.daemon
    assert not thread.is_alive()
    assert nvml.closed == 1
