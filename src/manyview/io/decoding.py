"""Number formats that Pillow reads with fewer bits than the file has, or not at all.

16-bit colour PNG goes through ffmpeg (of imageio-ffmpeg), 16-bit TIFF through tifffile, HEIC through the
optional pillow-heif. Arrays are [H, W, 3 or 4] integers of full range, as stored (not yet turned upright).
"""

from __future__ import annotations

import io
import struct
import subprocess
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from manyview.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T", np.uint8, np.uint16)

_PNG_START = b"\x89PNG\r\n\x1a\n"
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def is_png16(data: bytes) -> bool:
    """Whether the file is a PNG with colour or alpha at 16 bits a channel (plain grey, Pillow reads in
    full)."""
    # Signature 8 bytes, chunk length 4, "IHDR" 4, width 4, height 4, then bit depth and colour type.
    return data[:8] == _PNG_START and data[24:25] == b"\x10" and data[25:26] in (b"\x02", b"\x04", b"\x06")


def decode_png16(data: bytes, *, transparent: bool) -> NDArray[np.uint16]:
    """All 16 bits of a colour PNG; `transparent` where a colour key (tRNS) makes a fourth channel."""
    import imageio_ffmpeg

    width, height = struct.unpack(">II", data[16:24])
    has_alpha = transparent or data[25] != 2
    layout = "rgba64le" if has_alpha else "rgb48le"
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-xerror", "-noautorotate"),
        *("-f", "png_pipe", "-i", "-", "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", layout, "-"),
    ]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    channels = 4 if has_alpha else 3
    if done.returncode != 0 or len(done.stdout) != 2 * width * height * channels:
        raise ValueError(_last_line(done.stderr) or "the file ends early")
    return np.frombuffer(done.stdout, dtype="<u2").reshape(height, width, channels).astype(np.uint16)


def decode_tiff(data: bytes, shown: str, argument: str) -> NDArray[np.uint16] | None:
    """A 16-bit TIFF in full; None where 8 bits or fewer make it Pillow's. Raises `InputError` for float."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        kind = page.dtype
        if kind is None or kind.itemsize == 1:
            return None
        if kind != np.dtype(np.uint16):
            raise InputError(argument, shown, f"format {kind} has no fixed range; expected 8 or 16 bit")
        pixels = np.asarray(page.asarray())
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4):
        raise InputError(argument, shown, f"TIFF of shape {pixels.shape}; expected grey, RGB or RGBA")
    if pixels.shape[2] <= 2:
        pixels = np.concatenate((np.repeat(pixels[..., :1], 3, axis=2), pixels[..., 1:]), axis=2)
    return pixels.astype(np.uint16)


def is_heif(data: bytes) -> bool:
    """Whether the file starts as HEIC or HEIF does (an ISO media file with one of its brands)."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def decode_heif(data: bytes) -> Image.Image:
    """The main picture of a HEIC file, upright. Raises `ImportError` without pillow-heif."""
    import pillow_heif

    return pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True).to_pillow()


def orient(pixels: NDArray[T], orientation: object) -> NDArray[T]:
    """[H, W, C] turned upright by an EXIF orientation, 1 to 8 (other values: as stored).

    The EXIF standard says where row 0 and column 0 of the stored image are to be seen; 6, for example, is
    row 0 at the right and column 0 at the top: turned 90 degrees clockwise.
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _last_line(text: bytes) -> str:
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
