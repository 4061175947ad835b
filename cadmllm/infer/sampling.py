"""Looks at what a model in training writes: held-out prompts answered, built, judged and drawn on a sheet.

Training does not feel it: answers are greedy, the random state is put back, and nothing that goes wrong here ends a run.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from cadmllm.cad.compare import chamfer
from cadmllm.cad.files import write_whole
from cadmllm.cad.kernel import BuildResult
from cadmllm.cad.mesh import Mesh, normalise, sample_surface
from cadmllm.cad.program import Program
from cadmllm.cad.tokens import to_text
from cadmllm.cad.workshop import Job, Workshop
from cadmllm.corpus.features import FeatureStore
from cadmllm.corpus.fit import longest_target
from cadmllm.corpus.sample import load_sample
from cadmllm.errors import CadmllmError
from cadmllm.infer.generate import Answer, generate
from cadmllm.infer.judge import Judged, judge, shares
from cadmllm.infer.sampled import Sampled

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.layout import DataSet
    from cadmllm.corpus.roster import Ids
    from cadmllm.corpus.types import Sample
    from cadmllm.models.fusion import CadMLLM
    from cadmllm.settings import Settings

TOGETHER = 16  # answers written side by side, fewer where memory runs out
SEARCHED = 64  # held-out ids a prompt that are looked through for one with the modalities that are wanted
SURFACE = 2048  # points of each surface that a chamfer distance compares


class Shows(Protocol):
    """A stage of the curriculum, as far as it matters here."""

    @property
    def number(self) -> int:
        """1, 2 or 3."""
        ...

    @property
    def reached(self) -> dict[str, float]:
        """The combinations that it shows at some time."""
        ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """A held-out sample: what the model is given, the same as it can be drawn, and what is right.

    Attributes:
        sample: for the model; with cached features where it reads these.
        picture: the same sample with clouds and views as they are on disk.
        program: of the data set.
        truth: what the kernel made of it.
    """

    sample: Sample
    picture: Sample
    program: Program
    truth: BuildResult


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answered to a prompt, and what became of it.

    Attributes:
        answer: its tokens.
        program: what they spell; None where they spell none.
        result: the kernel's.
        chamfer: distance of the answer's surface from the truth's, both centred and scaled to a longest side of 1, times 1000;
            None where either is no solid.
    """

    prompt: Prompt
    answer: Answer
    program: Program | None
    result: BuildResult
    chamfer: float | None

    def row(self) -> dict[str, Any]:
        """For the .jsonl: plain JSON data, lengths in mm."""
        sample, result = self.prompt.sample, self.result
        return {
            "id": sample.id,
            "combination": sample.combination,
            "prompt": sample.caption,
            "program": to_text(list(self.answer.tokens)) if self.program is not None else None,
            "verdict": result.verdict.value,
            "reason": result.reason,
            "tokens": len(self.answer.tokens),
            "log_likelihood": self.answer.log_likelihood,
            "volume_mm3": result.volume if result.ok else None,
            "chamfer_x1000": self.chamfer,
        }


