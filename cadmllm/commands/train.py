"""`cadmllm train`: the curriculum, one or several stages in one go."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cadmllm.errors import CadmllmError, Exit

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.console import Console
    from cadmllm.corpus.layout import DataSet
    from cadmllm.doctor.check import Intent, Situation
    from cadmllm.settings import Settings
    from cadmllm.train.keeper import StageResult
    from cadmllm.train.loop import RunResult
    from cadmllm.train.validate import Sampler, Validator

SECTION = "Train"
STAGES = {"stage1": (1,), "stage2": (2,), "stage3": (3,), "all": (1, 2, 3)}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(train)


def train(
    ctx: typer.Context,
    stages: Annotated[list[str] | None, typer.Argument(help="stage1, stage2, stage3, all; several train in order")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the interrupted run, to the same numbers")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="throw away what run.dir holds of these stages")] = False,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="start stage 2 or 3 from the base model, without the stage before")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the whole plan (memory, time, disk); train nothing")] = False,
    skip_doctor: Annotated[bool, typer.Option("--skip-doctor", help="start without the doctor's quick checks")] = False,
) -> None:
    """Train stages of the curriculum: text, then point clouds, then images.

    Checkpoints: RUN.DIR/stage1_text_model, stage2_text_pc_model, stage3_all_model; metrics.jsonl beside them has a line a step.
    Ctrl-C finishes the step, saves and leaves (again: at once); --resume goes on from there.
    """
    shared: Shared = ctx.obj
    numbers = stage_numbers(stages or [], shared.start_from_stage)
    resolved, console = shared.resolve(), shared.console
    settings = resolved.settings
    from cadmllm.doctor.check import Intent
    from cadmllm.doctor.since import facts_of
    from cadmllm.train.launch import alone

    intent = Intent(resume, overwrite, from_scratch)
    # before torch is imported, where that can be: it may be what is broken
    first = examined(settings, numbers, intent, console, skip_doctor) if alone() and not dry_run else None
    from cadmllm.train import loop
    from cadmllm.train.world import open_world

    with open_world(settings, console) as world, contextlib.ExitStack() as stack:
        console = world.console(console)
        if world.size > 1 and not dry_run:
            first = world.on_main(lambda: examined(settings, numbers, intent, console, skip_doctor))
        # the main process brings the index up to date, the others then find it so
        known = first.dataset if first and not skip_doctor and not settings.data.synthetic else None
        found = world.on_main(lambda: stack.enter_context(opened(settings, numbers, console, known)))
        settings, dataset = found or stack.enter_context(opened(settings, numbers, console))
        if dry_run:
            options = {"from_scratch": from_scratch, "resume": resume, "overwrite": overwrite}
            console.json({"stages": loop.dry_run(settings, numbers, dataset, console, **options)})
            return
        facts = facts_of(first) if first else {}  # before anything of it changes under the run
        try:
            result = loop.train(
                settings,
                numbers,
                dataset,
                console,
                resume,
                judge(settings, dataset, console),
                from_scratch=from_scratch,
                overwrite=overwrite,
                sampler=sampler(settings, dataset, console),
                origins=resolved.origins,
                world=world,
            )
        except KeyboardInterrupt:
            console.warn(f"stopped at once: the steps since the newest save will be made again: {_again(settings, numbers)}")
            raise typer.Exit(Exit.INTERRUPTED) from None
        if first:
            remember(resolved.settings, facts, result, console)
    report(result, settings, numbers, console)
    if result.exit_code is not Exit.DONE:
        raise typer.Exit(result.exit_code)


def stage_numbers(names: list[str], start_from: int | None) -> list[int]:
    """The stages that were asked for, ascending.

    Args:
        names: as on the command line.
        start_from: the guide's --start_from_stage: that stage and all later ones (of those named, if any are).

    Raises:
        CadmllmError: E105 for an unknown name, no stage at all, or none left.
    """
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise _usage(f"there is no stage {unknown[0]!r}", "name stage1, stage2, stage3 or all: cadmllm train all --preset tiny")
    named = {number for name in names for number in STAGES[name]}
    if not named and start_from is None:
        raise _usage(
            "no stage named", "cadmllm train stage1, stage2, stage3 or all, for example: cadmllm train all --preset tiny"
        )
    chosen = sorted(number for number in (named or {1, 2, 3}) if number >= (start_from or 1))
    if not chosen:
        raise _usage(f"{' '.join(names)} lies before --start_from_stage {start_from}", "leave one of the two out")
    return chosen


def _usage(message: str, remedy: str) -> CadmllmError:
    return CadmllmError("E105", message, remedy, exit_code=Exit.USAGE)


def examined(settings: Settings, numbers: list[int], intent: Intent, console: Console, skip: bool) -> Situation:
    """The doctor's quick part, and the situation that it has seen.

    Raises:
        CadmllmError: what the doctor found, when that keeps the run from being ready.
    """
    if skip:
        from cadmllm.doctor.check import Situation

        console.note("doctor: not asked (--skip-doctor)")
        return Situation(settings, tuple(numbers), intent=intent, console=console)
    from cadmllm.commands.doctor import before_training

    return before_training(settings, numbers, intent, console)


def remember(settings: Settings, facts: dict[str, Any], result: RunResult, console: Console) -> None:
    """Keep the fingerprint of what has gone well, for `doctor` to compare the next run with."""
    from cadmllm.train.fingerprint import keep

    finished = [stage.number for stage in result.stages if stage.finished]
    if not finished:
        return
    try:
        keep(settings, facts, finished)
    except CadmllmError as error:  # the stages are saved; this must not make a failure of them
        console.warn(f"the fingerprint of this run is not kept: {error.code} {error.message} ({error.remedy})")


@contextlib.contextmanager
def opened(
    settings: Settings, numbers: list[int], console: Console, dataset: DataSet | None = None
) -> Generator[tuple[Settings, DataSet], None, None]:
    """The data set to train on: the one of the settings, or generated parts in a temporary folder (`data.synthetic`).

    Args:
        settings: where it lies.
        numbers: stages, which say what generated parts need.
        console: is shown progress, and what is wrong with the data.
        dataset: already open, and what is wrong with it said.
    """
    from cadmllm.corpus.layout import open_dataset

    if dataset is not None:
        yield settings, dataset
        return
    if not settings.data.synthetic:
        dataset = open_dataset(settings.data, console=console, workers=settings.kernel.workers)
        _say_problems(dataset, console)
        yield settings, dataset
        return
    import tempfile
    from pathlib import Path

    from cadmllm.corpus.synth import write_dataset

    count = settings.data.synthetic
    with tempfile.TemporaryDirectory(prefix="cadmllm-parts-") as folder:
        console.note(f"making {count} parts (seed {settings.train.seed}) in {folder}; data.root is not used")
        shown = {part for n in numbers if settings.stages[n].epochs for part in _parts(settings, n)}
        points, views = "point_cloud" in shown, "image" in shown
        with console.progress(count * (2 if points or views else 1), "making parts") as bar:
            write_dataset(
                Path(folder),
                count,
                settings.train.seed,
                points,
                views,
                settings.kernel.workers,
                timeout=settings.kernel.timeout,
                advance=bar.advance,
            )
        nowhere = dict.fromkeys(("txt", "json_", "img", "points", "train", "val", "test", "exclude", "features"))
        data = settings.data.model_copy(update={"root": Path(folder), "index": Path(folder) / ".index", **nowhere})
        yield settings.model_copy(update={"data": data}), open_dataset(data)


def _parts(settings: Settings, number: int) -> set[str]:
    """What a stage may show: 'text', 'point_cloud', 'image'."""
    shares = settings.stages[number].reached
    return {part for name, share in shares.items() if share > 0 for part in name.split("+")}


def _say_problems(dataset: DataSet, console: Console) -> None:
    for problem in dataset.problems[:3]:
        console.warn(f"{problem.code} {problem.message}")
    if len(dataset.problems) > 3:
        console.warn(f"... and {len(dataset.problems) - 3} more findings in the data (cadmllm data check {dataset.data.root})")


def judge(settings: Settings, dataset: DataSet, console: Console) -> Validator | None:
    """What answers held-out prompts at a stage's end and has the CAD kernel build the answers; None when not asked for."""
    count = settings.train.judge_samples
    if not count:
        return None
    from cadmllm.infer.sampling import validator

    return validator(dataset, dataset.split()[1], settings, count, console)


