"""The Gaussians while they are fitted: Adam's state beside every one, and growth and loss of Gaussians.

Adaptive control of 3D Gaussian splatting (Kerbl et al. 2023, section 5): where the screen-space gradient
stays large, small Gaussians are doubled and large ones split; faint ones go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from manyview.geometry.rotations import matrix_from_quaternion
from manyview.lift.splats.model import Splats

_SPLIT_SHRINK = 1.6
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-15


class Population:
    """N Gaussians under Adam (Kingma and Ba 2015). The base and the higher coefficients of colour have their
    own rates.

    Adam is written out because its state changes length with the Gaussians, and because torch.optim loads
    torch's compiler, which takes longer than a small fit.
    """

    def __init__(self, splats: Splats, rates: Mapping[str, float]) -> None:
        values = splats.detached().tensors()
        sh = values.pop("sh")
        values |= {"sh_base": sh[:, :1], "sh_rest": sh[:, 1:]}
        self._values = {name: value.clone().requires_grad_() for name, value in values.items()}
        self._first = {name: torch.zeros_like(value) for name, value in values.items()}
        self._second = {name: torch.zeros_like(value) for name, value in values.items()}
        self._rates = dict(rates)
        self._num_steps = dict.fromkeys(values, 0)
        self._gradient_sum, self._gradient_count = self._zeros(), self._zeros()

    def __len__(self) -> int:
        return self._values["means"].shape[0]

    def splats(self, degree: int) -> Splats:
        """The Gaussians with colour to `degree`, attached to the optimiser's tensors."""
        rest = self._values["sh_rest"][:, : (degree + 1) ** 2 - 1]
        sh = torch.cat((self._values["sh_base"], rest), dim=1)
        others = {name: value for name, value in self._values.items() if not name.startswith("sh_")}
        return Splats(**others, sh=sh)

    def set_rate(self, name: str, rate: float) -> None:
        """Change one tensor's learning rate."""
        self._rates[name] = rate

    @torch.no_grad()
    def step(self, screen_gradient: Tensor, visible: Tensor) -> None:
        """One step of Adam, and note the screen-space gradients [N, 2] of the Gaussians that were seen."""
        for name, value in self._values.items():
            gradient, value.grad = value.grad, None
            # Coefficients of a degree that has not begun are all zero and stay so.
            if gradient is None or (name == "sh_rest" and not bool(gradient.any())):
                continue
            self._num_steps[name] += 1
            count = self._num_steps[name]
            first = self._first[name].lerp_(gradient, 1 - _BETA_1)
            second = self._second[name].mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
            rate = self._rates[name] * (1 - _BETA_2**count) ** 0.5 / (1 - _BETA_1**count)
            value.addcdiv_(first, second.sqrt().add_(_EPSILON), value=-rate)
        self._gradient_sum += torch.linalg.vector_norm(screen_gradient, dim=-1) * visible
        self._gradient_count += visible

    def densify(
        self, threshold: float, largest_clone: float, most: int, generator: torch.Generator
    ) -> tuple[int, int]:
        """Clone and split where the mean gradient is at least `threshold`; up to `most` Gaussians in all.

        Those whose largest scale is at most `largest_clone` (world units) are cloned. Returns how many were
        cloned and split.
        """
        gradients = self._gradient_sum / self._gradient_count.clamp_min(1)
        room = max(0, most - len(self))
        hot = (gradients >= threshold).nonzero()[:, 0]
        if len(hot) > room:
            hot = hot[torch.topk(gradients[hot], room).indices.sort().values]
        scales = self._values["log_scales"].detach()[hot].exp()
        is_small = scales.amax(dim=-1) <= largest_clone
        clones, splits = hot[is_small], hot[~is_small]
        halves = self._halves(splits, generator)
        kept = torch.ones(len(self), dtype=torch.bool, device=gradients.device)
        kept[splits] = False
        born = {
            name: torch.cat((value.detach()[clones], halves[name])) for name, value in self._values.items()
        }
        self._replace(kept, born)
        return len(clones), len(splits)

    def prune(self, faintest: float, largest: float, *, hidden: bool = False) -> int:
        """Remove Gaussians fainter than `faintest`, larger than `largest` (world units), or no longer finite.

        `hidden`: also those that were in view but changed no pixel since the gradients were last forgotten.
        Returns how many went; if that would be all, none goes.
        """
        logits, logs = self._values["opacity_logits"].detach(), self._values["log_scales"].detach()
        gone = (logits.sigmoid() < faintest) | (logs.amax(dim=-1) > math.log(largest))
        if hidden:
            gone |= (self._gradient_count > 0) & (self._gradient_sum == 0)
        for value in self._values.values():
            gone |= ~torch.isfinite(value.detach()).reshape(len(self), -1).all(dim=-1)
        if bool(gone.all()):
            return 0
        if bool(gone.any()):
            self._replace(~gone, {name: value.detach()[:0] for name, value in self._values.items()})
        return int(gone.sum())

    def forget_gradients(self) -> None:
        """Begin a new interval of screen-space gradients."""
        self._gradient_sum, self._gradient_count = self._zeros(), self._zeros()

    @torch.no_grad()
    def fade(self, opacity: float) -> None:
        """No Gaussian stays more opaque than `opacity`; Adam's memory of opacities is cleared."""
        self._values["opacity_logits"].clamp_(max=math.log(opacity / (1 - opacity)))
        self._first["opacity_logits"].zero_()
        self._second["opacity_logits"].zero_()

    def _halves(self, chosen: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Two Gaussians for each of `chosen`, drawn from it and smaller."""
        doubled = chosen.repeat(2)
        born = {name: value.detach()[doubled].clone() for name, value in self._values.items()}
        noise = torch.randn(len(doubled), 3, generator=generator).to(born["means"])
        offsets = matrix_from_quaternion(born["quaternions"]) @ (noise * born["log_scales"].exp())[..., None]
        born["means"] += offsets[..., 0]
        born["log_scales"] -= math.log(_SPLIT_SHRINK)
        return born

    def _replace(self, kept: Tensor, born: Mapping[str, Tensor]) -> None:
        """Keep the Gaussians `kept` and append the newborn, whose Adam state is zero."""
        for name, added in born.items():
            joined = torch.cat((self._values[name].detach()[kept], added))
            self._values[name] = joined.requires_grad_()
            for state in (self._first, self._second):
                state[name] = torch.cat((state[name][kept], torch.zeros_like(added)))
        count = len(next(iter(born.values())))
        new = self._gradient_sum.new_zeros(count)
        self._gradient_sum = torch.cat((self._gradient_sum[kept], new))
        self._gradient_count = torch.cat((self._gradient_count[kept], new))

    def _zeros(self) -> Tensor:
        return torch.zeros_like(self._values["means"][:, 0].detach())
