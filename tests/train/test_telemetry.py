"""wandb is told the guide's names, goes on over resumes, and never stops a run."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from cadmllm.train.curriculum import plan_stages
from cadmllm.train.telemetry import AXIS, Wandb, run_name, wandb_values

RECORD = {
    "stage": 2,
    "step": 3,
    "epoch": 0.5,
    "loss": 1.25,
    "lr": 1e-4,
    "grad_norm": None,
    "tokens_per_s": 1000.0,
    "samples_per_s": 4.0,
    "tokens": 900,
    "computed": 1000,
    "supervised": 300,
    "seconds": 2.0,
    "waited": 0.5,
    "mix": {"text": 3, "text+image": 1},
    "rates": {"llm": 1e-4, "points": 5e-4},
    "gpu_memory_gib": 12.5,
    "peak_gib": 11.0,
    "gpu_utilisation": 97,
    "gpu_temperature": 71,
    "gpu_throttled": False,
    "val_loss": {"text": 2.0, "all": float("nan")},
    "samples_judged": {"valid": 0.75},
    "time": "2026-11-22T18:44:05",
}


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_the_names_are_the_guides() -> None:
    values = wandb_values(RECORD)
    assert values == {
        "train/loss": 1.25,
        "train/learning_rate": 1e-4,
        "train/stage": 2.0,
        "train/step": 3.0,
        "train/epoch": 0.5,
        "train/tokens_per_s": 1000.0,
        "train/samples_per_s": 4.0,
        "train/supervised_tokens_per_s": 150.0,
        "train/waiting_share": 0.25,
        "train/padding_share": pytest.approx(0.1),
        "gpu/memory_gib": 12.5,
        "gpu/peak_gib": 11.0,
        "gpu/utilisation": 97.0,
        "gpu/temperature": 71.0,
        "gpu/throttled": 0.0,
        "modalities/text": 0.75,
        "modalities/text+image": 0.25,
        "rates/llm": 1e-4,
        "rates/points": 5e-4,
        "val/text": 2.0,
        "samples/valid": 0.75,
    }
    assert wandb_values({**RECORD, "grad_norm": 0.5})["train/grad_norm"] == 0.5


def test_a_record_of_an_older_version_has_fewer_values() -> None:
    assert wandb_values({"stage": 1, "step": 1, "loss": 2.0, "mix": {}, "val_loss": None, "seconds": 0.0}) == {
        "train/stage": 1.0,
        "train/step": 1.0,
        "train/loss": 2.0,
    }


def test_the_run_name_is_the_guides(settings) -> None:
    s = settings(
        model={"llm": "Qwen/Qwen3-8B"},
        lora={"r": 32},
        train={"batch_size": 2, "accumulation": 32},
        stages={"1": {"epochs": 1, "lr": 2e-4}},
    )
    assert run_name(s, plan_stages(s, [1])[0]) == "Qwen3-8B-lora-r32-lr2e-04-bs64-ep1"


class Fake:
    """A wandb run that keeps what it is told."""

    def __init__(self, resumed: bool = False, told: int = 0) -> None:
        self.logged: list[dict] = []
        self.defined: list[tuple] = []
        self.offline, self.resumed, self.url = False, resumed, "https://wandb.ai/team/project/runs/1"
        self.summary = {AXIS: told}
        self.exit_code = None

    def define_metric(self, name: str, **options: object) -> None:
        self.defined.append((name, options))

    def log(self, values: dict) -> None:
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def _wandb(settings, console, mode: str = "online") -> Wandb:
    s = settings(wandb={"mode": mode})
    s.run.dir.mkdir(exist_ok=True)
    return Wandb(s, plan_stages(s, [1])[0], console)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> list:
    """A service that answers and a login; each `init` takes the next run (or error) of the list. Options are kept behind it."""
    import wandb

    queue: list = []

    def init(**options: object) -> object:
        run = queue.pop(0)
        queue.append(options)
        if isinstance(run, Exception):
            raise run
        return run

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr("cadmllm.train.telemetry._reach", lambda url: None)
    return queue


def test_a_run_at_the_service_says_its_address_and_has_one_axis(settings, console, service) -> None:
    run = Fake()
    service.append(run)
    w = _wandb(settings, console)
    w.start(0)
    w.start(5)  # the next stage: nothing begins
    w.log({"train/loss": 1.0}, 1)
    w.close(75)
    assert "wandb: https://wandb.ai/team/project/runs/1\n" in console.err.getvalue()
    assert ("*", {"step_metric": AXIS}) in run.defined
    assert run.logged == [{"train/loss": 1.0, AXIS: 1}]
    assert run.exit_code == 75
    assert service[0]["mode"] == "online"
    assert service[0]["settings"].init_timeout <= 60
    assert 0 < service[0]["settings"].finish_timeout <= 300


def test_a_resumed_run_continues_its_curves(settings, console, service) -> None:
    service += [Fake(), Fake(resumed=True, told=7), Fake()]
    first = _wandb(settings, console)
    first.start(0)
    again, run = _wandb(settings, console), service[0]
    again.start(5)  # killed after step 7, its newest save is that of step 5
    for step in range(6, 10):
        again.log({"train/loss": 1.0}, step)
    assert [values[AXIS] for values in run.logged] == [7, 8, 9]
    _wandb(settings, console).start(0)  # nothing was kept: another run
    ids = [options["id"] for options in service]
    assert ids[0] == ids[1] != ids[2]


def test_a_service_that_fails_costs_a_line(settings, console, service) -> None:
    import wandb

    offline = Fake()
    offline.offline = True
    service += [wandb.errors.CommError("no such project\nmore"), offline]
    w = _wandb(settings, console)
    w.start(0)
    w.log({"train/loss": 1.0}, 1)
    assert offline.logged
    said = console.err.getvalue()
    assert said.count("\n") == 1
    assert "no such project, so this run is logged offline in" in said
    assert [options["mode"] for options in service] == ["online", "offline"]


def test_without_a_network_it_goes_offline_at_once(settings, console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("NO_PROXY", "*")
    import wandb

    wandb.teardown()  # it keeps the environment of its first use
    w = _wandb(settings, console)
    w.start(0)
    w.log({"train/loss": 1.0}, 1)
    w.close()
    wandb.teardown()
    assert "cannot be reached" in console.err.getvalue()
    assert list((settings().run.dir / "wandb").glob("offline-run-*"))


def test_without_a_login_it_goes_offline_and_says_so(settings, console, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    seen: list[dict] = []
    monkeypatch.setattr(wandb, "init", lambda **options: seen.append(options))
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    _wandb(settings, console).start()
    assert seen[0]["mode"] == "offline"
    assert console.err.getvalue().count("\n") == 1
    assert "wandb login" in console.err.getvalue()


@pytest.mark.parametrize(("forced", "modes"), [("offline", ["offline"]), ("disabled", [])])
def test_the_environment_has_the_last_word(settings, console, monkeypatch: pytest.MonkeyPatch, forced, modes) -> None:
    import wandb

    seen: list[str] = []
    monkeypatch.setenv("WANDB_MODE", forced)
    monkeypatch.setattr(wandb, "init", lambda **options: seen.append(options["mode"]))
    _wandb(settings, console).start()
    assert seen == modes
    assert "WANDB_MODE" in console.err.getvalue()


def test_trouble_is_said_once_and_the_run_goes_on(settings, console, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    class Broken(Fake):
        def log(self, values: dict) -> None:
            raise RuntimeError("disk on fire")

    monkeypatch.setattr(wandb, "init", lambda **_: Broken())
    run = _wandb(settings, console, "offline")
    run.start()
    run.log({"train/loss": 1.0})
    run.log({"train/loss": 1.0})
    run.close()
    assert console.err.getvalue().count("disk on fire") == 1


def test_wandb_off_imports_nothing(settings, console) -> None:
    run = Wandb(settings(), plan_stages(settings(), [1])[0], console)
    run.start()
    run.log({"train/loss": 1.0})
    run.pictures([Path("a.png")])
    run.close()
    assert not (settings().run.dir / "wandb-id").exists()


def _written(path: Path) -> Iterator[dict]:
    """The rows of history in a file of wandb's: a log in LevelDB's form (blocks of 32 KiB) of protobuf records."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()  # ty: ignore[missing-attribute]
            record.ParseFromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_offline_for_real(settings, console, tmp_path: Path) -> None:
    import wandb

    sheet = tmp_path / "step_000002.png"
    Image.new("RGB", (8, 6), "red").save(sheet)
    for begin in (0, 2):  # a run, and its continuation
        if begin:
            time.sleep(1.1)  # folders are named by the second
        w = _wandb(settings, console, "offline")
        w.start(begin)
        for step in range(begin + 1, begin + 3):
            w.log(wandb_values({**RECORD, "step": step}), step)
        w.pictures([sheet, tmp_path / "gone.png"], begin + 2)
        w.log({"epoch/stage1_text_loss": 0.5}, begin + 2)
        w.close()
        wandb.teardown()  # as a process that ends: its service, which writes the file, is waited for
    files = sorted((settings().run.dir / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    rows = [row for file in files for row in _written(file)]
    assert len({file.name for file in files}) == 1  # one id
    assert [row[AXIS] for row in rows if "train/loss" in row] == [1, 2, 3, 4]
    assert next(row["val/text"] for row in rows) == 2.0
    assert [row[AXIS] for row in rows if "epoch/stage1_text_loss" in row] == [2, 4]
    pictures = [row for row in rows if "samples/pictures/count" in row]
    assert [row["samples/pictures/captions"] for row in pictures] == [["step_000002"]] * 2
    for file, row in zip(files, pictures, strict=True):
        assert (file.parent / "files" / row["samples/pictures/filenames"][0]).read_bytes() == sheet.read_bytes()
