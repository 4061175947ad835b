"""What the encoders cost at their published sizes: clouds and views a second, and memory, against an attention written out.

    python3 benchmarks/encoders.py                                  # on this CPU: batches of 1 and 4, a few minutes
    python3 benchmarks/encoders.py --device cuda --out rows.jsonl   # on a card: batches of 1, 8 and 32
    python3 benchmarks/encoders.py --models michelangelo dinov2-small --batches 1
    python3 benchmarks/encoders.py --load                           # reading a Lightning file of 2.5 GB

The baseline is the plain formula in float32, softmax(q k^T / sqrt(d)) v, whose scores stand in memory; then come torch's own
attention (SDPA) in float32, bfloat16 and float16, and bfloat16 in chunks of 8. Weights are random: neither time nor memory
depends on them. The variants of a row take turns in one process and each one's shortest time counts, so the ratios hold on a
busy machine where the seconds do not. `away` is the mean distance of the features from the baseline's, which are of size 1.

Memory is what lives at the most beside weights and inputs: on a card `torch.cuda.max_memory_allocated`, on a CPU every
storage that a dispatch mode sees from its birth to its death (cadmllm/doctor/proving/live.py; not what a kernel keeps to itself).
Needs torch and transformers alone (of cadmllm what needs nothing else), as the lent machines have.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cadmllm.doctor.proving.live import Live
from cadmllm.models.fourier import FourierPoints
from cadmllm.models.michelangelo import MichelangeloEncoder

POINTS, PIXELS = 4096, 224
MIB = 2**20
DINO = {  # width, layers, heads, gated MLPs
    "dinov2-small": (384, 12, 6, False),
    "dinov2-base": (768, 12, 12, False),
    "dinov2-large": (1024, 24, 16, False),
    "dinov2-giant": (1536, 40, 24, True),
    "tiny": (96, 3, 4, False),  # trained here: patches of 28 pixels
}
MODELS = ("michelangelo", *DINO, "fourier")
WITHOUT_ASKING = tuple(name for name in MODELS if name != "dinov2-giant")  # 4.5 GB of weights


@dataclass(frozen=True)
class Variant:
    """A way to compute: attention written out or torch's, the type of weights, most inputs at once (0: all)."""

    name: str
    plain: bool
    dtype: torch.dtype
    chunk: int = 0


BASELINE = Variant("plain fp32", True, torch.float32)
VARIANTS = (
    BASELINE,
    Variant("SDPA fp32", False, torch.float32),
    Variant("plain bf16", True, torch.bfloat16),
    Variant("SDPA bf16", False, torch.bfloat16),
    Variant("SDPA fp16", False, torch.float16),
    Variant("SDPA bf16, chunks of 8", False, torch.bfloat16, 8),
)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    """The formula, with all scores in memory (Vaswani et al. 2017, eq. 1)."""
    assert attn_mask is None
    assert not options.get("is_causal")
    scale = options.get("scale") or 1 / math.sqrt(query.shape[-1])
    return (query @ key.transpose(-2, -1) * scale).softmax(-1) @ value


@contextmanager
def attention(plain: bool) -> Generator[None]:
    """Compute with the formula instead of torch's kernel."""
    own = F.scaled_dot_product_attention
    if plain:
        F.scaled_dot_product_attention = plain_attention  # ty: ignore[invalid-assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


def build(name: str) -> nn.Module:
    """An encoder of the published sizes with random weights."""
    torch.manual_seed(0)
    if name == "michelangelo":
        model = MichelangeloEncoder(257, 768, 3072, 12, 8)
        nn.init.normal_(model.encoder.query, std=0.02)
        return model
    if name == "fourier":
        return FourierPoints(256, 256)
    from transformers import Dinov2Config, Dinov2Model

    width, layers, heads, gated = DINO[name]
    shape: Any = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "use_swiglu_ffn": gated}
    shape |= {"patch_size": 14, "image_size": 518} if name != "tiny" else {"patch_size": 28, "image_size": PIXELS, "mlp_ratio": 2}
    return Dinov2Model(Dinov2Config(**shape))


def inputs_of(name: str, count: int, device: str) -> tuple[Tensor, ...]:
    """Clouds with normals, or normalised pictures."""
    generator = torch.Generator().manual_seed(0)
    if name in ("michelangelo", "fourier"):
        normals = F.normalize(torch.randn(count, POINTS, 3, generator=generator), dim=-1)
        return (torch.rand(count, POINTS, 3, generator=generator) * 2 - 1).to(device), normals.to(device)
    return (torch.randn(count, 3, PIXELS, PIXELS, generator=generator).to(device),)


def runner(name: str, model: nn.Module, inputs: tuple[Tensor, ...], variant: Variant) -> Callable[[], Tensor]:
    """What one pass is: cast, run in chunks, features together."""
    size = variant.chunk or len(inputs[0])
    if isinstance(model, MichelangeloEncoder):
        model.chunk = size  # as `cadmllm` does it
        return lambda: model(*inputs)
    if name == "fourier":
        return lambda: torch.cat([model(*some) for some in zip(*(x.split(size) for x in inputs), strict=True)])
    pixels = inputs[0].to(variant.dtype)
    return lambda: torch.cat([model(some).last_hidden_state for some in pixels.split(size)])


