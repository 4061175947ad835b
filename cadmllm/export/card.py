"""`README.md` of an export: a model card that a stranger can work from, with the script that loads the model.

Only what is known is said; what is not known is written as unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm import __version__
from cadmllm.cad.vocabulary import END
from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.export import terms
from cadmllm.export.adapter import public_name
from cadmllm.export.figures import curriculum, evaluation, find_evaluation, losses, own_data, training_data
from cadmllm.export.markdown import code, fenced, plain, table
from cadmllm.export.papers import folders_of, longest_answer, named, public_settings, read_json, without_folders
from cadmllm.export.scripts import TEXT, script
from cadmllm.models.stages import STAGE_NAMES

if TYPE_CHECKING:
    from cadmllm.export.source import Source

CARD = "README.md"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
RELATIONS = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
NEEDS = {"adapter": "torch transformers peft jinja2", "merged": "torch transformers jinja2", "gguf": "llama-cpp-python"}
READS = {1: "text", 2: "text and point clouds", 3: "text, point clouds and images"}
WHAT = {
    "adapter": "A LoRA adapter for PEFT, with the resized input and output matrices of its base model",
    "merged": "A plain transformers model: what was trained is merged into the base, the CAD vocabulary stands in its matrices",
    "gguf": "The text part as one GGUF file for llama.cpp",
}
FILES = {
    "adapter": (
        ("`adapter_config.json`, `adapter_model.safetensors`", "LoRA, and the resized input and output matrices"),
        ("`generation_config.json`", "greedy answers of CAD items alone, ended by the CAD end item"),
    ),
    "merged": (
        ("`config.json`, `model*.safetensors`", "the model"),
        ("`generation_config.json`", "greedy answers of CAD items alone, ended by the CAD end item"),
    ),
    "gguf": (
        ("`*.gguf`", "the model, its vocabulary and its chat template"),
        ("`cad.gbnf`", "the grammar of answers for llama.cpp"),
    ),
}
LABELS = {
    "computed": "both models computed in",
    "reference": "compared with",
    "loader": "the export was read by",
    "lora": "distance without LoRA",
    "rows": "rows of the matrices compared value by value",
    "gguf": "read back value by value",
}
PARTS = (
    ("`projectors.safetensors`", "what brings features of clouds and images into the language model's width"),
    ("`encoders.safetensors`", "encoders that were trained with the model"),
)
PAPERS = (
    ("`tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`", "the base's tokenizer with the added items"),
    ("`training_metadata.json`", "how it was trained, on how much data, with which figures"),
    ("`cadmllm.json`", "what it was exported from, and how the two were compared"),
    ("`manifest.json`", "every file with its size and SHA-256"),
)


def write_card(source: Source, folder: Path, kind: str, dtype: str, checked: Mapping[str, Any]) -> Path:
    """Write `README.md`.

    Args:
        source: the checkpoint.
        folder: of the export; its other files are there, but for cadmllm.json and manifest.json.
        kind: 'adapter', 'merged' or 'gguf'.
        dtype: of the weights.
        checked: figures of the comparison with the checkpoint, as cadmllm.json has them.
    """
    sections = [
        _front(source, kind),
        _title(source, kind, dtype),
        _use(source, folder, kind, dtype),
        _purpose(source),
        "## Training data\n\n" + training_data(source),
        "## Training\n\n" + curriculum(source),
        "## Figures\n\n" + losses(source) + "\n\n" + evaluation(find_evaluation(source)),
        _terms(source),
        _checked(source, checked),
        _files(folder, kind),
    ]
    path = folder / CARD
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def _front(source: Source, kind: str) -> str:
    """The YAML that model hubs read; the base is named where it is one of the hub."""
    tags = ["cad", "text-to-cad", "parametric-cad", *(["lora"] if kind == "adapter" else [])]
    if kind != "gguf":
        tags += [*(["point-cloud"] if source.stage > 1 else []), *(["image-to-cad"] if source.stage > 2 else [])]
    lines = [f"library_name: {LIBRARIES[kind]}", "pipeline_tag: text-generation"]
    if HUB_NAME.fullmatch(_base_name(source)):
        lines += [f"base_model: {_base_name(source)}", f"base_model_relation: {RELATIONS[kind]}"]
    if _ours(source):
        lines += ["license: apache-2.0"]
    else:
        lines += ["license: other", "license_name: see-base-and-data"]
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _ours(source: Source) -> bool:
    """Whether base, encoders and data all come with cadmllm, under its own licence; only then is it the model's, too."""
    data, model = read_json(source.folder / "data.json"), source.record["model"]
    if data is None or source.base.name != "tiny":
        return False
    foreign = (source.stage > 1 and model["points_encoder"] == "michelangelo") or (
        source.stage > 2 and model["image_encoder"] != "tiny"
    )
    return not foreign and bool(own_data(data))


