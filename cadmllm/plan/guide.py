"""The training guide's own advice, checked: why it does not fit its card, by its recipe and by ours, and what does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cadmllm.plan.changes import Way, changed, way
from cadmllm.plan.memory import Memory, guide_recipe, predict
from cadmllm.plan.parts import llm_shape
from cadmllm.plan.sizes import GIB

if TYPE_CHECKING:
    from cadmllm.settings import Settings

# "RTX 5070 Ti (16 GB)": Qwen3-8B in bfloat16, LoRA r 32, batch 2, 16,384 tokens, checkpointing
BATCH, LENGTH, RANK = 2, 16384, 32
SETTINGS = {
    "model.quantization": "none",
    "model.embedding_device": "auto",
    "lora.enabled": True,
    "lora.r": RANK,
    "lora.alpha": 2 * RANK,
    "train.packing": False,
    "train.batch_size": BATCH,
    "train.accumulation": 32,
    "train.max_seq_length": LENGTH,
    "train.pack_tokens": 0,
    "train.gradient_checkpointing": True,
    "train.offload_activations": False,
    "train.optimizer": "adamw",
}


@dataclass(frozen=True, slots=True)
class Advice:
    """What the guide's settings take.

    Attributes:
        theirs: by the guide's recipe (PEFT as it comes, all logits at every position), text alone.
        ours: by ours with the same settings, the stage that takes most.
        way: what makes ours fit.
        settings: ours, with the guide's values.
    """

    theirs: Memory
    ours: Memory
    way: Way
    settings: Settings

    def why(self, room: int) -> list[str]:
        """Why the guide's recipe does not fit into `room` bytes, in sentences; empty where it does."""
        if self.theirs.total <= room:
            return []
        rows = {row.name: row.bytes for row in self.theirs.lines}
        weights = rows["linear layers"] + rows["both embeddings"]
        fixed = weights + rows["LoRA"] + rows["CUDA"]
        told = [
            f"Weights alone are {weights / GIB:.1f} GiB in 16 bit; with LoRA and CUDA {fixed / GIB:.1f} "
            f"of the {room / GIB:.1f} GiB that can be had are gone before the first token."
        ]
        logits = rows["logits"] / self.theirs.tokens
        told.append(
            f"Each of the {self.theirs.tokens:,} tokens then takes {self.theirs.slope / 2**20:.1f} MiB, "
            f"{logits / 2**20:.1f} of them logits of the whole vocabulary with loss and gradient."
        )
        if fixed > room:
            told.append("No batch size, length or checkpointing can help: the weights have to become smaller.")
        return told


def advice(settings: Settings, room: int, stages: tuple[int, ...] = (1, 2, 3)) -> Advice:
    """Check the guide's settings against `room` bytes of a card.

    Args:
        settings: ours, which say the rest (model, encoders).
        room: bytes that can be had.
        stages: that are to be trained.

    Raises:
        UnknownShape: the size of a model is not known here.
    """
    asked = changed(settings, SETTINGS).model_copy(update={"device": "cuda", "dtype": "bfloat16"})
    theirs = guide_recipe(llm_shape(asked), BATCH, LENGTH, RANK, checkpointing=True)
    ours = max((predict(asked, stage, device="cuda") for stage in stages), key=lambda memory: memory.total)
    return Advice(theirs, ours, way(changed(asked, {"train.packing": True}), stages, room), asked)
