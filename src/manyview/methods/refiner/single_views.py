"""Packed single views: of every object one picture from a yaw of its own, with its depth.

A packed data set (`manyview.data.packed`) with one view an object, so that everything that reads pictures
alone reads it; beside each shard `yaws_<first>.npy` [N] float32, degrees. What a generator learns from are
the pictures; yaw and depth are for measuring.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyview.data.depth_codes import DepthCodes
from manyview.data.packed import PackedViews, describe, has_shard, write_shard
from manyview.data.procedural.animals import render_single_views, view_cameras
from manyview.errors import InputError
from manyview.io.atomic import writing_file
from manyview.types import Cameras

SHARD_VIEWS = 100
MAX_YAW_DEG = 60.0
ELEVATION_DEG = 10.0
DISTANCE = 1.5


def pack_single_views(
    folder: Path,
    first_seed: int,
    count: int,
    *,
    size: int = 64,
    max_yaw_deg: float = MAX_YAW_DEG,
    elevation_deg: float = ELEVATION_DEG,
    supersample: int = 2,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    force: bool = False,
) -> None:
    """Render the animals of consecutive seeds, each once, its yaw within +-`max_yaw_deg` of its front.

    Finished shards are kept; `progress` is called with the number of views each other one adds. Raises
    `InputError` as `packed.describe`.
    """
    rig = view_cameras([0.0], elevation_deg=elevation_deg, distance=DISTANCE, size=size)
    codes = DepthCodes.around_objects(rig)
    description = {
        "source": "single views of procedural animals",
        "first_seed": first_seed,
        "max_yaw_deg": max_yaw_deg,
        "elevation_deg": elevation_deg,
        "distance": DISTANCE,
        "supersample": supersample,
        "depths": {"near": codes.near, "far": codes.far},
        "K": rig.K.tolist(),
        "size": [size, size],
    }
    describe(folder, description, force)
    end = first_seed + count
    for first in range(first_seed, end, SHARD_VIEWS):
        seeds = range(first, min(first + SHARD_VIEWS, end))
        if has_shard(folder, first, len(seeds)):
            continue
        views = render_single_views(
            seeds,
            size=size,
            max_yaw_deg=max_yaw_deg,
            elevation_deg=elevation_deg,
            distance=DISTANCE,
            supersample=supersample,
            device=device,
        )
        # Before the views, for a shard counts as finished once its views are there.
        with writing_file(_yaw_path(folder, first)) as temporary, temporary.open("wb") as stream:
            np.save(stream, _array(views.yaw_deg).astype(np.float32))
        depths = codes.encode(torch.as_tensor(_array(views.depths)))
        write_shard(folder, first, _array(views.images)[:, None], depths=depths[:, None])
        if progress is not None:
            progress(len(seeds))


class SingleViewSet:
    """Read access to packed single views. Raises `InputError` naming `argument` for a data set that is
    none."""

    def __init__(self, folder: Path, argument: str = "--data") -> None:
        self.views = PackedViews(folder, argument)
        paths = [path.with_name(path.name.replace("views_", "yaws_", 1)) for path in _shards(folder)]
        if self.views.num_views != 1 or not all(path.is_file() for path in paths):
            line = "holds no yaws; expected single views (papers/refiner/pack_views.py)"
            raise InputError(argument, str(folder), line)
        self.folder = folder
        self.yaw_deg = torch.from_numpy(np.concatenate([np.load(path) for path in paths]))
        """[N] degrees."""

    def __len__(self) -> int:
        return len(self.views)

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self.views[0].shape[1])

    @property
    def elevation_deg(self) -> float:
        """From which all are seen."""
        return float(self.views.description["elevation_deg"])

    def image(self, index: int) -> Tensor:
        """[3, S, S] in [0, 1] over white."""
        pixels = self.views[index][0].astype(np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def images(self, indices: Tensor | range) -> Tensor:
        """[N, 3, S, S] several of them."""
        return torch.stack([self.image(int(index)) for index in indices])

    def depth(self, index: int) -> Tensor:
        """[1, S, S] along the camera's z axis, 0 where there is nothing."""
        return torch.from_numpy(self.views.depth_codes.decode(self.views.depths(index)[0]))[None]

    def cameras(self, indices: Tensor | range) -> Cameras:
        """Where they were seen from."""
        chosen = torch.as_tensor(list(indices), dtype=torch.int64)
        told = self.views.description
        return view_cameras(
            self.yaw_deg[chosen].tolist(),
            elevation_deg=self.elevation_deg,
            distance=float(told["distance"]),
            size=self.size,
        )


def _array(values: NDArray | Tensor) -> NDArray:
    return values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("views_*.npy"))


def _yaw_path(folder: Path, first: int) -> Path:
    return folder / f"yaws_{first:08d}.npy"
