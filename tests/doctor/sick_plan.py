"""Runs that do not fit: the card's memory, what others hold of it, main memory."""

from __future__ import annotations

import json

import fake_gpu
from scene import Case, Scene

GIB = 2**30
QWEN3_8B = {
    "model_type": "qwen3",
    "num_hidden_layers": 36,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "tie_word_embeddings": False,
}
LORA = {"lora.enabled": True, "lora.r": 32, "lora.alpha": 64, "dtype": "bfloat16"}
MEMINFO = "MemTotal:       {total} kB\nMemFree:         1000000 kB\nMemAvailable:   {free} kB\n"


def model(scene: Scene, **config: object) -> None:
    """The base is one of that shape: its config.json alone, as the plan reads nothing else."""
    (scene.base / "config.json").write_text(json.dumps(QWEN3_8B | config))


def on_card(scene: Scene, total: float, free: float | None = None) -> None:
    scene.stub("pynvml", fake_gpu.nvml(fake_gpu.card(total=int(total * GIB), free=int((free or total) * GIB))))
    scene.values |= {"device": "cuda", **LORA}


def memory(scene: Scene, total: float, free: float) -> None:
    scene.system("proc/meminfo", MEMINFO.format(total=int(total * 2**20), free=int(free * 2**20)))


def qwen3_8b_in_16_bit_on_16_gb(scene: Scene) -> None:
    on_card(scene, 15.92)
    model(scene)
    scene.values |= {"train.batch_size": 2, "train.max_seq_length": 16384, "train.gradient_checkpointing": True}


def not_even_the_weights(scene: Scene) -> None:
    on_card(scene, 3.0)
    model(scene)
    scene.values |= {"model.quantization": "nf4", "train.gradient_checkpointing": True}


def a_single_sample_is_too_much(scene: Scene) -> None:
    on_card(scene, 6.3)
    model(scene, num_hidden_layers=12)
    scene.values |= {"train.max_seq_length": 1024, "stages.1.epochs": 1}


def the_largest_micro_batch_is_too_large(scene: Scene) -> None:
    on_card(scene, 8.0)
    model(scene)
    scene.values |= {"model.quantization": "nf4", "train.gradient_checkpointing": True, "train.pack_tokens": 65_536}


def others_hold_the_card(scene: Scene) -> None:
    on_card(scene, 15.92, free=2.0)
    model(scene)
    scene.values |= {"model.quantization": "nf4", "train.gradient_checkpointing": True}


def a_cpu_run_larger_than_main_memory(scene: Scene) -> None:
    model(scene)
    memory(scene, 16, 14)


def a_cpu_run_larger_than_what_is_free(scene: Scene) -> None:
    memory(scene, 16, 0.4)


def offloaded_to_little_main_memory(scene: Scene) -> None:
    on_card(scene, 15.92)
    model(scene)
    memory(scene, 8, 7)
    scene.values |= {"model.quantization": "nf4", "model.embedding_device": "cpu", "train.gradient_checkpointing": True}
    scene.values |= {"train.offload_activations": True, "train.pack_tokens": 32_768}


CASES = (
    Case("qwen3-8b-bf16-on-16-gb", "E813", qwen3_8b_in_16_bit_on_16_gb, ("plan",), sample=True),
    Case("not-even-the-weights-fit", "E813", not_even_the_weights, ("plan",)),
    Case("one-sample-is-too-much", "E813", a_single_sample_is_too_much, ("plan",)),
    Case("largest-micro-batch-too-large", "E813", the_largest_micro_batch_is_too_large, ("plan",), level="warn"),
    Case("others-hold-the-card", "E813", others_hold_the_card, ("plan",)),
    Case("cpu-run-larger-than-ram", "E814", a_cpu_run_larger_than_main_memory, ("memory",), sample=True),
    Case("cpu-run-larger-than-free-ram", "E814", a_cpu_run_larger_than_what_is_free, ("memory",), level="warn"),
    Case("offloaded-to-little-ram", "E814", offloaded_to_little_main_memory, ("memory",)),
)
