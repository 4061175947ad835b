"""What the processes of the distributed tests run: `python apart.py SCENARIO OUT`, a process each, in torchrun's environment.

Each scenario is a function that gets this process's world and returns JSON; process r writes it to OUT/r.json. `run` starts them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FEW = [(3, "ddp"), (3, "fsdp")]  # which stage under which strategy
MORE = [(1, "ddp"), (2, "ddp full"), (2, "fsdp full"), (2, "fsdp bfloat16")]
STEPS, LATE = 12, 7  # steps of the toy runs; the step (from 0) at which the second modality is first shown


def run(scenario: str, out: Path, count: int = 2, timeout: float = 200.0, **environment: str) -> list[Any]:
    """Start `count` processes and give back what each returned. A process that wrote nothing gives its exit code and words."""
    out.mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    shared = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **environment}
    started = []
    for rank in range(count):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, __file__, scenario, str(out)]
        started.append(subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    said = []
    for process in started:
        try:
            said.append(process.communicate(timeout=timeout)[0])
        except subprocess.TimeoutExpired:
            process.kill()
            said.append(f"(killed after {timeout} s)\n" + process.communicate()[0])
    results: list[Any] = []
    for rank, (process, words) in enumerate(zip(started, said, strict=True)):
        file = out / f"{rank}.json"
        results.append(json.loads(file.read_text()) if file.is_file() else (process.returncode, words[-3000:]))
    return results


def launched(count: int, *arguments: str) -> subprocess.Popen[str]:
    """`cadmllm ARGUMENTS` in `count` processes, by torchrun; in one, without it."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    command = [sys.executable, *torchrun, "-m", "cadmllm", *arguments]
    own = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def caught(call) -> dict[str, str] | None:
    """The error that a call raises, as data."""
    from cadmllm.errors import CadmllmError

    try:
        call()
    except CadmllmError as error:
        return error.as_dict()
    return None


