"""The memory plan against what real training steps take: `predict` of `cadmllm/plan` and the peak that was measured.

    python3 benchmarks/memory.py --cpu                    # small models of four kinds, on this CPU, half a minute
    python3 benchmarks/memory.py --gpu --out rows.jsonl   # Qwen3 0.6B to 8B with random weights, on a CUDA card
    python3 benchmarks/memory.py --gpu --device cpu --tiny                      # that the rows of --gpu run at all

A row of JSON for each configuration, and a Markdown table at the end. A step is a whole one: two micro-batches of a packed row
each, so that gradients stand when the second one is computed, and the optimizer with its moments. Programs have the lengths of
real ones. Every difference counts against the prediction: nothing is fitted to a row.

Instruments. On a CPU: every storage that a dispatch mode sees from its birth to its death (tests/live_bytes.py), on top of the
bytes of weights, buffers and moments; not the process' size, which holds libraries and freed memory as well. On a card:
`torch.cuda.max_memory_allocated` and `max_memory_reserved` since before the model was made. The plan's CUDA context stands
outside of both, its slack of the allocator in the second alone.

On a lent machine without pydantic and bitsandbytes these have to be carried: benchmarks/gpu.py says how, and makes the models.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gpu  # benchmarks/gpu.py, beside this one
import gpu_model
import gpu_samples

from cadmllm.places import bundled

if TYPE_CHECKING:
    import torch

    from cadmllm.corpus.types import Batch
    from cadmllm.models.fusion import CadMLLM
    from cadmllm.settings import Settings
    from cadmllm.train.step import Engine

MIB = 2**20
SMALL = {
    "hidden_size": 192,
    "intermediate_size": 576,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_hidden_layers": 6,
    "vocab_size": 2048,
}
# the ratios of real models, a sixteenth as wide or less
RATIOS = {
    "": {},
    "Qwen3-0.6B": {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 8, "num_key_value_heads": 4},
    "Qwen3-4B": {"hidden_size": 160, "intermediate_size": 608, "num_attention_heads": 8, "num_key_value_heads": 2},
    "Llama-3-8B": {"hidden_size": 256, "intermediate_size": 896, "num_attention_heads": 8, "num_key_value_heads": 2},
    "Qwen2.5-7B": {"hidden_size": 224, "intermediate_size": 1184, "num_attention_heads": 7, "num_key_value_heads": 1},
}
NOT_TENSORS = ("CUDA", "allocator slack")


@dataclass(frozen=True)
class Case:
    """A configuration.

    Attributes:
        kind: 'qwen3', 'qwen2', 'llama' or 'mistral'; on a card a name of `plan.sizes.KNOWN`.
        dtype: computed in; 'nf4': the same in bfloat16, with 4-bit weights.
        lora: else the whole model is trained.
        checkpointing: of the layers.
        stage: 1 text, 2 and clouds, 3 and views.
        tokens: of a micro-batch.
        set: more settings by dotted key.
        like: whose ratios a small model has (`RATIOS`); '': those of `SMALL`.
    """

    kind: str
    dtype: str
    lora: bool
    checkpointing: bool
    stage: int
    tokens: int
    set: tuple[tuple[str, Any], ...] = ()
    like: str = ""

    @property
    def name(self) -> str:
        parts = (self.like or self.kind.split("/")[-1], self.dtype, "lora" if self.lora else "whole")
        more = [f"{key.rpartition('.')[2]}={value}" for key, value in self.set]
        return "-".join([*parts, "ck" if self.checkpointing else "plain", f"stage{self.stage}", str(self.tokens), *more])


EIGHT_BIT = (("train.optimizer", "adamw_8bit"),)
DROPOUT = (("lora.dropout", 0.1),)
PERCEIVER = (("model.image_bridge", "perceiver"), ("model.resampler_width", 128), ("model.image_views", 1))
ON_CPU = (
    Case("qwen3", "bfloat16", True, True, 1, 512),
    Case("qwen3", "bfloat16", True, False, 1, 1024),
    Case("qwen3", "bfloat16", True, True, 3, 1024),
    Case("qwen3", "float32", False, False, 1, 512),
    Case("qwen3", "float32", False, True, 3, 2048),
    Case("qwen3", "nf4", True, True, 1, 1024, EIGHT_BIT),
    Case("qwen3", "bfloat16", False, True, 1, 1024, (("train.packing", False),)),
    Case("qwen2", "bfloat16", True, True, 2, 1024),
    Case("qwen2", "float32", True, False, 1, 512),
    Case("qwen2", "bfloat16", False, True, 1, 2048, EIGHT_BIT),
    Case("llama", "bfloat16", True, False, 3, 1024),
    Case("llama", "float32", False, True, 2, 512),
    Case("llama", "bfloat16", True, True, 1, 2048),
    Case("mistral", "bfloat16", True, True, 3, 512),
    Case("mistral", "float32", True, True, 3, 1024),
    Case("mistral", "bfloat16", False, False, 1, 1024),
    Case("qwen3", "bfloat16", True, True, 1, 2048, (), "Qwen3-0.6B"),
    Case("qwen3", "bfloat16", True, False, 3, 1024, (), "Qwen3-0.6B"),
    Case("qwen3", "nf4", True, True, 2, 2048, (), "Qwen3-4B"),
    Case("qwen3", "bfloat16", True, False, 1, 2048, (), "Qwen3-4B"),
    Case("llama", "nf4", True, True, 1, 2048, (), "Llama-3-8B"),
    Case("llama", "bfloat16", True, False, 1, 2048, (), "Llama-3-8B"),
    Case("qwen2", "bfloat16", True, True, 3, 2048, (), "Qwen2.5-7B"),
    Case("qwen2", "float32", False, True, 1, 1024, (), "Qwen2.5-7B"),
    Case("qwen3", "bfloat16", True, False, 1, 1024, DROPOUT),
    Case("llama", "nf4", True, True, 1, 2048, DROPOUT, "Llama-3-8B"),
    Case("qwen3", "bfloat16", True, True, 3, 1024, PERCEIVER),
    Case("qwen3", "float32", True, False, 3, 512, PERCEIVER),
    Case("llama", "bfloat16", True, True, 3, 2048, (*PERCEIVER[:-1], ("model.image_views", 4))),
)
QWEN = "Qwen/Qwen3-"
ON_CARD = (
    Case(f"{QWEN}0.6B", "bfloat16", True, True, 1, 16384),
    Case(f"{QWEN}0.6B", "bfloat16", True, False, 1, 4096),
    Case(f"{QWEN}0.6B", "bfloat16", False, True, 1, 8192),
    Case(f"{QWEN}1.7B", "bfloat16", True, True, 3, 8192),
    Case(f"{QWEN}1.7B", "bfloat16", True, False, 1, 4096),
    Case(f"{QWEN}4B", "nf4", True, True, 1, 8192),
    Case(f"{QWEN}4B", "bfloat16", True, True, 3, 16384),
    Case(f"{QWEN}8B", "nf4", True, True, 1, 4096),
    Case(f"{QWEN}8B", "nf4", True, True, 3, 16384, (("train.optimizer", "paged_adamw_8bit"),)),
    Case(f"{QWEN}8B", "nf4", True, False, 1, 4096),
    Case(f"{QWEN}8B", "bfloat16", True, True, 1, 8192),
    Case(f"{QWEN}8B", "bfloat16", True, False, 1, 4096),
)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--cpu", action="store_true", help="small models on this CPU")
    which.add_argument("--gpu", action="store_true", help="Qwen3 of 0.6B to 8B on a card")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="of --gpu")
    parser.add_argument("--tiny", action="store_true", help="of --gpu: tiny models and 256 tokens in place of the real ones")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--out", type=Path, help="append the rows to this file, too")
    return parser


def main() -> int:
    """Row after row, then the table."""
    args = options().parse_args()
    import torch

    if args.gpu and args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: no CUDA device\nhint: --gpu --device cpu --tiny shows that the rows run, --cpu measures small models")
    cases = [case for case in (ON_CPU if args.cpu else ON_CARD) if args.only in case.name]
    rows = []
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="cadmllm-memory-") as folder:
            rows.append(on_cpu(case, Path(folder)) if args.cpu else guarded(case, Path(folder), args))
        print(json.dumps(rows[-1]), flush=True)
        if args.out:
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    print("\n" + table(rows))
    return 0


def guarded(case: Case, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A row of --gpu, or one that says that memory ran out: the next ones may still fit."""
    import torch

    from cadmllm.train.step import OutOfRoom

    try:
        return on_card(case, folder, args.device, args.tiny)
    except (torch.OutOfMemoryError, OutOfRoom) as error:
        return {"case": case.name, "out_of_memory": str(error).splitlines()[0][:200]}


