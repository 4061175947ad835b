"""`README.md` of a checkpoint folder: what it is, what made it, how good it is, how to use and to verify it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm import __version__
from cadmllm.train.environment import as_line
from cadmllm.train.progress import duration

if TYPE_CHECKING:
    from cadmllm.settings import Settings
    from cadmllm.train.curriculum import Stage

PROMPT = "A rectangular plate with four corner holes."
HUB_NAME = r"[\w.-]+/[\w.-]+"
EXAMPLES = {"point_cloud": "--pc part.npz", "image": "--image part.png"}  # what a person gives, by modality
HAVE = {"point_cloud": "a point cloud", "image": "views"}
FIRST_STAGE = {"points": 2, "images": 3}  # from which on a model has the branch
FILES = (
    ("`model.safetensors`", "what was trained: LoRA (or the whole language model), added tokens, projectors, trained encoders"),
    ("`model.json`", "what it was trained on: base, its fingerprint, vocabulary, LoRA and model settings"),
    ("`tokenizer.json` ...", "the base's tokenizer"),
    ("`settings.json`", "every setting (`origins.json`: where each that is no default came from)"),
    ("`curriculum.json`", "the stages, and where this one stands"),
    ("`data.json`", "how many ids, their hash, the fingerprint of the data set's index"),
    ("`environment.json`", "versions, system, device"),
    ("`training_metadata.json`", "the figures"),
    ("`manifest.json`", "every file with its size and SHA-256"),
)


def model_card(
    settings: Settings, stage: Stage, meta: Mapping[str, Any], data: Mapping[str, Any], environment: Mapping[str, Any]
) -> str:
    """The card as Markdown, with the front matter that model hubs read.

    Args:
        settings, stage: of the run.
        meta: `training_metadata.json`.
        data: `data.json`.
        environment: `environment.json`.
    """
    sections = [
        _front(settings, stage),
        _title(settings, stage, meta),
        _use(stage),
        _figures(stage, meta),
        _training(settings, stage, meta, data, environment),
        _parts(settings, stage),
        "## Files\n\n" + _table(("file", "holds"), FILES),
        "## Verify\n\nEvery file is hashed when it is written and compared when it is read (E503 names the one that "
        "differs). By hand:\n\n"
        "```\npython -c \"from cadmllm.models.stages import verify; verify('.')\" && echo whole\n```",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front(settings: Settings, stage: Stage) -> str:
    tags = ["cad", "text-to-cad", "parametric-cad", *(["lora"] if settings.lora.enabled else [])]
    tags += [{"point_cloud": "point-cloud", "image": "image-to-cad"}[part] for part in stage.modalities if part != "text"]
    lines = ["---", "library_name: cadmllm"]
    if re.fullmatch(HUB_NAME, settings.model.llm) and not Path(settings.model.llm).is_dir():
        lines += [
            f"base_model: {settings.model.llm}",
            f"base_model_relation: {'adapter' if settings.lora.enabled else 'finetune'}",
        ]
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _title(settings: Settings, stage: Stage, meta: Mapping[str, Any]) -> str:
    inputs = ", ".join(stage.modalities).replace("_", " ")
    step, total = meta["step"], meta["total_steps"]
    unfinished = (
        ""
        if meta.get("finished") or step >= total
        else f"\n\n**A save in the middle of the stage (step {step:,} of {total:,}).** "
        f"`cadmllm train stage{stage.number} --resume` goes on from it."
    )
    return (
        f"# CAD-MLLM, {stage.name} (from {_base(settings)})\n\n"
        f"Reads {inputs}; writes an editable, parametric CAD program (sketches and extrusions) as a sequence of CAD tokens, "
        f"which a CAD kernel builds into a solid (STEP).\nMade by cadmllm {__version__} on {meta['made_at'][:10]}.{unfinished}"
    )


def _use(stage: Stage) -> str:
    more = [option for part, option in EXAMPLES.items() if part in stage.modalities]
    lines = [f'cadmllm infer --checkpoint . --prompt "{PROMPT}"', *(f"cadmllm infer --checkpoint . {option}" for option in more)]
    fence = "\n".join(["```", *lines, "```"])
    return (
        f"## Use\n\nIn this folder (with `pip install cadmllm`):\n\n{fence}\n\n"
        "Each writes `program.json`, `model.step` and `model.png`. To train on from here: "
        f"`cadmllm train stage{min(3, stage.number + 1)} --resume_from_ckpt FOLDER`."
    )


def _figures(stage: Stage, meta: Mapping[str, Any]) -> str:
    shown, before, after = meta.get("shown", {}), meta.get("baseline", {}), meta.get("val_loss", {})
    total = sum(shown.values())
    names = dict.fromkeys([*stage.reached, *shown, *(name for name in after if name != "all")])  # text is always measured
    rows = []
    for name in names:
        seen = f"{shown.get(name, 0) / total:.1%}" if total else "-"
        rows.append((name, _asked(stage, name), seen, _loss(before, name), _loss(after, name)))
    if "all" in after:
        rows.append(("all", "", "", _loss(before, "all"), _loss(after, "all")))
    text = "## Figures\n\n" + _table(("combination", "asked for", "shown", "held-out loss before", "after"), rows)
    text += f"\n\nLoss a supervised token. In training: {meta['loss_begin']:.4f} at first, {meta['loss_end']:.4f} at last."
    if judged := meta.get("judged"):
        solids = [(name, f"{value:.1%}") for name, value in judged.items()]
        text += "\n\nAnswers to held-out prompts, built by the CAD kernel:\n\n" + _table(("prompts", "valid solids"), solids)
    return text


def _loss(losses: Mapping[str, float], name: str) -> str:
    return f"{losses[name]:.4f}" if name in losses else "-"


def _asked(stage: Stage, name: str) -> str:
    """The share that a combination was to have, at the stage's beginning and end."""
    begin, end = (stage.probabilities_at(share).get(name, 0.0) for share in (0.0, 1.0))
    return f"{begin:.0%}" if begin == end else f"{begin:.0%} to {end:.0%}"


