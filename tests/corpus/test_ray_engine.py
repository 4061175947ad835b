"""Ray gives the files and the manifest of one machine, byte for byte; a local Ray of two workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from cadmllm.cad import omnicad
from cadmllm.cad.kernel import Verdict
from cadmllm.corpus import ray_engine
from cadmllm.corpus.derive import Outcome, Piece, Recipe
from cadmllm.corpus.parts import generate
from cadmllm.corpus.prepare import Commission
from cadmllm.errors import CadmllmError
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


class ActorDied(Exception):
    pass


class Actor:
    """One of the fake's: a reference to its answer is (number, pieces, something that is told apart)."""

    def __init__(self, number: int) -> None:
        self.run = SimpleNamespace(remote=lambda pieces: (number, tuple(pieces), object()))


class FakeRay:
    """As much of Ray as the engine uses, in this process: actors that die when they are told to."""

    def __init__(self, dying: Collection[int] = (), error: CadmllmError | None = None) -> None:
        self.dying, self.error = dying, error
        self.made: list[Actor] = []
        self.killed: list[Actor] = []
        self.exceptions = SimpleNamespace(RayActorError=ActorDied)

    def remote(self, num_cpus: int):
        def make(timeout: float, memory: int) -> Actor:
            self.made.append(Actor(len(self.made)))
            return self.made[-1]

        return lambda kind: SimpleNamespace(remote=make)

    def wait(self, under_way: list, num_returns: int):
        return under_way[:1], under_way[1:]

    def get(self, reference: tuple[int, tuple[Piece, ...], object]):
        number, pieces, _ = reference
        if number in self.dying:
            raise ActorDied("its machine is gone")
        return self.error or [Outcome(piece.id, "", Verdict.OK) for piece in pieces]

    def kill(self, hand: Actor) -> None:
        self.killed.append(hand)


def commissions(tmp_path: Path, count: int) -> list[Commission]:
    return [Commission(Piece(f"0000/{k}", tmp_path, tmp_path, tmp_path, (), Recipe()), None) for k in range(count)]


def test_an_actor_that_dies_is_replaced_and_its_programs_are_done_again(tmp_path: Path):
    ray = FakeRay(dying={0})
    found = [outcome.id for outcome in ray_engine._run(ray, commissions(tmp_path, 100), 2, 5.0, 0)]
    assert sorted(found) == sorted(f"0000/{k}" for k in range(100))
    assert len(ray.made) == 3
    assert set(ray.killed) == set(ray.made[1:])


def test_a_cluster_that_keeps_dying_is_said(tmp_path: Path):
    ray = FakeRay(dying=set(range(99)))
    with pytest.raises(CadmllmError) as caught:
        list(ray_engine._run(ray, commissions(tmp_path, 100), 2, 5.0, 0))
    assert caught.value.code == "E481"
    assert len(ray.made) < 10


def test_an_error_of_an_actor_is_the_runs(tmp_path: Path):
    ray = FakeRay(error=CadmllmError("E303", "no space", "free some"))
    with pytest.raises(CadmllmError, match="no space"):
        list(ray_engine._run(ray, commissions(tmp_path, 3), 2, 5.0, 0))
    assert set(ray.killed) == set(ray.made)
