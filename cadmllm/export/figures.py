"""What is known of a checkpoint's training and how good it is, as the tables of a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.export.markdown import code, plain, table
from cadmllm.export.papers import named, read_json
from cadmllm.models.stages import MANIFEST, sha256
from cadmllm.places import bundled

if TYPE_CHECKING:
    from cadmllm.export.source import Source

METADATA, DATA, CURRICULUM, REPORT = "training_metadata.json", "data.json", "curriculum.json", "report.json"
HEADLINE = ("iou_all", "iou", "f_score_0.02", "cd", "normal_consistency")  # metrics of an evaluation that the card shows
MODALITIES = {"text": "a caption", "point_cloud": "a point cloud", "image": "views"}


def training_data(source: Source) -> str:
    """What was trained on: names, counts, hashes."""
    found = read_json(source.folder / DATA)
    if found is None:
        return "Unknown: the checkpoint has no data.json."
    data = named(found)
    rows = [("data set", own_data(found) or code(data.get("root", "unknown")))]
    for name, label in (("train", "trained on"), ("held_out", "held out")):
        part = data.get(name)
        if isinstance(part, Mapping):
            rows.append((label, f"{_count(part.get('ids'))} ids, SHA-256 of their list {code(part.get('sha256', 'unknown'))}"))
    shown = data.get("modalities")
    if isinstance(shown, Mapping):
        with_ = (f"{_count(shown[name])} with {what}" for name, what in MODALITIES.items() if name in shown)
        rows.append(("of these", ", ".join(with_)))
    left_out = data.get("left_out")
    if isinstance(left_out, Mapping) and left_out:
        rows.append(("left out", ", ".join(f"{plain(reason)} x {_count(count)}" for reason, count in left_out.items())))
    rows.append(("fingerprint of the set's index", code(data.get("index_sha256", "unknown"))))
    return table(("", ""), rows)


def own_data(data: Mapping[str, Any]) -> str:
    """What of ours a run was trained on, by its data.json; '' where it was not ours, or nobody knows."""
    if _number(data.get("synthetic")):
        return "made by the generator of cadmllm"
    root = data.get("root")
    return "the bundled one of cadmllm" if isinstance(root, str) and Path(root) == bundled("data") else ""


def curriculum(source: Source) -> str:
    """The stages and what the last of them did."""
    meta, stages = metadata(source), named(read_json(source.folder / CURRICULUM) or {}).get("stages")
    parts = []
    if isinstance(stages, list):
        rows = [
            (code(stage.get("name")), plain(stage.get("state")), plain(stage.get("epochs")), plain(stage.get("lr")))
            for stage in stages
            if isinstance(stage, Mapping)
        ]
        parts.append(table(("stage", "state", "epochs", "peak rate"), rows))
    rows = [("stage of this export", code(meta.get("name", source.stage)))]
    if "step" in meta:
        rows.append(("steps", f"{_count(meta['step'])} of {_count(meta.get('total_steps'))}"))
    if "samples" in meta:
        rows.append(("samples", _count(meta["samples"])))
    if "supervised_tokens" in meta:
        rows.append(("supervised tokens", _count(meta["supervised_tokens"])))
    lora = source.record["lora"]
    rows.append(("adapts", f"LoRA r {lora['r']}, alpha {lora['alpha']}" if source.lora else "the whole language model"))
    return "\n\n".join([*parts, table(("", ""), rows)])


def losses(source: Source) -> str:
    """Held-out losses by combination, and what the CAD kernel said of answers while training."""
    meta = metadata(source)
    before, after, judged = (_numbers(meta.get(name)) for name in ("baseline", "val_loss", "judged"))
    if not after and not judged:
        return "The run measured no held-out loss."
    rows = [
        (
            plain(name.replace("_", " ")),
            f"{before[name]:.4f}" if name in before else "-",
            f"{after[name]:.4f}" if name in after else "-",
            f"{judged[name]:.1%}" if name in judged else "-",
        )
        for name in dict.fromkeys([*after, *judged])
    ]
    return (
        table(("shown", "loss before the stage", "after", "answers that are solids"), rows)
        + "\n\nLoss a supervised token on held-out samples; answers to held-out prompts, decoded under the grammar and built by"
        " the CAD kernel. A solid is not yet the right solid."
    )


def metadata(source: Source) -> dict[str, Any]:
    """`training_metadata.json` of the checkpoint, or what model.json has of it."""
    told = read_json(source.folder / METADATA) or source.record.get("meta")
    return named(told) if isinstance(told, Mapping) else {}


def find_evaluation(source: Source) -> dict[str, Any] | None:
    """The report of an evaluation of this very checkpoint (by the SHA-256 of its manifest), where `cadmllm eval` leaves one."""
    manifest = source.folder / MANIFEST
    if not manifest.is_file():
        return None
    own = sha256(manifest)
    out = source.settings.eval.out
    for folder in (Path(out), source.folder, source.folder / "eval", source.folder.parent / "eval"):
        report = read_json(folder / REPORT)
        try:
            if report is not None and report["evaluation"]["checkpoint"]["sha256"] == own:
                return report
        except (KeyError, TypeError):
            continue  # a report of files, or of something else
    return None


def evaluation(report: Mapping[str, Any] | None) -> str:
    """The main figures of an evaluation."""
    if report is None:
        return "Not evaluated: no report of `cadmllm eval --checkpoint` for this checkpoint was found when it was exported."
    try:
        return _evaluated(named(report))
    except (KeyError, TypeError, AttributeError, ValueError):
        return "The report of its evaluation is of another version of cadmllm, and is not shown."


def _evaluated(report: Mapping[str, Any]) -> str:
    metrics = {metric["key"]: metric for metric in report["metrics"] if metric["key"] in HEADLINE}
    groups = {**report["summary"]["combinations"]}
    if len(groups) > 1:
        groups["all"] = report["summary"]["all"]
    chosen = [key for key in HEADLINE if key in metrics]
    head = ["shown", "answers", "not a valid solid", *(plain(metrics[key]["name"]) for key in chosen)]
    rows = []
    for name, group in groups.items():
        cells = []
        for key in chosen:
            found = group["metrics"].get(key)
            cells.append("-" if not found or found["mean"] is None else f"{found['mean'] * metrics[key]['scale']:.3g}")
        rows.append([plain(name.replace("_", " ")), f"{group['count']:,}", f"{group['invalid_rate']:.1%}", *cells])
    data, settings = report["evaluation"]["data"], report["settings"]["infer"]
    mark = code(str(data["fingerprint"])[:16])
    return (
        table(head, rows) + f"\n\nMeans, split {code(data['split'])} of the data with fingerprint {mark}"
        f" (`cadmllm eval`, temperature {settings['temperature']:g}, {settings['candidates']} candidates,"
        f" grammar {'on' if settings['grammar'] else 'off'})."
    )


def _numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    return {str(name): number for name, number in value.items() if isinstance(number, float)}


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "unknown"