def _training(
    settings: Settings, stage: Stage, meta: Mapping[str, Any], data: Mapping[str, Any], environment: Mapping[str, Any]
) -> str:
    train, lora = settings.train, settings.lora
    left_out = ", ".join(f"{code} x {count}" for code, count in data["left_out"].items())
    have = ", ".join(f"{data['modalities'][name]:,} with {what}" for name, what in HAVE.items() if name in stage.modalities)
    sizes: Counter[str] = Counter()
    for group in meta["groups"]:
        sizes[_group(group)] += group["parameters"]
    window = train.batch_size * train.accumulation
    epochs = meta["step"] * window / max(1, data["train"]["ids"])
    adapts = f"LoRA r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g}" if lora.enabled else "the whole language model"
    rows = [
        ("started from", f"`{Path(meta['started_from']).name}`" if meta["started_from"] else "the base model"),
        ("data", f"{data['train']['ids']:,} ids{f' ({have})' if have else ''}, {data['held_out']['ids']:,} held out"),
        ("left out", left_out),
        ("took", f"{meta['step']:,} steps of {window} samples ({epochs:.2f} epochs), {duration(meta['seconds'])}"),
        ("learned from", f"{meta['supervised_tokens']:,} supervised tokens"),
        ("ended early", meta.get("ended_early") or ""),
        ("modality dropout", f"{train.modality_dropout:g}" if train.modality_dropout else ""),
        ("adapts", adapts),
        ("trained values", f"{sizes.total():,}: {', '.join(f'{name} {count:,}' for name, count in sizes.items())}"),
        ("peak rates", ", ".join(dict.fromkeys(f"{_group(group)} {group['lr']:.3g}" for group in meta["groups"]))),
        ("schedule", f"{train.warmup_steps} warmup steps, cosine to {train.min_lr_share:.0%}; clip {train.clip:g}"),
        ("precision", f"{settings.dtype}{', base in NF4' if settings.model.quantization == 'nf4' else ''}; {train.optimizer}"),
        ("longest sample", f"{train.max_seq_length:,} tokens"),
        ("seed", str(train.seed)),
        ("with", as_line(dict(environment))),
    ]
    return "## Training\n\n" + _table(("", ""), [row for row in rows if row[1]])


def _parts(settings: Settings, stage: Stage) -> str:
    """What the folder does not hold, and under which terms it comes."""
    model = settings.model
    parts = [f"the base model {_base(settings)}" if settings.lora.enabled else f"the configuration of {_base(settings)}"]
    if not model.train_encoders:
        if stage.number >= FIRST_STAGE["points"] and model.points_encoder == "michelangelo":
            parts.append("the Michelangelo point encoder (its authors' code is under GPL-3.0)")
        if stage.number >= FIRST_STAGE["images"] and model.image_encoder != "tiny":
            parts.append(f"the image encoder `{_name(model.image_encoder)}`")
    return (
        f"## Terms\n\nNot in this folder, and loaded from where it came: {', '.join(parts)}. The terms of what it was made from "
        "(base, encoders, data) go along with the weights: see the base's model card and the data set's licence before passing "
        "them on."
    )


def _base(settings: Settings) -> str:
    return "cadmllm's bundled tiny base" if settings.model.llm == "tiny" else f"`{_name(settings.model.llm)}`"


def _name(source: str) -> str:
    """A hub name as it is; of a folder its last part alone (the rest is nobody's business)."""
    return Path(source).name if Path(source).expanduser().is_absolute() else source


def _group(group: Mapping[str, Any]) -> str:
    return f"{group['component']} ({group['branch']})" if group.get("branch") else group["component"]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
