"""Where the doctor reads the system: the real one, or one that a test has made. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """A system as its files and its environment show it.

    Attributes:
        root: under which /proc, /sys, /etc and /mnt are read ('/' but in tests).
        environ: environment variables; processes that checks start get them, too.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def path(self, name: str) -> Path:
        """A system file: `path('proc/version')`."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """Its text; empty where it is not there or cannot be read."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    @property
    def wsl(self) -> bool:
        """Whether the kernel is one of WSL."""
        return "microsoft" in self.text("proc/version").lower()
