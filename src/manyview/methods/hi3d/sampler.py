"""Drawing an orbit's latents with a network of either stage: Euler steps, guidance frame by frame.

Shapes: B clips, T frames, C latent channels, S depth channels, D context size, W vector width, h x w cells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from manyview.methods.hi3d.guidance import blend_coarse, blend_share, guide
from manyview.methods.hi3d.noise_levels import start_solver
from manyview.methods.hi3d.unet import OrbitUNet


@torch.no_grad()
def sample_clips(
    unet: OrbitUNet,
    scheduler: EulerDiscreteScheduler,
    noise: Tensor,
    condition: Tensor,
    embedding: Tensor,
    vector: Tensor,
    scale: Tensor,
    *,
    num_steps: int = 25,
    depth: Tensor | None = None,
    coarse: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """[B, T, C, h, w] float32 clean latents from unit noise [B, T, C, h, w]; same noise, same result.

    condition: latents of the input [B, 1, C, h, w], shown in all frames, or a coarse orbit [B, T, C, h, w];
    embedding [B, D]; vector [B, W]; scale [T] guidance of each frame, all ones for none; depth
    [B, T, S, h, w] for the refiner. With guidance the network answers a second time with condition, depth
    and embedding zero and the same vector, in the same call. `coarse` [B, T, C, h, w]: latents that the steps
    are pulled to at first (`guidance.blend_share`), as the published second stage does. `on_step` is called
    with 1 after each step.
    """
    solver = start_solver(scheduler, num_steps, noise.device)
    dtype, guided = unet.dtype, bool((scale != 1).any())
    shown = condition.expand(-1, noise.shape[1], -1, -1, -1)
    shown = shown if depth is None else torch.cat([depth.to(shown), shown], dim=2)
    token = embedding[:, None]
    if guided:
        shown = torch.cat([torch.zeros_like(shown), shown])
        token = torch.cat([torch.zeros_like(token), token])
        vector = torch.cat([vector, vector])
    shown, token, vector = shown.to(dtype), token.to(dtype), vector.to(dtype)
    # Latents stay in float32: at first they are hundreds, of which the last steps keep thousandths.
    x = noise.float() * solver.init_noise_sigma
    for step, timestep in enumerate(solver.timesteps):
        if coarse is not None:
            share = blend_share(step, num_steps)
            x = blend_coarse(x, coarse.float(), noise.float(), float(solver.sigmas[step]), share)
        read = solver.scale_model_input(x, timestep).to(dtype)
        rows = torch.cat([read, read]) if guided else read
        answer = unet(torch.cat([rows, shown], dim=2), timestep, token, vector).float()
        if guided:
            answer = guide(*answer.chunk(2), scale)
        x = solver.step(answer, timestep, x, return_dict=False)[0]
        if on_step is not None:
            on_step(1)
    return x
