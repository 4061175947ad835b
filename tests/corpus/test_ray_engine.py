"""Ray gives the files and the manifest of one machine, byte for byte; a local Ray of two workers."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cadmllm.cad import omnicad
from cadmllm.corpus.parts import generate
from tests.cad.test_workshop import slow

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = ["data", "prepare", "--points", "--step", "--point-count", "64", "--set", "kernel.timeout=5", "--json", "--quiet"]


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cadmllm", *COMMAND, str(root), *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.long
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'cadmllm[ray]'")
def test_two_ray_workers_make_what_one_machine_makes(tmp_path: Path):
    for name in ("local", "ray"):
        (tmp_path / name / "json" / "0000").mkdir(parents=True)
        for part in generate(30, 6):
            omnicad.write_json(part.program, tmp_path / name / "json" / f"{part.id}.json")
        omnicad.write_json(slow(), tmp_path / name / "json" / "0000" / "slow.json")
        (tmp_path / name / "json" / "0000" / "broken.json").write_text("[]")
    assert run(tmp_path / "local", "--workers", "2").returncode == 0
    done = run(tmp_path / "ray", "--engine", "ray", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")
    local, other = ({p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")
                     if p.is_file()} for n in ("local", "ray"))  # fmt: skip
    assert len(local) == 32 + 30 * 2 + 1
    assert other == local
    again = run(tmp_path / "ray", "--engine", "ray", "--workers", "2")
    assert '"kept": 30' in again.stdout
