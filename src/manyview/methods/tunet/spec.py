"""TUNet: what it is, what it takes and what its paper reports. Loads no torch."""

from __future__ import annotations

NAME = "tunet"
TITLE = "Novel View Synthesis using DDIM Inversion"
AUTHORS = "Singh, Subramanyam"
VENUE = "arXiv 2508.10688, 2025"
ACCEPTS = "one view with its camera, and the cameras of the wanted ones"
GIVES = "one view for every camera; all of them share one inversion of the given view"
NEEDS_CAMERAS = True
PROTOCOL = "pair"
DEFAULT_ELEVATION_DEG = 30.0
"""Of a photo without a camera: that of the evaluation rig."""

# MVImgNet, one reference a pair: row -> what the paper prints. LPIPS and FID on images resized to the named
# size; the text says that PSNR and SSIM are of 512 px, the published script has them at 256.
PAPER_RESULTS = {
    "3 classes, 256 px": {
        "gibr": {"lpips": 0.510, "psnr": 17.61, "ssim": 0.554},
        "tunet": {"lpips": 0.490, "psnr": 15.71, "ssim": 0.523},
    },
    "167 classes, 90 px": {
        "nvist": {"lpips": 0.448, "psnr": 14.31, "ssim": 0.566, "fid": 91.63},
        "tunet": {"lpips": 0.409, "psnr": 16.16, "ssim": 0.578, "fid": 65.50},
    },
}

PAPER_SAMPLING = {"t_star": 600, "steps": 30, "candidates": ("A:eps_t", "B:latent_T")}
# The learning rate as printed. The published script's schedule is still in its warm-up after 450 epochs.
PAPER_TRAINING = {"lr": 1e-5, "batch_size": 32, "epochs": 450, "parameters": 148_000_000, "resolution": 512}

PRESETS = {
    "compact": "128 px, latents 8 x 16 x 16, TUNet of 2.5, base of 1.9 million parameters",
    "paper": "512 px, latents 4 x 64 x 64, TUNet of about 148 million parameters on Stable Diffusion 1.5",
}
