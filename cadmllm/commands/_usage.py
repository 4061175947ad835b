"""The flags table of docs/usage.md, written from `flags.FLAGS` and the settings by `python -m cadmllm.commands._usage`."""

from __future__ import annotations

import sys
from pathlib import Path

from cadmllm.flags import FLAGS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "usage.md"
BEGIN, END = "<!-- flags -->", "<!-- end of flags -->"


def table() -> str:
    """A row a flag: what the guide writes, the setting, its default, what it does."""
    from cadmllm.keys import known_keys

    known = known_keys()
    lines = ["| flag | setting | default | what it does |", "|---|---|---|---|"]
    for flag in FLAGS:
        value = " [true\\|false]" if flag.switch else " VALUE"
        only = f" (`{'`, `'.join(flag.commands)}` alone)" if flag.commands else ""
        setting = f"`{flag.key}`" if flag.key else "the stages to train"
        default = f"`{known[flag.key].default_text}`" if flag.key else ""
        text = flag.help or known[flag.key].description
        lines.append(f"| `{flag.spelling}`{value} | {setting} | {default} | {text}{only} |")
    return "\n".join(lines)


def renewed(page: str) -> str:
    """The page with a current table."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)
