"""The language model: any Qwen3-style causal LM, from a local folder or the hub, without its output matrix.

Answers are predicted over the CAD vocabulary alone (`rows.py`), so the inner decoder is loaded and full logits never exist.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cadmllm.errors import CadmllmError
from cadmllm.models.lora import FusedLora
from cadmllm.models.record import EXPORT_RECORD, vocabulary_hash
from cadmllm.places import bundled
from cadmllm.settings import Settings

if TYPE_CHECKING:
    from bitsandbytes.nn import Params4bit
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TINY_BASE = "checkpoints/tiny-base"  # what `model.llm = "tiny"` names
ROWS_FILE = "cad_rows.safetensors"
BFLOAT16_CAPABILITY = (8, 0)  # Ampere and newer compute in it
# what from_pretrained raises for files that are missing, cut short, of another model, or behind a network that is not there
LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError, SafetensorError)
LOAD_ERRORS += (StrictDataclassError, LookupError, ArithmeticError)  # a config.json whose values are of other types, or senseless


@dataclass(slots=True)
class Backbone:
    """A loaded language model.

    Attributes:
        model: the inner decoder (no output matrix), perhaps with LoRA around its linears; gives last_hidden_state.
        tokenizer: fast, as it came: nothing is added to it, prompts insert the ids of added items themselves.
        text_size: its number of items; item k of `ADDED` has id text_size + k.
        base_dir: the local folder it came from; None for a hub name.
        rows_init: 'input' and 'output' rows that the base brings along (the bundled tiny base), else None.
        fingerprint: of the base (configuration, tokenizer, norm weights), as checkpoints record it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    text_size: int
    base_dir: Path | None
    rows_init: dict[str, Tensor] | None
    fingerprint: dict[str, str]


def input_embedding(model: PreTrainedModel) -> nn.Embedding:
    """The base model's embedding matrix, used for prompts only."""
    return cast("nn.Embedding", model.get_input_embeddings())


def pick_device(settings: Settings) -> torch.device:
    """`settings.device`, where 'auto' is CUDA when there is one."""
    name = settings.device
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def load_backbone(settings: Settings, device: torch.device | None = None) -> Backbone:
    """Load decoder and tokenizer, freeze the decoder and wrap it in LoRA, or leave all of it trainable.

    Without LoRA the weights are float32 (the optimizer's master copy) and `settings.dtype` is the autocast type.

    Raises:
        CadmllmError: E501, naming what is missing or broken; E613 for a type that the card cannot compute in.
    """
    device = device or pick_device(settings)
    check_dtype(settings.dtype, device)
    quiet_bitsandbytes()
    source, folder = locate(settings.model.llm)
    with quiet_transformers():
        tokenizer = load_tokenizer(source)
        model = _load_decoder(source, settings, device)
    text_size = len(tokenizer)
    if input_embedding(model).weight.shape[0] < text_size:
        raise unloadable(source, f"its tokenizer has {text_size} items, more than its embedding's rows")
    fingerprint = fingerprint_of(model, tokenizer)
    if settings.model.quantization == "nf4":
        _keep_as_packed(model)
    if settings.lora.enabled:
        _hold_in(model, getattr(torch, settings.dtype))
        model = _with_lora(model, settings, source)
    else:
        model.requires_grad_(True)
    return Backbone(model, tokenizer, text_size, folder, _read_rows(folder, model.config.hidden_size), fingerprint)


def load_merged(folder: Path, settings: Settings, device: torch.device, text_size: int, rows: dict[str, Tensor]) -> Backbone:
    """The decoder of a merged export: LoRA is in its weights and the added items are in its tokenizer; all of it frozen.

    Args:
        folder: with config.json, tokenizer and safetensors, checked before (`exported.check_whole`).
        settings: `dtype` and `model.quantization` are read; 4-bit weights are packed from the folder's.
        device: where to.
        text_size: items of the tokenizer before the added ones.
        rows: 'input' and 'output', as `Backbone.rows_init`.

    Raises:
        CadmllmError: E501, E613 as `load_backbone`.
    """
    check_dtype(settings.dtype, device)
    quiet_bitsandbytes()
    frozen = settings.model_copy(update={"lora": settings.lora.model_copy(update={"enabled": True})})
    with quiet_transformers():
        tokenizer = load_tokenizer(str(folder))
        model = _load_decoder(str(folder), frozen, device)
    if settings.model.quantization == "nf4":
        _keep_as_packed(model)
    _hold_in(model, getattr(torch, settings.dtype))
    return Backbone(model, tokenizer, text_size, folder, rows, fingerprint_of(model, tokenizer))


