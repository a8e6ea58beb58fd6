"""Scenes on disk: a folder with `transforms.json`, images and what else is known, as `Views`.

    scene/
      transforms.json              cameras (nerfstudio's layout, see io/transforms.py); absent where unknown
      images/000.png ...           RGBA, alpha = mask, or RGB where no mask is known
      depth/000.npy ...            float32 [H, W]: depth along z in thousandths of a world unit, 0 = unknown
      mesh.glb                     where known, glTF axes
      train_test_split_<n>.json    frame indices: train_ids = the n observed views, test_ids = the others

Depth is in thousandths because nerfstudio multiplies the depth files it reads by 0.001, .npy and 16-bit
.png alike; both kinds are read here. A folder of plain images (or one with `images/` but no cameras) is a
scene too, in natural order of the names. A data set is a folder of scenes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.errors import InputError
from manyview.io.atomic import writing_file, writing_folder
from manyview.io.frames import FrameTable
from manyview.io.framing import crop_square, pad_square, resize_area, size_within
from manyview.io.images import IMAGE_SUFFIXES, list_images, natural_key, read_image, write_png
from manyview.io.transforms import (
    Split,
    read_split,
    read_transforms,
    split_path,
    write_split,
    write_transforms,
)
from manyview.types import Cameras, Views

DEPTH_UNIT = 1e-3
_SHOWN_NAMES = 6


@dataclasses.dataclass(frozen=True)
class _Frame:
    image: Tensor
    mask: Tensor | None
    depth: Tensor | None


def read_scene(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    max_side: int | None = None,
    fit: Literal["pad", "crop"] = "pad",
    background: float = 1.0,
    split: int | None = None,
    argument: str = "INPUT",
) -> Views:
    """The views of a scene folder, a folder of plain images, or a single image file.

    `size`: pixels a side of square views; others are made square first by `fit` (centred; border of
    `background` or middle cut out), then averaged by area; cameras follow. Without it all images must have
    one size; with `max_side` larger ones are averaged down to that longer side in their own shape, one by
    one, so that many large images need little memory. Colour is straight, as `Views` wants it, and hidden
    pixels (mask 0) hold `background`. A `mask_path` wins over the alpha channel. `split`: n of
    train_test_split_<n>.json; its train frames are observed, its test frames not (their images may be
    absent, they are zeros then), frames in neither are left out. Without it all are observed. Raises
    `InputError`: no such folder, no images, missing files (in one line), images whose size is not the
    camera's, sizes that differ.
    """
    folder = Path(path)
    if folder.is_file() and folder.name != "transforms.json":
        files, cameras, masks, depths = [folder], None, (), ()
        folder = folder.parent
    else:
        folder = folder.parent if folder.name == "transforms.json" else folder
        files, cameras, masks, depths = _scene_files(folder, argument)
    chosen = None if split is None else _find_split(folder, split, len(files), argument)
    order = list(range(len(files))) if chosen is None else sorted({*chosen.train_ids, *chosen.test_ids})
    observed = [chosen is None or index in chosen.train_ids for index in order]
    _require_present(
        [files[i] for i, given in zip(order, observed, strict=True) if given], len(order), folder, argument
    )
    given_cameras = None if cameras is None else cameras[order]
    frames: list[_Frame | None] = []
    for place, index in enumerate(order):
        if not observed[place] and not files[index].is_file():
            frames.append(None)
            continue
        expected = None if given_cameras is None else tuple(given_cameras.sizes[place].tolist())
        mask = masks[index] if masks else None
        depth = depths[index] if depths else None
        frame = _read_frame(files[index], mask, depth, expected, argument)
        if size is not None:
            frame = _fit_frame(frame, size, fit, background)
        elif max_side is not None:
            frame = _shrink_frame(frame, max_side)
        frames.append(frame)
    if size is not None and given_cameras is not None:
        given_cameras = fit_cameras(given_cameras, size, fit)
    elif max_side is not None and given_cameras is not None:
        given_cameras = _shrink_cameras(given_cameras, max_side)
    names = tuple(files[index].stem for index in order)
    return _stack(frames, given_cameras, observed, names, background, folder, argument)


def has_image(views: Views) -> Tensor:
    """bool [V]: views whose image is known, not the zeros that `read_scene` gives for an absent file."""
    shown = views.images.flatten(1).any(dim=1)
    return shown if views.masks is None else shown | views.masks.flatten(1).any(dim=1)


def write_scene(
    views: Views, path: str | os.PathLike[str], *, force: bool = False, argument: str = "--out"
) -> None:
    """Write views as a new scene folder (all or nothing); see `fill_scene`."""
    with writing_folder(path, force, argument=argument) as folder:
        fill_scene(views, folder)


def fill_scene(views: Views, folder: Path) -> None:
    """Write the views' files into an existing folder: images, depth, cameras and the split of the observed
    ones.

    Frames are named after `views.names`, or 000, 001, ...; where names repeat, hold a `/`, or (without
    cameras) do not sort in the order of the views, the index is put before them. Images are rounded to 8
    bits.
    """
    if views.cameras is not None and any(tuple(size) != views.size for size in views.cameras.sizes.tolist()):
        sizes = views.cameras.sizes[0].tolist()
        raise InputError("views.cameras", f"sizes {sizes}", f"expected the images' {list(views.size)}")
    names = frame_names(views)
    files = tuple(f"images/{name}.png" for name in names)
    depth_files: tuple[str | None, ...] = ()
    for index, file in enumerate(files):
        write_png(folder / file, views.images[index], None if views.masks is None else views.masks[index])
    if views.depths is not None:
        depth_files = tuple(f"depth/{name}.npy" for name in names)
        for index, name in enumerate(names):
            thousandths = (views.depths[index, 0].detach().float().cpu() / DEPTH_UNIT).numpy()
            with writing_file(folder / "depth" / f"{name}.npy") as temporary:
                np.save(temporary, thousandths)
    if views.cameras is not None:
        table = FrameTable(files=files, cameras=views.cameras, depth_files=depth_files)
        write_transforms(folder / "transforms.json", table)
    train = views.observed.nonzero()[:, 0].tolist()
    test = (~views.observed).nonzero()[:, 0].tolist()
    write_split(split_path(folder, len(train)), train, test)


def frame_names(views: Views) -> tuple[str, ...]:
    """The file stems `fill_scene` gives the views."""
    count = len(views)
    names = views.names or tuple(f"{index:03d}" for index in range(count))
    files = [Path(f"{name}.png") for name in names]
    plain = all(name and "/" not in name and not name.startswith(".") for name in names)
    in_order = views.cameras is not None or sorted(files, key=natural_key) == files
    if plain and in_order and len({name.casefold() for name in names}) == count:
        return tuple(names)
    return tuple(f"{index:03d}_{name.replace('/', '_').lstrip('.')}" for index, name in enumerate(names))


def list_scenes(path: str | os.PathLike[str], *, argument: str = "--data") -> list[Path]:
    """The scene folders of a data set in natural order, or the folder itself where it is a scene.

    Raises `InputError` where there is no scene.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(argument, str(folder), "expected an existing folder of scenes")
    if (folder / "transforms.json").is_file():
        return [folder]
    scenes = [child for child in folder.iterdir() if not child.name.startswith(".") and _is_scene(child)]
    if not scenes:
        raise InputError(
            argument, str(folder), "holds no scene; expected folders with transforms.json or images/"
        )
    return sorted(scenes, key=natural_key)


