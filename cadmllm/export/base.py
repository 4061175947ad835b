"""The base model of an export: where it lies, what its files hold, and what cannot be merged into. Nothing is loaded here."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cadmllm.errors import CadmllmError
from cadmllm.export.layout import Layout, read_layout
from cadmllm.export.tensors import Damaged, Tensors
from cadmllm.models.backbone import fingerprint, load_tokenizer, locate
from cadmllm.plan.sizes import KNOWN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
PAPERS = ["*.json", "*.txt", "*.jinja"]  # of a hub repository: everything but weights
WEIGHTS = ["*.safetensors"]
# how the names of the hub say it
QUANTISED = re.compile(r"-(unsloth-)?(bnb-)?[48]bit|-(awq|gptq|fp8|int[48]|gguf|mlx)\b.*", re.IGNORECASE)


@dataclass(slots=True)
class Base:
    """A base model on disk.

    Attributes:
        name: as it was asked for: 'tiny', a hub name, or a folder.
        folder: where its files lie.
        config: its config.json, as it stands there.
        layout: its tensors, as transformers names and shapes them.
        tokenizer: as it came.
        tensors: its weights in the file's own types, under the names of `layout`; names that the model does not have stay away.
        unused: names in its files that the model does not have.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    layout: Layout
    tokenizer: PreTrainedTokenizerFast
    tensors: Tensors
    unused: list[str]

    @property
    def text_size(self) -> int:
        """Items of its tokenizer."""
        return len(self.tokenizer)


def find_base(name: str, again: str = "cadmllm export", fits: Callable[[dict[str, str]], None] | None = None) -> Base:
    """Find a base model: the bundled one, a folder, or a hub name (the cache first, then a download).

    Args:
        name: 'tiny', a folder, or a hub name.
        again: the command that remedies are built on; `--set model.llm=...` is put behind it.
        fits: is given the parts 'config' and 'tokenizer' of the fingerprint before weights are looked for (or downloaded).

    Raises:
        CadmllmError: E724 when it is not here, is quantised, or has its weights in a pickle alone; E501 for a config or a
            tokenizer that cannot be read, E505 for a damaged file, E506 where config, index and weights do not agree; what
            `fits` raises.
    """
    folder = _papers(name, again)
    config = _read_config(folder)
    if config.get("quantization_config"):
        raise _quantised(name, config["quantization_config"], again)
    layout, tokenizer = read_layout(folder), load_tokenizer(str(folder))
    if len(tokenizer) > layout.rows:
        raise _disagreeing(folder, f"its tokenizer has {len(tokenizer)} items, more than its embedding's {layout.rows} rows")
    if fits is not None:
        mark = fingerprint(layout.config, (), tokenizer)
        fits({part: mark[part] for part in ("config", "tokenizer")})
    folder = _weights(name, folder, again)
    tensors, unused = _open(folder, name, layout, again)
    return Base(name, folder, config, layout, tokenizer, tensors, unused)


def fingerprint_of_files(base: Base) -> dict[str, str]:
    """The base's fingerprint, as `models.backbone.fingerprint_of` gives it of the loaded decoder."""
    layout = base.layout
    small = (name for name in layout.decoder if len(layout.shapes[layout.prefix + name]) == 1)
    values = ((name, base.tensors.tensor(layout.prefix + name)) for name in small if layout.prefix + name in base.tensors)
    return fingerprint(layout.config, values, base.tokenizer)


def _papers(name: str, again: str) -> Path:
    """The folder of a base; of one on the hub everything but its weights is there afterwards."""
    try:
        source, folder = locate(name)
    except CadmllmError as error:
        raise _absent(name, error.message.partition(": ")[2], again) from error
    return folder or _fetched(source, PAPERS, lambda found: (found / "config.json").is_file(), again)


def _weights(name: str, folder: Path, again: str) -> Path:
    """The folder that holds the weights: a hub's snapshot is completed, which may be a newer one than that of its papers."""
    if locate(name)[1] is not None:
        return folder
    return _fetched(name, [*PAPERS, *WEIGHTS], _has_weights, again)


def _has_weights(folder: Path) -> bool:
    if (folder / SINGLE).is_file():
        return True
    return (folder / INDEX).is_file() and all((folder / shard).is_file() for shard in _shards(folder))


