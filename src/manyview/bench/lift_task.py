"""What `manyview reconstruct` reads, and what it makes of the answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from manyview.bench.lift_scores import score_mesh, score_views
from manyview.errors import InputError
from manyview.geometry.distortion import undistort_views
from manyview.geometry.interpolation import turntable_cameras
from manyview.geometry.matching import match_cameras
from manyview.geometry.normalization import focus_point
from manyview.io.glb import read_glb
from manyview.io.manifest import MANIFEST_NAME, to_plain
from manyview.io.scene import has_image, read_scene
from manyview.io.transforms import read_transforms
from manyview.lift.reconstruction import Reconstruction
from manyview.types import Cameras, Views

if TYPE_CHECKING:
    import trimesh

    from manyview.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is fitted and what it is scored against."""

    views: Views
    """All that was read; `observed` as the scene's split says."""
    fitted: Tensor
    """bool [V]: views the fit sees."""
    weights: Tensor
    """[V]"""
    held_out: Tensor
    """bool [V]: real views that the fit does not see, to score against."""
    truth: Views | None
    """Real views of another scene to score against instead."""
    true_mesh: trimesh.Trimesh | None


def scene_folder(path: Path) -> Path:
    """The folder of a scene given as such or by its transforms.json."""
    return path.parent if path.name == "transforms.json" else path


def frame_sizes(scene: Path) -> list[tuple[int, int]]:
    """(height, width) of every frame, from the cameras alone. Raises `InputError` for a scene without."""
    folder = scene_folder(scene)
    if not (folder / "transforms.json").is_file():
        accepted = "expected a scene with cameras (transforms.json); `manyview synth` writes one"
        raise InputError("SCENE", str(scene), accepted)
    sizes = read_transforms(folder).cameras.sizes.tolist()
    return [(int(height), int(width)) for height, width in sizes]


def read_task(
    scene: Path,
    *,
    use: Literal["auto", "given", "all"],
    split: int | None,
    made_weight: float,
    truth: Path | None,
    max_side: int,
) -> Task:
    """Read the views. Raises `InputError` for scenes that cannot be read, and without a view to fit."""
    folder = scene_folder(scene)
    is_result = (folder / MANIFEST_NAME).is_file()
    views = undistort_views(read_scene(scene, split=split, max_side=max_side, argument="SCENE"))
    known, given = has_image(views), views.observed.cpu()
    fitted = known if use == "all" or (use == "auto" and is_result) else known & given
    if not bool(fitted.any()):
        raise InputError("SCENE", str(scene), "none of the views to fit has an image")
    mesh_file = None if is_result else folder / "mesh.glb"
    if truth is not None:
        mesh_file = scene_folder(truth) / "mesh.glb"
    has_mesh = mesh_file is not None and mesh_file.is_file()
    return Task(
        views=views,
        fitted=fitted,
        weights=torch.where(given, 1.0, made_weight),
        held_out=known & ~fitted if truth is None else torch.zeros_like(fitted),
        truth=None if truth is None else _true_views(views, truth, max_side),
        true_mesh=read_glb(mesh_file, argument="--truth") if mesh_file is not None and has_mesh else None,
    )


def _true_views(views: Views, truth: Path, max_side: int) -> Views | None:
    """The frames of `truth` that are not among the given views."""
    real = undistort_views(read_scene(truth, max_side=max_side, argument="--truth"))
    if real.cameras is None:
        raise InputError("--truth", str(truth), "expected a scene with cameras")
    given = views[views.observed.cpu().nonzero()[:, 0]]
    if given.cameras is None or len(given) == 0:
        return real
    new = torch.tensor([place < 0 for place in match_cameras(real.cameras, given.cameras)])
    return real[new.nonzero()[:, 0]] if bool(new.any()) else None


def fingerprint(task: Task, options: object) -> str:
    """A hash of everything the steps of a run depend on."""
    total = hashlib.sha256(json.dumps(to_plain(options), sort_keys=True).encode())
    cameras = task.views.cameras
    parts: list[Tensor | None] = [task.views.images, task.views.masks, task.fitted, task.weights]
    parts += [] if cameras is None else [cameras.world_from_cam, cameras.K, cameras.sizes]
    for part in parts:
        if part is not None:
            total.update(part.contiguous().numpy().tobytes())
    return total.hexdigest()


