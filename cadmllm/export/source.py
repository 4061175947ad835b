"""A checkpoint and its base, opened for an export: checked against each other by name, shape and fingerprint, not loaded."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export.base import Base, find_base, fingerprint_of_files
from cadmllm.export.tensors import EXACT, Damaged, Tensors
from cadmllm.models.record import WEIGHTS, check_base, check_vocabulary, incomplete, read_record, unfit
from cadmllm.settings import Settings

__all__ = ["Base", "Source", "Tensors", "find_base", "open_source"]
INPUT_ROWS, OUTPUT_ROWS = "rows.input", "rows.output"
BRANCHES = {"points": 2, "images": 3}  # the stage from which a checkpoint holds them
PARTS = ("encoder", "projector")


@dataclass(slots=True)
class Source:
    """What an export is made of.

    Attributes:
        folder: the checkpoint.
        record: its model.json.
        state: its tensors: 'llm.*' (LoRA, or the whole decoder), 'rows.*', 'points.*', 'images.*'.
        base: the model it was trained on.
        settings: under which `load_model(folder, settings)` gives the model that the export is compared with: the settings given,
            with the base that was found, in 16 or 32 bit.
        notes: what has to be said of this export; added to while it is made.
    """

    folder: Path
    record: dict[str, Any]
    state: Tensors
    base: Base
    settings: Settings
    notes: list[str] = field(default_factory=list)

    @property
    def stage(self) -> int:
        """1 to 3."""
        return self.record["stage"]

    @property
    def lora(self) -> bool:
        """Whether LoRA was trained; else the whole decoder was."""
        return bool(self.record["lora"]["enabled"])

    @property
    def scale(self) -> float:
        """alpha / r: what the product of LoRA's matrices is multiplied by."""
        return self.record["lora"]["alpha"] / self.record["lora"]["r"]

    @property
    def text_size(self) -> int:
        """Items of the base's tokenizer; item k of `ADDED` has id text_size + k."""
        return self.base.text_size

    @property
    def rows(self) -> int:
        """Rows of the resized matrices: the base's, or more where the added items need them."""
        return max(self.base.layout.rows, self.text_size + len(ADDED))

    @property
    def width(self) -> int:
        """Hidden size H."""
        return self.base.layout.width

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the merged model by its name, in the model's order, resized and untied."""
        layout = self.base.layout
        resized = dict.fromkeys((layout.input, layout.output), (self.rows, self.width))
        return {name: resized.get(name, shape) for name, shape in layout.shapes.items()}

    def own(self, name: str) -> str:
        """What the checkpoint calls a tensor of the inner decoder, if it were trained as a whole."""
        return "llm." + name.removeprefix(self.base.layout.prefix)

    def pair(self, name: str) -> tuple[str, str] | None:
        """What the checkpoint calls LoRA's two matrices around a linear layer's weight, `A` and `B`; None where it has none."""
        if not self.lora or name not in self.base.layout.linears:
            return None
        own = self.own(name).removesuffix(".weight")
        return f"{own}.lora_A.weight", f"{own}.lora_B.weight"


def open_source(folder: Path, settings: Settings, notes: list[str] | None = None) -> Source:
    """Open a checkpoint for an export. Its manifest is the caller's to verify (`models.stages.verify`): that reads every byte.

    Args:
        folder: of a stage or of a step save.
        settings: resolved; `model.llm` is taken where the recorded base is gone or cannot be merged into.
        notes: a list that takes up what has to be said of this export.

    Raises:
        CadmllmError: E503 for a broken checkpoint; E504 naming the tensor that is missing, unknown or of another shape, or the
            part of the base that is another one; E724 for a base that is missing, quantised or pickled; E501, E505, E506 for
            a broken one.
    """
    folder = Path(folder)
    notes = [] if notes is None else notes
    record = read_record(folder)
    check_vocabulary(record, str(folder))
    _check_record(record, str(folder))
    try:
        state = Tensors([folder / WEIGHTS])
    except Damaged as error:
        raise incomplete(folder, f"holds a broken {WEIGHTS}: it {error.why}") from error
    chosen = settings.model_copy(deep=True)
    chosen.lora.enabled, chosen.model.quantization = bool(record["lora"]["enabled"]), "none"
    base = _base(folder, record, chosen, notes)
    source = Source(folder, record, state, base, chosen, notes)
    _check_tensors(source)
    check_base(record, fingerprint_of_files(base), chosen, str(folder))
    _say(source)
    return source


def _check_record(record: dict[str, Any], where: str) -> None:
    lora, model = record["lora"], record["model"]
    good = isinstance(lora.get("enabled"), bool) and isinstance(model["llm"], str)
    if good and lora["enabled"]:
        good = all(isinstance(lora.get(name), int) and lora[name] > 0 for name in ("r", "alpha"))
    if not good:
        raise unfit(where, "its model.json does not say how LoRA was set, or on which base", "use the version that made it")


