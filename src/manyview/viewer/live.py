"""What the live page holds: the scene, switches for its parts, and what is known about it."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from trimesh.visual.material import PBRMaterial

from manyview.geometry.rotations import matrix_from_quaternion
from manyview.io.framing import resize_area
from manyview.io.splat_files import SH_C0, SplatArrays
from manyview.types import Views
from manyview.viewer.contents import Contents, Frame, frame_contents
from manyview.viewer.facts import list_facts
from manyview.viewer.pictures import STATUS_COLORS, draw_image
from manyview.viewer.view_panel import LINE, ViewPanel, place_camera

if TYPE_CHECKING:
    import trimesh
    from viser import GuiInputHandle, ViserServer

_FRUSTUM_SIDE = 256
_ASIDE = 0.5


def fill_server(server: ViserServer, contents: Contents) -> None:
    """Add everything there is to see, and what chooses among it, to a running server."""
    frame = frame_contents(contents)
    server.scene.set_up_direction("+z")
    # That button would hand the page to a server of viser's makers.
    server.gui.configure_theme(show_share_button=False)
    server.initial_camera.look_at = frame.center
    _light(server, contents)
    server.initial_camera.position = _viewpoint(contents.views, frame)
    bodies = _add_bodies(server, contents, frame)
    frusta = _add_frusta(server, contents, frame)
    cameras = None
    with server.gui.add_folder("Show"):
        shown = True
        for name, handle in bodies.items():
            # They show the same object: only the first is on.
            handle.visible = shown
            _add_switch(server, name, [handle], shown)
            shown = False
        if frusta:
            cameras = _add_switch(server, "cameras", list(frusta.values()), True)
    if contents.views is not None:
        ViewPanel(server, contents, contents.views, frusta, cameras)
    rows = "".join(
        f"<tr><td style='opacity:.6;padding-right:1em;vertical-align:top'>{html.escape(name)}</td>"
        f"<td>{html.escape(value)}</td></tr>"
        for name, value in list_facts(contents)
    )
    with server.gui.add_folder("About"):
        server.gui.add_html(f"<table style='font-size:.8em;margin:.5em 1em'>{rows}</table>")


def covariances_of(splats: SplatArrays) -> np.ndarray:
    """[N, 3, 3] float32 covariance matrices: R diag(s^2) R^T."""
    quaternions = torch.nn.functional.normalize(torch.from_numpy(splats.quaternions).double(), dim=-1)
    axes = matrix_from_quaternion(quaternions) * torch.from_numpy(splats.log_scales).double().exp()[:, None]
    return (axes @ axes.mT).float().numpy()


def _light(server: ViserServer, contents: Contents) -> None:
    """A texture holds the light of the photos: show it as it is. A plain mesh needs lamps to be seen.

    viser compresses the tones of meshes (not of splats and points) whatever one asks for, so strong colours
    still come out a little off; the exported page shows them exactly.
    """
    server.scene.configure_environment_map(None)
    visual: Any = None if contents.mesh is None else contents.mesh.visual
    textured = visual is not None and visual.kind == "texture"
    server.scene.configure_default_lights(enabled=not textured, cast_shadow=False)
    # Light of pi from everywhere leaves a matt surface with exactly its base colour.
    server.scene.add_light_ambient("/light", intensity=math.pi if textured else 1.0)


def _matt(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh without gloss; metal would mirror surroundings that are not there."""
    material = getattr(mesh.visual, "material", None)
    if not isinstance(material, PBRMaterial):
        return mesh
    copied = mesh.copy()
    visual: Any = copied.visual
    visual.material.metallicFactor, visual.material.roughnessFactor = 0.0, 1.0
    return copied


def _reach(views: Views | None, frame: Frame) -> float:
    if views is None or views.cameras is None:
        return 2 * frame.radius
    gaps = torch.linalg.vector_norm(views.cameras.centers.double() - torch.tensor(frame.center), dim=1)
    return max(2 * frame.radius, 1.3 * float(gaps.max()))


def _viewpoint(views: Views | None, frame: Frame) -> tuple[float, float, float]:
    """Behind the cameras, beside the first one and a little above."""
    x, y, z = frame.center
    azimuth = _ASIDE
    if views is not None and views.cameras is not None:
        first = views.cameras.centers[0].tolist()
        azimuth += math.atan2(first[1] - y, first[0] - x)
    reach = _reach(views, frame)
    return x + 1.25 * reach * math.cos(azimuth), y + 1.25 * reach * math.sin(azimuth), z + 0.7 * reach


def _add_bodies(server: ViserServer, contents: Contents, frame: Frame) -> dict[str, Any]:
    bodies: dict[str, Any] = {}
    if contents.splats is not None:
        splats = contents.splats
        bodies["splats"] = server.scene.add_gaussian_splats(
            "/splats",
            centers=splats.means,
            covariances=covariances_of(splats),
            # viser takes one colour a Gaussian: the part that is seen from everywhere.
            rgbs=(0.5 + SH_C0 * splats.sh[:, 0]).clip(0, 1),
            opacities=(0.5 + 0.5 * np.tanh(0.5 * splats.opacity_logits))[:, None],
        )
    if contents.mesh is not None:
        bodies["mesh"] = server.scene.add_mesh_trimesh("/mesh", _matt(contents.mesh))
    if contents.points is not None:
        bodies["points"] = server.scene.add_point_cloud(
            "/points",
            contents.points.positions,
            contents.points.colors,
            point_size=0.02 * frame.radius,
            point_shape="circle",
            precision="float32",
        )
    return bodies


def _add_frusta(server: ViserServer, contents: Contents, frame: Frame) -> dict[int, Any]:
    """Handles by the index of the view."""
    views = contents.views
    if views is None or views.cameras is None:
        return {}
    depth = 0.08 * _reach(views, frame)
    frusta = {}
    for index, name in enumerate(views.names):
        fov, aspect, wxyz, position = place_camera(views.cameras, index)
        frusta[index] = server.scene.add_camera_frustum(
            f"/cameras/{index:03d}_{name}",
            fov,
            aspect,
            scale=depth,
            thickness=LINE * depth,
            color=STATUS_COLORS[contents.statuses[index]],
            image=None if contents.statuses[index] == "missing" else _small(views.over(1.0)[index]),
            format="png",
            wxyz=wxyz,
            position=position,
            cast_shadow=False,
            receive_shadow=False,
        )
    return frusta


def _small(image: Tensor) -> np.ndarray:
    scale = min(1.0, _FRUSTUM_SIDE / max(image.shape[-2:]))
    height, width = (max(1, round(scale * side)) for side in image.shape[-2:])
    return draw_image(resize_area(image, height, width)[0], None)


def _add_switch(server: ViserServer, name: str, handles: list[Any], value: bool) -> GuiInputHandle[bool]:
    box = server.gui.add_checkbox(name, value)

    @box.on_update
    def _(_: object) -> None:
        for handle in handles:
            handle.visible = box.value

    return box
