"""What a stage takes of a card's memory, part by part, before anything is loaded. Arithmetic only, no torch.

Affine in the tokens of a micro-batch: what stands there whatever is computed, and what each token takes. Nothing here was
measured on a card; `docs/training.md` says what was compared with what.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cadmllm.plan.activations import per_token, recipe_of
from cadmllm.plan.moving import BYTES, CONTEXT, SLACK, Shown, moving
from cadmllm.plan.parts import HEAD_ROWS, Part, llm_shape, parts_of
from cadmllm.plan.rows import Row
from cadmllm.plan.sizes import GIB, NF4_BYTES, LlmShape

if TYPE_CHECKING:
    from cadmllm.settings import Settings

SMALLEST_8BIT = 4096  # values; smaller tensors keep their moments in 32 bit
MOST_TOKENS = 2**22
SECANTS = 12  # steps of a search that follow the line
SHORTEST = 1024  # tokens of a sequence: fewer leave no room for a cloud, a view and a program


@dataclass(frozen=True, slots=True)
class Memory:
    """What a stage needs, in bytes.

    Attributes:
        stage: 1, 2 or 3 (0: the guide's recipe).
        tokens: of a micro-batch, padding included.
        slope: bytes that one more token of a micro-batch costs on the card.
        lines: what it is made of.
    """

    stage: int
    tokens: int
    slope: int
    lines: tuple[Row, ...]

    def of(self, place: str) -> int:
        """Bytes in a place: 'card', 'ram' or 'saved'."""
        return sum(line.bytes for line in self.lines if line.place == place)

    @property
    def total(self) -> int:
        """Bytes of the card, CUDA's own and the allocator's slack included; 0 on a CPU."""
        return self.of("card")

    @property
    def ram(self) -> int:
        """Bytes in main memory, for what is kept there instead of on the card (on a CPU: all)."""
        return self.of("ram")

    @property
    def saved(self) -> int:
        """Bytes that need not be anywhere."""
        return self.of("saved")

    def rows(self) -> list[tuple[str, float, str, str]]:
        """(part, GiB, place, why) of each line that is not empty, in the table's order."""
        return [(line.name, round(line.bytes / GIB, 2), line.place, line.why) for line in self.lines if line.bytes]

    def as_dict(self) -> dict[str, object]:
        """For `--json`: bytes by name, in all, and per token."""
        parts = [
            {"part": line.name, "bytes": line.bytes, "place": line.place, "why": line.why} for line in self.lines if line.bytes
        ]
        return {"card": self.total, "ram": self.ram, "tokens": self.tokens, "bytes_per_token": self.slope, "parts": parts}


def micro_batch_tokens(settings: Settings) -> int:
    """Most tokens that a micro-batch computes: `train.pack_tokens`, or as many whole sequences as `train.batch_size` says."""
    train = settings.train
    whole = train.batch_size * train.max_seq_length
    return max(train.pack_tokens, train.max_seq_length) if train.packing and train.pack_tokens else whole


def device_kind(settings: Settings) -> str:
    """'cpu' where the settings say so, else 'cuda': memory is planned for a card."""
    return "cpu" if settings.device == "cpu" else "cuda"


def predict(
    settings: Settings,
    stage: int,
    *,
    tokens: int | None = None,
    device: str | None = None,
    from_store: Collection[str] | None = None,
    shown: Shown | None = None,
) -> Memory:
    """What a stage takes, of each process.

    Args:
        settings: resolved settings.
        stage: 1, 2 or 3.
        tokens: of a micro-batch; by default what the settings allow.
        device: 'cuda' or 'cpu'; by default as the settings say (auto counts as a card).
        from_store: see `parts.parts_of`.
        shown: what a micro-batch holds, where that is known; by default the worst that may be.

    Raises:
        UnknownShape: the size of a model is not known here.
    """
    device = device or device_kind(settings)
    tokens = micro_batch_tokens(settings) if tokens is None else tokens
    micro_batch = _moving(settings, stage, tokens, device, shown)
    more = _moving(settings, stage, tokens + 1024, device, None)
    slope = (_on_card(more) - _on_card(micro_batch if shown is None else _moving(settings, stage, tokens, device, None))) // 1024
    lines = _standing(settings, stage, from_store) + micro_batch
    if device == "cpu":
        own = [line for line in lines if line.name not in ("CUDA", "allocator slack")]
        lines = [replace(line, place="ram") if line.place == "card" else line for line in own]
    return Memory(stage, tokens, slope, tuple(lines))


def _on_card(lines: list[Row]) -> int:
    return sum(line.bytes for line in lines if line.place == "card")


def longest_fit(settings: Settings, stage: int, budget_bytes: int, *, from_store: Collection[str] | None = None) -> int:
    """Most tokens a micro-batch may have so that the stage stays within `budget_bytes` of a card; 0 when none fits.

    Raises:
        UnknownShape: the size of a model is not known here.
    """

    standing = _on_card(_standing(settings, stage, from_store))

    def total(tokens: int) -> int:
        return standing + _on_card(_moving(settings, stage, tokens, "cuda", None))

    low, high = 0, MOST_TOKENS
    least, most = total(low), total(high)
    if most <= budget_bytes or least > budget_bytes:
        return MOST_TOKENS if most <= budget_bytes else 0
    tries = 0
    while high - low > 1:  # nearly a straight line: where it should cross, and halves where it is not so straight
        tries += 1
        share = (budget_bytes - least) / (most - least) if tries <= SECANTS else 0.5
        middle = min(high - 1, max(low + 1, low + int((high - low) * share)))
        found = total(middle)
        if found <= budget_bytes:
            low, least = middle, found
        else:
            high, most = middle, found
    return low


def _standing(settings: Settings, stage: int, from_store: Collection[str] | None) -> list[Row]:
    """What is there whatever is computed: weights, and what their training needs."""
    shape, wide = llm_shape(settings), BYTES[settings.dtype]
    parts = parts_of(settings, stage, from_store)
    lines = [_weights(part, settings, wide) for part in parts]
    for name, chosen in _trained(parts):
        count = sum(part.parameters for part in chosen)
        states = sum(moments(part, settings, shape) for part in chosen)
        lines.append(Row(f"{name}: gradients", 4 * count, "card", f"{count:,} in 32 bit"))
        why = f"two moments, {states / count:.1f} bytes a parameter"
        lines.append(Row(f"{name}: {settings.train.optimizer}", states, "card", why))
    if not shape.tied:
        saved = shape.vocabulary * shape.hidden * wide
        why = f"not loaded: the head is the {HEAD_ROWS:,} rows of the CAD vocabulary"
        lines.append(Row("output matrix", saved, "saved", why))
    return lines


def _trained(parts: list[Part]) -> list[tuple[str, list[Part]]]:
    """What is trained, by the name its lines have."""
    groups: dict[str, list[Part]] = {}
    for part in parts:
        if part.trained:
            names = {"llm": "LoRA" if part.name == "LoRA" else "language model", "rows": "added rows"}
            groups.setdefault(names.get(part.component, part.component), []).append(part)
    return list(groups.items())


def _weights(part: Part, settings: Settings, wide: int) -> Row:
    if part.name == "linear layers" and settings.model.quantization == "nf4":
        return Row(
            part.name, int(part.parameters * NF4_BYTES), "card", f"{part.parameters:,} in NF4, {NF4_BYTES * 8:.2f} bits each"
        )
    in_ram = part.name == "input embedding" and settings.model.embedding_device == "cpu" and settings.lora.enabled
    size = 4 if part.trained or part.held else wide
    why = f"{part.parameters:,} in {8 * size} bit" + (" (model.embedding_device=cpu)" if in_ram else "")
    return Row(part.name, size * part.parameters, "ram" if in_ram else "card", why)


def moments(part: Part, settings: Settings, shape: LlmShape) -> int:
    """Bytes of AdamW's two moments: rows, projectors and small tensors keep theirs in 32 bit (train/optim.py)."""
    if settings.train.optimizer == "adamw" or part.component not in ("llm", "encoders"):
        return 8 * part.parameters
    small = 0
    if part.name == "norms":
        small = part.parameters
    elif part.name == "LoRA":
        widths = 4 * [shape.hidden] + 2 * [shape.query] + 2 * [shape.key] + 3 * [shape.mlp] + 3 * [shape.hidden]
        widths += 2 * [shape.hidden]  # ends of q, k, v, o, gate, up and down
        small = shape.layers * sum(settings.lora.r * width for width in widths if settings.lora.r * width < SMALLEST_8BIT)
    large = part.parameters - small
    return 8 * small + 2 * large + 8 * (large // 256)  # two scales in 32 bit for each 256 values


def _moving(settings: Settings, stage: int, tokens: int, device: str, shown: Shown | None) -> list[Row]:
    """What a micro-batch takes, the allocator's slack and CUDA's own."""
    lines = moving(settings, stage, tokens, device, shown)
    return [
        *lines,
        Row("allocator slack", int(SLACK * _on_card(lines)), "card", f"assumed: {SLACK:.0%} of the activations"),
        Row("CUDA", CONTEXT, "card", "assumed: the driver's context and its libraries"),
    ]


def guide_recipe(shape: LlmShape, batch_size: int, max_seq_length: int, rank: int, *, checkpointing: bool) -> Memory:
    """What the training guide's recipe needs: 16-bit weights with the output matrix, LoRA with AdamW, every sequence padded to
    the maximum, logits of the whole vocabulary at every position in 16 and in 32 bit, plain cross-entropy. Text alone (stage 1).
    """
    tokens = batch_size * max_seq_length
    recipe = recipe_of("bfloat16", True, rank, checkpointing, copies=True)
    each, lora = per_token(shape, recipe), shape.lora_parameters(rank)
    logits = shape.vocabulary * (2 + 3 * 4)
    moving = each.stored + max(each.live, logits)  # the head is done when the last layer's turn comes
    name = "inputs of the layers" if checkpointing else "activations of the layers"
    lines = (
        Row("linear layers", 2 * shape.linear_parameters, "card", f"{shape.linear_parameters:,} in 16 bit"),
        Row("both embeddings", 2 * shape.embedding_parameters, "card", f"{shape.embedding_parameters:,} in 16 bit"),
        Row("LoRA", 16 * lora, "card", f"{lora:,} with gradient and AdamW in 32 bit"),
        Row(name, int(each.stored * tokens), "card", f"{tokens:,} tokens x {each.stored / 1024:.0f} KiB"),
        Row(
            "logits",
            int(max(each.live, logits) * tokens),
            "card",
            f"{shape.vocabulary:,} x (2 + 3 x 4) bytes a token, loss and gradient",
        ),
        Row("allocator slack", int(SLACK * moving * tokens), "card", f"assumed: {SLACK:.0%} of the activations"),
        Row("CUDA", CONTEXT, "card", "assumed: the driver's context and its libraries"),
    )
    return Memory(0, tokens, int(moving * (1 + SLACK)), lines)
