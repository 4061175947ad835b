"""The memory table of presets and of the guide's recipe, as Markdown: `python -m cadmllm.plan.table [PRESET ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cadmllm.plan.memory import Memory, guide_recipe, longest_fit, predict
from cadmllm.plan.sizes import GIB, KNOWN, LlmShape

GROUPS = {
    "linear layers": ("linear layers", "norms"),
    "embedding": ("input embedding",),
    "language model": ("language model: ",),
    "LoRA": ("LoRA",),
    "added rows": ("added rows",),
    "encoders and projectors": ("point ", "image ", "projectors", "encoders"),
    "layer inputs": ("inputs of the layers", "activations of the layers"),
    "layer at work": ("the layer at work",),
    "the rest": ("a matrix unpacked", "head", "features", "allocator slack"),
    "CUDA": ("CUDA",),
}
GUIDE = (
    ("the guide's settings", 2, 16384, True),
    ("without checkpointing, as its commands are", 2, 16384, False),
    ("its remedies: one sequence of 8,192", 1, 8192, True),
    ("one sequence of 2,048", 1, 2048, True),
)


def grouped(memory: Memory, place: str = "card") -> dict[str, float]:
    """GiB by group, without the empty ones."""
    found = {}
    for group, names in GROUPS.items():
        total = sum(line.bytes for line in memory.lines if line.place == place and line.name.startswith(names))
        if total:
            found[group] = total / GIB
    return found


def sentences(memory: Memory) -> list[str]:
    """Two lines that a preset's head holds, so that every number in it can be recomputed."""
    parts = grouped(memory)
    moving = {"layer inputs", "layer at work", "the rest"}
    fixed = ", ".join(f"{name} {gib:.2f}" for name, gib in parts.items() if name not in moving)
    tokens = ", ".join(f"{name} {gib:.2f}" for name, gib in parts.items() if name in moving)
    elsewhere = [f"RAM: {name} {gib:.2f}" for name, gib in grouped(memory, "ram").items()]
    elsewhere += [f"nowhere: output matrix {memory.saved / GIB:.2f}"] if memory.saved else []
    return [
        f"GiB of stage {memory.stage}: {fixed}",
        f"{memory.tokens:,} tokens x {memory.slope / 1024:.0f} KiB: {tokens}" + "".join(f"; {text}" for text in elsewhere),
    ]


def preset_rows(names: Sequence[str]) -> list[list[str]]:
    """A row for each stage of each preset."""
    from cadmllm.resolve import resolve  # and with it pydantic, which the doctor must do without

    rows = []
    for name in names:
        settings = resolve(preset=name, environ={}).settings
        for stage in (1, 2, 3):
            memory = predict(settings, stage, device="cpu" if name == "tiny" else None)
            parts = grouped(memory) if memory.total else grouped(memory, "ram")
            model = f"{settings.model.llm.split('/')[-1]} {settings.model.quantization.replace('none', settings.dtype)}"
            cells = [f"{parts.get(group, 0.0):.2f}" for group in GROUPS if group != "language model"]
            away = f"{memory.ram / GIB:.2f}" if memory.total else "all"
            total = (memory.total or memory.ram) / GIB
            rows.append([name, model, str(stage), f"{memory.tokens:,}", *cells, f"**{total:.1f}**", away])
    return rows


def guide_rows(shape: LlmShape) -> list[list[str]]:
    """A row for each way to read the guide."""
    rows = []
    for name, batch, length, saving in GUIDE:
        memory = guide_recipe(shape, batch, length, 32, checkpointing=saving)
        sizes = [f"{line.bytes / GIB:.1f}" for line in memory.lines]
        rows.append([name, f"{memory.tokens:,}", *sizes, f"**{memory.total / GIB:.1f}**"])
    return rows


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(names: Sequence[str]) -> None:
    """Print both tables, and what else fits."""
    from cadmllm.resolve import preset_names, resolve

    groups = [group for group in GROUPS if group != "language model"]
    chosen = names or preset_names()
    print(markdown(["preset", "model", "stage", "tokens", *groups, "total", "in RAM"], preset_rows(chosen)))
    shape = KNOWN["Qwen/Qwen3-8B"]
    lines = guide_recipe(shape, 1, 2048, 32, checkpointing=True).lines
    print()
    print(markdown(["Qwen3-8B as in the guide", "tokens", *(line.name for line in lines), "total"], guide_rows(shape)))
    print()
    budgets = (8, 12, 14, 16, 24, 80)
    rows = []
    for name in chosen:
        settings = resolve(preset=name, environ={}).settings
        if settings.device != "cpu" and settings.model.llm != "tiny":
            fits = [longest_fit(settings, 3, budget * GIB) for budget in budgets]
            rows.append([name, *(f"{tokens:,}" if tokens else "-" for tokens in fits)])
    if rows:
        print(markdown(["longest micro-batch of stage 3 within", *(f"{budget} GiB" for budget in budgets)], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
