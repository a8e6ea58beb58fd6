"""The rasteriser against analytic geometry and against ray casting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from manyview.data.procedural import make_object, to_trimesh
from manyview.data.rasterizer import interpolate, rasterize
from manyview.geometry.rays import camera_rays
from manyview.geometry.trajectories import look_at, orbit
from manyview.types import Cameras

SIZE = 32


def frontal(size: int = SIZE, focal: float = 40.0) -> Cameras:
    """The camera frame is the world: x right, y down, z forward."""
    half = size / 2
    return Cameras(
        world_from_cam=torch.eye(4)[None],
        K=torch.tensor([[[focal, 0, half], [0, focal, half], [0, 0, 1]]]),
        sizes=torch.tensor([[size, size]]),
    )


def centres(size: int = SIZE) -> Tensor:
    """[H, W, 2] x, y of the pixel centres."""
    at = torch.arange(size) + 0.5
    return torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1)


def on_plane(pixels: Tensor, camera: Cameras, plane: Tensor) -> Tensor:
    """World points (camera frame) behind pixels [N, 2] on the plane n . x = 1: depth = 1 / (n . K^-1 p)."""
    rays = torch.cat([pixels, torch.ones(len(pixels), 1)], dim=1) @ torch.linalg.inv(camera.K[0]).T
    return rays / (rays @ plane)[:, None]


def inside(triangle: Tensor, points: Tensor) -> Tensor:
    """Strictly on the same side of the three edges, by the sign of the cross products."""
    sides = []
    for a, b in ((0, 1), (1, 2), (2, 0)):
        edge, to = triangle[b] - triangle[a], points - triangle[a]
        sides.append(edge[0] * to[..., 1] - edge[1] * to[..., 0])
    stacked = torch.stack(sides)
    return (stacked > 0).all(dim=0) | (stacked < 0).all(dim=0)


def random_triangle(seed: int) -> tuple[Tensor, Tensor]:
    """Pixels of the corners [3, 2], partly outside the image, and a tilted plane [3] they lie on."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(3, 2, generator=generator) * (SIZE + 16) - 8
    plane = torch.tensor([0.2, 0.2, 0.5]) * (torch.rand(3, generator=generator) * 2 - 1)
    plane[2] = 0.5
    return corners, plane


@pytest.mark.parametrize("seed", range(12))
def test_coverage_depth_and_weights_of_a_triangle_are_exact(seed: int) -> None:
    camera = frontal()
    corners, plane = random_triangle(seed)
    vertices = on_plane(corners, camera, plane)
    fragments = rasterize(vertices, torch.tensor([[0, 1, 2]]), camera, cull_back=False)
    expected = inside(corners, centres())
    assert torch.equal(fragments.face[0] >= 0, expected)
    points = on_plane(centres().reshape(-1, 2), camera, plane).view(SIZE, SIZE, 3)
    # Depth of a plane is not linear on the image: perspective-correct or wrong.
    torch.testing.assert_close(fragments.depth[0][expected], points[..., 2][expected], atol=1e-4, rtol=1e-4)
    found = interpolate(vertices[None], fragments)[0]
    torch.testing.assert_close(found[expected], points[expected], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(fragments.weights[0][expected].sum(-1), torch.ones(int(expected.sum())))
    assert (found[~expected] == 0).all()
    assert (fragments.depth[0][~expected] == 0).all()


def test_some_triangles_above_do_cover_something() -> None:
    counts = [int(inside(random_triangle(seed)[0], centres()).sum()) for seed in range(12)]
    assert sum(count > 20 for count in counts) >= 6


def test_the_nearest_triangle_wins() -> None:
    """Two triangles cross each other: whichever is nearer at a pixel is seen there."""
    camera = frontal()
    corners = torch.tensor([[2.0, 2.0], [30.0, 4.0], [8.0, 30.0]])
    first = on_plane(corners, camera, torch.tensor([0.4, 0.0, 0.5]))
    second = on_plane(corners, camera, torch.tensor([-0.4, 0.0, 0.5]))
    vertices = torch.cat([first, second])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    fragments = rasterize(vertices, faces, camera, cull_back=False)
    hit = inside(corners, centres())
    grid = centres().reshape(-1, 2)
    depth = [on_plane(grid, camera, torch.tensor([n, 0.0, 0.5]))[:, 2].view(SIZE, SIZE) for n in (0.4, -0.4)]
    nearer = (depth[1] < depth[0]).long()
    clear = hit & ((depth[0] - depth[1]).abs() > 1e-5)
    assert torch.equal(fragments.face[0][clear], nearer[clear])
    assert set(fragments.face[0][clear].tolist()) == {0, 1}
    # The order of the faces does not matter.
    swapped = rasterize(vertices, faces.flip(0), camera, cull_back=False)
    assert torch.equal(swapped.depth, fragments.depth)


@pytest.mark.parametrize("seed", range(6))
def test_shared_edges_have_no_gap(seed: int) -> None:
    """A square cut into a fan of thin triangles covers what the square covers, on one plane's depth."""
    camera = frontal()
    generator = torch.Generator().manual_seed(seed)
    square = torch.tensor([[3.0, 3.0], [29.0, 3.0], [29.0, 29.0], [3.0, 29.0]])
    middle = 8 + 16 * torch.rand(1, 2, generator=generator)
    # The middle of one case is a pixel centre, and its spokes run along rows, columns and diagonals.
    if seed == 0:
        middle = torch.tensor([[16.5, 16.5]])
    steps = torch.arange(0, 1, 0.125)[:, None]
    outline = torch.cat([square[i] + steps * (square[(i + 1) % 4] - square[i]) for i in range(4)])
    pixels = torch.cat([middle, outline])
    plane = torch.tensor([0.1, -0.2, 0.5])
    vertices = on_plane(pixels, camera, plane)
    ring = torch.arange(len(outline))
    faces = torch.stack([torch.zeros_like(ring), ring + 1, (ring + 1) % len(ring) + 1], dim=1)
    fragments = rasterize(vertices, faces, camera, cull_back=False)
    grid = centres()
    expected = ((grid > 3) & (grid < 29)).all(dim=-1)
    assert torch.equal(fragments.face[0] >= 0, expected)
    depth = on_plane(grid.reshape(-1, 2), camera, plane)[:, 2].view(SIZE, SIZE)
    torch.testing.assert_close(fragments.depth[0][expected], depth[expected], atol=1e-4, rtol=1e-4)


def test_culling_keeps_the_side_whose_corners_turn_counter_clockwise() -> None:
    """The triangle lies in front of the camera, y down: seen from the camera (outside), counter-clockwise in
    a right-handed world means clockwise in pixel rows and columns, x right and y down mirrored twice."""
    vertices = torch.tensor([[-0.5, -0.5, 2.0], [0.5, -0.5, 2.0], [0.0, 0.5, 2.0]])
    camera = frontal()
    # Normal of (0, 1, 2) is cross(+x, (.5, 1)) = +z: away from the camera, so it is a back face.
    back, front = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 1]])
    assert not bool((rasterize(vertices, back, camera).face >= 0).any())
    seen = rasterize(vertices, front, camera).face >= 0
    assert bool(seen.any())
    assert torch.equal(rasterize(vertices, back, camera, cull_back=False).face >= 0, seen)


