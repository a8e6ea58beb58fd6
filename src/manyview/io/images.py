"""Images in and out: files to float tensors and back.

Colour stays sRGB as stored: values are divided by the largest integer of the file's bit depth, no gamma is
undone and an embedded colour profile is not applied. Colour is straight, not multiplied by alpha.
Shapes: C = 3 colours, H rows, W columns; a mask or alpha has one channel, 1 = object.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from manyview.errors import InputError, MissingDependency
from manyview.io.atomic import write_bytes_atomic
from manyview.io.decoding import decode_heif, decode_png16, decode_tiff, is_heif, is_png16, orient

IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
)
MAX_SIDE = 16384
MAX_PIXELS = 80_000_000


def read_image(
    path: str | os.PathLike[str],
    *,
    max_side: int = MAX_SIDE,
    max_pixels: int = MAX_PIXELS,
    argument: str = "INPUT",
) -> tuple[Tensor, Tensor | None]:
    """RGB float32 [3, H, W] in [0, 1], and alpha [1, H, W] or None where the file has none.

    The EXIF orientation is applied. 8 and 16 bits a channel; grey, palette, CMYK and transparency of every
    kind become RGB and alpha. Of several frames (animations, phone bursts) the first is read. HEIC needs
    the package pillow-heif. Raises `InputError` naming `argument` for a missing, empty, broken, foreign or
    too large file (size from the header, before decoding) and for number formats without a fixed range
    (float, 32 bit).
    """
    path = Path(path)
    shown = str(path)
    if path.is_dir():
        raise InputError(argument, shown, "is a folder, expected an image file")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(argument, shown, "does not exist, expected an image file") from None
    except OSError as error:
        raise InputError(argument, shown, f"cannot be read: {error.strerror}") from error
    if not data:
        raise InputError(argument, shown, "is empty, expected an image")
    try:
        pixels = _decode(data, shown, max_side, max_pixels, argument)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(argument, shown, f"not an image; expected {', '.join(IMAGE_SUFFIXES)}") from None
    except Exception as error:
        # The decoders of a dozen formats raise whatever they stumble over; all of it means a broken file.
        raise InputError(argument, shown, f"broken image ({type(error).__name__}: {error})") from error
    limit = np.iinfo(pixels.dtype).max
    tensor = torch.from_numpy(pixels.astype(np.float32) / np.float32(limit)).permute(2, 0, 1)
    color = tensor[:3].contiguous()
    return color, (tensor[3:].contiguous() if len(tensor) == 4 else None)


def list_images(folder: str | os.PathLike[str], *, argument: str = "INPUT") -> list[Path]:
    """The images directly in a folder in natural order (view2 before view10), hidden files left out.

    Raises `InputError` where there is no such folder or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(argument, str(folder), "expected an existing folder")
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        raise InputError(argument, str(folder), f"holds no image; expected {', '.join(IMAGE_SUFFIXES)}")
    return sorted(found, key=natural_key)


def read_folder(
    folder: str | os.PathLike[str], *, argument: str = "INPUT"
) -> list[tuple[Path, Tensor, Tensor | None]]:
    """(path, colour, alpha) of every image of `list_images`, as `read_image` gives them."""
    return [(path, *read_image(path, argument=argument)) for path in list_images(folder, argument=argument)]


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """A sorting key that compares runs of digits as numbers and letters without case."""
    parts = re.split(r"(\d+)", path.name.casefold())
    numbered = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
    return numbered, path.name


def write_png(
    path: str | os.PathLike[str], image: Tensor, alpha: Tensor | None = None, *, argument: str = "--out"
) -> None:
    """Write [3, H, W] or, as grey, [1, H, W] float in [0, 1] as an 8-bit PNG, RGBA where `alpha` [1, H, W]
    is given.

    Values are rounded to the nearest of 256 steps; those outside [0, 1] are clamped. Atomic. Raises
    `InputError` for other shapes and NaN.
    """
    stack = image if alpha is None else torch.cat((image, alpha.to(image)))
    if stack.ndim != 3 or stack.shape[0] not in (1, 3, 4):
        raise InputError("image", tuple(stack.shape), "expected [3, H, W] or [1, H, W], alpha [1, H, W]")
    array = to_uint8(stack).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(buffer, "PNG")
    write_bytes_atomic(path, buffer.getvalue(), argument=argument)


def write_png16(path: str | os.PathLike[str], values: Tensor, *, argument: str = "--out") -> None:
    """Write [1, H, W] float in [0, 1] as a grey PNG of 16 bits; otherwise as `write_png`."""
    if values.ndim != 3 or values.shape[0] != 1 or bool(torch.isnan(values).any()):
        raise InputError("values", tuple(values.shape), "expected [1, H, W] without NaN")
    # float64: a float32 product has too few bits to round to the nearest of 65536 steps.
    steps = (values[0].detach().cpu().double().clamp(0, 1) * 65535).round().numpy().astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(steps).save(buffer, "PNG")
    write_bytes_atomic(path, buffer.getvalue(), argument=argument)


def to_uint8(values: Tensor) -> Tensor:
    """Float in [0, 1] to the nearest of 0..255, on the CPU; clamped. Raises `InputError` for NaN."""
    values = values.detach().float().cpu()
    if bool(torch.isnan(values).any()):
        raise InputError("image", "holds NaN", "expected finite values in [0, 1]")
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def _decode(
    data: bytes, shown: str, max_side: int, max_pixels: int, argument: str
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """[H, W, 3 or 4] integers of full range, upright."""
    picture = _open(data, shown, argument)
    width, height = picture.size
    if max(width, height) > max_side or width * height > max_pixels:
        raise InputError(
            argument,
            shown,
            f"{width} x {height} pixels; expected at most {max_side} a side, {max_pixels} in all",
        )
    orientation = picture.getexif().get(0x0112, 1)
    if is_png16(data):
        return orient(decode_png16(data, transparent="transparency" in picture.info), orientation)
    if picture.format == "TIFF":
        special = decode_tiff(data, shown, argument)
        if special is not None:
            return orient(special, orientation)
    if picture.mode in ("I", "F"):
        raise InputError(argument, shown, f"format {picture.mode} has no fixed range; expected 8 or 16 bit")
    picture.load()
    # Asked again, for Pillow turns a TIFF upright while it loads and then drops the tag.
    orientation = picture.getexif().get(0x0112, 1)
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.uint16)
        return orient(np.repeat(grey[..., None], 3, axis=2), orientation)
    has_alpha = "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    return orient(np.asarray(picture.convert("RGBA" if has_alpha else "RGB")), orientation)


def _open(data: bytes, shown: str, argument: str) -> Image.Image:
    if is_heif(data):
        try:
            return decode_heif(data)
        except ImportError:
            accepted = "HEIC needs a package: pip install pillow-heif (or save the photo as png or jpg)"
            raise MissingDependency(argument, shown, accepted) from None
    try:
        # Pillow warns at its own limit before ours can be checked.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if data[:4] in (b"II*\0", b"MM\0*"):
            raise InputError(
                argument, shown, "a TIFF of float or rare format; expected 8 or 16 bit"
            ) from None
        raise
    except Image.DecompressionBombError:
        raise InputError(argument, shown, "far too many pixels for an image") from None
