"""What a look at held-out prompts gave: light, as training passes it on without the CAD kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Sampled:
    """Held-out prompts that were answered and judged; everything is empty where that failed (which was said).

    Attributes:
        shares: of valid solids, 0..1, by combination and over 'all'.
        pictures: sheets that were written (PNG).
        rows: one a prompt, as in the .jsonl beside the sheet.
    """

    shares: dict[str, float] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
