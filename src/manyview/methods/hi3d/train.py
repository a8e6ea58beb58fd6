"""Training of both stages of Hi3D on encoded orbits: video diffusion with one noise level a clip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.methods.hi3d.conditions import vector_condition
from manyview.methods.hi3d.convert import COMPONENTS
from manyview.methods.hi3d.initial import load_initial
from manyview.methods.hi3d.noise_levels import (
    LOG_AUGMENTATION,
    LOG_SIGMA,
    SIGMA_MAX,
    SIGMA_MIN,
    add_noise,
    as_items,
    build_scheduler,
    draw_log_normal,
    scalings,
    velocity,
)
from manyview.methods.hi3d.orbits import Orbits
from manyview.methods.hi3d.refine_data import crop_clips
from manyview.methods.hi3d.spec import NUM_FRAMES, PAPER_DIFFUSION
from manyview.methods.hi3d.unet import OrbitUNet, Stage, build_unet
from manyview.sampling.noise import item_integers, item_noise, item_uniform
from manyview.training.order import EpochOrder
from manyview.training.task import Task

_STREAMS = {
    "start": 1,
    "window": 2,
    "sigma": 3,
    "noise": 4,
    "augmentation": 5,
    "condition": 6,
    "drop": 7,
    "source": 8,
    "object": 9,
}
_VALIDATED = 16
_AT_ONCE = 4
"""Clips of a validation in one call of the network."""


@dataclass(frozen=True, kw_only=True)
class Hi3dOptions:
    """Choices of training. The defaults are the paper's. Raises `InputError` for values out of range."""

    log_sigma: tuple[float, float] = LOG_SIGMA
    """Mean and deviation of ln sigma. Small latents need less noise than large ones to be hidden, so a lower
    mean suits 16 x 16 cells."""
    log_augmentation: tuple[float, float] = LOG_AUGMENTATION
    """Mean and deviation of the log of the noise that is put on the condition's latents."""
    drop: float = float(PAPER_DIFFUSION["drop"])
    """How often the token, the condition's latents and the depth are each left out."""
    joint_drop: float = 0.0
    """How often all are left out together, beside that: the state that guidance compares with, which the
    separate drops reach once in a hundred clips."""
    window: int = 0
    """Frames of a clip, consecutive ones from anywhere on the orbit; 0 for the whole orbit."""
    crop: int = 0
    """refine: latent cells along a side of the square that is cut out of all frames of a clip, somewhere; 0
    for whole frames."""
    closed: bool = False
    """Tell the network that the orbit is closed (see `OrbitUNet`)."""
    sweep_depths: int = 0
    """orbit: show the network what the input holds along its rays at so many depths (see `OrbitUNet`)."""
    blend: bool = False
    """Choose for every cell among what is shown, and learn the rest (see `OrbitUNet`)."""

    def __post_init__(self) -> None:
        for name in ("log_sigma", "log_augmentation"):
            value = getattr(self, name)
            if not all(math.isfinite(number) for number in value) or value[1] <= 0:
                flag = "--" + name.replace("_", "-")
                raise InputError(flag, value, "expected a mean and a positive deviation")
        for name in ("drop", "joint_drop"):
            if not 0 <= getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise InputError(flag, getattr(self, name), "expected a number from 0 to below 1")

    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest sigma to sample with: as many deviations from the mean as the published ones."""
        mean, std = LOG_SIGMA
        own_mean, own_std = self.log_sigma
        if self.log_sigma == LOG_SIGMA:
            return SIGMA_MIN, SIGMA_MAX  # to the last digit
        low, high = (own_mean + own_std * (math.log(end) - mean) / std for end in (SIGMA_MIN, SIGMA_MAX))
        return math.exp(low), math.exp(high)


class Hi3dTask(Task):
    """Orbits told from one of their views: stage `orbit`, or `refine`, which is shown a degraded orbit too.

    Any view of an orbit is frame 0 (the orbit is rolled), but of a clip that a first stage made the one it
    was made from. What the network learns is the velocity, whose squared error is that of the clean latents
    weighted by (sigma^2 + 1) / sigma^2. Every epoch visits all objects of all data sets once; with `shares` a
    data set is drawn first, so often, then one of its objects.
    """

    name = "hi3d"

    def __init__(
        self,
        orbits: Orbits,
        stage: Stage = "orbit",
        preset: Literal["compact", "paper"] = "compact",
        options: Hi3dOptions | None = None,
        validation: Orbits | None = None,
        seed: int = 0,
        initial: Path | None = None,
        data_name: str = "",
        shares: Sequence[float] = (),
    ) -> None:
        self.options = options or Hi3dOptions()
        self.num_places = int(orbits.latents.shape[1])
        if stage not in COMPONENTS:
            raise InputError("--stage", stage, f"expected one of {', '.join(COMPONENTS)}")
        if not 0 <= self.options.window <= self.num_places:
            line = f"expected 0 (all) or at most the {self.num_places} views of an orbit"
            raise InputError("--window", self.options.window, line)
        for one in (orbits, validation):
            if one is not None and (one.coarse is None) != (stage == "orbit"):
                found = "not given" if one.coarse is None else "given"
                raise InputError("--coarse", found, "is for the stage refine, which needs it")
        if preset == "paper" and self.num_places != NUM_FRAMES:
            raise InputError(
                "--data", f"{self.num_places} views", "expected orbits of 16 for the preset paper"
            )
        cells = min(orbits.latents.shape[-2:])
        if self.options.crop and (stage == "orbit" or not 1 <= self.options.crop <= cells):
            line = f"expected 0 (all) or at most {cells} latent cells, in the stage refine"
            raise InputError("--crop-cells", self.options.crop, line)
        if self.options.sweep_depths and stage != "orbit":
            raise InputError("--sweep-depths", self.options.sweep_depths, "is for the stage orbit")
        sets = len(orbits.counts) or 1
        if shares and (len(shares) != sets or min(shares) <= 0):
            raise InputError("--shares", tuple(shares), f"expected {sets} positive numbers")
        self.shares = tuple(float(share) for share in shares)
        self.orbits, self.validation = orbits, validation
        self.stage: Stage = stage
        self.preset: Literal["compact", "paper"] = preset
        self.seed, self.initial, self.data_name = seed, initial, data_name
        self.frames = self.options.window or self.num_places
        self.order = EpochOrder(len(orbits), seed)

    @property
    def settings(self) -> Mapping[str, Any]:
        options = self.options
        return {
            "stage": self.stage,
            "preset": self.preset,
            "log_sigma": list(options.log_sigma),
            "log_augmentation": list(options.log_augmentation),
            "drop": options.drop,
            "joint_drop": options.joint_drop,
            "window": options.window,
            "crop": options.crop,
            "closed": options.closed,
            "sweep_depths": options.sweep_depths,
            "blend": options.blend,
            "shares": list(self.shares),
            "initial": str(self.initial) if self.initial else "",
            "data": self.data_name,
            "examples": len(self.orbits),
        }

    def build(self) -> nn.Module:
        """Fresh weights, or those of `initial`: an export, a component of one, or a published U-Net."""
        coarse = self.orbits.coarse
        unet = build_unet(
            self.preset,
            self.stage,
            latent_channels=int(self.orbits.latents.shape[2]),
            context_dim=int(self.orbits.embeddings.shape[2]),
            depth_channels=0 if coarse is None else coarse.depth_channels,
            num_frames=self.num_places,
            closed=self.options.closed,
            sweep_depths=self.options.sweep_depths,
            blend=self.options.blend,
        )
        if self.initial is not None:
            own = self.initial / COMPONENTS[self.stage]
            folder = own if own.is_dir() else self.initial / "unet"
            load_initial(unet, folder if folder.is_dir() else self.initial)
        return unet

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        start = item_integers(self.seed, items, self.num_places, (), _STREAMS["start"])
        places = torch.arange(self.frames).expand(len(items), -1)
        if self.frames < self.num_places:
            first = item_integers(self.seed, items, self.num_places, (1,), _STREAMS["window"])
            places = (first + places) % self.num_places
        found = clips_of(self.orbits, self._objects(items), start, places, items)
        return crop_clips(found, items, self.options.crop, self.seed) if self.options.crop else found

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        options = self.options
        device = batch["clean"].device
        sigma = draw_log_normal(seed, items, _STREAMS["sigma"], *options.log_sigma)
        drawn = item_uniform(seed, items, (4,), _STREAMS["drop"])
        keep = (drawn[:, :3] >= options.drop) & (drawn[:, 3:] >= options.joint_drop)
        losses = self._losses(model, batch, sigma.to(device), keep.to(device), items, seed)
        return losses.mean(), {}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """The loss on up to 16 held-out orbits, all frames, nothing dropped, at little, middling and much
        noise (one deviation below the mean of ln sigma, the mean, one above)."""
        if self.validation is None:
            return {}
        mean, std = self.options.log_sigma
        everything = torch.arange(min(_VALIDATED, len(self.validation)))
        sums = dict.fromkeys(("low", "middle", "high"), 0.0)
        for items in everything.split(_AT_ONCE):
            start = items * 5 % self.num_places
            places = torch.arange(self.num_places).expand(len(items), -1)
            batch = clips_of(self.validation, items, start, places, items)
            batch = {name: value.to(device) for name, value in batch.items()}
            keep = torch.ones(len(items), 3, dtype=torch.bool, device=device)
            for name, step in zip(sums, (-1, 0, 1), strict=True):
                sigma = torch.full((len(items),), math.exp(mean + step * std), device=device)
                sums[name] += float(self._losses(model, batch, sigma, keep, items, self.seed).sum())
        return {f"loss_val_{name}": value / len(everything) for name, value in sums.items()}

    def export(self, model: nn.Module, folder: Path) -> None:
        """`unet` (stage orbit) or `refiner` (stage refine), and `scheduler`: component folders, float16."""
        assert isinstance(model, OrbitUNet), "the Hi3D task trains an OrbitUNet"
        model.half().save_pretrained(folder / COMPONENTS[self.stage])
        low, high = self.options.sigma_range()
        build_scheduler(high, low).save_pretrained(folder / "scheduler")

    def _objects(self, items: Tensor) -> Tensor:
        if not self.shares:
            return self.order.indices(items)
        ends = torch.tensor(self.shares, dtype=torch.float64).cumsum(0)
        drawn = item_uniform(self.seed, items, (), _STREAMS["source"]).double() * ends[-1]
        sources = torch.searchsorted(ends, drawn, right=True).clamp_max(len(ends) - 1)
        counts = torch.tensor(self.orbits.counts or (len(self.orbits),))
        firsts = counts.cumsum(0) - counts
        places = item_uniform(self.seed, items, (), _STREAMS["object"]).double() * counts[sources]
        return firsts[sources] + torch.minimum(places.long(), counts[sources] - 1)

    def _losses(
        self,
        model: nn.Module,
        batch: dict[str, Tensor],
        sigma: Tensor,
        keep: Tensor,
        items: Tensor,
        seed: int,
    ) -> Tensor:
        """[B] mean squared errors of the velocity. keep: bool [B, 3], token, condition's latents and
        depth."""
        clean = batch["clean"]
        device, shape = clean.device, clean.shape[1:]
        noise = item_noise(seed, items, shape, _STREAMS["noise"]).to(device)
        drawn = draw_log_normal(seed, items, _STREAMS["augmentation"], *self.options.log_augmentation)
        augmentation = drawn.to(device)
        # The first stage shows one noised latent in all frames, so its noise is one too.
        frames = 1 if self.stage == "orbit" else shape[0]
        grain = item_noise(seed, items, (frames, *shape[1:]), _STREAMS["condition"]).to(device)
        condition = add_noise(batch["condition"], grain, augmentation).expand_as(clean)
        condition = condition * as_items(keep[:, 1], condition)
        _, _, c_in, c_noise = scalings(sigma)
        shown = [as_items(c_in, clean) * add_noise(clean, noise, sigma)]
        if "depth" in batch:
            shown.append(batch["depth"] * as_items(keep[:, 2], batch["depth"]))
        token = (batch["embedding"] * as_items(keep[:, 0], batch["embedding"]))[:, None]
        vector = vector_of(self._config(model), batch["elevation_deg"], augmentation)
        answer = model(torch.cat([*shown, condition], dim=2), c_noise, token, vector, batch["places"])
        error = answer.float() - velocity(clean, noise, sigma)
        return error.square().flatten(1).mean(dim=1)

    def _config(self, model: nn.Module) -> Mapping[str, Any]:
        inner = getattr(model, "module", model)  # on several processes it comes wrapped
        assert isinstance(inner, OrbitUNet), "the Hi3D task trains an OrbitUNet"
        return inner.config


def clips_of(
    orbits: Orbits, objects: Tensor, start: Tensor, places: Tensor, items: Tensor
) -> dict[str, Tensor]:
    """Clips of the orbits `objects` [B] whose view `start` [B] is the input: `places` [B, T] of each. Where
    the coarse orbit of an item was made from another view, that one is the input.

    Gives `clean` latents [B, T, C, h, w], the input's `embedding` [B, D], `elevation_deg` [B], `places`, and
    as `condition` the input's latents [B, 1, C, h, w] or, where the orbits have coarse ones, those [B, T, C,
    h, w] with the input's in the place of frame 0, and `depth` [B, T, S, h, w].
    """
    if orbits.coarse is not None:
        wanted = orbits.coarse.starts(objects, items)
        start = torch.where(wanted >= 0, wanted, start)
    frames = (start[:, None] + places) % orbits.latents.shape[1]
    first = orbits.latents[objects, start].float()[:, None]
    found = {
        "clean": orbits.latents[objects[:, None], frames].float(),
        "embedding": orbits.embeddings[objects, start].float(),
        "elevation_deg": orbits.elevation_deg[objects],
        "places": places.contiguous(),
        "condition": first,
    }
    if orbits.coarse is not None:
        coarse, depth = orbits.coarse.clips(objects, frames, start, items)
        is_input = (places == 0)[:, :, None, None, None]
        found |= {"condition": torch.where(is_input, first, coarse.float()), "depth": depth.float()}
    return found


def vector_of(config: Mapping[str, Any], elevation_deg: Tensor, augmentation: Tensor) -> Tensor:
    """[B, W] the vector for a network of this config; [B, W + 1] for one that looks along rays, with the
    elevation itself at the end."""
    slots = int(config["vector_slots"])
    vector = vector_condition(elevation_deg, augmentation, int(config["vector_dim"]) // slots, slots=slots)
    if config["sweep_depths"]:
        vector = torch.cat([vector, elevation_deg.to(vector)[:, None]], dim=1)
    return vector