def _title(source: Source, kind: str, dtype: str) -> str:
    reads = READS[source.stage]
    more = "" if source.stage == 1 or kind != "gguf" else " (this file: text alone)"
    return (
        f"# CAD-MLLM, {STAGE_NAMES[source.stage]}, from {_base(source)}\n\n"
        f"{WHAT[kind]}, in {dtype}.\nThe model reads {reads}{more} and writes an editable, parametric CAD program (sketches and "
        "extrusions) as a sequence of CAD tokens, which a CAD kernel builds into a solid (STEP).\n"
        f"Exported by cadmllm {__version__} from {code(source.folder.resolve().name)}."
    )


def _use(source: Source, folder: Path, kind: str, dtype: str) -> str:
    positions = source.base.config.get("max_position_embeddings")
    written = script(
        kind,
        dtype,
        base=_base_name(source),
        rows=source.rows,
        longest=longest_answer(source),
        context=min(4096, positions) if isinstance(positions, int) and positions > 0 else 4096,
        gguf=next((path.name for path in sorted(folder.glob("*.gguf"))), "model.gguf"),
    )
    local = kind == "adapter" and not HUB_NAME.fullmatch(_base_name(source))
    note = "`base` is the folder that holds the base model: put in where yours lies. " if local else ""
    return (
        f"## Use\n\nWithout cadmllm, in this folder, after `pip install {NEEDS[kind]}`. {note}It runs no code of this folder.\n\n"
        + fenced(written, "python")
        + "\n\n"
        + _decoding(source, kind)
        + "\n\n"
        + _commands(source, kind)
    )


def _decoding(source: Source, kind: str) -> str:
    if kind == "gguf":
        return (
            "It prints the items of a CAD program. `cad.gbnf` admits whole programs only, so what ends with `<cad:end>` parses."
            " Saved as `answer.txt` it becomes a solid by `cadmllm convert answer.txt part.step`."
        )
    first, last = source.text_size, source.text_size + CAD_SIZE - 1
    return (
        "It prints the items of a CAD program, written greedily and without the grammar: an answer may not parse. Saved as "
        "`answer.txt` it becomes a solid by `cadmllm convert answer.txt part.step`. Answers hold CAD items alone because "
        "`generation_config.json` suppresses all others, whose scores were never trained; a server that does not read it has to "
        f"be told that ids {first} to {last} are allowed and that {first + END} ends an answer. Batches are padded on the left."
    )


def _commands(source: Source, kind: str) -> str:
    if kind == "gguf":
        return (
            "cadmllm itself does not load GGUF files: it answers from the checkpoint, from a merged model or from an adapter"
            " (`cadmllm export --to merged`)."
        )
    begin = "cadmllm infer --checkpoint ."
    if kind == "adapter" and not HUB_NAME.fullmatch(_base_name(source)) and source.base.name != "tiny":
        begin += " --set model.llm=FOLDER_OF_THE_BASE"
    lines = [f'{begin} --prompt "{TEXT}"']
    if source.stage > 1:
        lines.append(f"{begin} --pc part.npz       # or .ply .pcd .xyz .stl .obj .glb .3mf")
    if source.stage > 2:
        lines.append(f"{begin} --image part.png")
    alone = "\n\nClouds and images need the projectors and encoders, which other tools do not load." if source.stage > 1 else ""
    told = (
        "With cadmllm (`pip install cadmllm`), which keeps to the grammar, has a CAD kernel build the answer, and tries again"
        " where that fails; each line writes `program.json`, `model.step` and `model.png`:\n\n"
    )
    return told + fenced("\n".join(lines)) + alone


