"""What train_all.py trains, run by run: the recipe of the weights in the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SIZE = 128
"""Pixels a side of a view; 16 views an object, all from elevation 30 degrees (the protocol orbit16)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One training run: a row of the recipe."""

    stage: str
    steps: int
    batch_size: int
    lr: float
    warmup_steps: int
    ema_decay: float
    weight_decay: float
    seed: int
    validate_every: int = 0
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float | None = 1.0
    min_lr_fraction: float = 0.02
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further options of the task. `shares`: how often procedural objects and meshes are drawn from."""


DENOISER = {"steps": 5000, "batch_size": 16, "lr": 1e-3, "warmup_steps": 50, "optimizer": "muon"}
# Shares: procedural objects, meshes, and the rigs of random cameras together.
POSED_DATA = {"shares": (0.5, 0.25, 0.25), "context_views": (1, 6)}
COLORS = {"batch_size": 8, "lr": 1e-3, "warmup_steps": 50, "optimizer": "muon", "ema_decay": 0.998}
_VLDM = {
    "batch_size": 4,
    "warmup_steps": 50,
    "optimizer": "muon",
    "ema_decay": 0.998,
    "weight_decay": 0.01,
    "validate_every": 200,
}
_VLDM_OPTIONS = {**POSED_DATA, "noise_levels": 10, "prediction": "v_prediction", "blend": True}
PARTS = {
    # A fresh codec sees small crops and many negatives, which teach it colour; then larger, truer ones.
    "vae_48": Part(
        stage="vae",
        steps=1500,
        batch_size=16,
        lr=2.5e-3,
        warmup_steps=100,
        ema_decay=0.998,
        weight_decay=1e-4,
        seed=0,
        options={"crop": 48, "negatives": 0.5, "shares": (0.65, 0.35)},
    ),
    "vae_64": Part(
        stage="vae",
        steps=3000,
        batch_size=16,
        lr=2e-3,
        warmup_steps=50,
        ema_decay=0.998,
        weight_decay=1e-4,
        seed=1,
        validate_every=500,
        options={"crop": 64, "negatives": 0.15, "shares": (0.65, 0.35), "initial": "vae_48"},
    ),
    # Whole views, and the decoder alone: what a crop cannot show it is how much white surrounds an object.
    "vae": Part(
        stage="vae",
        steps=500,
        batch_size=4,
        lr=6e-4,
        warmup_steps=50,
        ema_decay=0.998,
        weight_decay=1e-4,
        seed=1,
        validate_every=250,
        options={
            "crop": SIZE,
            "negatives": 0.0,
            "shares": (0.65, 0.35),
            "initial": "vae_64",
            "freeze_encoder": True,
        },
    ),
    "image_encoder": Part(
        stage="image_encoder",
        steps=800,
        batch_size=64,
        lr=1e-3,
        warmup_steps=50,
        ema_decay=0.99,
        weight_decay=0.01,
        seed=0,
        validate_every=200,
        options={"shares": (0.75, 0.25)},
    ),
    "dimvis": Part(
        stage="dimvis",
        **DENOISER,
        ema_decay=0.998,
        weight_decay=0.01,
        seed=0,
        validate_every=500,
        options={
            "slot_embedding": True,
            "slot_time": True,
            "aligned": True,
            "sweep_depths": 12,
            "blend": True,
            "prediction": "v_prediction",
            "time_exponent": 0.7,
        },
    ),
    "one2one": Part(
        stage="one2one",
        **DENOISER,
        ema_decay=0.998,
        weight_decay=0.01,
        seed=0,
        options={"prediction": "v_prediction", "time_exponent": 0.7},
    ),
    "sparsefusion_eft": Part(
        stage="sparsefusion_eft",
        **COLORS,
        steps=800,
        weight_decay=0.01,
        seed=1,
        validate_every=100,
        options={**POSED_DATA, "rays_at_once": 64},
    ),
    # Twice, the second time from where the first ended, at a lower rate.
    "sparsefusion_vldm_1": Part(
        stage="sparsefusion_vldm",
        steps=1200,
        lr=1e-3,
        seed=2,
        **_VLDM,
        options={**_VLDM_OPTIONS, "initial": "sparsefusion_eft"},
    ),
    "sparsefusion_vldm": Part(
        stage="sparsefusion_vldm",
        steps=1000,
        lr=6e-4,
        seed=3,
        **_VLDM,
        options={**_VLDM_OPTIONS, "initial": "sparsefusion_vldm_1"},
    ),
    # As the EFT, on the same examples.
    "regressor": Part(
        stage="regressor",
        **COLORS,
        steps=800,
        weight_decay=0.01,
        seed=1,
        validate_every=100,
        options={**POSED_DATA, "rays_at_once": 64},
    ),
}

