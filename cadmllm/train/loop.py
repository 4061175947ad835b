"""Training: stages one after another, each from the checkpoint of the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.errors import Exit
from cadmllm.models.stages import STEPS, is_complete
from cadmllm.settings import Settings
from cadmllm.train.cached import open_features
from cadmllm.train.checkpoint import discard
from cadmllm.train.curriculum import Stage, Start, plan_stages, starting_point
from cadmllm.train.guards import Interrupts, check_run_folder, has_saves, just_begun
from cadmllm.train.keeper import StageResult, Told, figures_of, summary
from cadmllm.train.metrics import Metrics
from cadmllm.train.outline import outline
from cadmllm.train.session import open_session, resume_session
from cadmllm.train.stagerun import StageRun
from cadmllm.train.telemetry import Wandb
from cadmllm.train.world import World, open_world

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.layout import DataSet
    from cadmllm.train.validate import Sampler, Validator


@dataclass(frozen=True, slots=True)
class RunResult:
    """What `train` did: its stages, and 0, 130 or 75 (stopped by Ctrl-C or SIGTERM; everything is saved)."""

    stages: list[StageResult]
    exit_code: Exit
    metrics: Path


def train(
    settings: Settings,
    stages: Sequence[int],
    dataset: DataSet,
    console: Console,
    resume: bool = False,
    validator: Validator | None = None,
    *,
    from_scratch: bool = False,
    overwrite: bool = False,
    sampler: Sampler | None = None,
    origins: Mapping[str, object] | None = None,
    world: World | None = None,
) -> RunResult:
    """Train stages of the curriculum, each from the checkpoint of the one before.

    Args:
        settings: all of them.
        stages: numbers, in any order; those with 0 epochs are skipped.
        dataset: where samples are read.
        console: where progress is shown.
        resume: continue what was interrupted in `run.dir`; stages that are complete there are not trained again.
        validator: samples and judges programs at each stage's end (the command passes it in: no CAD kernel here).
        from_scratch: a first stage 2 or 3 may start from the base model.
        overwrite: throw away what `run.dir` holds of these stages.
        sampler: answers and judges a few held-out prompts every `train.sample_steps` steps (passed in likewise).
        origins: dotted key -> where the setting's value came from, for the checkpoints.
        world: the processes of the run; None: whatever the environment says.

    Raises:
        CadmllmError: E601 (no predecessor), E603, E606, E608, E609 (a step cannot be made), E604, E605, E607 (saves), E406, E5xx,
            E610 (several processes).
    """
    world = world or open_world(settings, console)
    if world.size > 1:
        wandb = settings.wandb if world.main else settings.wandb.model_copy(update={"mode": "off"})
        settings = settings.model_copy(update={"device": str(world.device), "wandb": wandb})
    planned = plan_stages(settings, stages)
    world.on_main(lambda: check_run_folder(planned, resume, overwrite))
    cached = world.attempt(lambda: open_features(settings, planned, dataset, console))
    metrics = Metrics(settings.run.dir / "metrics.jsonl", writes=world.main)
    results: list[StageResult] = []
    with Interrupts() as stop:
        told = Told(console, metrics, Wandb(settings, planned[0], console), stop, validator, sampler, origins or {}, overwrite)
        code = Exit.USER  # unless it gets to an end
        try:
            for index, stage in enumerate(planned):
                if resume and world.told(is_complete(stage.folder)):
                    console.note(f"stage {stage.number} is complete in {stage.folder}: going on")
                    results.append(summary(stage, metrics, True, *figures_of(stage.folder)))
                    continue
                if resume and world.told(has_saves(stage)):
                    session = resume_session(settings, stage, dataset, console, cached, world)
                else:
                    if resume and just_begun(stage):
                        console.note(f"stage {stage.number} was cut off before its first save: it starts over")
                    start = starting_point(settings, planned, index, from_scratch)
                    session = open_session(settings, stage, start, dataset, console, cached, world)
                if overwrite:
                    world.on_main(lambda folder=stage.folder: discard(folder))
                begins = {"the first step": session.begin, "the weights to start from": str(session.start.checkpoint)}
                world.agree_on(session.fingerprint | begins)
                results.append(StageRun(session, told).run())
                del session
                if not results[-1].finished:
                    break
            done = len(results) == len(planned) and all(result.finished for result in results)
            code = Exit.DONE if done else told.exit_code
        finally:
            metrics.close()
            told.wandb.close(int(code))
    return RunResult(results, code, metrics.path)


def dry_run(
    settings: Settings,
    stages: Sequence[int],
    dataset: DataSet,
    console: Console,
    *,
    from_scratch: bool,
    resume: bool,
    overwrite: bool,
) -> list[dict[str, Any]]:
    """Print what `train` would do, without loading a model or writing anything. Raises what `train` would raise before that.

    Returns:
        A row a stage that would be trained, see `outline.outline`.
    """
    planned = plan_stages(settings, stages)
    check_run_folder(planned, resume, overwrite)
    cached = open_features(settings, planned, dataset, console)
    ahead: list[Stage] = []
    starts: list[Start] = []
    for index, stage in enumerate(planned):
        if resume and is_complete(stage.folder):
            console.print(f"stage {stage.number} is complete in {stage.folder}")
            continue
        saved = resume and has_saves(stage)
        start = Start(stage.folder / STEPS, "its newest good save") if saved else None
        starts.append(start or starting_point(settings, planned, index, from_scratch))
        ahead.append(stage)
    return outline(settings, ahead, starts, dataset, console, from_store=cached.shapes if cached else ())
