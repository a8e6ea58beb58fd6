"""What the page carries: one json object, and one block of binary arrays it points into.

The layout of the arrays is that of the buffers and textures the page makes of them, so that its script only
hands them on. See page/splats.js and page/shapes.js for the readers.
"""

from __future__ import annotations

import base64
import gzip
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from trimesh.visual.material import PBRMaterial

from manyview.data.render.texture import linear_from_byte, srgb_from_linear
from manyview.io.splat_files import SplatArrays
from manyview.types import Views
from manyview.viewer.contents import Contents, Points, frame_contents
from manyview.viewer.facts import list_facts
from manyview.viewer.pictures import (
    DIFFERENCE_TOP,
    HEAT,
    STATUS_COLORS,
    as_data_uri,
    depth_range,
    draw_depth,
    draw_difference,
    draw_image,
    draw_spread,
)

if TYPE_CHECKING:
    import trimesh

MAX_TEXTURE_SIDE = 4096
"""Larger ones are shrunk: not every GPU takes more."""
_PLAIN_GREY = (153, 153, 153)


class ArrayBlock:
    """Arrays one after the other, each at a multiple of 4 bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def add(self, values: np.ndarray) -> list[int]:
        """Append an array; returns [offset, length] in bytes."""
        data = np.ascontiguousarray(values).tobytes()
        place = [self._length, len(data)]
        self._parts.append(data + bytes(-len(data) % 4))
        self._length += len(self._parts[-1])
        return place

    def encode(self) -> str:
        """Base64 of the gzipped block, the same for the same arrays."""
        return base64.b64encode(gzip.compress(b"".join(self._parts), 6, mtime=0)).decode("ascii")


def build_payload(contents: Contents, image_size: int) -> tuple[dict[str, Any], str]:
    """The json object and the encoded block. Pictures longer than `image_size` are shrunk to it."""
    block = ArrayBlock()
    frame = frame_contents(contents)
    facts = list_facts(contents)
    if contents.views is not None and max(contents.views.size) > image_size:
        facts.append(("pictures", f"shown at {image_size} pixels a side at most"))
    payload = {
        "title": contents.title,
        "facts": facts,
        "center": list(frame.center),
        "radius": frame.radius,
        "statusColors": STATUS_COLORS,
        "heat": HEAT,
        "differenceTop": DIFFERENCE_TOP,
        "truthBy": None if contents.truth is None else contents.truth.matched_by,
        "views": [] if contents.views is None else _views(contents, contents.views, image_size),
        "splats": None if contents.splats is None else _splats(contents.splats, block),
        "points": None if contents.points is None else _points(contents.points, block),
        "mesh": None if contents.mesh is None else _mesh(contents.mesh, block),
    }
    return payload, block.encode()


def _views(contents: Contents, views: Views, image_size: int) -> list[dict[str, Any]]:
    truth, spread = contents.truth, contents.spread
    near, far = (0.0, 0.0) if views.depths is None else depth_range(views.depths)
    top = 0.0 if spread is None else float(spread.max())
    shown = views.over(1.0)
    rows = []
    for index, name in enumerate(views.names):
        row: dict[str, Any] = {"name": name, "status": contents.statuses[index]}
        if contents.statuses[index] != "missing":
            mask = None if views.masks is None else views.masks[index]
            row["image"] = as_data_uri(draw_image(views.images[index], mask), max_side=image_size)
        if views.depths is not None and bool(views.depths[index].any()):
            row["depth"] = as_data_uri(draw_depth(views.depths[index], near, far), max_side=image_size)
            row["depthRange"] = [near, far]
        if truth is not None and bool(truth.known[index]):
            row["truth"] = as_data_uri(draw_image(truth.images[index], None), max_side=image_size)
            if contents.statuses[index] != "missing":
                gap = draw_difference(shown[index], truth.images[index])
                row["difference"] = as_data_uri(gap, max_side=image_size)
                score = float(truth.psnr[index])
                row["psnr"] = score if math.isfinite(score) else "equal"
        if spread is not None:
            row["spread"] = as_data_uri(draw_spread(spread[index], top), max_side=image_size)
            row["spreadTop"] = top
        if views.cameras is not None:
            row["worldFromCam"] = views.cameras.world_from_cam[index].double().reshape(-1).tolist()
            K = views.cameras.K[index].double()
            row["lens"] = [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])]
            row["size"] = views.cameras.sizes[index].tolist()
        else:
            row["size"] = list(views.size)
        rows.append(row)
    return rows


def _splats(splats: SplatArrays, block: ArrayBlock) -> dict[str, Any]:
    """Centres as float32; texels of four float16: quaternion; log scales and opacity; harmonics."""
    count, num_coefficients = splats.sh.shape[:2]
    unit = splats.quaternions / np.maximum(np.linalg.norm(splats.quaternions, axis=1, keepdims=True), 1e-12)
    texels = np.zeros((count, 2 + num_coefficients, 4), np.float16)
    texels[:, 0] = unit
    texels[:, 1, :3] = splats.log_scales.clip(-60, 60)
    texels[:, 1, 3] = 0.5 + 0.5 * np.tanh(0.5 * splats.opacity_logits)
    texels[:, 2:, :3] = splats.sh.clip(-6e4, 6e4)
    return {
        "count": count,
        "numCoefficients": num_coefficients,
        "means": block.add(splats.means.astype("<f4")),
        "texels": block.add(texels.astype("<f2")),
    }


def _points(points: Points, block: ArrayBlock) -> dict[str, Any]:
    opaque = np.full((len(points.colors), 1), 255, np.uint8)
    return {
        "count": len(points.positions),
        "positions": block.add(points.positions.astype("<f4")),
        "colors": block.add(np.concatenate([points.colors, opaque], axis=1)),
    }


def _mesh(mesh: trimesh.Trimesh, block: ArrayBlock) -> dict[str, Any]:
    """Vertices, normals, colours (sRGB bytes) and, for a textured mesh, texture coordinates."""
    visual: Any = mesh.visual
    texture, uv, colors = None, None, np.full((len(mesh.vertices), 3), _PLAIN_GREY, np.uint8)
    if visual.kind == "texture":
        picture, factor = _base_color(visual.material)
        has_uv = visual.uv is not None and len(visual.uv) == len(mesh.vertices)
        if picture is not None and has_uv:
            uv = np.nan_to_num(np.asarray(visual.uv, dtype=np.float32))
            texture = as_data_uri(_times(picture, factor), max_side=MAX_TEXTURE_SIDE)
            colors[:] = 255
        elif picture is not None or factor is not None:
            patch = np.full((1, 1, 3), 255, np.uint8) if picture is None else picture
            colors[:] = _times(patch, factor).reshape(-1, 3).mean(axis=0).round()
    elif visual.kind in ("vertex", "face"):
        colors = np.asarray(visual.vertex_colors)[:, :3].astype(np.uint8)
    normals = np.nan_to_num(np.asarray(mesh.vertex_normals))
    steps = np.zeros((len(normals), 4), np.int8)
    steps[:, :3] = np.round(normals.clip(-1, 1) * 127)
    opaque = np.full((len(colors), 1), 255, np.uint8)
    return {
        "numIndices": int(mesh.faces.size),
        "vertices": block.add(np.asarray(mesh.vertices).astype("<f4")),
        "normals": block.add(steps),
        "colors": block.add(np.concatenate([colors, opaque], axis=1)),
        "uv": None if uv is None else block.add(uv.astype("<f4")),
        "indices": block.add(np.asarray(mesh.faces).astype("<u4")),
        "texture": texture,
    }


def _base_color(material: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The texture as [H, W, 3] sRGB bytes and the linear factor [3], None where there is none."""
    if isinstance(material, PBRMaterial):
        image, factor = material.baseColorTexture, material.baseColorFactor
    else:
        image, factor = getattr(material, "image", None), None
    return (
        np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else None,
        None if factor is None else np.asarray(factor, dtype=np.float64)[:3] / 255,
    )


def _times(picture: np.ndarray, factor: np.ndarray | None) -> np.ndarray:
    """sRGB bytes multiplied by a factor in linear light."""
    if factor is None or bool((factor == 1).all()):
        return picture
    return _bytes_from_linear(linear_from_byte(picture) * factor)


def _bytes_from_linear(linear: np.ndarray) -> np.ndarray:
    return np.round(srgb_from_linear(linear) * 255).astype(np.uint8)
