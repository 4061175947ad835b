"""Packages that do not work together: by their own declarations, by a table of known cases, by what a failing import says.

Standard library only: versions are read from metadata, nothing is imported. Each known case names the thread it is taken from.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.installed import Distribution, Inventory, closure, inventory
from cadmllm.doctor.pip import pip
from cadmllm.doctor.ranges import REQUIRED, optional, pip_command
from cadmllm.doctor.requirement import in_range, parse_version

# not ours, but taken by ours (transformers, peft, accelerate) wherever they happen to be installed
NEIGHBOURS = ("torchvision", "torchaudio", "torchao", "flash-attn", "xformers", "triton")


@dataclass(frozen=True, slots=True)
class Conflict:
    """A distribution and another that it declares to need, which is missing or of another version."""

    needing: str
    needed: str
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A known case.

    Attributes:
        name: of the case.
        bad: says what is wrong with what is installed, or ''.
        remedy: the command that mends it.
        source: where it was seen.
        level: FAIL where a run breaks.
        applies: whether it matters under these settings.
    """

    name: str
    bad: Callable[[Inventory], str]
    remedy: str
    source: str
    level: Level = Level.FAIL
    applies: Callable[[Situation], bool] = lambda situation: True


@dataclass(frozen=True, slots=True)
class Sign:
    """What a failing import says when two packages do not fit.

    Attributes:
        pattern: in the text of the error.
        meaning: what it means, in words.
        remedy: a function of the package's name.
    """

    pattern: str
    meaning: str
    remedy: Callable[[str], str]


def conflicts(situation: Situation) -> tuple[Conflict, ...]:
    """What the distributions of a run declare to need and do not find, as `pip check` would say; looked for once."""
    return situation.once("conflicts", lambda: tuple(_conflicts(situation)))


def _conflicts(situation: Situation) -> list[Conflict]:
    stock = inventory(situation)
    named = [*REQUIRED, *(extra.name for extra in optional(situation)), *(name for name in NEIGHBOURS if stock.get(name))]
    found = []
    for one in closure(stock, named):
        for need in stock.needs(one):
            other = stock.get(need.name)
            if other is None:
                # an own build of torch may take CUDA's libraries from elsewhere: its import tells
                if need.name in REQUIRED or need.name.startswith(("nvidia-", "cuda-")):
                    continue
                text = f"{one.name} {one.version} needs {need.name}{need.wanted}, which is not installed"
            elif not in_range(other.version, need.wanted):
                text = f"{one.name} {one.version} needs {need.name}{need.wanted}, and {other.version} is installed"
            else:
                continue
            found.append(Conflict(one.name, need.name, text, _mend(one, need.name, need.wanted)))
    return found


def _mend(one: Distribution, needed: str, wanted: str) -> str:
    if one.name in NEIGHBOURS and one.name != "flash-attn":
        return f"{pip('uninstall', one.name)} (cadmllm does not use it), or install the one for this {needed}"
    return pip_command(needed, wanted)


def _torchvision(stock: Inventory) -> str:
    """torchvision 0.N goes with torch 2.(N - 15); a build for CUDA does not load beside a torch for the CPU."""
    torch, vision = stock.get("torch"), stock.get("torchvision")
    if torch is None or vision is None:
        return ""
    have, its = parse_version(torch.version), parse_version(vision.version)
    if len(have.release) > 1 and len(its.release) > 1 and have.release[0] == 2 and its.release[0] == 0:
        fitting = its.release[1] - 15
        if have.release[1] != fitting:
            return f"torchvision {vision.version} is built for torch 2.{fitting}, and {torch.version} is installed"
    if (have.local == "cpu") != (its.local == "cpu"):
        return f"torchvision {vision.version} and torch {torch.version} are builds of different kinds (CPU, CUDA)"
    if have.local[:2] == its.local[:2] == "cu" and have.local[:4] != its.local[:4]:  # cu128 and cu126 get on, cu130 does not
        return f"torchvision {vision.version} and torch {torch.version} are built for different releases of CUDA"
    return ""


def _torchao(stock: Inventory) -> str:
    peft, other = stock.version("peft"), stock.version("torchao")
    if not peft or not other or not in_range(peft, ">=0.18.1") or in_range(other, ">=0.16"):
        return ""
    return f"peft {peft} refuses to add LoRA beside torchao {other} (it wants 0.16 or newer, or none)"


def _pynvml(stock: Inventory) -> str:
    for name in ("pynvml", "nvidia-ml-py3"):
        version = stock.version(name)
        if version and stock.get("nvidia-ml-py") and (name != "pynvml" or in_range(version, "<12")):
            return f"{name} {version} and nvidia-ml-py both bring the module pynvml: which one is taken is chance"
    return ""


def _ocp(stock: Inventory) -> str:
    whole, light = stock.version("cadquery-ocp"), stock.version("cadquery-ocp-novtk")
    if not whole or not light:
        return ""
    return f"cadquery-ocp {whole} and cadquery-ocp-novtk {light} both bring the module OCP, each over the other's files"


