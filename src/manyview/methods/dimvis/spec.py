"""DiMViS: what it is, what it takes and what its paper reports. Loads no torch."""

from __future__ import annotations

NAME = "dimvis"
TITLE = "DiMViS: Diffusion-based Multi-View Synthesis"
AUTHORS = "Di Giacomo, Franzese, Cerquitelli, Chiasserini, Michiardi"
VENUE = "ICML 2024 workshop SPIGM"
ACCEPTS = "any non-empty subset of a rig of V views of one object (even azimuths, elevation 30 degrees)"
GIVES = "the other views of the rig"
NEEDS_CAMERAS = False
PROTOCOL = "orbit4"

# Table 1 of the paper: number of references -> guidance, PSNR, SSIM, LPIPS (VGG), at 256 px on its 30
# objects of Google Scanned Objects with a full-size network. The guidance is the better of 1 and 3 on
# the same test objects.
PAPER_RESULTS = {
    1: {"guidance": 3.0, "psnr": 16.32, "ssim": 0.780, "lpips_vgg": 0.171},
    2: {"guidance": 1.0, "psnr": 21.07, "ssim": 0.854, "lpips_vgg": 0.113},
    3: {"guidance": 1.0, "psnr": 23.96, "ssim": 0.886, "lpips_vgg": 0.088},
}

# Section 4.1 of the paper.
PAPER_TRAINING = {
    "optimizer": "AdamW",
    "lr": 5e-5,
    "warmup_steps": 100,
    "steps": 15_750,
    "batch_size": 112,
    "accumulate": 12,
    "resolution": 256,
    "joint_fraction": 0.2,
}

PRESETS = {
    "compact": "128 px, 16x16x8 latents, the weights in the package",
    "paper": "256 px, 32x32x4 latents of Stable Diffusion, initialised from SD Image Variations v2",
}