def list_splits(folder: str | os.PathLike[str]) -> list[int]:
    """The n of every train_test_split_<n>.json in a folder, ascending."""
    stems = [
        path.stem.removeprefix("train_test_split_") for path in Path(folder).glob("train_test_split_*.json")
    ]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _is_scene(folder: Path) -> bool:
    return (folder / "transforms.json").is_file() or (folder / "images").is_dir()


def _scene_files(
    folder: Path, argument: str
) -> tuple[list[Path], Cameras | None, Sequence[Path | None], Sequence[Path | None]]:
    """Image paths, cameras, mask paths and depth paths of all frames."""
    if not folder.is_dir():
        raise InputError(argument, str(folder), "expected an existing scene folder or image")
    if not (folder / "transforms.json").is_file():
        inner = folder / "images"
        files = list_images(inner if inner.is_dir() else folder, argument=argument)
        depths = [folder / "depth" / f"{file.stem}.npy" for file in files]
        return files, None, (), (depths if all(depth.is_file() for depth in depths) else ())
    table = read_transforms(folder)
    masks = [None if name is None else folder / name for name in table.mask_files]
    depths = [None if name is None else folder / name for name in table.depth_files]
    return [folder / name for name in table.files], table.cameras, masks, depths


def _find_split(folder: Path, num_train: int, num_frames: int, argument: str) -> Split:
    path = split_path(folder, num_train)
    if not path.is_file():
        found = ", ".join(str(number) for number in list_splits(folder)) or "none"
        raise InputError(argument, str(path), f"no such split; the scene has: {found}")
    return read_split(path, num_frames)


def _require_present(files: Sequence[Path], count: int, folder: Path, argument: str) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        names = [os.path.relpath(file, folder) for file in missing[:_SHOWN_NAMES]]
        more = "" if len(missing) <= _SHOWN_NAMES else f" and {len(missing) - _SHOWN_NAMES} more"
        raise InputError(
            argument, str(folder), f"{len(missing)} of {count} images are missing: {', '.join(names)}{more}"
        )


def _read_frame(
    file: Path,
    mask_file: Path | None,
    depth_file: Path | None,
    expected: tuple[int, ...] | None,
    argument: str,
) -> _Frame:
    image, mask = read_image(file, argument=argument)
    height, width = image.shape[-2:]
    if expected is not None and (height, width) != expected:
        raise InputError(
            argument,
            str(file),
            f"{width} x {height} pixels, but its camera has {expected[1]} x {expected[0]}",
        )
    if mask_file is not None:
        mask = read_image(mask_file, argument=argument)[0].mean(dim=0, keepdim=True)
        if mask.shape[-2:] != image.shape[-2:]:
            raise InputError(argument, str(mask_file), f"expected {width} x {height} pixels as its image")
    depth = None if depth_file is None else _read_depth(depth_file, argument)
    if depth is not None and depth.shape[-2:] != image.shape[-2:]:
        raise InputError(argument, str(depth_file), f"expected {width} x {height} pixels as its image")
    return _Frame(image, mask, depth)


