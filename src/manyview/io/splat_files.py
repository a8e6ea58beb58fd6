"""Gaussians on disk: the `.ply` of 3D Gaussian splatting, `.splat`, and `.spz`.

In memory and in a `.ply`: natural-log scales, opacity before the sigmoid, quaternions w first, colour as
coefficients of real spherical harmonics (colour = 0.5 + sum of coefficient x basis). Which way is up:

- `.ply` and `.splat` say nothing about it. `axes="world"` keeps the package's frame (+Z up), which
  is what fits the cameras of a scene folder; `axes="rdf"` has +Y down, as the web viewers expect of files
  made from photographs (SuperSplat turns what it loads by 180 degrees about z, for example).
- `.spz` is +Y up by its specification, and is turned both ways by itself.

Real harmonics beyond degree 0 depend on the frame, so turning turns their coefficients as well.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

from manyview.errors import InputError, MissingDependency
from manyview.io.atomic import write_bytes_atomic, writing_file
from manyview.io.splat_axes import turned_quaternions, turned_sh

Axes = Literal["world", "rdf"]
SPLAT_SUFFIXES = (".ply", ".splat", ".spz")

SH_C0 = 0.28209479177387814
"""The harmonic of degree 0: 1 / (2 sqrt(pi))."""

_RDF_FROM_WORLD = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
_RUB_FROM_WORLD = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
_NUM_COEFFICIENTS = (1, 4, 9, 16)
_MAX_LOGIT = 16.0
_SPLAT_RECORD = np.dtype(
    [("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quaternion", "u1", 4)]
)
_PLY_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "float": "f4",
    "double": "f8",
    "float32": "f4",
    "float64": "f8",
}


@dataclass(frozen=True, kw_only=True)
class SplatArrays:
    """N Gaussians as plain float32 arrays. Raises `InputError` for shapes that do not fit and for NaN."""

    means: np.ndarray
    """[N, 3]"""
    log_scales: np.ndarray
    """[N, 3] natural logarithm of the standard deviations."""
    quaternions: np.ndarray
    """[N, 4] w x y z, of any length but zero; world from the Gaussian's own axes."""
    opacity_logits: np.ndarray
    """[N] before the sigmoid."""
    sh: np.ndarray
    """[N, K, 3] with K 1, 4, 9 or 16 (degree 0 to 3)."""

    def __post_init__(self) -> None:
        for name in ("means", "log_scales", "quaternions", "opacity_logits", "sh"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float32))
        count = len(self.means)
        shapes = {"means": (count, 3), "log_scales": (count, 3), "quaternions": (count, 4)}
        for name, shape in {**shapes, "opacity_logits": (count,)}.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"splats.{name}", getattr(self, name).shape, f"expected {list(shape)}")
        if self.sh.ndim != 3 or self.sh.shape[::2] != (count, 3) or self.sh.shape[1] not in _NUM_COEFFICIENTS:
            raise InputError("splats.sh", self.sh.shape, f"expected [{count}, 1 or 4 or 9 or 16, 3]")
        for name in ("means", "log_scales", "quaternions", "opacity_logits", "sh"):
            values = getattr(self, name)
            # An opacity of exactly 0 or 1 has an infinite logit, which is a value.
            if np.isnan(values).any() or (name != "opacity_logits" and np.isinf(values).any()):
                raise InputError(f"splats.{name}", "holds NaN or infinity", "expected finite numbers")

    def __len__(self) -> int:
        return len(self.means)

    def turned(self, rotation: np.ndarray) -> SplatArrays:
        """The same Gaussians after x -> `rotation` [3, 3] @ x; colours turn along."""
        return SplatArrays(
            means=self.means @ rotation.T,
            log_scales=self.log_scales,
            quaternions=turned_quaternions(self.quaternions, rotation),
            opacity_logits=self.opacity_logits,
            sh=turned_sh(self.sh, rotation),
        )


def write_splats(
    path: str | os.PathLike[str], splats: SplatArrays, *, axes: Axes = "world", argument: str = "--out"
) -> None:
    """Write `.ply`, `.splat` or `.spz`, chosen by the suffix. Atomic.

    `.splat` and `.spz` are smaller and lossy: `.splat` drops colour beyond degree 0 and sorts by size times
    opacity. `axes` matters for `.ply` and `.splat` (see the head of the module). Raises `InputError` for
    other suffixes, and `MissingDependency` for `.spz` without the package gsply.
    """
    suffix = _known_suffix(path, argument)
    if suffix == ".spz":
        _write_spz(path, splats.turned(_RUB_FROM_WORLD), argument)
        return
    placed = splats.turned(_RDF_FROM_WORLD) if _check_axes(axes) == "rdf" else splats
    data = ply_bytes(placed) if suffix == ".ply" else splat_bytes(placed)
    write_bytes_atomic(path, data, argument=argument)


