"""Photos as input: wherever the mask is from, the object ends up where training objects stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from manyview.data.procedural import make_object
from manyview.data.rasterizer import rasterize
from manyview.errors import InputError
from manyview.geometry.trajectories import sphere_cameras
from manyview.io.photo import (
    ANY_FILL,
    ELEVATIONS_DEG,
    FILLS,
    frame_photo,
    read_photo,
    training_fill,
)

BLUE = torch.tensor([0.1, 0.2, 0.9])


def scene(background: float = 0.8) -> tuple[torch.Tensor, torch.Tensor]:
    """A blue box, 40 wide and 20 tall, off the middle of a 100 x 120 picture; and its mask."""
    alpha = torch.zeros(1, 100, 120)
    alpha[:, 10:30, 60:100] = 1
    return BLUE[:, None, None] * alpha + background * (1 - alpha), alpha


def box_of(alpha: torch.Tensor) -> tuple[int, int, int, int]:
    rows, columns = ((alpha[0] > 0.5).any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def save(path: Path, image: torch.Tensor, alpha: torch.Tensor | None = None) -> Path:
    stack = image if alpha is None else torch.cat([image, alpha])
    pixels = (stack * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)
    return path


def check_framed(image: torch.Tensor, alpha: torch.Tensor, fill: float) -> None:
    """A box twice as wide as tall in the middle of 128 pixels, blue on white."""
    top, bottom, left, right = box_of(alpha)
    assert abs(right - left - fill * 128) <= 1.5
    assert abs(bottom - top - fill * 64) <= 1.5
    assert abs((left + right) / 2 - 64) <= 1
    assert abs((top + bottom) / 2 - 64) <= 1
    assert_close(image[:, 64, 64], BLUE, atol=0.01, rtol=0)
    assert_close(image[:, 4, 4], torch.ones(3))


def test_every_kind_of_mask_frames_alike(tmp_path: Path) -> None:
    image, alpha = scene()
    white, _ = scene(1.0)
    rough = image + 0.3 * torch.rand(1, 100, 120, generator=torch.Generator().manual_seed(0)) * (1 - alpha)
    Image.fromarray((alpha[0] * 255).to(torch.uint8).numpy()).save(tmp_path / "mask.png")
    photos = [
        read_photo(save(tmp_path / "alpha.png", image, alpha), 128, elevation_deg=30),
        read_photo(save(tmp_path / "plain.png", image), 128, elevation_deg=30),
        read_photo(save(tmp_path / "opaque.png", image, torch.ones_like(alpha)), 128, elevation_deg=30),
        read_photo(save(tmp_path / "white.png", white), 128, masks="white", elevation_deg=30),
        read_photo(save(tmp_path / "a.png", rough), 128, mask=tmp_path / "mask.png", elevation_deg=30),
    ]
    sources = [photo.record["mask"] for photo in photos]
    assert sources == [
        "the picture's own",
        "plain background",
        "plain background",
        "white background",
        "the picture's own",
    ]
    for photo in photos:
        check_framed(photo.image, photo.alpha, 0.766)
        assert photo.record["cut_by_border"] is False
    with pytest.raises(InputError, match="no plain background"):
        read_photo(tmp_path / "a.png", 128)


def test_place_and_scale_in_the_photo_do_not_matter() -> None:
    image, alpha = scene()
    moved, other = (torch.roll(part, (50, -40), dims=(1, 2)) for part in (image, alpha))
    # Three times as large, every pixel as nine: the same areas fall on the frame's pixels.
    big, cover = (part.repeat_interleave(3, 1).repeat_interleave(3, 2) for part in (image, alpha))
    first = frame_photo(image, 32, alpha=alpha)
    for photo in (frame_photo(moved, 32, alpha=other), frame_photo(big, 32, alpha=cover)):
        assert_close(photo.image, first.image, atol=1e-4, rtol=0)
        assert_close(photo.alpha, first.alpha, atol=1e-4, rtol=0)


def test_the_share_of_the_frame() -> None:
    image, alpha = scene()
    for elevation, expected in [(None, ANY_FILL), (30.0, 0.766), (25.0, 0.762), (80.0, 0.766)]:
        assert training_fill(elevation, wide=True) == pytest.approx(expected)
        check_framed(*_parts(frame_photo(image, 128, alpha=alpha, elevation_deg=elevation)), expected)
    check_framed(*_parts(frame_photo(image, 128, alpha=alpha, fill=0.5)), 0.5)
    turned, other = image.mT, alpha.mT
    assert frame_photo(turned, 64, alpha=other, elevation_deg=0.0).record["fill"] == 0.805
    with pytest.raises(InputError, match="fill"):
        frame_photo(image, 128, alpha=alpha, fill=1.5)


def test_the_table_is_what_training_objects_cover() -> None:
    # Fewer objects than the table was made of, so to 4 %.
    shares: dict[str, list[float]] = {"wide": [], "tall": []}
    for seed in range(100_000, 100_040):
        mesh = make_object(seed)
        cameras = sphere_cameras([0.0, 157.5], 30.0, size=64)
        for solid in rasterize(mesh.vertices, mesh.faces, cameras).face >= 0:
            top, bottom, left, right = box_of(solid[None].float())
            longer = max(bottom - top, right - left) / 64
            shares["wide" if right - left > bottom - top else "tall"].append(longer)
    at = ELEVATIONS_DEG.index(30.0)
    for name, values in shares.items():
        assert float(np.median(values)) == pytest.approx(FILLS[name][at], abs=0.04)


def test_what_is_wrong_is_said() -> None:
    image, alpha = scene()
    cut, cover = image[:, :, 80:], alpha[:, :, 80:]  # the box runs into the left border
    assert frame_photo(cut, 32, alpha=cover).record["cut_by_border"] is True
    assert frame_photo(image, 512, alpha=alpha).record["enlarged"] is True
    assert frame_photo(image, 32, alpha=alpha).record["enlarged"] is False
    with pytest.raises(InputError, match="empty"):
        frame_photo(image, 32, alpha=torch.zeros_like(alpha))


def test_a_photo_at_two_sizes_is_one_photo() -> None:
    image, alpha = scene()
    photo = frame_photo(image, 128, alpha=alpha)
    small = photo.resized(64)
    assert_close(small.image, torch.nn.functional.avg_pool2d(photo.image, 2), atol=1e-5, rtol=0)
    assert small.record == photo.record


def _parts(photo: object) -> tuple[torch.Tensor, torch.Tensor]:
    return photo.image, photo.alpha  # pyright: ignore[reportAttributeAccessIssue]
