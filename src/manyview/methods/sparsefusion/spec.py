"""SparseFusion: what it is, what it takes and what its paper reports. Loads no torch."""

from __future__ import annotations

NAME = "sparsefusion"
TITLE = "SparseFusion: Distilling View-conditioned Diffusion for 3D Reconstruction"
AUTHORS = "Zhou, Tulsiani"
VENUE = "CVPR 2023"
ACCEPTS = "1 to 8 views of one object with their cameras"
GIVES = "any number of views at given cameras, and a neural field"
NEEDS_CAMERAS = True
PROTOCOL = "fewview"
MAX_VIEWS = 8

# Ten categories of CO3Dv2 at 256 px: number of input views -> row -> PSNR and LPIPS (VGG).
PAPER_RESULTS = {
    2: {
        "pixelnerf": {"psnr": 19.52, "lpips_vgg": 0.327},
        "nerformer": {"psnr": 17.88, "lpips_vgg": 0.382},
        "viewformer": {"psnr": 18.37, "lpips_vgg": 0.282},
        "eft": {"psnr": 20.85, "lpips_vgg": 0.289},
        "vldm": {"psnr": 19.55, "lpips_vgg": 0.247},
        "sparsefusion": {"psnr": 21.34, "lpips_vgg": 0.225},
    },
}

# As the published script trains.
PAPER_TRAINING = {
    "optimizer": "Adam",
    "lr": 5e-5,
    "halve_lr_every": 50_000,
    "context_views": (2, 5),
    "noise_levels_a_query": 12,
    "condition_drop": 0.1,
    "p2_gamma": 0.5,
    "resolution": 256,
}

PRESETS = {
    "compact": "128 px, 16x16x8 latents, the weights in the package",
    "paper": "256 px, 32x32x4 latents of Stable Diffusion, the sizes of the published weights",
}
