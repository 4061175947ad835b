"""Make the bundled tiny base: a Qwen3 of about 3 million parameters that writes CAD programs from captions.

    python checkpoints/make_tiny_base.py --minutes 35             # what is shipped; continue a killed run with --resume
    python checkpoints/make_tiny_base.py --count 2000 --minutes 1 --out /tmp/base --work /tmp/work   # a quick look

Generated parts (`corpus/synth`) with three captions each; a byte-level BPE tokenizer is trained on the captions, then the
decoder and the added rows in full, with the prompt builder and the loss of `cadmllm train`. Every few minutes the state goes to
`--work`, so that a killed run continues where it was. The rate follows the share of the time that has passed, so any
`--minutes` ends with a settled model; `recipe.json` and `train.log` in the result say what was done.

Processes of one thread share the work, gradients summed over gloo: on cores that others use as well, two threads wait for each
other at every matrix product (870 tokens/s, one thread 2,500). The blocks' matrices are trained with Muon: its loss after 60
steps (3.4) takes AdamW 120 steps of twice the batch.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import multiprocessing
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes are forked
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, installed or not

from tiny_corpus import Corpus, batches, collate, read_parts, tokenise, train_tokenizer

from cadmllm.corpus import synth
from cadmllm.models.backbone import ROWS_FILE
from cadmllm.models.loss import supervised_loss
from cadmllm.models.record import vocabulary_hash
from cadmllm.models.rows import AddedRows

HELD_OUT_SEED = 1_000_003  # parts of this seed are never trained on
SAVE_SECONDS = 180


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parent
    parser.add_argument("--count", type=int, default=60_000, help="generated parts")
    parser.add_argument("--minutes", type=float, default=35.0, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=here / "tiny-base")
    parser.add_argument("--work", type=Path, default=here.parent / "build" / "tiny-base", help="where a run keeps its state")
    parser.add_argument("--resume", action="store_true", help="continue the run in --work")
    parser.add_argument("--vocabulary", type=int, default=1_536, help="items of the tokenizer")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=2_048, help="a process's batch, padding included")
    parser.add_argument("--lr", type=float, default=3e-3, help="of embeddings, rows and vectors (AdamW)")
    parser.add_argument("--muon-lr", type=float, default=0.02, help="of the blocks' matrices (Muon)")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--fp32", action="store_true", help="no bfloat16 autocast (slower on CPUs with AMX or AVX512-BF16)")
    parser.add_argument("--longest", type=int, default=400, help="tokens of a sample; longer ones are left out")
    return parser.parse_args()


def build(text_size: int, args: argparse.Namespace) -> tuple[Qwen3ForCausalLM, AddedRows]:
    """A fresh decoder and rows."""
    torch.manual_seed(args.seed)
    config = Qwen3Config(
        vocab_size=-(-text_size // 64) * 64,
        hidden_size=args.width,
        intermediate_size=args.width * 8 // 3 // 32 * 32,
        num_hidden_layers=args.layers,
        num_attention_heads=args.width // 32,
        num_key_value_heads=args.width // 64,
        head_dim=32,
        max_position_embeddings=4096,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config), AddedRows(text_size, args.width, config.initializer_range, args.seed)


def loss_of(run: Run, ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(sum, count), as `CadMLLM.loss` computes it."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=run.bf16):
        embeds = run.rows.embed(ids, run.model.model.embed_tokens)
        hidden = run.model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    return supervised_loss(hidden, labels, run.rows)


@torch.no_grad()
def held_out(run: Run, corpus: Corpus, longest: int) -> list[float]:
    """Mean loss a token on the held-out parts, caption style by style."""
    run.model.eval()
    keys = sorted(
        (k for k in range(len(corpus.targets)) if len(corpus.targets[k]) < longest), key=lambda k: len(corpus.targets[k])
    )
    means = []
    for style in range(len(corpus.prompts)):
        total, count = 0.0, 0
        for start in range(0, len(keys), 32):
            pairs = [(style, k) for k in keys[start : start + 32]]
            part, number = loss_of(run, *collate(corpus, pairs, run.rows.text_size))
            total, count = total + float(part), count + number
        means.append(total / count)
    run.model.train()
    return means


def rate(share: float) -> float:
    """Share of the peak rate after `share` of the run: 3 % warmup, then a cosine to nothing."""
    return min(1.0, share / 0.03 + 0.01) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


class Run:
    """The state of a run: model, optimizer, place and time; saved to and read from the work folder."""

    def __init__(self, args: argparse.Namespace, text_size: int) -> None:
        self.model, self.rows = build(text_size, args)
        parameters = {**dict(self.model.model.named_parameters(prefix="llm")), **dict(self.rows.named_parameters(prefix="rows"))}
        matrices = {n: p for n, p in parameters.items() if n.startswith("llm.layers") and p.ndim == 2}
        tables = {n: p for n, p in parameters.items() if n not in matrices and p.ndim == 2}
        vectors = {n: p for n, p in parameters.items() if p.ndim < 2}
        self.parameters = {**matrices, **tables, **vectors}
        groups = [{"params": [*tables.values()], "weight_decay": 0.05}, {"params": [*vectors.values()], "weight_decay": 0.0}]
        self.optimizers = (
            torch.optim.Muon([*matrices.values()], lr=args.muon_lr, weight_decay=0.05, momentum=0.95),
            torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True),
        )
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.place = {"epoch": 0, "batch": 0, "step": 0, "seconds": 0.0, "tokens": 0, "supervised": 0}
        self.work, self.bf16 = args.work, not args.fp32
        self.model.set_attn_implementation("eager")  # sequences are short; bfloat16 SDPA's backward takes 38 % of a step on a CPU

    def set_rates(self, share: float) -> None:
        """Every group at `share` of its peak rate."""
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * share

    def save(self) -> None:
        """Write everything aside, then rename."""
        tensors = {f"weight/{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for optimizer in self.optimizers:
                tensors |= {f"{key}/{name}": value for key, value in optimizer.state.get(parameter, {}).items()}
        save_file(tensors, self.work / ".state", {"place": json.dumps(self.place)})
        os.replace(self.work / ".state", self.work / "state.safetensors")

    def load(self) -> None:
        """Continue from the work folder."""
        path = self.work / "state.safetensors"
        with safe_open(path, "pt") as file:
            self.place = json.loads(file.metadata()["place"])
        muon = {id(p) for group in self.optimizers[0].param_groups for p in group["params"]}
        for key, value in load_file(path).items():
            kind, name = key.split("/")
            parameter = self.parameters[name]
            if kind == "weight":
                parameter.data.copy_(value)
            else:
                self.optimizers[id(parameter) not in muon].state[parameter][kind] = value


def train(rank: int, run: Run, corpus: Corpus, check: Corpus, args: argparse.Namespace, log: Callable[[str], None]) -> None:
    """Until the time is over. `place` moves with every step, so a resumed run sees no batch twice. Rank 0 logs and saves."""
    torch.set_num_threads(1)
    if args.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{args.work}/meeting", rank=rank, world_size=args.processes)
    place, began, saved, shown = run.place, time.monotonic() - run.place["seconds"], time.monotonic(), time.monotonic()
    recent: list[float] = []
    run.model.train()
    while place["seconds"] < args.minutes * 60.0:
        groups = list(batches(corpus, place["epoch"], args.seed, args.tokens, args.longest))
        for index in range(place["batch"], len(groups) // args.processes):
            pairs = groups[index * args.processes + rank]
            loss = step(run, collate(corpus, pairs, run.rows.text_size), time.monotonic() - began, args)
            recent.append(loss)
            place.update(batch=index + 1, step=place["step"] + 1)
            if place["seconds"] >= args.minutes * 60.0:
                break
            now = time.monotonic()
            if rank == 0 and now - shown > 15.0:
                speed = f"{place['tokens'] / place['seconds']:.0f} tokens/s"
                log(f"{place['seconds'] / 60:.1f} min, step {place['step']}: loss {np.mean(recent):.4f}, {speed}")
                shown, recent = now, []
            if rank == 0 and now - saved > SAVE_SECONDS:
                run.save()
                log("held out: " + " ".join(f"{x:.4f}" for x in held_out(run, check, args.longest)))
                saved = time.monotonic()
        else:
            place.update(epoch=place["epoch"] + 1, batch=0)
    if rank == 0:
        run.save()
    if args.processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def step(run: Run, batch: tuple[torch.Tensor, torch.Tensor], seconds: float, args: argparse.Namespace) -> float:
    """One update by the gradient of the mean over the supervised tokens of all processes; returns that mean."""
    place = run.place
    run.set_rates(rate(place["seconds"] / (args.minutes * 60.0)))
    total, count = loss_of(run, *batch)
    total.backward()
    sums = torch.tensor([float(total.detach()), count, batch[0].numel(), seconds])
    gradients = [p.grad for p in run.parameters.values() if p.grad is not None]
    flat = torch.cat([sums, *(g.flatten() for g in gradients)])
    if args.processes > 1:
        dist.all_reduce(flat)
    sums, flat = flat[:4].tolist(), flat[4:] / flat[1]
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
    torch.nn.utils.clip_grad_norm_([*run.parameters.values()], 1.0)
    for optimizer in run.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    place["supervised"] += int(sums[1])
    place["tokens"] += int(sums[2])
    place["seconds"] = sums[3] / args.processes  # the same in every process, as is all that follows from it
    return sums[0] / sums[1]


def write(run: Run, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace, final: list[float]) -> None:
    """The base folder, written aside and then put in place of the one before."""
    aside = args.out.with_name(f".{args.out.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    run.model.half().save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    rows = {name: value.detach().half() for name, value in run.rows.named_parameters()}
    save_file(rows, aside / ROWS_FILE, {"format": "pt", "vocabulary": vocabulary_hash()})
    recipe = {
        "command": "python checkpoints/make_tiny_base.py",
        "options": {name: value for name, value in vars(args).items() if name not in ("out", "work", "resume")},
        "generator_version": synth.VERSION,
        "vocabulary": vocabulary_hash(),
        "done": run.place,
        "held_out_loss_by_caption_style": [round(x, 4) for x in final],
        "parameters": sum(p.numel() for p in run.parameters.values()),
        "torch": torch.__version__,
    }
    (aside / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    shutil.copy(args.work / "train.log", aside / "train.log")
    for file in aside.iterdir():
        file.chmod(0o644)
    (aside / "README.md").write_text(README.format(**recipe, **run.place, seed=args.seed, count=args.count), encoding="utf-8")
    old = args.out.with_name(f".{args.out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if args.out.exists():
        os.replace(args.out, old)
    os.replace(aside, args.out)
    shutil.rmtree(old, ignore_errors=True)


README = """# The bundled tiny base

