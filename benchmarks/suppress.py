"""What keeping plain `generate()` to CAD items costs: `suppress_tokens` of generation_config.json against a slice, and nothing.

    python benchmarks/suppress.py [--layers 28] [--tokens 24] [--rounds 3]

A model of Qwen3-0.6B's shapes with random weights in 32 bit (--layers 28: 3 GB of memory; fewer: less) answers greedily, by
transformers' own `generate`, a prompt of 32 tokens, on one core. Milliseconds of processor time a token, least of the rounds, and
the ratio to a model that is left to choose among all rows.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, Qwen3Config, Qwen3ForCausalLM

from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.export.papers import generation_config

TEXT_SIZE = 151_669  # items of Qwen3's tokenizer


class Slice(LogitsProcessor):
    """The same by two slices: what a caller can do who writes code."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, :TEXT_SIZE] = scores[:, TEXT_SIZE + CAD_SIZE :] = -torch.inf
        return scores


def seconds(model: Qwen3ForCausalLM, prompt: torch.Tensor, tokens: int, written: dict, slices: bool) -> float:
    """Of a token."""
    config = GenerationConfig(**{**written, "max_new_tokens": tokens, "min_new_tokens": tokens, "eos_token_id": None})
    processors = LogitsProcessorList([Slice()] if slices else [])
    begun = time.process_time()
    model.generate(prompt, generation_config=config, logits_processor=processors, attention_mask=torch.ones_like(prompt))
    return (time.process_time() - begun) / tokens


def main() -> None:
    """Measure and print a JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    rows = TEXT_SIZE + len(ADDED)
    shape = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    torch.set_num_threads(1)
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=rows, num_hidden_layers=asked.layers, **shape)).eval()
    written = generation_config(TEXT_SIZE, rows, 151_643, asked.tokens)
    del written["transformers_version"]
    free = {name: value for name, value in written.items() if name != "suppress_tokens"}
    prompt = torch.arange(100, 132).unsqueeze(0)
    kinds = {"all rows": (free, False), "suppress_tokens": (written, False), "slices": (free, True)}
    least = dict.fromkeys(kinds, float("inf"))
    for _ in range(asked.rounds):
        for name, (config, slices) in kinds.items():
            least[name] = min(least[name], seconds(model, prompt, asked.tokens, config, slices))
    base = least["all rows"]
    found = {name: {"ms a token": round(1e3 * value, 2), "ratio": round(value / base, 3)} for name, value in least.items()}
    size = len(json.dumps(written))
    print(json.dumps({"layers": asked.layers, "rows": rows, "generation_config.json bytes": size, **found}, indent=1))


if __name__ == "__main__":
    main()
