"""The files of a Hugging Face model folder: which are missing, how much is to be downloaded, whether the weights are whole.

Headers alone are read: five shards of 16 GB cost a few milliseconds. Standard library only.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadmllm.doctor.headers import BadFile, Tensor, amount, read_header, what_it_is
from cadmllm.doctor.hub import Place, dangling, download, offline
from cadmllm.errors import CadmllmError
from cadmllm.plan.sizes import KNOWN, shape_of

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model folder whose files are all there and whole.

    Attributes:
        folder: as transformers would load it.
        config: `config.json`.
        tensors: every tensor of the weights, by the name it has in its file.
        files: the weights, and for each tensor the one that holds it.
        size: bytes of the weights.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    files: tuple[Path, ...]
    holder: dict[str, Path]
    size: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked for, and how it is spoken of.

    Attributes:
        place: where.
        code: of a missing file: E501 or E502.
        key: the setting that names it ('model.llm').
        beside: files that must be there besides weights ('config.json', 'tokenizer.json').
        environ: of the machine.
        bytes: of the weights, where they are known without the files.
    """

    place: Place
    code: str
    key: str
    beside: tuple[str, ...]
    environ: Any
    bytes: int = 0

    def get(self, files: Sequence[str] = (), *, force: bool = False) -> str:
        """How files are had (again)."""
        if self.place.hub:
            command = download(self.place.name, files, force=force)
            blocked = offline(self.environ)
            way = f"; or a folder that holds it: --set {self.key}=DIR"
            return f"{'env -u ' + blocked + ' ' if blocked else ''}{command}{way}"
        short = Path(self.place.name).name
        known = next((name for name in KNOWN if name.endswith(f"/{short}")), "")
        if known:
            return f"{download(known, files, force=force)} --local-dir {shlex.quote(self.place.name)}"
        what = " ".join(files) or "its files"
        return f"copy {what} again from where {self.place.name} came; or name another model: --set {self.key}=NAME"


def open_files(asked: Asked) -> ModelFiles:
    """Look at a model's folder.

    Raises:
        CadmllmError: the code asked for when files are missing or pickled, E505 when weights are damaged, E506 when the index
            and the shards do not agree.
    """
    folder = asked.place.folder
    assert folder is not None
    _refuse_missing(asked, folder)
    config = _read_json(asked, folder / "config.json")
    shards, held = _shards(asked, folder)
    tensors, holder = _read_shards(asked, folder, shards)
    _agree(asked, held, holder)
    files = tuple(folder / name for name in shards)
    return ModelFiles(folder, config, tensors, files, holder, sum(path.stat().st_size for path in files))


