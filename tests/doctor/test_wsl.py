"""WSL told from the kernel, .wslconfig in every encoding and with every slip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cadmllm.doctor import wsl
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.machine import Machine
from cadmllm.settings import Settings

GIB = 2**30


def machine(root: Path, environ: dict[str, str] | None = None, **files: str) -> Machine:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(root, environ or {})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com)", 1),
        ("Linux version 5.15.153.1-microsoft-standard-WSL2 (root@1)", 2),
        ("Linux version 4.19.104-microsoft-standard (oe-user@host)", 2),
        ("Linux version 6.1.0-13-amd64 (debian-kernel@lists.debian.org)", 0),
        ("", 0),
    ],
)
def test_the_version_is_told_from_the_kernel(tmp_path, text, number):
    assert wsl.version(machine(tmp_path, proc__version=text)) == number


def test_a_kernel_of_ones_own_is_wsl_2(tmp_path):
    assert wsl.version(machine(tmp_path, proc__version="Linux version 6.6.1-zen", proc__sys__fs__binfmt_misc__WSLInterop="")) == 2


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * GIB), ("8G", 8 * GIB), (" 512mb ", GIB // 2), ('"16GB"', 16 * GIB), ("8589934592", 8 * GIB), ("1TB", 1024 * GIB)]
    + [("half", None), ("8.5GB", None), ("", None), ("-4GB", None), ("50%", None)],
)
def test_sizes(text, size):
    assert wsl.size_of(text) == size


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_config_in_every_encoding_of_notepad(encoding):
    text = (
        "# mine\r\n[WSL2]\r\nMemory = 24GB # of 32\r\nswap=0\r\nswapfile=C:\\\\temp\\\\wsl-swap.vhdx\r\nlocalhostForwarding\r\n"
    )
    found = wsl.parse_config(Path("/mnt/c/Users/me/.wslconfig"), text.encode(encoding))
    assert (found.memory, found.swap, found.odd) == (24 * GIB, 0, ())
    assert found.windows_path == r"C:\Users\me\.wslconfig"


def test_slips_in_a_config_are_said():
    path = Path("/mnt/c/Users/me/.wslconfig")
    bare = wsl.parse_config(path, b"[wsl2]\nmemory=8\n")
    assert bare.memory is None
    assert "memory=8 is no size" in bare.odd[0]
    stray = wsl.parse_config(path, b"[experimental]\nmemory=8GB\n")
    assert stray.memory is None
    assert "WSL reads it in [wsl2] only" in stray.odd[0]
    headless = wsl.parse_config(path, b"memory=8GB\n")
    assert headless.memory is None
    assert len(headless.odd) == 1


def test_the_newest_config_of_a_person_counts(tmp_path):
    for number, name in enumerate(("me", "work", "Public")):
        file = tmp_path / f"mnt/c/Users/{name}/.wslconfig"
        file.parent.mkdir(parents=True)
        file.write_text(f"[wsl2]\nmemory={number + 1}GB\n")
        os.utime(file, (1000 + number, 1000 + number))
    found = wsl.read_config(Machine(tmp_path, {}))
    assert found is not None
    assert found.path.parent.name == "work"
    assert wsl.read_config(Machine(tmp_path / "absent", {})) is None


def test_drives_that_are_mounted_elsewhere(tmp_path):
    made = machine(tmp_path, etc__wsl_conf="x")
    (tmp_path / "etc/wsl.conf").write_text("[automount]\nroot = /windir/\n")
    assert wsl.mount_root(made) == "/windir"
    file = tmp_path / "windir/c/Users/me/.wslconfig"
    file.parent.mkdir(parents=True)
    file.write_text("[wsl2]\nmemory=4GB\n")
    found = wsl.read_config(made)
    assert found is not None
    assert found.memory == 4 * GIB


def test_wsl_1_is_a_failure_only_where_a_gpu_is_asked_for(tmp_path):
    made = machine(tmp_path, {"WSL_DISTRO_NAME": "Ubuntu-22.04"}, proc__version="4.4.0-19041-Microsoft")
    (finding,) = wsl.check_wsl(Situation(Settings(device="cuda"), machine=made)).findings
    assert (finding.code, finding.level) == ("E833", Level.FAIL)
    assert "wsl --set-version Ubuntu-22.04 2" in finding.remedy
    assert wsl.check_wsl(Situation(Settings(device="cpu"), machine=made)).level is Level.WARN
    assert wsl.check_wsl(Situation(None, machine=made)).level is Level.WARN


def test_wsl_2_says_what_it_was_given(tmp_path):
    made = machine(tmp_path, proc__version="5.15-microsoft-standard-WSL2", proc__sys__kernel__osrelease="5.15-WSL2\n")
    outcome = wsl.check_wsl(Situation(None, machine=made))
    assert outcome.level is Level.OK
    assert "half of the machine's memory" in outcome.details[0]
    config = tmp_path / "mnt/c/Users/me/.wslconfig"
    config.parent.mkdir(parents=True)
    config.write_text("[wsl2]\nmemory=12GB\nswap=4096MB\n")
    details = wsl.check_wsl(Situation(None, machine=made)).details
    assert details == (r"C:\Users\me\.wslconfig: memory=12 GB, swap=4 GB",)
    assert wsl.check_wsl(Situation(None, machine=Machine(tmp_path / "else", {}))).skipped == "not WSL"