def _read_depth(path: Path, argument: str) -> Tensor:
    """[1, H, W] float32 in world units, 0 = unknown, from thousandths in .npy or a 16-bit grey .png."""
    if path.suffix in IMAGE_SUFFIXES:
        return read_image(path, argument=argument)[0][:1] * (65535 * DEPTH_UNIT)
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise InputError(argument, str(path), "expected depth as .npy or 16-bit .png") from None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not np.isfinite(values).all():
        raise InputError(argument, str(path), "expected finite depth of shape [H, W]")
    return torch.from_numpy(values.astype(np.float32))[None] * DEPTH_UNIT


def _fit_frame(frame: _Frame, size: int, fit: Literal["pad", "crop"], background: float) -> _Frame:
    image, mask, depth = frame.image, frame.mask, frame.depth
    square = _square(image, mask, fit, background)
    image, mask = resize_area(square[0], size, size, square[1])
    if depth is not None:
        # Nearest: averaging across an edge would invent a surface between front and back.
        depth = F.interpolate(_square(depth, None, fit, 0.0)[0][None], (size, size), mode="nearest-exact")[0]
    return _Frame(image, mask, depth)


def _shrink_frame(frame: _Frame, max_side: int) -> _Frame:
    height, width = frame.image.shape[-2:]
    smaller = size_within(height, width, max_side)
    if smaller == (height, width):
        return frame
    image, mask = resize_area(frame.image, *smaller, frame.mask)
    depth = frame.depth
    if depth is not None:
        depth = F.interpolate(depth[None], smaller, mode="nearest-exact")[0]
    return _Frame(image, mask, depth)


def _shrink_cameras(cameras: Cameras, max_side: int) -> Cameras:
    smaller = [size_within(height, width, max_side) for height, width in cameras.sizes.tolist()]
    parts = [cameras[index].resized(*size) for index, size in enumerate(smaller)]
    return dataclasses.replace(
        cameras, K=torch.cat([part.K for part in parts]), sizes=torch.cat([part.sizes for part in parts])
    )


def _square(
    image: Tensor, mask: Tensor | None, fit: Literal["pad", "crop"], background: float
) -> tuple[Tensor, Tensor | None]:
    return crop_square(image, mask) if fit == "crop" else pad_square(image, mask, background)


def fit_cameras(cameras: Cameras, size: int, fit: Literal["pad", "crop"]) -> Cameras:
    """The cameras of images made square as `pad_square` and `crop_square` do, then resized to `size` pixels a
    side."""
    heights, widths = cameras.sizes.unbind(dim=1)
    side = torch.minimum(heights, widths) if fit == "crop" else torch.maximum(heights, widths)
    # Rounded as those functions round: the odd pixel lies right or below in both.
    if fit == "crop":
        shift_x, shift_y = -((widths - side) // 2), -((heights - side) // 2)
    else:
        shift_x, shift_y = (side - widths) // 2, (side - heights) // 2
    K = cameras.K.clone()
    K[:, 0, 2] += shift_x
    K[:, 1, 2] += shift_y
    squared = dataclasses.replace(cameras, K=K, sizes=torch.stack((side, side), dim=1))
    return squared.resized(size, size)


def _stack(
    frames: Sequence[_Frame | None],
    cameras: Cameras | None,
    observed: Sequence[bool],
    names: tuple[str, ...],
    background: float,
    folder: Path,
    argument: str,
) -> Views:
    known = [frame for frame in frames if frame is not None]
    if not known:
        raise InputError(argument, str(folder), "none of its images is there")
    shape = known[0].image.shape
    for frame, name in zip(frames, names, strict=True):
        if frame is not None and frame.image.shape != shape:
            sizes = f"{shape[2]} x {shape[1]}, but {name} is {frame.image.shape[2]} x {frame.image.shape[1]}"
            raise InputError(
                argument, str(folder), f"the images differ in size ({sizes}); give one size for all"
            )
    empty = torch.zeros(3, *shape[1:])
    blank = torch.zeros(1, *shape[1:])
    has_masks = any(frame.mask is not None for frame in known)
    has_depths = any(frame.depth is not None for frame in known)
    images, masks, depths = [], [], []
    for frame in frames:
        if frame is None:
            images.append(empty)
            masks.append(blank)
            depths.append(blank)
            continue
        mask = torch.ones_like(blank) if frame.mask is None else frame.mask
        images.append(torch.where(mask > 0, frame.image, background))
        masks.append(mask)
        depths.append(blank if frame.depth is None else frame.depth)
    return Views(
        images=torch.stack(images),
        masks=torch.stack(masks) if has_masks else None,
        cameras=cameras,
        observed=torch.tensor(observed, dtype=torch.bool),
        depths=torch.stack(depths) if has_depths else None,
        names=names,
    )