def _fetched(name: str, patterns: list[str], enough: Callable[[Path], bool], again: str) -> Path:
    """The snapshot of a hub repository, from the cache if that has enough, else downloaded."""
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        if enough(found):
            return found
    except LocalEntryNotFoundError:
        pass  # nothing of it is in the cache
    except HFValidationError as error:
        raise _absent(name, f"this is no name on the hub ({error})", again) from error
    try:
        offered = list_repo_files(name)  # without a network a download would give what the cache has, and say nothing
        if not any(file.endswith(".safetensors") for file in offered):
            raise _pickled(name, None, again)
        found = Path(snapshot_download(name, allow_patterns=patterns))
    except (OSError, HTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise _absent(name, f"the cache of the hub does not hold it all, and it cannot be fetched ({reason})", again) from error
    if not enough(found):
        raise _absent(name, f"its repository lacks files that a model has: {found} is not whole", again)
    return found


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _disagreeing(folder, f"its config.json is broken ({error})") from error
    if not isinstance(config, dict):
        raise _disagreeing(folder, "its config.json holds no table")
    return config


def _shards(folder: Path) -> list[str]:
    """The files that an index names; names that would lead out of the folder are refused."""
    try:
        held = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(held.values()), key=str)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _disagreeing(folder, f"its {INDEX} is broken ({type(error).__name__})") from error
    for name in names:
        if not isinstance(name, str) or PurePosixPath(name).parts != (name,) or name == ".." or not name.endswith(".safetensors"):
            raise _disagreeing(folder, f"its {INDEX} names {name!r}, which is no file beside it")
    return names


def _open(folder: Path, name: str, layout: Layout, again: str) -> tuple[Tensors, list[str]]:
    """The weights under the names of the layout, and what the model does not have."""
    if (folder / SINGLE).is_file():
        files = [SINGLE]
    elif (folder / INDEX).is_file():
        files = _shards(folder)
    else:
        raise _pickled(name, folder, again)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise _absent(name, f"{folder} lacks {missing[0]}, which its {INDEX} names", again)
    try:
        held = Tensors(folder / file for file in files)
    except Damaged as error:
        raise CadmllmError("E505", f"the base model's {error}", f"get it again: {_get(name)}; then {again}") from error
    bare = not any(tensor.startswith(layout.prefix) for tensor in held.names())  # saved without its output matrix
    held = held.renamed(lambda tensor: layout.prefix + tensor if bare and tensor != layout.output else tensor)
    unused = [tensor for tensor in held.names() if tensor not in layout.shapes]
    held.places = {tensor: place for tensor, place in held.places.items() if tensor in layout.shapes}
    return held, unused


def _get(name: str) -> str:
    """How the files of a base are had again."""
    if name == "tiny":
        return "git checkout -- checkpoints/tiny-base"
    folder = Path(name).expanduser()
    if not folder.is_absolute() and not folder.is_dir():
        return f"hf download {name} --force-download"
    known = next((model for model in KNOWN if model.endswith(f"/{folder.name}")), "")
    return f"hf download {known} --local-dir {shlex.quote(name)}" if known else f"copy it from where {name} came from"


def _absent(name: str, why: str, again: str) -> CadmllmError:
    hub = not name.startswith((".", "/", "~")) and name.count("/") == 1
    get = f"hf download {name}, then {again}; or " if hub else ""
    return CadmllmError("E724", f"the base model {name}: {why}", f"{get}{again} --set model.llm=FOLDER, where its weights lie")


def _pickled(name: str, folder: Path | None, again: str) -> CadmllmError:
    """There are no safetensors in a folder, or (None) in a repository of the hub."""
    where, new = str(folder or name), f"{Path(name).name}-safetensors"
    held = next((file for file in PICKLED if folder is not None and (folder / file).is_file()), None)
    if held is None and folder is not None:
        why = f"{folder} holds no {SINGLE} (and no {INDEX})"
        return CadmllmError("E724", f"the base model {name}: {why}", f"{_get(name)}; or {again} --set model.llm=FOLDER")
    code = (
        f"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; a, b = {where!r}, {new!r}; "
        "M.from_pretrained(a, dtype='auto').save_pretrained(b); T.from_pretrained(a).save_pretrained(b)"
    )
    why = f"has its weights in {held} alone" if held else "has no safetensors on the hub, so its weights can only be in pickles"
    return CadmllmError(
        "E724",
        f"the base model {name} {why}: a pickle can run code when it is opened",
        f"if you trust it, write it anew: python -c {shlex.quote(code)}, then {again} --set model.llm={new}",
    )


def _quantised(name: str, how: Any, again: str) -> CadmllmError:
    method = how.get("quant_method", "a method it does not name") if isinstance(how, dict) else "a method it does not name"
    plain = QUANTISED.sub("", Path(name).name if Path(name).is_dir() else name)
    known = next((model for model in KNOWN if model.endswith(f"/{plain}")), plain)
    exact = known if known.count("/") == 1 and known != name else "NAME_OR_FOLDER (the same model in 16 bit)"
    return CadmllmError(
        "E724",
        f"the base model {name} is quantised ({method}): nothing can be merged into such weights, nor are they the model's own",
        f"{again} --set model.llm={exact}",
    )


def _disagreeing(folder: Path, why: str) -> CadmllmError:
    return CadmllmError("E506", f"the base model in {folder}: {why}", f"get all its files from one place: {_get(str(folder))}")