def finish_views(task: Task, made: Reconstruction, progress: Progress) -> tuple[Views, Views]:
    """The scene of the result, and everything drawn from its cameras.

    Fitted views stay as they were read; the others are what the reconstruction shows there. Depth is the
    reconstruction's everywhere.
    """
    assert task.views.cameras is not None, "the fit has checked"
    drawn = _draw_all(made, task.views.cameras, progress, "views")
    keep = task.fitted[:, None, None, None]
    if task.views.masks is None:
        images, masks = torch.where(keep, task.views.images, drawn.over(1.0)), None
    else:
        assert drawn.masks is not None, "drawn views have masks"
        images = torch.where(keep, task.views.images, drawn.images)
        masks = torch.where(keep, task.views.masks, drawn.masks)
    observed = task.views.observed & task.fitted
    scene = replace(task.views, images=images, masks=masks, depths=drawn.depths, observed=observed)
    return scene, drawn


def draw_turntable(made: Reconstruction, cameras: Cameras, num_frames: int, progress: Progress) -> Tensor:
    """[N, 3, H, W] one turn round the product over white."""
    circle = turntable_cameras(cameras, _middle(made, cameras), num_frames)
    return _draw_all(made, circle, progress, "frames").over(1.0)


def _middle(made: Reconstruction, cameras: Cameras) -> Tensor:
    if made.mesh is not None:
        return torch.from_numpy(made.mesh.bounds.mean(axis=0))
    if made.kind == "splats" and made.splats is not None:
        solid = made.splats.opacities > 0.1
        return (made.splats.means[solid] if bool(solid.any()) else made.splats.means).median(dim=0).values
    return focus_point(cameras)


def _draw_all(made: Reconstruction, cameras: Cameras, progress: Progress, what: str) -> Views:
    progress.start(len(cameras), what)
    drawn = []
    try:
        for index in range(len(cameras)):
            drawn.append(made.render(cameras[index]))
            progress.advance()
    finally:
        progress.finish()
    return Views(
        images=torch.cat([view.images.float().cpu() for view in drawn]),
        masks=torch.cat([view.masks.float().cpu() for view in drawn if view.masks is not None]),
        cameras=cameras,
        depths=torch.cat([view.depths.float().cpu() for view in drawn if view.depths is not None]),
    )


def score(task: Task, made: Reconstruction, drawn: Views, *, seed: int, progress: Progress) -> dict[str, Any]:
    """What metrics.json says; see DESIGN of the file in docs/lift.md."""
    record: dict[str, Any] = {"method": made.kind, "protocol": "reconstruct", "seed": seed, "metrics": {}}
    record["resolution"] = list(task.views.size)
    held_out = task.held_out.nonzero()[:, 0]
    if len(held_out) > 0:
        record |= score_views(drawn[held_out], task.views[held_out])
    elif task.truth is not None:
        assert task.truth.cameras is not None, "true views are read with cameras"
        record |= score_views(_draw_all(made, task.truth.cameras, progress, "true views"), task.truth)
    if made.mesh is not None and task.true_mesh is not None:
        progress.start(1, "comparison with the true mesh")
        try:
            record["metrics"] |= score_mesh(made.mesh, task.true_mesh, seed=seed)
            progress.advance()
        finally:
            progress.finish()
    seen = task.fitted.nonzero()[:, 0]
    record["fitted"] = score_views(drawn[seen], task.views[seen])
    return record


def describe(record: Mapping[str, Any]) -> str:
    """The scores in one line."""
    words = {
        "psnr": "PSNR {:.2f} dB",
        "ssim_skimage": "SSIM {:.3f}",
        "chamfer_mean": "Chamfer {:.4f}",
        "volume_iou_64": "IoU {:.3f}",
    }
    shown = [
        form.format(record["metrics"][name]["mean"])
        for name, form in words.items()
        if name in record["metrics"]
    ]
    fitted = record["fitted"]["metrics"]["psnr"]["mean"]
    line = f"fitted views: PSNR {fitted:.2f} dB"
    return line + (f"; against the truth: {', '.join(shown)}" if shown else "")
