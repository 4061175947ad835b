"""Death at a chosen moment: what a kill inside a save leaves, without a kill."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cadmllm.models import weights
from cadmllm.train import checkpoint


class Death(BaseException):
    """The process is gone: nothing cleans up after it."""


class Reaper:
    """Lets the process die at the `at`-th call that changes the disk; what is being written then is left half-written.

    After death every further call fails as well, so that no `finally` repairs what a kill would leave.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.at, self.calls, self.dead = at, 0, False
        for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync"):
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name), name))
        for module in (checkpoint, weights):
            monkeypatch.setattr(module, "save_file", self._wrap(module.save_file, "save_file"))
        monkeypatch.setattr(Path, "write_text", self._wrap(Path.write_text, "write_text"))

    def _wrap(self, real: Callable, name: str) -> Callable:
        def call(*arguments, **options):
            self.calls += 1
            if not self.dead and self.calls == self.at:
                self.dead = True
                if name == "save_file":
                    real(*arguments, **options)
                    os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)
                elif name == "write_text":
                    arguments[0].write_bytes(arguments[1].encode()[: len(arguments[1]) // 2])
                elif name == "fsync" and os.path.isfile(path := f"/proc/self/fd/{arguments[0]}"):
                    os.truncate(os.path.realpath(path), os.path.getsize(path) // 2)  # what was not synced may be lost
            if self.dead:
                raise Death
            return real(*arguments, **options)

        return call