def present_bytes(folder: Path) -> int:
    """Bytes of the weights that are there."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors") if path.is_file())


def _refuse_missing(asked: Asked, folder: Path) -> None:
    lacking = [name for name in asked.beside if not (folder / name).is_file()]
    whole = (folder / SINGLE).is_file() or (folder / INDEX).is_file()
    stray = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))
    if not whole and not lacking and not stray:
        pickled = [name for name in PICKLED if (folder / name).is_file()]
        if pickled:
            raise _pickled(asked, folder, pickled[0])
    if not whole:
        lacking.append(INDEX if stray else SINGLE)
    if (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        lacking += [name for name in _shards(asked, folder)[0] if not (folder / name).is_file()]
    if not lacking:
        return
    broken = [name for name in lacking if dangling(folder / name)]
    why = f" ({broken[0]} is a link to a blob that is gone)" if broken else ""
    shown = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
    wanted = lacking if whole else ()  # which shards there are, only the hub knows
    message = f"{folder} lacks {shown}{why}{_left(asked, folder)}"
    raise CadmllmError(asked.code, message, asked.get(wanted))


def _left(asked: Asked, folder: Path) -> str:
    """'; 9.2 of 15.3 GiB are still to be downloaded (1.1 GiB of it are half-way)' where that is known."""
    total = asked.bytes
    if (folder / INDEX).is_file():
        size = _read_json(asked, folder / INDEX).get("metadata", {})
        total = int(size.get("total_size", 0)) if isinstance(size, dict) else 0
    elif not total and asked.code == "E501":
        shape = shape_of(str(folder))  # its config.json is there; weights come in 16 bit
        total = shape.weight_bytes("bfloat16", "none", head=not shape.tied) if shape else 0
    left = total - present_bytes(folder)
    if left <= 0:
        return f"; {amount(asked.place.partial)} of its files are half downloaded" if asked.place.partial else ""
    half = f" ({amount(asked.place.partial)} of it are half-way)" if asked.place.partial else ""
    return f"; {amount(left)} of {amount(total)} are still to be downloaded{half}"


def _pickled(asked: Asked, folder: Path, name: str) -> CadmllmError:
    mend = download(asked.place.name, ["--include", "*.safetensors"]) if asked.place.hub else ""
    kind = "AutoModelForCausalLM" if asked.code == "E501" else "Dinov2Model"
    out = f"{folder.name}-safetensors" if not asked.place.hub else f"./{asked.place.name.rpartition('/')[2]}"
    convert = (
        f"""python -c "from transformers import {kind} as M; M.from_pretrained('{folder}').save_pretrained('{out}')" """
        f"&& cp {shlex.quote(str(folder))}/*token* {out}; then --set {asked.key}={out}"
    )
    message = f"{folder} holds {name} alone: weights in a pickle, which are not read here; safetensors are"
    return CadmllmError(asked.code, message, f"{mend}; or convert it: {convert}" if mend else f"convert it: {convert}")


def _read_json(asked: Asked, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        other = what_it_is(path) if path.is_file() else ""
        what = f"is {other}, not JSON" if other else "is not readable JSON"
        raise CadmllmError(asked.code, f"{path} {what}", asked.get([path.name], force=True))
    return content


def _shards(asked: Asked, folder: Path) -> tuple[list[str], dict[str, str]]:
    """File names of the weights as transformers chooses them, and the tensors that the index promises in each."""
    if (folder / SINGLE).is_file():
        return [SINGLE], {}
    held = _read_json(asked, folder / INDEX).get("weight_map")
    good = isinstance(held, dict) and held and all(isinstance(name, str) and "/" not in name for name in held.values())
    if not good:
        raise CadmllmError(asked.code, f"{folder / INDEX} has no table of shards", asked.get([INDEX], force=True))
    return sorted(set(held.values())), held


def _read_shards(asked: Asked, folder: Path, shards: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Path]]:
    tensors: dict[str, Tensor] = {}
    holder: dict[str, Path] = {}
    damaged: dict[str, str] = {}
    for name in shards:
        try:
            found = read_header(folder / name)
        except BadFile as error:
            damaged[name] = str(error)
            continue
        tensors |= found
        holder |= dict.fromkeys(found, folder / name)
    if damaged:
        first, reason = next(iter(damaged.items()))
        more = f"; so are {len(damaged) - 1} more of {len(shards)} files" if len(damaged) > 1 else ""
        pointer = "Git LFS pointer" in reason
        mend = asked.get(list(damaged), force=asked.place.hub)
        if pointer and not asked.place.hub:
            mend = f"git -C {shlex.quote(str(folder))} lfs pull; or {mend}"
        raise CadmllmError("E505", f"{folder / first} {reason}{more}", mend)
    return tensors, holder


def _agree(asked: Asked, held: dict[str, str], holder: dict[str, Path]) -> None:
    wrong = sorted(name for name, shard in held.items() if name not in holder or holder[name].name != shard)
    if wrong:
        first = wrong[0]
        where = f"is in {holder[first].name}" if first in holder else "is in no shard"
        message = f"{INDEX} has {first} in {held[first]}, and it {where} ({len(wrong)} such tensors): shards of different models"
        raise CadmllmError("E506", message, asked.get(sorted({held[name] for name in wrong}), force=asked.place.hub))


def layer_count(names: Sequence[str], pattern: str) -> int:
    """How many layers the names tell of: the highest number of `pattern`'s group, plus one."""
    found = (re.match(pattern, name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def first_wrong(
    tensors: dict[str, Tensor], wanted: dict[str, tuple[int, ...]], says: Callable[[str, tuple[int, ...], tuple[int, ...]], str]
) -> str:
    """The first tensor that is missing or has another shape than wanted, in words; '' where all are right.

    Args:
        tensors: those that are there.
        wanted: name -> shape.
        says: (name, shape there, shape wanted) -> words.
    """
    missing = [name for name in wanted if name not in tensors]
    if missing:
        more = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        return f"the weights lack {missing[0]}{more}"
    wrong = [name for name, shape in wanted.items() if tensors[name].shape != shape]
    if wrong:
        more = f" (and {len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
        return says(wrong[0], tensors[wrong[0]].shape, wanted[wrong[0]]) + more
    return ""