def on_cpu(case: Case, folder: Path) -> dict[str, Any]:
    """A row of --cpu."""
    import torch

    from cadmllm.models.fusion import build_model

    torch.set_num_threads(1)
    settings = small(case, folder)
    return row(case, settings, lambda: build_model(settings, case.stage), "cpu")


def small(case: Case, folder: Path) -> Settings:
    """Settings of a small model of the case's kind, whose random weights are written to `folder`; encoders are trained."""
    import torch
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    from cadmllm.plan.changes import changed
    from cadmllm.settings import Settings

    torch.manual_seed(0)
    config = AutoConfig.for_model(case.kind, max_position_embeddings=4096, **SMALL | RATIOS[case.like])
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer = str(bundled("checkpoints/tiny-base") / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=tokenizer, pad_token="<|endoftext|>").save_pretrained(folder)
    values = {
        "model.llm": str(folder),
        "model.points_encoder": "fourier",
        "model.point_tokens": 16,
        "model.point_count": 256,
        "model.fourier_width": 64,
        "model.image_encoder": "tiny",
        "model.image_bridge": "mlp",
        "model.image_tokens": 17,
        "train.max_seq_length": 512,
    }
    plain = Settings(device="cpu", dtype="bfloat16" if case.dtype == "nf4" else case.dtype)  # ty: ignore[invalid-argument-type]
    return changed(plain, values | of_case(case))


