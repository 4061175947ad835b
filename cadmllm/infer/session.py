"""One inference from settings and inputs to a record: which checkpoint, what was given, what was written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.cad.kernel import Verdict
from cadmllm.cad.workshop import Workshop
from cadmllm.infer.answer import check_out, checkpoint_hash, deliver, shown
from cadmllm.infer.generate import Answer, generate
from cadmllm.infer.inputs import check_modalities, read_cloud, sample_of
from cadmllm.infer.judge import judge
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.models.stages import MANIFEST, newest_complete_stage, sha256, verify
from cadmllm.models.weights import load_model

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.types import Sample
    from cadmllm.settings import InferSettings, Settings

RETRY_TEMPERATURE = 0.7


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model, its folder (None: the bundled base), and what to call it."""

    model: CadMLLM
    folder: Path | None
    name: str


def find_checkpoint(settings: Settings) -> Path | None:
    """The folder to load: `infer.checkpoint` (or, where that is a run, its newest stage), else the newest stage of `run.dir`."""
    given = settings.infer.checkpoint
    if given is None:
        return newest_complete_stage(settings.run.dir)
    if not (given / MANIFEST).is_file():
        return newest_complete_stage(given) or given
    return given


def load_checkpoint(settings: Settings, console: Console) -> Checkpoint:
    """Load what `find_checkpoint` finds, else the bundled tiny base as a model of stage 1, and say which on standard error.

    Raises:
        CadmllmError: E503, E504 for a checkpoint that is incomplete or of another model; E501 to E502 from its parts; E612 for
            an attention back end that does not work here.
    """
    folder = find_checkpoint(settings)
    if folder is not None:
        verify(folder)
        console.note(f"checkpoint: {folder}")
        model = load_model(folder, settings)
        if settings.model.attention not in ("auto", "sdpa"):  # transformers' own is SDPA
            model.settle_attention()
        return Checkpoint(model, folder, shown(folder))
    console.warn(f"no finished stage in {settings.run.dir}: the bundled tiny base answers, which knows text alone")
    base = settings.model_copy(deep=True)
    base.model.llm, base.model.quantization, base.lora.enabled = "tiny", "none", False
    return Checkpoint(build_model(base, stage=1), None, "tiny-base (bundled)")


def run(settings: Settings, console: Console, prompt: str | None, images: Sequence[Path], cloud: Path | None) -> dict[str, Any]:
    """Answer one request and write the answer to `infer.out`.

    Args:
        settings: resolved; `infer`, `kernel`, `run`, `model` are read.
        console: says which checkpoint answers.
        prompt, images, cloud: as for `inputs.sample_of`.

    Returns:
        The record as written; its verdict need not be OK.

    Raises:
        CadmllmError: E703, E404 to E408, E42x to E44x (inputs), E503, E504 (checkpoint), E701 (modality), E102, E704, E303.
    """
    asked = settings.infer
    sample = sample_of(prompt, images, cloud, point_count=settings.model.point_count, seed=asked.seed)
    check_out(asked.out)
    checkpoint = load_checkpoint(settings, console)
    check_modalities(sample, checkpoint.model, checkpoint.name)
    trained_with = checkpoint.model.settings.model.point_count
    if cloud is not None and trained_with != settings.model.point_count:
        # it was read before the model, so that a broken file costs no waiting; the checkpoint decides how many points
        sample = replace(sample, clouds=(read_cloud(cloud, trained_with, asked.seed),))
    record = {
        "prompt": sample.caption,
        "inputs": [_input(path, "image") for path in images] + ([_input(cloud, "point cloud")] if cloud else []),
        "checkpoint": {
            "path": checkpoint.name,
            "stage": checkpoint.model.stage,
            "sha256": checkpoint_hash(checkpoint.folder) if checkpoint.folder else None,
            "base": checkpoint.model.fingerprint,
        },
        "settings": {
            "seed": asked.seed,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "max_new_tokens": asked.max_new_tokens,
        },
    }
    with Workshop(1, settings.kernel.timeout) as workshop:
        began = time.perf_counter()
        answer, record["attempts"] = first_solid(checkpoint.model, sample, asked, workshop, console)
        record["generate_seconds"] = round(time.perf_counter() - began, 3)
        return deliver(answer, sample, asked.out, record, workshop)


def first_solid(
    model: CadMLLM, sample: Sample, asked: InferSettings, workshop: Workshop, console: Console
) -> tuple[Answer, list[dict[str, Any]]]:
    """The first answer that the kernel makes a solid of, or the last one tried, and what was tried.

    The first attempt is as asked for. Each further one (up to `infer.attempts`) draws with the next seed, at a temperature of
    at least `RETRY_TEMPERATURE`, since a greedy answer would only repeat itself; it is said.
    """
    tried: list[dict[str, Any]] = []
    while True:
        seed = asked.seed + len(tried)
        temperature = max(asked.temperature, RETRY_TEMPERATURE) if tried else asked.temperature
        (answer,) = generate(
            model, [sample], max_new_tokens=asked.max_new_tokens, temperature=temperature, top_p=asked.top_p, seed=seed
        )
        (result,) = judge([answer], workshop, [sample.clouds[0].transform if sample.clouds else None])
        tried.append({"seed": seed, "temperature": temperature, "verdict": result.verdict.value, "reason": result.reason})
        if result.verdict is Verdict.OK or len(tried) == asked.attempts:
            return answer, tried
        console.note(f"attempt {len(tried)}: {result.verdict.value} ({result.reason}); drawing another answer, seed {seed + 1}")


def _input(path: Path, kind: str) -> dict[str, str]:
    return {"kind": kind, "file": shown(path), "sha256": sha256(path)}
