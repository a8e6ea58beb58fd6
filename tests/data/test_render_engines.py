"""The two render engines on meshes whose pictures are known."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from manyview.data.render.cycles import CyclesOptions, render_cycles
from manyview.data.render.fast import FastOptions, reflected, render_fast
from manyview.data.render.meshes import Material, RenderMesh, load_mesh, unit_glb_bytes
from manyview.data.render.texture import linear_from_srgb, look_up, shrink, srgb_from_linear
from manyview.errors import InputError, MissingDependency
from manyview.geometry.trajectories import orbit
from manyview.types import Cameras

SIZE = 32
PLAIN = FastOptions(occlusion=0, light=1.0)


def front_camera(size: int = SIZE, distance: float = 1.5) -> Cameras:
    """At (distance, 0, 0) looking at the origin: image right is world +Y, image down is world -Z."""
    return orbit(1, 0.0, distance, size=size)


def cube() -> RenderMesh:
    box = trimesh.creation.box()
    count = len(box.vertices)
    return RenderMesh(
        vertices=box.vertices.astype(np.float32),
        faces=box.faces.astype(np.int32),
        uv=np.zeros((count, 2), np.float32),
        colors=np.ones((count, 3), np.float32),
        face_material=np.zeros(len(box.faces), np.int32),
        materials=(Material(factor=(0.8, 0.4, 0.2)),),
        unit_from_file=np.eye(4),
    )


def quadrants() -> Image.Image:
    """16 x 16: red top left, green top right, blue bottom left, white bottom right."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8, :8], pixels[:8, 8:] = (255, 0, 0), (0, 255, 0)
    pixels[8:, :8], pixels[8:, 8:] = (0, 0, 255), (255, 255, 255)
    return Image.fromarray(pixels)


def upright_plate(up: str) -> trimesh.Trimesh:
    """A unit square seen from world +X, its picture's right towards world +Y, in y-up or z-up coordinates."""
    world = np.array([[0, -0.5, -0.5], [0, 0.5, -0.5], [0, 0.5, 0.5], [0, -0.5, 0.5]])
    # World from y-up is (x, y, z) -> (x, -z, y), so y-up from world is (x, y, z) -> (x, z, -y).
    points = world if up == "z" else np.stack([world[:, 0], world[:, 2], -world[:, 1]], axis=1)
    visual = trimesh.visual.TextureVisuals(
        uv=np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]]),
        material=PBRMaterial(baseColorTexture=quadrants(), metallicFactor=0.0, roughnessFactor=0.8),
    )
    return trimesh.Trimesh(points, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)


def corner_colors(path: Path, **options: str) -> list[str]:
    """The strongest colours at the four corners of the plate, row by row."""
    views = render_fast(load_mesh(path, **options), front_camera(), PLAIN)  # type: ignore[arg-type]
    # The plate spans 32 * 35/32 / 1.5 = 23.3 pixels about the centre: 4.3 to 27.7.
    names = []
    for row, column in ((7, 7), (7, 24), (24, 7), (24, 24)):
        strong = views.images[0, :, row, column] > 0.8
        names.append(
            {(1, 0, 0): "r", (0, 1, 0): "g", (0, 0, 1): "b", (1, 1, 1): "w"}[tuple(strong.int().tolist())]
        )
    return names


def test_mask_is_the_projected_box() -> None:
    cameras = orbit(5, 25.0, size=SIZE)
    mesh = cube()
    views = render_fast(mesh, cameras)
    corners = torch.from_numpy(mesh.vertices).double()
    assert views.masks is not None
    for index in range(len(cameras)):
        in_cam = corners @ cameras.cam_from_world[index, :3, :3].double().T
        in_cam = in_cam + cameras.cam_from_world[index, :3, 3].double()
        pixels = in_cam @ cameras.K[index].double().T
        pixels = pixels[:, :2] / pixels[:, 2:]
        rows, columns = np.nonzero(views.masks[index, 0].numpy())
        # A pixel i covers [i, i + 1], and the convex hull of the corners is the outline of a box.
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        expected = torch.cat([pixels.amin(0), pixels.amax(0)]).clamp(0, SIZE).numpy()
        assert np.abs(found - expected).max() < 1