class HeldOutPrompts:
    """Answers the same held-out prompts whenever it is called, so that two looks at a stage can be compared.

    Args:
        dataset: where the ids are from.
        ids: held-out ids.
        settings: `infer.max_new_tokens`, `kernel`, `data.features` and the sequence length are read.
        count: prompts, dealt out evenly to the combinations that the stage shows (and text alone).
        console: told what goes wrong.
    """

    def __init__(self, dataset: DataSet, ids: Ids, settings: Settings, count: int, console: Console) -> None:
        self.dataset, self.ids, self.settings, self.count, self.console = dataset, ids, settings, count, console
        self._prompts: tuple[int, list[Prompt]] | None = None

    def __call__(self, model: CadMLLM, stage: Shows, step: int, folder: Path) -> Sampled:
        """Answer, build, judge and draw; writes `folder/stage2_step000100.png` and a .jsonl beside it.

        A model that is shared out over processes (FSDP) must be asked by all of them.

        Returns:
            What came of it; empty where that failed, which is said and no more.
        """
        return self._look(model, stage, f"step {step:,}", folder / f"stage{stage.number}_step{step:06d}")

    def at_end(self, model: CadMLLM, stage: Shows) -> dict[str, float]:
        """The same at a stage's end, as `run.dir/samples/stage2_end.png`: the shares alone."""
        folder = self.settings.run.dir / "samples"
        found = self._look(model, stage, "its end", folder / f"stage{stage.number}_end")
        for picture in found.pictures:
            self.console.note(f"stage {stage.number}: answers at its end: {picture}")
        return found.shares

    def _look(self, model: CadMLLM, stage: Shows, when: str, stem: Path) -> Sampled:
        device = [model.device] if model.device.type == "cuda" else []
        rows: list[dict[str, Any]] = []
        found: dict[str, float] = {}
        try:
            kernel = self.settings.kernel
            pool = Workshop(self._workers(), kernel.timeout, memory=kernel.memory)
            with torch.random.fork_rng(devices=device), pool as workshop:
                prompts = self._of(stage, workshop)
                if not prompts:
                    self.console.warn(f"stage {stage.number}, {when}: no held-out id can be shown, so no prompt was answered")
                    return Sampled()
                replies = self._answer(model, prompts, workshop)
            rows = [reply.row() for reply in replies]
            found = _valid(replies)
            return Sampled(found, _write(replies, rows, found, f"Stage {stage.number}, {when}", stem), rows)
        except (CadmllmError, OSError, torch.OutOfMemoryError) as error:  # no look is worth a run of days
            self.console.warn(
                f"stage {stage.number}, {when}: the look at held-out prompts failed, training goes on: {_said(error)}"
            )
            return Sampled(found, [], rows)

    def _workers(self) -> int:
        return min(self.settings.kernel.workers, self.count)

    def _of(self, stage: Shows, workshop: Workshop) -> list[Prompt]:
        if self._prompts is None or self._prompts[0] != stage.number:
            names = list(dict.fromkeys(["text", *stage.reached]))
            usable, _ = self.dataset.usable(self.ids[: SEARCHED * self.count], longest_target(self.settings, stage.reached))
            chosen = spread(usable, names, self.dataset, self.count)
            self._prompts = stage.number, self._read(chosen, workshop)
        return self._prompts[1]

    def _read(self, chosen: Sequence[tuple[str, str]], workshop: Workshop) -> list[Prompt]:
        """The samples and what is right, built by the kernel; what cannot be read any more is noted and left out."""
        model, data = self.settings.model, self.settings.data
        shape: dict[str, Any] = {"point_count": model.point_count, "sampling": model.point_sampling}
        shape |= {"views": model.image_views, "draws": data.draws}
        # training checked them before its first step; a look at text alone does not ask for them
        store = FeatureStore(data.features) if data.features and any(name != "text" for _, name in chosen) else None
        read = []
        for place, (id_, name) in enumerate(chosen):
            where: dict[str, Any] = {"seed": self.settings.train.seed, "stage": 0, "epoch": 0, "position": place}
            try:
                sample = load_sample(self.dataset, id_, name, **where, **shape, features=store)
                picture = load_sample(self.dataset, id_, name, **where, **shape) if store else sample
                read.append((sample, picture, self.dataset.program(id_)))
            except CadmllmError as error:
                self.dataset.note(error, id_)
        built = workshop.map([Job(program, mesh=True) for _, _, program in read])
        return [Prompt(*parts, truth) for parts, truth in zip(read, list(built), strict=True)]

    def _answer(self, model: CadMLLM, prompts: Sequence[Prompt], workshop: Workshop) -> list[Reply]:
        with _uncompiled(self.settings.train.compile):
            answers = self._generate(model, [prompt.sample for prompt in prompts])
        return [
            Reply(prompt, answer, program, result, _distance(prompt.truth.mesh, result.mesh))
            for prompt, answer, (program, result) in zip(prompts, answers, judge(answers, workshop, mesh=True), strict=True)
        ]

    def _generate(self, model: CadMLLM, samples: Sequence[Sample]) -> list[Answer]:
        most = self.settings.infer.max_new_tokens
        try:
            return generate(model, samples, max_new_tokens=most, batch_size=TOGETHER, note=self.console.note)
        finally:  # what the cache of keys and values took is training's again
            gc.collect()
            if model.device.type == "cuda":
                torch.cuda.empty_cache()


