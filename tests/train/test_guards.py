"""Signals, and what is never written over."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from cadmllm.errors import CadmllmError
from cadmllm.models.stages import write_manifest
from cadmllm.train.curriculum import plan_stages
from cadmllm.train.guards import Interrupts, check_run_folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_the_first_signal_asks_and_the_second_stops(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with Interrupts() as stop:
        assert stop.asked is None
        assert stop.exit_code == 0
        os.kill(os.getpid(), number)
        assert stop.asked == number
        assert stop.exit_code == code
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    found: list[object] = []

    def enter() -> None:
        with Interrupts() as stop:
            found.append(stop.asked)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [None]


def _code(settings, *, resume: bool = False, overwrite: bool = False, numbers: tuple[int, ...] = (1,)) -> str | None:
    try:
        check_run_folder(plan_stages(settings, numbers), resume, overwrite)
    except CadmllmError as error:
        return error.code
    return None


def test_a_folder_in_use_is_never_written_over_unasked(settings) -> None:
    s = settings()
    assert _code(s) is None
    assert _code(s, resume=True) == "E604"
    folder = s.run.dir / "stage1_text_model"
    folder.mkdir(parents=True)
    assert _code(s) is None  # empty
    (folder / "steps" / ".step_000001").mkdir(parents=True)
    assert _code(s, resume=True) is None  # killed inside its first save: it starts over
    (folder / "model.safetensors").write_text("somebody's")
    assert _code(s) == "E605"
    assert _code(s, numbers=(2,)) is None
    assert _code(s, resume=True) == "E604"  # neither finished nor a save
    assert _code(s, overwrite=True) is None
    assert _code(s, overwrite=True, resume=True) == "E105"


def test_saves_and_finished_stages_can_be_resumed(settings) -> None:
    s = settings()
    save = s.run.dir / "stage1_text_model" / "steps" / "step_000003"
    save.mkdir(parents=True)
    assert _code(s) == "E605"
    assert _code(s, resume=True, numbers=(1, 2)) is None
    save.rmdir()
    (s.run.dir / "stage1_text_model" / "x").write_text("x")
    write_manifest(s.run.dir / "stage1_text_model")
    assert _code(s) == "E605"
    assert _code(s, resume=True, numbers=(1, 2)) is None
