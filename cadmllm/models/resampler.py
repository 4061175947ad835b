"""Many features to a few: learned latents look at everything an encoder gives and become as many tokens as are wanted.

As in CAD-MLLM (arXiv 2411.04954), where a trainable perceiver stands between the frozen image encoder and the projector, so that
one view and eight views cost the prompt the same. Latents and cross-attention are Perceiver's (Jaegle et al. 2021, arXiv
2103.03206); keys and values come from features *and* latents, and places among the inputs have embeddings, as in Flamingo's
resampler (Alayrac et al. 2022, arXiv 2204.14198): so latents see one another without layers of self-attention of their own,
for N more keys beside thousands.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cadmllm.errors import CadmllmError
from cadmllm.models.projector import Projector

VIEWS = 8  # most views of one part: the perceiver's view embeddings
HEAD_WIDTH = 64
MLP_RATIO = 4
LATENTS_STD = 0.02  # Perceiver's; larger ones drown what they read, and are slower to learn from it


def heads_of(inner: int) -> int:
    """Attention heads of a resampler: about `HEAD_WIDTH` wide, and a divisor of its width."""
    return next(heads for heads in range(max(1, inner // HEAD_WIDTH), 0, -1) if inner % heads == 0)


class _Block(nn.Module):
    """Pre-norm: latents attend to keys and to each other, then an MLP."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.heads = heads_of(inner)
        self.norm = nn.LayerNorm(inner)
        self.q = nn.Linear(inner, inner, bias=False)
        self.kv = nn.Linear(inner, 2 * inner, bias=False)
        self.out = nn.Linear(inner, inner, bias=False)
        self.norm_mlp = nn.LayerNorm(inner)
        self.up = nn.Linear(inner, MLP_RATIO * inner)
        self.down = nn.Linear(MLP_RATIO * inner, inner)

    def forward(self, latents: Tensor, keys: Tensor) -> Tensor:
        """Latents [S, N, inner] and normalised keys [S, K, inner] to latents."""
        own = self.norm(latents)
        q = self.q(own).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(torch.cat([keys, own], dim=1)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        latents = latents + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return latents + self.down(F.gelu(self.up(self.norm_mlp(latents))))


class Resampler(nn.Module):
    """All features of a sample to `tokens` embeddings.

    Args:
        width: of a feature.
        hidden: H, of the language model.
        tokens: embeddings a sample, however many features it has.
        inner: width of latents, keys and values.
        layers: blocks of cross-attention and MLP.
        views: most inputs of a sample; with more than one, each place among them has an embedding [width], added to its features.

    Attributes:
        again: in training only the features are kept, and what the backward pass needs of them is computed again
            (`train.gradient_checkpointing`): it then stands when nothing of the decoder does any more.
    """

    def __init__(self, width: int, hidden: int, tokens: int, *, inner: int = 512, layers: int = 2, views: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.views = nn.Parameter(torch.randn(views, width) * 0.02) if views > 1 else None
        self.into = nn.Linear(width, inner)
        self.norm_keys = nn.LayerNorm(inner)  # one for all blocks: each has its own linear layer behind it
        self.latents = nn.Parameter(torch.randn(tokens, inner) * LATENTS_STD)
        self.blocks = nn.ModuleList(_Block(inner) for _ in range(layers))
        self.end = Projector(inner, hidden)
        self.again = False

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings [S, tokens, H] of features [S, V, T, width] or [S, T, width], in float32 (in autocast's precision under it).

        Raises:
            CadmllmError: E707 for more than `views` views of a sample.
        """
        if self.again and self.training and torch.is_grad_enabled():
            return checkpoint(self._read, features, use_reentrant=False, preserve_rng_state=False)  # nothing in it is random
        return self._read(features)

    def _read(self, features: Tensor) -> Tensor:
        features = self.norm(features.float())
        if self.views is not None:
            check_views(features.shape[1], len(self.views))
            features = (features + self.views[: features.shape[1], None]).flatten(1, 2)
        keys = self.norm_keys(self.into(features).float())
        latents = self.latents.expand(len(features), -1, -1)
        for block in self.blocks:
            latents = block(latents, keys)
        return self.end(latents)

    def together(self, features: Tensor, counts: Sequence[int]) -> Tensor:
        """Embeddings [S, tokens, H] of the samples that show views, in their order.

        Samples with as many views are computed at once, without padding: what a sample becomes does not depend on the others.

        Args:
            features: [I, T, width], all views of all samples in order.
            counts: views of each sample; those without any become nothing.

        Raises:
            CadmllmError: E707 for more views of a sample than there are embeddings; E901 when the numbers do not add up.
        """
        if sum(counts) != len(features):
            message = f"a batch holds {len(features)} views, and its samples say that they show {sum(counts)}"
            raise CadmllmError("E901", message, "please report this: image_counts of a batch count its images")
        shown = [count for count in counts if count]
        by_sample = features.split(shown)
        made: list[Tensor] = []
        order: list[int] = []
        for count in sorted(set(shown)):
            places = [place for place, other in enumerate(shown) if other == count]
            made.append(self(torch.stack([by_sample[place] for place in places])))
            order += places
        back = torch.tensor(order, device=features.device).argsort()
        return made[0] if len(made) == 1 else torch.cat(made)[back]

    def scale_to(self, std: float) -> None:
        """Start with outputs about as large as the language model's own embeddings (`Projector.scale_to`)."""
        self.end.scale_to(std)


def check_views(count: int, most: int = VIEWS, where: str = "this model") -> None:
    """Refuse more views of one part than the perceiver has embeddings for.

    Raises:
        CadmllmError: E707.
    """
    if count > most:
        raise CadmllmError(
            "E707",
            f"{count} images of one part are given, and the perceiver of {where} reads at most {most} together",
            f"give the {most} that show most of it; a model trained with --set model.image_bridge=mlp takes more",
        )
