"""From an encoder's width to the language model's."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    """LayerNorm, Linear, GELU, Linear: features [..., D] to embeddings [..., H], in float32."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.out = nn.Linear(hidden, hidden)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(self.act(self.into(self.norm(features.float()))))

    def scale_to(self, std: float) -> None:
        """Start with outputs about as large as the language model's own embeddings (elementwise deviation `std`).

        Far larger ones would drown the words of the prompt at the first step. For normalised inputs, the default
        initialisation (uniform, deviation 1/sqrt(3 fan_in)) gives outputs of deviation about 0.2.
        """
        self.out.weight.data.mul_(std / 0.2)
        self.out.bias.data.mul_(std / 0.2)
