"""Put trained components into the package as its compact weights, or into another folder.

    python papers/compact/bundle.py --vae runs/vae/export --image-encoder runs/image_encoder/export \
        --dimvis runs/dimvis/export --one2one runs/one2one/export \
        --sparsefusion runs/sparsefusion_vldm/export --pixelnerf runs/regressor/export \
        --hi3d runs/hi3d_orbit/export --hi3d-refine runs/hi3d_refine/export \
        --hi3d-depth runs/hi3d_depth/export --hi3d-elevation runs/hi3d_elevation/export \
        --tunet runs/tunet/export --tunet-base runs/tunet_base/export \
        --refiner runs/refiner/export --refiner-generator runs/refiner_generator/export \
        --refiner-depth runs/refiner_depth/export --refiner-yaw runs/refiner_yaw/export

Networks are packed as int8 with a scale for each output channel (manyview.weights.packing; what that costs:
papers/compact/packing.py), but for those named by `--float16 vae dimvis/unet`, which are copied as they are.
Components left out keep what is there. For DiMViS, `--guidance 3 1 1` records the guidance found on
validation objects for 1, 2 and 3 references (papers/dimvis/choose_guidance.py), `--sampler dpm 4` the solver
and steps of answers for which none are asked. For SparseFusion `--sparsefusion-settings` names the file in
which papers/sparsefusion/choose.py wrote sampler and distillation, and `--hi3d-settings` likewise the one of
papers/hi3d/choose.py, `--tunet-settings` the one of papers/tunet/choose.py. Of Hi3D all but the first stage
may be missing; TUNet needs its base; of the refiner the network that measures yaw may be missing, which only
its table needs. With `--out DIR` the method m is then `manyview.load(m, weights="DIR/m")`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from manyview.errors import InputError
from manyview.io.manifest import read_json
from manyview.sampling.solvers import SOLVERS
from manyview.weights.bundle import BUNDLE_FILE, COMPACT, write_bundle
from manyview.weights.packing import is_packed, pack_component

LICENCE = "Apache-2.0 (trained by the manyview authors on procedural objects and YCB scans, CC BY 4.0)"
SHARED = {"vae": "../vae", "image_encoder": "../image_encoder"}
_DENOISER = ("unet", "conditioner", "scheduler")
# Of each method the components it shares, and its own. `pixelnerf` is the regressor beside SparseFusion.
METHODS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "dimvis": (("vae", "image_encoder"), _DENOISER),
    "one2one": (("vae", "image_encoder"), _DENOISER),
    "sparsefusion": (("vae",), ("eft", "unet", "scheduler")),
    "pixelnerf": ((), ("regressor",)),
    "hi3d": (("vae", "image_encoder"), ("unet", "scheduler")),
    "tunet": (("vae", "image_encoder"), ("tunet",)),
    "refiner": ((), ("refiner",)),
}
# Components that come from runs of their own and may be missing: run -> place in its export -> name beside
# the method's own.
MORE: dict[str, tuple[str, dict[str, str]]] = {
    "hi3d_refine": ("hi3d", {"refiner": "refiner", "scheduler": "refine_scheduler"}),
    "hi3d_depth": ("hi3d", {".": "depth"}),
    "hi3d_elevation": ("hi3d", {".": "elevation"}),
    "tunet_base": ("tunet", {"base": "base", "scheduler": "scheduler"}),
    "refiner_generator": ("refiner", {".": "generator"}),
    "refiner_depth": ("refiner", {name: name for name in ("depth", "pose", "directions")}),
    "refiner_yaw": ("refiner", {".": "yaw"}),
}
# Components of `MORE` without which a method does not run.
NEEDED = {"tunet": ("tunet_base",), "refiner": ("refiner_generator", "refiner_depth")}


def main(words: Sequence[str] | None = None) -> int:
    """Copy the given components and write every method's manyview.json anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in (*SHARED, *METHODS, *MORE):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=Path, help="export folder of its training run")
    parser.add_argument("--guidance", type=float, nargs="*", help="DiMViS guidance for 1, 2, 3 references")
    parser.add_argument("--sampler", nargs=2, metavar=("SOLVER", "STEPS"), help="DiMViS solver and steps")
    parser.add_argument("--sparsefusion-settings", type=Path, help="what choose.py wrote")
    parser.add_argument("--hi3d-settings", type=Path, help="what papers/hi3d/choose.py wrote")
    parser.add_argument("--tunet-settings", type=Path, help="what papers/tunet/choose.py wrote")
    parser.add_argument("--float16", nargs="+", default=[], metavar="NAME", help="networks not to be packed")
    parser.add_argument("--out", type=Path, default=COMPACT, help="folder of the bundles; the package's")
    given = parser.parse_args(words)
    try:
        exports = {name: getattr(given, name) for name in (*SHARED, *METHODS, *MORE)}
        settings = {name: getattr(given, f"{name}_settings") for name in ("sparsefusion", "hi3d", "tunet")}
        write(given.out, exports, given.guidance, given.sampler, settings, given.float16)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    total = sum(path.stat().st_size for path in given.out.rglob("*.safetensors"))
    print(f"weights in {given.out}: {total / 1e6:.1f} MB")
    return 0


