"""Hi3D: what it is, what it takes and what its paper reports. Loads no torch."""

from __future__ import annotations

NAME = "hi3d"
TITLE = "Hi3D: Pursuing High-Resolution Image-to-3D Generation with Video Diffusion Models"
AUTHORS = "Yang, Chen, Pan, Yao, Chen, Ngo, Mei"
VENUE = "ACM Multimedia 2024"
ACCEPTS = "one view of one object and the elevation it was taken from"
GIVES = (
    "an orbit of 16 views at that elevation, at twice the resolution of the first stage, splats and a mesh"
)
NEEDS_CAMERAS = False
PROTOCOL = "orbit16"
NUM_FRAMES = 16
"""Views of an orbit; frame 0 is the given one, frame k stands 22.5 k degrees counter-clockwise of it."""

# Google Scanned Objects: row -> PSNR, SSIM and LPIPS of the new views, as the paper prints them.
PAPER_RESULTS = {
    "realfusion": {"psnr": 15.26, "ssim": 0.722, "lpips": 0.283},
    "zero123": {"psnr": 18.93, "ssim": 0.779, "lpips": 0.166},
    "zero123-xl": {"psnr": 19.47, "ssim": 0.783, "lpips": 0.159},
    "stable-zero123": {"psnr": 19.79, "ssim": 0.788, "lpips": 0.153},
    "syncdreamer": {"psnr": 20.05, "ssim": 0.798, "lpips": 0.146},
    "epidiff": {"psnr": 20.49, "ssim": 0.855, "lpips": 0.128},
    "hi3d": {"psnr": 24.26, "ssim": 0.864, "lpips": 0.119},
    "hi3d without refinement": {"psnr": 22.09, "ssim": 0.842, "lpips": 0.136},
    "hi3d without depth": {"psnr": 23.12, "ssim": 0.848, "lpips": 0.128},
}

# The same objects: row -> Chamfer distance and volume IoU of the mesh.
PAPER_MESHES = {
    "realfusion": {"chamfer": 0.0819, "iou": 0.2741},
    "magic123": {"chamfer": 0.0516, "iou": 0.4528},
    "one-2-3-45": {"chamfer": 0.0629, "iou": 0.4086},
    "point-e": {"chamfer": 0.0426, "iou": 0.2875},
    "shap-e": {"chamfer": 0.0436, "iou": 0.3584},
    "stable-zero123": {"chamfer": 0.0321, "iou": 0.5207},
    "syncdreamer": {"chamfer": 0.0261, "iou": 0.5421},
    "epidiff": {"chamfer": 0.0343, "iou": 0.4927},
    "wonder3d": {"chamfer": 0.0199, "iou": 0.6244},
    "hi3d": {"chamfer": 0.0172, "iou": 0.6631},
}

# Interpolated views between neighbours of the refined orbit -> Chamfer distance and volume IoU.
PAPER_INTERPOLATION = {
    0: {"chamfer": 0.0186, "iou": 0.6375},
    16: {"chamfer": 0.0172, "iou": 0.6631},
    32: {"chamfer": 0.0174, "iou": 0.6598},
    48: {"chamfer": 0.0175, "iou": 0.6607},
}

# By stage; both stages train every weight of the network. The published code has 1e-5 for the second stage
# where the paper prints 5e-5.
PAPER_TRAINING = {
    "orbit": {"lr": 1e-5, "batch_size": 16, "steps": 80_000, "resolution": 512},
    "refine": {"lr": 5e-5, "batch_size": 8, "steps": 20_000, "resolution": 1024},
}

# Of both stages, as the published code trains: ln sigma is normal, one sigma a clip; so is the log of the
# deviation of the noise that is put on the condition; each condition is dropped on its own.
PAPER_DIFFUSION = {
    "log_sigma_mean": 1.0,
    "log_sigma_std": 1.6,
    "log_augmentation_mean": -3.0,
    "log_augmentation_std": 0.5,
    "drop": 0.1,
}

# As the published code samples. The guidance rises from the first number at frame 0 to the second at frame
# 15.
PAPER_SAMPLING = {
    "steps": 25,
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "rho": 7.0,
    "augmentation": 0.02,
    "guidance": {"orbit": (1.0, 2.5), "refine": (1.0, 2.0)},
}

PRESETS = {
    "compact": "128 px in 16x16x8 latents, refined to 256 px in 32x32x8",
    "paper": "512 px in 64x64x4 latents of Stable Diffusion, refined to 1024 px; the sizes of the weights"
    " its authors published, which began as Stable Video Diffusion",
}
