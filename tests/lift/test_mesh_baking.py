"""Textures from views of shapes whose colours are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from manyview.data.render.texture import look_up
from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.geometry.rays import camera_rays
from manyview.geometry.trajectories import orbit, sphere_cameras
from manyview.lift.mesh.baking import bake_texture
from manyview.lift.mesh.rendering import render_mesh, render_turntable
from manyview.lift.mesh.unwrapping import unwrap_mesh
from manyview.types import Cameras, Views

RADIUS = 0.5
SIZE = 64
ROUND = sphere_cameras([0, 120, 240, 60, 180, 300, 0], [20.0, 20, 20, -40, -40, -40, 80], 1.5, size=SIZE)


def ball(subdivisions: int = 3) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=RADIUS)


def paint(points: Tensor) -> Tensor:
    """[..., 3] a colour for each place on the sphere, smooth."""
    return 0.5 + 0.4 * torch.sin(4 * points + torch.tensor([0.0, 1.0, 2.0]))


def sphere_views(cameras: Cameras) -> Views:
    """The painted sphere, by the quadratic formula."""
    origins, directions = camera_rays(cameras)
    along = -(origins * directions).sum(-1)
    inside = along**2 - (origins**2).sum(-1) + RADIUS**2
    hit = inside > 0
    points = origins + (along - inside.clamp_min(0).sqrt())[..., None] * directions
    # Outside is magenta, to be kept out by the masks.
    images = torch.where(hit[..., None], paint(points), torch.tensor([1.0, 0.0, 1.0]))
    return Views(images=images.permute(0, 3, 1, 2), masks=hit[:, None].float(), cameras=cameras)


def surface_colors(mesh: trimesh.Trimesh, count: int = 2000) -> tuple[Tensor, Tensor]:
    """Places on the mesh and the colours of its texture there."""
    (
        points,
        face,
    ) = trimesh.sample.sample_surface(mesh, count, seed=1)
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[face], points)
    uv = (mesh.visual.uv[mesh.faces[face]] * weights[..., None]).sum(axis=1)
    picture = np.asarray(mesh.visual.material.baseColorTexture) / np.float32(255)
    return torch.from_numpy(points).float(), torch.from_numpy(look_up(picture, uv)).float()


def test_texture_is_the_paint() -> None:
    baked = bake_texture(ball(), sphere_views(ROUND), size=128)
    points, colors = surface_colors(baked)
    error = (colors - paint(points)).abs()
    # Facets lie up to 0.005 below the sphere, pixels are 0.02 wide, and the paint's slope is at most 1.6.
    assert float(error.mean()) < 0.01
    assert float(error.max()) < 0.06


def test_rendered_again_it_is_the_view() -> None:
    views = sphere_views(ROUND)
    again = render_mesh(bake_texture(ball(4), views, size=128), ROUND)
    assert again.masks is not None
    assert views.masks is not None
    inner = (again.masks * views.masks > 0.99).expand(-1, 3, -1, -1)
    assert float((again.images - views.images)[inner].abs().mean()) < 0.01


def test_moving_and_scaling_the_world_changes_nothing() -> None:
    mesh, views = unwrap_mesh(ball(2), 64), sphere_views(ROUND)
    turn = torch.from_numpy(trimesh.transformations.euler_matrix(0.4, -0.8, 1.9)[:3, :3])
    map_ = Similarity(1000.0, turn, torch.tensor([300.0, -50.0, 20.0], dtype=torch.float64))
    moved = trimesh.Trimesh(
        map_.apply_to_points(torch.from_numpy(mesh.vertices)).numpy(),
        mesh.faces,
        visual=mesh.visual,
        process=False,
    )
    assert views.cameras is not None
    cameras = map_.apply_to_cameras(views.cameras.to(torch.float64))
    a = bake_texture(mesh, views, size=64)
    b = bake_texture(moved, replace(views, cameras=cameras), size=64)
    first, second = (np.asarray(m.visual.material.baseColorTexture).astype(int) for m in (a, b))
    # Single precision in the ray caster moves the outline of visibility a little.
    assert (np.abs(first - second) > 3).mean() < 0.005


def test_what_is_hidden_is_not_painted_with_what_hides_it() -> None:
    # A white plate at x = 0, and a small black one in front of it at x = 0.3, seen from +X.
    def plate(x: float, half: float) -> trimesh.Trimesh:
        corners = [[x, -half, -half], [x, half, -half], [x, half, half], [x, -half, half]]
        return trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)

    both = trimesh.util.concatenate([plate(0.0, 0.5), plate(0.3, 0.15)])
    camera = orbit(1, 0.0, 1.5, size=SIZE)
    rows = (torch.arange(SIZE) + 0.5 - SIZE / 2).abs()
    # The front plate is 0.15 * 70 / 1.2 = 8.75 pixels to each side.
    front = (rows[:, None] < 8.75) & (rows[None] < 8.75)
    images = torch.where(front, 0.0, 1.0).expand(1, 3, SIZE, SIZE).contiguous()
    baked = bake_texture(both, Views(images=images, cameras=camera), size=128)
    points, colors = surface_colors(baked)
    behind = points[:, 0] < 0.1
    # The back plate is white, also behind the front one, where the neighbours' white goes; but for the ring
    # of one pixel (0.02) about the outline of its shadow (0.15 * 1.5 / 1.2), where the picture itself mixes.
    ring = (points[:, 1:].abs().amax(1) - 0.1875).abs() < 0.05
    assert float(colors[behind & ~ring].min()) > 0.99
    middle = ~behind & (points[:, 1:].abs().amax(1) < 0.12)
    assert float(colors[middle].max()) < 0.1


def test_fallback_paints_the_far_side() -> None:
    views = sphere_views(ROUND[0])
    asked = []

    def grey_by_normal(points: Tensor, normals: Tensor) -> Tensor:
        asked.append((points, normals))
        return torch.full((len(points), 3), 0.25)

    baked = bake_texture(ball(), views, fallback=grey_by_normal, size=96)
    points, colors = surface_colors(baked)
    assert views.cameras is not None
    facing = (torch.nn.functional.normalize(points, dim=1) * (views.cameras.centers - points)).sum(1)
    away = facing < -0.1
    torch.testing.assert_close(colors[away], torch.full_like(colors[away], 0.25), atol=0.01, rtol=0)
    near = facing > 0.6
    assert float((colors[near] - paint(points[near])).abs().mean()) < 0.02
    # On a sphere normals point away from the middle.
    where, normals = asked[0]
    torch.testing.assert_close(normals, torch.nn.functional.normalize(where, dim=1), atol=0.05, rtol=0)


def test_without_fallback_the_far_side_takes_the_nearest() -> None:
    views = sphere_views(ROUND[0])
    blue = replace(
        views, images=torch.tensor([26, 51, 230])[:, None, None].div(255).expand(1, 3, SIZE, SIZE).clone()
    )
    picture = np.asarray(bake_texture(ball(), blue, size=64).visual.material.baseColorTexture)
    # Texels off the charts too.
    np.testing.assert_array_equal(np.unique(picture.reshape(-1, 3), axis=0), [[26, 51, 230]])


def test_weights_and_unobserved_views() -> None:
    one = sphere_views(ROUND[[0, 0]])
    shades = torch.tensor([0.2, 0.8])[:, None, None, None].expand(2, 3, SIZE, SIZE).clone()
    two = replace(one, images=shades)

    def shade(views: Views, **options: Tensor) -> float:
        baked = bake_texture(ball(2), views, size=64, **options)  # type: ignore[arg-type]
        return float(np.asarray(baked.visual.material.baseColorTexture).mean()) / 255

    assert shade(two) == pytest.approx(0.5, abs=0.01)
    assert shade(two, weights=torch.tensor([1.0, 3.0])) == pytest.approx(0.65, abs=0.01)
    assert shade(two, weights=torch.tensor([0.0, 3.0])) == pytest.approx(0.8, abs=0.01)
    assert shade(replace(two, observed=torch.tensor([True, False]))) == pytest.approx(0.2, abs=0.01)


def test_the_frontal_view_counts_most() -> None:
    # The plate x = 0 from straight ahead (0.9) and from 60 degrees aside (0.1): cosines 1 and about 1/2.
    plate = trimesh.Trimesh(
        [[0, -0.05, -0.05], [0, 0.05, -0.05], [0, 0.05, 0.05], [0, -0.05, 0.05]],
        [[0, 1, 2], [0, 2, 3]],
        process=False,
    )
    cameras = sphere_cameras([0.0, 60.0], 0.0, 1.5, size=SIZE)
    shades = torch.tensor([0.9, 0.1])[:, None, None, None].expand(2, 3, SIZE, SIZE).clone()
    views = Views(images=shades, cameras=cameras)
    for sharpness, expected in (
        (0.0, 0.5),
        (1.0, (0.9 + 0.05) / 1.5),
        (4.0, (0.9 + 0.1 / 16) / (1 + 1 / 16)),
    ):
        baked = bake_texture(plate, views, size=32, sharpness=sharpness, border_px=0)
        assert np.asarray(baked.visual.material.baseColorTexture).mean() / 255 == pytest.approx(
            expected, abs=0.02
        )


def test_turntable_as_a_video(tmp_path) -> None:
    import imageio_ffmpeg

    from manyview.io.video import write_mp4

    mesh = bake_texture(ball(2), sphere_views(ROUND), size=64)
    mesh.apply_scale(7)
    mesh.apply_translation([100, 0, 0])
    frames = render_turntable(mesh, 3, size=32)
    assert frames.shape == (3, 3, 32, 32)
    # The same distance in sides of the object, so the same size in the picture: white at the corners.
    expected = render_turntable(bake_texture(ball(2), sphere_views(ROUND), size=64), 3, size=32)
    assert float((frames - expected).abs().mean()) < 0.01
    assert float(frames[:, :, 0, 0].min()) == 1
    write_mp4(frames, tmp_path / "turn.mp4")
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "turn.mp4"))
    assert next(reader)["size"] == (32, 32)
    assert len(list(reader)) == 3


def test_render_of_colours_at_vertices_and_faces() -> None:
    box = trimesh.creation.box()
    box.visual.face_colors = np.where(box.face_normals[:, :1] > 0.5, [[200, 10, 20, 255]], [[0, 0, 0, 255]])
    views = render_mesh(box, orbit(1, 0.0, 2.0, size=16))
    expected = torch.tensor([200, 10, 20]) / 255
    torch.testing.assert_close(views.images[0, :, 8, 8], expected, atol=2e-3, rtol=0)
    assert views.depths is not None
    assert float(views.depths[0, 0, 8, 8]) == pytest.approx(1.5, abs=1e-4)


def test_faults() -> None:
    views = sphere_views(ROUND[:2])
    nothing = trimesh.Trimesh(np.zeros((0, 3)), np.zeros((0, 3), int), process=False)
    away = replace(views, cameras=orbit(2, 0.0, 1.5, size=SIZE))
    assert away.cameras is not None
    turned = away.cameras.world_from_cam.clone()
    turned[:, :3, :3] @= torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    cases = (
        (nothing, views, {}, "mesh"),
        (ball(1), replace(views, cameras=None), {}, r"views\.cameras"),
        (ball(1), views, {"weights": torch.ones(3)}, "weights"),
        (ball(1), views, {"weights": torch.tensor([1.0, -1.0])}, "weights"),
        (ball(1), views, {"size": 4}, "size"),
        (ball(1), views, {"fallback": lambda p, n: p[:, 0]}, "fallback"),
        (
            ball(1),
            replace(views, cameras=replace(away.cameras, world_from_cam=turned)),
            {"size": 32},
            "none sees",
        ),
        (ball(1), views, {"weights": torch.zeros(2), "size": 32}, "none sees"),
    )
    for mesh, given, options, words in cases:
        with pytest.raises(InputError, match=words):
            bake_texture(mesh, given, **{"size": 32, **options})  # type: ignore[arg-type]
