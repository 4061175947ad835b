"""Which stages run, what each shows the model, and which checkpoint each starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cadmllm.errors import CadmllmError, Exit
from cadmllm.models.record import refuse_export
from cadmllm.models.stages import STAGE_FOLDERS, STAGE_NAMES, is_complete, stage_folder, verify
from cadmllm.settings import COMBINATIONS, Settings, reached


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage as it will be trained.

    Attributes:
        number: 1, 2 or 3.
        name: 'stage1_text', 'stage2_text_pc', 'stage3_all' (the guide's names in wandb).
        folder: where its checkpoint goes.
        epochs: passes over the training ids, >= 1.
        lr: peak rate of the language model's group.
        probabilities: of each modality combination at the stage's beginning, summing to 1.
        probabilities_end: the same at its end; empty where they do not move.
        patience: validations without improvement that end the stage; 0: none do.
    """

    number: int
    name: str
    folder: Path
    epochs: int
    lr: float
    probabilities: dict[str, float]
    probabilities_end: dict[str, float] = field(default_factory=dict)
    patience: int = 0

    @property
    def reached(self) -> dict[str, float]:
        """The combinations that the stage shows at some time, each with its largest share; these need not sum to 1."""
        return reached(self.probabilities, self.probabilities_end)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the stage may show at some time, in the order of the curriculum."""
        shown = {part for name in self.reached for part in name.split("+")}
        return tuple(part for part in COMBINATIONS[-1].split("+") if part in shown)

    def probabilities_at(self, share: float) -> dict[str, float]:
        """The probabilities when `share` (0..1) of the planned steps are done, step / (total - 1): the last step is at 1.

        They move in a straight line from `probabilities` to `probabilities_end` (curriculum scheduling), so they sum to 1
        all the way. Without an end they are `probabilities` throughout. A stage that ends early does not reach its end.
        """
        if not self.probabilities_end:
            return self.probabilities
        share = min(1.0, max(0.0, share))
        begin, end = self.probabilities, self.probabilities_end
        names = (name for name in COMBINATIONS if name in begin or name in end)
        return {name: (1.0 - share) * begin.get(name, 0.0) + share * end.get(name, 0.0) for name in names}


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stage's weights come from: a checkpoint folder, or None for the base model; and why.

    Attributes:
        checkpoint, reason: as said.
        began: of a resumed stage, the checkpoint that it began with, None for the base model.
        resumed: whether `checkpoint` is a save of the stage itself.
    """

    checkpoint: Path | None
    reason: str
    began: str | None = None
    resumed: bool = False


def plan_stages(settings: Settings, numbers: Sequence[int]) -> list[Stage]:
    """The stages to train, in order; those with 0 epochs are left out.

    Raises:
        CadmllmError: E105 when nothing is left to train, or a stage waits for validations that are never made.
    """
    stages = []
    for number in sorted(set(numbers)):
        asked = settings.stages[number]
        if asked.epochs:
            _check_patience(settings, number)
            folder = stage_folder(settings.run.dir, number)
            shares, end = dict(asked.probabilities), dict(asked.probabilities_end)
            stages.append(Stage(number, STAGE_NAMES[number], folder, asked.epochs, asked.lr, shares, end, asked.patience))
    if not stages:
        named = ", ".join(f"stage {n}" for n in sorted(set(numbers))) or "no stage"
        first = min(numbers, default=1)
        raise CadmllmError(
            "E105",
            f"nothing to train: {named} with 0 epochs",
            f"give epochs: cadmllm train stage{first} --set stages.{first}.epochs=1",
            exit_code=Exit.USAGE,
        )
    return stages


def starting_point(settings: Settings, stages: Sequence[Stage], index: int, from_scratch: bool) -> Start:
    """The checkpoint that `stages[index]` starts from.

    The first stage of a run takes `run.init_from`; every other one the checkpoint of the stage trained before it. A stage
    set to 0 epochs is passed over: the one below it counts. Stage 1 starts from the base model, and so does any first
    stage that was told to (`--from-scratch`) or that only rehearses on generated parts (`data.synthetic`).

    Raises:
        CadmllmError: E601 when a predecessor's checkpoint is missing, E503 when `run.init_from` is torn.
    """
    stage = stages[index]
    if index > 0:
        return Start(stages[index - 1].folder, f"stage {stages[index - 1].number} of this run")
    if settings.run.init_from is not None:
        return Start(_given(settings.run.init_from, stage), "run.init_from")
    if stage.number == 1:
        return Start(None, "stage 1 begins the curriculum")
    if from_scratch:
        return Start(None, "--from-scratch")
    for number in range(stage.number - 1, 0, -1):
        folder = stage_folder(settings.run.dir, number)
        if is_complete(folder):
            return Start(folder, f"newest complete stage before stage {stage.number} in {settings.run.dir}")
        if settings.stages[number].epochs:
            break
    if settings.data.synthetic:
        return Start(None, "a rehearsal on generated parts needs no earlier stage")
    raise _no_predecessor(settings, stage)


def _check_patience(settings: Settings, number: int) -> None:
    patience = settings.stages[number].patience
    if patience and not settings.train.val_steps:
        raise CadmllmError(
            "E105",
            f"stages.{number}.patience is {patience}, but train.val_steps is 0: nothing is validated before the stage's end",
            f"validate while training: cadmllm train stage{number} --set train.val_steps=100; "
            f"or let the stage run to its end: --set stages.{number}.patience=0",
            exit_code=Exit.USAGE,
        )


def _given(folder: Path, stage: Stage) -> Path:
    if not folder.is_dir():
        raise CadmllmError(
            "E601" if stage.number > 1 else "E503",
            f"stage {stage.number} was told to start from {folder}, which does not exist",
            f"train it first: cadmllm train stage{max(1, stage.number - 1)}, or name the right folder: "
            f"cadmllm train stage{stage.number} --resume_from_ckpt FOLDER",
        )
    refuse_export(folder)
    verify(folder)
    return folder


def _no_predecessor(settings: Settings, stage: Stage) -> CadmllmError:
    before = stage.number - 1
    wanted = settings.run.dir / STAGE_FOLDERS[before]
    state = "is not finished" if wanted.is_dir() else "does not exist"
    return CadmllmError(
        "E601",
        f"stage {stage.number} continues stage {before}, whose checkpoint {wanted} {state}",
        f"train it first: cadmllm train stage{before} stage{stage.number}; or start from another checkpoint: "
        f"cadmllm train stage{stage.number} --resume_from_ckpt FOLDER; or from the base model: "
        f"cadmllm train stage{stage.number} --from-scratch",
    )
