"""Gaussian views with a known conditional, and their exact denoiser: the ground truth of the samplers.

The joint latent z of V slots (C = 1, h = 1, w = W) is Gaussian with mean `mean` and covariance `cov`
([V W], [V W, V W]). Given the observed coordinates c, the missing ones m are Gaussian with
    mean_m|c = mean_m + S_mc S_cc^-1 (z_c - mean_c),    S_m|c = S_mm - S_mc S_cc^-1 S_cm  (Schur complement).
For x = sqrt(a) z_m + sqrt(1 - a) e, the best guess of the noise is linear in x: with
    P = a S_m|c + (1 - a) I,   r = x - sqrt(a) mean_m|c,
    E[e | x] = sqrt(1 - a) P^-1 r   and   E[z | x] = mean_m|c + sqrt(a) S_m|c P^-1 r,
and the velocity is v = sqrt(a) e - sqrt(1 - a) z.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from manyview.sampling.solvers import Prediction, build_scheduler

VIEWS, WIDTH = 3, 2


class GaussianToy:
    """V = 3 slots of two numbers, correlated within and across slots."""

    def __init__(self, prediction: Prediction) -> None:
        generator = torch.Generator().manual_seed(5)
        count = VIEWS * WIDTH
        mix = torch.randn(count, count, generator=generator, dtype=torch.float64)
        self.mean = 0.5 * torch.randn(count, generator=generator, dtype=torch.float64)
        self.cov = mix @ mix.T / count + 0.1 * torch.eye(count, dtype=torch.float64)
        self.scheduler: DDIMScheduler = build_scheduler(prediction)
        self.prediction = prediction
        self.calls: list[dict[str, Tensor]] = []

    def draw(self, count: int) -> Tensor:
        """[count, V, 1, 1, W] joint samples."""
        noise = torch.randn(
            count, len(self.mean), generator=torch.Generator().manual_seed(9), dtype=torch.float64
        )
        return self.slots(self.mean + noise @ torch.linalg.cholesky(self.cov).T)

    @staticmethod
    def slots(flat: Tensor) -> Tensor:
        return flat.reshape(len(flat), VIEWS, 1, 1, WIDTH)

    def conditional(self, observed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """For a subset [V]: masks of missing and known numbers, gain S_mc S_cc^-1, mean offset, S_m|c."""
        known = observed.repeat_interleave(WIDTH)
        m, c = ~known, known
        gain = self.cov[m][:, c] @ torch.linalg.inv(self.cov[c][:, c])
        cov = self.cov[m][:, m] - gain @ self.cov[c][:, m]
        return m, c, gain, self.mean[m] - gain @ self.mean[c], cov

    def __call__(self, latents: Tensor, timestep: Tensor, observed: Tensor, described: Tensor) -> Tensor:
        """The exact answer. Observed slots get NaN: nothing may depend on what is predicted there.

        Half of a call's rows share one subset; `calls` lists the two halves of a guided call one by one.
        """
        if bool((described != described[0]).any()):
            halves = (part.chunk(2) for part in (latents, observed, described))
            return torch.cat([self(x, timestep, clean, told) for x, clean, told in zip(*halves, strict=True)])
        self.calls.append(
            {"latents": latents, "timestep": timestep, "observed": observed, "described": described}
        )
        assert bool((observed == observed[0]).all()), "one subset a call"
        a = self.scheduler.alphas_cumprod[timestep].double()
        m, c, gain, offset, cov = self.conditional(observed[0])
        flat = latents.double().reshape(len(latents), -1)
        mean = offset + flat[:, c] @ gain.T
        residual = flat[:, m] - a.sqrt() * mean
        whitened = residual @ torch.linalg.inv(a * cov + (1 - a) * torch.eye(len(cov), dtype=torch.float64))
        noise = (1 - a).sqrt() * whitened
        clean = mean + a.sqrt() * whitened @ cov
        answer = torch.full_like(flat, torch.nan)
        answer[:, m] = noise if self.prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * clean
        return self.slots(answer)

    def exact(self, latents: Tensor, noise: Tensor, observed: Tensor) -> Tensor:
        """Where the probability-flow ODE takes `noise` [B, V, 1, 1, W] for a subset [V]: the answer of any
        solver with infinitely many steps.

        Along the flow (x - sqrt(a) mean) P^-1/2 is constant, since x stays N(sqrt(a) mean, P) in law and
        every P shares its eigenvectors with S. So z = mean + S^1/2 P_T^-1/2 (x_T - sqrt(a_T) mean). Where
        a_T = 0 that is N(mean, S) for standard normal x_T; else the start is off by 7 % of the mean.
        """
        m, c, gain, offset, cov = self.conditional(observed)
        a = self.scheduler.alphas_cumprod[-1].double()
        values, vectors = torch.linalg.eigh(cov)
        stretch = vectors @ torch.diag((values / (a * values + 1 - a)).sqrt()) @ vectors.T
        mean = offset + latents.double().flatten(1)[:, c] @ gain.T
        out = latents.double().flatten(1).clone()
        out[:, m] = mean + (noise.double().flatten(1)[:, m] - a.sqrt() * mean) @ stretch
        return self.slots(out)