def test_depth_of_a_face_and_silence_outside() -> None:
    views = render_fast(cube(), front_camera(distance=2.5))
    assert views.depths is not None
    assert views.masks is not None
    inside = views.masks[0, 0] == 1
    # The face towards the camera lies at x = 0.5, the camera at x = 2.5: depth 2 along the axis everywhere.
    torch.testing.assert_close(views.depths[0, 0][inside], torch.full((int(inside.sum()),), 2.0))
    outside = views.masks[0, 0] == 0
    assert outside.any()
    assert float(views.depths[0, 0][outside].abs().max()) == 0
    assert float(views.images[0][:, outside].abs().max()) == 0


def test_alpha_is_the_share_of_rays() -> None:
    views = render_fast(cube(), front_camera(distance=2.5), FastOptions(samples=4))
    assert views.masks is not None
    # The face at depth 2 is 32 * 35/32 / 2 = 17.5 pixels wide about 16, so it ends 0.75 into pixels 7 and 24.
    row = views.masks[0, 0, 16]
    assert row[[6, 7, 8, 23, 24, 25]].tolist() == [0, 0.75, 1, 1, 0.75, 0]
    # Straight colour: an outline pixel is as bright as its neighbour inside, not mixed with black.
    torch.testing.assert_close(views.images[0, :, 16, 7], views.images[0, :, 16, 9], atol=0.01, rtol=0)


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_texture_is_upright_in_y_up_files(tmp_path: Path, suffix: str) -> None:
    plate = upright_plate("y")
    if suffix == "obj":
        plate.visual.material = SimpleMaterial(image=quadrants())
    plate.export(tmp_path / f"plate.{suffix}")
    assert corner_colors(tmp_path / f"plate.{suffix}") == ["r", "g", "b", "w"]


def test_up_axis_can_be_given(tmp_path: Path) -> None:
    upright_plate("z").export(tmp_path / "plate.glb")
    assert corner_colors(tmp_path / "plate.glb", up="z") == ["r", "g", "b", "w"]
    # Taken as y-up, the plate's plane x = 0 stays, and (y, z) -> (-z, y) turns its picture a quarter:
    # world up (+Z) is the file's +y, which was the picture's right (green, white).
    assert corner_colors(tmp_path / "plate.glb", up="y") == ["g", "w", "r", "b"]


def test_ply_is_z_up_with_srgb_vertex_colors(tmp_path: Path) -> None:
    plate = upright_plate("z")
    colors = np.array([[0, 0, 255, 255], [255, 255, 255, 255], [0, 255, 0, 255], [255, 0, 0, 255]], np.uint8)
    plate.visual = trimesh.visual.ColorVisuals(plate, vertex_colors=colors)
    plate.export(tmp_path / "plate.ply")
    mesh = load_mesh(tmp_path / "plate.ply")
    np.testing.assert_allclose(mesh.vertices[:, 0], 0, atol=1e-7)
    np.testing.assert_allclose(mesh.colors, colors[:, :3] / 255)
    half = np.full((4, 4), 128, np.uint8)
    plate.visual = trimesh.visual.ColorVisuals(plate, vertex_colors=half)
    plate.export(tmp_path / "half.ply")
    # sRGB 128/255 is linear 0.2159 (IEC 61966-2-1: ((0.50196 + 0.055) / 1.055) ** 2.4).
    np.testing.assert_allclose(load_mesh(tmp_path / "half.ply").colors, 0.2159, atol=1e-4)


