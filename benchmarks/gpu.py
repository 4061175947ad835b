"""Training on a GPU: tokens/s, utilisation and memory, random weights of the real architectures.

    python3 benchmarks/gpu.py --preset 16gb --stages 1 2 3 --tokens 2048 4096 8192 16384 --out rows.jsonl
    python3 benchmarks/gpu.py --device cpu --tiny --stages 1 3 --tokens 256 --recipe 128      # that it runs at all

A row of JSON for each stage and length of a packed micro-batch, written as it comes: what was computed before a time limit stays.
Nothing is downloaded, and no model lies on the disk: the decoder is filled, and quantised, on the device layer by layer. Programs
have the lengths of real ones (18, 45, 88, 184, 348, 1,543 tokens at 5, 50, 75, 90, 95, 99 %), captions about 40 tokens, stages
their shares of clouds and views, which the real-size encoders (Michelangelo 257 x 768, DINOv2-large) see in every step. Timed are
whole optimizer steps but for the reading of data, after two that are not.

`utilisation` is the arithmetic of a step (plan/speed.py) by seconds, over the rate of an 8192 x 8192 x 8192 product of bfloat16
measured here; `useful` is the same without what checkpointing computes twice. `peak_gib` is allocated, `reserved_gib` what the
allocator holds; the CUDA context stands beside them. `--recipe L ...` measures the guide's recipe: padding to L tokens, batch 2,
LoRA, checkpointing, all logits, bfloat16. `--numbers` measures how far every attention back end, NF4 and the optimizers are off
float64 here, in all three types (what `cadmllm doctor --only numbers` judges for one run).

On a lent machine (Python 3.12, torch 2.11, nothing to download) pydantic and, for NF4, bitsandbytes have to be carried. The wheel
of bitsandbytes (125 MB) is over the 64 MiB of a call, but torch for CUDA 13.0 needs one of its libraries alone (4 MB). Here, in
the checkout:

    echo /.whl/ >> .git/info/exclude; S=.venv/lib/python3.11/site-packages
    python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp -d .whl \\
      --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \\
      pydantic==2.14.3 pydantic-core==2.50.4 pydantic-settings==2.16.3 python-dotenv annotated-types typing-inspection
    mkdir -p .whl/bnb && tar c -C $S --exclude='*.so' --exclude=__pycache__ bitsandbytes | tar x -C .whl/bnb
    cp $S/bitsandbytes/libbitsandbytes_cuda130.so $S/bitsandbytes/libbitsandbytes_cpu.so .whl/bnb/bitsandbytes/

and each call of `run` carries `.whl` and begins with

    python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site .whl/*.whl && cp -r .whl/bnb/* /tmp/site/ &&
      export PYTHONPATH=/tmp/site:$PWD PYTHONUNBUFFERED=1;

One call each (10 minutes at most), G standing for `python3 benchmarks/gpu.py --out $OUT/rows.jsonl`:

    G --preset 16gb --cap-gb 15 --stages 1 2 3 --tokens 2048 4096 8192 10240
    G --preset 16gb --stages 2 3 --tokens 4096 10240 --cached
    G --preset 16gb --cap-gb 15 --stages 3 --tokens 16384 --set train.offload_activations=true
    G --preset 16gb --stages 1 2 3 --tokens 2048 4096 8192 16384
    for m in 0.6B 1.7B; do G --preset 16gb --set model.llm=Qwen/Qwen3-$m --set model.quantization=none --stages 1 3 \\
      --tokens 2048 4096 8192 16384 --recipe 2048 4096; done
    G --preset 80gb --stages 1 3 --tokens 8192 16384 65536 --recipe 2048 4096 16384
    G --preset 16gb --stages 3 --tokens --proofs

`--proofs` makes the proofs of `doctor --deep` over the bundled data set: peak planned and measured, gradients, labels, save and
reload, prefill against training, loader, time. None of that was measured on a GPU yet.
    G --preset 16gb --stages --numbers
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from gpu_model import build, filled, loader  # beside this file
from gpu_samples import packed_rows, stored_by

from cadmllm.places import bundled

if TYPE_CHECKING:
    from gpu_samples import Stored

    from cadmllm.corpus.types import Batch
    from cadmllm.settings import Settings

GIB = 2**30
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
WARM = 2  # steps before those that are timed


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="16gb", help="whose settings are measured")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting over the preset's")
    parser.add_argument("--stages", type=int, nargs="*", choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument("--tokens", type=int, nargs="*", default=[2048, 4096, 8192, 16384], help="of a packed micro-batch")
    parser.add_argument("--recipe", type=int, nargs="*", default=[], metavar="L", help="the guide's recipe, padded to L tokens")
    parser.add_argument("--numbers", action="store_true", help="errors against float64, too")
    parser.add_argument("--proofs", action="store_true", help="the doctor's proofs of each stage")
    parser.add_argument(
        "--cached", action="store_true", help="each row again with features as from `data encode`, without encoders"
    )
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps that are timed")
    parser.add_argument("--micro-batches", type=int, default=2, help="of a step; more of them cost the same each")
    parser.add_argument("--cap-gb", type=float, default=0.0, help="of the card's memory, 10^9 bytes; 0: all of it")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models in place of the real ones")
    parser.add_argument("--out", type=Path, help="append the rows to this file, too")
    return parser


def main() -> int:
    """Measure the machine, then row after row."""
    args = options().parse_args()
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: no CUDA device\nhint: --device cpu --tiny shows that the script runs")
    if args.cap_gb and args.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(args.cap_gb * 1e9 / torch.cuda.get_device_properties(0).total_memory)
    with tempfile.TemporaryDirectory(prefix="cadmllm-gpu-") as folder:
        settings = settings_of(args, Path(folder))
        machine = machine_of(args)
        tell(args, {"what": "machine"} | machine)
        for measured in rows(args, settings):
            tell(args, measured(machine["rate"]))
            release(args.device)
        for row in numbers(args, settings) if args.numbers else ():
            tell(args, row)
    return 0


def rows(args: argparse.Namespace, settings: Settings) -> Iterator[Callable[[float], dict[str, Any]]]:
    """What is to be measured, in order."""
    for stage in args.stages:
        for tokens in args.tokens:
            changed = settings.model_copy(deep=True)
            changed.train.pack_tokens, changed.train.max_seq_length = tokens, min(tokens, settings.train.max_seq_length)
            yield lambda rate, stage=stage, chosen=changed: guarded(ours, args, chosen, stage, rate)
            if args.cached and stage > 1:
                yield lambda rate, stage=stage, chosen=changed: guarded(from_store, args, chosen, stage, rate)
    if args.proofs:
        for stage in args.stages:
            yield lambda rate, stage=stage: guarded(proofs, args, settings, stage, rate)
    for length in args.recipe:
        yield lambda rate, length=length: guarded(recipe, args, settings, length, rate)


def guarded(
    measure: Callable[..., dict[str, Any]], args: argparse.Namespace, settings: Settings, which: int, rate: float
) -> dict[str, Any]:
    """A row, or one that says that memory ran out or what does not work here: the next ones may still fit."""
    import torch

    from cadmllm.errors import CadmllmError
    from cadmllm.train.step import OutOfRoom

    name, size = ("recipe_length", which) if measure is recipe else ("stage", which)
    model = {"llm": args.llm_name, "quantization": settings.model.quantization, "dtype": settings.dtype, name: size}
    row: dict[str, Any] = {"what": measure.__name__} | model | {"cap_gb": args.cap_gb or None}
    if measure in (ours, from_store):
        row["pack_tokens"] = settings.train.pack_tokens
    try:
        row |= measure(args, settings, which, rate)
    except (torch.OutOfMemoryError, OutOfRoom) as error:
        row["out_of_memory"] = str(error).splitlines()[0][:200]
    except CadmllmError as error:
        row["error"] = error.as_dict()
    return row


def tell(args: argparse.Namespace, row: dict[str, Any]) -> None:
    """A line on standard output and in the file."""
    print(json.dumps(row), flush=True)
    if args.out:
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def release(device: str) -> None:
    """Give the memory of the last row back."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def settings_of(args: argparse.Namespace, folder: Path) -> Settings:
    """The preset's, with a base and encoders that exist here alone."""
    import torch
    from transformers import Dinov2Config, Dinov2Model, PreTrainedTokenizerFast, Qwen3Config

    from cadmllm.models.michelangelo import MichelangeloEncoder
    from cadmllm.plan.sizes import KNOWN
    from cadmllm.resolve import Assignment, Origin, parse_value, resolve

    (folder / "nothing.toml").touch()  # neither ./cadmllm.toml nor the environment has a say here
    pairs = [text.partition("=") for text in args.set]
    given = [Assignment(key, parse_value(value), Origin("command line", "--set")) for key, _, value in pairs]
    settings = resolve(preset=args.preset, config=folder / "nothing.toml", assignments=given, environ={}).settings
    args.llm_name = "tiny" if args.tiny else settings.model.llm
    shape: dict[str, Any] = {"vocab_size": 2048, "head_dim": 16, **TINY}
    if not args.tiny:
        known = KNOWN[settings.model.llm]
        shape = {"vocab_size": known.vocabulary, "hidden_size": known.hidden, "intermediate_size": known.mlp}
        shape |= {"num_hidden_layers": known.layers, "num_attention_heads": known.heads, "head_dim": known.head_dim}
        shape |= {"num_key_value_heads": known.kv_heads, "tie_word_embeddings": known.tied}
    Qwen3Config(max_position_embeddings=131_072, **shape).save_pretrained(folder / "llm")
    tokenizer = str(bundled("checkpoints/tiny-base") / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=tokenizer, pad_token="<|endoftext|>").save_pretrained(folder / "llm")
    settings.model.llm = str(folder / "llm")
    if set(args.stages) & {2, 3}:
        sizes = (9, 64, 128, 1, 2) if args.tiny else (257, 768, 3072, 12, 8)
        torch.save(MichelangeloEncoder(*sizes).state_dict(), folder / "points.pt")
        settings.model.points_checkpoint, settings.model.point_tokens = folder / "points.pt", sizes[0]
    if 3 in args.stages:
        width, layers, heads, cells = (32, 2, 2, 28) if args.tiny else (1024, 24, 16, 14)
        dino = Dinov2Config(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, patch_size=cells, image_size=518
        )
        Dinov2Model(dino).to(torch.bfloat16).save_pretrained(folder / "dino")
        settings.model.image_encoder = str(folder / "dino")
        if args.tiny:
            settings.model.image_tokens, settings.model.resampler_width = 9, 32
    settings.device = args.device
    return settings


