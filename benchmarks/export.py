"""What exports of a real-size model take: seconds, gigabytes on disk and most memory, against peft's own merge in the same run.

    python3 benchmarks/export.py                                     # Qwen3-0.6B, a few minutes
    python3 benchmarks/export.py --size tiny                         # the bundled base with LoRA: what each type's rounding does
    python3 benchmarks/export.py --size Qwen3-1.7B --only idle write baseline --out rows.jsonl
    python3 benchmarks/export.py --arithmetic                        # what larger models take, computed

The base has the real shape and random weights, streamed to disk in bf16 shards; the checkpoint is one of stage 3 with LoRA of
rank 32 (B not zero), made without the base in memory. Every export runs in a process of its own. Its row says seconds, bytes
written, and the largest resident set (ru_maxrss: libraries and pages of mapped files included; an idle process that has imported
torch, transformers and peft is a row of its own). 'write' is the writing alone, 'command' is `cadmllm export` with its comparison
of answers, which has one model in memory at a time; 'distance' and 'divergence' are the worst that it found. The baseline is
peft: `merge_and_unload().save_pretrained` on the adapter that was exported before. Clocks differ from machine to machine:
compare rows of one run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cadmllm.corpus.types import ADDED
from cadmllm.plan.sizes import KNOWN, LlmShape

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = Path(os.environ.get("CADMLLM_SHARED", ROOT.parent / "shared")) / "data" / "qwen_tokenizer" / "tokenizer.json"
RANK, SHARD = 32, 10**9
WRITTEN = (("adapter", "bf16"), ("merged", "bf16"), ("merged", "fp32"), ("gguf", "bf16"), ("gguf", "q8_0"))
COMMANDS = (("adapter", "bf16"), ("merged", "bf16"), ("gguf", "q8_0"))
TINY = [(kind, dtype) for kind in ("adapter", "merged", "gguf") for dtype in ("fp32", "fp16", "bf16")] + [("gguf", "q8_0")]
SETTINGS = {
    "points_encoder": "fourier",
    "point_tokens": 64,
    "image_encoder": "tiny",
    "image_bridge": "perceiver",
    "image_tokens": 64,
}


def make_base(folder: Path, shape: LlmShape) -> Path:
    """A base of a real shape with random weights, never in memory as a whole."""
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3Config

    from cadmllm.export.layout import read_layout
    from cadmllm.export.merge import PIECE, plan_shards
    from cadmllm.export.stream import Announced, write_stream

    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=40_960,
        tie_word_embeddings=shape.tied,
        dtype="bfloat16",
        architectures=["Qwen3ForCausalLM"],
    )
    config.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    layout = read_layout(folder)
    generator = torch.Generator().manual_seed(0)

    def values(tensor: Announced) -> Iterator[torch.Tensor]:
        rows, *rest = tensor.shape
        step = max(1, PIECE // math.prod(rest))
        for start in range(0, rows, step):
            noise = torch.randn(min(step, rows - start), *rest, generator=generator)
            yield (0.02 * noise if rest else 1 + 0.1 * noise).bfloat16()

    names = [name for name in layout.shapes if not (shape.tied and name == layout.output)]
    shards = plan_shards([Announced(name, torch.bfloat16, layout.shapes[name]) for name in names], SHARD)
    index = {}
    for number, shard in enumerate(shards):
        path = folder / f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        write_stream(path, shard, (piece for tensor in shard for piece in values(tensor)))
        index |= {tensor.name: path.name for tensor in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def make_checkpoint(folder: Path, base: Path | str) -> Path:
    """A checkpoint of stage 3 over that base, as training writes one."""
    import torch

    from cadmllm.export.base import fingerprint_of_files
    from cadmllm.export.source import find_base
    from cadmllm.models.branches import images_branch, points_branch
    from cadmllm.models.record import FORMAT, vocabulary_hash
    from cadmllm.models.rows import AddedRows
    from cadmllm.models.stages import write_manifest
    from cadmllm.models.weights import write_model
    from cadmllm.settings import Settings

    settings = Settings(model=SETTINGS, lora={"r": RANK, "alpha": 2 * RANK}, dtype="bfloat16")
    settings.model.llm = str(base)
    found = find_base(str(base))
    torch.manual_seed(1)
    state = {}
    for name in found.layout.linears:
        outputs, inputs = found.layout.shapes[name]
        own = "llm." + name.removeprefix(found.layout.prefix).removesuffix(".weight")
        state[f"{own}.lora_A.weight"] = torch.randn(RANK, inputs) / math.sqrt(inputs)
        state[f"{own}.lora_B.weight"] = 0.02 * torch.randn(outputs, RANK)
    width = found.layout.width
    parts = {
        "rows": AddedRows(found.text_size, width),
        "points": points_branch(settings, width, 0.02),
        "images": images_branch(settings, width, 0.02),
    }
    for part, module in parts.items():
        state |= {f"{part}.{name}": value.detach() for name, value in module.named_parameters()}
    record = {
        "format": FORMAT,
        "stage": 3,
        "vocabulary": vocabulary_hash(),
        "base": fingerprint_of_files(found),
        "lora": settings.lora.model_dump(mode="json"),
        "model": settings.model.model_dump(mode="json"),
    }
    write_model(folder, state, record, {})
    (folder / "settings.json").write_text(json.dumps({"dtype": "bfloat16"}))
    write_manifest(folder)
    return folder


def write(checkpoint: Path, kind: str, dtype: str, out: Path) -> None:
    """In a process of its own: an export without its comparison."""
    import torch

    from cadmllm.export.adapter import write_adapter
    from cadmllm.export.gguf_file import write_gguf
    from cadmllm.export.merge import DTYPES, merged_tensors, write_merged
    from cadmllm.export.papers import write_papers
    from cadmllm.export.parts import write_parts
    from cadmllm.export.source import open_source
    from cadmllm.settings import Settings

    out.mkdir()
    source = open_source(checkpoint, Settings(), [])
    write_papers(source, out, kind, dtype)
    if kind == "gguf":
        write_gguf(source, merged_tensors(source, torch.float32), out, out / f"model-{dtype}.gguf", dtype)
        return
    write_parts(source, out, DTYPES[dtype])
    if kind == "adapter":
        write_adapter(source, out, DTYPES[dtype])
    else:
        write_merged(source, out, DTYPES[dtype], SHARD)


def baseline(base: Path, adapter: Path, out: Path) -> None:
    """In a process of its own: what people do without us."""
    import torch
    from peft import PeftModel
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        rows = file.get_slice("base_model.model.lm_head.weight").get_shape()[0]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, tie_word_embeddings=False)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model = PeftModel.from_pretrained(model, adapter)
    model.merge_and_unload().save_pretrained(out, max_shard_size=SHARD)


def idle() -> None:
    """In a process of its own: what libraries alone take."""
    import peft
    import torch
    import transformers

    print(torch.__version__, transformers.AutoModelForCausalLM, peft.PeftModel)


def measured(label: str, command: list[str], out: Path) -> dict[str, Any]:
    """Run a process; its seconds, its largest resident set, and what it wrote, which is removed again."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        told.seek(0)
        printed = told.read()
    if status:
        return {"what": label, "seconds": round(seconds, 1), "failed": said[-2000:] or printed[-2000:]}
    checked = json.loads(printed)["checked"] if "--json" in command else {}
    worst = {name: float(f"{value:.2g}") for name, value in checked.get("worst", {}).items()}
    if checked:
        worst |= {"lora": checked["lora"], "computed": checked["computed"]}
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) if out.is_dir() else 0
    peak = usage.ru_maxrss * 1024
    figures = {"seconds": round(seconds, 1), "written_gb": round(size / 1e9, 3), "peak_gb": round(peak / 1e9, 3)}
    return {"what": label} | figures | worst


