"""The published sampler with its quirks, for comparisons with published results.

It is called PLMS there, but draws fresh noise at every step as ancestral sampling does, around multistep
estimates of the noise. And from t_max = 0.99 up it starts at time 1 from the clean latent itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.methods.sparsefusion.noise_levels import add_noise, cosine_log_snr, remove_noise, step_back

Estimate = Callable[[Tensor, Tensor], Tensor]
"""The predicted noise [B, C, h, w] of latents [B, C, h, w] at log signal-to-noise ratios [B]."""

# Adams-Bashforth weights of the newest estimate and those before it (order 2, 3, 4).
_WEIGHTS = ((3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
_FULL = 0.99


@dataclass(frozen=True)
class ReleasedStep:
    """One step, for comparisons."""

    time: float
    next_time: float
    estimate: Tensor
    """The network's answer at `time`."""
    clean: Tensor
    """The guess of the clean latents, clamped."""
    x: Tensor
    """The latents after the step."""


def sample_as_released(
    estimate: Estimate,
    start: Tensor,
    draw: Callable[[], Tensor],
    *,
    t_max: float,
    num_steps: int,
    clip: float,
    on_step: Callable[[ReleasedStep], object] | None = None,
) -> Tensor:
    """[B, C, h, w] the clean latents that the published sampler makes of clean ones `start` [B, C, h, w].

    `draw` gives the next noise of the latents' shape; one is drawn and thrown away before each that counts,
    as there.
    """
    noise = draw()
    times = torch.linspace(1.0 if t_max >= _FULL else t_max, 0.0, num_steps + 1, device=start.device)
    levels = cosine_log_snr(times).to(start.dtype)[:, None].expand(-1, len(start))
    x = start if t_max >= _FULL else add_noise(start, noise, levels[0])

    def move(x: Tensor, by: Tensor, place: int) -> tuple[Tensor, Tensor]:
        clean = remove_noise(x, by, levels[place]).clamp(-clip, clip)
        mean, variance = step_back(x, clean, levels[place], levels[place + 1])
        draw()
        fresh = draw()
        if place == num_steps - 1:
            return mean, clean
        return mean + variance.clamp_min(1e-20).sqrt() * fresh, clean

    history: list[Tensor] = []  # newest first
    for place in range(num_steps):
        newest = estimate(x, levels[place])
        history = [newest, *history][:4]
        if len(history) == 1:
            trial, _ = move(x, newest, place)
            mixed = (newest + estimate(trial, levels[place + 1])) / 2
        else:
            mixed = sum(w * e for w, e in zip(_WEIGHTS[len(history) - 2], history, strict=True))
        x, clean = move(x, torch.as_tensor(mixed), place)
        if on_step is not None:
            on_step(ReleasedStep(float(times[place]), float(times[place + 1]), newest, clean, x))
    return x.clamp(-clip, clip)
