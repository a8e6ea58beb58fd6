"""Training of the one-to-one baseline on the latents of compact DiMViS."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from manyview.methods.one2one.model import PairDenoiser, PoseConditioner, build_denoiser
from manyview.nets.unet import load_grown
from manyview.sampling.noise import item_integers, item_noise, item_uniform
from manyview.sampling.solvers import Prediction, build_scheduler, draw_timesteps
from manyview.training.order import EpochOrder
from manyview.training.task import Task
from manyview.weights.packing import load_component

_STREAMS = {"time": 1, "drop": 2, "reference": 3, "noise": 4, "turn": 5}


class One2OneTask(Task):
    """Pairs of views of one orbit, any turn apart; the reference is dropped with probability `drop`.

    latents [N, A, C, h, w] and embeddings [N, A, D] of A evenly spaced azimuths at one elevation. One
    item is four targets of one reference, so that an item costs what a DiMViS tile of four costs.
    """

    name = "one2one"
    targets_per_item = 4

    def __init__(
        self,
        latents: Tensor,
        embeddings: Tensor,
        prediction: Prediction = "v_prediction",
        preset: Literal["compact", "paper"] = "compact",
        drop: float = 0.1,
        seed: int = 0,
        initial: Path | None = None,
        time_exponent: float = 1.0,
        data_name: str = "",
    ) -> None:
        self.latents, self.embeddings = latents, embeddings
        self.prediction, self.drop = prediction, drop
        self.preset: Literal["compact", "paper"] = preset
        self.seed, self.data_name = seed, data_name
        self.initial, self.time_exponent = initial, time_exponent
        self.order = EpochOrder(len(latents), seed)
        self.scheduler = build_scheduler(prediction)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "preset": self.preset,
            "prediction": self.prediction,
            "drop": self.drop,
            "initial": str(self.initial) if self.initial else "",
            "time_exponent": self.time_exponent,
            "data": self.data_name,
            "examples": len(self.latents),
        }

    def build(self) -> nn.Module:
        """Fresh weights, or those of `initial`, an exported run."""
        denoiser = build_denoiser(self.preset, self.latents.shape[2], self.embeddings.shape[2])
        if self.initial is not None:
            place = self.initial / "unet"
            saved = load_component(UNet2DConditionModel, place, torch.float32, argument="--initial")
            load_grown(denoiser.unet, saved)
            mark = load_component(PoseConditioner, self.initial / "conditioner", argument="--initial")
            denoiser.conditioner.load_state_dict(mark.float().state_dict())
        return denoiser

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        azimuths, many = self.latents.shape[1], self.targets_per_item
        objects = self.order.indices(items)
        reference = item_integers(self.seed, items, azimuths, (), _STREAMS["reference"])
        turn = item_integers(self.seed, items, azimuths - 1, (many,), _STREAMS["turn"]) + 1
        target = (reference[:, None] + turn) % azimuths
        angle = turn.float() * (2 * math.pi / azimuths)
        zero = torch.zeros_like(angle)
        return {
            "reference": self.latents[objects, reference].float().repeat_interleave(many, 0),
            "embedding": self.embeddings[objects, reference].float().repeat_interleave(many, 0),
            "target": self.latents[objects[:, None], target].float().flatten(0, 1),
            "pose": torch.stack([zero, angle.sin(), angle.cos(), zero], dim=-1).flatten(0, 1),
        }

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        target, many = batch["target"], self.targets_per_item
        device = target.device
        timestep = draw_timesteps(seed, items, (many,), _STREAMS["time"], self.time_exponent)
        timestep = timestep.flatten().to(device)
        keep = item_uniform(seed, items, (many,), _STREAMS["drop"]).flatten().to(device) >= self.drop
        noise = item_noise(seed, items, (many, *target.shape[1:]), _STREAMS["noise"]).flatten(0, 1).to(device)
        noisy = self.scheduler.add_noise(target, noise, timestep)  # type: ignore[arg-type]
        wanted = noise
        if self.prediction == "v_prediction":
            wanted = self.scheduler.get_velocity(target, noise, timestep)  # type: ignore[arg-type]
        output = model(noisy, timestep, batch["reference"], batch["embedding"], batch["pose"], keep)
        return (output.float() - wanted).square().mean(), {}

    def export(self, model: nn.Module, folder: Path) -> None:
        """`unet`, `conditioner` and `scheduler` component folders, float16 safetensors."""
        assert isinstance(model, PairDenoiser), "the one-to-one task trains a PairDenoiser"
        model.unet.half().save_pretrained(folder / "unet")
        model.conditioner.half().save_pretrained(folder / "conditioner")
        self.scheduler.save_pretrained(folder / "scheduler")
