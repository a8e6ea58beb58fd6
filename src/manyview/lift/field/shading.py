"""Colour that depends on the direction of sight, added once a ray to what the ray has gathered."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manyview.lift.field.kernel_marching import NUM_COLORS, NUM_FEATURES


class Shader(nn.Module):
    """Plain colour plus a small network's part.

    The network sees the sums along the ray of the free features, the direction and the normal (Hedman et al.
    2021 shade deferred in the same manner). Its last layer starts at zero: at first colour is the same from
    everywhere.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            # The same start in every process, whatever was drawn before.
            torch.manual_seed(0)
            first = nn.Linear(NUM_FEATURES - NUM_COLORS + 6, width)
        self.net = nn.Sequential(first, nn.ReLU(), nn.Linear(width, 3))
        last = self.net[2]
        assert isinstance(last, nn.Linear), "the last layer is linear"
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, opacity: Tensor, directions: Tensor, normals: Tensor) -> Tensor:
        """[N, 3] colour times opacity from summed `features` [N, 8] and `opacity` [N].

        `directions` [N, 3] and `normals` [N, 3] (zero where unknown) are in the world's axes.
        """
        given = torch.cat((features[:, NUM_COLORS:], directions, normals), dim=1)
        return features[:, :NUM_COLORS] + 0.5 * torch.tanh(self.net(given)) * opacity[:, None]
