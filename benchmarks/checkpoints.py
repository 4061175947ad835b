"""What the doctor's checks of checkpoints cost with files of real sizes, the first time and afterwards.

    OMP_NUM_THREADS=2 python benchmarks/checkpoints.py

Made on the spot: a Qwen3-8B of five sparse shards (headers are whole, weights are holes), a Michelangelo encoder and a
DINOv2-large with random weights, a stage 1 checkpoint with LoRA r 16. With CADMLLM_SHARED (default ../shared) the real
tokenizer of 151,657 items.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "doctor")]

from made_checkpoints import write_safetensors  # noqa: E402

from cadmllm.doctor.cache import Cache  # noqa: E402
from cadmllm.doctor.check import Situation  # noqa: E402
from cadmllm.doctor.decoder import decoder_tensors  # noqa: E402
from cadmllm.plan.sizes import KNOWN, LlmShape  # noqa: E402
from cadmllm.settings import Settings  # noqa: E402

RANK, SHARDS = 16, 5
DINO = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mlp_ratio": 4,
    "image_size": 518,
    "patch_size": 14,
}


def base(folder: Path, shape: LlmShape) -> Path:
    """A folder as Qwen3-8B has it; the weights are holes in sparse files."""
    folder.mkdir()
    tensors = {f"model.{name}": ("BF16", size) for name, size in decoder_tensors(shape).items()}
    tensors["lm_head.weight"] = ("BF16", (shape.vocabulary, shape.hidden))
    names, held = list(tensors), {}
    each = -(-len(names) // SHARDS)
    for number in range(SHARDS):
        part = names[number * each : (number + 1) * each]
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        write_safetensors(folder / file, {name: tensors[name] for name in part})
        held |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": held}))
    config = {
        "model_type": "qwen3",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "vocab_size": shape.vocabulary,
        "intermediate_size": shape.mlp,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": 128,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    real = Path(os.environ.get("CADMLLM_SHARED", ROOT.parent / "shared")) / "data/qwen_tokenizer/tokenizer.json"
    shutil.copy(real if real.is_file() else ROOT / "checkpoints/tiny-base/tokenizer.json", folder)
    return folder


def encoders(folder: Path) -> tuple[Path, Path]:
    """Michelangelo's point encoder and DINOv2-large, of their sizes, with random weights."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    from cadmllm.models.michelangelo import MichelangeloEncoder

    points, images = folder / "michelangelo.pt", folder / "dinov2-large"
    encoder = MichelangeloEncoder(257, 768, 3072, 12, 8)
    torch.save({name: value + 0.02 * torch.randn_like(value) for name, value in encoder.state_dict().items()}, points)
    Dinov2Model(Dinov2Config(**DINO)).save_pretrained(images)
    return points, images


def stage1(settings: Settings, shape: LlmShape, cache: Cache) -> None:
    """A finished stage 1 of this base, with LoRA; its weights are holes."""
    from cadmllm.corpus.types import ADDED, CAD_SIZE
    from cadmllm.doctor.basemark import base_mark
    from cadmllm.models.record import vocabulary_hash
    from cadmllm.models.stages import stage_folder, write_manifest

    folder = stage_folder(settings.run.dir, 1)
    folder.mkdir(parents=True)
    tensors = {"rows.input": ("F32", (len(ADDED), shape.hidden)), "rows.output": ("F32", (CAD_SIZE, shape.hidden))}
    for name, size in decoder_tensors(shape).items():
        if "_proj.weight" in name:
            layer = f"llm.{name.removesuffix('.weight')}"
            tensors[f"{layer}.lora_A.weight"] = ("F32", (RANK, size[1]))
            tensors[f"{layer}.lora_B.weight"] = ("F32", (size[0], RANK))
    write_safetensors(folder / "model.safetensors", tensors)
    record = {
        "format": 1,
        "stage": 1,
        "vocabulary": vocabulary_hash(),
        "base": base_mark(Situation(settings, (2, 3), cache=cache), {}),
        "lora": {"enabled": True, "r": RANK, "alpha": 2 * RANK},
        "model": {"llm": settings.model.llm},
    }
    (folder / "model.json").write_text(json.dumps(record))
    write_manifest(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4, help="the first of them has nothing remembered")
    args = parser.parse_args()
    from cadmllm.doctor import checkpoints, start
    from cadmllm.doctor.running import make_checks

    shape = KNOWN["Qwen/Qwen3-8B"]
    with tempfile.TemporaryDirectory(prefix="cadmllm-bench-") as name:
        folder = Path(name)
        points, images = encoders(folder)
        model = {"llm": str(base(folder / "Qwen3-8B", shape)), "points_checkpoint": points, "image_encoder": str(images)}
        settings = Settings.model_validate({"model": model, "run": {"dir": folder / "run"}})
        stage1(settings, shape, Cache(folder / "other.json"))
        checks = (*checkpoints.CHECKS, start.CHECKS[0])
        print("| run | " + " | ".join(check.name for check in checks) + " | all, ms |")
        print("|---" * (len(checks) + 2) + "|")
        for run in range(args.runs):
            report = make_checks(Situation(settings, (2, 3), cache=Cache(folder / "doctor.json")), checks)
            times = [1000 * report.seconds[check.name] for check in checks]
            print(f"| {run + 1} | " + " | ".join(f"{time:,.1f}" for time in times) + f" | {sum(times):,.1f} |", flush=True)
            for finding in report.findings:
                print(f"{finding.check}: {finding.code} {finding.message}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
