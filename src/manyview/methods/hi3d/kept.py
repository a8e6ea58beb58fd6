"""A made orbit in one file, to the last bit, so that a stopped run goes on from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from manyview.io.atomic import writing_file
from manyview.io.manifest import to_plain
from manyview.methods.hi3d.elevation import Elevation
from manyview.methods.hi3d.pipeline import OrbitResult
from manyview.types import Cameras, Views


def write_orbit(path: Path, result: OrbitResult) -> None:
    """Keep views, coarse views, samples, spread, cameras, elevation and manifest."""
    tensors: dict[str, Tensor] = {}
    for name, views in (("views", result.views), ("coarse", result.coarse)):
        if views is None:
            continue
        assert views.cameras is not None, "orbits have cameras"
        tensors |= {
            f"{name}.images": views.images,
            f"{name}.observed": views.observed,
            f"{name}.world_from_cam": views.cameras.world_from_cam,
            f"{name}.K": views.cameras.K,
            f"{name}.sizes": views.cameras.sizes,
        }
    more = {"samples": result.samples, "spread": result.spread}
    tensors |= {name: value for name, value in more.items() if value is not None}
    note = {"elevation": dataclasses.asdict(result.elevation), "manifest": dict(result.manifest)}
    with writing_file(path) as temporary:
        # Views of the two sizes share their cameras; files do not share.
        whole = {name: value.contiguous().clone() for name, value in tensors.items()}
        safetensors.torch.save_file(whole, str(temporary), {"note": json.dumps(to_plain(note))})


def read_orbit(path: Path) -> OrbitResult:
    """What `write_orbit` kept."""
    with safetensors.safe_open(str(path), framework="pt") as stored:
        note = json.loads(stored.metadata()["note"])
        tensors: dict[str, Tensor] = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    elevation = note["elevation"]
    scores = {float(degrees): value for degrees, value in elevation.pop("scores").items()}
    return OrbitResult(
        views=_views(tensors, "views"),
        coarse=_views(tensors, "coarse") if "coarse.images" in tensors else None,
        samples=tensors.get("samples"),
        spread=tensors.get("spread"),
        elevation=Elevation(**elevation, scores=scores),
        manifest=note["manifest"],
    )


def _views(tensors: dict[str, Tensor], name: str) -> Views:
    cameras = Cameras(
        world_from_cam=tensors[f"{name}.world_from_cam"],
        K=tensors[f"{name}.K"],
        sizes=tensors[f"{name}.sizes"],
    )
    return Views(
        images=tensors[f"{name}.images"],
        cameras=cameras,
        observed=tensors[f"{name}.observed"].to(torch.bool),
    )