def machine_of(args: argparse.Namespace) -> dict[str, Any]:
    """Names and versions, the measured rate of matrix products, and what CUDA takes of the card before any tensor."""
    import peft
    import torch
    import transformers

    side = 512 if args.device == "cpu" else 8192
    a, b = (torch.randn(side, side, device=args.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = timed(args.device, lambda: a @ b, 3, 10) / 10
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    found: dict[str, Any] = {"rate": 2 * side**3 / seconds, "device": "cpu", **versions}
    if args.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        found |= {"device": torch.cuda.get_device_name(), "total_gib": total / GIB}
        found["context_gib"] = (total - free - torch.cuda.memory_reserved()) / GIB  # of others on the card, too
    return found


def timed(device: str, work: Callable[[], object], warm: int, count: int) -> float:
    """Seconds of `count` runs after `warm`, to the end of what the device was given."""
    import torch

    def ended() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(warm):
        work()
    began = ended()
    for _ in range(count):
        work()
    return ended() - began


# The doctor's proofs.


def proofs(args: argparse.Namespace, settings: Settings, stage: int, rate: float) -> dict[str, Any]:
    """Each proof of a stage with a decoder that `filled` gave, on the bundled data set: seconds, what it says, what it finds."""
    from cadmllm.console import Console, jsonable
    from cadmllm.corpus.layout import open_dataset
    from cadmllm.doctor.proving.__main__ import MODULES, proved
    from cadmllm.doctor.proving.bench import Bench, Intent
    from cadmllm.models import fusion

    chosen = settings.model_copy(deep=True)
    chosen.data.root = bundled("data")
    found: dict[str, Any] = {}
    with patch.object(fusion, "load_backbone", loader()), tempfile.TemporaryDirectory(prefix="cadmllm-proofs-") as folder:
        bench = Bench(chosen, [stage], open_dataset(chosen.data), Path(folder), Console(quiet=True), Intent(from_scratch=True))
        for name in MODULES:
            began = time.perf_counter()
            outcome = proved(name, bench)
            findings = [f"{finding.code} {finding.message}" for finding in outcome.findings]
            found[name] = {"seconds": time.perf_counter() - began, "summary": outcome.summary, "findings": findings}
        bench.release()
        return {"proofs": found, "measured": jsonable(bench.measured)}


# Ours.


def from_store(args: argparse.Namespace, settings: Settings, stage: int, rate: float) -> dict[str, Any]:
    """The same steps where clouds and views come as features of frozen encoders, which are not loaded (`data.features`)."""
    return ours(args, settings, stage, rate, stored_by(args, settings, stage))


def ours(args: argparse.Namespace, settings: Settings, stage: int, rate: float, stored: Stored | None = None) -> dict[str, Any]:
    """Steps of a stage, as `train.session` puts them together."""
    from cadmllm.models.compiling import compile_layers
    from cadmllm.train.optim import build_optimizer
    from cadmllm.train.step import Engine, train_step

    model = build(settings, stage, stored)
    attention = model.settle_attention()
    if settings.train.compile:
        compile_layers(model)
    train = settings.train
    optimizer, _ = build_optimizer(model.parameter_groups(), stage, 1e-4, train, model.device)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    engine = Engine(model, optimizer, parameters, model.device, settings.dtype, train.clip, None, train.offload_activations)
    model.train()
    batches = packed_rows(args, settings, stage, model, stored)
    seconds = timed(args.device, lambda: train_step(engine, batches), WARM, args.steps)
    more = {"attention": attention.name, "optimizer": train.optimizer, "checkpointing": train.gradient_checkpointing}
    more |= {"offload": train.offload_activations, "embedding": settings.model.embedding_device, "cached": stored is not None}
    return more | figures(args, settings, stage, batches, seconds / args.steps, rate) | memory(args.device)


def figures(
    args: argparse.Namespace, settings: Settings, stage: int, batches: list[Batch], seconds: float, rate: float
) -> dict[str, Any]:
    """Rates of a step, and its arithmetic over what the card can do."""
    from cadmllm.plan.speed import operations, work_of

    lengths = [length for batch in batches for length in batch.documents]
    supervised = sum(batch.supervised for batch in batches)
    inputs = {"point_cloud": sum(sum(batch.cloud_counts) for batch in batches)}
    inputs["image"] = sum(sum(batch.image_counts) for batch in batches)
    once = settings.model_copy(deep=True)
    once.train.gradient_checkpointing = False
    done, useful = (operations(work_of(s, stage), lengths, supervised, inputs) for s in (settings, once))
    return {
        "samples": len(lengths),
        "tokens": sum(lengths),
        "longest_row": max(batch.computed for batch in batches),
        "supervised": supervised,
        "seconds": seconds,
        "samples_per_s": len(lengths) / seconds,
        "tokens_per_s": sum(lengths) / seconds,
        "utilisation": done / seconds / rate,
        "useful": useful / seconds / rate,
    }


def memory(device: str) -> dict[str, Any]:
    """Peaks since the row began (nothing of another row is held then)."""
    import torch

    if device == "cpu":
        return {}
    peaks = {"peak_gib": torch.cuda.max_memory_allocated() / GIB, "reserved_gib": torch.cuda.max_memory_reserved() / GIB}
    torch.cuda.reset_peak_memory_stats()
    return peaks


# Numbers.


def numbers(args: argparse.Namespace, settings: Settings) -> Iterator[dict[str, Any]]:
    """How far everything that can be computed here is off, at the sizes of the preset's model."""
    from cadmllm.doctor.numerics import request_of
    from cadmllm.doctor.numerics_probe import LIMITS, Request, examine

    for dtype in LIMITS:
        given: dict[str, Any] = request_of(settings, args.device) | {"dtype": dtype}
        request = Request(**given)
        yield from ({"what": "numbers", "dtype": dtype} | row for row in examine(request) if "test" in row)


# The guide's recipe.


def recipe(args: argparse.Namespace, settings: Settings, length: int, rate: float) -> dict[str, Any]:
    """Batch 2, each padded to `length`, all logits, LoRA, checkpointing, bfloat16 whatever the settings quantise."""
    import torch
    from peft import LoraConfig, get_peft_model

    from cadmllm.models.backbone import LORA_TARGETS

    plain = settings.model_copy(deep=True)
    plain.model.quantization = "none"
    model: Any = filled(plain, torch.device(args.device), head=True)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    lora = LoraConfig(r=settings.lora.r, lora_alpha=settings.lora.alpha, target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM")
    model = get_peft_model(model, lora).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    ids = torch.randint(0, 1000, (2, length), device=args.device)

    def step() -> None:
        for _ in range(args.micro_batches):
            (model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss / args.micro_batches).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    seconds = timed(args.device, step, WARM, args.steps) / args.steps
    samples = 2 * args.micro_batches
    rates = {"seconds": seconds, "samples_per_s": samples / seconds, "computed_per_s": samples * length / seconds}
    return {"quantization": "none"} | rates | memory(args.device)


if __name__ == "__main__":
    sys.exit(main())