def test_face_colors_stay_on_their_faces() -> None:
    box = trimesh.creation.box()
    # Red where the face looks along +X, else black.
    colors = np.zeros((len(box.faces), 4), np.uint8)
    colors[box.face_normals[:, 0] > 0.5] = (255, 0, 0, 255)
    box.visual = trimesh.visual.ColorVisuals(box, face_colors=colors)
    from manyview.data.render.meshes import _joined

    mesh = _joined(Path("box.off"), [(box, np.eye(4))], np.eye(4), False)
    views = render_fast(mesh, orbit(2, 0.0, 2.0, size=SIZE), PLAIN)
    assert float(views.images[0, 0, 16, 16]) > 0.95
    # A black dielectric still shines a little, by its coat.
    assert float(views.images[1, 0, 16, 16]) < 0.3


def test_normalisation_and_scene_graph(tmp_path: Path) -> None:
    # Two boxes of side 1 whose centres are 3 apart along x: longest side 4, so each has side 1/4.
    scene = trimesh.Scene()
    for number, offset in enumerate((10.0, 13.0)):
        box = trimesh.creation.box()
        place = trimesh.transformations.translation_matrix([offset, 5, -7])
        scene.add_geometry(box, geom_name=f"box{number}", node_name=f"node{number}", transform=place)
    scene.export(tmp_path / "two.glb")
    mesh = load_mesh(tmp_path / "two.glb")
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    np.testing.assert_allclose([low, high], [[-0.5, -0.125, -0.125], [0.5, 0.125, 0.125]], atol=1e-6)
    assert len(mesh.faces) == 24
    assert len(mesh.materials) == 2
    # The file's corner (9.5, 4.5, -7.5) is y-up; in the world it is (9.5, 7.5, 4.5).
    np.testing.assert_allclose(mesh.unit_from_file @ [9.5, 4.5, -7.5, 1], [-0.5, 0.125, -0.125, 1], atol=1e-6)
    (tmp_path / "unit.glb").write_bytes(unit_glb_bytes(tmp_path / "two.glb", mesh))
    again = load_mesh(tmp_path / "unit.glb")
    np.testing.assert_allclose(again.vertices, mesh.vertices, atol=1e-6)
    # Already in the unit box: only the axes are turned.
    np.testing.assert_allclose(
        again.unit_from_file, [[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], atol=1e-6
    )


def test_light_in_a_corner_is_darker_and_a_convex_edge_is_not() -> None:
    # A floor 1 x 1 with a wall 0.5 high along its edge at x = -0.5.
    floor = trimesh.creation.box(extents=[1, 1, 0.02])
    wall = trimesh.creation.box(extents=[0.02, 1, 0.5])
    wall.apply_translation([-0.49, 0, 0.26])
    both = trimesh.util.concatenate([floor, wall])
    template = cube()
    count = len(both.vertices)
    mesh = dataclasses.replace(
        template,
        vertices=both.vertices.astype(np.float32),
        faces=both.faces.astype(np.int32),
        uv=np.zeros((count, 2), np.float32),
        colors=np.ones((count, 3), np.float32),
        face_material=np.zeros(len(both.faces), np.int32),
    )
    above = orbit(1, 89.0, 2.0, size=SIZE)
    open_sky = render_fast(mesh, above, FastOptions(occlusion=0)).images
    shaded = render_fast(mesh, above, FastOptions(occlusion=64)).images
    ratio = (linear_from_srgb(shaded.numpy()) / np.maximum(linear_from_srgb(open_sky.numpy()), 1e-6))[0, 0]
    # Seen from above at azimuth 0 the image's up is world -X, so the wall is on top: rows fall towards +X.
    column = ratio[:, SIZE // 2]
    rows = np.nonzero(column > 0)[0]
    near, far = column[rows[2]], column[rows[-2]]
    assert near < 0.85
    assert far > 0.95


def test_reflected_limits() -> None:
    one = np.ones((1, 1), np.float32)
    white, black = np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32)
    # A white furnace: what is white and sees the whole sky sends back what it gets, whatever the gloss.
    np.testing.assert_allclose(reflected(white, one, 0.3 * one), 1, atol=1e-6)
    np.testing.assert_allclose(reflected(white, one, one, metallic=1.0), 1, atol=1e-6)
    # No sky, no light; a metal without colour is black.
    np.testing.assert_allclose(reflected(white, 0 * one, one), 0, atol=1e-6)
    np.testing.assert_allclose(reflected(black, one, one, metallic=1.0), 0, atol=1e-6)


def test_transfer_and_texture_lookup() -> None:
    values = np.linspace(0, 1, 101, dtype=np.float32)
    np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(values)), values, atol=1e-6)
    texture = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    # Texel (row 0, column 0) has its centre at u = 0.5/4, v = 1 - 0.5/3.
    uv = np.array([[0.125, 1 - 1 / 6], [0.25, 1 - 1 / 6], [1.125, 2 - 1 / 6], [0.0, 1 - 1 / 6]])
    # At the centre; halfway to the next; one repeat on; halfway between the first and the last column.
    np.testing.assert_allclose(look_up(texture, uv)[:, 0], [0, 0.5, 0, 1.5], atol=1e-5)
    np.testing.assert_allclose(shrink(texture[:2], 2)[0, :, 0], [(0 + 1 + 4 + 5) / 4, (2 + 3 + 6 + 7) / 4])


