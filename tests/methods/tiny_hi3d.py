"""Hi3D at toy size: the real classes, an orbit of 4 or more frames, 2 x 2 latents of 16 px views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_dimvis import CHANNELS, DIM, codec_and_encoder, spread_weights

from manyview.methods.hi3d.depth_net import DepthNet
from manyview.methods.hi3d.elevation import ElevationNet
from manyview.methods.hi3d.noise_levels import build_scheduler
from manyview.methods.hi3d.orbits import Orbits
from manyview.methods.hi3d.pipeline import Hi3dPipeline
from manyview.methods.hi3d.unet import OrbitUNet
from manyview.weights import write_bundle

PARTS = ("vae", "image_encoder", "unet", "scheduler", "refiner", "depth", "elevation")


def tiny_unet(in_channels: int = 2 * CHANNELS, **changes: Any) -> OrbitUNet:
    """Two levels, with attention at the second; every path shows in the answer."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "in_channels": in_channels,
        "out_channels": CHANNELS,
        "block_out_channels": (32, 32),
        "attention": (False, True),
        "num_attention_heads": (2, 2),
        "layers_per_block": 1,
        "cross_attention_dim": DIM,
        "vector_dim": 16,
        "vector_slots": 2,
        "num_frames": 8,
        "norm_groups": 8,
        "feedforward": 1,
    }
    unet = OrbitUNet(**{**sizes, **changes})
    spread_weights(unet)
    return unet.eval()


def tiny_orbits(count: int = 3, views: int = 8, **changes: Any) -> Orbits:
    """Noise for latents, so that every view differs from every other."""
    draws = torch.Generator().manual_seed(1)
    parts: dict[str, Any] = {
        "latents": torch.randn(count, views, CHANNELS, 2, 2, generator=draws).half(),
        "embeddings": torch.randn(count, views, DIM, generator=draws).half(),
        "elevation_deg": torch.tensor([10.0 * number for number in range(count)]),
    }
    return Orbits(**{**parts, **changes})


def tiny_hi3d(**changes: Any) -> Hi3dPipeline:
    torch.manual_seed(0)
    codec, encoder = codec_and_encoder()
    spread_weights(codec)
    return Hi3dPipeline(
        vae=codec.eval(),
        image_encoder=encoder.eval(),
        scheduler=build_scheduler(),
        **{"unet": tiny_unet(closed=True), "default_steps": 3, **changes},
    )


def tiny_parts() -> dict[str, Any]:
    """What the second stage and the elevation need: 9 channels of depth beside latents of 32 px views."""
    torch.manual_seed(1)
    refiner = tiny_unet(2 * CHANNELS + 9, closed=True)
    depth, elevation = DepthNet(size=16, widths=(8, 16)), ElevationNet(size=16, widths=(8, 8))
    spread_weights(depth)
    spread_weights(elevation)
    return {"refiner": refiner, "depth": depth.eval(), "elevation": elevation.eval()}


def write_tiny_bundle(folder: Path, *, leave_out: tuple[str, ...] = ()) -> Path:
    """Both stages as `--weights` takes them, but for the components left out."""
    pipeline = tiny_hi3d(**tiny_parts())
    names = [name for name in PARTS if name not in leave_out]
    for name in names:
        getattr(pipeline, name).save_pretrained(folder / name)
    write_bundle(
        folder,
        name="tiny",
        method="hi3d",
        licence="none",
        components={name: name for name in names},
        settings={"steps": 2, "guidance": [1.0, 1.5], "guidance_shape": "triangular", "refine_steps": 2},
    )
    return folder
