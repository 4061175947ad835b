"""DINOv2: the pretrained one from a folder or the hub, and a tiny one of the same class that is trained here.

What the tiny one adds: it needs no download, so that all three stages run anywhere. It learns from the views of the data set
alone; it is there to prove the path, not to see as well as 142 million curated pictures taught the real one to.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cadmllm.errors import CadmllmError
from cadmllm.models.backbone import LOAD_ERRORS, first_line, quiet_transformers
from cadmllm.models.preprocessor import FILE, differences, remedy_of, said_of
from cadmllm.models.torchfile import NotPlain, refuse_packed

if TYPE_CHECKING:
    from transformers import Dinov2Config, Dinov2Model

PIXELS = 224  # side of what it sees, as `corpus/pixels.py` cuts it
BESIDE = ("classifier.",)  # what checkpoints hold on top of DINOv2, and what is not needed
# of a config.json that is believed; the giant has width 1,536, 40 layers
_LARGEST = {"hidden_size": 16384, "num_hidden_layers": 256, "num_attention_heads": 256, "patch_size": PIXELS, "image_size": 4096}


def tiny_dino() -> Dinov2Model:
    """A fresh DINOv2 of 0.45 million parameters: 8 x 8 patches of 28 pixels, width 96, three layers."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=96, num_hidden_layers=3, num_attention_heads=4, mlp_ratio=2, patch_size=28, image_size=PIXELS
    )
    return Dinov2Model(config)


def load_dino(name: str, dtype: torch.dtype) -> Dinov2Model:
    """DINOv2 from a hub name or a folder, its weights in `dtype`. Attention is torch's own (SDPA).

    Raises:
        CadmllmError: E502 when it cannot be loaded or prepares pictures otherwise than we do, E507 when it lacks weights or has
            others, E508 when they are not finite numbers in `dtype`.
    """
    from transformers import Dinov2Model

    folder = Path(name).expanduser()
    if not folder.is_dir() and (folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise refused(name, "there is no such folder")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise refused(name, "the folder has no config.json")
    source = folder if folder.is_dir() else name
    try:
        with quiet_transformers():
            config = _config_of(name, source)
            _check_pictures(name, source)
            _check_pickles(name, folder)
            loaded: Any = Dinov2Model.from_pretrained(
                source, config=config, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False, output_loading_info=True
            )
    except pickle.UnpicklingError as error:
        raise refused(name, f"its weights are not a plain file of tensors ({first_line(error)})") from error
    except LOAD_ERRORS as error:
        raise refused(name, first_line(error)) from error
    dino, report = loaded
    _check_weights(name, dino, report)
    return dino


def _config_of(name: str, source: Path | str) -> Dinov2Config:
    from transformers import AutoConfig, Dinov2Config

    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if not isinstance(config, Dinov2Config):
        raise refused(name, f"it is a {config.model_type}, not a dinov2")
    for key, largest in _LARGEST.items():
        value = getattr(config, key)
        if not isinstance(value, int) or not 0 < value <= largest:
            raise refused(name, f"its config.json says {key} {str(value)[:40]}, which is not 1 to {largest:,}")
    if PIXELS % config.patch_size:
        raise refused(name, f"its patches of {config.patch_size} pixels do not divide the {PIXELS} that it is shown")
    return config


def _check_pictures(name: str, source: Path | str) -> None:
    """Its features are of use only for pictures that are prepared as it was taught with."""
    from transformers.utils import cached_file

    if isinstance(source, Path):
        found = differences(source)
    else:
        quietly = dict.fromkeys((f"_raise_exceptions_for_{what}" for what in ("gated_repo", "missing_entries")), False)
        path = cached_file(source, FILE, _raise_exceptions_for_connection_errors=False, **quietly)
        found = differences(Path(path).parent) if path else []
    if found:
        own = source if isinstance(source, Path) else None
        raise CadmllmError("E502", f"image encoder {name}: {said_of(found)}", remedy_of(own))


def _check_pickles(name: str, folder: Path) -> None:
    """Weights that are not safetensors are read as tensors alone, and only if they do not unfold in memory."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    for path in sorted(folder.glob("pytorch_model*.bin")):
        try:
            refuse_packed(path)
        except NotPlain as error:
            raise refused(name, f"{path.name}: {error}") from error


def _check_weights(name: str, dino: Dinov2Model, report: dict[str, Any]) -> None:
    missing = sorted(report["missing_keys"])
    if missing:
        raise refused(name, f"its weights lack {missing[0]} and {len(missing) - 1} more", "E507")
    others = sorted(key for key in report["unexpected_keys"] if not key.startswith(BESIDE))
    if others:
        raise refused(name, f"its weights hold {others[0]} and {len(others) - 1} more, which a DINOv2 does not have", "E507")
    for key, value in dino.named_parameters():
        if not bool(value.isfinite().all()):
            kind = f"{value.dtype}".removeprefix("torch.")
            raise refused(name, f"{key} holds numbers that are not finite in {kind}", "E508")


def refused(name: str, reason: str, code: str = "E502") -> CadmllmError:
    """DINOv2 cannot be used, and what can."""
    return CadmllmError(
        code,
        f"image encoder {name}: {reason}",
        "give a hub name or a local folder of DINOv2: `--set model.image_encoder=facebook/dinov2-large`,"
        " or train the small one that needs no download: `--set model.image_encoder=tiny`",
    )
