"""Training of the base: latent diffusion on single views, the small stand-in for Stable Diffusion 1.5, which
the paper uses as it is.

Latents are encoded once, so views are not mirrored or turned here: a codec's latent of a mirrored picture is
not the mirrored latent. Data sets of renders hold mirrored and turned placements instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.methods.tunet.base import build_base, load_base
from manyview.methods.tunet.examples import UNKNOWN, PosedLatents
from manyview.sampling.noise import item_integers, item_noise, item_uniform
from manyview.sampling.solvers import Prediction, build_scheduler, draw_timesteps
from manyview.training.order import EpochOrder
from manyview.training.task import Task

COMPONENT = "base"
_STREAMS = {"time": 1, "noise": 2, "drop": 3, "source": 4, "view": 5}
_CELLS = 4
"""The network halves its latents twice."""
_VALIDATED = 128
_AT_ONCE = 32
_TIMES = {"low": 100, "middle": 500, "high": 900}
"""Timesteps of a validation: little, middling and much noise."""


@dataclass(frozen=True, kw_only=True)
class BaseTraining:
    """Choices of training. Raises `InputError` for values out of range."""

    prediction: Prediction = "epsilon"
    time_exponent: float = 1.0
    """Below 1 trains more on noisy times (`draw_timesteps`)."""
    min_snr: float = 0.0
    """Weigh every time by its signal-to-noise ratio, counted up to this (Hang et al. 2023, gamma); 0: all
    alike in what is predicted."""
    class_drop: float = 0.1
    """How often a view's class is said to be unknown."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_snr <= 1000:
            raise InputError("--min-snr", self.min_snr, "expected a number from 0 (off) to 1000")
        if not 0 <= self.class_drop <= 1:
            raise InputError("--class-drop", self.class_drop, "expected a number from 0 to 1")
        if not 0.1 <= self.time_exponent <= 10:
            raise InputError("--time-exponent", self.time_exponent, "expected a number from 0.1 to 10")


