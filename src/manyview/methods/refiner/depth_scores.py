"""How well told depths order what they see, where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from manyview.methods.refiner.coarse_pose import round_depth
from manyview.methods.refiner.photometric import depth_from_disparity
from manyview.methods.refiner.pose import PoseEstimator

_FEWEST = 30


def rank_correlation(told: Tensor, truth: Tensor) -> float:
    """Spearman's correlation of two depth maps over the pixels where the truth is above 0; NaN where there
    are fewer than 30 or one of them is flat."""
    known = truth > 0
    if int(known.sum()) < _FEWEST:
        return math.nan
    first, second = told[known].double().cpu().numpy(), truth[known].double().cpu().numpy()
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


@torch.no_grad()
def score_depths(depth: nn.Module, pose: PoseEstimator, images: Tensor, truth: Tensor) -> dict[str, float]:
    """Mean rank correlation over pictures [N, 3, H, W] with true depths [N, 1, H, W], 0 = nothing:
    `depth_rank` of what the network tells and `round_rank` of a depth that is round within the true
    outline."""
    told = tell_depths(depth, pose, images).cpu()
    focal = float(pose.K(*images.shape[-2:])[0, 0].detach())
    guess = round_depth((truth > 0).float(), pose.pivot, focal)
    found = {}
    for name, maps in (("depth_rank", told), ("round_rank", guess)):
        values = [rank_correlation(one, true) for one, true in zip(maps, truth.cpu(), strict=True)]
        known = [value for value in values if math.isfinite(value)]
        if known:
            found[name] = float(np.mean(known))
    return found


def tell_depths(depth: nn.Module, pose: PoseEstimator, images: Tensor) -> Tensor:
    """[N, 1, H, W] along the camera's z axis, in units in which objects are `pose.pivot` away."""
    weight = next(depth.parameters())
    _, found = depth_from_disparity(depth(images.clamp(0, 1).to(weight))[0].float(), *pose.depths)
    return found
