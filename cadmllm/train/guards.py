"""What must hold before a run starts, and how a run is asked to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from cadmllm.errors import CadmllmError, Exit
from cadmllm.models.stages import STEPS, is_complete
from cadmllm.train.curriculum import Stage

SAVE_PREFIX = "step_"


class Interrupts:
    """While entered, the first Ctrl-C or SIGTERM only asks: the loop ends its step, saves, and leaves. The second stops at once.

    Attributes:
        asked: the signal that asked, None so far.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to the main thread alone
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)

    @property
    def exit_code(self) -> Exit:
        """130 after Ctrl-C, 75 (a scheduler may start the job again) after SIGTERM, 0 otherwise."""
        return {None: Exit.DONE, signal.SIGINT: Exit.INTERRUPTED}.get(self.asked, Exit.RESUMABLE)


def deaf_to_signals(_worker: int) -> None:
    """For loader processes: a signal to the whole group must not kill them while the loop finishes its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def has_saves(stage: Stage) -> bool:
    """Whether the stage's folder holds a step save (whole or torn)."""
    return any((stage.folder / STEPS).glob(f"{SAVE_PREFIX}*"))


def just_begun(stage: Stage) -> bool:
    """Whether the stage was killed before its first save: its folder is there, and nothing in it but what such a run makes."""
    return stage.folder.is_dir() and all(path.name == STEPS or path.name.startswith(".") for path in stage.folder.iterdir())


def check_run_folder(stages: Sequence[Stage], resume: bool, overwrite: bool) -> None:
    """Never write over another run unasked, never resume what is not there.

    Raises:
        CadmllmError: E105 for both options together; E604, E605.
    """
    if resume and overwrite:
        raise CadmllmError(
            "E105",
            "--resume continues a run and --overwrite throws it away",
            "give one of the two",
            exit_code=Exit.USAGE,
        )
    names = " ".join(f"stage{stage.number}" for stage in stages)
    run_dir = stages[0].folder.parent
    if resume:
        if not any(is_complete(stage.folder) or has_saves(stage) or just_begun(stage) for stage in stages):
            raise CadmllmError(
                "E604",
                f"{run_dir} holds no save of {names.replace(' ', ', ')}",
                f"start it: cadmllm train {names} (without --resume), or name the run's folder: --set run.dir=FOLDER",
            )
        return
    taken = [stage for stage in stages if stage.folder.is_dir() and any(stage.folder.iterdir())]
    if taken and not overwrite:
        state = "a finished stage" if is_complete(taken[0].folder) else "an unfinished run" if has_saves(taken[0]) else "files"
        raise CadmllmError(
            "E605",
            f"{taken[0].folder} already holds {state}",
            f"continue it: cadmllm train {names} --resume; or keep it and train elsewhere: --set run.dir=ANOTHER; "
            "or throw it away: --overwrite",
        )
