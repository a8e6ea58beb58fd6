"""Mesh files, opened by programs that are not ours: trimesh's readers, a parser by hand, and Blender."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial

import manyview.data.render
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.io.mesh_files import MESH_SUFFIXES, read_mesh, write_mesh
from manyview.lift.mesh.rendering import render_mesh

SIZE = 64
FOUR = ((255, 40, 20), (30, 200, 60), (20, 60, 250), (240, 230, 30))


def textured_box() -> trimesh.Trimesh:
    """0.5 wide, 0.7 deep, 1 high: four colours on each side, as quarters of one picture."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :32], pixels[:32, 32:], pixels[32:, :32], pixels[32:, 32:] = FOUR
    box = trimesh.creation.box(extents=[0.5, 0.7, 1.0])
    corners = box.triangles.reshape(-1, 3)
    normals = np.repeat(np.abs(box.face_normals), 3, axis=0)
    # Across and up for the sides; x and y for top and bottom.
    across = np.where(normals[:, 0] > 0.5, corners[:, 1] / 0.7, corners[:, 0] / 0.5)
    up = np.where(normals[:, 2] > 0.5, corners[:, 1] / 0.7, corners[:, 2])
    material = PBRMaterial(baseColorTexture=Image.fromarray(pixels), metallicFactor=0.0, roughnessFactor=1.0)
    visual = trimesh.visual.TextureVisuals(uv=np.stack([across, up], axis=1) + 0.5, material=material)
    return trimesh.Trimesh(corners, np.arange(36).reshape(-1, 3), visual=visual, process=False)


def colored_box() -> trimesh.Trimesh:
    box = trimesh.creation.box(extents=[0.5, 0.7, 1.0])
    box.visual.vertex_colors = np.where(box.vertices[:, 2:] > 0, [[250, 60, 90, 255]], [[70, 120, 240, 255]])
    return box


@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
@pytest.mark.parametrize("make", [textured_box, colored_box])
def test_round_trip_looks_the_same(tmp_path: Path, suffix: str, make) -> None:
    mesh, path = make(), tmp_path / f"some mesh{suffix}"
    before = mesh.vertices.copy()
    write_mesh(path, mesh)
    np.testing.assert_array_equal(mesh.vertices, before)
    cameras = orbit(3, 30.0, size=24)
    there, back = render_mesh(mesh, cameras), render_mesh(read_mesh(path), cameras)
    torch.testing.assert_close(back.masks, there.masks)
    if make is colored_box or suffix != ".ply":
        # 8-bit linear light moves a colour by up to 2 of 255 in this range.
        torch.testing.assert_close(back.images, there.images, atol=0.012, rtol=0)


def test_ply_of_a_textured_mesh_has_its_colours_at_the_vertices(tmp_path: Path) -> None:
    write_mesh(tmp_path / "box.ply", textured_box())
    foreign = trimesh.load(tmp_path / "box.ply", process=False)
    found = {tuple(color) for color in foreign.visual.vertex_colors[:, :3].tolist()}
    # The corners of the faces are the corners of the picture.
    assert found == set(FOUR)
    np.testing.assert_allclose(foreign.extents, [0.5, 0.7, 1.0])


def test_obj_names_its_files_and_stands_upright(tmp_path: Path) -> None:
    write_mesh(tmp_path / "a b.obj", textured_box())
    # Read by hand: the library beside it, the picture beside that, no name with a space.
    lines = (tmp_path / "a b.obj").read_text().split("\n")
    library = next(line.split(maxsplit=1)[1] for line in lines if line.startswith("mtllib"))
    material = (tmp_path / library).read_text().split("\n")
    picture = next(line.split(maxsplit=1)[1] for line in material if line.startswith("map_Kd"))
    assert " " not in library + picture
    assert Image.open(tmp_path / picture).size == (64, 64)
    assert any(line.split() == ["Kd", *["1.00000000"] * 3] for line in material)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a b.obj", library, picture])
    points = np.array([[float(n) for n in line.split()[1:4]] for line in lines if line.startswith("v ")])
    # The height of 1 is along y, the depth of 0.7 along z.
    np.testing.assert_allclose(np.ptp(points, axis=0), [0.5, 1.0, 0.7], atol=1e-6)


def test_glb_says_what_it_holds(tmp_path: Path) -> None:
    write_mesh(tmp_path / "box.glb", textured_box())
    data = (tmp_path / "box.glb").read_bytes()
    # The container: magic, version, length, then a chunk of JSON.
    assert data[:4] == b"glTF"
    assert int.from_bytes(data[4:8], "little") == 2
    assert int.from_bytes(data[8:12], "little") == len(data)
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    surface = tree["materials"][0]["pbrMetallicRoughness"]
    assert "baseColorTexture" in surface
    assert surface["metallicFactor"] == 0
    assert tree["images"][0]["mimeType"] == "image/png"
    position = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    np.testing.assert_allclose(position["max"], [0.25, 0.5, 0.35], atol=1e-6)