def of_case(case: Case) -> dict[str, Any]:
    """Settings that a case says itself, by dotted key."""
    return {
        "model.quantization": "nf4" if case.dtype == "nf4" else "none",
        "lora.enabled": case.lora,
        "train.gradient_checkpointing": case.checkpointing,
        "train.pack_tokens": case.tokens,
        **dict(case.set),
    }


def on_card(case: Case, folder: Path, device: str, tiny: bool) -> dict[str, Any]:
    """A row of --gpu: the real architecture, filled on the device layer by layer (benchmarks/gpu.py)."""
    from cadmllm.plan.changes import changed

    asked = argparse.Namespace(preset="80gb", set=[f"model.llm={case.kind}"], tiny=tiny, stages=[case.stage], device=device)
    settings = gpu.settings_of(asked, folder)
    values = of_case(case) | {"train.optimizer": dict(case.set).get("train.optimizer", "adamw"), "train.packing": True}
    if tiny:  # the plan knows the published Michelangelo alone
        values |= {"train.pack_tokens": 256, "train.max_seq_length": 256}
        values |= {"model.points_encoder": "fourier", "model.image_encoder": "tiny"}
    settings = changed(settings, values)
    make = gpu_model.build if case.lora else whole
    return row(case, settings, lambda: make(settings, case.stage), device)


def whole(settings: Settings, stage: int) -> CadMLLM:
    """A model that is trained whole: `gpu_model.build` puts LoRA around what it fills, which is left out; weights are float32."""
    from unittest.mock import patch

    from transformers import AutoTokenizer

    from cadmllm.models import backbone, fusion

    def load(settings: Settings, device: torch.device | None = None) -> backbone.Backbone:
        folder = settings.model.llm
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        single = settings.model_copy(update={"dtype": "float32"})
        model = gpu_model.filled(single, device or backbone.pick_device(settings)).requires_grad_(True)
        return backbone.Backbone(model, tokenizer, len(tokenizer), Path(folder), None, {})

    with patch.object(fusion, "load_backbone", load):
        return fusion.build_model(settings, stage)