def broken(call) -> str:
    """The kind of error that a call raises."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return ""


def collectives(world, settings) -> dict[str, Any]:
    """Everything that processes tell each other."""
    import torch

    from cadmllm.errors import CadmllmError

    turns: list[str] = []

    def fails_on_one() -> int:
        if world.rank == 1:
            raise CadmllmError("E401", "no data here", "mount it")
        return 7

    def fails_on_main() -> None:
        turns.append("done")
        raise CadmllmError("E607", "disk full", "free some space")

    def breaks_on_main() -> None:
        raise ZeroDivisionError

    items = [5, 3, 9, 1, 1, 4]
    world.reseed(1, 2, 3)
    found = {
        "main": world.main,
        "gather": world.gather({"rank": world.rank, "text": "ü" * (1 + world.rank)}),
        "sum": world.sum([1e16 if world.rank else 1.0, 0.1, float("nan") if world.rank else 0.0]),
        "most": world.most(3 - world.rank),
        "agree": [world.agree(False), world.agree(world.rank == 1)],
        "same": caught(lambda: world.agree_on({"ids": 3, "seed": 1})),
        "differs": caught(lambda: world.agree_on({"ids": 3, "seed": world.rank})),
        "attempt": [world.attempt(lambda: world.rank), caught(lambda: world.attempt(fails_on_one))],
        "on_main": [world.on_main(lambda: "saved"), caught(lambda: world.on_main(fails_on_main)), turns],
        "broken": broken(lambda: world.on_main(breaks_on_main)),
        "share": world.share(items, lambda item: item),
        "dropout": torch.rand(2).tolist(),
        "full": world.full(torch.ones(2)).tolist(),
        "kept": world.kept(torch.ones(2, requires_grad=True)).tolist(),
    }
    found["console"] = _heard(world)
    return found


def _heard(world) -> str:
    import io

    from cadmllm.console import Console

    console = Console(out=io.StringIO(), err=io.StringIO())
    here = world.console(console)
    here.print("result")
    here.note("note")
    here.warn("warning")
    return console.out.getvalue() + console.err.getvalue()


def everything(world, settings) -> dict[str, Any]:
    """The scenarios of a moment, in one start; the last ends with a process less."""
    found: dict[str, Any] = {"collectives": collectives(world, settings), "toy": toy_run(world, settings)}
    found |= stages(world, settings, FEW) | {"troubled": troubled(world, settings)}
    if world.rank == 1:
        leave(world, found)
    return found | {"lost": lost(world, settings)}


def lost(world, settings) -> dict[str, Any]:
    """The other process has ended without a word; this one must not wait for it."""
    return {"sum": caught(lambda: world.sum([1.0])), "wrap": caught(lambda: toy_run(world, settings))}


def leave(world, found: dict[str, Any]) -> None:
    """End this process as a crash would."""
    (Path(sys.argv[2]) / f"{world.rank}.json").write_text(json.dumps(found))
    os._exit(3)


def toy_run(world, settings) -> dict[str, Any]:
    """Losses and weights of a toy that is trained as one process or several, a modality first shown late and by one alone."""
    import torch

    torch.manual_seed(5 + world.rank)  # begins differently on each process: wrapping makes them alike
    model = make_toy()
    if world.main:
        torch.manual_seed(5)
        for parameter in model.parameters():
            parameter.data.normal_()
    replica = world.wrap(model, settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    losses, norms = [], []
    for step in range(STEPS):
        rows = [(step * 6 + k, step >= LATE and k == 5) for k in range(1 if step == 3 else 6)]
        mine = world.share(rows, lambda row: row[0] % 5)
        [supervised] = world.sum([sum(1 + number % 4 for number, _ in mine)])
        optimizer.zero_grad(set_to_none=True)
        sums = []
        for row in mine:  # a micro-batch each; at step 3 a process has none
            loss, _ = model.loss(row)
            (loss * (world.size / supervised)).backward()
            sums.append(float(loss.detach()))
        replica.reduce()
        norms.append(replica.clip(1.0))
        losses.append(world.sum([sum(sums)])[0] / supervised)
        optimizer.step()
    steps = {name: int(optimizer.state[p]["step"]) if p in optimizer.state else 0 for name, p in model.named_parameters()}
    weights = {name: parameter.tolist() for name, parameter in model.named_parameters()}
    return {"losses": losses, "norms": norms, "steps": steps, "weights": weights}


def stages(world, settings, plans) -> dict[str, Any]:
    """Stages for a few steps: whole copies and shards, with LoRA and without, in 32 and 16 bits."""
    return {f"{name} {number}": train_stage(world, settings, number, name) for number, name in plans}


def others(world, settings) -> dict[str, Any]:
    """The stages that `everything` has no time for."""
    return stages(world, settings, MORE)


def engine_of(world, settings, number: int):
    """A stage's model and optimizer, ready for a step; and what the groups are."""
    from cadmllm.models.fusion import build_model
    from cadmllm.train.optim import build_optimizer
    from cadmllm.train.step import Engine

    model = build_model(settings, number)
    replica = world.wrap(model, settings) if world.size > 1 else None
    model.settle_attention()
    optimizer, infos = build_optimizer(model.parameter_groups(), number, 1e-3, settings.train)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return Engine(model, optimizer, parameters, world.device, settings.dtype, 0.5, replica), infos


def share_of(world, model, step: int, number: int) -> list[Any]:
    """This process's micro-batches of a window, two samples each."""
    from cadmllm.corpus.batch import Collator

    collate = Collator(model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, 512, model.images_together)
    encoded = [collate.encode(sample) for sample in world.share(samples(step, number), lambda sample: len(sample.target))]
    return [collate.pack(encoded[k : k + 2]) for k in range(0, len(encoded), 2)]


