"""What is said about a stage: the derived figures with their reasons at its start, its metadata and model card at its end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cadmllm.corpus.fit import FRAME, feature_tokens, longest_target
from cadmllm.models.frozen import why_trained
from cadmllm.models.record import BRANCH_STAGES
from cadmllm.settings import Settings
from cadmllm.train.curriculum import Stage, Start
from cadmllm.train.optim import peak_rate, pretrained

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
    window = train.batch_size * train.accumulation
    warmup = f"warmup {train.warmup_steps} steps from 1/{train.warmup_steps}, then" if train.warmup_steps else "no warmup,"
    return [
        f"stage {stage.number} ({stage.name})",
        f"  samples    {len(data.train_ids)} to train on, {len(data.val_ids)} held out{out}",
        f"  room       {room}",
        f"  steps      {steps}",
        f"  batch      {train.batch_size} a micro-batch x {train.accumulation} accumulated = {window} samples a step"
        " (of all processes together)",
        f"  shows      {mix_line(settings, stage)}{fallbacks}",
        f"  rates      {rates_line(settings, stage)}; {warmup} cosine to {train.min_lr_share:.0%}",
        f"  starts at  {start.checkpoint or 'the base model ' + settings.model.llm} ({start.reason})",
        f"  ends in    {stage.folder}",
    ]


def rates_line(settings: Settings, stage: Stage) -> str:
    """The peak rate of each component that the stage trains; of encoders by branch, where any is not frozen."""
    shown = [branch for branch, first in BRANCH_STAGES.items() if stage.number >= first]
    names = [("llm", "", "llm"), ("rows", "", "rows")] + ([("projectors", "", "projectors")] if shown else [])
    names += [("encoders", branch, f"encoder of {branch}") for branch in shown if why_trained(settings, branch)]
    known = pretrained(settings)
    rates = [(name, peak_rate(component, branch, stage.lr, settings.train, known)) for component, branch, name in names]
    return ", ".join(f"{name} {rate:.3g}" + ("" if rate else " (held as it is: train.encoder_lr=0)") for name, rate in rates)


def mix_line(settings: Settings, stage: Stage) -> str:
    """What a stage shows: the share of each combination, where it moves to, and modality dropout."""
    end = stage.probabilities_end or stage.probabilities
    shares = [(name, stage.probabilities.get(name, 0.0), end.get(name, 0.0)) for name in stage.reached]
    text = ", ".join(f"{name} {first:.0%}" + ("" if first == last else f" to {last:.0%}") for name, first, last in shares)
    dropout = settings.train.modality_dropout
    shown = [part.replace("_", " ") for part in stage.modalities if part != "text"]
    if not (dropout and shown):
        return text
    return f"{text}; {' and '.join(shown)} dropped with probability {dropout:g}{' each' if len(shown) > 1 else ''}"


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


def _how(session: Session) -> list[str]:
    """How the stage computes: precision, memory techniques, attention and packing, each with its reason."""
    settings, train, attention = session.settings, session.settings.train, session.model.attention
    dtype = settings.dtype
    parts = [dtype if dtype == "float32" else f"{dtype} autocast, trained parameters in float32"]
    parts += ["weights in NF4"] if settings.model.quantization == "nf4" else []
    parts += ["gradient checkpointing"] if train.gradient_checkpointing else []
    parts += ["activations wait in main memory"] if train.offload_activations else []
    parts += ["layers compiled"] if train.compile else []
    parts += [f"optimizer {train.optimizer}"]
    lines = [f"  computes   {', '.join(parts)}, on {session.engine.device}"]
    room = session.companions.squeeze.room
    lines.append(f"  attention  {attention.name}: {attention.reason}")
    if room.packed:
        lines.append(f"  packs      samples into rows of up to {room.tokens:,} tokens, none of which sees another")
    else:
        why = "train.packing=false" if not train.packing else f"this attention cannot keep documents apart: {attention.reason}"
        lines.append(f"  pads       up to {room.samples} samples of like length in a batch ({why})")
    lines += [f"  changed    {text}: the same numbers but for rounding" for text in session.changed]
    return lines


def announce(session: Session, console: Console) -> None:
    """Print what was derived for a stage, and why, before its first step."""
    for line in plan_lines(session.settings, session.stage, session.start, session.data, session.windows):
        console.note(line)
    sizes: Counter[str] = Counter()
    for info in session.infos:
        sizes[info.component] += info.parameters
    everything = int(session.model.describe()[-1]["parameters"])  # packed ones count as the values they stand for
    trained = sum(sizes.values())
    parts = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
    console.note(f"  trains     {trained:,} of {everything:,} parameters ({trained / everything:.1%}): {parts}")
    for line in _how(session):
        console.note(line)
    if session.model.fresh:
        console.note(f"  new        {', '.join(session.model.fresh)} start fresh: {session.start.checkpoint} has none")
    for text in warnings(session.settings, session.stage, session.data, session.windows):
        console.warn(text)
    for problem in session.data.left_out[:3]:
        console.warn(f"left out {problem.code} {problem.message}")
    if len(session.data.left_out) > 3:
        console.warn(f"... and {len(session.data.left_out) - 3} more (cadmllm data check {session.settings.data.root})")