def read_splats(
    path: str | os.PathLike[str], *, axes: Axes = "world", argument: str = "INPUT"
) -> SplatArrays:
    """Read `.ply`, `.splat` or `.spz` into the package's frame; `axes` is that of the file.

    Raises `InputError` for a missing or broken file and other suffixes; `MissingDependency` for `.spz`
    without the package gsply.
    """
    suffix = _known_suffix(path, argument)
    if not Path(path).is_file():
        raise InputError(argument, os.fspath(path), "does not exist, expected a file of splats")
    if suffix == ".spz":
        return _read_spz(path, argument).turned(_RUB_FROM_WORLD.T)
    data = Path(path).read_bytes()
    try:
        splats = splats_from_ply(data) if suffix == ".ply" else splats_from_splat(data)
    except InputError as error:
        raise InputError(argument, os.fspath(path), f"{error.value}, {error.accepted}") from error
    return splats.turned(_RDF_FROM_WORLD.T) if _check_axes(axes) == "rdf" else splats


def ply_bytes(splats: SplatArrays) -> bytes:
    """The `.ply` in the order the first implementation wrote: x y z nx ny nz f_dc f_rest opacity scale rot.

    Little-endian float32; normals are zero; `f_rest` holds all coefficients of red, then green, then blue.
    """
    count, num_rest = len(splats), splats.sh.shape[1] - 1
    names = [*("x", "y", "z", "nx", "ny", "nz"), *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(3 * num_rest)] + ["opacity"]
    names += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    columns = (
        splats.means,
        np.zeros((count, 3), np.float32),
        splats.sh[:, 0],
        splats.sh[:, 1:].transpose(0, 2, 1).reshape(count, 3 * num_rest),
        splats.opacity_logits[:, None],
        splats.log_scales,
        splats.quaternions,
    )
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [f"property float {name}" for name in names]
    text = "\n".join([*header, "end_header", ""]).encode("ascii")
    return text + np.concatenate(columns, axis=1).astype("<f4").tobytes()


def splats_from_ply(data: bytes) -> SplatArrays:
    """Gaussians of a binary `.ply`, found by the names of its properties, in whatever order and number type.

    Raises `InputError` for what is no such file, and for the packed form that SuperSplat writes.
    """
    columns = _ply_columns(data)
    if "packed_position" in columns:
        raise InputError("ply", "compressed (chunks of packed splats)", "expected a plain splat ply")
    rest = sorted((name for name in columns if re.fullmatch(r"f_rest_\d+", name)), key=_number)
    needed = [*("x", "y", "z", "opacity"), *(f"f_dc_{i}" for i in range(3))]
    needed += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise InputError("ply", f"has no {', '.join(missing)}", "expected a ply of 3D Gaussians")
    num_rest = len(rest) // 3
    if (
        len(rest) % 3
        or num_rest + 1 not in _NUM_COEFFICIENTS
        or [_number(n) for n in rest] != [*range(len(rest))]
    ):
        raise InputError(
            "ply", f"{len(rest)} f_rest properties", "expected f_rest_0 to _8, _23 or _44, or none"
        )

    def stack(*names: str) -> np.ndarray:
        return np.stack([columns[name].astype(np.float32) for name in names], axis=1)

    sh = stack("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if rest:
        by_channel = stack(*rest).reshape(-1, 3, num_rest)
        sh = np.concatenate([sh, by_channel.transpose(0, 2, 1)], axis=1)
    return SplatArrays(
        means=stack("x", "y", "z"),
        log_scales=stack("scale_0", "scale_1", "scale_2"),
        quaternions=stack("rot_0", "rot_1", "rot_2", "rot_3"),
        opacity_logits=columns["opacity"],
        sh=sh,
    )


def splat_bytes(splats: SplatArrays) -> bytes:
    """The `.splat` of the web viewers: 32 bytes a Gaussian, the most visible first.

    Position and scale (not its logarithm) as float32, then colour, opacity and the quaternion in bytes. The
    order is by volume times opacity, so that a viewer can draw while it loads.
    """
    opacity = _sigmoid(splats.opacity_logits)
    unit = splats.quaternions / np.maximum(np.linalg.norm(splats.quaternions, axis=1, keepdims=True), 1e-12)
    records = np.zeros(len(splats), _SPLAT_RECORD)
    records["means"], records["scales"] = splats.means, np.exp(splats.log_scales)
    rgba = np.concatenate([0.5 + SH_C0 * splats.sh[:, 0], opacity[:, None]], axis=1)
    records["rgba"] = np.round(rgba.clip(0, 1) * 255)
    records["quaternion"] = np.round(unit * 128 + 128).clip(0, 255)
    importance = splats.log_scales.sum(axis=1, dtype=np.float64) + np.log(opacity + 1e-12)
    return records[np.argsort(-importance, kind="stable")].tobytes()


def splats_from_splat(data: bytes) -> SplatArrays:
    """Gaussians of degree 0 from the bytes of a `.splat`. Raises `InputError` for a length but N x 32."""
    if not data or len(data) % _SPLAT_RECORD.itemsize:
        raise InputError("splat", f"{len(data)} bytes", "expected 32 bytes for each Gaussian")
    records = np.frombuffer(data, _SPLAT_RECORD)
    rgba = records["rgba"] / np.float64(255)
    with np.errstate(divide="ignore"):
        log_scales = np.log(records["scales"].astype(np.float64))
        logits = np.log(rgba[:, 3]) - np.log1p(-rgba[:, 3])
    return SplatArrays(
        means=records["means"],
        # A scale of 0 stands for the smallest that the number type knows.
        log_scales=log_scales.clip(-87, None),
        quaternions=(records["quaternion"].astype(np.float32) - 128) / 128,
        opacity_logits=logits.clip(-_MAX_LOGIT, _MAX_LOGIT),
        sh=((rgba[:, :3] - 0.5) / SH_C0)[:, None],
    )


def _ply_columns(data: bytes) -> dict[str, np.ndarray]:
    """The properties of the element `vertex`, which has to come first, by name."""
    end = re.search(rb"end_header\r?\n", data[: 1 << 16])
    if not data.startswith(b"ply") or end is None:
        raise InputError("ply", "no ply header", "expected a ply of 3D Gaussians")
    lines = data[: end.start()].decode("ascii", "replace").split("\n")
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}
    byte_order, elements = None, []
    for words in (line.split() for line in lines):
        if words[:1] == ["format"]:
            byte_order = order.get(words[1])
        elif words[:1] == ["element"] and len(words) == 3 and words[2].isdecimal():
            elements.append((words[1], int(words[2]), []))
        elif words[:1] == ["property"] and elements:
            elements[-1][2].append(words[1:])
    if byte_order is None:
        raise InputError("ply", "is text", "expected a binary ply")
    if not elements or elements[0][0] not in ("vertex", "chunk"):
        raise InputError("ply", "does not begin with vertices", "expected a ply of 3D Gaussians")
    if elements[0][0] == "chunk":
        return {"packed_position": np.zeros(0)}
    _, count, properties = elements[0]
    unknown = [" ".join(p) for p in properties if len(p) != 2 or p[0] not in _PLY_TYPES]
    if unknown:
        raise InputError("ply", f"property {unknown[0]}", "expected plain numbers")
    dtype = np.dtype([(name, byte_order + _PLY_TYPES[kind]) for kind, name in properties])
    if len(data) - end.end() < count * dtype.itemsize:
        raise InputError("ply", "ends too early", "the file is incomplete")
    records = np.frombuffer(data, dtype, count, end.end())
    return {name: records[name] for name in records.dtype.names or ()}


