"""What a decoding step costs, and what the grammar mask, the cache in place, shared prompts and leaving rows change in it.

    python benchmarks/decoding.py                          # the bundled tiny base (or --checkpoint D)
    python benchmarks/decoding.py --shape 0.6B --steps 8   # a Qwen3 of that shape with random weights

Everything is measured on one thread against its alternative in the same run, the two taking turns (a step each); read the
ratios. Times are those that the thread was running, so that neighbours on the machine count little; only `first` looks at the
clock on the wall.
`--only mask cache copies leaving first` picks some of the measurements.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch

from cadmllm.cad.vocabulary import END
from cadmllm.console import Console
from cadmllm.corpus.types import CAD_SIZE, Batch, Sample
from cadmllm.errors import CadmllmError
from cadmllm.infer import generate as writing
from cadmllm.infer.checkpoint import load_checkpoint
from cadmllm.infer.constrain import Constraint, Tables, cad_tables
from cadmllm.infer.generate import generate
from cadmllm.models.fusion import CadMLLM
from cadmllm.settings import Settings

CAPTION = "a flange with a boss in the middle and six holes on a circle"
# hidden, layers, heads, key-value heads, MLP; heads are 128 wide, as in the Qwen3 of these names
SHAPES = {"0.6B": (1024, 28, 16, 8, 3072), "1.7B": (2048, 28, 16, 8, 6144)}
MEASURES = ("mask", "cache", "copies", "leaving", "first")


class Letters:
    """A tokenizer of letters, for decoders that never learned to read."""

    pad_token_id = 0

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [1 + byte for byte in text.encode()]


def of_shape(name: str, dtype: torch.dtype) -> CadMLLM:
    """A Qwen3 of a real shape with random weights."""
    from transformers import Qwen3Config, Qwen3Model

    from cadmllm.models.backbone import Backbone
    from cadmllm.models.rows import AddedRows

    width, layers, heads, shared, mlp = SHAPES[name]
    config = Qwen3Config(
        vocab_size=300,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        head_dim=128,
        max_position_embeddings=40960,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    decoder = Qwen3Model(config)
    torch.set_default_dtype(torch.float32)
    backbone = Backbone(cast("Any", decoder), cast("Any", Letters()), 300, None, None, {})
    return CadMLLM(backbone, AddedRows(300, width), None, None, 1, Settings(device="cpu", dtype="float32")).eval()


def prompt_of(model: CadMLLM, length: int) -> Batch:
    """A row of random text behind a token of padding."""
    mask = torch.tensor([[0] + [1] * (length - 1)])
    ids = torch.randint(1, model.text_size, (1, length), generator=torch.Generator().manual_seed(0)) * mask
    return Batch(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), None)


def running(model: CadMLLM, batch: Batch, rows: int, tables: Tables | None, cache: Any = None) -> Iterator[tuple[float, float]]:
    """Steps of `rows` answers to one prompt, without end: seconds of each, and of the mask in it.

    `cache` is an empty one of transformers; None: ours.
    """
    constraint = Constraint(tables, rows, 1 << 14) if tables is not None else None
    mask, positions = batch.attention_mask.expand(rows, -1), batch.position_ids.expand(rows, -1)
    logits, read = model.step(model.embed(batch), None, batch.attention_mask, batch.position_ids, cache)
    logits = logits.repeat(rows, 1)
    if cache is None:
        cache, _ = cast("Any", read).taken([0] * rows, 0)
    else:
        cache.batch_repeat_interleave(rows)
    while True:
        began = time.process_time()
        # the end token is kept away with the mask and without it, so that both go on
        logits[:, END] = float("-inf")
        spent = 0.0
        if constraint is not None:
            at = time.process_time()
            logits = constraint.mask(logits)
            spent = time.process_time() - at
        tokens = logits.argmax(dim=-1)
        if constraint is not None:
            at = time.process_time()
            constraint.update(tokens)
            spent += time.process_time() - at
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        positions = positions[:, -1:] + 1
        logits, cache = model.step(None, (tokens + model.text_size).unsqueeze(1), mask, positions, cache)
        yield time.process_time() - began, spent


def side_by_side(one: Iterator[tuple[float, float]], other: Iterator[tuple[float, float]], steps: int) -> list[float]:
    """Two runs, a step of each in turn: median milliseconds of both, the median ratio of other to one, and ms of one's mask."""
    pairs = [(next(one), next(other)) for _ in range(steps + 1)][1:]
    ours, theirs = ([pair[k][0] for pair in pairs] for k in (0, 1))
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    alone = statistics.median(pair[0][1] for pair in pairs)
    return [statistics.median(ours) * 1e3, statistics.median(theirs) * 1e3, ratio, alone * 1e3]


def measure_mask(model: CadMLLM, args: argparse.Namespace) -> None:
    """The same steps with the grammar and without it."""
    tables = cad_tables("cpu")
    for rows in args.batches:
        batch = prompt_of(model, args.prompt)
        two = running(model, batch, rows, tables), running(model, batch, rows, None)
        bound, free, ratio, alone = side_by_side(*two, args.steps)
        print(
            f"mask     batch {rows:3d}: a step {free:8.2f} ms without it, {bound:8.2f} with it: ratio {1 / ratio:.3f};"
            f" mask and update alone {alone:.3f} ms, {alone / free:.1%} of a step, {alone / rows * 1e3:.1f} us a token"
        )