def _purpose(source: Source) -> str:
    return (
        "## Intended use\n\n"
        "Drafts of simple mechanical parts, to be looked at and edited by a person; research on generating CAD.\n\n"
        "Not for:\n\n"
        "* **dimensions that matter.** Captions of the usual data sets carry none; sizes are a guess, and coordinates lie on a"
        " grid of 16,384 steps over the longest side. Measure what comes out.\n"
        "* **safety-critical parts**, or any part that is made without somebody having checked it: nothing here knows loads,"
        " materials, tolerances or standards.\n"
        "* **what the language cannot say**: programs are sketches (lines, arcs, circles) and extrusions; no fillets,"
        " revolutions, sweeps, threads, drafts or assemblies.\n"
        "* **chat or general text**: only CAD items were trained; the base model's abilities were not kept.\n"
        "* **commercial use, before the terms below were read**: some data of this field is for non-commercial use alone."
    )


def _terms(source: Source) -> str:
    model = public_settings(source.record["model"])
    rows = [(f"base model {_base(source)}", plain(terms.of_base(_base_name(source) if source.base.name != "tiny" else "tiny")))]
    rows += [(plain(name), plain(what)) for name, what in terms.of_encoders(model, source.stage)]
    known = [(f"data, if {name}", plain(what)) for name, what in terms.DATA]
    return (
        "## Terms\n\nWeights carry the terms of what they were made of. As far as known (looked up on 2026-11-23; no legal"
        " advice):\n\n"
        + table(("part", "terms"), rows + known)
        + "\n\ncadmllm itself: Apache-2.0. A folder's name does not tell where data came from: whoever passes this model on has"
        " to know it."
    )


def _checked(source: Source, checked: Mapping[str, Any]) -> str:
    known = named(dict(checked))
    said, prompts = known.pop("said", None), known.pop("prompts", None)
    parts = [
        "## How the export was checked",
        "The checkpoint and this folder answered the same fixed prompts; an export whose logits are further apart than is"
        " allowed is not written." + (f"\n{plain(said)}." if said else ""),
    ]
    if isinstance(prompts, Mapping) and prompts:
        named_rows = {**prompts, **{f"**{name}**": known.pop(name) for name in ("worst", "allowed") if name in known}}
        columns = list(dict.fromkeys(key for row in named_rows.values() for key in row))
        rows = [
            (name if name.startswith("**") else plain(name), *(_figure(row[key]) if key in row else "" for key in columns))
            for name, row in named_rows.items()
        ]
        parts.append(table(("prompt", *columns), rows))
        parts.append(
            "Distance: largest difference of a CAD item's logit over the spread (standard deviation) of the checkpoint's."
            " Divergence: Kullback-Leibler, nats. Agreement: share of the checkpoint's greedy answer, under the grammar, that is"
            " the same."
        )
    if known:
        told = {LABELS.get(name, name): value for name, value in known.items()}
        parts.append(table(("", ""), [(plain(name), value) for name, value in _leaves(told)]))
    if source.notes:
        folders = folders_of(source)
        parts.append("Notes:\n\n" + "\n".join(f"* {plain(without_folders(note, folders))}" for note in source.notes))
    parts.append(
        "Whether every byte is still the one that was written: `cadmllm export --verify .`, or compare with `manifest.json`"
        " (SHA-256 of each file)."
    )
    return "\n\n".join(parts)


def _leaves(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Every figure under its names."""
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{name}, {key}" if name else str(key))]
    if isinstance(value, (list, tuple)):
        return [leaf for place, inner in enumerate(value, 1) for leaf in _leaves(inner, f"{name} {place}")]
    return [] if value is None else [(name.replace("_", " "), _figure(value))]


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else plain(value)


def _files(folder: Path, kind: str) -> str:
    rows = [*FILES[kind], *(row for row in PARTS if (folder / row[0].strip("`")).is_file()), *PAPERS]
    items = f"{CAD_SIZE:,} CAD items and {len(ADDED) - CAD_SIZE} placeholders, in this order, behind the base's own items"
    return f"## Files\n\n{table(('file', 'holds'), rows)}\n\nAdded to the tokenizer: {items}."


def _base(source: Source) -> str:
    return "cadmllm's bundled tiny base" if source.base.name == "tiny" else code(_base_name(source))


def _base_name(source: Source) -> str:
    """What the base is called outside this machine: its hub name, or the last part of its folder."""
    return public_name(source.base.name)