def write(
    out: Path,
    exports: dict[str, Path | None],
    guidance: list[float] | None,
    sampler: tuple[str, str] | None = None,
    settings_files: Mapping[str, Path | None] | None = None,
    float16: Collection[str] = (),
) -> None:
    """Bundles of every method that is given or already in `out`; given networks are packed, but for those
    that `float16` names. `settings_files`: for some methods the file with what their weights record. Raises
    `InputError` before any copy if an export lacks a component, or a method would be left without a codec or
    an image encoder."""
    own = {method: [*parts, *_more(method)] for method, (_, parts) in METHODS.items()}
    networks = [*SHARED, *(f"{m}/{part}" for m in own for part in own[m] if not part.endswith("scheduler"))]
    for name in float16:
        if name not in networks:
            raise InputError("--float16", name, f"expected one of {', '.join(networks)}")
    chosen: dict[str, Any] = {}
    if guidance is not None:
        chosen["guidance_by_references"] = guidance
    if sampler is not None:
        if sampler[0] not in SOLVERS or not sampler[1].isdigit() or int(sampler[1]) < 1:
            raise InputError("--sampler", " ".join(sampler), f"expected one of {SOLVERS} and its steps")
        chosen |= {"solver": sampler[0], "steps": int(sampler[1])}
    files = settings_files or {}
    settings_of = {"dimvis": chosen, **{name: _read_settings(name, path) for name, path in files.items()}}
    copies: list[tuple[Path, Path]] = []
    for name, source in exports.items():
        if source is None:
            continue
        parts = {source: out / name}
        if name in METHODS:
            parts = {source / part: out / name / part for part in METHODS[name][1]}
        elif name in MORE:
            method, places = MORE[name]
            if exports.get(method) is None and not (out / method).is_dir():
                raise InputError(f"--{method}", "not given", f"and {out} holds none for --{name}")
            parts = {source / place: out / method / part for place, part in places.items()}
        for folder, target in parts.items():
            if not any(folder.glob("*config.json")):
                accepted = f"expected a component with its config.json in {folder.name}"
                raise InputError("--" + name.replace("_", "-"), str(source), accepted)
            copies.append((folder, target))
    methods = [name for name in METHODS if exports.get(name) is not None or (out / name).is_dir()]
    for name in SHARED:
        users = [method for method in methods if name in METHODS[method][0]]
        if users and exports.get(name) is None and not (out / name).is_dir():
            raise InputError(
                "--" + name.replace("_", "-"), "not given", f"and {out} holds none for {users[0]}"
            )
    for method, name in ((method, name) for method, names in NEEDED.items() for name in names):
        if method in methods and exports.get(name) is None and not _has(out, name):
            flag = "--" + name.replace("_", "-")
            raise InputError(flag, "not given", f"and {out} holds none for {method}")
    _place(copies, packed={out / name for name in networks if name not in float16})
    for method in methods:
        folder = out / method
        settings = {}
        if (folder / BUNDLE_FILE).is_file():
            settings = json.loads((folder / BUNDLE_FILE).read_text())["settings"]
        settings |= settings_of.get(method, {})
        shared = METHODS[method][0]
        there = [*METHODS[method][1], *(part for part in _more(method) if (folder / part).is_dir())]
        write_bundle(
            folder,
            name="compact",
            method=method,
            licence=LICENCE,
            components={**{name: SHARED[name] for name in shared}, **{part: part for part in there}},
            settings=settings,
        )


def _has(out: Path, name: str) -> bool:
    """Whether all that a run of `MORE` gives is in `out` already."""
    method, places = MORE[name]
    return all((out / method / part).is_dir() for part in places.values())


def _more(method: str) -> list[str]:
    """Names of the components that a method may lack."""
    return [part for owner, places in MORE.values() if owner == method for part in places.values()]


def _place(copies: Sequence[tuple[Path, Path]], packed: Collection[Path]) -> None:
    """Put each source in the place of its target, packed where the target is named and the source is not yet.
    All are ready before the first is replaced."""
    made: dict[Path, Path] = {}
    try:
        for source, target in copies:
            made[target] = target.with_name(f".{target.name}.{os.getpid()}")
            if target in packed and not is_packed(source):
                pack_component(source, made[target])
            else:
                shutil.copytree(source, made[target])
            _forget_place(made[target] / "config.json")
    except BaseException:
        for temporary in made.values():
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    for target, temporary in made.items():
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)


def _forget_place(config: Path) -> None:
    """Drop from a network's config where it was loaded from: a folder of the machine that trained it."""
    if config.is_file():
        told = json.loads(config.read_text())
        if told.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(told, indent=2) + "\n")


def _read_settings(method: str, path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    settings = read_json(path).get("settings") if path.is_file() else None
    if not isinstance(settings, dict):
        accepted = f"expected the file that papers/{method}/choose.py writes"
        raise InputError(f"--{method}-settings", str(path), accepted)
    return settings


if __name__ == "__main__":
    sys.exit(main())
