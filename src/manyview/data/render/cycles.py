"""The engine `cycles`: Blender's path tracer (`bpy`), run headless in a process of its own.

The setting is that of the SyncDreamer renders (uniform environment of radiance 0.5, one diffuse bounce,
transparent film), with these differences, each for a reason: alpha and colour are averaged over the pixel
(theirs samples its centre only, which leaves jagged outlines); no denoiser (it smears textures at 128 px;
128 samples of a uniform environment are clean); the colours are the plain sRGB of the light (Blender's
"Standard"), whereas a stock Blender applies its film look; no lamp besides the environment. The stock
scene's look depends on Blender's version.

Geometry and materials come from our own reader, so both engines see the same object in the same place.
Blender prints to the console from C; in a process of its own none of that reaches the caller.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyview.data.render.fast import FastOptions, render_fast
from manyview.data.render.meshes import RenderMesh, png_bytes
from manyview.data.render.texture import srgb_from_linear
from manyview.errors import InputError, MissingDependency
from manyview.types import Cameras, Views

_SENSOR_MM = 32.0
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class CyclesOptions:
    """How the engine `cycles` renders."""

    samples: int = 128
    """Paths a pixel."""
    light: float = 0.5
    """Radiance of the uniform environment."""
    seed: int = 0
    """Seed of the path tracer; the same for every view."""
    denoise: bool = False
    """Blender's denoiser, for few samples."""
    threads: int = 0
    """Threads Blender uses; 0 = all cores."""
    python: str = ""
    """A Python that has bpy, where manyview's own has not; empty = manyview's own."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError("samples", self.samples, "expected at least 1 path a pixel")
        if self.light < 0:
            raise InputError("light", self.light, "expected a radiance of at least 0")
        if not 0 <= self.seed < 2**31:
            raise InputError("seed", self.seed, "expected 0 to 2147483647")
        if not 0 <= self.threads <= 1024:
            raise InputError("threads", self.threads, "expected 0 (all cores) to 1024")


def require_cycles(options: CyclesOptions | None = None) -> None:
    """Raise `MissingDependency` unless the chosen Python has bpy."""
    python = options.python if options else ""
    if python:
        found = (
            Path(python).exists()
            and not subprocess.run(
                [python, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('bpy') is None)"],
                capture_output=True,
            ).returncode
        )
    else:
        found = importlib.util.find_spec("bpy") is not None
    if not found:
        raise MissingDependency(
            "engine", "cycles", "needs Blender's Python package: pip install 'manyview[render]' (Python 3.11)"
        )


def render_cycles(mesh: RenderMesh, cameras: Cameras, options: CyclesOptions | None = None) -> Views:
    """Views of `mesh` from `cameras`: straight sRGB colour, alpha as mask; depth from the ray caster.

    Deterministic for given options on one machine. Raises `InputError` for cameras with lens distortion, of
    different sizes or with pixels that are not square; `MissingDependency` without bpy; `RuntimeError` with
    Blender's last words if it fails.
    """
    options = options or CyclesOptions()
    if not torch.allclose(cameras.K[:, 0, 0], cameras.K[:, 1, 1], rtol=1e-4):
        raise InputError(
            "cameras.K", "fl_x differs from fl_y", "the engine cycles renders square pixels only"
        )
    require_cycles(options)
    # Depth and the checks on the cameras are the ray caster's.
    exact = render_fast(mesh, cameras, FastOptions(samples=2, occlusion=0))
    with tempfile.TemporaryDirectory(prefix="manyview-cycles-") as name:
        folder = Path(name)
        _write_job(folder, mesh, cameras, options)
        _run_blender(folder, options)
        read = [np.load(folder / f"{index:03d}.npy") for index in range(len(cameras))]
    rgba = np.stack(read).transpose(0, 3, 1, 2)
    alpha = np.clip(rgba[:, 3:], 0, 1)
    # Blender's film is premultiplied.
    straight = np.where(alpha > 0, rgba[:, :3] / np.maximum(alpha, 1e-6), 0)
    masks = torch.from_numpy(alpha)
    return Views(
        images=torch.from_numpy(srgb_from_linear(straight)),
        masks=masks,
        depths=torch.where(masks > 0, exact.depths, 0) if exact.depths is not None else None,
        cameras=cameras,
    )


def _write_job(folder: Path, mesh: RenderMesh, cameras: Cameras, options: CyclesOptions) -> None:
    opaque = np.ones((len(mesh.vertices), 1), dtype=np.float32)
    np.savez(
        folder / "mesh.npz",
        vertices=mesh.vertices,
        faces=mesh.faces.astype(np.int32),
        loop_start=np.arange(len(mesh.faces), dtype=np.int32) * 3,
        face_material=mesh.face_material.astype(np.int32),
        uv=mesh.uv,
        colors_rgba=np.concatenate([mesh.colors, opaque], axis=1),
    )
    materials = []
    for index, material in enumerate(mesh.materials):
        texture = None
        if material.texture is not None:
            texture = f"texture{index}.png"
            (folder / texture).write_bytes(png_bytes(material.texture))
        materials.append(
            {
                "factor": material.factor,
                "roughness": material.roughness,
                "metallic": material.metallic,
                "texture": texture,
            }
        )
    height, width = cameras.sizes[0].tolist()
    job = {
        "width": width,
        "height": height,
        "samples": options.samples,
        "light": options.light,
        "seed": options.seed,
        "denoise": options.denoise,
        "threads": options.threads,
        "materials": materials,
        "cameras": [_camera(cameras, index) for index in range(len(cameras))],
    }
    (folder / "job.json").write_text(json.dumps(job))


def _camera(cameras: Cameras, index: int) -> dict[str, Any]:
    height, width = cameras.sizes[index].tolist()
    K = cameras.K[index].double().numpy()
    world_from_opengl_cam = cameras.world_from_cam[index].double().numpy() @ _OPENGL_FROM_OPENCV
    return {
        "lens_mm": float(K[0, 0] / width * _SENSOR_MM),
        # Blender shifts the film in widths of it, up and right as seen in the picture's content moving down
        # and left.
        "shift_x": float((width / 2 - K[0, 2]) / width),
        "shift_y": float((K[1, 2] - height / 2) / width),
        "world_from_opengl_cam": world_from_opengl_cam.tolist(),
    }


def _run_blender(folder: Path, options: CyclesOptions) -> None:
    worker = Path(__file__).with_name("cycles_worker.py")
    # Isolated (-I): this folder on the path would hide Blender's own module `cycles` behind ours.
    command = [options.python or sys.executable, "-I", str(worker), str(folder / "job.json")]
    # A console of its own: what Blender prints must not mix with ours, and Ctrl-C reaches it all the same.
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise RuntimeError("Blender failed: " + (last[0] if last else f"exit code {done.returncode}"))
