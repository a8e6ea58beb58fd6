"""A task with a network of diffusers at the smallest size, apart from `tiny_task`, which loads faster."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from tiny_task import SHAPE, TinyTask
from torch import Tensor, nn

from manyview.sampling.noise import item_noise


class UNetTask(TinyTask):
    """The same with a U-Net of diffusers, with attention and a condition."""

    name = "unet"

    def build(self) -> nn.Module:
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=8,
            attention_head_dim=4,
        )
        assert isinstance(unet, nn.Module)
        return unet

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        clean = batch["clean"]
        noise = item_noise(seed, items, SHAPE).to(clean)
        condition = torch.zeros(len(items), 1, 8, device=clean.device)
        out = model(clean + 0.5 * noise, torch.full((len(items),), 500), condition).sample
        return (out - clean).square().mean(), {}

    def export(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, UNet2DConditionModel)
        model.save_pretrained(folder)