class TunetBaseTask(Task):
    """Noise (or velocity) of noisy latents of single views, with their class where it is known.

    Every epoch visits all views of all data sets once; with `shares` a data set is drawn first, so often as
    its share says. Raises `InputError` for no data and for latents of different sizes.
    """

    name = "tunet_base"

    def __init__(
        self,
        sets: Sequence[PosedLatents],
        *,
        options: BaseTraining | None = None,
        classes: Sequence[str] = (),
        shares: Sequence[float] = (),
        validation: PosedLatents | None = None,
        seed: int = 0,
        initial: Path | None = None,
        data_name: str = "",
    ) -> None:
        if not sets:
            raise InputError("--data", "not given", "expected one or more data sets")
        if shares and (len(shares) != len(sets) or min(shares) <= 0):
            raise InputError("--shares", tuple(shares), f"expected {len(sets)} positive numbers")
        shapes = {tuple(one.latents.shape[1:]) for one in [*sets, *([validation] if validation else [])]}
        if len(shapes) != 1:
            raise InputError("--data", sorted(shapes), "expected latents of one size in all")
        self.sets, self.validation = list(sets), validation
        self.options, self.classes = options or BaseTraining(), tuple(classes)
        self.shares, self.seed, self.initial, self.data_name = tuple(shares), seed, initial, data_name
        self.channels, *cells = shapes.pop()
        if any(side % _CELLS for side in cells):
            line = f"expected a multiple of {_CELLS} cells a side: views of a multiple of {8 * _CELLS} pixels"
            raise InputError("--data", f"latents of {cells} cells", line)
        self.views = [_classes_of_views(one, len(self.classes)) for one in self.sets]
        self._starts = torch.tensor([0, *(len(one.latents) for one in self.sets)]).cumsum(0)
        self._order = EpochOrder(int(self._starts[-1]), seed)
        self.scheduler = build_scheduler(self.options.prediction)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "stage": "base",
            "prediction": self.options.prediction,
            "time_exponent": self.options.time_exponent,
            "min_snr": self.options.min_snr,
            "class_drop": self.options.class_drop,
            "classes": list(self.classes),
            "shares": list(self.shares),
            "initial": str(self.initial) if self.initial else "",
            "data": self.data_name,
            "examples": int(self._starts[-1]),
        }

    def build(self) -> nn.Module:
        """Fresh weights, or those of `initial`: an export, or a U-Net's folder."""
        network = build_base(latent_channels=self.channels, num_classes=len(self.classes))
        if self.initial is not None:
            folder = self.initial / COMPONENT
            saved = load_base(
                folder if folder.is_dir() else self.initial, torch.float32, argument="--initial"
            )
            shapes = {name: value.shape for name, value in network.state_dict().items()}
            if shapes != {name: value.shape for name, value in saved.state_dict().items()}:
                raise InputError("--initial", str(self.initial), "is a network of other sizes or classes")
            network.load_state_dict(saved.state_dict())
        return network

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        """latents [B, C, h, w] and class_ids [B]."""
        latents, classes = [], []
        for source, view in zip(*self._places(items), strict=True):
            latents.append(self.sets[source].latents[view])
            classes.append(self.views[source][view])
        return {"latents": torch.stack(latents).float(), "class_ids": torch.stack(classes)}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        times = draw_timesteps(seed, items, (), _STREAMS["time"], self.options.time_exponent)
        kept = item_uniform(seed, items, (), _STREAMS["drop"]) >= self.options.class_drop
        unknown = torch.full_like(batch["class_ids"], len(self.classes))
        classes = torch.where(kept.to(unknown.device), batch["class_ids"], unknown)
        errors = self._errors(model, batch["latents"], times, classes, items, seed)
        weight = self.weights(times).to(errors)
        return (weight * errors).mean(), {"plain": errors.detach().mean()}

    def weights(self, times: Tensor) -> Tensor:
        """[B] how much each time counts: 1, or of the squared error of the clean latent (signal-to-noise
        ratio times that) only up to `min_snr`."""
        gamma = self.options.min_snr
        if not gamma:
            return torch.ones(len(times))
        alpha = self.scheduler.alphas_cumprod[times].double()
        # The ratio is 0 at pure noise, where the velocity's weight is 0 too.
        ratio = alpha / (1 - alpha)
        below = ratio if self.options.prediction == "epsilon" else ratio + 1
        return (ratio.clamp_max(gamma) / below.clamp_min(1e-12)).float()

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """The plain loss on up to 128 held-out views at little, middling and much noise, classes told."""
        if self.validation is None:
            return {}
        # Spread over the set, so that not only the first objects count.
        total = len(self.validation.latents)
        count = min(_VALIDATED, total)
        chosen = torch.arange(count) * total // count
        known = _classes_of_views(self.validation, len(self.classes))
        found = {}
        for name, time in _TIMES.items():
            errors = []
            for part in chosen.split(_AT_ONCE):
                latents, classes = self.validation.latents[part].float().to(device), known[part].to(device)
                times = torch.full((len(part),), time)
                errors.append(self._errors(model, latents, times, classes, part, self.seed))
            found[f"loss_val_{name}"] = float(torch.cat(errors).mean())
        return found

    def export(self, model: nn.Module, folder: Path) -> None:
        """The components `base`, float16, and `scheduler`."""
        model.half().save_pretrained(folder / COMPONENT)  # pyright: ignore[reportCallIssue]
        self.scheduler.save_pretrained(folder / "scheduler")

    def _places(self, items: Tensor) -> tuple[list[int], list[int]]:
        """Data set, and view in it, of every item."""
        if not self.shares:
            found = self._order.indices(items)
            sources = torch.searchsorted(self._starts, found, right=True) - 1
            return sources.tolist(), (found - self._starts[sources]).tolist()
        ends = torch.tensor(self.shares, dtype=torch.float64).cumsum(0)
        drawn = item_uniform(self.seed, items, (), _STREAMS["source"]).double() * ends[-1]
        sources = torch.searchsorted(ends, drawn, right=True).clamp_max(len(ends) - 1).tolist()
        counts = [len(self.sets[source].latents) for source in sources]
        views = [
            int(item_integers(self.seed, [item], count, (), _STREAMS["view"]))
            for item, count in zip(items.tolist(), counts, strict=True)
        ]
        return sources, views

    def _errors(
        self, model: nn.Module, latents: Tensor, times: Tensor, classes: Tensor, items: Tensor, seed: int
    ) -> Tensor:
        """[B] mean squared errors of what is predicted."""
        noise = item_noise(seed, items, latents.shape[1:], _STREAMS["noise"]).to(latents.device)
        times = times.to(latents.device)
        noisy = self.scheduler.add_noise(latents, noise, times)  # type: ignore[arg-type]
        wanted = noise
        if self.options.prediction == "v_prediction":
            wanted = self.scheduler.get_velocity(latents, noise, times)  # type: ignore[arg-type]
        # The call itself: on several processes the network comes wrapped.
        answer = model(noisy, times, class_labels=classes, return_dict=False)[0]
        return (answer.float() - wanted).square().mean(dim=(1, 2, 3))


def _classes_of_views(posed: PosedLatents, num_classes: int) -> Tensor:
    """int64 [M] the class of every view, `num_classes` where it is unknown."""
    counts = posed.starts[1:] - posed.starts[:-1]
    classes = posed.class_ids.repeat_interleave(counts)
    return torch.where(classes == UNKNOWN, num_classes, classes)