def locate(name: str) -> tuple[str, Path | None]:
    """What to hand to transformers, and the folder if it is one.

    Raises:
        CadmllmError: E501 when it is neither a folder with config.json and tokenizer.json nor the form of a hub name.
    """
    if name == "tiny":
        name = str(bundled(TINY_BASE))
    folder = Path(name).expanduser()
    if (folder / EXPORT_RECORD).is_file():
        made_of = "a new run starts from the base: `--set model.llm=Qwen/Qwen3-8B`; what was trained goes on from its checkpoint:"
        raise CadmllmError(
            "E501",
            f"language model {name}: this is an export of cadmllm, which has the CAD items and what was trained in it already",
            f"{made_of} `--resume_from_ckpt FOLDER`; to answer from it: `cadmllm infer --checkpoint {name}`",
        )
    if folder.is_dir():
        missing = [part for part in ("config.json", "tokenizer.json") if not (folder / part).is_file()]
        if missing:
            raise unloadable(name, f"the folder has no {missing[0]}")
        return str(folder), folder
    if folder.exists():
        raise unloadable(name, "this is a file, not a model folder")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise unloadable(name, "there is no such folder")
    return name, None


def unloadable(source: str, reason: str) -> CadmllmError:
    """E501: a base that cannot be loaded."""
    remedy = "give a folder with config.json, tokenizer.json and *.safetensors, or a hub name: `--set model.llm=Qwen/Qwen3-8B`"
    if not source.endswith(str(TINY_BASE)):
        remedy += "; `--set model.llm=tiny` is the bundled base, which needs no download"
    return CadmllmError("E501", f"language model {source}: {reason}", remedy)


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@contextlib.contextmanager
def quiet_transformers() -> Generator[None]:
    """Load without the reports and bars of transformers."""
    # the loader reports the output matrix as unexpected, which is what we ask for; what is truly missing is checked below
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def load_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a folder or a hub name.

    Raises:
        CadmllmError: E501.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except LOAD_ERRORS as error:
        raise unloadable(source, f"its tokenizer cannot be loaded ({first_line(error)})") from error
    except Exception as error:  # the tokenizers library raises bare Exception for a broken tokenizer.json
        raise unloadable(source, f"its tokenizer.json is broken ({first_line(error)})") from error
    if tokenizer is None or not tokenizer.is_fast:
        raise unloadable(source, "it has no fast tokenizer (tokenizer.json)")
    return cast("PreTrainedTokenizerFast", tokenizer)


def _load_decoder(source: str, settings: Settings, device: torch.device) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    options = _load_options(settings, device)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if type(config) not in AutoModelForCausalLM._model_mapping:
            raise unloadable(source, f"a {config.model_type} is not a causal language model")
        model, report = AutoModel.from_pretrained(
            source, config=config, trust_remote_code=False, output_loading_info=True, **options
        )
    except LOAD_ERRORS as error:
        raise unloadable(source, first_line(error)) from error
    if report["missing_keys"]:
        # transformers would start them at random and go on
        raise unloadable(
            source, f"its weights lack {sorted(report['missing_keys'])[0]} and {len(report['missing_keys']) - 1} more"
        )
    model.requires_grad_(False)
    return model


def check_dtype(dtype: str, device: torch.device) -> None:
    """Refuse a type that a card only imitates, many times slower than float16 (GTX, RTX 20xx, T4, V100 have no bfloat16).

    Raises:
        CadmllmError: E613.
    """
    if dtype != "bfloat16" or device.type != "cuda" or torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY:
        return
    major, minor = torch.cuda.get_device_capability(device)
    raise CadmllmError(
        "E613",
        f"dtype=bfloat16: {torch.cuda.get_device_name(device)} (compute capability {major}.{minor}) has no bfloat16",
        "--set dtype=float16, which scales the loss; or --set dtype=float32",
    )


def _load_options(settings: Settings, device: torch.device) -> dict[str, Any]:
    dtype = getattr(torch, settings.dtype)
    options: dict[str, Any] = {"dtype": dtype if settings.lora.enabled else torch.float32}
    if settings.dtype == "float16" and settings.lora.enabled:
        options["dtype"] = "auto"  # as the files have it: float16 has other roundings, and the fingerprint would know them
    if settings.model.quantization == "nf4":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise CadmllmError(
                "E501", "model.quantization=nf4 needs bitsandbytes, which is not installed", "pip install 'cadmllm[qlora]'"
            )
        if not settings.lora.enabled:
            raise CadmllmError("E105", "nf4 weights cannot be trained themselves", "use `--set lora.enabled=true` with nf4")
        from transformers import BitsAndBytesConfig

        # double quantisation: the scales of 64 weights each are themselves kept in 8 bit, 4.13 bits a weight in all
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    if device.type == "cuda" or settings.model.quantization == "nf4":
        options["device_map"] = {"": str(device)}  # straight to the card: no second copy in RAM
    return options


