"""The network of the one-to-one baseline: a U-Net that sees the reference's latent beside the noisy one.

As Zero123 (Liu et al. 2023, section 3): the reference's latent by channel concatenation, its image
embedding together with the relative camera (polar angle, sine and cosine of the azimuth, distance)
through one linear layer as the single context token.
"""

from __future__ import annotations

from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from manyview.geometry.trajectories import spherical_angles
from manyview.nets.unet import build_unet
from manyview.types import Cameras

POSE_NUMBERS = 4


def relative_camera(reference: Cameras, target: Cameras) -> Tensor:
    """[B, 4] elevation difference in radians, sine and cosine of the azimuth difference, distance
    difference, from reference cameras to target cameras (B each) that look at the world's origin."""
    from_azimuth, from_elevation, from_distance = spherical_angles(reference.centers)
    to_azimuth, to_elevation, to_distance = spherical_angles(target.centers)
    turn = torch.deg2rad(to_azimuth - from_azimuth)
    rise = torch.deg2rad(to_elevation - from_elevation)
    return torch.stack([rise, turn.sin(), turn.cos(), to_distance - from_distance], dim=-1)


class PoseConditioner(ModelMixin, ConfigMixin):
    """The context token: image embedding and relative camera through one linear layer."""

    @register_to_config
    def __init__(self, context_dim: int = 128) -> None:
        super().__init__()
        self.mix = nn.Linear(context_dim + POSE_NUMBERS, context_dim)
        with torch.no_grad():  # begins as the plain embedding, as Zero123 does
            self.mix.weight.copy_(torch.eye(context_dim, context_dim + POSE_NUMBERS))
            self.mix.bias.zero_()

    def forward(self, embedding: Tensor, pose: Tensor) -> Tensor:
        """[B, 1, D] from embeddings [B, D] and relative cameras [B, 4]."""
        return self.mix(torch.cat([embedding, pose.to(embedding.dtype)], dim=-1))[:, None]


class PairDenoiser(nn.Module):
    """U-Net and conditioner as one module."""

    def __init__(self, unet: UNet2DConditionModel, conditioner: PoseConditioner) -> None:
        super().__init__()
        self.unet = unet
        self.conditioner = conditioner

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        reference: Tensor,
        embedding: Tensor,
        pose: Tensor,
        keep: Tensor,
    ) -> Tensor:
        """[B, C, h, w] prediction. reference: the clean latent [B, C, h, w]; keep bool [B]: False drops
        reference and token together (the unconditional state of classifier-free guidance)."""
        token = self.conditioner(embedding, pose)
        token = torch.where(keep[:, None, None], token, torch.zeros_like(token))
        shown = torch.where(keep[:, None, None, None], reference, torch.zeros_like(reference))
        picture = torch.cat([latents, shown], dim=1)
        return self.unet(picture, timestep, encoder_hidden_states=token, return_dict=False)[0]


def build_denoiser(
    preset: Literal["compact", "paper"], latent_channels: int, context_dim: int
) -> PairDenoiser:
    """The whole network with fresh weights."""
    unet = build_unet(
        preset, in_channels=2 * latent_channels, latent_channels=latent_channels, context_dim=context_dim
    )
    return PairDenoiser(unet, PoseConditioner(context_dim=context_dim))