def sampler(settings: Settings, dataset: DataSet, console: Console) -> Sampler | None:
    """What answers a few held-out prompts every `train.sample_steps` steps; None when not asked for."""
    if not settings.train.sample_steps:
        return None
    from cadmllm.infer.sampling import sampler as make

    return make(dataset, dataset.split()[1], settings, settings.train.samples, console)


def report(result: RunResult, settings: Settings, numbers: list[int], console: Console) -> None:
    """Where the checkpoints are, how the loss went, and what to do next."""
    rows = [_row(stage) for stage in result.stages]
    console.table(rows, ("stage", "steps", "loss first", "last", "held out", "solids", "checkpoint"))
    follow = _next(result, settings, numbers)
    console.print(f"metrics: {result.metrics}")
    console.print(f"next:    {follow}")
    console.json(
        {
            "stages": result.stages,
            "finished": result.exit_code is Exit.DONE,
            "exit_code": int(result.exit_code),
            "metrics": result.metrics,
            "next": follow,
        }
    )


def _row(stage: StageResult) -> tuple[object, ...]:
    held_out = f"{stage.val_loss['all']:.4f}" if stage.val_loss else "-"
    solids = f"{stage.judged['all']:.0%}" if stage.judged else "-"
    where = str(stage.folder) if stage.finished else "(unfinished)"
    return (stage.name, stage.steps, f"{stage.loss_begin:.4f}", f"{stage.loss_end:.4f}", held_out, solids, where)


def _next(result: RunResult, settings: Settings, numbers: list[int]) -> str:
    if result.exit_code is not Exit.DONE:
        return _again(settings, numbers)
    last = result.stages[-1]
    return f"cadmllm infer --prompt 'a plate with four holes' --checkpoint {last.folder}"


def _again(settings: Settings, numbers: list[int]) -> str:
    names = " ".join(f"stage{number}" for number in numbers)
    return f"cadmllm train {names} --resume --set run.dir={settings.run.dir} (with your other options)"
