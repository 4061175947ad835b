"""Cached features are those of these encoders, this preprocessing and these files: what training would refuse, found before.

Training's own functions look; nothing here imports torch. What they need of the encoders is kept while the encoders' files
stay the same, and their weights, where only they can tell, are hashed in a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor.cache import file_key
from cadmllm.doctor.check import Check, Outcome, Situation
from cadmllm.doctor.probe import run_probe
from cadmllm.errors import CadmllmError, Exit

if TYPE_CHECKING:
    from cadmllm.settings import Settings

COMPARED = 1000  # ids whose source files are looked at here (about 0.1 s); training looks at 20,000, `data encode` at all
LIMIT = 300.0  # s that loading an encoder may take
_WEIGHTS = """
from cadmllm.errors import CadmllmError
from cadmllm.settings import Settings
from cadmllm.train.cached import weights_of
try:
    weights, width = weights_of(Settings.model_validate_json(sys.argv[1]), sys.argv[2])
except CadmllmError as error:
    say(**error.as_dict())
else:
    say(weights=weights, width=width)
"""


def check_features(situation: Situation) -> Outcome:
    """What training checks before its first step.

    Raises:
        CadmllmError: E470, E471, E472 from the store, E502 from an encoder, which the runner makes a finding of.
    """
    settings = situation.needed
    if settings.data.features is None:
        return Outcome(skipped="data.features is not set: encoders are loaded and run")
    if settings.data.synthetic:
        return Outcome(skipped=f"{settings.data.synthetic} parts will be generated, which have no cached features")
    from cadmllm.console import Console
    from cadmllm.train import cached as training
    from cadmllm.train.curriculum import plan_stages

    planned = plan_stages(settings, situation.stages)
    dataset = situation.dataset
    looked_at = max(COMPARED, min(len(dataset), training.COMPARED))
    means = training.Means(
        files=lambda asked, part: _files_hash(situation, asked, part),
        weights=lambda asked, part: _weights(situation, asked, part),
        compared=COMPARED,
        hashed=max(1, training.HASHED * COMPARED // looked_at),  # as large a share as training lets pass
    )
    cached = training.open_features(settings, planned, dataset, Console(quiet=True), means)
    if cached is None:
        return Outcome(skipped="no stage to be trained uses them")
    parts = ", ".join(f"{len(cached.store.parts[name]):,} ids of {name}" for name in cached.shapes)
    details = tuple(
        f"{name}: {recipe.encoder} ({Path(recipe.source).name}), {recipe.tokens} x {recipe.width} {recipe.dtype}"
        + (f", {recipe.draws} draws of a cloud" if recipe.draws else "")
        for name, recipe in sorted(cached.recipes.items())
    )
    return Outcome(f"{parts} ({settings.data.features}); their encoders are not loaded", details=details)


def is_cached(settings: Settings, part: str) -> bool:
    """Whether training reads the features of a part ('points', 'images') from a store and needs no encoder of it."""
    return settings.data.features is not None and not settings.data.synthetic and (settings.data.features / part).is_dir()


def _keys(settings: Settings, part: str) -> list[str]:
    from cadmllm.models.frozen import encoder_files

    return [file_key(path) for path in encoder_files(settings, part)]


def _files_hash(situation: Situation, settings: Settings, part: str) -> str:
    """`frozen.files_hash`, read once as long as the files stay as they are (a gigabyte takes a second)."""
    from cadmllm.models.frozen import files_hash

    keys = _keys(settings, part)
    found = situation.cache.get("encoder files", *keys) if keys else ""
    if not isinstance(found, str):
        found = files_hash(settings, part)
        situation.cache.put("encoder files", *keys, answer=found)
    return found


def _weights(situation: Situation, settings: Settings, part: str) -> tuple[str, int]:
    """`cached.weights_of`, from a process of its own: it needs torch."""
    keys = (*_keys(settings, part), settings.dtype, settings.model.model_dump_json())
    found = situation.cache.get("encoder weights", *keys)
    if isinstance(found, list):
        return str(found[0]), int(found[1])
    on_cpu = settings.model_copy(update={"device": "cpu"}).model_dump_json(by_alias=True)
    probe = run_probe(_WEIGHTS, on_cpu, part, seconds=LIMIT, environ=situation.machine.environ)
    if probe.lines and "code" in probe.lines[-1]:
        told = probe.lines[-1]
        raise CadmllmError(told["code"], told["message"], told["remedy"], exit_code=Exit.USER)
    if not probe.lines:
        message = f"the encoder of {part} could not be loaded to compare its weights: {probe.end or 'no answer'} {probe.stderr}"
        raise CadmllmError("E502", message.strip(), "look at torch and the encoder: cadmllm doctor --only packages,checkpoints")
    weights, width = str(probe.lines[-1]["weights"]), int(probe.lines[-1]["width"])
    situation.cache.put("encoder weights", *keys, answer=[weights, width])
    return weights, width


CHECKS = (
    Check(
        "features",
        "cached features are those of these encoders and files, where training uses any",
        ("E470", "E471", "E472", "E502", "E505", "E507", "E508"),
        check_features,
        needs=("numpy",),
        group="data",
        cached_by="hashes of the encoders: their files' sizes and times, the model settings",
    ),
)
