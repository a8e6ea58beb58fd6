"""The protocol `yaw`: codes of a generator turned to asked yaws; what stayed the same, and what looks real.

As the refiner's paper scores (section 4.2), with two changes that its printed losses make necessary. A row
that does not turn would win everything but the table, so yaw is measured by a network that no row has seen
(trained on rendered objects, `methods/refiner/yaw_net.py`), rows are compared at equal measured yaw, and how
many views reached their yaw stands beside every number. And views of one source are resampled together.

For every source and target: `ssim_skimage` to the source's picture; `identity`, the cosine of features;
`warp_l1`, the mean absolute colour difference on the source's object to the view looked up in the source's
depth at the measured turn (one depth network for all rows). For ranges of yaw: `frechet` and `kernel`, the
distances of features between views and held-out renders of the same range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyview.bench.yaw_features import FeatureNet, pack_features
from manyview.bench.yaw_options import YawOptions
from manyview.errors import InputError
from manyview.methods.refiner.coarse_pose import inner_mask
from manyview.methods.refiner.depth_scores import tell_depths
from manyview.methods.refiner.photometric import colour_mask
from manyview.methods.refiner.pipeline import RefinerPipeline
from manyview.methods.refiner.reprojection import warp
from manyview.methods.refiner.yaw_net import YawNet
from manyview.metrics.image import ssim_skimage

METRICS = {"ssim_skimage": True, "identity": True, "warp_l1": False}
"""Of single views; whether more is better."""
DISTANCES = ("frechet", "kernel")
_FIRST_SEED = 1 << 33
_TRIES = 60


@dataclass(frozen=True, kw_only=True)
class Source:
    """A code that is turned, and what is known of its picture."""

    seed: int
    code: Tensor
    """[1, L, D]."""
    image: Tensor
    """[1, 3, R, R]."""
    yaw_deg: float
    """As measured."""
    features: Tensor
    """[1, F]."""
    depth: Tensor
    """[1, 1, R, R]."""
    mask: Tensor
    """[1, 1, R, R]."""


def choose_sources(
    pipeline: RefinerPipeline, net: YawNet, feature_net: FeatureNet, options: YawOptions
) -> list[Source]:
    """The first codes that face the camera, by the yaw network. Raises `InputError` where hardly any do."""
    found: list[Source] = []
    first = _FIRST_SEED + (options.seed << 40)
    for seed in range(first, first + _TRIES * options.num_sources):
        code = pipeline.sample(seed, options.truncation)
        source = look_at(pipeline, net, feature_net, code, seed)
        if abs(source.yaw_deg) <= options.frontal_deg:
            found.append(source)
        if len(found) == options.num_sources:
            return found
    tried, limit = _TRIES * options.num_sources, options.frontal_deg
    line = f"of {tried} codes {len(found)} are seen within {limit:g} degrees of the front"
    raise InputError("--weights", "generator", f"{line}; expected {options.num_sources}")


def look_at(
    pipeline: RefinerPipeline, net: YawNet, feature_net: FeatureNet, code: Tensor, seed: int
) -> Source:
    """A code with what is known of it."""
    with torch.no_grad():
        image = pipeline.codes_of(code).clamp(0, 1).float()
        depth = tell_depths(pipeline.depth, pipeline.pose, image)
    return Source(
        seed=seed,
        code=code,
        image=image,
        yaw_deg=float(net.measure(image)[0]),
        features=feature_net.features(image),
        depth=depth,
        mask=colour_mask(image),
    )


def measure_views(
    pipeline: RefinerPipeline,
    net: YawNet,
    feature_net: FeatureNet,
    source: Source,
    images: Tensor,
    options: YawOptions,
) -> list[dict[str, Any]]:
    """For every target the numbers of its picture [V, 3, R, R]: `yaw_deg` against the source, `reached`, and
    where it is reached the metrics and the features."""
    told = []
    yaws = net.measure(images).cpu() - source.yaw_deg
    features = feature_net.features(images)
    similar = ssim_skimage(images.cpu(), source.image.cpu().expand_as(images.cpu()))
    same = feature_net.cosine(features, source.features)
    warped = warp_errors(pipeline, source, images, yaws)
    for place, target in enumerate(options.targets_deg):
        row: dict[str, Any] = {
            "target_deg": float(target),
            "yaw_deg": round(float(yaws[place]), 3),
            "reached": bool((yaws[place] - target).abs() <= options.tolerance_deg),
        }
        if row["reached"]:
            row |= {
                "ssim_skimage": float(similar[place]),
                "identity": float(same[place]),
                "warp_l1": float(warped[place]),
                "features": pack_features(features[place]),
            }
        told.append(row)
    return told


@torch.no_grad()
def warp_errors(pipeline: RefinerPipeline, source: Source, images: Tensor, yaws_deg: Tensor) -> Tensor:
    """[V] mean absolute colour difference on the source's object between it and pictures [V, 3, R, R], looked
    up in its depth at turns of so many degrees about the pose network's axis."""
    pose = pipeline.pose
    count, height, width = len(images), *images.shape[-2:]
    turned = pose.transform(pose.turn(yaws_deg.to(images.device)))
    depth = source.depth.expand(count, -1, -1, -1)
    looked_up, valid = warp(images, depth, pose.K(height, width).float()[None], turned)
    seen = valid * inner_mask(source.mask)
    error = ((looked_up - source.image).abs() * seen).sum(dim=(1, 2, 3))
    return (error / (3 * seen.sum(dim=(1, 2, 3))).clamp_min(1)).cpu()
