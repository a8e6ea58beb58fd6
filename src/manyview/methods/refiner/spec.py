"""Self-calibrated latent refinement: what it is, what it takes and what its paper reports. Loads no torch."""

from __future__ import annotations

NAME = "refiner"
TITLE = "Multi-view Consistent Image Generation through Self-calibrated Latent Refinement"
AUTHORS = "anonymous"
VENUE = "under double-blind review; no code was published"
ACCEPTS = "a code of a generator (gan:WEIGHTS), or one photo, which is inverted into one"
GIVES = "a sweep of yaws of the same object, the cameras it was seen from, points and a mesh"
NEEDS_CAMERAS = False
PROTOCOL = "yaw"

PAPER_TRAINING = {
    "resolution": 512,
    "manipulation": (-3.0, 3.0),
    "samples": {"faces": 800, "elephants": 600},
    "pairs_a_sample": 30,
    "pair_sets_for_depth": 200,
    "truncation": 0.8,
    "lambda_feat": 1.0,
    "lambda_reg": 1.0,
    "hours_3090": {"faces": 18, "elephants": 12},
}

# Faces (FFHQ), full range: row -> FID, KID, identity consistency, SSIM (table 1).
PAPER_FACES = {
    "ganspace": {"fid": 48.98, "kid": 1.145e-2, "identity": 0.958, "ssim": 0.484},
    "draggan": {"fid": 68.45, "kid": 2.231e-2, "identity": 0.895, "ssim": 0.497},
    "gmpi": {"fid": 54.95, "kid": 2.199e-2, "identity": 0.971, "ssim": 0.509},
    "ray-conditioning": {"fid": 49.41, "kid": 1.547e-2, "identity": 0.960, "ssim": 0.433},
    "epigraf": {"fid": 57.78, "kid": 1.953e-2, "identity": 0.975, "ssim": 0.454},
    "syncdreamer": {"fid": 72.68, "kid": 7.102e-2, "identity": 0.890, "ssim": 0.555},
    "refiner": {"fid": 48.25, "kid": 1.137e-2, "identity": 0.972, "ssim": 0.581},
}

# Elephants (table 2), identity by CLIP.
PAPER_ELEPHANTS = {
    "ganspace": {"fid": 67.32, "kid": 2.380e-2, "identity": 0.915, "ssim": 0.459},
    "draggan": {"fid": 70.38, "kid": 2.573e-2, "identity": 0.850, "ssim": 0.481},
    "gmpi": {"fid": 78.12, "kid": 4.632e-2, "identity": 0.764, "ssim": 0.317},
    "ray-conditioning": {"fid": 69.32, "kid": 2.475e-2, "identity": 0.877, "ssim": 0.503},
    "epigraf": {"fid": 75.32, "kid": 5.632e-2, "identity": 0.792, "ssim": 0.326},
    "syncdreamer": {"fid": 69.89, "kid": 6.473e-2, "identity": 0.811, "ssim": 0.602},
    "refiner": {"fid": 65.78, "kid": 2.294e-2, "identity": 0.932, "ssim": 0.571},
}

# Faces by range of yaw, degrees to either side, None for all (tables 3 and 4).
PAPER_RANGES = {
    "ganspace": {
        20: {"fid": 47.56, "kid": 1.193e-2, "identity": 0.984, "ssim": 0.583},
        40: {"fid": 46.92, "kid": 1.085e-2, "identity": 0.958, "ssim": 0.484},
        None: {"fid": 48.98, "kid": 1.145e-2, "identity": 0.958, "ssim": 0.484},
    },
    "draggan": {
        20: {"fid": 60.21, "kid": 1.823e-2, "identity": 0.945, "ssim": 0.697},
        40: {"fid": 59.73, "kid": 1.797e-2, "identity": 0.925, "ssim": 0.587},
        None: {"fid": 68.45, "kid": 2.231e-2, "identity": 0.895, "ssim": 0.497},
    },
    "refiner": {
        20: {"fid": 47.87, "kid": 1.195e-2, "identity": 0.992, "ssim": 0.73},
        40: {"fid": 46.28, "kid": 1.079e-2, "identity": 0.972, "ssim": 0.59},
        None: {"fid": 48.25, "kid": 1.137e-2, "identity": 0.972, "ssim": 0.581},
    },
}

# What leaving out one loss costs (table 5).
PAPER_LOSSES = {
    "no_latent": {"fid": 54.25, "kid": 1.713e-2, "identity": 0.843, "ssim": 0.482},
    "no_feature": {"fid": 48.73, "kid": 1.094e-2, "identity": 0.754, "ssim": 0.454},
    "no_warp": {"fid": 101.37, "kid": 4.137e-1, "identity": 0.232, "ssim": 0.143},
    "refiner": {"fid": 48.25, "kid": 1.137e-2, "identity": 0.972, "ssim": 0.581},
}

PRESETS = {
    "compact": "64 px, 10 rows of 128 numbers; trained on single views of procedural animals",
    "paper": "512 px and the other published sizes of StyleGAN2, 512 numbers a row",
}
