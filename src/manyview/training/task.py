"""What a method gives the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Task(Protocol):
    """One network to train, its data and its loss. Subclass it to inherit the defaults.

    Everything random follows from item numbers (`manyview.sampling.noise`), never from global state;
    dropout inside the network is the exception, and the loop seeds it for every step.
    """

    name: str
    """Short name, kept in checkpoints and shown in the progress bar."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Further options that decide the result (preset, data), as JSON; a resumed run has the same."""
        return {}

    def build(self) -> nn.Module:
        """The network with its first weights, drawn from torch's global generator, seeded by the loop."""
        ...

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        """The data of the given items (int64 [B]) on the CPU. A pure function: an item's data never changes.

        On a GPU it runs in another thread, ahead of the step that needs it.
        """
        ...

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch's mean loss (a scalar to differentiate) and named scalars to log.

        The names are the same each step.         `batch` is on the training device, `items` (int64 [B])
        on the CPU. Call `model(...)` itself, not its parts: mixed precision and the averaging of
        gradients over processes sit in that call.
        """
        ...

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the averaged network into the empty `folder` as a component (safetensors and config)."""
        ...

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Figures of the averaged network on held-out data; runs without gradients, on the main process."""
        return {}