def _write_spz(path: str | os.PathLike[str], splats: SplatArrays, argument: str) -> None:
    gsply = _gsply()
    unit = splats.quaternions / np.maximum(np.linalg.norm(splats.quaternions, axis=1, keepdims=True), 1e-12)
    data = gsply.GSData(
        means=splats.means,
        scales=splats.log_scales,
        quats=unit,
        opacities=splats.opacity_logits.clip(-_MAX_LOGIT, _MAX_LOGIT),
        sh0=splats.sh[:, 0],
        shN=splats.sh[:, 1:] if splats.sh.shape[1] > 1 else None,
    )
    # 24 bits a coordinate: as many of them behind the point as the extent of the scene leaves.
    farthest = float(np.abs(splats.means).max(initial=0.0))
    bits = int(np.clip(22 - np.ceil(np.log2(max(farthest, 2**-1))), 1, 16))
    with writing_file(path, argument=argument) as temporary:
        gsply.spz.write_spz(temporary, data, fractional_bits=bits)


def _read_spz(path: str | os.PathLike[str], argument: str) -> SplatArrays:
    gsply = _gsply()
    try:
        data = gsply.spz.read_spz(path)
    except Exception as error:
        # The reader raises whatever its parser stumbles over.
        raise InputError(argument, os.fspath(path), f"broken spz ({type(error).__name__})") from error
    sh = data.sh0[:, None]
    if data.shN is not None and data.shN.size:
        sh = np.concatenate([sh, data.shN.reshape(len(sh), -1, 3)], axis=1)
    return SplatArrays(
        means=data.means,
        log_scales=data.scales,
        quaternions=data.quats,
        opacity_logits=np.clip(data.opacities.reshape(-1), -_MAX_LOGIT, _MAX_LOGIT),
        sh=sh,
    )


def _gsply() -> ModuleType:
    try:
        import gsply
        import gsply.spz
    except ImportError:
        raise MissingDependency(
            "splats", ".spz", "needs the package gsply: pip install gsply, or choose .ply"
        ) from None
    return gsply


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * values.astype(np.float64))


def _number(name: str) -> int:
    return int(name.rsplit("_", 1)[1])


def _known_suffix(path: str | os.PathLike[str], argument: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SPLAT_SUFFIXES:
        raise InputError(argument, os.fspath(path), "expected a file of type " + ", ".join(SPLAT_SUFFIXES))
    return suffix


def _check_axes(axes: Axes) -> Axes:
    if axes not in ("world", "rdf"):
        raise InputError("axes", axes, "expected world or rdf")
    return axes
