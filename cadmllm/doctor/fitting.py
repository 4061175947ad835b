"""Whether a checkpoint's weights can be taken by the model of these settings: what `models.weights.load_model` would refuse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor.basemark import base_mark
from cadmllm.doctor.basemodel import base_files
from cadmllm.doctor.decoder import decoder_tensors, shape_in
from cadmllm.doctor.headers import BadFile, Tensor, read_header
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.doctor.check import Situation
    from cadmllm.plan.sizes import LlmShape
    from cadmllm.settings import Settings

TINY_WIDTH = 96  # of a feature of the image encoder that is trained here (`models.image.tiny_dino`)


def check_fit(situation: Situation, folder: Path, stage: int) -> None:
    """Compare a whole checkpoint folder with the settings, the base and the parts of a stage.

    Args:
        situation: whose settings and base are used.
        folder: of the checkpoint.
        stage: that is to take its weights.

    Raises:
        CadmllmError: E503, E505 when it is none or cut short; E504 naming the first thing that differs.
    """
    from cadmllm.models.record import WEIGHTS, check_base, check_settings, check_vocabulary, read_record

    settings, where = situation.needed, str(folder)
    record = read_record(folder)
    check_vocabulary(record, where)
    try:
        tensors = read_header(folder / WEIGHTS)
    except BadFile as error:
        remedy = "name another checkpoint: --resume_from_ckpt FOLDER; or train that stage again"
        raise CadmllmError("E505", f"{folder / WEIGHTS} {error}", remedy) from None
    check_settings(settings, record, tensors, stage, where)
    check_base(record, base_mark(situation, record["base"]), settings, where)
    _check_branches(situation, tensors, stage, where)
    try:
        shape = shape_in(base_files(situation).config)
    except CadmllmError:
        return  # the base's own check says it
    if shape is not None:
        _check_shapes(situation, tensors, shape, where)


def _check_branches(situation: Situation, tensors: dict[str, Tensor], stage: int, where: str) -> None:
    """Branches that a stage does not have, and encoders that are trained now and were not, or the other way round."""
    from cadmllm.models.frozen import why_trained
    from cadmllm.models.record import BRANCH_STAGES, unfit

    settings = situation.needed
    for branch, first in BRANCH_STAGES.items():
        held = sorted(name for name in tensors if name.startswith(f"{branch}."))
        if held and stage < first:
            raise unfit(
                where,
                f"it holds {held[0]}, which the model of stage {stage} does not have: it is of stage {first} or later",
                f"continue it with that stage: cadmllm train stage{first} --resume_from_ckpt {where}; or name a stage before",
            )
        encoder = [name for name in held if name.startswith(f"{branch}.encoder.")]
        trained = bool(why_trained(settings, branch))
        if held and trained != bool(encoder):
            was = "trained" if encoder else "frozen"
            key = "--set model.train_encoders=" + ("true" if encoder else "false")
            raise unfit(where, f"the encoder of its {branch} was {was}, and is {'trained' if trained else 'frozen'} here", key)


def _check_shapes(situation: Situation, tensors: dict[str, Tensor], shape: LlmShape, where: str) -> None:
    """Every tensor whose name and shape follow from settings and base: LoRA or the model itself, rows, projectors."""
    from cadmllm.models.record import unfit

    for name, size in wanted_tensors(situation, tensors, shape).items():
        if name not in tensors:
            raise unfit(where, f"it lacks {name}, which this model trains")
        if tensors[name].shape != size:
            raise unfit(where, f"{name} has shape {tensors[name].shape}, and {size} here")


def wanted_tensors(situation: Situation, tensors: dict[str, Tensor], shape: LlmShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a checkpoint must hold, but for the insides of encoders that are trained.

    A branch that `tensors` does not hold starts fresh and is not wanted.
    """
    from cadmllm.corpus.types import ADDED, CAD_SIZE

    settings = situation.needed
    wanted: dict[str, tuple[int, ...]] = {"rows.input": (len(ADDED), shape.hidden), "rows.output": (CAD_SIZE, shape.hidden)}
    for name, size in decoder_tensors(shape).items():
        if not settings.lora.enabled:
            wanted[f"llm.{name}"] = size
        elif "_proj.weight" in name:
            part, rank = name.removesuffix(".weight"), settings.lora.r
            wanted[f"llm.{part}.lora_A.weight"] = (rank, size[1])
            wanted[f"llm.{part}.lora_B.weight"] = (size[0], rank)
    model = settings.model
    widths = {
        "points": model.fourier_width if model.points_encoder == "fourier" else None,
        "images": TINY_WIDTH if model.image_encoder == "tiny" else None,
    }
    for branch, width in widths.items():
        if not any(name.startswith(f"{branch}.") for name in tensors):
            continue
        # how many tokens a Michelangelo gives its file alone tells: whether they are resampled, what was saved
        resampled = model.image_bridge == "perceiver" if branch == "images" else f"{branch}.projector.latents" in tensors
        bridge = _bridge(settings, branch, width, shape.hidden, resampled)
        wanted |= {f"{branch}.projector.{name}": size for name, size in bridge.items()}
    return wanted


def _bridge(settings: Settings, branch: str, width: int | None, hidden: int, resampled: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a projector, or of a resampler; those that `width` of a feature decides where it is known."""
    from cadmllm.plan.parts import VIEWS

    model = settings.model
    if not resampled:
        wanted = {"out.weight": (hidden, hidden), "out.bias": (hidden,)}
        return wanted if width is None else wanted | {"into.weight": (hidden, width), "norm.weight": (width,)}
    inner, views = model.resampler_width, branch == "images"
    wanted = {
        "latents": (model.image_tokens if views else model.point_tokens, inner),
        "end.into.weight": (hidden, inner),
        "end.out.weight": (hidden, hidden),
        "end.out.bias": (hidden,),
    }
    for number in range(model.resampler_layers):
        wanted |= {f"blocks.{number}.q.weight": (inner, inner), f"blocks.{number}.kv.weight": (2 * inner, inner)}
    if width is not None:
        wanted |= {"into.weight": (inner, width), "norm.weight": (width,)} | ({"views": (VIEWS, width)} if views else {})
    return wanted