def arithmetic(shape: LlmShape, rank: int = RANK, text_size: int = 151_669) -> dict[str, float]:
    """Gigabytes (10^9) that exports of a model take, from its shape: nothing is measured.

    'write_gb' is what the writing holds besides the libraries: a piece of a matrix as it is read (16 bit), in float32 and as it
    is written (16 bit), and LoRA's largest pair; 'whole_gb' is a model loaded in bf16 with its resized matrices.
    """
    from cadmllm.export.merge import BLOCK_Q8, PIECE

    rows = max(shape.vocabulary, text_size + len(ADDED))
    matrices = 2 * rows * shape.hidden
    weights = shape.linear_parameters + matrices
    pair = rank * (shape.hidden + max(shape.mlp, shape.query)) * 4
    return {
        "base_gb": (shape.parameters + shape.norm_parameters) * 2 / 1e9,
        "adapter_gb": (shape.lora_parameters(rank) * 4 + matrices * 2) / 1e9,
        "merged_bf16_gb": (weights + shape.norm_parameters) * 2 / 1e9,
        "merged_fp32_gb": (weights + shape.norm_parameters) * 4 / 1e9,
        "gguf_q8_0_gb": (weights * BLOCK_Q8 + shape.norm_parameters * 4) / 1e9,
        "write_gb": (PIECE * (2 + 4 + 2) + pair) / 1e9,
        "whole_gb": (weights + shape.norm_parameters) * 2 / 1e9,
    }


