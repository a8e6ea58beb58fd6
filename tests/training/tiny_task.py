"""A task small enough to train in a test; as a script it trains under a launcher."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from manyview.sampling.noise import item_noise, item_uniform
from manyview.training.config import TrainConfig
from manyview.training.loop import fit
from manyview.training.order import EpochOrder
from manyview.training.task import Task

SHAPE = (3, 8, 8)


class TinyTask(Task):
    """Denoises 20 fixed pictures with two convolutions."""

    name = "tiny"

    def __init__(self, dropout: float = 0.1, bad_item: int = -1, signal_item: int = -1) -> None:
        self.dropout = dropout
        self.bad_item = bad_item
        self.signal_item = signal_item
        self.order = EpochOrder(20, seed=3)

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.SiLU(),
            nn.Dropout(self.dropout),
            nn.Conv2d(8, 3, 3, padding=1),
        )

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        if self.signal_item in items.tolist():
            os.kill(os.getpid(), signal.SIGTERM)
        return {"clean": item_noise(7, self.order.indices(items), SHAPE).clamp(-1, 1)}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        clean = batch["clean"]
        level = item_uniform(seed, items, (1, 1, 1), stream=1).to(clean)
        noise = item_noise(seed, items, SHAPE).to(clean)
        error = (model(clean + level * noise) - clean).square().mean()
        if self.bad_item in items.tolist():
            error = error * float("nan")
        return error, {"mean_level": level.mean()}

    def export(self, model: nn.Module, folder: Path) -> None:
        save_file(model.state_dict(), folder / "weights.safetensors")


def tiny_config(**changes: object) -> TrainConfig:
    """Twelve quick steps on one thread."""
    options: dict = {
        "steps": 12,
        "batch_size": 4,
        "lr": 1e-2,
        "warmup_steps": 3,
        "log_every": 4,
        "dtype": "fp32",
        "device": "cpu",
        "num_threads": 1,
        "tensorboard": False,
        **changes,
    }
    return TrainConfig(**options)


if __name__ == "__main__":
    fit(TinyTask(dropout=0), tiny_config(batch_size=int(sys.argv[2])), Path(sys.argv[1]))