_HI3D = {"optimizer": "muon", "lr": 1e-3, "warmup_steps": 50, "ema_decay": 0.998, "weight_decay": 0.01}
_LEVELS = {"log_sigma": (0.2, 1.4), "drop": 0.05, "joint_drop": 0.05, "closed": True}
# Shares of an orbit's: procedural objects and meshes at 30 degrees, and at all other elevations together.
_ORBIT = {**_LEVELS, "sweep_depths": 12, "blend": True}
# Shares below: procedural objects, then meshes.
_REFINE: dict[str, Any] = {"batch_size": 4, "validate_every": 1000}
_CLIPS = {**_LEVELS, "blend": True, "window": 6, "crop": 16, "own_share": 0.5, "shares": (0.5, 0.5)}
PARTS |= {
    "hi3d_depth": Part(
        stage="hi3d_depth",
        steps=500,
        batch_size=32,
        lr=2e-3,
        warmup_steps=50,
        ema_decay=0.99,
        weight_decay=0.01,
        seed=0,
        validate_every=100,
        options={"shares": (0.5, 0.5)},
    ),
    "hi3d_elevation": Part(
        stage="hi3d_elevation",
        steps=800,
        batch_size=64,
        lr=1e-3,
        warmup_steps=50,
        ema_decay=0.99,
        weight_decay=0.01,
        seed=0,
        validate_every=200,
        # The third: views from anywhere.
        options={"shares": (0.2, 0.3, 0.5)},
    ),
    # More of it at high noise than in the published first stage: there the shapes and colours of an orbit are
    # decided, and of a short training they are the larger error. Twice, as SparseFusion's.
    "hi3d_orbit_1": Part(
        stage="hi3d_orbit",
        **_HI3D,
        steps=2200,
        batch_size=8,
        seed=0,
        validate_every=440,
        options={**_ORBIT, "log_sigma": (1.0, 1.5), "shares": (0.2, 0.2, 0.3, 0.3)},
    ),
    "hi3d_orbit": Part(
        stage="hi3d_orbit",
        **{**_HI3D, "lr": 6e-4},
        steps=2600,
        batch_size=8,
        seed=1,
        validate_every=520,
        options={
            **_ORBIT,
            "log_sigma": (1.0, 1.5),
            "shares": (0.3, 0.3, 0.2, 0.2),
            "initial": "hi3d_orbit_1",
        },
    ),
    # Twice as well, on the same clips.
    "hi3d_refine_1": Part(stage="hi3d_refine", **_HI3D, **_REFINE, steps=2000, seed=0, options=_CLIPS),
    "hi3d_refine": Part(
        stage="hi3d_refine",
        **{**_HI3D, "lr": 6e-4},
        **_REFINE,
        steps=3000,
        seed=1,
        options={**_CLIPS, "initial": "hi3d_refine_1"},
    ),
    # What Hi3D's table alone needs: enlarging picture by picture.
    "hi3d_upscaler": Part(
        stage="hi3d_upscaler",
        steps=800,
        batch_size=8,
        lr=1e-3,
        warmup_steps=100,
        ema_decay=0.99,
        weight_decay=0.0,
        seed=0,
        validate_every=200,
        options={"crop": 32, "shares": (0.5, 0.5)},
    ),
}

