"""What somebody who never heard of cadmllm does with an export: transformers, peft, safetensors, numpy. Run as a script.

    python plain_answers.py JOBS.json

JOBS.json is a list of {"folder", "base" (null: a merged model), "rows", "asked": file.npz, "out": file.npz}. `asked` has, for
k = 0, 1, ...: ids_k [T]; where features stand in the prompt, features_k [N, width] of an encoder, branch_k ('points' or 'images')
and place_k, the id of their placeholder. `out` gets logits_k [T, rows].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def load(folder: str, base: str | None, rows: int):
    if base is None:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, tie_word_embeddings=False)
    model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, folder).eval()


def projected(features: torch.Tensor, weights: dict[str, torch.Tensor], branch: str) -> torch.Tensor:
    """The MLP projector, written from its description: LayerNorm, Linear, GELU, Linear."""
    own = {name.removeprefix(f"{branch}.projector."): value for name, value in weights.items() if name.startswith(branch)}
    x = torch.nn.functional.layer_norm(features, features.shape[-1:], own["norm.weight"], own["norm.bias"])
    x = torch.nn.functional.linear(x, own["into.weight"], own["into.bias"])
    return torch.nn.functional.linear(torch.nn.functional.gelu(x), own["out.weight"], own["out.bias"])


@torch.no_grad()
def answer(job: dict) -> None:
    model = load(job["folder"], job["base"], job["rows"])
    asked = np.load(job["asked"])
    file = Path(job["folder"]) / "projectors.safetensors"
    weights = load_file(file) if file.is_file() else {}
    found = {}
    for k in range(sum(name.startswith("ids_") for name in asked)):
        ids = torch.from_numpy(asked[f"ids_{k}"])[None]
        embeds = model.get_input_embeddings()(ids)
        if f"features_{k}" in asked:
            features = projected(torch.from_numpy(asked[f"features_{k}"]), weights, str(asked[f"branch_{k}"]))
            embeds = embeds.masked_scatter((ids == int(asked[f"place_{k}"]))[..., None], features)
        found[f"logits_{k}"] = model(inputs_embeds=embeds).logits[0].numpy()
    np.savez(job["out"], **found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for one in json.loads(Path(sys.argv[1]).read_text()):
        answer(one)
    assert not [name for name in sys.modules if name.partition(".")[0] == "cadmllm"], "this script is for people without it"
    print("no cadmllm")