def test_same_picture_twice_and_in_any_batch() -> None:
    cameras = orbit(3, 30.0, size=SIZE)
    first, second = render_fast(cube(), cameras), render_fast(cube(), cameras)
    assert torch.equal(first.images, second.images)
    alone = render_fast(cube(), cameras[1])
    assert torch.equal(alone.images[0], first.images[1])


def test_turning_the_object_and_the_camera_together_changes_nothing() -> None:
    mesh = cube()
    turn = trimesh.transformations.rotation_matrix(np.pi / 2, [0, 0, 1])[:3, :3]
    turned = dataclasses.replace(mesh, vertices=(mesh.vertices @ turn.T).astype(np.float32))
    # Azimuth 90 degrees of four is the second camera.
    still = render_fast(mesh, orbit(4, 20.0, size=SIZE)[0])
    moved = render_fast(turned, orbit(4, 20.0, size=SIZE)[1])
    torch.testing.assert_close(still.images, moved.images, atol=2e-3, rtol=0)


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "broken.glb").write_bytes(b"no glb")
    (tmp_path / "empty.ply").write_text("ply\nformat ascii 1.0\nelement vertex 0\nend_header\n")
    flat = "o dot\nv 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n"
    (tmp_path / "dot.obj").write_text(flat)
    for name, words in {
        "broken.glb": "could not be read",
        "empty.ply": "holds no triangles|could not be read",
        "dot.obj": "no extent",
        "none.glb": "no such file",
        "photo.jpg": "expected a file of type",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            load_mesh(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(InputError, match="samples"):
        FastOptions(samples=0)
    lens = dataclasses.replace(front_camera(), distortion=torch.full((1, 6), 0.1))
    with pytest.raises(InputError, match="distortion"):
        render_fast(cube(), lens)


def test_cycles_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match=r"manyview\[render\]"):
        render_cycles(cube(), front_camera(), CyclesOptions(python=str(tmp_path / "no-python")))


@pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="needs Blender's Python package bpy")
def test_cycles_and_fast_agree(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    upright_plate("y").export(tmp_path / "plate.glb")
    plate = load_mesh(tmp_path / "plate.glb")
    # The cube at the lower right shows that the principal point is not mirrored.
    shifted = orbit(1, 30.0, 2.5, size=SIZE)
    K = shifted.K.clone()
    K[:, 0, 2] += 4
    K[:, 1, 2] += 2
    for mesh, cameras in ((plate, front_camera()), (cube(), dataclasses.replace(shifted, K=K))):
        slow = render_cycles(mesh, cameras, CyclesOptions(samples=32, threads=1))
        fast = render_fast(mesh, cameras, FastOptions(samples=4))
        assert slow.masks is not None
        assert fast.masks is not None
        assert float((slow.masks - fast.masks).abs().max()) < 0.15
        error = float((slow.over(1.0) - fast.over(1.0)).square().mean())
        # 36 dB: 0.016 root mean square, what 16 rays a pixel leave at the outlines.
        assert error < 10**-3.6
    assert capfd.readouterr().out == ""
