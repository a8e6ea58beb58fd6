"""Training of the refiner: codes that a sweep turned, corrected so that what they show stays one object.

No truth is asked: depth and pose are the self-taught ones (train_depth.py), and the generator holds still. An
item is a new code, turned by a random amount; the turned code is noised to a level of its own and the network
tells the refined code at once (prediction of x0, as the paper trains "at the 0-th step").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.methods.refiner.augmentation import recolour
from manyview.methods.refiner.coarse_pose import inner_mask
from manyview.methods.refiner.depth_scores import tell_depths
from manyview.methods.refiner.generator import CodeGenerator, StyleGANCodes
from manyview.methods.refiner.losses import (
    Geometry,
    RefinerLosses,
    feature_loss,
    guard_loss,
    latent_loss,
    warp_loss,
)
from manyview.methods.refiner.model import CodeRefiner, build_refiner
from manyview.methods.refiner.photometric import colour_mask
from manyview.methods.refiner.sweep_frames import place_generator
from manyview.methods.refiner.train_depth import SelfTaught, load_self_taught
from manyview.metrics.image import ssim_skimage
from manyview.nets.stylegan2.generator import StyleGAN2Generator
from manyview.sampling.noise import item_noise, item_uniform
from manyview.training.task import Task
from manyview.weights.packing import load_component

_CODES, _AMOUNTS, _LEVELS, _NOISE, _CHECKS = 0x726663, 0x726661, 0x72666C, 0x72666E, 0x726676
_COLOURS = 0x72666F
_RECOLOUR = 0.3
"""Deviation of the powers by which colours are changed before the guard looks, so that no change of colours
can pass for a turn."""
_LEVEL_EXPONENT = 2.0
"""Levels are 1000 u^exponent: more of them near 0, where the answer is drawn from."""
_NUM_CHECKED = 48


class RefinerTask(Task):
    """See the module. Weights of the losses as `losses.RefinerLosses` says."""

    name = "refiner"

    def __init__(
        self,
        generator: Path | CodeGenerator,
        calibration: Path | SelfTaught,
        *,
        losses: RefinerLosses | None = None,
        preset: Literal["compact", "paper"] = "compact",
        reach: float = 3.0,
        seed: int = 0,
        initial: Path | None = None,
        data_name: str = "",
    ) -> None:
        """`generator`: a StyleGAN2's folder, or any generator of codes. `calibration`: the export of the
        stage depth, or its networks. `reach`: how far codes are turned, in deviations."""
        if isinstance(generator, Path):
            loaded = load_component(StyleGAN2Generator, generator, torch.float32, argument="--generator")
            generator = StyleGANCodes(loaded.eval().requires_grad_(False))
        if isinstance(calibration, Path):
            calibration = load_self_taught(calibration, "--calibration")
        if calibration.basis.mean.numel() != generator.w_dim:
            line = f"is of codes of {calibration.basis.mean.numel()} numbers, expected {generator.w_dim}"
            raise InputError("--calibration", "its direction", line)
        self.generator = generator
        self.calibration = calibration.eval().requires_grad_(False)
        self.preset: Literal["compact", "paper"] = preset
        self.losses, self.reach = losses or RefinerLosses(), reach
        self.seed, self.initial, self.data_name = seed, initial, data_name

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "preset": self.preset,
            "reach": self.reach,
            "initial": str(self.initial) if self.initial else "",
            "data": self.data_name,
            **{f"loss_{name}": value for name, value in asdict(self.losses).items()},
        }

    def build(self) -> nn.Module:
        """The network, fresh or from `initial`; a fresh one changes nothing."""
        if self.initial is not None:
            return load_component(CodeRefiner, self.initial / "refiner", torch.float32, argument="--initial")
        model = build_refiner(self.preset, self.generator.num_ws, self.generator.w_dim)
        basis = self.calibration.basis
        model.set_statistics(basis.mean, basis.spread)
        return model

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        """amounts [B] of the turn, levels [B] int64 of the noise, noise [B, L, D]; colours [B, 2, 3]
        normal."""
        generator = self.generator
        amounts = (2 * item_uniform(self.seed, items, stream=_AMOUNTS) - 1) * self.reach
        u = item_uniform(self.seed, items, stream=_LEVELS)
        noise = item_noise(self.seed, items, (generator.num_ws, generator.w_dim), stream=_NOISE)
        return {
            "amounts": amounts,
            "levels": (1000 * u**_LEVEL_EXPONENT).long().clamp(0, 999),
            "noise": noise,
            "colours": item_noise(self.seed, items, (2, 3), stream=_COLOURS),
        }

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        device = batch["amounts"].device
        self.calibration.to(device)
        place_generator(self.generator, device)
        network = _inner(model)
        with torch.no_grad():
            seeds = [(_CODES << 32) + int(item) for item in items]
            codes = self.generator.sample(seeds, truncation=self.calibration.basis.truncation).to(device)
            edited = self.calibration.basis.edit(codes, batch["amounts"])
            source, geometry, vector, features = self._look(codes, edited)
            noisy = network.add_noise(edited, batch["levels"], batch["noise"])
        refined = model(codes, edited, vector, batch["levels"], noisy).float()
        with torch.autocast(device.type, enabled=False):
            parts = self._parts(codes, refined, source, geometry, vector, features, batch["colours"])
        weights = {name: getattr(self.losses, name) for name in ("warp", "latent", "feature", "guard")}
        loss = torch.stack([weight * parts[name] for name, weight in weights.items()]).sum()
        with torch.no_grad():
            parts["moved"] = (refined - edited).square().mean().sqrt()
        return loss, parts

    @torch.no_grad()
    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """On new codes, for edited and for refined pictures: the warp error, the structural similarity to the
        source, and how far the turn is off, as the pose network finds it."""
        inner = _inner(model)
        self.calibration.to(device)
        place_generator(self.generator, device)
        basis, pose = self.calibration.basis, self.calibration.pose
        seeds = [(_CHECKS << 32) + number for number in range(_NUM_CHECKED)]
        codes = self.generator.sample(seeds, truncation=basis.truncation).to(device)
        amounts = torch.linspace(-self.reach, self.reach, _NUM_CHECKED, device=device)
        edited = basis.edit(codes, amounts)
        source, geometry, vector, _ = self._look(codes, edited)
        levels = torch.zeros(len(codes), dtype=torch.int64, device=device)
        found = {}
        for name, turned in (("edited", edited), ("refined", inner(codes, edited, vector, levels).float())):
            images = self.generator(turned).clamp(0, 1)
            found[f"warp_{name}_val"] = float(self._warp(source, images, geometry))
            found[f"ssim_{name}_val"] = float(ssim_skimage(images, source).mean())
            off = pose.yaw_deg(pose(source, images)) - pose.yaw_deg(vector)
            found[f"off_{name}_deg_val"] = float(off.abs().mean())
        return found

    def export(self, model: nn.Module, folder: Path) -> None:
        """`refiner`, in float16."""
        _inner(model).half().save_pretrained(folder / "refiner")

    def _look(self, codes: Tensor, edited: Tensor) -> tuple[Tensor, Geometry, Tensor, Tensor]:
        """Source pictures, what is known of them, turns to the edited ones [B, 6], and source features."""
        pose = self.calibration.pose
        source, features = self.generator.features(codes, self.losses.cells(self.generator.resolution))
        source = source.clamp(0, 1)
        vector = pose(source, self.generator(edited).clamp(0, 1)).float()
        geometry = Geometry(
            depth=tell_depths(self.calibration.depth, pose, source),
            K=pose.K(*source.shape[-2:]).float()[None],
            pose=pose.transform(vector),
            mask=inner_mask(colour_mask(source)),
        )
        return source, geometry, vector, features

    def _parts(
        self,
        codes: Tensor,
        refined: Tensor,
        source: Tensor,
        geometry: Geometry,
        vector: Tensor,
        source_features: Tensor,
        colours: Tensor,
    ) -> dict[str, Tensor]:
        losses = self.losses
        images, features = self.generator.features(refined, losses.cells(self.generator.resolution))
        shown = [recolour(x, colours[:, k], _RECOLOUR) for k, x in enumerate((source, images))]
        found = self.calibration.pose(*shown).float()
        return {
            "warp": self._warp(source, images, geometry),
            "latent": latent_loss(refined, codes, self.calibration.basis.spread),
            "feature": feature_loss(features, source_features, geometry if losses.warp_features else None),
            "guard": guard_loss(found, vector),
        }

    def _warp(self, source: Tensor, images: Tensor, geometry: Geometry) -> Tensor:
        hidden = None
        if self.losses.occlusion is not None:
            with torch.no_grad():
                shown = images.detach().clamp(0, 1)
                told = tell_depths(self.calibration.depth, self.calibration.pose, shown)
                # What is not the object hides nothing.
                hidden = torch.where(colour_mask(shown) > 0, told, self.calibration.pose.depths[1] * 2)
        return warp_loss(source, images, geometry, refined_depth=hidden, losses=self.losses)


def _inner(model: nn.Module) -> CodeRefiner:
    inner = getattr(model, "module", model)
    assert isinstance(inner, CodeRefiner), "the refiner task trains a CodeRefiner"
    return inner
