"""Elevation by trying: the one under which the first stage finds the picture least surprising.

A diffusion model's denoising error bounds the likelihood of what it denoises, so of several conditions the
one with the lowest error explains a picture best (Li et al. 2023, "Your diffusion model is secretly a
zero-shot classifier"). Of an orbit only frame 0 is known, so for every candidate the others are drawn first,
in few steps; then the whole orbit is noised to several levels and the error of frame 0 alone counts. The
condition's latents are left out, as training leaves them out now and then, for from them frame 0 could be
read off at any elevation. All candidates have the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from manyview.methods.hi3d.elevation import Elevation, sweep_elevation
from manyview.methods.hi3d.frames import encode_frames
from manyview.methods.hi3d.noise_levels import LOG_SIGMA, SIGMA_MAX, SIGMA_MIN, add_noise, scalings, velocity
from manyview.methods.hi3d.stage import StageNetworks
from manyview.nets.image_encoder import embed
from manyview.progress import Progress, silent
from manyview.sampling.noise import item_noise

LEVELS = (-0.5, 0.0, 0.5, 1.0)
"""Noise levels, in deviations of ln sigma from its mean in training: where layout is decided."""
_STREAM = 5


@torch.inference_mode()
def sweep(
    networks: StageNetworks,
    given: Tensor,
    candidates: Sequence[float],
    *,
    seed: int = 0,
    num_steps: int = 8,
    draws: int = 2,
    levels: Sequence[float] = LEVELS,
    progress: Progress = silent,
) -> Elevation:
    """The best of some elevations in degrees for a picture [3, S, S] as the first stage is given it, with the
    scores of all: mean squared errors of the velocity in frame 0, over the levels and `draws` noises each.

    `num_steps` of drawing a candidate's orbit, without guidance. Raises `InputError` as `sweep_elevation`.
    """
    pictures = given[None]
    unguided = torch.ones(networks.num_frames)

    def score(degrees: float) -> float:
        elevation = torch.tensor([degrees])
        drawn = networks.draw(
            pictures, pictures[:, None], elevation, unguided, items=[0], seed=seed, num_steps=num_steps
        )
        progress.advance()
        return frame_error(networks, pictures, drawn, elevation, seed=seed, draws=draws, levels=levels)

    progress.start(len(set(candidates)), "elevations tried")
    try:
        return sweep_elevation(score, candidates)
    finally:
        progress.finish()


def frame_error(
    networks: StageNetworks,
    given: Tensor,
    orbit: Tensor,
    elevation_deg: Tensor,
    *,
    seed: int,
    draws: int = 2,
    levels: Sequence[float] = LEVELS,
) -> float:
    """Mean squared error of the velocity in frame 0, the condition's latents left out.

    given [1, 3, S, S]; orbit: latents [1, T, C, h, w], of which frame 0 is replaced by the picture's.
    """
    device, unet = networks.device, networks.unet
    pixels = given.to(device, networks.vae.dtype)
    clean = orbit.float().clone()
    clean[:, 0] = encode_frames(networks.vae, pixels[:, None])[:, 0].float()
    token = embed(networks.image_encoder, pixels)[:, None].to(unet.dtype)
    vector = networks.vector(elevation_deg).to(unet.dtype)
    mean, std = training_levels(networks)
    total = 0.0
    for draw in range(draws):
        noise = item_noise(seed, [draw], clean.shape[1:], _STREAM).to(device)
        for level in levels:
            sigma = torch.tensor([math.exp(mean + level * std)], device=device)
            _, _, c_in, c_noise = scalings(sigma)
            read = c_in * add_noise(clean, noise, sigma)
            rows = torch.cat([read, torch.zeros_like(read)], dim=2).to(unet.dtype)
            answer = unet(rows, c_noise, token, vector).float()
            error = answer[:, 0] - velocity(clean, noise, sigma)[:, 0]
            total += float(error.square().mean())
    return total / (draws * len(levels))


def training_levels(networks: StageNetworks) -> tuple[float, float]:
    """Mean and deviation of ln sigma in training, read off the sampler's ends, which stand as many deviations
    from the mean as the published ones."""
    mean, std = LOG_SIGMA
    config = networks.scheduler.config
    low, high = math.log(config["sigma_min"]), math.log(config["sigma_max"])
    own = (high - low) * std / (math.log(SIGMA_MAX) - math.log(SIGMA_MIN))
    return high - own * (math.log(SIGMA_MAX) - mean) / std, own
