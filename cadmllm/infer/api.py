"""The Python interface: `from cadmllm import load`; the command line is a thin layer over it.

from cadmllm import load

if __name__ == "__main__":  # the kernel works in processes of its own, which import this file
    with load("checkpoints/stage3_all_model") as cad:
        part = cad.generate(text="a flange with six holes", images=["front.png"], points="scan.ply", candidates=8)
        print(part.verdict, part.record["size_mm"])
        part.to_step("flange.step")
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cadmllm.cad.workshop import Workshop
from cadmllm.console import Console
from cadmllm.errors import CadmllmError
from cadmllm.infer.checkpoint import Checkpoint, load_checkpoint
from cadmllm.infer.part import Part
from cadmllm.infer.request import Request
from cadmllm.settings import InferSettings, Settings

if TYPE_CHECKING:
    from cadmllm.models.fusion import CadMLLM

Watch = Callable[[int, Sequence[int]], None]


def load(checkpoint: str | Path | None = None, *, settings: Settings | None = None, console: Console | None = None) -> CadModel:
    """Load a model that answers.

    Args:
        checkpoint: a stage folder, a step save, or a run folder (its newest complete stage); None: the newest complete stage of
            `run.dir`, else the bundled tiny base.
        settings: None: the defaults; `cadmllm.toml` and the environment are the command line's. What the model was trained with
            is read from the checkpoint.
        console: where it is said which checkpoint answers; None: standard error, warnings alone.

    Raises:
        CadmllmError: E503, E504 (checkpoint), E501, E502 (base, encoders), E612.
    """
    chosen = (settings or Settings()).model_copy(deep=True)
    if checkpoint is not None:
        chosen.infer.checkpoint = Path(checkpoint)
    console, kernel = console or Console(quiet=True), chosen.kernel
    workshop = Workshop(kernel.workers, kernel.timeout, memory=kernel.memory)
    workshop.warm()  # the kernel is loaded while the model is
    return CadModel(load_checkpoint(chosen, console), chosen, console, workshop)


class CadModel:
    """A loaded model and the kernel's workers. Use it as a context manager, or call `close`.

    Attributes:
        settings: `infer` and `kernel` are read at each call and may be changed.
        model: the network.
        checkpoint: the folder it is from and what to call it.
        workshop: the kernel's workers; they start with the first build.
        console: where it is said when memory ran out.
    """

    def __init__(self, checkpoint: Checkpoint, settings: Settings, console: Console, workshop: Workshop) -> None:
        self.checkpoint, self.settings, self.console, self.workshop = checkpoint, settings, console, workshop
        self.described = checkpoint.described()

    @property
    def model(self) -> CadMLLM:
        """The network."""
        return self.checkpoint.model

    @property
    def name(self) -> str:
        """What to call the checkpoint."""
        return self.checkpoint.name

    @property
    def folder(self) -> Path | None:
        """Of the checkpoint; None: the bundled base."""
        return self.checkpoint.folder

    def __enter__(self) -> CadModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the kernel's workers. Parts that were made can still be looked at, and written: workers start again."""
        self.workshop.close()

    def generate(
        self,
        text: str | None = None,
        images: Sequence[Any] = (),
        points: Any = None,
        *,
        size: str | None = None,
        watch: Watch | None = None,
        **changes: Any,
    ) -> Part:
        """One part from a text, pictures and points, alone or together.

        Args:
            text: what to make.
            images: views of the part: paths, PIL images, or arrays [H, W, 3] or [H, W, 4] uint8.
            points: a path, an array [N, 3] or [N, 6] (position, normal), a mesh, or a list of these in one frame.
            size: '40x20x10mm'.
            watch: called as `watch(row, tokens)` while answers grow.
            changes: settings of `infer` for this call: `candidates=16, repair=True, temperature=0.7, seed=3, ...`.

        Returns:
            The best of the candidates; look at `.verdict` first.

        Raises:
            CadmllmError: E703 (nothing given), E701 (no encoder for it), E404 to E408, E42x to E44x (inputs), E705 (size),
                E102 (a setting), E704 (no finite scores).
        """
        given = () if points is None else tuple(points) if isinstance(points, (list, tuple)) else (points,)
        request = Request(text=text, images=tuple(images), points=given, size=size)
        (part,) = self.answer([request], watch, **changes)
        if isinstance(part, CadmllmError):
            raise part
        return part

    def answer(self, requests: Iterable[Request], watch: Watch | None = None, **changes: Any) -> Iterator[Part | CadmllmError]:
        """Parts for many requests, `infer.batch_size` answers side by side, built in parallel by the kernel.

        Args:
            requests: drawn as they are needed; names differ.
            watch: as for `generate`; row k of a group is answer k of it.
            changes: as for `generate`.

        Returns:
            A part a request, in order; the error instead where a request's own inputs cannot be used.

        Raises:
            CadmllmError: what concerns them all: E102, E704.
        """
        from cadmllm.infer.answering import answer_together

        asked = changed(self.settings.infer, changes)
        side_by_side = max(1, asked.batch_size // asked.candidates)
        for seed, same in itertools.groupby(requests, key=lambda request: asked.seed if request.seed is None else request.seed):
            while group := list(itertools.islice(same, side_by_side)):
                yield from answer_together(self, group, asked.model_copy(update={"seed": seed}), watch)


def changed(asked: InferSettings, changes: dict[str, Any]) -> InferSettings:
    """The settings with some of them changed and checked; None leaves one as it is.

    Raises:
        CadmllmError: E102.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return InferSettings.model_validate({**asked.model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CadmllmError("E102", f"infer.{where}: {first['msg']}", "see cadmllm config keys, group infer") from None
