"""A picture as another lens at the same place would have taken it: turned, zoomed, without distortion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.distortion import apply_intrinsics, distort, unapply_intrinsics, undistort
from manyview.geometry.pixels import inside_image, pixel_centers, sample_images
from manyview.geometry.projection import camera_directions, from_homogeneous
from manyview.types import Cameras

_MOST_SAMPLES = 16
_SAME_PLACE = 1e-4


def reframe(
    image: Tensor, camera: Cameras, wanted: Cameras, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Colour [3, H, W] and coverage [1, H, W] of picture `image` [3, h, w] through another camera.

    Both cameras are single and stand in one place; lens distortion of either is honoured. Each new pixel is
    the mean of a grid of bilinear samples about as dense as the old pixels. `mask` [1, h, w] weighs the
    colours (straight colour in and out) and is what the coverage is of; without it the coverage says where
    the new picture lies inside the old one, and colours beyond repeat its border. Raises `InputError` for
    cameras in different places, and an image that is not of its camera's size.
    """
    height, width = image.shape[-2:]
    if tuple(camera.sizes[0].tolist()) != (height, width):
        raise InputError("camera.sizes", camera.sizes[0].tolist(), f"expected {[height, width]}")
    apart = float(torch.linalg.vector_norm(camera.centers - wanted.centers))
    reach = max(float(torch.linalg.vector_norm(camera.centers)), 1.0)
    if apart > _SAME_PLACE * reach:
        raise InputError("wanted", f"{apart:.3g} away", "expected a camera in the same place")
    rows, columns = (int(length) for length in wanted.sizes[0])
    times = _samples_a_pixel(camera, wanted)
    grid = pixel_centers(rows * times, columns * times, dtype=torch.float64)
    ahead = camera_directions(grid[None], wanted.to(torch.float64).resized(rows * times, columns * times))
    turn = camera.world_from_cam[0, :3, :3].double().mT @ wanted.world_from_cam[0, :3, :3].double()
    seen = ahead[0].reshape(-1, 3) @ turn.mT
    pixels, visible = _look_up(seen, camera.to(torch.float64))
    pixels = torch.where(visible[:, None], pixels, pixels.new_tensor([width / 2, height / 2]))
    pixels = pixels.reshape(1, rows * times, columns * times, 2).to(image.dtype)
    inside = visible.reshape(1, 1, rows * times, columns * times).to(image.dtype)
    colors = sample_images(image[None], pixels)
    cover = inside if mask is None else inside * sample_images(mask[None], pixels)
    mean = torch.nn.functional.avg_pool2d
    coverage = mean(cover, times)
    if mask is None:
        return mean(colors, times)[0].clamp(0, 1), coverage[0]
    shown = mean(colors * cover, times) / coverage.clamp_min(1e-6)
    shown = torch.where(coverage > 1e-6, shown, mean(colors, times))
    return shown[0].clamp(0, 1), coverage[0].clamp(0, 1)


def _look_up(directions: Tensor, camera: Cameras) -> tuple[Tensor, Tensor]:
    """Pixels [N, 2] of directions [N, 3] in the camera's frame, and whether its picture shows them."""
    ahead = directions[:, 2] > 1e-6
    ideal = from_homogeneous(torch.where(ahead[:, None], directions, directions.new_tensor([0.0, 0.0, 1.0])))
    visible = ahead
    if camera.distortion is not None:
        # Far outside, the polynomial folds over and would show the picture's inside again.
        limit = 1.1 * _widest(camera)
        visible = visible & (torch.linalg.vector_norm(ideal, dim=1) <= limit)
        ideal = distort(ideal[None], camera.distortion[:, None])[0]
    pixels = apply_intrinsics(ideal[None], camera.K)[0]
    return pixels, visible & inside_image(pixels[None], camera.sizes)[0]


def _widest(camera: Cameras) -> float:
    """The largest distance from the axis, on the plane z = 1, that the picture's border shows."""
    height, width = (float(length) for length in camera.sizes[0])
    corners = camera.K.new_tensor([[0, 0], [width, 0], [0, height], [width, height]])
    assert camera.distortion is not None, "asked for distorted cameras only"
    ideal = undistort(unapply_intrinsics(corners[None], camera.K), camera.distortion[:, None])
    return float(torch.linalg.vector_norm(ideal, dim=-1).max())


def _samples_a_pixel(camera: Cameras, wanted: Cameras) -> int:
    old = float(camera.K[0, 0, 0] + camera.K[0, 1, 1])
    new = float(wanted.K[0, 0, 0] + wanted.K[0, 1, 1])
    return max(1, min(_MOST_SAMPLES, math.ceil(old / new)))
