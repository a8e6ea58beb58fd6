"""The part of the live page about one view: slider, badge, pictures, its camera, and comparisons."""

from __future__ import annotations

import html
import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from manyview.geometry.rotations import quaternion_from_matrix
from manyview.io.framing import resize_area
from manyview.metrics.image import psnr
from manyview.types import Cameras, Views
from manyview.viewer.contents import Contents
from manyview.viewer.pictures import (
    DIFFERENCE_TOP,
    STATUS_COLORS,
    depth_range,
    draw_depth,
    draw_difference,
    draw_image,
    draw_spread,
)

if TYPE_CHECKING:
    from viser import ClientHandle, GuiEvent, GuiInputHandle, ViserServer

LINE, CHOSEN_LINE = 0.04, 0.11
"""Thickness of a frustum's lines as part of its size, and of the chosen one's."""
_PANEL_SIDE = 256
_RENDER_SECONDS = 60.0
_RENDER_SIDE = 512


def place_camera(cameras: Cameras, index: int) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Vertical field of view, width by height, quaternion w x y z, and position of a camera."""
    height, width = cameras.sizes[index].tolist()
    fx, fy = float(cameras.K[index, 0, 0]), float(cameras.K[index, 1, 1])
    rotation = cameras.world_from_cam[index, :3, :3].double()
    wxyz = quaternion_from_matrix(rotation[None])[0].numpy()
    # The drawn pyramid has one focal length; unequal ones show as its aspect.
    return (
        vertical_fov(fy, height),
        (width / fx) / (height / fy),
        wxyz,
        cameras.centers[index].double().numpy(),
    )


class ViewPanel:
    """The slider and what belongs to the chosen view."""

    def __init__(
        self,
        server: ViserServer,
        contents: Contents,
        views: Views,
        frusta: dict[int, Any],
        switch: GuiInputHandle[bool] | None,
    ) -> None:
        self._contents, self._views, self._frusta, self._switch = contents, views, frusta, switch
        self._shown = views.over(1.0)
        self._lock = threading.Lock()
        self._near, self._far = (0.0, 0.0) if views.depths is None else depth_range(views.depths)
        self._index = 0
        blank = np.full((1, 1, 3), 255, np.uint8)
        with server.gui.add_folder("View"):
            last = max(1, len(views) - 1)
            self._slider = server.gui.add_slider("view", 0, last, 1, 0, disabled=len(views) < 2)
            self._badge = server.gui.add_html("")
            self._pictures = {
                name: server.gui.add_image(blank, label=label, format="png", visible=False)
                for name, label in {
                    "view": "view",
                    "truth": "ground truth",
                    "difference": f"difference to truth (white 0, dark red {DIFFERENCE_TOP:g})",
                    "depth": "depth (light is near)",
                    "spread": "deviation over samples",
                    "render": "what is drawn, seen from here (the tones of meshes are compressed)",
                    "render difference": "drawn against the image",
                }.items()
            }
            if frusta:
                look = server.gui.add_button("Look through this camera")
                look.on_click(self._look)
                compare = server.gui.add_button("Compare what is drawn with the image")
                compare.on_click(self._compare)
        self._slider.on_update(lambda _: self.choose(int(self._slider.value)))
        self.choose(0)

    def choose(self, index: int) -> None:
        """Show the pictures of view `index` and make its frustum stand out."""
        with self._lock:
            for key, part in ((self._index, LINE), (index, CHOSEN_LINE)):
                if key in self._frusta:
                    self._frusta[key].thickness = part * self._frusta[key].scale
            self._index = index
            status = self._contents.statuses[index]
            color = "rgb({}, {}, {})".format(*STATUS_COLORS[status])
            self._badge.content = (
                f"<div style='margin:.3em 1em'><span style='background:{color};color:#fff;border-radius:1em;"
                f"padding:.1em .7em;font-size:.8em'>{status}</span> {html.escape(self._views.names[index])}"
                f"{self._score(index)}</div>"
            )
            found = self._pictures_of(index)
            for name, handle in self._pictures.items():
                handle.visible = name in found
                if name in found:
                    handle.image = _enlarged(found[name])

    def _pictures_of(self, index: int) -> dict[str, np.ndarray]:
        contents, found = self._contents, {}
        present = contents.statuses[index] != "missing"
        if present:
            found["view"] = draw_image(self._shown[index], None)
        if contents.truth is not None and bool(contents.truth.known[index]):
            found["truth"] = draw_image(contents.truth.images[index], None)
            if present:
                found["difference"] = draw_difference(self._shown[index], contents.truth.images[index])
        if self._views.depths is not None and bool(self._views.depths[index].any()):
            found["depth"] = draw_depth(self._views.depths[index], self._near, self._far)
        if contents.spread is not None:
            found["spread"] = draw_spread(contents.spread[index], float(contents.spread.max()))
        return found

    def _score(self, index: int) -> str:
        truth = self._contents.truth
        if truth is None or not bool(truth.known[index]):
            return ""
        score = float(truth.psnr[index])
        return f", {score:.2f} dB against truth" if math.isfinite(score) else ", equal to the truth"

    def _look(self, event: GuiEvent[Any]) -> None:
        """Move the browser's camera to the chosen one, and take the frusta out of the way."""
        if event.client is None or self._views.cameras is None or self._switch is None:
            return
        self._switch.value = False
        fov, _, wxyz, position = place_camera(self._views.cameras, self._index)
        with event.client.atomic():
            event.client.camera.wxyz = wxyz
            event.client.camera.position = position
            event.client.camera.fov = fov

    def _compare(self, event: GuiEvent[Any]) -> None:
        """Have the browser draw the object through the chosen camera, and show how far its image is off."""
        if event.client is None or self._views.cameras is None:
            return
        with self._lock:
            index, truth = self._index, self._contents.truth
            were = {key: handle.visible for key, handle in self._frusta.items()}
            for handle in self._frusta.values():
                handle.visible = False
            try:
                render = _render(event.client, self._views.cameras, index)
            finally:
                for key, handle in self._frusta.items():
                    handle.visible = were[key]
            known = truth is not None and bool(truth.known[index])
            real = truth.images[index] if truth is not None and known else self._shown[index]
            real = resize_area(real, render.shape[-2], render.shape[-1])[0]
            self._pictures["render"].image = _enlarged(draw_image(render, None))
            self._pictures["render difference"].image = _enlarged(draw_difference(render, real))
            score = float(psnr(render[None], real[None])[0])
            which = "truth" if known else "the view"
            self._pictures["render difference"].label = f"drawn against {which}: {score:.2f} dB"
            for name in ("render", "render difference"):
                self._pictures[name].visible = True