def _base(folder: Path, record: dict[str, Any], settings: Settings, notes: list[str]) -> Base:
    """The recorded base; where that is gone or of no use, the one that the settings name. Says so."""
    recorded, named = record["model"]["llm"], settings.model.llm
    again = f"cadmllm export --checkpoint {shlex.quote(str(folder))} --to {settings.export.to}"

    def find(name: str) -> Base:
        settings.model.llm = name
        return find_base(name, again, lambda mark: check_base(record, mark, settings, str(folder)))

    try:
        return find(recorded)
    except CadmllmError as error:
        if error.code != "E724" or _same(named, recorded):
            raise
        first = error
    try:
        base = find(named)
    except CadmllmError as error:
        if error.code not in ("E724", "E504"):
            raise
        message = f"{first.message}; nor does model.llm={named} do: {error.message}"
        raise CadmllmError(first.code, message, first.remedy) from error
    notes.append(f"the base is {named} (model.llm): {first.message}")
    return base


def _same(name: str, other: str) -> bool:
    return name == other or (Path(name).is_dir() and Path(name).resolve() == Path(other).resolve())


def _wanted(source: Source) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What the checkpoint must hold of language model and added vocabulary."""
    layout = source.base.layout
    yield INPUT_ROWS, (len(ADDED), source.width)
    yield OUTPUT_ROWS, (CAD_SIZE, source.width)
    if not source.lora:
        yield from ((f"llm.{name}", layout.shapes[layout.prefix + name]) for name in layout.decoder)
    for name in layout.linears:
        pair = source.pair(name)
        if pair is not None:
            rank, (outputs, inputs) = source.record["lora"]["r"], layout.shapes[name]
            yield from zip(pair, ((rank, inputs), (outputs, rank)), strict=True)


def _check_tensors(source: Source) -> None:
    """Names, shapes and types, of the checkpoint and of its base."""
    where, state, wanted = str(source.folder), source.state, dict(_wanted(source))
    for name, shape in wanted.items():
        if name not in state:
            raise unfit(where, f"it lacks {name}, which this model trains")
        if state.shape(name) != shape:
            raise unfit(where, f"{name} has shape {state.shape(name)}, and {shape} here")
    for name in state.names():
        branch, _, part = name.partition(".")
        if name not in wanted and (branch not in BRANCHES or part.partition(".")[0] not in PARTS):
            raise unfit(where, f"it holds {name}, which this model does not have")
        if state.dtype(name) not in EXACT:
            raise unfit(where, f"{name} is of type {state.kind(name)}, and checkpoints are kept in 16 or 32 bit")
    for branch, stage in BRANCHES.items():
        if source.stage >= stage and not any(name.startswith(f"{branch}.projector.") for name in state.names()):
            raise unfit(where, f"it is of stage {source.stage} and lacks {branch}.projector")
    _check_base_tensors(source)


def _check_base_tensors(source: Source) -> None:
    base = source.base
    again = f"cadmllm export --checkpoint {shlex.quote(str(source.folder))} --to {source.settings.export.to}"
    for name in base_names(source):
        if name not in base.tensors and name == base.layout.output:
            raise CadmllmError(
                "E724",
                f"the base model {base.name} lacks its output matrix {name}: it was saved without, which training does not need",
                f"{again} --set model.llm=FOLDER, the whole model as a causal language model",
            )
        if name not in base.tensors:
            raise _broken_base(base, f"its weights lack {name}")
        if base.tensors.shape(name) != base.layout.shapes[name]:
            shape = base.tensors.shape(name)
            raise _broken_base(base, f"{name} has shape {shape}, and its config.json says {base.layout.shapes[name]}")
        if base.tensors.dtype(name) not in EXACT:
            raise CadmllmError(
                "E724",
                f"the base model {base.name} is quantised: {name} is of type {base.tensors.kind(name)}",
                f"{again} --set model.llm=NAME_OR_FOLDER (the same model in 16 bit)",
            )


def base_names(source: Source) -> list[str]:
    """The tensors that an export takes from the base: all, or after training as a whole an untied output matrix alone."""
    layout = source.base.layout
    decoder = {layout.prefix + name for name in layout.decoder}
    tied = {layout.output} if layout.tied else set()
    return [name for name in layout.shapes if name not in tied and (source.lora or name not in decoder)]


def _broken_base(base: Base, why: str) -> CadmllmError:
    return CadmllmError(
        "E506",
        f"the base model in {base.folder}: {why}",
        "get all its files from one place: `hf download NAME --force-download`, or copy them from the same model",
    )


def _say(source: Source) -> None:
    base, notes = source.base, source.notes
    if source.record["model"].get("quantization") == "nf4":
        notes.append(
            "the run held the base in 4 bit (nf4, QLoRA); the export is made of the base in 16 or 32 bit, as its files have it,"
            " and compared with that base and the adapter: answers of the 4-bit model differ by its rounding"
        )
    if not source.lora:
        taken = "config, tokenizer" + ("" if base.layout.tied else f" and {base.layout.output} (its text rows)")
        notes.append(f"the run trained the whole language model: of the base come {taken}")
    if base.layout.tied:
        notes.append("the base ties its input and output matrices; the export has two, as the added rows differ")
    if base.unused:
        notes.append(
            f"of the base {len(base.unused)} tensors belong to no causal language model and stay out: {base.unused[0]}, ..."
        )
