"""The data set has what the stages show."""

from __future__ import annotations

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation

_WORDS = {"point_cloud": "point clouds", "image": "views"}


def check_data(situation: Situation) -> Outcome:
    """The data set can be read and holds the modalities of the stages that are to be trained.

    Raises:
        CadmllmError: E401, E402, E407 from the data set, which the runner makes a finding of.
    """
    settings = situation.needed
    if settings.data.synthetic:
        return Outcome(skipped=f"{settings.data.synthetic} parts will be generated")
    from cadmllm.train.curriculum import plan_stages

    dataset = situation.dataset
    train_ids, val_ids = dataset.split()
    have = dataset.modality_counts(train_ids)
    findings = []
    for stage in plan_stages(settings, situation.stages):
        for name in stage.modalities:
            if not have[name]:
                findings.append(_lacking(stage.number, name, len(train_ids), str(settings.data.root)))
    if dataset.problems:
        first = dataset.problems[0]
        count = len(dataset.problems)
        message = f"{count} entr{'y was' if count == 1 else 'ies were'} left out; the first: {first.message}"
        findings.append(Finding(first.code, Level.WARN, "data", message, f"mend or remove {first.where}"))
    counts = f"{len(train_ids)} to train on ({have['point_cloud']} with points, {have['image']} with views)"
    return Outcome(f"{counts}, {len(val_ids)} held out ({settings.data.root})", tuple(findings))


def _lacking(stage: int, modality: str, ids: int, root: str) -> Finding:
    what = _WORDS.get(modality, "a caption and a program")
    message = f"stage {stage} shows {modality.replace('_', ' ')}, and none of the {ids} training ids has {what}"
    if modality == "text":
        return Finding("E406", Level.FAIL, "data", message, f"look at the data: cadmllm data check {root}")
    make = f"cadmllm data prepare {root} --out DIR {'--points' if modality == 'point_cloud' else '--views'}"
    remedy = f"make them: {make}; meanwhile train what comes before, or leave the stage out: --stage{stage}_epochs 0"
    return Finding("E406", Level.FAIL, "data", message, remedy)


CHECKS = (
    Check(
        "data",
        "the data set can be read and has what the stages show",
        ("E401", "E402", "E403", "E406", "E407"),
        check_data,
        needs=("numpy",),
        group="data",
    ),
)
