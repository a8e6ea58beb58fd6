"""The latent refiner: a diffusion network over the layers of a code that makes an edited code view-consistent
(section 3.4, eq. 2).

Shapes: B items, L rows of a code, D numbers a row; codes [B, L, D].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.methods.refiner.noise_levels import add_noise, step_towards
from manyview.nets.unet1d import UNet1d
from manyview.sampling.solvers import NUM_TRAIN_STEPS

_POSE_NUMBERS = 6
_POSE_SCALE = 3.0
"""On poses, which are mostly below one radian and one unit, before they are embedded."""


class CodeRefiner(ModelMixin, ConfigMixin):
    """Predicts the clean refined code (x0) from the code w, the edited code with noise, the pose and the
    level.

    The answer is the edited code plus a difference, which starts at zero: before any training the refiner
    gives GANSpace's codes. Codes are seen and differences made in units of the generator's own spread
    (`set_statistics`). `layers` limits the difference to rows first <= l < last.
    """

    mean: Tensor
    deviation: Tensor

    @register_to_config
    def __init__(
        self,
        num_ws: int,
        w_dim: int,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2),
        num_res_blocks: int = 1,
        attention_levels: Sequence[int] = (0, 1),
        head_channels: int = 32,
        norm_groups: int = 32,
        layers: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        first, last = (0, num_ws) if layers is None else (int(layers[0]), int(layers[1]))
        if not 0 <= first < last <= num_ws:
            raise InputError("layers", layers, f"expected a range within 0 to {num_ws}")
        self.num_ws, self.w_dim = num_ws, w_dim
        self.net = UNet1d(
            in_channels=2 * w_dim,
            out_channels=w_dim,
            model_channels=model_channels,
            num_res_blocks=num_res_blocks,
            attention_levels=attention_levels,
            channel_mult=channel_mult,
            head_channels=head_channels,
            norm_groups=norm_groups,
        )
        size = self.net.embedding_size
        self.pose_in, self.pose_out = nn.Linear(_POSE_NUMBERS, size), nn.Linear(size, size)
        # A layer is not a place along a picture: each has a meaning of its own, which convolutions cannot
        # see.
        self.rows = nn.Parameter(0.02 * torch.randn(2 * w_dim, num_ws))
        moved = torch.zeros(num_ws)
        moved[first:last] = 1
        self.register_buffer("moved", moved, persistent=False)
        self.register_buffer("mean", torch.zeros(w_dim))
        self.register_buffer("deviation", torch.ones(w_dim))

    def set_statistics(self, mean: Tensor, deviation: Tensor | float) -> None:
        """Record the mean [D] of the generator's codes, and their deviation ([D] or one number)."""
        self.mean.copy_(mean)
        self.deviation.copy_(torch.as_tensor(deviation).to(self.deviation).expand(self.w_dim))

    def add_noise(self, codes: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """[B, L, D] codes at level t [B], of normal `noise` [B, L, D]; t = -1 leaves them."""
        return self.denormalize(add_noise(self.normalize(codes), noise, t))

    def normalize(self, codes: Tensor) -> Tensor:
        """Codes in units of their spread about their mean."""
        return (codes - self.mean) / self.deviation

    def denormalize(self, codes: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return codes * self.deviation + self.mean

    def forward(
        self, w: Tensor, edited: Tensor, pose: Tensor, t: Tensor, noisy: Tensor | None = None
    ) -> Tensor:
        """[B, L, D] the refined code w+ (eq. 2).

        w, edited: the code and GANSpace's edit of it; pose [B, 6] axis-angle and translation of the motion
        between their images; noisy: the edited code at level t [B] (`add_noise`), by default without noise.
        Raises `InputError` for codes of another shape.
        """
        expected = (self.num_ws, self.w_dim)
        for name, codes in (("w", w), ("edited", edited)):
            if codes.ndim != 3 or tuple(codes.shape[1:]) != expected:
                raise InputError(name, tuple(codes.shape), f"expected [B, {expected[0]}, {expected[1]}]")
        seen = self.normalize(edited if noisy is None else noisy)
        x = torch.cat([self.normalize(w), seen], dim=-1).mT + self.rows
        rest = -self.num_ws % self.net.factor
        x = F.pad(x, (0, rest))
        embedding = self.pose_out(F.silu(self.pose_in(_POSE_SCALE * pose)))
        change = self.net(x, t, embedding=embedding)[..., : self.num_ws].mT
        return edited + change * self.deviation * self.get_buffer("moved")[:, None]


def build_refiner(preset: Literal["compact", "paper"], num_ws: int, w_dim: int) -> CodeRefiner:
    """A refiner with fresh weights: `compact` (1 M parameters), or `paper` (guided diffusion's widths
    and heads over codes of 512 numbers; the paper gives no sizes)."""
    if preset == "compact":
        return CodeRefiner(num_ws, w_dim, model_channels=32, channel_mult=(2, 3), head_channels=32)
    return CodeRefiner(
        num_ws, w_dim, model_channels=256, channel_mult=(1, 2, 3), num_res_blocks=2,
        attention_levels=(0, 1, 2), head_channels=64,
    )  # fmt: skip


def refine(
    refiner: CodeRefiner,
    w: Tensor,
    edited: Tensor,
    pose: Tensor,
    *,
    steps: int = 1,
    level: int = 0,
    noise: Tensor | None = None,
) -> Tensor:
    """[B, L, D] refined codes: the edited codes brought to `level` and from there in `steps` steps to none.

    The default is one step from level 0, at which the noise has a deviation of 0.01. `noise` [B, L, D] is
    normal, and none at all without it, as sampling the middle of the level. Raises `InputError` for a level
    outside 0 .. 999 and for more steps than levels.
    """
    if not 0 <= level < NUM_TRAIN_STEPS:
        raise InputError("level", level, f"expected 0 to {NUM_TRAIN_STEPS - 1}")
    if not 1 <= steps <= level + 1:
        raise InputError("steps", steps, f"expected 1 to {level + 1} from level {level}")
    levels = torch.linspace(level, -1, steps + 1).round().long().tolist()
    codes = refiner.normalize(edited)
    noise = torch.zeros_like(codes) if noise is None else noise
    start = torch.full((len(codes),), level, device=codes.device)
    x = add_noise(codes, noise, start)
    refined = edited
    for now, after in pairwise(levels):
        t, t_next = (torch.full_like(start, value) for value in (now, after))
        refined = refiner(w, edited, pose, t, refiner.denormalize(x))
        x = step_towards(x, refiner.normalize(refined), t, t_next)
    return refined
