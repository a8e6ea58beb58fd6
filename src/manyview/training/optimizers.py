"""The optimisers of the training loop: AdamW, or Muon for kernels and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from manyview.training.config import TrainConfig

# Newton-Schulz iteration x <- a x + b (x x') x + c (x x')^2 x: these coefficients (Jordan et al. 2024,
# "Muon") grow small singular values fastest and end near 1, not at it.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# The first and last layers and embeddings are no maps between hidden layers; AdamW suits them better.
_NOT_HIDDEN = ("conv_in", "conv_out", "embedding", "slots")


def build_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that `config` names, over the weights of `network` that are trained.

    Biases, norms and other vectors have no weight decay.
    """
    if config.optimizer == "muon":
        return Muon(network, config)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=config.betas, fused=True
    )


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal before each step (Jordan et al. 2024), AdamW elsewhere.

    Kernels [out, in, ...] count as matrices [out, in ...]. The step has the root mean square that AdamW's
    has (Liu et al. 2025, "Muon is scalable", section 2.2), so both share one learning rate. In float32,
    unlike torch's own, which needs bfloat16 and takes no kernels.
    """

    momentum = 0.95

    def __init__(self, network: nn.Module, config: TrainConfig) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        vectors: list[nn.Parameter] = []
        for name, weight in network.named_parameters():
            if not weight.requires_grad:
                continue
            if weight.ndim <= 1:
                vectors.append(weight)
            elif any(part in name for part in _NOT_HIDDEN):
                others.append(weight)
            else:
                matrices.append(weight)
        decay = config.weight_decay
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": decay, "orthogonal": True},
            {"params": others, "weight_decay": decay, "orthogonal": False},
            {"params": vectors, "weight_decay": 0.0, "orthogonal": False},
        ]
        defaults = {"lr": config.lr, "betas": config.betas}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step with the gradients at hand."""
        assert closure is None, "gradients are computed before the step"
        for group in self.param_groups:
            for weight, gradient in _with_gradients(group["params"]):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                if group["orthogonal"]:
                    self._step_matrix(weight, gradient, group["lr"])
                else:
                    self._step_adam(weight, gradient, group["lr"], group["betas"])

    def _step_matrix(self, weight: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[weight]
        if not state:
            state["mean"] = torch.zeros_like(weight)
        mean = state["mean"].lerp_(gradient, 1 - self.momentum)
        ahead = gradient.lerp(mean, self.momentum).flatten(1)  # Nesterov's look ahead
        update = orthogonalize(ahead).reshape(weight.shape)
        # An orthogonal [m, n] matrix has a mean square of 1 / max(m, n); 0.2 is AdamW's usual root.
        weight.add_(update, alpha=-0.2 * lr * max(ahead.shape) ** 0.5)

    def _step_adam(self, weight: Tensor, gradient: Tensor, lr: float, betas: tuple[float, float]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        step = int(state["step"])
        mean = state["mean"].lerp_(gradient, 1 - betas[0])
        square = state["square"].lerp_(gradient.square(), 1 - betas[1])
        scale = (square / (1 - betas[1] ** step)).sqrt_().add_(1e-8)
        weight.addcdiv_(mean, scale, value=-lr / (1 - betas[0] ** step))


def orthogonalize(matrix: Tensor) -> Tensor:
    """[m, n] the nearest matrix with singular values of about 1 (0.7 to 1.2), by five iterations."""
    a, b, c = _COEFFICIENTS
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (torch.linalg.matrix_norm(x) + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


def _with_gradients(weights: list[nn.Parameter]) -> Iterator[tuple[Tensor, Tensor]]:
    for weight in weights:
        if weight.grad is not None:
            yield weight, weight.grad
