"""Training of TUNet: the clean estimate of a target view from that of a reference and both cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.methods.tunet.cameras import CameraPairs, pair_cameras
from manyview.methods.tunet.examples import UNKNOWN, PairExamples, PosedLatents
from manyview.methods.tunet.means import MeanOptions
from manyview.methods.tunet.model import TUNet, build_tunet
from manyview.methods.tunet.options import Ablation, TUNetOptions, ablated, paper_options
from manyview.sampling.noise import item_uniform
from manyview.training.task import Task
from manyview.types import join_cameras
from manyview.weights.packing import load_component

COMPONENT = "tunet"
_DROP = 41
_VALIDATED = 64
_AT_ONCE = 8
"""References of a validation, and how many of them go through the network at once."""


@dataclass(frozen=True, kw_only=True)
class TunetTraining:
    """Choices of training. Raises `InputError` for values out of range."""

    targets: int = 4
    """Targets of every reference; they share one pass of the encoder where the network can."""
    class_drop: float = 0.1
    """How often a scene's class is said to be unknown."""
    ablation: Ablation = "full"
    """The network without a part, for the paper's ablation."""

    def __post_init__(self) -> None:
        if not 1 <= self.targets <= 1000:
            raise InputError("--targets-each", self.targets, "expected 1 to 1000")
        if not 0 <= self.class_drop <= 1:
            raise InputError("--class-drop", self.class_drop, "expected a number from 0 to 1")
        if self.ablation not in ("full", "no-cross-attention", "concat"):
            raise InputError("--ablation", self.ablation, "expected full, no-cross-attention or concat")


class TunetTask(Task):
    """Pairs of views, one told from the other; the mean squared error of the clean estimate, which is the
    paper's loss on the mean divided by alpha_bar at t*.

    sets: clean estimates with cameras (`means`). An item is a reference with some targets.
    """

    name = "tunet"

    def __init__(
        self,
        sets: Sequence[PosedLatents],
        means: MeanOptions,
        alpha: float,
        *,
        options: TunetTraining | None = None,
        sizes: TUNetOptions | None = None,
        preset: Literal["compact", "paper"] = "compact",
        classes: Sequence[str] = (),
        shares: Sequence[float] = (),
        validation: PosedLatents | None = None,
        seed: int = 0,
        initial: Path | None = None,
        data_name: str = "",
    ) -> None:
        """`alpha`: alpha_bar at t*. `sizes`: the network's; those of the preset when None."""
        self.options = options or TunetTraining()
        self.means, self.alpha, self.preset, self.classes = means, alpha, preset, tuple(classes)
        self.examples = PairExamples(sets, self.options.targets, shares, seed)
        self.held_out = (
            None if validation is None else PairExamples([validation], self.options.targets, (), 0)
        )
        self.shares, self.seed, self.initial, self.data_name = tuple(shares), seed, initial, data_name
        channels = int(self.examples.sets[0].latents.shape[1])
        known = len(self.classes)
        if sizes is None and preset == "paper":
            sizes = paper_options(known)
            if channels != sizes.latent_channels:
                line = f"expected {sizes.latent_channels} for the preset paper (Stable Diffusion's codec)"
                raise InputError("--vae", f"{channels} latent channels", line)
        elif sizes is None:
            sizes = TUNetOptions(latent_channels=channels, num_classes=known)
        self.sizes = ablated(replace(sizes, t_star=means.t_star), self.options.ablation)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "stage": "tunet",
            "preset": self.preset,
            "targets": self.options.targets,
            "class_drop": self.options.class_drop,
            "ablation": self.options.ablation,
            "t_star": self.means.t_star,
            "mean_steps": self.means.steps,
            "refinements": self.means.refinements,
            "classes": list(self.classes),
            "shares": list(self.shares),
            "initial": str(self.initial) if self.initial else "",
            "data": self.data_name,
            "examples": len(self.examples),
        }

    def build(self) -> nn.Module:
        """Fresh weights, or those of `initial`: an export, or its component."""
        network = build_tunet(self.sizes)
        if self.initial is not None:
            folder = self.initial / COMPONENT
            place = folder if folder.is_dir() else self.initial
            saved = load_component(TUNet, place, torch.float32, argument="--initial")
            if saved.options != self.sizes:
                raise InputError("--initial", str(self.initial), "is a network of other sizes or choices")
            network.load_state_dict(saved.state_dict())
        return network

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        """reference [B, C, h, w], target [B T, C, h, w], class_ids [B], and the fields of `CameraPairs`."""
        return pair_batch(self.examples, items, self.sizes.num_classes)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        kept = item_uniform(seed, items, (), _DROP) >= self.options.class_drop
        unknown = torch.full_like(batch["class_ids"], self.sizes.num_classes)
        classes = torch.where(kept.to(unknown.device), batch["class_ids"], unknown)
        answer = model(batch["reference"], pairs_of(batch), None, classes)
        loss = (answer.float() - batch["target"]).square().mean()
        return loss, {"mean_mse": self.alpha * loss.detach()}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """The loss on up to 64 held-out references with their targets, and that of copying the reference."""
        if self.held_out is None:
            return {}
        items = torch.arange(min(_VALIDATED, len(self.held_out)))
        errors, copies = [], []
        for part in items.split(_AT_ONCE):
            batch = pair_batch(self.held_out, part, self.sizes.num_classes)
            batch = {name: value.to(device) for name, value in batch.items()}
            answer = model(batch["reference"], pairs_of(batch), None, batch["class_ids"]).float()
            copied = batch["reference"][batch["reference_of"]]
            for found, made in ((errors, answer), (copies, copied)):
                found.append((made - batch["target"]).square().mean(dim=(1, 2, 3)))
        return {"loss_val": float(torch.cat(errors).mean()), "copy_val": float(torch.cat(copies).mean())}

    def export(self, model: nn.Module, folder: Path) -> None:
        """The component `tunet`, float16."""
        assert isinstance(model, TUNet), "the TUNet task trains a TUNet"
        model.half().save_pretrained(folder / COMPONENT)


def pair_batch(examples: PairExamples, items: Tensor, num_classes: int) -> dict[str, Tensor]:
    """The data of items on the CPU: latents, classes (unknown ones as `num_classes`) and cameras."""
    draws = [examples.draw(item) for item in items.tolist()]
    references, targets, classes, points, own, others = [], [], [], [], [], []
    for draw in draws:
        one, focus, class_id = examples.scenes_of(draw)
        references.append(one.latents[draw.reference])
        targets.append(one.latents[list(draw.targets)])
        classes.append(num_classes if class_id == UNKNOWN else class_id)
        points.append(focus)
        own.append(one.cameras[draw.reference])
        others.append(one.cameras[list(draw.targets)])
    of = torch.arange(len(draws)).repeat_interleave(examples.targets)
    pairs = pair_cameras(join_cameras(own), join_cameras(others), focus=torch.stack(points), reference_of=of)
    return {
        "reference": torch.stack(references).float(),
        "target": torch.cat(targets).float(),
        "class_ids": torch.tensor(classes),
        **{field.name: getattr(pairs, field.name) for field in fields(pairs)},
    }


def pairs_of(batch: Mapping[str, Tensor]) -> CameraPairs:
    """The cameras in a batch."""
    return CameraPairs(**{field.name: batch[field.name] for field in fields(CameraPairs)})