def _bitsandbytes(stock: Inventory) -> str:
    """bitsandbytes carries a library for each CUDA; one of the same major version is taken."""
    torch, other = stock.get("torch"), stock.get("bitsandbytes")
    if torch is None or other is None:
        return ""
    try:
        text = (torch.base / "torch" / "version.py").read_text(encoding="utf-8")
    except OSError:
        return ""
    cuda = re.search(r"^cuda\b[^=]*= '(\d+)\.(\d+)'", text, re.MULTILINE)
    shipped = [path.name for path in (other.base / "bitsandbytes").glob("libbitsandbytes_cuda*.so")]
    if cuda is None or not shipped or any(name.startswith(f"libbitsandbytes_cuda{cuda[1]}") for name in shipped):
        return ""
    return f"bitsandbytes {other.version} has no library for CUDA {cuda[1]}, which torch {torch.version} is built for"


def _lora(situation: Situation) -> bool:
    return situation.settings is None or situation.settings.lora.enabled


def _wants_bitsandbytes(situation: Situation) -> bool:
    return any(extra.name == "bitsandbytes" for extra in optional(situation))


KNOWN: tuple[Pair, ...] = (
    Pair(
        "torchvision of another torch",
        _torchvision,
        f"{pip('uninstall', 'torchvision')} (cadmllm does not use it; transformers imports it wherever it is)",
        "https://github.com/huggingface/diffusers/issues/9109, https://github.com/tenstorrent/tt-forge/pull/890",
    ),
    Pair(
        "torchao too old for peft",
        _torchao,
        f"{pip('uninstall', 'torchao')} (cadmllm does not use it)",
        "https://github.com/PrunaAI/pruna/pull/630, https://github.com/MakazhanAlpamys/Soup/issues/389",
        applies=_lora,
    ),
    Pair(
        "two modules pynvml",
        _pynvml,
        f"{pip('uninstall', 'pynvml nvidia-ml-py3')} && {pip_command('nvidia-ml-py', '>=12', reinstall=True)}",
        "https://github.com/XuehaiPan/nvitop/issues/44, https://github.com/rapidsai/ucxx/issues/434",
        level=Level.WARN,
    ),
    Pair(
        "two modules OCP",
        _ocp,
        f"{pip('uninstall', 'cadquery-ocp')} && {pip_command('cadquery-ocp-novtk', '>=8.0,<8.1', reinstall=True)}",
        "https://github.com/jdilla1277/agentcad/pull/14, https://github.com/gumyr/build123d/issues/1337",
    ),
    Pair(
        "bitsandbytes without this CUDA",
        _bitsandbytes,
        pip("install", "--upgrade bitsandbytes"),
        "bitsandbytes/cextension.py, get_cuda_bnb_library_path: no library of another major version is taken",
        applies=_wants_bitsandbytes,
    ),
)


def _again(name: str) -> str:
    return pip_command(name, "", reinstall=True)


def _rebuilt(name: str) -> str:
    if name == "flash-attn":
        command = pip("install", "--force-reinstall --no-deps --no-cache-dir --no-build-isolation flash-attn")
        return f"{command}; or --set model.attention=auto"
    return _again(name)


SIGNS: tuple[Sign, ...] = (
    # https://github.com/pytorch/pytorch/issues/157648, https://github.com/huggingface/diffusers/issues/9109
    Sign(
        r"torchvision::nms does not exist",
        "a torchvision that was built for another torch is in the way",
        lambda name: f"{pip('uninstall', 'torchvision')} (cadmllm does not use it)",
    ),
    # https://github.com/Dao-AILab/flash-attention/issues/1832
    Sign(r"undefined symbol: _ZNK?(2at|3c10|5torch)", "it was built for another torch", _rebuilt),
    # https://github.com/pydantic/pydantic-core/issues/1601, https://github.com/CEXT-Dan/PyRx/issues/539
    Sign(
        r"pydantic[-_]core version .* is incompatible|from 'pydantic_core'",
        "pydantic and pydantic-core are of different releases",
        lambda name: pip("install", "--force-reinstall pydantic"),
    ),
    # https://numpy.org/doc/stable/user/troubleshooting-importerror.html
    Sign(
        r"numpy\.dtype size changed|_ARRAY_API not found|compiled using NumPy 1\.x|numpy\.core\.multiarray failed to import",
        "it was built for another numpy",
        _again,
    ),
)


def check_pairs(situation: Situation) -> Outcome:
    """Packages that are known not to work together, and what packages declare to need."""
    stock = inventory(situation)
    findings = []
    for pair in KNOWN:
        text = pair.bad(stock) if pair.applies(situation) else ""
        if text:
            findings.append(Finding("E805", pair.level, "pairs", text, pair.remedy))
    told = {name for name in NEIGHBOURS if any(finding.message.startswith(f"{name} ") for finding in findings)}
    for clash in conflicts(situation):
        if clash.needing not in told:
            findings.append(Finding("E805", Level.WARN, "pairs", clash.text, clash.remedy))
    names = closure(stock, list(REQUIRED))
    return Outcome(f"{len(names)} distributions fit together", tuple(findings))


CHECKS = (
    Check(
        "pairs",
        "packages fit together: by what they declare to need, and by known bad pairs",
        ("E805",),
        check_pairs,
        needs_settings=False,
        group="packages",
    ),
)