A Qwen3-architecture language model of {parameters:,} parameters (added CAD rows included) with its own byte-level tokenizer,
made by `checkpoints/make_tiny_base.py` from nothing but generated parts (the generator of `cadmllm data synth`, version
{generator_version}): seed {seed}, {count:,} parts, {step:,} steps, {supervised:,} supervised tokens, {seconds:.0f} seconds.
No outside data or weights went in; Apache-2.0 like the code.

`config.json`, `model.safetensors` (16 bit) and `tokenizer.json` load with plain transformers. `cad_rows.safetensors` holds the
input and output rows of the CAD vocabulary {vocabulary}. `train.log` and `recipe.json` say how it was made. Mean held-out loss
a token by caption style (qualitative, dimensioned, short): {held_out_loss_by_caption_style}.
It exists so that every command runs with nothing downloaded; it knows simple parts and English captions like the generator's.
"""


def main() -> None:
    """Make the base."""
    args = options()
    torch.set_num_threads(1)
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.resume:
        for name in ("state.safetensors", "train.log", "meeting"):
            (args.work / name).unlink(missing_ok=True)
    journal = (args.work / "train.log").open("a", encoding="utf-8")

    def log(text: str) -> None:
        line = f"{time.strftime('%H:%M:%S', time.gmtime())} {text}"
        print(line, flush=True)
        journal.write(line + "\n")
        journal.flush()

    began = time.monotonic()
    targets, captions = read_parts(args.count, args.seed)
    log(f"{len(targets)} parts, {np.mean([len(t) for t in targets]):.1f} tokens each, in {time.monotonic() - began:.0f} s")
    tokenizer = train_tokenizer([text for style in captions for text in style], args.vocabulary)
    corpus = tokenise(tokenizer, targets, captions)
    check = tokenise(tokenizer, *read_parts(300, HELD_OUT_SEED))
    prompt = np.mean([len(p) for style in corpus.prompts for p in style])
    log(f"tokenizer of {len(tokenizer)} items, prompts of {prompt:.1f} tokens, after {time.monotonic() - began:.0f} s")
    run = Run(args, len(tokenizer))
    if args.resume:
        run.load()
        log(f"resumed after step {run.place['step']}, {run.place['seconds'] / 60:.1f} minutes")
    log(f"{sum(p.numel() for p in run.parameters.values()):,} parameters, {args}")
    (args.work / "meeting").unlink(missing_ok=True)
    if args.processes == 1:
        train(0, run, corpus, check, args, log)
    else:
        # forked, so that the corpus exists once; the run comes back through the work folder
        multiprocessing.start_processes(train, (run, corpus, check, args, log), nprocs=args.processes, start_method="fork")
        run.load()
    final = held_out(run, check, args.longest)
    log(f"end: held out {' '.join(f'{x:.4f}' for x in final)}, {run.place}")
    write(run, tokenizer, args, final)


if __name__ == "__main__":
    main()
