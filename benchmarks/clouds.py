"""Does a model use its point cloud? Held-out loss with the right cloud, with another part's, and with none.

    python benchmarks/clouds.py --checkpoint run/stage2_text_pc_model --data ROOT [--count 120]

A model that ignores clouds shows three equal columns; one that reads them is best with the right one and worst with a wrong one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from cadmllm.corpus.batch import Collator
from cadmllm.corpus.layout import DataSet, open_dataset
from cadmllm.corpus.prompt import BARE_REQUEST
from cadmllm.corpus.sample import target_of
from cadmllm.corpus.types import Cloud, Sample
from cadmllm.models.fusion import CadMLLM
from cadmllm.models.weights import load_model
from cadmllm.resolve import resolve

LONGEST = 500  # tokens of a target
SHIFT = 7  # whose cloud is the wrong one


@torch.no_grad()
def mean_loss(model: CadMLLM, collate: Collator, samples: list[Sample]) -> float:
    """Mean cross-entropy a supervised token."""
    total, count = 0.0, 0
    for sample in samples:
        part, number = model.loss(collate([sample]))
        total, count = total + float(part), count + number
    return total / count


def samples_of(dataset: DataSet, ids: list[str], captions: dict[str, str], clouds: dict[str, Cloud] | None) -> list[Sample]:
    """A sample an id, with `clouds[id]` if given."""
    name = "text" if clouds is None else "text+point_cloud"
    return [Sample(id_, name, captions[id_], target_of(dataset, id_), () if clouds is None else (clouds[id_],)) for id_ in ids]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="of stage 2 or 3")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--preset", default="tiny")
    args = parser.parse_args()
    settings = resolve(preset=args.preset).settings
    settings.data.root = args.data
    model = load_model(args.checkpoint, settings).eval()
    dataset = open_dataset(settings.data)
    collate = Collator(model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, 2048, model.images_together)
    held_out = [id_ for id_ in dataset.split()[1] if "point_cloud" in dataset.modalities(id_)][: args.count]
    ids = [id_ for id_ in held_out if len(target_of(dataset, id_)) <= LONGEST]
    shape = model.settings.model
    right = {id_: dataset.cloud(id_, shape.point_count, 0, shape.point_sampling) for id_ in ids}
    wrong = {id_: right[ids[(k + SHIFT) % len(ids)]] for k, id_ in enumerate(ids)}
    print(f"{len(ids)} held-out ids\n| caption | text alone | its cloud | another's cloud |\n|---|---|---|---|")
    rows = {f"{style + 1}": {id_: dataset.caption(id_, style) for id_ in ids} for style in range(3)}
    rows["none"] = dict.fromkeys(ids, BARE_REQUEST)
    for name, captions in rows.items():
        losses = [mean_loss(model, collate, samples_of(dataset, ids, captions, clouds)) for clouds in (None, right, wrong)]
        print(f"| {name} | " + " | ".join(f"{loss:.4f}" for loss in losses) + " |")


if __name__ == "__main__":
    main()
