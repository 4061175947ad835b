"""What a modality is turned into: an encoder, and the projector or the resampler between it and the language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from cadmllm.errors import CadmllmError
from cadmllm.models.projector import Projector
from cadmllm.models.resampler import VIEWS, Resampler
from cadmllm.settings import Settings

if TYPE_CHECKING:
    from cadmllm.models.michelangelo import MichelangeloEncoder

POINTS_STAGE = 2  # clouds are shown from this stage on
IMAGES_STAGE = 3


class Branch(nn.Module):
    """An encoder and its projector: what a modality is turned into.

    Args:
        encoder: gives [C, T, width]; None where training reads its features from a store.
        projector: makes an embedding of a feature; or, of all features of a cloud or of all views of a sample, fewer embeddings.
        frozen: the encoder stays in evaluation mode and is run without gradients, and checkpoints do not hold it.
        held: the same for one that checkpoints hold (`train.encoder_lr=0`).
    """

    def __init__(self, encoder: nn.Module | None, projector: Projector | Resampler, frozen: bool, held: bool = False) -> None:
        super().__init__()
        self.still = frozen or held
        self.encoder = encoder if encoder is None else encoder.requires_grad_(not self.still)
        self.projector = projector
        self.frozen = frozen

    def train(self, mode: bool = True) -> Branch:
        super().train(mode)
        if self.still and self.encoder is not None:
            self.encoder.eval()
        return self

    def forward(self, *inputs: Tensor, counts: Sequence[int] = ()) -> Tensor:
        """`project` of what the encoder gives for C inputs."""
        if self.encoder is None:
            raise CadmllmError(
                "E701",
                "the model was put together for cached features (data.features), without its encoder",
                "load it with data.features unset",
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.still):
            features = self.encoder(*inputs)
        return self.project(features, counts)

    def project(self, features: Tensor, counts: Sequence[int] = ()) -> Tensor:
        """Embeddings [C, tokens, H] of features [C, T, width], float32.

        Where the views of a sample are read together, `counts` says how many each sample shows, and C of the embeddings is the
        number of samples that show any.
        """
        if isinstance(self.projector, Resampler) and self.projector.views is not None:
            return self.projector.together(features, counts)
        return self.projector(features)


def points_branch(settings: Settings, hidden: int, std: float, cached: tuple[int, int] | None = None) -> Branch:
    """The branch of clouds: as many embeddings as the encoder gives features are projected, fewer are resampled.

    Args:
        settings: resolved.
        hidden: H, of the language model.
        std: elementwise deviation of its embeddings, which the outputs start with.
        cached: (features a cloud has in the store, their width): the encoder is not loaded.

    Raises:
        CadmllmError: E502, E507, E508 from the encoder; E102 for more tokens than it gives.
    """
    model = settings.model
    encoder, frozen = None, True
    if cached is None:
        from cadmllm.models.points import build_points_encoder

        encoder, width, frozen = build_points_encoder(settings)
        fourier = model.points_encoder == "fourier"
        given = model.point_tokens if fourier else cast("MichelangeloEncoder", encoder).keep
    else:
        given, width = cached
    _seed(settings, POINTS_STAGE)
    if given == model.point_tokens:
        return _begun(settings, encoder, Projector(width, hidden), std, frozen)
    return _begun(settings, encoder, _resampler(settings, width, hidden, model.point_tokens, 1), std, frozen)


def images_branch(settings: Settings, hidden: int, std: float, cached: tuple[int, int] | None = None) -> Branch:
    """The branch of views, by `model.image_bridge`; arguments as for `points_branch`.

    Raises:
        CadmllmError: E502, E507 from the encoder; E102 for a number of tokens that patches cannot be pooled to.
    """
    model = settings.model
    encoder, frozen = None, True
    if cached is None:
        from cadmllm.models.image import build_image_encoder

        encoder, width, frozen = build_image_encoder(settings)
    else:
        _, width = cached
    _seed(settings, IMAGES_STAGE)
    if model.image_bridge == "mlp":
        return _begun(settings, encoder, Projector(width, hidden), std, frozen)
    return _begun(settings, encoder, _resampler(settings, width, hidden, model.image_tokens, VIEWS), std, frozen)


def _seed(settings: Settings, stage: int) -> None:
    """A projector begins the same, however many numbers the loading of its encoder drew."""
    torch.manual_seed(settings.train.seed * 8 + stage)


def _resampler(settings: Settings, width: int, hidden: int, tokens: int, views: int) -> Resampler:
    model = settings.model
    resampler = Resampler(width, hidden, tokens, inner=model.resampler_width, layers=model.resampler_layers, views=views)
    resampler.again = settings.train.gradient_checkpointing
    return resampler


def _begun(settings: Settings, encoder: nn.Module | None, projector: Projector | Resampler, std: float, frozen: bool) -> Branch:
    projector.scale_to(std)
    return Branch(encoder, projector, frozen, settings.train.encoder_lr == 0)
