"""Videos: H.264 in an mp4 that every player opens, written and read through the ffmpeg of imageio-ffmpeg."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.errors import InputError, MissingDependency
from manyview.io.atomic import writing_file
from manyview.io.images import to_uint8


def write_mp4(
    frames: Tensor, path: str | os.PathLike[str], fps: float = 8.0, *, argument: str = "--out"
) -> None:
    """Write frames [N, 3, H, W] float in [0, 1] as H.264 (yuv420p, BT.709, visually lossless: crf 14).
    Atomic.

    The format needs even sizes: an odd one grows by one pixel, a copy of the last row or column. Colours are
    rounded to 8 bits and halved in resolution, so a video is for looking; the images are what to compute
    with. Raises `InputError` for other shapes, no frames, `fps` <= 0, and where the file cannot be written.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or len(frames) == 0:
        raise InputError("frames", tuple(frames.shape), "expected [N, 3, H, W] with at least one frame")
    if not fps > 0:
        raise InputError("fps", fps, "expected a positive number of frames a second")
    height, width = frames.shape[-2:]
    pixels = to_uint8(F.pad(frames.float(), (0, width % 2, 0, height % 2), mode="replicate"))
    height, width = pixels.shape[-2:]
    with writing_file(path, argument=argument) as temporary:
        command = [
            *(_ffmpeg(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
            *("-r", f"{fps:g}", "-i", "-", "-an", "-c:v", "libx264", "-crf", "14", "-pix_fmt", "yuv420p"),
            # Written out, since players guess BT.601 for small videos and BT.709 for large ones.
            *("-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709"),
            *("-color_primaries", "bt709", "-color_trc", "bt709", "-movflags", "+faststart"),
            *("-f", "mp4", "-y", str(temporary)),
        ]
        data = pixels.permute(0, 2, 3, 1).contiguous().numpy().tobytes()
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        if done.returncode != 0 or not temporary.is_file():
            raise InputError(argument, os.fspath(path), f"the video could not be written ({_reason(done)})")


def read_frames(path: str | os.PathLike[str], *, argument: str = "INPUT") -> tuple[Tensor, float]:
    """All frames [N, 3, H, W] float in [0, 1] and the frames a second. Raises `InputError` for no video."""
    if not Path(path).is_file():
        raise InputError(argument, os.fspath(path), "does not exist, expected a video")
    import imageio_ffmpeg

    _ffmpeg()
    try:
        reader = imageio_ffmpeg.read_frames(os.fspath(path), pix_fmt="rgb24")
        meta = reader.__next__()
        width, height = meta["size"]
        frames = [np.frombuffer(frame, dtype=np.uint8).reshape(height, width, 3) for frame in reader]
    except (OSError, StopIteration, RuntimeError, ValueError):
        frames, meta = [], {"fps": 0.0}
    if not frames:
        raise InputError(argument, os.fspath(path), "not a video that ffmpeg can read")
    stack = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    return stack.float() / 255, float(meta["fps"])


def _ffmpeg() -> str:
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise MissingDependency(
            "ffmpeg",
            "not found",
            "install the wheel of imageio-ffmpeg for this system, or set IMAGEIO_FFMPEG_EXE",
        ) from None


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    text = done.stderr.decode(errors="replace")
    if "No space left" in text or "File too large" in text:
        return "the disk is full"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else f"ffmpeg ended with code {done.returncode}"