def sampler(dataset: DataSet, ids: Ids, settings: Settings, count: int, console: Console) -> HeldOutPrompts:
    """What training calls every `train.sample_steps` steps, as `train.validate.Sampler`. Arguments as `HeldOutPrompts`."""
    _warn_without_kernel(console)
    return HeldOutPrompts(dataset, ids, settings, count, console)


def validator(
    dataset: DataSet, ids: Ids, settings: Settings, count: int, console: Console
) -> Callable[[CadMLLM, Shows], dict[str, float]]:
    """What training calls at a stage's end, as `train.validate.Validator`: gives the share of valid solids (0..1) by combination
    and over 'all', and leaves a sheet in `run.dir/samples`. Arguments as `HeldOutPrompts`."""
    _warn_without_kernel(console)
    return HeldOutPrompts(dataset, ids, settings, count, console).at_end


def _warn_without_kernel(console: Console) -> None:
    """Said before the first step, without loading the kernel, which takes seconds."""
    if find_spec("OCP") is None:
        console.warn('no CAD kernel: held-out prompts cannot be judged; pip install "cadquery-ocp-novtk>=8.0,<8.1"')


def spread(ids: Sequence[str], combinations: Sequence[str], dataset: DataSet, count: int) -> list[tuple[str, str]]:
    """Up to `count` (id, combination), each id once, the combinations in turn; one that nobody left can show is passed over."""
    left = dict.fromkeys(ids)
    found: list[tuple[str, str]] = []
    able = list(combinations)
    while able and len(found) < count:
        for name in list(able):
            needed = set(name.split("+")) - {"text"}
            id_ = next((id_ for id_ in left if needed <= dataset.modalities(id_)), None)
            if id_ is None:
                able.remove(name)
            elif len(found) < count:
                del left[id_]
                found.append((id_, name))
    return found


def _valid(replies: Sequence[Reply]) -> dict[str, float]:
    samples = [(reply.prompt.sample, reply) for reply in replies]
    judged = [Judged(s.id, s.combination, s.caption, reply.answer, reply.result) for s, reply in samples]
    return {name: row["valid"] for name, row in shares(judged).items()}


def _write(
    replies: Sequence[Reply], rows: Sequence[dict[str, Any]], found: dict[str, float], title: str, stem: Path
) -> list[Path]:
    from cadmllm.infer.gallery import draw_gallery

    stem.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(stem.with_suffix(".jsonl"), text.encode("utf-8", "backslashreplace"))
    write_whole(stem.with_suffix(".png"), draw_gallery(replies, found, title, str(stem.parent.parent)).png())
    return [stem.with_suffix(".png")]


def _distance(truth: Mesh | None, answer: Mesh | None) -> float | None:
    if truth is None or answer is None:
        return None
    return 1000.0 * chamfer(_surface(answer), _surface(truth))


def _surface(mesh: Mesh) -> np.ndarray:
    """Points of a surface in a box whose longest side is 1, about its centre."""
    points, _ = sample_surface(mesh, SURFACE, 0)
    return normalise(mesh).apply(points) / 2.0


def _uncompiled(compiled: bool) -> AbstractContextManager[None]:
    """Without torch.compile's versions of the layers: they are for training's shapes, and each new length would make one more."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _said(error: Exception) -> str:
    if isinstance(error, CadmllmError):
        return f"{error.code} {error.message} ({error.remedy})"
    return (str(error).splitlines() or [type(error).__name__])[0]
