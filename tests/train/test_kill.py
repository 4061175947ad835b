"""Real processes are killed at random moments, also inside a save, and resumed: every loss and every weight is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cadmllm.models.stages import STAGE_FOLDERS, is_complete, sha256, verify
from cadmllm.train.checkpoint import step_saves

PATIENCE = 120.0  # seconds until a process counts as hanging
SEED = int(os.environ.get("KILL_SEED", "20"))


class Forge:
    """Starts commands: see `forge.py`."""

    def __init__(self) -> None:
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        script = Path(__file__).with_name("forge.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )

    def ask(self, order: dict) -> dict:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="module")
def forge() -> Generator[Forge, None, None]:
    server = Forge()
    yield server
    server.close()


@dataclass(slots=True)
class Run:
    """A run folder and the command that trains in it."""

    forge: Forge
    folder: Path
    stage: int
    config: Path
    slow: dict[str, float] = field(default_factory=dict)

    @property
    def stage_dir(self) -> Path:
        return self.folder / STAGE_FOLDERS[self.stage]

    @property
    def log(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.log"

    def mark(self, name: str) -> Path:
        return self.folder.parent / name

    def start(self) -> int:
        """The command's process; resumed if the run has begun."""
        argv = ["train", f"stage{self.stage}", "--config", str(self.config), "--set", f"run.dir={self.folder}"]
        argv += ["--from-scratch", *(["--resume"] if self.stage_dir.is_dir() else [])]
        order = {"argv": argv, "log": str(self.log), "marks": str(self.folder.parent), "slow": self.slow}
        return self.forge.ask(order)["pid"]

    def wait(self, pid: int) -> int:
        """The exit code; a process that hangs is killed and fails the test."""
        deadline = time.monotonic() + PATIENCE
        while alive(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                pytest.fail(f"it hangs: {self.log.read_text()}")
            time.sleep(0.01)
        return self.forge.ask({"wait": pid})["code"]

    def finish(self) -> Run:
        """Train to the end."""
        code = self.wait(self.start())
        assert code == 0, self.log.read_text()
        return self

    def lines(self) -> int:
        """Lines of metrics.jsonl so far."""
        path = self.folder / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def losses(self) -> list[tuple[int, float]]:
        """Every line's step and loss, in the order in which they stand."""
        records = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        assert {record["stage"] for record in records} == {self.stage}
        return [(record["step"], record["loss"]) for record in records]

    def until(self, pid: int, reached: Callable[[], bool]) -> bool:
        """Wait for something; False when the process ended before."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            if not alive(pid):
                return False
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.001)
        return True


def alive(pid: int) -> bool:
    """Whether the process runs; a dead one that nobody has waited for is a zombie."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def same(run: Run, straight: Run) -> None:
    """Each step once, to the same loss; the same weights to the bit."""
    assert run.losses() == straight.losses()
    assert [step for step, _ in run.losses()] == list(range(1, len(run.losses()) + 1))
    verify(run.stage_dir)
    assert sha256(run.stage_dir / "model.safetensors") == sha256(straight.stage_dir / "model.safetensors")
    assert not list(run.folder.glob("**/.*")), "nothing half-written is left"


@pytest.fixture(scope="module")
def config(base: Path, parts, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A settings file: 6 steps of 4 samples, a save after each, LoRA with dropout (which needs the random state)."""

    def make(steps: int = 6, **train: object) -> Path:
        options = {
            "batch_size": 2,
            "accumulation": 2,
            "max_seq_length": 512,
            "warmup_steps": 2,
            "val_samples": 4,
            "save_steps": 1,
            "max_steps": steps,
            **train,
        }
        lines = ['dtype = "float32"', 'device = "cpu"', "[data]", f'root = "{parts.data.root}"', "[model]", f'llm = "{base}"']
        lines += ['points_encoder = "fourier"', "point_count = 64", "point_tokens = 8", "fourier_width = 32"]
        lines += [
            'image_encoder = "tiny"',
            'image_bridge = "perceiver"',
            "image_tokens = 4",
            "image_views = 2",
            "resampler_width = 32",
            "[lora]",
            "enabled = true",
            "r = 4",
            "alpha = 8",
            "dropout = 0.1",
        ]
        lines += ["[train]", *(f"{name} = {value}" for name, value in options.items())]
        for stage in (1, 2, 3):
            lines += [f"[stages.{stage}]", "epochs = 10", "lr = 1e-3"]
        path = tmp_path_factory.mktemp("config") / "cadmllm.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    return make


@pytest.fixture(scope="module")
def straight(forge: Forge, config, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Runs that nobody disturbed, one for each stage and length."""
    known: dict[tuple[int, int], Run] = {}

    def find(stage: int, steps: int = 6) -> Run:
        if (stage, steps) not in known:
            folder = tmp_path_factory.mktemp("straight") / "run"
            known[stage, steps] = Run(forge, folder, stage, config(steps)).finish()
        return known[stage, steps]

    return find


def kill_at_random(run: Run, kills: int, seed: int) -> None:
    """SIGKILL that many times, then let it finish: while it starts, in a step, or (mostly, as it is slowed down) in a save."""
    rng = random.Random(seed)
    inside = 0
    for number in range(kills):
        pid = run.start()
        begun = run.lines()
        if rng.random() < 0.85:
            assert run.until(pid, lambda begun=begun: run.lines() > begun), "it ended before it could be killed"
        time.sleep(rng.uniform(0, 0.3))
        os.kill(pid, signal.SIGKILL)
        assert run.wait(pid) in (-signal.SIGKILL, 0)
        half = any(run.stage_dir.glob("steps/.*")) or any(run.stage_dir.glob(".*"))
        inside += half
        saves = [path.name for path in step_saves(run.stage_dir)]
        print(f"kill {number + 1}: line {begun} -> {run.lines()}, {saves}, half a save: {half}")
        if is_complete(run.stage_dir):
            break
    print(f"{inside} kills inside a save")
    run.finish()


def test_a_killed_run_gives_the_same_numbers(forge: Forge, config, straight, tmp_path: Path) -> None:
    print(f"KILL_SEED={SEED}")
    run = Run(forge, tmp_path / "run", 3, config(), slow={"fsync": 0.004})
    kill_at_random(run, 3, SEED)
    same(run, straight(3))


def test_signals_leave_at_the_right_moment_and_cost_nothing(forge: Forge, config, straight, tmp_path: Path) -> None:
    run = Run(forge, tmp_path / "run", 1, config(10, val_steps=2))

    def disturb(slow: dict[str, float], moment: Callable[[], bool], *signals: signal.Signals) -> int:
        run.slow = slow
        for name in ("step", "validation", "fsync"):
            run.mark(name).unlink(missing_ok=True)
        pid = run.start()
        assert run.until(pid, moment), run.log.read_text()
        for number in signals:
            os.kill(pid, number)
            time.sleep(0.1)
        return run.wait(pid)

    assert disturb({"step": 0.2}, lambda: run.lines() >= 1, signal.SIGTERM) == 75
    done = run.lines()
    assert step_saves(run.stage_dir)[-1].name == f"step_{done:06d}"
    assert "SIGTERM: stopped after step" in run.log.read_text()
    assert disturb({"step": 0.2}, lambda: run.lines() > done, signal.SIGINT) == 130
    done = run.lines()
    assert step_saves(run.stage_dir)[-1].name == f"step_{done:06d}"

    twice = (signal.SIGINT, signal.SIGINT)  # at once: the step, the save, the validation are not finished
    assert disturb({"step": 5.0}, lambda: run.mark("step").exists(), *twice) == 130
    assert run.lines() == done
    steps = run.stage_dir / "steps"
    assert disturb({"fsync": 0.3}, lambda: any(steps.glob(".step_*")), *twice) == 130
    assert not any(steps.glob(".step_*"))
    assert step_saves(run.stage_dir)[-1].name == f"step_{done:06d}"
    assert disturb({"validation": 5.0}, lambda: run.mark("validation").exists(), *twice) == 130
    # killed while the finished stage is being written and moved
    assert disturb({"final": 0.2}, lambda: (run.stage_dir / ".final").exists(), signal.SIGKILL) == -signal.SIGKILL
    assert not is_complete(run.stage_dir)
    run.slow = {}
    same(run.finish(), straight(1, 10))


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_ten_kills_in_each_stage(forge: Forge, config, straight, tmp_path: Path, stage: int) -> None:
    print(f"KILL_SEED={SEED}")
    run = Run(forge, tmp_path / "run", stage, config(14), slow={"fsync": 0.004})
    kill_at_random(run, 10, SEED + stage)
    same(run, straight(stage, 14))


@pytest.mark.long
def test_the_command_itself_is_killed(forge: Forge, config, straight, tmp_path: Path) -> None:
    run = Run(forge, tmp_path / "run", 1, config())
    command = [sys.executable, "-m", "cadmllm", "train", "stage1", "--config", str(run.config), "--set", f"run.dir={run.folder}"]
    for kills in (1, 2):
        before = run.lines()
        with subprocess.Popen([*command, *(["--resume"] if kills > 1 else [])], stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + PATIENCE
            while run.lines() <= before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            process.kill()
    subprocess.run([*command, "--resume"], check=True, capture_output=True, timeout=PATIENCE)
    same(run, straight(1))
