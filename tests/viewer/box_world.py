"""A box with six plain colours, its images by ray casting apart from the package, and Gaussians by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial

from manyview.geometry.trajectories import sphere_cameras
from manyview.io.result import Result
from manyview.io.scene import write_scene
from manyview.types import Cameras, Views

SIDES = np.array([0.8, 0.6, 0.5])
# Of the faces +x -x +y -y +z -z; none is a mirror image or a permutation of another arrangement.
COLORS = np.array(
    [[220, 30, 30], [30, 200, 200], [40, 160, 40], [200, 60, 200], [250, 200, 20], [30, 60, 200]]
)
SIZE = 48
NAMES = ("front", "side", "back", "top")
C0 = 0.28209479177387814
C1 = 0.4886025119029199


def box_cameras() -> Cameras:
    """Four cameras around the box, the last one from high up; the principal point is off the middle."""
    cameras = sphere_cameras([20.0, 100.0, 215.0, 300.0], [20.0, 25.0, 10.0, 65.0], 1.6, size=SIZE)
    K = cameras.K.clone()
    K[:, 0, 2] += 3.0
    K[:, 1, 2] -= 2.0
    return dataclasses.replace(cameras, K=K)


def cast_box(cameras: Cameras, samples: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [V, 3, H, W] and masks [V, 1, H, W]: samples^2 rays a pixel against the six planes."""
    images, masks = [], []
    places = (np.arange(SIZE * samples) + 0.5) / samples
    v, u = np.meshgrid(places, places, indexing="ij")
    for index in range(len(cameras)):
        K = cameras.K[index].double().numpy()
        world_from_cam = cameras.world_from_cam[index].double().numpy()
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], axis=-1)
        rays = rays @ world_from_cam[:3, :3].T
        with np.errstate(divide="ignore"):
            first = (-SIDES / 2 - world_from_cam[:3, 3]) / rays
            second = (SIDES / 2 - world_from_cam[:3, 3]) / rays
        enter, leave = np.minimum(first, second), np.maximum(first, second)
        axis = enter.argmax(axis=-1)
        hit = enter.max(axis=-1) < leave.min(axis=-1)
        # A ray that runs towards -axis enters by the face on the + side.
        backwards = np.take_along_axis(rays, axis[..., None], axis=-1)[..., 0] > 0
        color = COLORS[2 * axis + backwards] / 255 * hit[..., None]
        shape = (SIZE, samples, SIZE, samples)
        alpha = hit.reshape(shape).mean(axis=(1, 3))
        mean = color.reshape(*shape, 3).mean(axis=(1, 3)) / np.maximum(alpha, 1e-9)[..., None]
        images.append(torch.from_numpy(mean.transpose(2, 0, 1)).float())
        masks.append(torch.from_numpy(alpha)[None].float())
    return torch.stack(images).clamp(0, 1), torch.stack(masks)


def box_views(observed: int = 2) -> Views:
    """The box's views, the first ones observed, with depth where the mask is."""
    cameras = box_cameras()
    images, masks = cast_box(cameras)
    seen = torch.tensor([index < observed for index in range(len(cameras))])
    return Views(
        images=images, masks=masks, cameras=cameras, observed=seen, names=NAMES, depths=1.6 * masks.ceil()
    )


def box_mesh() -> trimesh.Trimesh:
    """The box with a texture of six patches in two rows: +x +y +z above -x -y -z."""
    patches = COLORS[[0, 2, 4, 1, 3, 5]].reshape(2, 3, 3).astype(np.uint8)
    texture = Image.fromarray(patches.repeat(8, axis=0).repeat(8, axis=1))
    vertices, faces, uv = [], [], []
    for face in range(6):
        axis, sign = face // 2, 1 - 2 * (face % 2)
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [1, sign]
        square = np.insert(corners, axis, sign, axis=1) if axis != 1 else np.insert(
            corners[:, ::-1], axis, sign, axis=1
        )  # fmt: skip
        faces += [[4 * face, 4 * face + 1, 4 * face + 2], [4 * face, 4 * face + 2, 4 * face + 3]]
        vertices += (square * SIDES / 2).tolist()
        # Texture coordinates start at the lower left.
        uv += [[(axis + 0.5) / 3, 0.75 if sign > 0 else 0.25]] * 4
    material = PBRMaterial(baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=1.0)
    visual = trimesh.visual.TextureVisuals(uv=np.array(uv), material=material)
    return trimesh.Trimesh(vertices=vertices, faces=faces, visual=visual, process=False)


def splat_bytes(splats: list[dict[str, object]], num_rest: int = 9) -> bytes:
    """A .ply of Gaussians, by hand; keys as the file's properties, `rot`, `scale`, `f_dc` as lists."""
    names = ["x", "y", "z", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(num_rest))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(splats)}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]
    rows = [
        [*s["xyz"], *s["f_dc"], *s.get("f_rest", [0.0] * num_rest), s["opacity"], *s["scale"], *s["rot"]]  # type: ignore[misc]
        for s in splats
    ]
    return "\n".join(header).encode() + np.array(rows, "<f4").tobytes()


def as_dc(rgb: tuple[float, float, float]) -> list[float]:
    """Coefficients of degree 0 for a colour in [0, 1]."""
    return [(value - 0.5) / C0 for value in rgb]


def write_box_result(folder: Path, *, damage: float = 0.25) -> None:
    """A result whose generated views are too dark by `damage`, with everything a result can have."""
    views = box_views()
    images = views.images.clone()
    images[~views.observed] = (images[~views.observed] - damage).clamp_min(0)
    weights = {"name": "box-net", "sha256": "0" * 64, "licence": "Apache-2.0"}
    manifest = {"command": "synth box", "seed": 31, "weights": [weights], "input": "/somewhere/private/box"}
    spread = torch.full((len(views), 1, SIZE, SIZE), 0.1)
    made = dataclasses.replace(views, images=images)
    Result(views=made, mesh=box_mesh(), manifest=manifest, spread=spread).save(folder, video=False)


def write_box_truth(folder: Path) -> None:
    """The real views as a scene, in another order and under other names: cameras tell which is which."""
    order = [3, 1, 0, 2]
    views = box_views()[order]
    write_scene(dataclasses.replace(views, names=tuple(f"{i:03d}" for i in range(4))), folder)
