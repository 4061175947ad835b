"""Training: the guide's recipe, the same with our tokens, and our engine; on the same model, data and machine.

    .venv/bin/python benchmarks/train.py --data ../shared/data/deepcad --samples 64 --max-seq-length 2048 [--json]

The base is a Qwen3 of 42M parameters with the real vocabulary (151,936 rows), random weights, made on the spot. Each of

    recipe  raw JSON as the target, every sample padded to the maximum length, the loss of the model's own `labels`
    tokens  the same with our tokens as the target (added to the tokenizer, the embedding resized)
    ours    `train.session` and `train.step` as `cadmllm train` runs them: packing, CAD head on supervised positions

trains LoRA on the seven linear layers of every block with AdamW in a process of its own, from the files on: reading, encoding,
tokenising, forward, backward, update. All see the same parts, the baselines the first `--baseline-samples` of them. The first
step of each, in which memory is allocated, is not timed; peak memory is that of the whole process (`getrusage`), libraries
included, and `before_gib` is what it held when the first step began. Samples/s are of the wall clock; `cpu_s_per_sample` is
processor time, which other processes on the machine disturb less. Ratios hold within one run alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.console import Console
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.layout import DataSet
    from cadmllm.settings import Settings

GIB = 2**30
ROWS = 151_936  # of Qwen3's embedding
SHAPE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "head_dim": 64}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 40_960}
CONTENDERS = ("recipe", "tokens", "ours")
SHARED = Path(os.environ.get("CADMLLM_SHARED", Path(__file__).resolve().parents[2] / "shared"))
COLUMNS = {
    "samples_per_s": "samples/s",
    "tokens_per_s": "tokens/s",
    "supervised_per_s": "supervised/s",
    "cpu_s_per_sample": "CPU s/sample",
    "padding": "padding",
    "truncated": "truncated",
    "before_gib": "before GiB",
    "peak_gib": "peak GiB",
    "samples": "samples",
    "steps": "steps",
    "seconds": "seconds",
}


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="in the Omni-CAD layout; ids with caption and program count")
    parser.add_argument("--samples", type=int, default=64, help="parts that ours is timed on")
    parser.add_argument("--baseline-samples", type=int, default=8, help="parts that the two baselines are timed on")
    parser.add_argument("--max-seq-length", type=int, default=2048)
    parser.add_argument("--recipe-batch", type=int, default=2, help="samples a micro-batch of the baselines (the guide's 2)")
    parser.add_argument("--batch-size", type=int, default=4, help="samples a micro-batch of ours, before packing")
    parser.add_argument("--accumulation", type=int, default=4, help="micro-batches a step of ours")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of ours, e.g. train.packing=false")
    parser.add_argument("--lora-r", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of all three")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json; default: Qwen's of CADMLLM_SHARED, else the bundled")
    parser.add_argument("--vocabulary", type=int, default=ROWS, help="rows of the embedding (fewer: a quick trial)")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    return parser


def main() -> int:
    """Make the base, run a process a contender, compare."""
    args = options().parse_args()
    console = Console(json=args.json)
    try:
        if args.child:
            what, folder = args.child
            run = {"make": make, "recipe": recipe, "tokens": recipe, "ours": ours}[what]
            print(json.dumps(run(args, what, Path(folder))))
            return 0
        with tempfile.TemporaryDirectory(prefix="cadmllm-train-") as folder:
            facts = child("make", folder)
            for text in facts.pop("notes"):
                console.note(text)
            rows = {}
            for what in args.only:
                console.note(f"{what} ...")
                rows[what] = child(what, folder)
    except CadmllmError as error:
        console.error(error)
        return int(error.exit_code)
    show(console, facts | {"load": os.getloadavg()[0], "threads": args.threads, "dtype": args.dtype}, rows)
    return 0


def child(what: str, folder: str) -> dict[str, Any]:
    """What a fresh process measures. This one stays small, as a process begins with its parent's peak in `getrusage`."""
    # waiting threads spin for microseconds, then sleep: not at all (PASSIVE alone) costs ours 15 %, longer hurts on shared cores
    waiting = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
    environment = waiting | {"TOKENIZERS_PARALLELISM": "false"} | os.environ
    command = [sys.executable, __file__, *sys.argv[1:], "--child", what, folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    lines = done.stdout.splitlines()
    if done.returncode and lines and "error" in (said := json.loads(done.stdout)):
        raise CadmllmError(said["error"]["code"], said["error"]["message"], said["error"]["remedy"])
    if done.returncode:
        raise SystemExit(f"error: {what} ended with {done.returncode}")
    return json.loads(lines[-1])


def show(console: Console, facts: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    """The comparison: JSON, or a table with the ratios under it."""
    ratios: dict[str, Any] = {}
    if "ours" in rows and "recipe" in rows:
        recipe_, ours_ = rows["recipe"], rows["ours"]
        ratios["speedup"] = ours_["samples_per_s"] / recipe_["samples_per_s"]
        ratios["speedup_cpu"] = recipe_["cpu_s_per_sample"] / ours_["cpu_s_per_sample"]
        ratios["memory_ratio"] = recipe_["peak_gib"] / ours_["peak_gib"]
    console.json(rows | ratios | {"setting": facts})
    console.print(
        ", ".join(f"{key} {value:,.6g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items())
    )
    table = [[what, *(f"{row[key]:,.4g}" if key in row else "-" for key in COLUMNS)] for what, row in rows.items()]
    console.table(table, ["", *COLUMNS.values()])
    for name, value in ratios.items():
        console.print(f"{name}: {value:,.1f}")


def make(args: argparse.Namespace, what: str, folder: Path) -> dict[str, Any]:
    """The base, the index of the data set and the list of parts, as the contenders read them."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from cadmllm.corpus.fit import longest_target
    from cadmllm.corpus.layout import open_dataset
    from cadmllm.corpus.order import epoch_order

    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=args.vocabulary, tie_word_embeddings=True, **SHAPE, **HEADS)
    model = Qwen3ForCausalLM(config)
    model.to(getattr(torch, args.dtype)).save_pretrained(folder / "base")
    tokenizer, notes = make_tokenizer(args, folder / "base")
    settings = settings_of(args, folder)
    settings.data.train = None
    dataset = open_dataset(settings.data)
    good, left_out = dataset.usable(dataset.split()[0], longest_target(settings, settings.stages[1].probabilities))
    chosen = sorted(good[int(k)] for k in epoch_order(len(good), 0, 1, 0)[: args.samples])
    if len(chosen) < args.samples:
        notes.append(f"the data has {len(chosen)} parts with a caption and a program that fits, fewer than {args.samples}")
    (folder / "train.txt").write_text("".join(f"{id_}\n" for id_ in chosen), encoding="utf-8")
    shape = {"parameters": model.num_parameters(), "tokenizer": tokenizer, "max_seq_length": args.max_seq_length}
    return {"notes": notes, **shape, "parts": len(chosen), "too_long_for_ours": len(left_out)}


def make_tokenizer(args: argparse.Namespace, folder: Path) -> tuple[str, list[str]]:
    """Write the tokenizer into the base; returns what it is, and what deserves to be said of it."""
    from transformers import PreTrainedTokenizerFast

    from cadmllm.places import bundled

    path = args.tokenizer or SHARED / "data" / "qwen_tokenizer" / "tokenizer.json"
    notes = []
    if args.tokenizer is None and (args.vocabulary < ROWS or not path.is_file()):
        path = bundled("checkpoints/tiny-base") / "tokenizer.json"
        notes.append(f"the tokenizer is the bundled one, not Qwen's: JSON takes more tokens with it; rows: {args.vocabulary:,}")
    elif not path.is_file():
        raise CadmllmError("E501", f"there is no tokenizer {path}", "give a tokenizer.json: --tokenizer FILE")
    fast = PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="<|endoftext|>", eos_token="<|im_end|>")
    fast.save_pretrained(folder)
    return f"{path} ({len(fast):,} items)", notes


def settings_of(args: argparse.Namespace, folder: Path) -> Settings:
    """Those of ours. What `--set` gives goes over them."""
    from cadmllm.resolve import Assignment, Origin, parse_value, resolve

    nothing = folder / "nothing.toml"  # neither ./cadmllm.toml nor the environment has a say here
    nothing.touch()
    values: dict[str, object] = {
        "model.llm": str(folder / "base"),
        "lora.r": args.lora_r,
        "lora.alpha": 2 * args.lora_r,
        "data.root": args.data,
        "data.index": folder / "index",
        "data.train": folder / "train.txt",
        "data.val_share": 0.0,
        "train.batch_size": args.batch_size,
        "train.accumulation": args.accumulation,
        "train.max_seq_length": args.max_seq_length,
        "train.pack_tokens": args.max_seq_length,  # twice as many are 5 % faster and hold twice the activations
        "train.warmup_steps": 0,
        "stages.1.epochs": 2,
        "stages.1.lr": 2e-4,
        "run.dir": folder / "run",
        "device": "cpu",
        "dtype": args.dtype,
    }
    values |= {key: parse_value(value) for key, _, value in (text.partition("=") for text in args.set)}
    given = [Assignment(key, value, Origin("command line", "--set")) for key, value in values.items()]
    return resolve(config=nothing, assignments=given, environ={}).settings


@dataclass(slots=True)
class Meter:
    """What a contender did between the end of its first step and its last.

    Attributes:
        samples, tokens, computed, supervised, steps: done so far; `computed` counts padding, too.
        truncated: samples whose target did not fit.
    """

    samples: int = 0
    tokens: int = 0
    computed: int = 0
    supervised: int = 0
    steps: int = 0
    truncated: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    before: float = 0.0

    def begin(self) -> None:
        """The first step is about to be made."""
        self.before = resident()

    def warm(self) -> None:
        """The first step is done: count from here."""
        self.samples = self.tokens = self.computed = self.supervised = self.steps = self.truncated = 0
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def row(self, **more: Any) -> dict[str, Any]:
        """The figures."""
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return {
            "samples_per_s": self.samples / wall,
            "tokens_per_s": self.tokens / wall,
            "supervised_per_s": self.supervised / wall,
            "cpu_s_per_sample": cpu / self.samples,
            "padding": 1 - self.tokens / self.computed,
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
            "before_gib": self.before,
            "samples": self.samples,
            "tokens_per_sample": self.tokens / self.samples,
            "steps": self.steps,
            "seconds": wall,
            **more,
        }


def resident() -> float:
    """GiB of memory this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / GIB


def opened(args: argparse.Namespace, folder: Path) -> tuple[Settings, DataSet]:
    """The settings of ours and the data set, for any contender."""
    import torch

    from cadmllm.corpus.layout import open_dataset

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    settings = settings_of(args, folder)
    return settings, open_dataset(settings.data)


# The guide's recipe, in the few lines over transformers and peft that it takes.


def recipe(args: argparse.Namespace, what: str, folder: Path) -> dict[str, Any]:
    """(a) raw JSON as the target, or (b) our tokens; padding to the maximum length, the model's own loss."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cadmllm.models.backbone import LORA_TARGETS

    _, dataset = opened(args, folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "base")
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=getattr(torch, args.dtype))
    lora = LoraConfig(r=args.lora_r, lora_alpha=2 * args.lora_r, target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM")
    if what == "tokens":
        from cadmllm.cad.vocabulary import VOCABULARY

        tokenizer.add_tokens(list(VOCABULARY))
        model.resize_token_embeddings(max(len(tokenizer), args.vocabulary), mean_resizing=False)
        # training them without the other 151,936 rows is what peft has this for
        lora.trainable_token_indices = tokenizer.convert_tokens_to_ids(list(VOCABULARY))
    model = get_peft_model(model, lora).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-4)
    meter = Meter()
    ids = list(dataset.split()[0])[: args.baseline_samples]
    meter.begin()
    for number, part in enumerate([ids[: args.recipe_batch], ids]):  # the first step is one micro-batch: it is not timed
        if number == 1:
            meter.warm()
        for batch in micro_batches(args, what, tokenizer, dataset, part, meter):
            share = batch["input_ids"].shape[0] / len(part)
            loss = model(**batch).loss
            (loss * share).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        meter.steps += 1
    return meter.row(truncated=meter.truncated / meter.samples, trained=sum(p.numel() for p in parameters), loss=loss.item())


def micro_batches(
    args: argparse.Namespace, what: str, tokenizer: Any, dataset: DataSet, ids: Sequence[str], meter: Meter
) -> Iterator[dict[str, Any]]:
    """Prompt and target as text, tokenised, cut and padded to the maximum length; only targets are supervised."""
    import torch

    from cadmllm.corpus.prompt import build_prompt

    for start in range(0, len(ids), args.recipe_batch):
        rows, labels, masks = [], [], []
        for id_ in ids[start : start + args.recipe_batch]:
            prompt = tokenizer(build_prompt(dataset.caption(id_)))["input_ids"]
            target = tokenizer(target_text(what, dataset, id_) + tokenizer.eos_token)["input_ids"]
            whole = len(prompt) + len(target)
            row = (prompt + target)[: args.max_seq_length]
            room = args.max_seq_length - len(row)
            rows.append(row + [tokenizer.pad_token_id] * room)
            labels.append(([-100] * len(prompt) + target)[: args.max_seq_length] + [-100] * room)
            masks.append([1] * len(row) + [0] * room)
            meter.truncated += whole > args.max_seq_length
            meter.samples += 1
            meter.tokens += len(row)
            meter.computed += args.max_seq_length
            meter.supervised += max(0, len(row) - len(prompt))
        names = ("input_ids", "labels", "attention_mask")
        yield {name: torch.tensor(values) for name, values in zip(names, (rows, labels, masks), strict=True)}


def target_text(what: str, dataset: DataSet, id_: str) -> str:
    """The program as compact JSON (as it lies on disk it would take half as many tokens again), or as our tokens."""
    if what == "recipe":
        return json.dumps(json.loads(dataset.program_path(id_).read_text(encoding="utf-8")), separators=(",", ":"))
    from cadmllm.cad.vocabulary import VOCABULARY
    from cadmllm.corpus.sample import target_of

    return "".join(VOCABULARY[token] for token in target_of(dataset, id_))


# Ours, through what `cadmllm train` runs.


def ours(args: argparse.Namespace, what: str, folder: Path) -> dict[str, Any]:
    """(c) the engine in full."""
    from cadmllm.train.curriculum import Start, plan_stages
    from cadmllm.train.session import open_session
    from cadmllm.train.step import train_step

    settings, dataset = opened(args, folder)
    session = open_session(settings, plan_stages(settings, [1])[0], Start(None, "benchmark"), dataset, Console(quiet=True))
    meter = Meter()
    meter.begin()
    batches = 0
    for step in range(session.windows.steps_per_epoch + 1):
        session.set_rates(step)
        window = session.windows[step]
        report = train_step(session.engine, window.batches)
        if step == 0:
            meter.warm()
            continue
        meter.steps += 1
        meter.samples += sum(window.mix.values())
        meter.tokens += report.tokens
        meter.supervised += report.supervised
        meter.computed += report.computed
        batches += report.micro_batches
    trained = sum(info.parameters for info in session.infos)
    return meter.row(truncated=0.0, trained=trained, loss=report.loss, micro_batches=batches)


if __name__ == "__main__":
    sys.exit(main())