# TUNet: the base on single views, then the network on its inversions. Shares: procedural objects and meshes
# at 30 degrees, and beside them at all other elevations together.
_TUNET_SHARES = (0.25, 0.25, 0.25, 0.25)
_TUNET = {
    "batch_size": 4,
    "lr": 1e-3,
    "warmup_steps": 50,
    "optimizer": "muon",
    "ema_decay": 0.998,
    "weight_decay": 0.01,
    "seed": 0,
}
_TUNET_OPTIONS = {"shares": _TUNET_SHARES, "targets": 4, "base": "tunet_base"}
PARTS |= {
    "tunet_base": Part(
        stage="tunet_base",
        steps=5000,
        batch_size=24,
        lr=1e-3,
        warmup_steps=50,
        optimizer="muon",
        ema_decay=0.998,
        weight_decay=0.01,
        seed=0,
        validate_every=1000,
        options={"shares": (0.3, 0.3, 0.2, 0.2), "prediction": "epsilon"},
    ),
    "tunet": Part(stage="tunet", **_TUNET, steps=6000, validate_every=1000, options=_TUNET_OPTIONS),
    # What TUNet's table alone needs: the paper's ablation, all three for equally many steps.
    "tunet_full_short": Part(
        stage="tunet_ablations",
        **_TUNET,
        steps=1200,
        validate_every=600,
        options={**_TUNET_OPTIONS, "ablation": "full"},
    ),
    "tunet_no_cross_attention": Part(
        stage="tunet_ablations",
        **_TUNET,
        steps=1200,
        validate_every=600,
        options={**_TUNET_OPTIONS, "ablation": "no-cross-attention"},
    ),
    "tunet_concat": Part(
        stage="tunet_ablations",
        **_TUNET,
        steps=1200,
        validate_every=600,
        options={**_TUNET_OPTIONS, "ablation": "concat"},
    ),
}

# The refiner: a generator of animals, the net that measures yaw (for validation and the table alone), depth
# and pose taught by the generator's sweeps, and the refiner. 128 000 pictures for the generator.
_REFINING: dict[str, Any] = {
    "stage": "refiner",
    "steps": 400,
    "batch_size": 16,
    "lr": 5e-4,
    "warmup_steps": 50,
    "ema_decay": 0.995,
    "weight_decay": 0.0,
    "seed": 0,
    "validate_every": 200,
}
_REACH = 2.0
"""How far the refiner's codes are turned: all yaws are within so many deviations."""
PARTS |= {
    "refiner_generator": Part(
        # As half of an autoencoder: the game shows one outline in all colours after so many pictures.
        stage="refiner_generator",
        steps=4000,
        batch_size=32,
        lr=2e-3,
        warmup_steps=50,
        ema_decay=0.998,
        weight_decay=0.0,
        seed=0,
        validate_every=500,
        clip_norm=None,
        options={"autoencoder": {"rate": 2e-4}},
    ),
    "refiner_yaw": Part(
        stage="refiner_yaw",
        steps=1000,
        batch_size=64,
        lr=1e-3,
        warmup_steps=50,
        ema_decay=0.99,
        weight_decay=0.01,
        seed=0,
        validate_every=200,
    ),
    "refiner_depth": Part(
        stage="refiner_depth",
        steps=2000,
        batch_size=12,
        lr=1e-3,
        warmup_steps=100,
        ema_decay=0.99,
        weight_decay=1e-4,
        seed=0,
        validate_every=200,
        options={"reach": _REACH, "near": (0.1, 0.5), "yaw_range": 60.0},
    ),
    "refiner": Part(**_REFINING, options={"reach": _REACH}),
    # What the table of its losses needs beside it, trained where it is named.
    **{
        f"refiner_no_{name}": Part(
            **{**_REFINING, "stage": "refiner_ablations"},
            options={"reach": _REACH, "without": (name,)},
        )
        for name in ("warp", "latent", "feature", "guard")
    },
}