def measure_cache(model: CadMLLM, args: argparse.Namespace) -> None:
    """The cache in place against transformers' DynamicCache, which joins all keys and values anew at each token."""
    from transformers import DynamicCache

    for rows in args.batches:
        batch = prompt_of(model, args.prompt)
        theirs = running(model, batch, rows, None, DynamicCache(config=model.llm.config))
        mine, other, ratio, _ = side_by_side(running(model, batch, rows, None), theirs, args.steps)
        print(
            f"cache    batch {rows:3d}: {rows / mine * 1e3:8.1f} tokens/s in place, {rows / other * 1e3:8.1f} joined anew: ratio"
            f" {ratio:.2f} (steps {mine:.1f} and {other:.1f} ms, {args.prompt} tokens of prompt)"
        )


def taking_turns(one: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of two ways to do the same."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, spent in zip((one, other), times, strict=True):
            began = time.process_time()
            run()
            spent.append(time.process_time() - began)
    return statistics.median(times[0]), statistics.median(times[1])


def measure_copies(model: CadMLLM, args: argparse.Namespace) -> None:
    """16 answers to one prompt that is read once, against 16 prompts that are the same."""
    sample = Sample("a", "text", (CAPTION + " ") * max(1, args.prompt // 64), None)
    asked: dict[str, Any] = {"max_new_tokens": args.answer, "temperature": 1.0}
    generate(model, [sample], copies=2, **asked)
    shared, apart = taking_turns(
        lambda: generate(model, [sample], copies=16, **asked), lambda: generate(model, [sample] * 16, **asked), args.rounds
    )
    length = writing.prompt_length(model, sample)
    print(f"copies   16 of a prompt of {length} tokens, up to {args.answer} each: {shared:.2f} s read once, {apart:.2f} s read"
          f" 16 times: ratio {apart / shared:.2f}")  # fmt: skip


def measure_leaving(model: CadMLLM, args: argparse.Namespace) -> None:
    """Answers that are done leave the batch, against going on with all rows until the last is done."""
    samples = [Sample(str(k), "text", CAPTION, None) for k in range(64)]
    asked: dict[str, Any] = {"max_new_tokens": 256, "temperature": 1.0, "batch_size": 64}
    leave = writing._Side.leave

    def staying() -> None:
        writing._Side.leave = lambda side: any(END not in one.tokens for one in side.growing)  # ty: ignore[invalid-assignment]
        try:
            generate(model, samples, **asked)
        finally:
            writing._Side.leave = leave

    lengths = [len(answer.tokens) for answer in generate(model, samples, **asked)]
    gone, stayed = taking_turns(lambda: generate(model, samples, **asked), staying, args.rounds)
    print(
        f"leaving  64 answers of {min(lengths)} to {max(lengths)} tokens (mean {statistics.mean(lengths):.0f}):"
        f" {sum(lengths) / gone:.0f} tokens/s, {sum(lengths) / stayed:.0f} with all rows to the end: ratio {stayed / gone:.2f}"
    )


def measure_first(args: argparse.Namespace) -> None:
    """From a loaded model to the first token and to a solid, by the Python interface; the second request finds a warm kernel."""
    from cadmllm.infer.api import load

    began = time.perf_counter()
    with load(args.checkpoint, settings=Settings(device="cpu", dtype="float32")) as cad:
        print(f"first    model loaded in {time.perf_counter() - began:.2f} s (imports included)")
        for name in ("first request", "second", "third"):
            at: list[tuple[float, float]] = []
            began, ran = time.perf_counter(), time.process_time()
            part = cad.generate(
                text=CAPTION, watch=lambda row, tokens, at=at: at.append((time.perf_counter(), time.process_time()))
            )
            solid = time.perf_counter() - began
            (first, first_ran), (last, last_ran) = ((wall - began, spent - ran) for wall, spent in (at[0], at[-1]))
            print(
                f"first    {name}: first token after {first:.3f} s ({first_ran:.3f} of them running), {len(at)} tokens after"
                f" {last:.2f} s ({last_ran:.2f}), built after {solid:.2f} s: {part.verdict}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), help="random weights of this shape instead of a checkpoint")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--prompt", type=int, default=320, help="tokens: a cloud's 257 and a sentence")
    parser.add_argument("--answer", type=int, default=48, help="most tokens of each answer, for --only copies")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=MEASURES, nargs="+", default=MEASURES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.shape:
        model, called = of_shape(args.shape, getattr(torch, args.dtype)), f"Qwen3-{args.shape}'s shape, random, {args.dtype}"
    else:
        settings = Settings(device="cpu", dtype="float32", infer={"checkpoint": args.checkpoint})
        found = load_checkpoint(settings, Console())
        model, called = found.model.eval(), found.name
    size = sum(p.numel() for p in model.llm.parameters())
    print(f"{called}: {size / 1e6:.1f} M parameters; one thread; {CAD_SIZE} items in {cad_tables('cpu').cost.shape[0]} states")
    with torch.no_grad():
        for name, measure in (("mask", measure_mask), ("cache", measure_cache), ("copies", measure_copies)):
            if name in args.only:
                measure(model, args)
        if "leaving" in args.only and not args.shape:  # random weights end nowhere near together, or never
            measure_leaving(model, args)
    if "first" in args.only and not args.shape:
        measure_first(args)


if __name__ == "__main__":
    try:
        main()
    except CadmllmError as error:
        Console().error(error)
        sys.exit(error.exit_code)
