"""Train a tiny DiMViS from fresh weights on a few procedural objects, then let it complete one of them.

    python examples/02_train_small.py --out small

Renders four objects, encodes their views once with the codec and the image encoder of the package's weights,
trains a U-Net of a million fresh parameters on them, and draws three views of one of them from the fourth.
Half a minute of one CPU core begins to learn four objects by heart and says nothing about others: it shows
the parts of a training. `manyview train` has the same ones, papers/compact/train_all.py the recipe of the
weights in the package. Stop it with Ctrl-C; the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

import manyview as mv
from manyview.data.procedural import make_object, render_object
from manyview.errors import Stopped
from manyview.geometry.trajectories import orbit
from manyview.methods.dimvis.model import DimvisOptions, SlotConditioner, TileDenoiser
from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.methods.dimvis.train import DimvisTask
from manyview.nets.autoencoder import encode
from manyview.nets.image_encoder import embed
from manyview.training.config import TrainConfig
from manyview.training.loop import fit


class SmallTask(DimvisTask):
    """The training of DiMViS with a narrow U-Net in place of the compact one."""

    def build(self) -> TileDenoiser:
        """Fresh weights."""
        options = self.options
        unet = UNet2DConditionModel(
            in_channels=options.in_channels,
            out_channels=options.latent_channels,
            block_out_channels=(16, 32, 64),
            down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=options.context_dim,
        )
        conditioner = SlotConditioner(
            latent_channels=options.latent_channels,
            context_dim=options.context_dim,
            slot_time=options.slot_time,
        )
        return TileDenoiser(unet, conditioner)


def main() -> int:
    """Render, encode, train, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the run and the result")
    parser.add_argument("--weights", default="compact", help="bundle whose codec and encoder are used")
    parser.add_argument("--objects", type=int, default=4, help="procedural objects to render")
    parser.add_argument("--steps", type=int, default=300, help="training steps of four rigs each")
    given = parser.parse_args()
    try:
        ready = mv.load("dimvis", given.weights)
        cameras = orbit(4, 30.0, size=ready.resolution)
        views = [render_object(make_object(seed), cameras).over(1.0) for seed in range(given.objects)]
        with torch.inference_mode():
            latents = torch.stack([encode(ready.vae, images) for images in views])
            embeddings = torch.stack([embed(ready.image_encoder, images) for images in views])
        options = DimvisOptions(
            latent_channels=latents.shape[2], context_dim=embeddings.shape[2], slot_time=True
        )
        config = TrainConfig(
            steps=given.steps,
            batch_size=4,
            lr=2e-3,
            warmup_steps=given.steps // 20,
            ema_decay=0.98,
            log_every=min(25, given.steps),
            tensorboard=False,
        )
        task = SmallTask(latents.clone(), embeddings.clone(), options)
        report = fit(task, config, given.out / "run", resume=True)
        pipe = DimvisPipeline(
            vae=ready.vae,
            image_encoder=ready.image_encoder,
            unet=UNet2DConditionModel.from_pretrained(report.export / "unet"),
            conditioner=SlotConditioner.from_pretrained(report.export / "conditioner"),
            scheduler=task.scheduler,
        )
        pipe(mv.Views(images=views[0][:1])).save(given.out / "result", force=True)
    except mv.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return 130
    curve = [row["loss"] for row in report.curve]
    print(f"loss {curve[0]:.3f} -> {curve[-1]:.3f} in {report.seconds:.0f} s")
    print(f"see {given.out / 'result' / 'sheet.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
