"""Base models, encoders and checkpoints with one thing wrong."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

from made_checkpoints import edit_json, in_hub, make_saves, make_stage, with_dino, with_michelangelo
from scene import Case, Scene

from cadmllm.doctor.check import Intent

BASE, POINTS, IMAGE, START = ("base-model",), ("points-encoder",), ("image-encoder",), ("start",)
WEIGHTS = "model.safetensors"


def cut(path: Path, size: int = 1000) -> None:
    """Leave off the last bytes of a file, or of what a link leads to."""
    path = path.resolve()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - size)


def headless(path: Path) -> None:
    """The first 8 bytes promise a longer header than there is file."""
    content = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 10 * len(content)) + content[8:])


def shard(scene: Scene) -> list[Path]:
    """The base's weights in three files with an index."""
    from safetensors.torch import load_file, save_file

    state = load_file(scene.base / WEIGHTS)
    names, held, made = sorted(state), {}, []
    for number in range(3):
        part = names[number::3]
        made.append(scene.base / f"model-{number + 1:05d}-of-00003.safetensors")
        save_file({name: state[name] for name in part}, made[-1], {"format": "pt"})
        held |= dict.fromkeys(part, made[-1].name)
    total = sum(value.numel() * value.element_size() for value in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": held}
    (scene.base / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (scene.base / WEIGHTS).unlink()
    return made


def swap_shards(scene: Scene) -> None:
    first, second, _ = shard(scene)
    shutil.copy(first, second)


def pointer_file(path: Path) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3963750816\n")


def pickled(scene: Scene) -> None:
    (scene.base / WEIGHTS).rename(scene.base / "pytorch_model.bin")


def half_downloaded(scene: Scene) -> None:
    snapshot = in_hub(scene, scene.base)
    blob = (snapshot / WEIGHTS).resolve()
    (snapshot / WEIGHTS).unlink()
    blob.rename(blob.with_name(f"{blob.name}.incomplete"))


def dead_link(scene: Scene) -> None:
    (in_hub(scene, scene.base) / WEIGHTS).resolve().unlink()


def many_words(scene: Scene) -> None:
    path = scene.base / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] += [{**content["added_tokens"][0], "id": 259 + n, "content": f"<|more{n}|>"} for n in range(40)]
    path.write_text(json.dumps(content))


def holes(scene: Scene) -> None:
    path = scene.base / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"][-1]["id"] = 270
    path.write_text(json.dumps(content))


def no_chat(scene: Scene) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = scene.base / name
        path.write_text(path.read_text().replace("<|im_start|>", "[START]"))


def spoil_encoder(scene: Scene, name: str, value: object) -> None:
    """Michelangelo with one tensor replaced, or left out (None)."""
    import torch

    path = with_michelangelo(scene)
    state = torch.load(path, weights_only=True)
    if value is None:
        del state[name]
    else:
        state[name] = state[name] * float("nan") if value == "nan" else torch.zeros(3) if value == "shape" else value
    torch.save(state, path)


def dead_encoder(scene: Scene) -> None:
    import torch

    path = with_michelangelo(scene)
    torch.save({name: torch.zeros_like(value) for name, value in torch.load(path, weights_only=True).items()}, path)


def bomb(scene: Scene) -> None:
    import torch

    class Trap:
        def __reduce__(self):
            return print, ("it ran",)

    torch.save({"state_dict": {}, "callbacks": Trap()}, with_michelangelo(scene))


def renamed(scene: Scene) -> None:
    path = with_michelangelo(scene)
    path.rename(path.with_name("shapevae-256.ckpt"))


def other_dino(scene: Scene) -> None:
    edit_json(with_dino(scene) / "config.json", hidden_size=64)


def blind_dino(scene: Scene) -> None:
    from safetensors.torch import load_file, save_file

    path = with_dino(scene) / WEIGHTS
    state = load_file(path)
    state["embeddings.cls_token"][:] = float("nan")
    save_file(state, path, {"format": "pt"})


def torn_stage(scene: Scene) -> None:
    cut(make_stage(scene) / WEIGHTS)
    scene.stages = (2,)


def other_base(scene: Scene) -> None:
    """Stage 1 was trained on weights of the same shape."""
    from safetensors.torch import load_file, save_file

    scene.values["lora.enabled"] = True
    make_stage(scene)
    state = load_file(scene.base / WEIGHTS)
    state["norm.weight"] += 0.5
    save_file(state, scene.base / WEIGHTS, {"format": "pt"})
    scene.stages = (2,)


def other_rank(scene: Scene) -> None:
    scene.values["lora.enabled"] = True
    make_stage(scene, **{"lora.r": 4, "lora.alpha": 8})
    scene.stages = (2,)


def other_tokens(scene: Scene) -> None:
    make_stage(scene, 2, **{"model.point_tokens": 4})
    scene.stages = (3,)


def other_vocabulary(scene: Scene) -> None:
    edit_json(make_stage(scene) / "model.json", vocabulary="0123456789abcdef")
    from cadmllm.models.stages import stage_folder, write_manifest

    write_manifest(stage_folder(scene.run, 1))
    scene.stages = (2,)


def later_stage(scene: Scene) -> None:
    scene.values["run.init_from"] = str(make_stage(scene, 3, scene.folder / "elsewhere"))
    scene.stages = (2,)


def foreign(scene: Scene) -> None:
    folder = scene.folder / "stage1_text_model"
    folder.mkdir()
    (folder / "adapter_model.bin").write_bytes(b"PK")
    scene.values["run.init_from"] = str(folder)
    scene.stages = (2,)


def quantised(scene: Scene) -> None:
    edit_json(scene.base / "config.json", quantization_config={"quant_method": "fp8"})


def in_the_way(scene: Scene) -> None:
    make_stage(scene)
    scene.stages = (1,)


def resuming(scene: Scene, *steps: int) -> list[Path]:
    scene.stages, scene.intent = (1,), Intent(resume=True)
    return make_saves(scene, *steps) if steps else []


def resumed_with_other_seed(scene: Scene) -> None:
    resuming(scene, 2)
    scene.values["train.seed"] = 7


def all_saves_torn(scene: Scene) -> None:
    for save in resuming(scene, 2, 4):
        cut(save / "training" / "optimizer.safetensors", 8)


CASES: tuple[Case, ...] = (
    Case("base-folder-not-there", "E501", lambda s: shutil.rmtree(s.base), BASE, sample=True),
    Case("base-not-downloaded", "E501", lambda s: s.values.update({"model.llm": "Qwen/Qwen3-8B"}), BASE),
    Case("base-half-downloaded", "E501", half_downloaded, BASE),
    Case("base-link-to-nothing", "E501", dead_link, BASE),
    Case("base-without-tokenizer", "E501", lambda s: (s.base / "tokenizer.json").unlink(), BASE),
    Case("base-without-a-shard", "E501", lambda s: shard(s)[1].unlink(), BASE),
    Case("base-pickled", "E501", pickled, BASE),
    Case("base-of-another-kind", "E501", lambda s: edit_json(s.base / "config.json", model_type="t5"), BASE),
    Case("base-with-code", "E501", lambda s: edit_json(s.base / "config.json", model_type="xyz", auto_map={"A": "b.C"}), BASE),
    Case("base-quantised", "E501", quantised, BASE),
    Case("base-cut-off", "E505", lambda s: cut(s.base / WEIGHTS), BASE, sample=True),
    Case("base-header-lies", "E505", lambda s: headless(s.base / WEIGHTS), BASE),
    Case("base-lfs-pointer", "E505", lambda s: pointer_file(s.base / WEIGHTS), BASE),
    Case("base-zeros", "E505", lambda s: (s.base / WEIGHTS).write_bytes(bytes(5000)), BASE),
    Case("base-shards-of-two-models", "E506", swap_shards, BASE),
    Case("base-more-layers-than-config", "E506", lambda s: edit_json(s.base / "config.json", num_hidden_layers=1), BASE),
    Case("base-other-width", "E506", lambda s: edit_json(s.base / "config.json", hidden_size=64), BASE),
    Case("base-vocabulary-too-large", "E506", many_words, BASE, sample=True),
    Case("base-vocabulary-with-gaps", "E506", holes, BASE),
    Case("base-tokenizer-broken", "E506", lambda s: (s.base / "tokenizer.json").write_text("{}"), BASE),
    Case("base-tokenizer-without-chat", "E506", no_chat, BASE, level="warn"),
    Case("michelangelo-missing", "E502", lambda s: with_michelangelo(s).unlink(), POINTS),
    Case("michelangelo-elsewhere", "E502", renamed, POINTS),
    Case("michelangelo-bomb", "E502", bomb, POINTS),
    Case("michelangelo-jpeg", "E505", lambda s: with_michelangelo(s).write_bytes(b"\xff\xd8\xff\xe0" + bytes(99)), POINTS),
    Case("michelangelo-web-page", "E505", lambda s: with_michelangelo(s).write_text("<!DOCTYPE html><html>"), POINTS),
    Case("michelangelo-cut-off", "E505", lambda s: cut(with_michelangelo(s)), POINTS),
    Case("michelangelo-lacks-a-key", "E507", lambda s: spoil_encoder(s, "encoder.ln_post.bias", None), POINTS),
    Case("michelangelo-other-shape", "E507", lambda s: spoil_encoder(s, "encoder.ln_post.bias", "shape"), POINTS),
    Case("michelangelo-nan", "E508", lambda s: spoil_encoder(s, "encoder.ln_post.bias", "nan"), POINTS),
    Case("michelangelo-says-nothing", "E509", dead_encoder, POINTS),
    Case("dino-missing", "E502", lambda s: shutil.rmtree(with_dino(s)), IMAGE),
    Case("dino-cut-off", "E505", lambda s: cut(with_dino(s) / WEIGHTS), IMAGE),
    Case("dino-other-size", "E506", other_dino, IMAGE),
    Case("dino-nan", "E508", blind_dino, IMAGE),
    Case("stage-before-missing", "E601", lambda s: setattr(s, "stages", (2,)), START),
    Case("stage-before-torn", "E601", torn_stage, START),
    Case("stage-before-of-another-program", "E503", foreign, START),
    Case("stage-before-on-another-base", "E504", other_base, START),
    Case("stage-before-with-other-rank", "E504", other_rank, START),
    Case("stage-before-with-other-tokens", "E504", other_tokens, START),
    Case("stage-before-with-other-vocabulary", "E504", other_vocabulary, START),
    Case("stage-from-a-later-one", "E504", later_stage, START),
    Case("run-in-the-way", "E605", in_the_way, START, level="warn"),
    Case("resume-without-saves", "E604", lambda s: resuming(s), START),
    Case("resume-from-torn-saves", "E604", all_saves_torn, START),
    Case("resume-past-a-torn-save", "E503", lambda s: cut(resuming(s, 2, 4)[1] / WEIGHTS), START, level="warn"),
    Case("resume-with-another-seed", "E605", resumed_with_other_seed, START),
)