def peak_of(model: nn.Module, inputs: tuple[Tensor, ...], work: Callable[[], Tensor], device: str) -> int:
    """Bytes that live at the most while `work` runs, weights and inputs not counted."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with Live([*model.parameters(), *model.buffers(), *inputs]) as live:
        work()
    return live.peak


def seconds_of(work: Callable[[], Tensor], device: str) -> float:
    """Wall seconds of one pass."""
    begun = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def measure(name: str, count: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each variant of an encoder at a batch size."""
    inputs = inputs_of(name, count, args.device)
    ways = [v for v in VARIANTS if v.dtype == torch.float32] if name == "fourier" else list(VARIANTS)
    ways = [v for v in ways if (not v.chunk or v.chunk < count) and (args.device == "cuda" or v.dtype != torch.float16)]
    if name == "fourier":
        ways = [v for v in ways if not v.plain]  # it has no attention
    made = build(name).eval()
    models = {v.dtype: copy.deepcopy(made).to(args.device, v.dtype) for v in ways}
    parameters = sum(value.numel() for value in made.parameters())
    del made
    best, found = {v.name: math.inf for v in ways}, {}
    exact = torch.empty(0)
    for turn in range(args.repeat + 1):
        for way in ways:
            model = models[way.dtype]
            work = runner(name, model, inputs, way)
            with attention(way.plain), torch.inference_mode():
                if turn:
                    best[way.name] = min(best[way.name], seconds_of(work, args.device))
                    continue
                features = work().float()  # warms up, too
                exact = features if way is ways[0] else exact
                away = float((features - exact).abs().mean())
                del features
                found[way.name] = {"peak": peak_of(model, inputs, work, args.device), "away": away}
    first = ways[0].name
    return [
        {
            "model": name, "parameters": parameters, "batch": count, "variant": way.name, "device": args.device,
            "a_second": round(count / best[way.name], 4), "seconds": round(best[way.name], 5),
            "times_as_fast": round(best[first] / best[way.name], 3), "peak_mib": round(found[way.name]["peak"] / MIB, 2),
            "of_the_memory": round(found[way.name]["peak"] / max(1, found[first]["peak"]), 4),
            "away": float(f"{found[way.name]['away']:.3g}"),
        }
        for way in ways
    ]  # fmt: skip


LOADING = """
import re, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
from cadmllm.models.michelangelo import load_michelangelo
high = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before, begun = high(), time.perf_counter()
if sys.argv[3] == "whole":
    state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
else:
    load_michelangelo(Path(sys.argv[1]), getattr(torch, sys.argv[3]))
print(f"{high() - before:.0f} {time.perf_counter() - begun:.2f}")
"""


def loading() -> None:
    """Main memory (high water over that of the imports, MiB) and seconds of reading a Lightning file as published: the VAE of
    184,659,585 parameters with CLIP's 427,616,513 beside it, in 32 bit. Against torch.load, which takes all of it."""
    encoder = {f"model.shape_model.{name}": value for name, value in build("michelangelo").state_dict().items()}
    beside = {"model.shape_model.transformer.rest": torch.zeros(120_646_785), "model.clip_model.rest": torch.zeros(427_616_513)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shapevae-256.ckpt"
        torch.save({"state_dict": encoder | beside, "epoch": 3}, path)
        print(f"a file of {path.stat().st_size / 1e9:.2f} GB")
        for how in ("whole", "float32", "bfloat16"):
            command = [sys.executable, "-c", LOADING, str(path), str(Path(__file__).resolve().parents[1]), how]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            name = "torch.load" if how == "whole" else f"load_michelangelo, {how}"
            print(json.dumps({"how": name, "mib": float(said[0]), "seconds": float(said[1])}), flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = ("encoder", "batch", "computed", "a second", "against the first", "MiB beside weights", "of the first's", "away")
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * 1 + "---|" + "---:|" * 5]
    for row in rows:
        values = (row["model"], row["batch"], row["variant"], f"{row['a_second']:.3g}", f"{row['times_as_fast']:.2f} x")
        values += (f"{row['peak_mib']:,.0f}", f"{row['of_the_memory']:.0%}", f"{row['away']:.1g}")
        lines.append(f"| {' | '.join(map(str, values))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=list(WITHOUT_ASKING), metavar="NAME", help=", ".join(MODELS)
    )
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 4 on a CPU, 1 8 32 on a card")
    parser.add_argument("--repeat", type=int, help="times each variant is run; default: 2 on a CPU, 10 on a card")
    parser.add_argument("--load", action="store_true", help="memory and time of reading a Lightning file, nothing else")
    parser.add_argument("--out", type=Path, help="rows of JSON are added to it")
    args = parser.parse_args()
    if args.load:
        loading()
        return
    on_card = args.device == "cuda"
    args.repeat = args.repeat or (10 if on_card else 2)
    name = torch.cuda.get_device_name() if on_card else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, shortest of {args.repeat}")
    rows: list[dict[str, Any]] = []
    for model in args.models:
        for count in args.batches or ((1, 8, 32) if on_card else (1, 4)):
            for row in measure(model, count, args):
                print(json.dumps(row), flush=True)
                rows.append(row)
                if args.out:
                    with args.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({**row, "machine": name, "torch": torch.__version__}) + "\n")
    print()
    print(table(rows))


if __name__ == "__main__":
    main()