@pytest.mark.parametrize("seed", [0, 3, 11])
def test_culling_changes_nothing_on_closed_meshes(seed: int) -> None:
    mesh, cameras = make_object(seed), orbit(4, size=SIZE)
    culled = rasterize(mesh.vertices, mesh.faces, cameras)
    whole = rasterize(mesh.vertices, mesh.faces, cameras, cull_back=False)
    # Only pixels on an outline, where a front and a back face meet in one point, may name another face.
    assert float(((culled.face >= 0) != (whole.face >= 0)).float().mean()) < 2e-3
    both = (culled.face >= 0) & (whole.face >= 0)
    assert float(((culled.depth - whole.depth).abs() > 2e-3)[both].float().mean()) < 5e-3


def test_triangles_behind_the_camera_are_dropped() -> None:
    vertices = torch.tensor([[-1.0, -1.0, -2.0], [1.0, -1.0, -2.0], [0.0, 1.0, -2.0]])
    fragments = rasterize(vertices, torch.tensor([[0, 1, 2]]), frontal(), cull_back=False)
    assert bool((fragments.face == -1).all())


def test_views_are_independent() -> None:
    mesh, cameras = make_object(5), orbit(3, size=SIZE)
    together = rasterize(mesh.vertices, mesh.faces, cameras)
    for index in range(3):
        alone = rasterize(mesh.vertices, mesh.faces, cameras[index])
        assert torch.equal(alone.face[0], together.face[index])
        assert torch.equal(alone.depth[0], together.depth[index])


def test_float64_and_oblong_images() -> None:
    cameras = Cameras(
        world_from_cam=look_at(torch.tensor([[1.2, 0.3, 0.8]], dtype=torch.float64)),
        K=torch.tensor([[[30.0, 0, 20], [0, 35, 12], [0, 0, 1]]], dtype=torch.float64),
        sizes=torch.tensor([[24, 40]]),
    )
    mesh = make_object(7)
    fragments = rasterize(mesh.vertices.double(), mesh.faces, cameras)
    assert fragments.depth.shape == (1, 24, 40)
    assert fragments.depth.dtype == torch.float64
    assert bool((fragments.face >= 0).any())


FAMILY_NAMES = ("revolved", "boxy", "boolean", "figure", "vehicle", "furniture", "tool", "lump", "extrusion")


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_agrees_with_ray_casting(family: str) -> None:
    """Embree finds the same silhouette and the same first surface through every pixel centre."""
    mesh, cameras = make_object(2, family), orbit(2, size=SIZE)
    fragments = rasterize(mesh.vertices, mesh.faces, cameras)
    solid = to_trimesh(mesh)
    origins, directions = (tensor.reshape(-1, 3).numpy() for tensor in camera_rays(cameras))
    caster = trimesh.ray.ray_pyembree.RayMeshIntersector(solid)
    face = torch.from_numpy(np.asarray(caster.intersects_first(origins, directions))).view(2, SIZE, SIZE)
    hit = fragments.face >= 0
    # Rays that pass within rounding of an outline may go either way.
    assert float((hit != (face >= 0)).float().mean()) < 5e-3
    points, rays, _ = caster.intersects_location(origins, directions, multiple_hits=False)
    distance = np.linalg.norm(points - origins[rays], axis=1)
    # Depth along the axis = distance x cosine to the axis.
    forward = cameras.world_from_cam[:, :3, 2].repeat_interleave(SIZE * SIZE, 0).numpy()
    depth = np.zeros(len(origins), dtype=np.float32)
    depth[rays] = distance * (directions[rays] * forward[rays]).sum(axis=1)
    both = (hit & (face >= 0)).reshape(-1)
    error = (fragments.depth.reshape(-1) - torch.from_numpy(depth)).abs()[both]
    assert float((error > 1e-3).float().mean()) < 0.01
    assert int(both.sum()) > 20