def quiet_bitsandbytes() -> None:
    """To be called before it is imported (peft does, too): on a CPU it complains of a package that it can do without."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def _keep_as_packed(model: PreTrainedModel) -> None:
    """On a CPU bitsandbytes repacks the weights for inference in the first evaluation, and gives no gradients from then on."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _hold_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Frozen weights that came as the files have them, in the type they are to be held in; 4-bit ones give it when unpacked."""
    for parameter in model.parameters():
        if parameter.dtype == torch.uint8:
            cast("Params4bit", parameter).quant_state.dtype = dtype
        elif parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


def _with_lora(model: PreTrainedModel, settings: Settings, source: str) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    present = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    absent = [name for name in LORA_TARGETS if name not in present]
    if absent:
        raise unloadable(source, f"it has no linear layer called {absent[0]}: not a Qwen3-style model")
    lora, targets = settings.lora, list(LORA_TARGETS)
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
    with warnings.catch_warnings():  # peft asks transformers by a name that is about to go, which tells users nothing
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = get_peft_model(model, config)
    for module in wrapped.modules():
        if isinstance(module, LoraLayer):
            # peft copies what comes in to float32, a copy for each layer, which autocast then takes back to 16 bit
            module._cast_input_dtype = _input_of_lora  # ty: ignore[invalid-assignment]
            module.forward = FusedLora(module)
    return cast("PreTrainedModel", wrapped)  # it passes every other attribute on to the model inside


def _input_of_lora(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if torch.is_autocast_enabled(x.device.type) else x.to(dtype)


def fingerprint_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """Short hashes of what a checkpoint built on this base depends on: `fingerprint` of a loaded model."""
    return fingerprint(model.config, model.named_parameters(), tokenizer)


def fingerprint(
    config: PreTrainedConfig, parameters: Iterable[tuple[str, Tensor]], tokenizer: PreTrainedTokenizerFast
) -> dict[str, str]:
    """Short hashes of what a checkpoint built on a base depends on.

    Of the weights only the norms are read: a few hundred kilobytes at most, never quantised, and different in any two trained
    models. They are compared as bfloat16, so that the type a base is loaded in does not matter.

    Args:
        config: of the base.
        parameters: names and values of the inner decoder in its order; those with more than one axis are passed over.
        tokenizer: of the base.
    """
    from hashlib import sha256

    shape = (config.model_type, config.hidden_size, config.num_hidden_layers, config.vocab_size, config.intermediate_size)
    norms = sha256()
    for name, value in parameters:
        if value.ndim == 1:
            norms.update(name.encode() + value.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return {
        "config": sha256(json.dumps(shape).encode()).hexdigest()[:16],
        "tokenizer": tokenizer_mark(tokenizer.get_vocab()),
        "weights": norms.hexdigest()[:16],
    }


def tokenizer_mark(vocabulary: Mapping[str, int]) -> str:
    """The fingerprint's part for a tokenizer: its items and their ids."""
    from hashlib import sha256

    items = json.dumps(sorted(vocabulary.items(), key=lambda item: item[1]))
    return sha256(items.encode()).hexdigest()[:16]


def _read_rows(folder: Path | None, width: int) -> dict[str, Tensor] | None:
    """The rows a base folder brings along, checked against today's vocabulary."""
    if folder is None or not (folder / ROWS_FILE).is_file():
        return None
    from safetensors import safe_open

    path = folder / ROWS_FILE
    try:
        with safe_open(path, "pt") as file:
            vocabulary = (file.metadata() or {}).get("vocabulary")
        rows = {name: value.float() for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise unloadable(str(folder), f"{ROWS_FILE} is broken ({first_line(error)})") from error
    if vocabulary != vocabulary_hash() or sorted(rows) != ["input", "output"] or any(r.shape[1] != width for r in rows.values()):
        raise CadmllmError(
            "E504",
            f"{path} was made for another CAD vocabulary ({vocabulary}, now {vocabulary_hash()})",
            f"make the base again with `python checkpoints/make_tiny_base.py`, or delete {path} to start with fresh rows",
        )
    return rows
