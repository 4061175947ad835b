"""What the system allows a process: shared memory for the loader, open files, inotify. Standard library only."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor import wsl
from cadmllm.doctor.check import Check, Finding, Fix, Level, Outcome, Situation
from cadmllm.doctor.headers import amount
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.transfer import Window, open_files, waiting, window_of

if TYPE_CHECKING:
    from cadmllm.settings import Settings

OWN_FILES = 20  # that a process of a run on a CPU opens for itself: 19 were counted in training, 13 in a loader process
STORES = 128  # that cached features keep open: 64 of each part
MORE_FILES = 108  # that CUDA, wandb and the CAD kernel's processes may add: an assumption
FEW_INSTANCES, FEW_WATCHES = 16, 1024
_OPEN_FILES = re.compile(r"^Max open files\s+(\S+)\s+(\S+)", re.MULTILINE)


def space(path: Path) -> tuple[int, int]:
    """Bytes of a file system in all, and free."""
    facts = os.statvfs(path)
    return facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize


def largest_window(situation: Situation) -> Window:
    """The largest step of the stages."""
    return max(
        (window_of(situation.needed, stage) for stage in situation.stages), key=lambda window: (window.bytes, window.tensors)
    )


def check_shared_memory(situation: Situation) -> Outcome:
    """/dev/shm holds what the loader's processes prepare ahead."""
    settings, machine = situation.needed, situation.machine
    if not settings.train.workers:
        return Outcome(skipped="train.workers=0: nothing goes through /dev/shm")
    try:
        total, free = space(machine.path("dev/shm"))
    except OSError as error:
        return Outcome(skipped=f"/dev/shm: {error.strerror}")
    window = largest_window(situation)
    need, most = waiting(settings, window)
    ahead = f"{settings.train.workers} loader processes x {settings.train.prefetch} steps of {amount(window.bytes)}"
    text = f"/dev/shm: {amount(free)} of {amount(total)} free; {ahead} take about {amount(need)}"
    if most <= free:
        return Outcome(text)
    lethal = (
        "more than there is: training would hang, or die of a bus error"
        if need > free
        else f"at worst {amount(most)}, more than there is"
    )
    size = 2 ** max(0, math.ceil(math.log2(1.25 * most / 2**30)))
    remedy, fix = _smaller(settings, window, free)
    larger = f"sudo mount -o remount,size={size}G /dev/shm"
    if wsl.in_container(machine):
        larger = f"docker run --shm-size={size}g ... (Kubernetes: an emptyDir with medium: Memory on /dev/shm)"
    finding = Finding("E816", Level.FAIL if need > free else Level.WARN, "shm", f"{text}, {lethal}", f"{larger}; or {remedy}")
    return Outcome(findings=(finding,), fixes=(fix,))


def _smaller(settings: Settings, window: Window, free: int) -> tuple[str, Fix]:
    """Fewer steps ahead where that is enough, else no loader processes."""
    ahead = (free // max(1, window.most) - 1) // settings.train.workers
    if 1 <= ahead < settings.train.prefetch:
        return f"--set train.prefetch={ahead}", Fix("setting", "train.prefetch", int(ahead), "less waits in /dev/shm")
    return "--set train.workers=0", Fix("setting", "train.workers", 0, "nothing goes through /dev/shm")


def check_open_files(situation: Situation) -> Outcome:
    """A process may open as many files as the loader's tensors, libraries and saves take."""
    found = _OPEN_FILES.search(situation.machine.text("proc/self/limits"))
    if found is None:
        return Outcome(skipped="/proc/self/limits does not say how many files may be open")
    if found[1] == "unlimited":
        return Outcome("any number of open files is allowed")
    soft, hard = int(found[1]), found[2]
    settings = situation.needed
    window = largest_window(situation)
    tensors = open_files(settings, window)
    least = OWN_FILES + tensors + (STORES if settings.data.features is not None else 0)
    need = least + MORE_FILES
    text = f"{soft:,} open files are allowed (at most {hard}), about {need:,} needed"
    if soft >= need:
        return Outcome(text)
    level = Level.FAIL if soft < least else Level.WARN
    why = f": a step is {window.tensors} tensors, and each that waits is an open file" if tensors else ""
    raised = max(65536, need) if hard == "unlimited" or int(hard) >= 65536 else int(hard)
    remedy = f"ulimit -n {raised} (in this shell, before the start)"
    if hard != "unlimited" and int(hard) < need:
        allowed = "echo '* - nofile 65536' | sudo tee /etc/security/limits.d/90-cadmllm.conf"
        remedy = f"{allowed}, then log in again (in Docker: docker run --ulimit nofile=65536)"
    fixes: tuple[Fix, ...] = ()
    if tensors:
        remedy += "; or --set train.workers=0"
        fixes = (Fix("setting", "train.workers", 0, "no tensors wait as open files"),)
    return Outcome(findings=(Finding("E817", level, "files", text + why, remedy),), fixes=fixes)


def check_inotify(situation: Situation) -> Outcome:
    """inotify has instances and watches left: terminals, editors and dashboards beside a run watch its files with it."""
    machine = situation.machine
    instances = _number(machine, "proc/sys/fs/inotify/max_user_instances")
    watches = _number(machine, "proc/sys/fs/inotify/max_user_watches")
    if instances is None or watches is None:
        return Outcome(skipped="no inotify here")
    text = f"{instances:,} instances and {watches:,} watches a user"
    problem = ""
    if instances < FEW_INSTANCES or watches < FEW_WATCHES:
        problem = f"inotify allows only {text}"
    elif (number := try_instance()) == errno.EMFILE:
        problem = f"all {instances:,} inotify instances of this user are taken"
    elif number:
        return Outcome(skipped=os.strerror(number))
    if not problem:
        return Outcome(text)
    remedy = "sudo sysctl -w fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=524288"
    return Outcome(findings=(Finding("E819", Level.WARN, "inotify", problem, remedy),))


def try_instance() -> int:
    """Open an inotify instance and close it again: 0, or the error's number."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_CLOEXEC)
    if handle < 0:
        return ctypes.get_errno()
    os.close(handle)
    return 0


def _number(machine: Machine, name: str) -> int | None:
    text = machine.text(name).strip()
    return int(text) if text.isdigit() else None


CHECKS = (
    Check("inotify", "inotify has instances and watches left", ("E819",), check_inotify, needs_settings=False),
    Check("shm", "/dev/shm holds what the loader's processes prepare ahead", ("E816",), check_shared_memory),
    Check("files", "enough open files are allowed for the loader's tensors", ("E817",), check_open_files),
)
