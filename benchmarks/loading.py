"""What is not loaded for training: memory of a base with Qwen3's real vocabulary, with and without its output matrix.

    python benchmarks/loading.py                      # width 512: each matrix of 151,936 rows is 148 MiB in bfloat16
    python benchmarks/loading.py --width 1024 --json

Each row is a process of its own, after its imports: what transformers loads as a causal language model, the decoder that
`cadmllm` loads, the same in 4 bit, and then the bytes of each part as `models/bytes.py` counts them. Nothing here needs a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

VOCABULARY = 151_936
MIB = 2**20


def main() -> None:
    """Make the base, load it in every way and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", choices=list(WORK), help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(measured(WORK[args.work], args.base)))
        return
    with tempfile.TemporaryDirectory(prefix="cadmllm-loading-") as folder:
        make_base(Path(folder), args.width)
        rows = {name: run(name, folder) for name in WORK}
    if args.json:
        print(json.dumps({"vocabulary": VOCABULARY, "width": args.width, "rows": rows}, indent=1))
        return
    print(f"a matrix of {VOCABULARY:,} x {args.width} in bfloat16 is {VOCABULARY * args.width * 2 / MIB:.0f} MiB")
    print("| loaded | peak, MiB over the imports | kept, MiB | |")
    print("|---|---|---|---|")
    for name, row in rows.items():
        parts = ", ".join(f"{part} {size / MIB:.0f}" for part, size in row["parts"].items() if size >= MIB and part != "total")
        print(f"| {name} | {row['peak'] / MIB:.0f} | {row['kept'] / MIB:.0f} | {parts} |")


def make_base(folder: Path, width: int) -> None:
    """An untied Qwen3 of two layers with random weights in bfloat16, and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<|endoftext|>", eos_token="<|im_end|>").save_pretrained(folder)
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 2, "head_dim": 64}
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": max(1, width // 256)}
    config = Qwen3Config(vocab_size=VOCABULARY, **shape, **heads, tie_word_embeddings=False)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def run(name: str, folder: str) -> dict:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--work", name, "--base", folder]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def measured(load, base: Path) -> dict:
    """Peak and final resident bytes of a loader, less what the process had before."""
    warm()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (Linux)
    model, parts = load(base)
    for parameter in model.parameters():
        parameter.data.flatten()[::256].sum()  # what is only mapped from a file counts when its pages are read
    return {"peak": status("VmHWM") - before, "kept": status("VmRSS") - before, "parts": parts}


def status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def causal(base: Path) -> tuple[nn.Module, dict[str, int]]:
    """The whole causal language model, as the guide's recipe loads it."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    held = {name.split(".")[-2]: p.nbytes for name, p in model.named_parameters() if p.shape[0] == VOCABULARY}
    return model, held


def ours(base: Path, quantization: str = "none") -> tuple[nn.Module, dict[str, int]]:
    """What stage 1 trains: decoder, LoRA and added rows."""
    from cadmllm.models.bytes import bytes_of
    from cadmllm.models.fusion import build_model
    from cadmllm.settings import ModelSettings, Settings

    settings = Settings(model=ModelSettings(llm=str(base), quantization=quantization), device="cpu", dtype="bfloat16")
    model = build_model(settings, 1)
    return model, bytes_of(model)


def warm() -> None:
    """Import what the loaders import, so that only what they load is measured."""
    from cadmllm.models.backbone import quiet_bitsandbytes

    quiet_bitsandbytes()
    for module in ("peft", "bitsandbytes", "transformers.models.qwen3.modeling_qwen3", "cadmllm.models.fusion"):
        importlib.import_module(module)


WORK = {
    "causal LM (transformers)": causal,
    "decoder without the output matrix": ours,
    "the same in 4 bit": lambda base: ours(base, "nf4"),
}

if __name__ == "__main__":
    main()