def troubled(world, settings) -> dict[str, Any]:
    """Memory runs out on one process in the first step, the loss of one is not finite in the second; the third is good."""
    import torch

    from cadmllm.train.step import train_step

    engine, _ = engine_of(world, settings, 1)
    loss = engine.model.loss

    def exhausted(_batch):
        raise torch.OutOfMemoryError("of the test")

    def poisoned(batch):
        total, count = loss(batch)
        return total * float("nan"), count

    found = {}
    for name, trouble in (("memory", exhausted), ("loss", poisoned), ("none", loss)):
        engine.model.loss = trouble if world.rank == 1 else loss
        step = lambda: train_step(engine, share_of(world, engine.model, 0, 1))  # noqa: B023, E731
        found[name] = step().loss if name == "none" else caught(step) if name == "loss" else broken(step)
    return found


def train_stage(world, settings, number: int, name: str) -> dict[str, Any]:
    """Losses, norms and weights of some steps of a stage; what it adds is first shown at step 2, by two samples of five."""

    from cadmllm.models.weights import trained_state
    from cadmllm.train.state import optimizer_tensors
    from cadmllm.train.step import train_step

    settings = settings.model_copy(deep=True)
    settings.train.distributed = name[:4].strip()  # ty: ignore[invalid-assignment]
    settings.lora.enabled = "full" not in name
    settings.dtype = "bfloat16" if "bfloat16" in name else "float32"
    settings.train.gradient_checkpointing = number == 3
    engine, infos = engine_of(world, settings, number)
    model, optimizer = engine.model, engine.optimizer
    losses, norms = [], []
    for step in range(4):
        report = train_step(engine, share_of(world, model, step, number))
        losses.append(report.loss)
        norms.append(report.grad_norm)
    state = {name: world.kept(value) for name, value in trained_state(model).items()}
    moments = optimizer_tensors(optimizer, infos, world.full)
    figures = {key: [float(t.double().sum()), float(t.double().square().sum())] for key, t in state.items()}
    return {"losses": losses, "norms": norms, "weights": figures, "moments": {k: float(t.sum()) for k, t in moments.items()}}


def samples(step: int, number: int) -> list[Any]:
    """A window of 5 samples, the last step's of 1; from step 2 on two show what the stage adds."""
    import numpy as np

    from cadmllm.cad.frame import Transform
    from cadmllm.cad.vocabulary import END
    from cadmllm.corpus.types import Cloud, Sample

    rng = np.random.default_rng(step)
    found = []
    for k in range(1 if step == 3 else 5):
        target = np.append(rng.integers(0, 300, 4 + 6 * k), END)
        shown = step >= 2 and k in (0, 4)
        cloud = Cloud(rng.random((64, 3), np.float32), rng.random((64, 3), np.float32), Transform((0.0, 0.0, 0.0), 1.0))
        image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        clouds = (cloud,) if shown and number > 1 else ()
        images = (image,) if shown and number > 2 else ()
        name = "text" + "+point_cloud" * len(clouds) + "+image" * len(images)
        found.append(Sample(f"{step}/{k}", name, "a plate", target, clouds, images))
    return found


def make_toy():
    import torch
    from torch import nn

    class Toy(nn.Module):
        """Row k supervises 1 + k % 4 numbers; the second branch is reached by rows that show it alone, the third by none."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def loss(self, row):
            number, shown = row
            values = torch.randn(1 + number % 4, 4, generator=torch.Generator().manual_seed(number))
            hidden = self.first(values)
            if shown:
                hidden = hidden + self.second(values)
            return (hidden - values.roll(1, 1)).square().sum(), len(values)

    return Toy()


def main() -> int:
    """Run a scenario and leave its result."""
    import torch

    from cadmllm.settings import Settings
    from cadmllm.train.world import open_world

    torch.set_num_threads(1)
    name, out = sys.argv[1], Path(sys.argv[2])
    settings = Settings(device="cpu", dtype="float32", **json.loads(os.environ.get("APART_SETTINGS", "{}")))
    if "APART_OWN_SEED" in os.environ:
        settings.train.seed = int(os.environ["RANK"])
    with open_world(settings, patience=float(os.environ.get("APART_PATIENCE", "60"))) as world:
        result = globals()[name](world, settings)
        (out / f"{world.rank}.json").write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