def test_glb_vertex_colours_are_linear(tmp_path: Path) -> None:
    mesh = colored_box()
    mesh.visual.vertex_colors = np.tile([188, 188, 188, 200], (8, 1))
    write_mesh(tmp_path / "grey.glb", mesh)
    foreign = trimesh.load_mesh(tmp_path / "grey.glb", process=False)
    # sRGB 188/255 is half the light: ((0.7373 + 0.055) / 1.055) ** 2.4 = 0.503, so 128. Alpha is no colour.
    assert foreign.visual.vertex_colors[0].tolist() == [128, 128, 128, 200]
    assert np.abs(read_mesh(tmp_path / "grey.glb").visual.vertex_colors[0].astype(int) - 188)[0] <= 1


BLENDER = """
import importlib.util, json, sys
import numpy as np
import bpy, mathutils
job = json.loads(open(sys.argv[-1]).read())
spec = importlib.util.spec_from_file_location("worker", job["worker"])
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
worker._set_render(scene, job)
worker._set_world(bpy, scene, job["light"])
bpy.ops.import_scene.gltf(filepath=job["glb"])
camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
scene.collection.objects.link(camera)
scene.camera = camera
camera.data.sensor_fit, camera.data.sensor_width = "HORIZONTAL", 32
for number, view in enumerate(job["cameras"]):
    camera.data.lens = view["lens_mm"]
    camera.matrix_world = mathutils.Matrix(view["world_from_opengl_cam"])
    from pathlib import Path
    path = Path(job["out"]) / f"{number}.exr"
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    np.save(path.with_suffix(".npy"), worker._pixels(bpy, np, path, job["height"], job["width"]))
"""


@pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="bpy (Blender) is not installed")
@pytest.mark.parametrize("make", [textured_box, colored_box])
def test_blender_shows_the_glb_upright_and_textured(tmp_path: Path, make) -> None:
    from manyview.data.render.cycles import _camera
    from manyview.data.render.texture import srgb_from_linear

    mesh = make()
    write_mesh(tmp_path / "box.glb", mesh)
    cameras = orbit(2, 30.0, start_azimuth_deg=25.0, size=SIZE)
    job = {
        "width": SIZE,
        "height": SIZE,
        "samples": 8,
        "seed": 0,
        "threads": 1,
        "denoise": False,
        "light": 0.5,
        "glb": str(tmp_path / "box.glb"),
        "out": str(tmp_path),
        "worker": str(Path(manyview.data.render.__file__).with_name("cycles_worker.py")),
        "cameras": [_camera(cameras, index) for index in range(2)],
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    (tmp_path / "show.py").write_text(BLENDER)
    command = [sys.executable, "-I", str(tmp_path / "show.py"), str(tmp_path / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    film = np.stack([np.load(tmp_path / f"{index}.npy") for index in range(2)]).transpose(0, 3, 1, 2)
    theirs = torch.from_numpy(srgb_from_linear(film[:, :3] / np.maximum(film[:, 3:], 1e-6)))
    ours = render_mesh(mesh, cameras, lit=True)
    assert ours.masks is not None
    covered = torch.from_numpy(film[:, 3:])
    assert float((covered - ours.masks).abs().mean()) < 0.01
    inner = ((covered > 0.99) & (ours.masks > 0.99)).expand(-1, 3, -1, -1)
    assert inner.float().mean() > 0.1
    # Eight paths a pixel leave some grain; a turned, mirrored or grey picture would be off by a quarter.
    assert float((theirs - ours.images)[inner].abs().mean()) < 0.03


def test_faults(tmp_path: Path) -> None:
    for name in ("a.glb", "a.obj", "a.ply"):
        with pytest.raises(InputError, match="does not exist"):
            read_mesh(tmp_path / name)
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(InputError, match=r"broken|holds no triangles"):
            read_mesh(tmp_path / name)
    with pytest.raises(InputError, match=r"expected a file of type \.glb"):
        write_mesh(tmp_path / "a.stl", textured_box())
    nothing = trimesh.Trimesh(np.zeros((0, 3)), np.zeros((0, 3), int), process=False)
    with pytest.raises(InputError, match="no faces"):
        write_mesh(tmp_path / "b.ply", nothing)
    assert not (tmp_path / "b.ply").exists()
