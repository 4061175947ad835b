"""What the grammar mask costs in a decoding step: `python benchmarks/decoding.py [--checkpoint D] [--batch 16] [--steps 60]`.

Times the same steps of the same model with and without the mask, alternating, on one thread, and prints the medians and their
ratio, and the table look-up alone. Without a checkpoint: the bundled tiny base.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from cadmllm.cad.vocabulary import END
from cadmllm.console import Console
from cadmllm.corpus.batch import Collator
from cadmllm.corpus.types import Sample
from cadmllm.errors import CadmllmError
from cadmllm.infer.constrain import Constraint, Tables, cad_tables
from cadmllm.infer.checkpoint import load_checkpoint
from cadmllm.models.fusion import CadMLLM
from cadmllm.settings import Settings

CAPTIONS = (
    "a plate with four holes",
    "a flange with a boss in the middle and six holes on a circle",
    "a stepped shaft",
    "an L profile",
)


def one_run(model: CadMLLM, batch, steps: int, tables: Tables | None) -> tuple[list[float], list[float]]:
    """Seconds of each whole step, and of the mask in it."""
    rows = batch.input_ids.shape[0]
    constraint = Constraint(tables, rows, 1 << 14) if tables is not None else None
    mask, positions = batch.attention_mask, batch.position_ids
    logits, cache = model.step(model.embed(batch), None, mask, positions, None)
    whole, masking = [], []
    for _ in range(steps):
        began = time.perf_counter()
        # the end token is kept away in both runs, so that both go on to the last step
        logits[:, END] = float("-inf")
        spent = 0.0
        if constraint is not None:
            at = time.perf_counter()
            logits = constraint.mask(logits)
            spent = time.perf_counter() - at
        tokens = logits.argmax(dim=-1)
        if constraint is not None:
            at = time.perf_counter()
            constraint.update(tokens)
            spent += time.perf_counter() - at
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        positions = positions[:, -1:] + 1
        logits, cache = model.step(None, (tokens + model.text_size).unsqueeze(1), mask, positions, cache)
        whole.append(time.perf_counter() - began)
        masking.append(spent)
    return whole, masking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(device="cpu", dtype="float32", infer={"checkpoint": args.checkpoint})
    model = load_checkpoint(settings, Console()).model.eval()
    samples = [Sample(str(i), "text", CAPTIONS[i % len(CAPTIONS)], None) for i in range(args.batch)]
    batch = Collator(model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, 1 << 14).prompts(samples)
    tables = cad_tables("cpu")
    free, bound, masks = [], [], []
    with torch.no_grad():
        one_run(model, batch, 5, tables)
        for _ in range(args.rounds):
            free += one_run(model, batch, args.steps, None)[0]
            whole, masking = one_run(model, batch, args.steps, tables)
            bound += whole
            masks += masking
    without, within, alone = (statistics.median(times) * 1e3 for times in (free, bound, masks))
    print(f"batch {args.batch}, {args.steps} steps x {args.rounds} rounds, one thread, tables {tables.cost.shape[0]} states")
    print(f"step without the mask {without:.2f} ms, with it {within:.2f} ms: ratio {within / without:.3f}")
    print(f"mask and update alone {alone:.3f} ms: {alone / without:.1%} of a step, {alone / args.batch * 1e3:.1f} us a token")


if __name__ == "__main__":
    try:
        main()
    except CadmllmError as error:
        Console().error(error)
        sys.exit(error.exit_code)
