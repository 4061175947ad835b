"""What is asked for, before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cadmllm.infer.inputs import Shown
    from cadmllm.settings import Settings


@dataclass(frozen=True, slots=True)
class Request:
    """One part that is wanted.

    Attributes:
        name: random numbers of sampling depend on it; different within a batch.
        text: what to make; None where an image or points say it.
        images: of one part: paths, PIL images, or arrays [H, W, 3] or [H, W, 4] uint8.
        points: scans or meshes of one part in one frame: paths, arrays [N, 3] or [N, 6], meshes.
        size: '40x20x10mm': what the result is brought to; None: what the points, the text or the model say.
        seed: of sampling; None: `infer.seed`.
        shown: the inputs, where they have been read already (`read`).
    """

    name: str = "prompt"
    text: str | None = None
    images: tuple[Any, ...] = ()
    points: tuple[Any, ...] = ()
    size: str | None = None
    seed: int | None = None
    shown: Shown | None = None

    def read(self, settings: Settings) -> Shown:
        """The inputs, read and checked.

        Raises:
            CadmllmError: E703 (nothing given), E705 (size), E404 to E408, E42x to E44x (inputs).
        """
        if self.shown is not None:
            return self.shown
        from cadmllm.infer.inputs import read_inputs

        asked = settings.infer
        return read_inputs(
            self.text,
            self.images,
            self.points,
            point_count=settings.model.point_count,
            sampling=settings.model.point_sampling,
            seed=asked.seed if self.seed is None else self.seed,
            name=self.name,
            units=asked.units,
            clean=asked.clean,
        )
