"""Rendering Gaussians: known answers, moves of the world, and the compiled renderer against the plain one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from splat_scenes import make_splats, render_with_gradients

from manyview.errors import InputError, MissingDependency
from manyview.geometry.normalization import Similarity
from manyview.geometry.rotations import matrix_from_axis_angle
from manyview.geometry.trajectories import orbit, sphere_cameras
from manyview.lift.splats.harmonics import basis
from manyview.lift.splats.model import Splats
from manyview.lift.splats.projection import DILATION
from manyview.lift.splats.render import render_splats
from manyview.types import Cameras

BACKENDS = ("torch", "cpu")


def front_camera(size: int = 33) -> Cameras:
    # At (2, 0, 0), looking along -x; the middle pixel's centre is the principal point, size / 2.
    return sphere_cameras([0.0], 0.0, 2.0, size=size)


def one_splat(x: float = 0.0, scale: float = 0.1, opacity: float = 0.6, color: float = 0.25) -> Splats:
    points = torch.tensor([[x, 0.0, 0.0]])
    return Splats.from_points(points, torch.full((1, 3), color), scale, opacity=opacity)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_round_gaussian(backend: str) -> None:
    # On the axis J W is diag(f / z), so the variance on the screen is (f scale / z)^2 + 0.3 both ways; k
    # pixels from the centre alpha = opacity exp(-k^2 / (2 variance)), and colour = alpha c + (1 - alpha) bg.
    camera = front_camera()
    focal, depth, scale, opacity, color = 33 * 35 / 32, 2.0, 0.1, 0.6, 0.25
    drawn = render_splats(one_splat(scale=scale), camera, background=1.0, backend=backend)
    variance = (focal * scale / depth) ** 2 + DILATION
    for k in range(4):
        alpha = opacity * math.exp(-k * k / (2 * variance))
        assert float(drawn.alphas[0, 0, 16, 16 + k]) == pytest.approx(alpha, abs=1e-5)
        assert float(drawn.alphas[0, 0, 16 + k, 16]) == pytest.approx(alpha, abs=1e-5)
        assert float(drawn.images[0, 1, 16, 16 + k]) == pytest.approx(1 - alpha * (1 - color), abs=1e-5)
        assert float(drawn.depths[0, 0, 16, 16 + k]) == pytest.approx(depth, abs=1e-5)
    # Beyond alpha = 1/255, at sqrt(2 variance log(255 opacity)) = 6.2 pixels, there is nothing at all.
    reach = math.sqrt(2 * variance * math.log(255 * opacity))
    assert float(drawn.alphas[0, 0, 16, 16 + math.floor(reach)]) > 0
    assert float(drawn.alphas[0, 0, 16, 16 + math.ceil(reach)]) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_front_to_back(backend: str) -> None:
    # Two on the axis, at depths 1.5 and 2.5, given back to front: weights a1 and a2 (1 - a1).
    far, near = one_splat(-0.5, opacity=0.5, color=0.9), one_splat(0.5, opacity=0.4, color=0.1)
    both = Splats(**{n: torch.cat((v, near.tensors()[n])) for n, v in far.tensors().items()})
    drawn = render_splats(both, front_camera(), background=0.5, backend=backend)
    middle = drawn.images[0, 0, 16, 16], drawn.alphas[0, 0, 16, 16], drawn.depths[0, 0, 16, 16]
    weights = 0.4, 0.5 * 0.6
    assert float(middle[1]) == pytest.approx(sum(weights), abs=1e-5)
    assert float(middle[0]) == pytest.approx(weights[0] * 0.1 + weights[1] * 0.9 + 0.3 * 0.5, abs=1e-5)
    assert float(middle[2]) == pytest.approx((weights[0] * 1.5 + weights[1] * 2.5) / sum(weights), abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_behind_the_camera_or_beside_the_picture(backend: str) -> None:
    for x in (2.5, 1.999):
        drawn = render_splats(one_splat(x), front_camera(), background=0.25, backend=backend, near=0.01)
        assert not bool(drawn.visible.any())
        assert float(drawn.alphas.abs().max()) == 0
        assert torch.equal(drawn.images, torch.full_like(drawn.images, 0.25))
    empty = render_splats(one_splat()[:0], front_camera(), backend=backend, near=0.1)
    assert float(empty.alphas.abs().max()) == 0


def test_harmonics_are_orthonormal() -> None:
    # Over the sphere the mean of Y_i Y_j is delta_ij / (4 pi). A Fibonacci grid integrates to about 1e-4.
    count = 20_000
    height = 1 - 2 * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    angle = torch.arange(count, dtype=torch.float64) * math.pi * (3 - 5**0.5)
    ring = (1 - height * height).sqrt()
    values = basis(torch.stack((ring * angle.cos(), ring * angle.sin(), height), dim=-1), 16)
    gram = 4 * math.pi * values.mT @ values / count
    assert torch.allclose(gram, torch.eye(16, dtype=torch.float64), atol=2e-3)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_compiled_equals_plain(degree: int) -> None:
    splats, cameras = make_splats(150, degree), orbit(2, size=(33, 50))
    plain, plain_gradients = render_with_gradients(splats, cameras, "torch")
    fast, fast_gradients = render_with_gradients(splats, cameras, "cpu")
    assert 0.2 < float(plain.alphas.detach().mean()) < 0.9
    assert torch.equal(plain.visible, fast.visible)
    for name in ("images", "alphas", "depths"):
        assert torch.allclose(getattr(plain, name), getattr(fast, name), atol=1e-4, rtol=0), name
    assert plain_gradients.keys() == fast_gradients.keys() >= {"world_from_cam", "screen_offsets", "sh"}
    for name, expected in plain_gradients.items():
        error = torch.linalg.vector_norm(fast_gradients[name] - expected)
        assert float(error) < 1e-3 * float(torch.linalg.vector_norm(expected)), name


def test_edges_of_gaussians_are_the_same_pixels() -> None:
    # Thousands of cut-offs: were the exponents rounded differently, some pixel would lose 1/255.
    splats, cameras = make_splats(3000, 0, scale=0.01), orbit(1, size=48)
    with torch.no_grad():
        plain, fast = (render_splats(splats, cameras, backend=name).images for name in BACKENDS)
    assert float((plain - fast).abs().max()) < 1e-5


def test_gradients_of_the_plain_renderer_are_finite_differences() -> None:
    splats = make_splats(4, 1, scale=0.2).to(torch.float64)
    splats = replace(splats, opacity_logits=splats.opacity_logits.clamp(-1, 1))
    camera = orbit(1, size=12).to(torch.float64)
    generator = torch.Generator().manual_seed(0)
    factors = torch.rand(1, 3, 12, 12, generator=generator, dtype=torch.float64)

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        moved = Splats(**dict(zip(splats.tensors(), tensors, strict=True)))
        drawn = render_splats(moved, camera, backend="torch", near=0.1)
        return (drawn.images * factors).sum() + drawn.depths[..., 4:8, 4:8].sum()

    tensors = [value.clone().requires_grad_() for value in splats.tensors().values()]
    loss(*tensors).backward()
    for tensor in tensors:
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        # Small, so that no pixel crosses a cut-off on the way.
        step = 1e-7
        with torch.no_grad():
            ends = [
                loss(*(t + sign * step * direction if t is tensor else t for t in tensors))
                for sign in (1, -1)
            ]
        slope = float(ends[0] - ends[1]) / (2 * step)
        assert tensor.grad is not None
        assert float((tensor.grad * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_threads_change_nothing() -> None:
    splats, cameras = make_splats(700, 1), orbit(1, size=40)
    threads, answers = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            drawn, gradients = render_with_gradients(splats, cameras, "cpu")
            answers.append((drawn.images, *gradients.values()))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*answers, strict=True))


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_moving_the_world_moves_nothing_on_the_screen(scale: float) -> None:
    splats, cameras = make_splats(200, 2), orbit(2, size=32)
    rotation = matrix_from_axis_angle(torch.tensor([0.3, -0.8, 0.5]))
    move = Similarity(scale, rotation, torch.tensor([0.5, -1.0, 2.0]) * scale)
    before = render_splats(splats, cameras)
    after = render_splats(splats.moved(move), move.apply_to_cameras(cameras))
    # A pixel at a cut-off may fall on the other side, worth 1/255 at most.
    assert float((before.images - after.images).abs().mean()) < 1e-4
    assert torch.allclose(before.images, after.images, atol=8e-3)


def test_splats_survive_their_file(tmp_path) -> None:
    splats = make_splats(20, 3)
    splats.write_ply(tmp_path / "splats.ply")
    again = Splats.read(tmp_path / "splats.ply")
    assert all(torch.equal(again.tensors()[name], value) for name, value in splats.tensors().items())
    with pytest.raises(InputError, match=r"\.ply"):
        splats.write_ply(tmp_path / "splats.obj")


def test_bad_input_is_named() -> None:
    splats, cameras = make_splats(3, 0), orbit(2, size=16)
    with pytest.raises(InputError, match="backend"):
        render_splats(splats, cameras, backend="other")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="screen_offsets"):
        render_splats(splats, cameras, screen_offsets=torch.zeros(1, 3, 2))
    with pytest.raises(InputError, match="sizes"):
        render_splats(splats, replace(cameras, sizes=torch.tensor([[16, 16], [8, 8]])))
    with pytest.raises(InputError, match=r"splats\.sh"):
        replace(splats, sh=torch.zeros(3, 5, 3))
    try:
        import gsplat  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependency, match="gsplat"):
            render_splats(splats, cameras, backend="gsplat")
