"""The GPU while it trains: memory, utilisation, temperature and throttling, read through NVML beside the run.

What it says deserves a look and never stops anything; what NVML cannot say here is said once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from cadmllm.places import under_wsl
from cadmllm.settings import TrainSettings
from cadmllm.train import remedies

if TYPE_CHECKING:
    from cadmllm.console import Console

GIB = 2**30
SPARE_SHARE, SPARE_GIB = 1 / 16, 1.0  # of a card that should stay free: 15 of 16 GB are the guide's limit
BUSY = 80  # percent; below it the card waits for something (the guide's limit)
HOT = 85  # degrees C (the guide's limit)
WINDOW = 60.0  # seconds that utilisation is averaged over: a save or a long batch is no reason to speak
WAITS = 0.1  # share of time spent waiting for data from which data is the reason
THROTTLED = 3  # readings in a row: cards slow down for a moment all the time
COOLER = 0.85  # of today's power limit: costs about 5 % of speed
STALE = 12  # intervals after which a reading says nothing about now (a driver that hangs)
SMOOTHING = 0.1  # weight of the newest share of waiting
NOTHING = "no GPU readings (memory, utilisation, temperature): "
# not among them: the software power cap, under which a busy card works all day
REASONS = {
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "its power supply brakes it",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "it is too hot (hardware)",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "it is too hot (driver)",
    "nvmlClocksThrottleReasonHwSlowdown": "the hardware slows it down",
}


class GpuWatch:
    """Reads NVML every few seconds, in a thread of its own, while entered.

    Args:
        device: torch's; on anything but CUDA there is nothing to read.
        console: where warnings go.
        interval: seconds between two readings.
        remind: seconds before a warning of the same kind is given again.
        train: today's settings, which remedies change.
        nvml: the module to ask; None imports pynvml.
        uuid: of the card; None asks torch, so that CUDA_VISIBLE_DEVICES is honoured (NVML itself numbers all cards).
        reserved: GiB that this process holds on the card; None asks torch.
        clock: seconds.
        wsl: whether this Linux runs inside WSL; None asks the kernel.
    """

    def __init__(
        self,
        device: torch.device,
        console: Console,
        interval: float = 5.0,
        remind: float = 600.0,
        *,
        train: TrainSettings | None = None,
        nvml: Any = None,
        uuid: str | None = None,
        reserved: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wsl: bool | None = None,
    ) -> None:
        self._device, self._console, self._interval, self._remind = device, console, interval, remind
        self._train = TrainSettings() if train is None else train
        self._nvml, self._uuid, self._clock = nvml, uuid, clock
        self._reserved = reserved or (lambda: torch.cuda.memory_reserved(device) / GIB)
        self._wsl = under_wsl() if wsl is None else wsl
        self._handle: Any = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._reading: tuple[float, dict[str, Any]] = (0.0, {})
        self._failed: dict[str, str] = {}  # what could not be read, and why
        self._said: dict[str, float] = {}
        self._busy: deque[tuple[float, float]] = deque()
        self._waited: float | None = None
        self._paused = False
        self._throttled, self._why = 0, ""  # readings in a row, and the reason

    def __enter__(self) -> GpuWatch:
        if self._device.type == "cuda" and self._open():
            self.poll()
            self._say_absent()
            self._thread = threading.Thread(target=self._run, name="gpu-watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=self._interval + 1.0)
            if not self._thread.is_alive():  # a driver that hangs in a reading must not be closed under it
                self._nvml.nvmlShutdown()

    def reading(self) -> dict[str, Any]:
        """The newest values: gpu_memory_gib, gpu_memory_total_gib, gpu_utilisation (0..100), gpu_temperature (C),
        gpu_throttled (bool), gpu_power_w. Those that cannot be had are absent; without NVML it is empty."""
        read_at, values = self._reading
        return dict(values) if self._clock() - read_at <= STALE * self._interval else {}

    def told(self, waited_share: float) -> None:
        """The loop says which share (0..1) of its last step was spent waiting for data."""
        old = waited_share if self._waited is None else self._waited
        self._waited = (1 - SMOOTHING) * old + SMOOTHING * waited_share

    @contextmanager
    def paused(self) -> Generator[None]:
        """Around what is not training (validation, saves): a card that idles meanwhile is no reason to speak."""
        self._paused = True
        try:
            yield
        finally:
            self._busy = deque()  # a new one: the thread may just be reading the old one
            self._paused = False

    def poll(self) -> None:
        """Read everything once and say what deserves it. The thread does this every `interval` seconds."""
        now, values = self._clock(), {}
        for what, read in self._readers().items():
            try:
                values |= read()
            except self._nvml.NVMLError as error:
                self._cannot_read(what, str(error))
        self._reading = (now, values)
        self._judge_memory(values, now)
        self._judge_utilisation(values, now)
        self._judge_heat(values, now)

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            self.poll()

    def _open(self) -> bool:
        """Find the card; False, with a line that says why, where there is no NVML."""
        if self._nvml is None:
            try:
                import pynvml
            except ImportError:
                self._console.note(f"{NOTHING}nvidia-ml-py is not installed: pip install nvidia-ml-py")
                return False
            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            self._console.note(f"{NOTHING}NVML says: {error}; see what nvidia-smi says")
            return False
        uuid = self._uuid or str(torch.cuda.get_device_properties(self._device).uuid)
        names = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
        for name in names:
            try:
                self._handle, self._uuid = self._nvml.nvmlDeviceGetHandleByUUID(name), name
            except self._nvml.NVMLError as error:
                why = str(error)
            else:
                return True
        self._console.note(f"{NOTHING}NVML does not know the card {names[0]}: {why}")
        self._nvml.nvmlShutdown()
        return False

    def _readers(self) -> dict[str, Callable[[], dict[str, Any]]]:
        nvml, handle = self._nvml, self._handle

        def memory() -> dict[str, Any]:
            found = nvml.nvmlDeviceGetMemoryInfo(handle)
            return {"gpu_memory_gib": found.used / GIB, "gpu_memory_total_gib": found.total / GIB}

        def throttling() -> dict[str, Any]:
            # the older of its two names, which every nvidia-ml-py and driver has
            bits = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
            why = next((text for name, text in REASONS.items() if bits & getattr(nvml, name)), "")
            self._why = why
            return {"gpu_throttled": bool(why)}

        return {
            "memory": memory,
            "utilisation": lambda: {"gpu_utilisation": float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)},
            "temperature": lambda: {
                "gpu_temperature": float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            },
            "throttling": throttling,
            "power": lambda: {"gpu_power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1000},
        }

    def _cannot_read(self, what: str, why: str) -> None:
        if what not in self._failed and self._thread is not None:
            self._console.note(f"NVML no longer gives the GPU's {what} ({why}); the run goes on without it")
        self._failed.setdefault(what, why)

    def _say_absent(self) -> None:
        """One line on what there is no hope of reading here."""
        absent = f"{', '.join(self._failed)} ({next(iter(self._failed.values()))})" if self._failed else ""
        if self._wsl:
            self._console.note(
                f"under WSL NVML does not give {absent + '; nor ' if absent else ''}the memory of other programs nor GPU memory "
                "that spills into system memory: a sudden slow-down tells, and is warned about"
            )
        elif absent:
            self._console.note(f"NVML does not give the GPU's {absent}")

    def _warn(self, kind: str, now: float, message: str, remedy: str) -> None:
        if kind not in self._said or now - self._said[kind] >= self._remind:
            self._said[kind] = now
            self._console.warn(f"{message}. {remedy[0].upper()}{remedy[1:]}")

    def _judge_memory(self, values: Mapping[str, Any], now: float) -> None:
        if "gpu_memory_gib" not in values:
            return
        used, total = values["gpu_memory_gib"], values["gpu_memory_total_gib"]
        spare = max(SPARE_GIB, SPARE_SHARE * total)
        if total - used >= spare:
            return
        then = "the driver spills into system memory and the run slows down" if self._wsl else "a longer batch may run out of it"
        self._warn(
            "memory",
            now,
            f"{used:.1f} of {total:.1f} GiB of GPU memory are in use ({self._reserved():.1f} by this run's tensors), less than "
            f"{spare:.1f} is free: {then}",
            "close what else uses the card (nvidia-smi), or take smaller micro-batches: "
            + remedies.going_on(*remedies.smaller_micro_batches(self._train)),
        )

    def _judge_utilisation(self, values: Mapping[str, Any], now: float) -> None:
        if "gpu_utilisation" not in values or self._paused:
            return
        busy = self._busy
        busy.append((now, values["gpu_utilisation"]))
        while len(busy) > 2 and now - busy[1][0] >= WINDOW:
            busy.popleft()
        mean = sum(value for _, value in busy) / len(busy)
        if now - busy[0][0] < WINDOW or mean >= BUSY:
            return
        loading = remedies.faster_loading(self._train)
        larger = f"larger micro-batches: {remedies.going_on(*remedies.larger_micro_batches(self._train))}"
        waits = self._waited is not None and self._waited >= WAITS
        told = "" if self._waited is None else f"; {self._waited:.0%} of the time is spent waiting for data"
        remedy = loading if waits else larger if self._waited is not None else f"{loading}; or {larger}"
        self._warn("utilisation", now, f"the GPU was busy {mean:.0f} % of the last minute (wanted: {BUSY} %){told}", remedy)

    def _judge_heat(self, values: Mapping[str, Any], now: float) -> None:
        degrees = values.get("gpu_temperature")
        at = "" if degrees is None else f" at {degrees:.0f} C"
        if degrees is not None and degrees > HOT:
            self._warn("temperature", now, f"the GPU is{at} (wanted: {HOT} at most)", self._cool())
        self._throttled = self._throttled + 1 if values.get("gpu_throttled") else 0
        if self._throttled >= THROTTLED:
            look = f"see what holds it back: nvidia-smi -i {self._uuid} -q -d PERFORMANCE"
            remedy = self._cool() if "hot" in self._why else look
            self._warn("throttling", now, f"the GPU runs slower than it could{at}: {self._why}", remedy)

    def _cool(self) -> str:
        """A lower power limit, in watts of this card."""
        try:
            watts = f"{COOLER * self._nvml.nvmlDeviceGetPowerManagementLimit(self._handle) / 1000:.0f}"
        except self._nvml.NVMLError:
            watts = "WATTS"
        where = "in an administrator's terminal of Windows: " if self._wsl else "sudo "
        return f"give it air, or let it draw less power: {where}nvidia-smi -i {self._uuid} -pl {watts}"
