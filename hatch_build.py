"""Puts what lies at the top level of the repository (presets, mini data set, tiny base) into the wheel, for `places.bundled`."""

from __future__ import annotations

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUNDLED = ("presets", "data", "checkpoints/tiny-base")


class BundleHook(BuildHookInterface):
    """An ordinary wheel carries copies; an editable install reads the checkout itself."""

    def initialize(self, version: str, build_data: dict) -> None:
        if version != "standard":
            return
        for name in BUNDLED:
            folder = Path(self.root) / name
            for file in sorted(p for p in folder.rglob("*") if p.is_file() and "derived" not in p.relative_to(folder).parts):
                inside = Path("cadmllm/_bundled") / name / file.relative_to(folder)
                build_data["force_include"][str(file)] = str(inside)
