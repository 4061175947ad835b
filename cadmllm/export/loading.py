"""An export loaded as other people load it: transformers and peft alone for the language model, its own projectors in front."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cadmllm.corpus.prompt import build_prompt, features_of
from cadmllm.corpus.types import ADDED
from cadmllm.errors import CadmllmError
from cadmllm.export.questions import Answered, Plain
from cadmllm.models.backbone import LOAD_ERRORS, first_line, quiet_bitsandbytes, quiet_transformers
from cadmllm.models.branches import IMAGES_STAGE, POINTS_STAGE, Branch, images_branch, points_branch
from cadmllm.models.exported import broken
from cadmllm.models.fromexport import own_tokenizer, parts_of

if TYPE_CHECKING:
    from cadmllm.corpus.batch import Collator
    from cadmllm.export.room import Room
    from cadmllm.export.source import Source
    from cadmllm.settings import Settings


def load_plain(source: Source, folder: Path, kind: str, settings: Settings, collator: Collator, room: Room) -> Plain:
    """The export as a plain model.

    Args:
        source: what it was made of.
        folder: of the export.
        kind: 'merged', 'adapter' or 'gguf'.
        settings: of the checkpoint as it was loaded, for the encoders.
        collator: of the checkpoint.
        room: device and type.

    Raises:
        CadmllmError: E722 when plain tools cannot load it, or only with parts started at random.
    """
    quiet_bitsandbytes()
    if kind == "gguf":
        return Plain(_from_gguf(source, folder), {}, collator, source.text_size)
    try:
        with quiet_transformers():
            causal = _merged(folder, room) if kind == "merged" else _adapter(source, folder, room)
    except LOAD_ERRORS as error:
        raise broken(f"{folder}: transformers and peft cannot load it ({first_line(error)})") from error
    width = causal.get_input_embeddings().weight.shape[1]
    return Plain(causal, branches_of(folder, source.stage, settings, width, room.device), collator, source.text_size)


def branches_of(folder: Path, stage: int, settings: Settings, width: int, device: torch.device) -> dict[str, Branch]:
    """Projectors and encoders from the export's files; frozen encoders from where the settings say.

    Raises:
        CadmllmError: E722 naming the tensor that is missing, surplus or of another shape.
    """
    held = parts_of(folder)
    found = {}
    for name, first, build in (("points", POINTS_STAGE, points_branch), ("images", IMAGES_STAGE, images_branch)):
        if stage < first:
            continue
        with torch.random.fork_rng(devices=[]):
            branch = build(settings, width, 1.0)
        wanted = {
            f"{name}.{key}": value
            for key, value in branch.named_parameters()
            if not (branch.frozen and key.startswith("encoder."))
        }
        for key, value in wanted.items():
            _copy(folder, key, held.pop(key, None), value)
        found[name] = branch.to(device).eval()
    if held:
        raise broken(f"{folder} holds {sorted(held)[0]}, which a model of stage {stage} does not have")
    return found


def _copy(folder: Path, name: str, value: Tensor | None, into: Tensor) -> None:
    if value is None:
        raise broken(f"{folder} lacks {name}")
    if value.shape != into.shape:
        raise broken(f"{folder}: {name} has shape {list(value.shape)}, and {list(into.shape)} here")
    with torch.no_grad():
        into.copy_(value)


def _merged(folder: Path, room: Room) -> Any:
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=room.dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **_placed(room)
    )
    causal, report = loaded
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(what):
            raise broken(f"{folder}: transformers reports {what.replace('_', ' ')}: {sorted(map(str, report[what]))[0]}")
    return causal


def _adapter(source: Source, folder: Path, room: Room) -> Any:
    """As the model card's script does: the base, untied and resized, then the adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    causal: Any = AutoModelForCausalLM.from_pretrained(
        source.base.folder,
        dtype=room.dtype,
        trust_remote_code=False,
        use_safetensors=True,
        tie_word_embeddings=False,
        **_placed(room),
    )
    causal.resize_token_embeddings(source.rows, mean_resizing=False)
    with warnings.catch_warnings():  # peft asks transformers by a name that is about to go, which tells users nothing
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(causal, folder, use_safetensors=True)


def _from_gguf(source: Source, folder: Path) -> Any:
    from cadmllm.export.gguf_model import read_model

    return read_model(gguf_of(folder), source.base.layout.config.to_dict())


def gguf_of(folder: Path) -> Path:
    """The one GGUF file of an export."""
    found = sorted(folder.glob("*.gguf"))
    if len(found) != 1:
        raise broken(f"{folder} has {len(found)} GGUF files, not one")
    return found[0]


def _placed(room: Room) -> dict[str, Any]:
    return {"device_map": {"": str(room.device)}} if room.device.type == "cuda" else {}


def check_prompts(folder: Path, answered: list[Answered], collator: Collator, text_size: int) -> None:
    """The export's tokenizer, loaded without us, must read every prompt into the ids that the checkpoint was asked with.

    Raises:
        CadmllmError: E721 naming the prompt and the place of the first id that differs; E722 when it cannot be loaded.
    """
    tokenizer: Any = own_tokenizer(folder)
    for one in answered:
        features = features_of(one.sample, collator.cloud_tokens, collator.image_tokens, collator.together)
        text = build_prompt(one.sample.caption, *features)
        _same(one, tokenizer.encode(text, add_special_tokens=False), "its prompt")
        if one.sample.combination == "text":
            said = [{"role": "user", "content": one.sample.caption}]
            chat = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=True, return_dict=True)
            _same(one, list(chat["input_ids"]), "its prompt by the chat template")
    written = tokenizer.convert_ids_to_tokens([text_size + k for k in range(len(ADDED))])
    if written != list(ADDED):
        k = next(k for k, item in enumerate(ADDED) if written[k] != item)
        raise broken(f"{folder}: its tokenizer has {written[k]!r} at id {text_size + k}, where {ADDED[k]} belongs")


def _same(one: Answered, ids: list[int], what: str) -> None:
    if ids == one.prompt:
        return
    at = next((k for k, (a, b) in enumerate(zip(ids, one.prompt, strict=False)) if a != b), min(len(ids), len(one.prompt)))
    raise CadmllmError(
        "E721",
        f"the export's tokenizer reads {one.sample.id!r} otherwise: {what} has {len(ids)} ids and the checkpoint's"
        f" {len(one.prompt)}, differing from place {at} on",
        "name the base as its authors published it (`--set model.llm=...`); if it still differs, please report it",
    )
