"""Sick systems: an old Python, WSL of many kinds, too little of what a machine allows, a wrong clock."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from types import SimpleNamespace

from scene import Case, Scene

from cadmllm.corpus import drive
from cadmllm.doctor import clock, limits, system

WSL1 = "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com) (gcc version 5.4.0)\n"
WSL2 = "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@941d701f84f1) (gcc 11.2.0)\n"
ROOT = "/dev/sdc / ext4 rw,relatime 0 0\nC:\\134 /mnt/c 9p rw,noatime,aname=drvfs;path=C:\\;uid=1000 0 0\n"


def running(scene: Scene, *version: int) -> None:
    scene.monkeypatch.setattr(system, "running", lambda: version)


def named(scene: Scene, name: str) -> None:
    scene.monkeypatch.setattr("cadmllm.doctor.system.platform", SimpleNamespace(system=lambda: name, machine=lambda: "arm64"))


def wsl2(scene: Scene, mounts: str = ROOT) -> None:
    scene.system("proc/version", WSL2)
    scene.system("proc/sys/kernel/osrelease", "5.15.153.1-microsoft-standard-WSL2\n")
    scene.system("proc/mounts", mounts)


def memory(scene: Scene, gib: float, swap: float = 0.0) -> None:
    kib = [int(size * 2**20) for size in (gib, gib * 0.9, swap, swap)]
    lines = zip(("MemTotal", "MemAvailable", "SwapTotal", "SwapFree"), kib, strict=True)
    scene.system("proc/meminfo", "".join(f"{name}:   {size} kB\n" for name, size in lines))


def wslconfig(scene: Scene, text: str) -> None:
    scene.system("mnt/c/Users/me/.wslconfig", text)


def old_python(scene: Scene) -> None:
    running(scene, 3, 10, 14)


def python_without_sqlite(scene: Scene) -> None:
    scene.monkeypatch.setattr(system, "_has", lambda name: name != "_sqlite3")


def macos(scene: Scene) -> None:
    named(scene, "Darwin")


def windows(scene: Scene) -> None:
    named(scene, "Windows")


def wsl_1(scene: Scene) -> None:
    scene.system("proc/version", WSL1)
    scene.values["device"] = "cuda"


def wsl_1_without_gpu(scene: Scene) -> None:
    scene.system("proc/version", WSL1)


def small_wslconfig(scene: Scene) -> None:
    wsl2(scene)
    memory(scene, 1.0)
    wslconfig(scene, "[wsl2]\r\nmemory=1GB\r\nswap=0\r\n")


def wsl_half_of_little(scene: Scene) -> None:
    wsl2(scene)
    memory(scene, 1.2, swap=4.0)


def wslconfig_not_in_effect(scene: Scene) -> None:
    wsl2(scene)
    memory(scene, 1.0)
    wslconfig(scene, "[wsl2]\nmemory = 24GB # of 32\n")


def little_memory(scene: Scene) -> None:
    memory(scene, 0.8)


def memory_in_swap(scene: Scene) -> None:
    memory(scene, 1.0, swap=8.0)


def container_limit(scene: Scene) -> None:
    memory(scene, 64.0)
    scene.system("proc/self/cgroup", "0::/\n")
    scene.system("sys/fs/cgroup/memory.max", f"{2**30}\n")
    scene.system("sys/fs/cgroup/memory.current", f"{2**28}\n")


def slow_drive(scene: Scene) -> None:
    """Reading from the data set takes 4 ms a file more than from elsewhere, as over 9P."""
    wsl2(scene, f"{ROOT}W:\\134 {scene.set} 9p rw,noatime,aname=drvfs;path=W:\\;uid=1000 0 0\n")
    read = drive._read

    def slow(path: Path) -> bytes | None:
        if path.is_relative_to(scene.set):
            time.sleep(0.004)
        return read(path)

    scene.monkeypatch.setattr(drive, "_read", slow)


def run_on_drive(scene: Scene) -> None:
    wsl2(scene, f"{ROOT}D: {scene.run} drvfs rw,noatime 0 0\n")


def drive_not_mounted(scene: Scene) -> None:
    wsl2(scene)
    scene.values["data.root"] = "/mnt/w/CMU Academics/Omni-CAD"


def large_letter(scene: Scene) -> None:
    wsl2(scene)
    scene.values["run.dir"] = "/mnt/C/runs/a"


def lost_backslashes(scene: Scene) -> None:
    scene.values["data.root"] = "W:CMUAcademicsOmni-CAD"


def tiny_shm(scene: Scene) -> None:
    scene.system(".dockerenv", "")
    scene.values |= {"train.workers": 4, "train.batch_size": 32}
    scene.monkeypatch.setattr(limits, "space", lambda path: (2**26, 2**26))


def shm_at_worst(scene: Scene) -> None:
    scene.values |= {"train.workers": 4, "train.batch_size": 32}
    scene.monkeypatch.setattr(limits, "space", lambda path: (2**40, 500 * 2**20))


def few_open_files(scene: Scene) -> None:
    scene.values |= {"train.workers": 2, "train.prefetch": 16, "train.packing": False, "train.accumulation": 32}
    scene.system("proc/self/limits", "Max open files            1024                 1048576              files     \n")


def hardly_any_open_files(scene: Scene) -> None:
    scene.system("proc/self/limits", "Max open files            100                  100                  files     \n")


def clock_in_the_past(scene: Scene) -> None:
    scene.monkeypatch.setattr(clock, "now", lambda: 1.6e9)


def clock_behind_the_host(scene: Scene) -> None:
    wsl2(scene)
    scene.system("sys/class/rtc/rtc0/since_epoch", f"{int(time.time()) + 7500}\n")


def low_inotify(scene: Scene) -> None:
    scene.system("proc/sys/fs/inotify/max_user_instances", "8\n")
    scene.system("proc/sys/fs/inotify/max_user_watches", "8192\n")


def inotify_taken(scene: Scene) -> None:
    scene.system("proc/sys/fs/inotify/max_user_instances", "128\n")
    scene.system("proc/sys/fs/inotify/max_user_watches", "65536\n")
    scene.monkeypatch.setattr(limits, "try_instance", lambda: errno.EMFILE)


CASES = (
    Case("old-python", "E801", old_python, ("python",)),
    Case("python-without-sqlite", "E801", python_without_sqlite, ("python",)),
    Case("macos", "E834", macos, ("os",), "warn"),
    Case("native-windows", "E834", windows, ("os",)),
    Case("wsl-1", "E833", wsl_1, ("wsl",)),
    Case("wsl-1-on-a-cpu", "E833", wsl_1_without_gpu, ("wsl",), "warn"),
    Case("small-wslconfig", "E815", small_wslconfig, ("memory",), sample=True),
    Case("wsl-with-half-of-little", "E815", wsl_half_of_little, ("memory",), "warn"),
    Case("wslconfig-not-in-effect", "E815", wslconfig_not_in_effect, ("memory",)),
    Case("little-memory", "E814", little_memory, ("memory",)),
    Case("memory-in-swap", "E814", memory_in_swap, ("memory",), "warn"),
    Case("memory-limit-of-a-container", "E814", container_limit, ("memory",)),
    Case("data-on-a-slow-drive", "E832", slow_drive, ("drives",), "warn"),
    Case("run-on-a-drive-of-windows", "E832", run_on_drive, ("drives",), "warn"),
    Case("drive-not-mounted", "E831", drive_not_mounted, ("paths",)),
    Case("drive-with-a-large-letter", "E831", large_letter, ("paths",)),
    Case("lost-backslashes", "E831", lost_backslashes, ("paths",)),
    Case("tiny-shm", "E816", tiny_shm, ("shm",), sample=True),
    Case("shm-too-small-at-worst", "E816", shm_at_worst, ("shm",), "warn"),
    Case("few-open-files", "E817", few_open_files, ("files",)),
    Case("hardly-any-open-files", "E817", hardly_any_open_files, ("files",), "warn"),
    Case("clock-in-the-past", "E818", clock_in_the_past, ("clock",), "warn", sample=True),
    Case("clock-behind-the-host", "E818", clock_behind_the_host, ("clock",), "warn"),
    Case("low-inotify", "E819", low_inotify, ("inotify",), "warn"),
    Case("inotify-taken", "E819", inotify_taken, ("inotify",), "warn"),
)
