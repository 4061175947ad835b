"""A scene whose clouds were encoded by a frozen encoder, for what may be wrong with cached features."""

from __future__ import annotations

from scene import Scene

from cadmllm.console import Console
from cadmllm.corpus.layout import open_dataset


def made_encoders(scene: Scene, seed: int = 0) -> dict[str, object]:
    """A small Michelangelo as the scene's frozen encoder; what to set."""
    from encoders import make_michelangelo

    path = make_michelangelo(scene.folder / "points.pt", seed)
    return {"model.points_encoder": "michelangelo", "model.points_checkpoint": str(path), "model.point_tokens": 9}


def encoded(scene: Scene, ids: int | None = None) -> None:
    """Encode the scene's clouds (the first `ids` of them) and train from that."""
    from cadmllm.train.encode import Options, encode

    scene.values |= made_encoders(scene)
    dataset = open_dataset(scene.settings().data)
    if ids is not None:
        dataset.ids = dataset.ids[:ids]
    options = Options(parts=("points",), draws=1, dtype="float32")
    encode(scene.settings(), dataset, scene.folder / "features", options, Console(quiet=True))
    scene.values["data.features"] = str(scene.folder / "features")
