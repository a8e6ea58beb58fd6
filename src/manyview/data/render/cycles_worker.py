"""Blender's side of the engine `cycles`: run as `python -I cycles_worker.py JOB.json` where `bpy` is.

Stands alone (only the standard library, NumPy and bpy), so that the Python may be another one than
manyview's. JOB.json is written by `manyview.data.render.cycles`; each camera leaves `NNN.npy` beside it:
[H, W, 4] float32, premultiplied RGBA in linear light, first row on top.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def main(job_path: Path) -> None:
    """Build the scene that the job describes and render its cameras."""
    import numpy as np

    # By name, since neither has types; bpy first, it brings mathutils.
    bpy: Any = importlib.import_module("bpy")
    mathutils: Any = importlib.import_module("mathutils")

    job = json.loads(job_path.read_text())
    folder = job_path.parent
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    _set_render(scene, job)
    _set_world(bpy, scene, job["light"])
    with np.load(folder / "mesh.npz") as arrays:
        _add_mesh(bpy, scene, {name: arrays[name] for name in arrays.files}, job["materials"], folder)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    for index, view in enumerate(job["cameras"]):
        camera.data.sensor_fit = "HORIZONTAL"
        camera.data.sensor_width = 32
        camera.data.lens = view["lens_mm"]
        camera.data.shift_x, camera.data.shift_y = view["shift_x"], view["shift_y"]
        camera.data.clip_start, camera.data.clip_end = 1e-3, 1e3
        camera.matrix_world = mathutils.Matrix(view["world_from_opengl_cam"])
        path = folder / f"{index:03d}.exr"
        scene.render.filepath = str(path)
        bpy.ops.render.render(write_still=True)
        np.save(path.with_suffix(".npy"), _pixels(bpy, np, path, job["height"], job["width"]))
        path.unlink()


def _pixels(bpy: Any, np: Any, path: Path, height: int, width: int) -> Any:
    image = bpy.data.images.load(str(path))
    flat = np.empty(height * width * 4, dtype=np.float32)
    image.pixels.foreach_get(flat)
    bpy.data.images.remove(image)
    return flat.reshape(height, width, 4)[::-1].copy()


def _set_render(scene: Any, job: dict[str, Any]) -> None:
    render, cycles = scene.render, scene.cycles
    render.engine = "CYCLES"
    render.resolution_x, render.resolution_y = job["width"], job["height"]
    render.resolution_percentage = 100
    render.film_transparent = True
    render.image_settings.file_format = "OPEN_EXR"
    render.image_settings.color_mode = "RGBA"
    render.image_settings.color_depth = "32"
    render.threads_mode = "FIXED" if job["threads"] else "AUTO"
    if job["threads"]:
        render.threads = job["threads"]
    cycles.device = "CPU"
    cycles.samples = job["samples"]
    cycles.seed = job["seed"]
    cycles.use_adaptive_sampling = False
    cycles.use_denoising = job["denoise"]
    cycles.diffuse_bounces = cycles.glossy_bounces = 1
    cycles.transparent_max_bounces = cycles.transmission_bounces = 3
    # A box as wide as a pixel: area averaging, as the engine `fast` does.
    cycles.pixel_filter_type = "BOX"
    cycles.filter_width = 1.0


def _set_world(bpy: Any, scene: Any, light: float) -> None:
    world = bpy.data.worlds.new("uniform")
    scene.world = world
    world.use_nodes = True
    background = next(node for node in world.node_tree.nodes if node.type == "BACKGROUND")
    background.inputs["Color"].default_value = (light, light, light, 1)
    background.inputs["Strength"].default_value = 1


def _add_mesh(
    bpy: Any, scene: Any, arrays: dict[str, Any], materials: list[dict[str, Any]], folder: Path
) -> None:
    mesh = bpy.data.meshes.new("mesh")
    vertices, faces = arrays["vertices"], arrays["faces"]
    mesh.vertices.add(len(vertices))
    mesh.vertices.foreach_set("co", vertices.reshape(-1))
    mesh.loops.add(faces.size)
    mesh.loops.foreach_set("vertex_index", faces.reshape(-1))
    mesh.polygons.add(len(faces))
    mesh.polygons.foreach_set("loop_start", arrays["loop_start"])
    mesh.polygons.foreach_set("material_index", arrays["face_material"])
    layer = mesh.uv_layers.new(name="uv")
    layer.uv.foreach_set("vector", arrays["uv"][faces.reshape(-1)].reshape(-1))
    color = mesh.color_attributes.new(name="tint", type="FLOAT_COLOR", domain="POINT")
    color.data.foreach_set("color", arrays["colors_rgba"].reshape(-1))
    for index, material in enumerate(materials):
        mesh.materials.append(_material(bpy, f"material{index}", material, folder))
    mesh.update(calc_edges=True)
    # Faceted like the triangles that the engine `fast` meets.
    mesh.shade_flat()
    scene.collection.objects.link(bpy.data.objects.new("mesh", mesh))


def _material(bpy: Any, name: str, options: dict[str, Any], folder: Path) -> Any:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    surface = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    surface.inputs["Roughness"].default_value = options["roughness"]
    surface.inputs["Metallic"].default_value = options["metallic"]
    color = nodes.new("ShaderNodeAttribute")
    color.attribute_name = "tint"
    product = _multiplied(nodes, links, color.outputs["Color"], None, (*options["factor"], 1))
    if options["texture"] is not None:
        image = nodes.new("ShaderNodeTexImage")
        image.image = bpy.data.images.load(str(folder / options["texture"]))
        product = _multiplied(nodes, links, product, image.outputs["Color"], None)
    links.new(product, surface.inputs["Base Color"])
    return material


def _multiplied(nodes: Any, links: Any, first: Any, second: Any, constant: tuple[float, ...] | None) -> Any:
    product = nodes.new("ShaderNodeVectorMath")
    product.operation = "MULTIPLY"
    links.new(first, product.inputs[0])
    if constant is None:
        links.new(second, product.inputs[1])
    else:
        product.inputs[1].default_value = constant[:3]
    return product.outputs[0]


if __name__ == "__main__":
    main(Path(sys.argv[-1]))
