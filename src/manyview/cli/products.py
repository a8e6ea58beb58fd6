"""Flags of `manyview synth` for what is made of the views, and where a stopped run keeps what it finished."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manyview.cli.flags import torch_device
from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic

if TYPE_CHECKING:
    import torch

Product = Literal["field", "splats", "mesh", "video", "views"]
TURNTABLE_FRAMES = 48
TURNTABLE_FPS = 16.0


@dataclass(frozen=True, kw_only=True)
class ProductFlags:
    """Flags of `manyview synth` for methods that lift their views to 3D."""

    to: tuple[Product, ...] = ()
    """sparsefusion, hi3d, refiner (mesh or views): further files. field (sparsefusion): field.safetensors.
    splats: splats.ply. mesh: mesh.glb, textured. video: turntable.mp4. views: none of these. When not given:
    splats mesh for hi3d, none for sparsefusion."""
    masks: Literal["auto", "plain", "rembg", "white"] = "auto"
    """sparsefusion, hi3d, tunet, refiner: auto takes transparency and mask files, else cuts out of a plain
    background; plain does the latter always; rembg lets that package cut; white takes what is not white."""
    resume: bool = False
    """sparsefusion --mode field, hi3d, refiner (a photo): go on with a stopped run of the same command."""


def given_flags(flags: Any) -> list[str]:
    """The flags of a dataclass that are not as they are without being given."""
    plain = type(flags)()
    names = [field.name for field in dataclasses.fields(flags)]
    changed = [name for name in names if getattr(flags, name) != getattr(plain, name)]
    return ["--" + name.replace("_", "-") for name in changed]


def open_stages(out: Path, key: str, *, resume: bool) -> Path:
    """The folder beside a result where finished steps are kept, of this run or of one to go on with.

    `key`: a hash of everything the steps depend on. Raises `InputError` where a run is to go on that had
    another one.
    """
    folder = out.absolute().parent / f".{out.name}.stages"
    kept = folder / "key"
    if resume and kept.is_file() and kept.read_text(encoding="utf-8") != key:
        accepted = "the stopped run had other options or input; start anew without --resume"
        raise InputError("--resume", str(folder), accepted)
    if not resume or not kept.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        write_text_atomic(kept, key)
    return folder


def splat_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Where splats are fitted: without gsplat the CPU's compiled renderer is the faster one."""
    from manyview.lift.splats.cuda import has_gsplat

    device = torch_device(name)
    return torch_device("cpu") if name == "auto" and not has_gsplat() else device
