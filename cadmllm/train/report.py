"""What is said about a stage: the derived figures with their reasons at its start, its metadata and model card at its end."""

from __future__ import annotations

import json
import platform
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cadmllm import __version__
from cadmllm.corpus.fit import FRAME, feature_tokens, longest_target
from cadmllm.settings import Settings
from cadmllm.train.curriculum import Stage, Start
from cadmllm.train.optim import ENCODER_STAGE, multiplier

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.train.session import Session, StageData
    from cadmllm.train.windows import Windows

PARTS = {"point_cloud": ("point cloud", "points"), "image": ("image", "img")}  # name for people, setting of its folder


def steps_line(settings: Settings, stage: Stage, samples: int) -> tuple[int, str]:
    """Optimizer steps of a stage over `samples` samples, and how they come about."""
    train = settings.train
    window = train.batch_size * train.accumulation
    per_epoch = -(-samples // window)
    steps = per_epoch * stage.epochs
    text = f"{stage.epochs} epochs x {per_epoch} ({samples} samples / {window} a step)"
    if train.max_steps and train.max_steps < steps:
        return train.max_steps, f"{train.max_steps} (train.max_steps; {text} would be {steps})"
    return steps, f"{steps} = {text}"


def plan_lines(settings: Settings, stage: Stage, start: Start, data: StageData, windows: Windows) -> list[str]:
    """The part of the start report that needs no model (all of `--dry-run`)."""
    train = settings.train
    total, steps = steps_line(settings, stage, len(data.train_ids))
    codes = Counter(problem.code for problem in data.left_out)
    out = f"; left out {len(data.left_out)} ({', '.join(f'{c} x {n}' for c, n in codes.most_common())})" if codes else ""
    features, longest = feature_tokens(settings, stage.reached), longest_target(settings, stage.reached)
    room = f"{longest} tokens a target = {train.max_seq_length} less {features} features, {FRAME} for the prompt"
    missing, looked = windows.expected_fallbacks()
    fallbacks = f"; {missing} of {looked} draws cannot show all of it and fall back" if missing else ""
    components = ("llm", "rows", "projectors") if stage.number >= ENCODER_STAGE else ("llm", "rows")
    rates = ", ".join(f"{name} {stage.lr * multiplier(name, train):.3g}" for name in components)
    window = train.batch_size * train.accumulation
    warmup = f"warmup {train.warmup_steps} steps from 1/{train.warmup_steps}, then" if train.warmup_steps else "no warmup,"
    return [
        f"stage {stage.number} ({stage.name})",
        f"  samples    {len(data.train_ids)} to train on, {len(data.val_ids)} held out{out}",
        f"  room       {room}",
        f"  steps      {steps}",
        f"  batch      {train.batch_size} a micro-batch x {train.accumulation} accumulated = {window} samples a step"
        " (cut finer where that saves padding)",
        f"  shows      {mix_line(settings, stage)}{fallbacks}",
        f"  rates      {rates}; {warmup} cosine to {train.min_lr_share:.0%}",
        f"  starts at  {start.checkpoint or 'the base model ' + settings.model.llm} ({start.reason})",
        f"  ends in    {stage.folder}",
    ]


def mix_line(settings: Settings, stage: Stage) -> str:
    """What a stage shows: the share of each combination, where it moves to, and modality dropout."""
    end = stage.probabilities_end or stage.probabilities
    shares = [(name, stage.probabilities.get(name, 0.0), end.get(name, 0.0)) for name in stage.reached]
    text = ", ".join(f"{name} {first:.0%}" + ("" if first == last else f" to {last:.0%}") for name, first, last in shares)
    dropout = settings.train.modality_dropout
    shown = [part.replace("_", " ") for part in stage.modalities if part != "text"]
    return text + (f"; {' and '.join(shown)} dropped with probability {dropout:g} each" if dropout and shown else "")


def warnings(settings: Settings, stage: Stage, data: StageData, windows: Windows) -> list[str]:
    """What will probably disappoint, each with what to do."""
    found = []
    have = windows.dataset.modality_counts(data.train_ids)
    for part in stage.modalities:
        if part in PARTS and not have[part]:
            name, key = PARTS[part]
            found.append(
                f"no training sample has a {name}: stage {stage.number} teaches the model nothing about it "
                f"(make them: cadmllm data prepare, or name their folder: --set data.{key}=FOLDER)"
            )
    warmup, total = settings.train.warmup_steps, windows.total
    if warmup > total:
        found.append(
            f"warmup_steps {warmup} is longer than the {total} steps of stage {stage.number}: the rate never gets beyond "
            f"{total / warmup:.0%} (--set train.warmup_steps={max(1, total // 10)})"
        )
    return found + _validation_warnings(settings, stage, data, total)


def _validation_warnings(settings: Settings, stage: Stage, data: StageData, total: int) -> list[str]:
    """What was asked of held-out samples and cannot be had."""
    train, found = settings.train, []
    asked = {
        f"stages.{stage.number}.patience": stage.patience,
        "train.val_steps": train.val_steps,
        "train.sample_steps": train.sample_steps,
        "train.judge_samples": train.judge_samples,
    }
    named = " and ".join(name for name, value in asked.items() if value)
    if named and not data.val_ids:
        found.append(f"no id is held out: {named} cannot do anything (--set data.val_share=0.05, or --set data.val=IDS.txt)")
    elif stage.patience and stage.patience * train.val_steps >= total:
        found.append(
            f"stage {stage.number} has {total} steps: {stage.patience} validations every {train.val_steps} steps cannot end it "
            f"earlier (--set train.val_steps={max(1, total // (4 * stage.patience))})"
        )
    return found


def announce(session: Session, console: Console) -> None:
    """Print what was derived for a stage, and why, before its first step."""
    for line in plan_lines(session.settings, session.stage, session.start, session.data, session.windows):
        console.note(line)
    sizes: Counter[str] = Counter()
    for info in session.infos:
        sizes[info.component] += info.parameters
    everything = sum(parameter.numel() for parameter in session.model.parameters())
    trained = sum(sizes.values())
    parts = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
    console.note(f"  trains     {trained:,} of {everything:,} parameters ({trained / everything:.1%}): {parts}")
    dtype = session.settings.dtype
    precision = dtype if dtype == "float32" else f"{dtype} autocast, trained parameters in float32"
    console.note(f"  computes   {precision}, on {session.engine.device}")
    if session.model.fresh:
        console.note(f"  new        {', '.join(session.model.fresh)} start fresh: {session.start.checkpoint} has none")
    for text in warnings(session.settings, session.stage, session.data, session.windows):
        console.warn(text)
    for problem in session.data.left_out[:3]:
        console.warn(f"left out {problem.code} {problem.message}")
    if len(session.data.left_out) > 3:
        console.warn(f"... and {len(session.data.left_out) - 3} more (cadmllm data check {session.settings.data.root})")


def metadata(session: Session, step: int, figures: dict[str, Any]) -> dict[str, Any]:
    """`training_metadata.json`: what was trained, from what, on what, to what."""
    import torch

    return {
        "stage": session.stage.number,
        "name": session.stage.name,
        "step": step,
        "total_steps": session.windows.total,
        "epochs": session.stage.epochs,
        "started_from": str(session.start.checkpoint) if session.start.checkpoint else None,
        "base": session.settings.model.llm,
        "samples": len(session.data.train_ids),
        "left_out": dict(Counter(problem.code for problem in session.data.left_out)),
        "probabilities": session.stage.probabilities,
        "probabilities_end": session.stage.probabilities_end,
        "cached_features": session.cached.as_dict() if session.cached else None,
        "groups": [
            {"component": info.component, "parameters": info.parameters, "lr": info.lr, "weight_decay": info.weight_decay}
            for info in session.infos
        ],
        **figures,
        "made_with": {"cadmllm": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def resolved_settings(settings: Settings) -> str:
    """`settings.json`: every setting of the run."""
    return json.dumps(settings.model_dump(mode="json", by_alias=True), indent=1) + "\n"


def model_card(session: Session, meta: dict[str, Any]) -> str:
    """`README.md` of a stage folder."""
    stage, settings = session.stage, session.settings
    end = stage.probabilities_end or stage.probabilities
    mix = "\n".join(f"| {name} | {stage.probabilities.get(name, 0):.0%} | {end.get(name, 0):.0%} |" for name in stage.reached)
    held_out = "\n".join(f"| {name} | {loss:.4f} |" for name, loss in meta.get("val_loss", {}).items())
    judged = "\n".join(f"| {name} | {value:.3f} |" for name, value in meta.get("judged", {}).items())
    sections = [
        f"# CAD-MLLM, {stage.name}\n\nMade by cadmllm {__version__} on {meta['made_at'][:10]} from `{settings.model.llm}`.\n"
        f"Input: {', '.join(stage.modalities).replace('_', ' ')}. Output: an editable parametric CAD program.",
        f"## Training\n\n{meta['step']} steps of {settings.train.batch_size * settings.train.accumulation} samples "
        f"({meta['samples']} different ones), peak rate {stage.lr:g}, seed {settings.train.seed}. "
        f"Mean loss of the first steps {meta['loss_begin']:.4f}, of the last {meta['loss_end']:.4f}.\n\n"
        f"| shown | share at the beginning | at the end |\n|---|---|---|\n{mix}",
    ]
    if held_out:
        sections.append(f"## Held-out loss (a supervised token)\n\n| combination | loss |\n|---|---|\n{held_out}")
    if judged:
        sections.append(f"## Held-out prompts, judged by the CAD kernel\n\n| figure | value |\n|---|---|\n{judged}")
    sections.append(
        f"## Use\n\n```\ncadmllm infer --prompt 'a plate with four holes' --checkpoint {stage.folder}\n```\n\n"
        "`manifest.json` lists every file with its SHA-256; `settings.json` has every setting, "
        "`training_metadata.json` the figures."
    )
    return "\n\n".join(sections) + "\n"