def _render(client: ClientHandle, cameras: Cameras, index: int) -> Tensor:
    """[3, H, W] over white: what the browser draws through a camera, at most `_RENDER_SIDE` pixels a side.

    A browser's camera has its axis in the middle of the image: so a larger image is drawn, and cut.
    """
    scale = min(1.0, _RENDER_SIDE / int(cameras.sizes[index].max()))
    height, width = (max(1, round(scale * side)) for side in cameras.sizes[index].tolist())
    _, _, wxyz, position = place_camera(cameras, index)
    K = scale * cameras.K[index].double()
    # What the side with less room lacks.
    left, right = _margins(width, float(K[0, 2]))
    top, bottom = _margins(height, float(K[1, 2]))
    full = (height + top + bottom, width + left + right)
    drawn = client.get_render(
        *full,
        wxyz=wxyz,
        position=position,
        fov=vertical_fov(float(K[1, 1]), full[0]),
        transport_format="png",
        timeout=_RENDER_SECONDS,
    )
    image = torch.from_numpy(drawn.astype(np.float32) / 255).permute(2, 0, 1)
    # Transparent where nothing is.
    image = image[:3] if len(image) == 3 else image[:3] * image[3:] + 1 - image[3:]
    return image[:, top : top + height, left : left + width]


def _margins(size: int, principal: float) -> tuple[int, int]:
    """Pixels to add before and behind `size` so that `principal` comes to lie in the middle."""
    gap = round(size - 2 * principal)
    return max(0, gap), max(0, -gap)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """Small pictures with each pixel repeated, since the panel shows them at their own size."""
    times = max(1, _PANEL_SIDE // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def vertical_fov(focal_px: float, height: float) -> float:
    """Radians from the top to the bottom edge of an image of `height` pixels."""
    return 2 * math.atan(height / (2 * focal_px))
