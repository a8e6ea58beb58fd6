"""Training of DiMViS on cached latents: masked diffusion over random subsets of observed views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.methods.dimvis.model import DimvisOptions, SlotConditioner, TileDenoiser, build_denoiser
from manyview.methods.dimvis.rig import rig_rays
from manyview.nets.unet import load_grown
from manyview.sampling.noise import item_integers, item_noise, item_uniform
from manyview.sampling.solvers import NUM_TRAIN_STEPS, Prediction, build_scheduler, draw_timesteps
from manyview.training.order import EpochOrder
from manyview.training.task import Task
from manyview.weights.packing import load_component

_STREAMS = {"time": 1, "joint": 2, "subset": 3, "noise": 4, "start": 5}


def draw_observed(seed: int, items: Tensor, num_views: int, joint_fraction: float) -> Tensor:
    """[B, V] bool: nothing observed with probability `joint_fraction` (the paper's d), else one of the
    2^V - 2 subsets that leave something to observe and something to draw, all alike (section 3.1)."""
    joint = item_uniform(seed, items, (), _STREAMS["joint"]) < joint_fraction
    subset = item_integers(seed, items, 2**num_views - 2, (), _STREAMS["subset"]) + 1
    bits = (subset[:, None] >> torch.arange(num_views)) & 1
    return bits.bool() & ~joint[:, None]


def masked_loss(prediction: Tensor, target: Tensor, observed: Tensor) -> Tensor:
    """[B] Eq. 5: lambda |M (target - prediction)|^2 with lambda = 1 + |C| / |M| = V / |M|, per latent number.

    prediction, target: [B, V, C, h, w]; observed [B, V]. What is predicted for observed slots is ignored.
    The sum over the missing part times lambda, over V, is the mean over the missing part.
    """
    missing = (~observed).to(prediction.dtype)
    num_missing = missing.sum(dim=1)
    weight = 1 + observed.to(prediction.dtype).sum(dim=1) / num_missing
    per_slot = (prediction - target).square().mean(dim=(2, 3, 4))
    return weight * (per_slot * missing).sum(dim=1) / observed.shape[1]


class DimvisTask(Task):
    """Masked diffusion on rigs cut from orbits of 16 (or any multiple of V) views.

    latents [N, A, C, h, w] and embeddings [N, A, D] of A evenly spaced azimuths. A rig starts at any of
    the A azimuths, so every slot may be any phase. `prediction` chooses what the network learns: the noise
    (the paper's Eq. 5) or the velocity, whose squared error is the noise's weighted by 1 + 1/SNR.

    With `options.rays` the network is also shown the rays of the rig's cameras, in the frame where slot 0
    is at azimuth 0. That frame turns with the rig, so the rays are the same wherever it starts, in training
    as in `DimvisPipeline`.

    `time_exponent` below 1 draws more of the noisy end (`draw_timesteps`), where a small network has most to
    learn: what the missing views are, not how to remove noise.
    """

    name = "dimvis"

    def __init__(
        self,
        latents: Tensor,
        embeddings: Tensor,
        options: DimvisOptions,
        prediction: Prediction = "v_prediction",
        preset: Literal["compact", "paper"] = "compact",
        joint_fraction: float = 0.2,
        validation: tuple[Tensor, Tensor] | None = None,
        seed: int = 0,
        initial: Path | None = None,
        time_exponent: float = 1.0,
        data_name: str = "",
    ) -> None:
        if latents.shape[1] % options.num_views != 0:
            raise InputError(
                "--grid", options.grid, f"expected rows x columns to divide the {latents.shape[1]} azimuths"
            )
        if options.blend and prediction != "v_prediction":
            raise InputError("--blend", prediction, "expected --prediction v_prediction with it")
        self.latents, self.embeddings = latents, embeddings
        self.options, self.prediction = options, prediction
        self.preset: Literal["compact", "paper"] = preset
        self.joint_fraction = joint_fraction
        self.validation = validation
        self.seed = seed
        self.initial = initial
        self.time_exponent = time_exponent
        self.data_name = data_name
        self.rays = rig_rays(options.num_views, latents.shape[-1]) if options.rays else None
        self.order = EpochOrder(len(latents), seed)
        self.scheduler = build_scheduler(prediction)

    @property
    def settings(self) -> Mapping[str, Any]:
        options = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.options).items()}
        return {
            **options,
            "preset": self.preset,
            "prediction": self.prediction,
            "joint_fraction": self.joint_fraction,
            "initial": str(self.initial) if self.initial else "",
            "time_exponent": self.time_exponent,
            "data": self.data_name,
            "examples": len(self.latents),
        }

    def build(self) -> nn.Module:
        """Fresh weights, or those of `initial`: an exported run, or a published U-Net of the same sizes.

        Input channels that `initial` has not got (options it was trained without) start at zero.
        """
        denoiser = build_denoiser(self.preset, self.options)
        if self.initial is not None:
            exported = (self.initial / "unet").is_dir()
            place = self.initial / "unet" if exported else self.initial
            saved = load_component(UNet2DConditionModel, place, torch.float32, argument="--initial")
            load_grown(denoiser.unet, saved)
            if exported:
                marks = load_component(SlotConditioner, self.initial / "conditioner", argument="--initial")
                parts = {**denoiser.conditioner.state_dict(), **marks.float().state_dict()}
                denoiser.conditioner.load_state_dict(parts)
        return denoiser

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        objects = self.order.indices(items)
        slots = self._slots(items)
        rows = objects[:, None]
        return {
            "latents": self.latents[rows, slots].float(),
            "embeddings": self.embeddings[rows, slots].float(),
        }

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        latents = batch["latents"]
        device = latents.device
        observed = draw_observed(seed, items, self.options.num_views, self.joint_fraction).to(device)
        timestep = draw_timesteps(seed, items, (), _STREAMS["time"], self.time_exponent).to(device)
        noise = item_noise(seed, items, latents.shape[1:], _STREAMS["noise"]).to(device)
        losses = self._losses(model, latents, batch["embeddings"], observed, timestep, noise)
        return losses.mean(), {}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """The loss on held-out rigs for 1, 2 and 3 observed views at fixed times and noise."""
        if self.validation is None:
            return {}
        latents, embeddings = (tensor.to(device).float() for tensor in self.validation)
        step = latents.shape[1] // self.options.num_views
        rigs = torch.cat([latents[:, phase::step] for phase in range(step)])
        tokens = torch.cat([embeddings[:, phase::step] for phase in range(step)])
        items = torch.arange(len(rigs))
        noise = item_noise(self.seed, items, rigs.shape[1:], 99).to(device)
        timestep = (items * 997 % NUM_TRAIN_STEPS).to(device)
        figures = {}
        for count in range(1, self.options.num_views):
            observed = torch.arange(self.options.num_views).expand(len(rigs), -1) < count
            losses = self._losses(model, rigs, tokens, observed.to(device), timestep, noise)
            figures[f"loss_val_{count}"] = float(losses.mean())
        return figures

    def export(self, model: nn.Module, folder: Path) -> None:
        """`unet`, `conditioner` and `scheduler` component folders, float16 safetensors."""
        assert isinstance(model, TileDenoiser), "the DiMViS task trains a TileDenoiser"
        model.unet.half().save_pretrained(folder / "unet")
        model.conditioner.half().save_pretrained(folder / "conditioner")
        self.scheduler.save_pretrained(folder / "scheduler")

    def _slots(self, items: Tensor) -> Tensor:
        azimuths, views = self.latents.shape[1], self.options.num_views
        start = item_integers(self.seed, items, azimuths, (), _STREAMS["start"])
        return (start[:, None] + torch.arange(views) * (azimuths // views)) % azimuths

    def _losses(
        self,
        model: nn.Module,
        latents: Tensor,
        embeddings: Tensor,
        observed: Tensor,
        timestep: Tensor,
        noise: Tensor,
    ) -> Tensor:
        noisy = self.scheduler.add_noise(latents, noise, timestep)  # type: ignore[arg-type]
        x = torch.where(observed[:, :, None, None, None], latents, noisy)
        target = noise
        if self.prediction == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, timestep)  # type: ignore[arg-type]
        shown = {}
        if self.rays is not None:
            shown["rays"] = self.rays.to(latents).expand(len(latents), -1, -1, -1, -1)
        return masked_loss(model(x, timestep, observed, embeddings, **shown).float(), target, observed)