def row(case: Case, settings: Settings, build: Callable[[], CadMLLM], device: str) -> dict[str, Any]:
    """Predicted and measured bytes of a case."""
    from cadmllm.plan.memory import predict
    from cadmllm.plan.moving import Shown

    found = measured(settings, case, build, device)
    batch: Batch = found.pop("batch")
    viewed = sum(count > 0 for count in batch.image_counts)
    shown = Shown(batch.supervised, sum(batch.cloud_counts), sum(batch.image_counts), viewed)
    plan = predict(settings, case.stage, tokens=batch.computed, device=device, shown=shown)
    lines = [line for line in plan.lines if line.place == ("ram" if device == "cpu" else "card") and line.name != "CUDA"]
    tensors = sum(line.bytes for line in lines if line.name not in NOT_TENSORS)
    told = {"case": case.name, **asdict(case), "computed": batch.computed, **asdict(shown), "predicted": tensors, **found}
    told["error"] = tensors / found["allocated"] - 1
    if found["reserved"] is not None:
        told["predicted_reserved"] = sum(line.bytes for line in lines)
        told["error_reserved"] = told["predicted_reserved"] / found["reserved"] - 1
    return told


def measured(settings: Settings, case: Case, build: Callable[[], CadMLLM], device: str) -> dict[str, Any]:
    """Peak bytes of a whole step: 'allocated', 'reserved' (None on a CPU), and the 'batch' that it computed twice."""
    import torch

    from cadmllm.train.optim import build_optimizer
    from cadmllm.train.step import Engine, train_step

    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = build()
    model.settle_attention()
    train = settings.train
    optimizer, _ = build_optimizer(model.parameter_groups(), case.stage, 1e-4, train, model.device)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    engine = Engine(model, optimizer, parameters, model.device, settings.dtype, train.clip, None, train.offload_activations)
    model.train()
    batch = gpu_samples.filled_row(settings, case.stage, model)
    train_step(engine, [batch, batch])  # moments are made, and on a card the peak is that of this step or the next
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        train_step(engine, [batch, batch])
        peaks = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
        return {"batch": batch, **peaks}
    return {"batch": batch, "allocated": seen(engine, batch), "reserved": None}


def seen(engine: Engine, batch: Batch) -> int:
    """Bytes of tensors at the worst moment of a step, storage by storage."""
    import torch

    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    from live_bytes import Live

    from cadmllm.train.step import train_step

    engine.optimizer.zero_grad(set_to_none=True)
    states = [value for state in engine.optimizer.state.values() for value in tensors_in(state)]
    own = [*engine.model.parameters(), *engine.model.buffers(), *states]
    own += scales(engine.model)
    given = [getattr(batch, field.name) for field in fields(batch)]
    live = Live([*own, *(value for value in given if isinstance(value, torch.Tensor))])
    with live:
        train_step(engine, [batch, batch])
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in own}.values()) + live.peak


def tensors_in(values: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors among values."""
    import torch

    return [value for value in values.values() if isinstance(value, torch.Tensor)]


def scales(model: CadMLLM) -> list[torch.Tensor]:
    """What stands beside 4-bit weights: their scales, and the scales of these."""
    import torch

    found: list[torch.Tensor] = []
    for weight in model.parameters():
        if weight.dtype == torch.uint8:
            state: Any = weight
            found += [*tensors_in(vars(state.quant_state)), *tensors_in(vars(state.quant_state.state2))]
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, misses included."""
    card = any(row.get("reserved") for row in rows)
    names = ["model", "weights", "trains", "checkpointing", "stage", "tokens", "predicted MiB", "measured MiB", "error"]
    lines = [names + (["predicted reserved", "reserved", "error"] if card else [])]
    lines.append(["---"] * len(lines[0]))
    for found in rows:
        if "out_of_memory" in found:
            lines.append([found["case"], *["-"] * (len(lines[0]) - 2), "out of memory"])
            continue
        kind = found["kind"].split("/")[-1] + (f" like {found['like']}" if found["like"] else "")
        kind += "".join(f", {key.rpartition('.')[2]}={value}" for key, value in found["set"])
        trains = "LoRA" if found["lora"] else "whole"
        cells = [kind, found["dtype"], trains, "yes" if found["checkpointing"] else "no", str(found["stage"])]
        cells += [f"{found['computed']:,}", *sizes(found["predicted"], found["allocated"], found["error"])]
        cells += sizes(found["predicted_reserved"], found["reserved"], found["error_reserved"]) if card else []
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sizes(said: int, found: int, error: float) -> list[str]:
    """Cells of a prediction."""
    return [f"{said / MIB:,.1f}", f"{found / MIB:,.1f}", f"{error:+.1%}"]


if __name__ == "__main__":
    raise SystemExit(main())
