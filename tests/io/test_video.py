"""Videos written and read back: H.264 loses a little, so colours are compared with a tolerance."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from manyview.errors import InputError
from manyview.io.video import read_frames, write_mp4


def smooth_frames(count: int, height: int, width: int) -> torch.Tensor:
    """Frame n is one colour with a slow gradient: red n / count, green left to right, blue top to bottom."""
    red = (torch.arange(count) / count).reshape(-1, 1, 1, 1).expand(count, 1, height, width)
    green = torch.linspace(0, 1, width).expand(count, 1, height, width)
    blue = torch.linspace(0, 1, height)[:, None].expand(count, 1, height, width)
    return torch.cat((red, green, blue), dim=1)


@pytest.mark.parametrize(("height", "width"), [(64, 48), (33, 47)])
def test_round_trip(tmp_path: Path, height: int, width: int) -> None:
    frames = smooth_frames(5, height, width)
    write_mp4(frames, tmp_path / "a.mp4", fps=12)
    back, fps = read_frames(tmp_path / "a.mp4")
    # An odd side has grown by one.
    assert back.shape == (5, 3, height + height % 2, width + width % 2)
    assert fps == pytest.approx(12)
    assert (back[..., :height, :width] - frames).abs().mean() < 0.02
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_colours_are_not_shifted(tmp_path: Path) -> None:
    # Pure colours move by over 0.05 if BT.601 and BT.709 are mixed up.
    colors = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]]).reshape(4, 3, 1, 1)
    write_mp4(colors.expand(4, 3, 32, 32), tmp_path / "a.mp4")
    back, _ = read_frames(tmp_path / "a.mp4")
    assert (back.mean(dim=(2, 3)) - colors.flatten(1)).abs().max() < 0.02


def test_one_frame(tmp_path: Path) -> None:
    write_mp4(torch.full((1, 3, 16, 16), 0.5), tmp_path / "a.mp4")
    assert read_frames(tmp_path / "a.mp4")[0].shape == (1, 3, 16, 16)


def test_bad_inputs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected \\[N, 3, H, W\\]"):
        write_mp4(torch.zeros(0, 3, 4, 4), tmp_path / "a.mp4")
    with pytest.raises(InputError, match="fps"):
        write_mp4(torch.zeros(1, 3, 4, 4), tmp_path / "a.mp4", fps=0)
    (tmp_path / "text.mp4").write_text("no video\n" * 50)
    with pytest.raises(InputError, match="not a video"):
        read_frames(tmp_path / "text.mp4")
    with pytest.raises(InputError, match="does not exist"):
        read_frames(tmp_path / "absent.mp4")


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    # ffmpeg inherits the limit on file size and fails half way.
    script = f"""
    import resource, torch
    from manyview.errors import InputError
    from manyview.io.video import write_mp4
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
    try:
        write_mp4(torch.rand(8, 3, 64, 64), {str(tmp_path / "a.mp4")!r})
    except InputError as error:
        print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"--out: {tmp_path}/a.mp4: the video could not be written")
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