def run(size: str, work: Path, out: Path | None, only: list[str]) -> list[dict[str, Any]]:
    """All rows of a model, or those whose names hold one of the words of `only`."""
    base, checkpoint, made, adapter = work / size, work / "checkpoint", work / "out", work / "adapter"
    rows: list[dict[str, Any]] = []

    def row(label: str, *command: str) -> None:
        if only and not any(word in label for word in only):
            return
        rows.append({"model": size} | measured(label, [sys.executable, *command], made))
        print(json.dumps(rows[-1]), flush=True)
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        shutil.rmtree(made, ignore_errors=True)

    this = str(Path(__file__).resolve())
    print(f"making {size} in {work}", file=sys.stderr)
    tiny = size == "tiny"
    make_checkpoint(checkpoint, size if tiny else make_base(base, KNOWN[f"Qwen/{size}"]))
    row("idle", this, "--child", "idle")
    for kind, dtype in () if tiny else WRITTEN:
        row(f"write {kind} {dtype}", this, "--child", "write", str(checkpoint), kind, dtype, str(made))
    for kind, dtype in TINY if tiny else COMMANDS:
        options = ["--checkpoint", str(checkpoint), "--to", kind, "--dtype", dtype, "--out", str(made), "--quiet", "--json"]
        row(f"command {kind} {dtype}", "-m", "cadmllm", "export", *options)
    if tiny:
        return rows
    write(checkpoint, "adapter", "bf16", adapter)
    row("baseline: peft merge_and_unload", this, "--child", "baseline", str(base), str(adapter), str(made))
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, with ratios against the baseline where it was run."""
    base = next((row for row in rows if row["what"].startswith("baseline") and "failed" not in row), None)
    head = ("what", "seconds", "written GB", "peak GB", "time of peft's", "memory of peft's", "distance", "divergence")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['what']} | {row['seconds']:.1f} | failed: {row['failed'].strip().splitlines()[0]} | | | | | |")
            continue
        ratios = f"{row['seconds'] / base['seconds']:.2f} | {row['peak_gb'] / base['peak_gb']:.2f}" if base else " | "
        found = f"{row['distance']:.2g} | {row['divergence']:.2g}" if "distance" in row else " | "
        figures = f"{row['seconds']:.1f} | {row['written_gb']:.3g} | {row['peak_gb']:.2f} | {ratios} | {found}"
        lines.append(f"| {row['what']} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", *(name.removeprefix("Qwen/") for name in KNOWN)], default="Qwen3-0.6B")
    parser.add_argument("--work", type=Path, help="where the files are made, and removed afterwards (default: /tmp)")
    parser.add_argument("--out", type=Path, help="append the rows as JSON lines")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="rows whose name holds one: write, command, gguf")
    parser.add_argument("--arithmetic", action="store_true", help="print what every known size takes, and end")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        what, *rest = given.child
        if what == "write":
            write(Path(rest[0]), rest[1], rest[2], Path(rest[3]))
        elif what == "baseline":
            baseline(*map(Path, rest))
        else:
            idle()
        return
    if given.arithmetic:
        for name, shape in KNOWN.items():
            print(json.dumps({"model": name} | {key: round(value, 3) for key, value in arithmetic(shape).items()}))
        return
    if given.size != "tiny" and not TOKENIZER.is_file():
        sys.exit(f"skipped: {TOKENIZER} is not there; set CADMLLM_SHARED to the folder that holds data/qwen_tokenizer")
    known = KNOWN.get(f"Qwen/{given.size}")
    need = 6 * arithmetic(known)["merged_bf16_gb"] if known else 1
    free = shutil.disk_usage(given.work or tempfile.gettempdir()).free / 1e9
    if need > free:
        sys.exit(f"skipped: {given.size} takes about {need:.0f} GB here, and {free:.0f} GB are free: --work DIR, or --arithmetic")
    with tempfile.TemporaryDirectory(prefix="cadmllm-export-", dir=given.work) as work:
        print("\n" + table(run(given.size, Path(work), given.out, given.only)))
    if known:
        print("\ncomputed from the shape: " + json.dumps(arithmetic(known)))


if __name__ == "__main__":
    main()
