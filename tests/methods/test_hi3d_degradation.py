"""The degradation of clips: each kernel by its known moments, each draw by who shares it, JPEG by its own."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.methods.hi3d.degradation import (
    DegradationOptions,
    MaskingOptions,
    RoundOptions,
    compact_options,
    compress_jpeg,
    degrade,
    draw_noise,
    enlarge,
    released_options,
)
from manyview.methods.hi3d.kernels import (
    FAMILIES,
    KernelOptions,
    apply_kernels,
    draw_kernel,
    gaussian_kernel,
    generalized_kernel,
    plateau_kernel,
    sinc_kernel,
)

SMALL = KernelOptions(sizes=(7,), sigma=(0.2, 2.0))


def covariance(kernel: torch.Tensor) -> torch.Tensor:
    """[2, 2] second moments in x (right) and y (down)."""
    line = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y], dim=-1).reshape(-1, 2)
    return (points.mT * kernel.reshape(-1)) @ points


def response(kernel: torch.Tensor, u: float, v: float = 0.0) -> float:
    """The kernel's frequency response at u, v radians a pixel; real, as kernels are symmetric."""
    line = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    return float((kernel * torch.cos(u * x + v * y)).sum())


def test_a_gaussian_has_its_covariance() -> None:
    # R diag(4, 2.25) R^T at 30 degrees: c^2 4 + s^2 2.25 = 3.5625, s^2 4 + c^2 2.25 = 2.6875,
    # c s (4 - 2.25) = 0.757772. A side of 21 reaches 5 deviations.
    kernel = gaussian_kernel(21, 2.0, 1.5, math.pi / 6)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    found = covariance(kernel)
    expected = torch.tensor([[3.5625, 0.757772], [0.757772, 2.6875]], dtype=torch.float64)
    assert_close(found, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("beta", [0.8, 1.0, 2.0, 4.0])
def test_a_generalised_gaussian_has_its_variance(beta: float) -> None:
    # The mean of r^2 under exp(-(r / s)^(2 beta) / 2) in the plane, with u = (r / s)^(2 beta) / 2:
    # s^2 2^(1 / beta) Gamma(2 / beta) / Gamma(1 / beta); half of it lies along each axis.
    # Above 1 it is nearly a disc, which only a larger one shows well on whole pixels.
    sigma = 4.0 if beta > 1 else 1.5
    variance = sigma**2 * 2 ** (1 / beta) * math.gamma(2 / beta) / math.gamma(1 / beta) / 2
    kernel = generalized_kernel(21, sigma, sigma, beta=beta)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    assert covariance(kernel)[0, 0].item() == pytest.approx(variance, rel=0.02)
    if beta == 1:
        assert_close(kernel, gaussian_kernel(21, 1.5, 1.5))


def test_a_plateau_halves_on_its_ellipse() -> None:
    kernel = plateau_kernel(21, 3.0, 6.0, beta=2.0)
    middle = kernel[10, 10]
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    assert_close(kernel[10, 13] / middle, torch.tensor(0.5, dtype=torch.float64))  # 3 to the right
    assert_close(kernel[16, 10] / middle, torch.tensor(0.5, dtype=torch.float64))  # 6 down
    # 1 / (1 + (1 / 9)^2) at one pixel of three.
    assert_close(kernel[10, 11] / middle, torch.tensor(81 / 82, dtype=torch.float64))


def test_a_sinc_passes_low_frequencies_and_stops_high_ones() -> None:
    kernel = sinc_kernel(61, math.pi / 2)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    for low in (0.3, 0.8, 1.2):
        assert response(kernel, low) == pytest.approx(1, abs=0.12)
        assert response(kernel, low / math.sqrt(2), low / math.sqrt(2)) == pytest.approx(1, abs=0.12)
    for high in (1.95, 2.5, 3.1):
        assert response(kernel, high) == pytest.approx(0, abs=0.12)
    # At the cutoff itself the ideal step is met half-way.
    assert response(kernel, math.pi / 2) == pytest.approx(0.5, abs=0.1)
    # What sinc filters are there for: values beside a step overshoot.
    assert float(kernel.min()) < 0


def test_bad_kernels_are_refused() -> None:
    for broken in (lambda: gaussian_kernel(4, 1, 1), lambda: sinc_kernel(7, 4.0)):
        with pytest.raises(InputError):
            broken()
    with pytest.raises(InputError, match="sizes"):
        KernelOptions(sizes=(8,))


def test_drawn_kernels_are_of_their_family() -> None:
    for index in range(len(FAMILIES)):
        chances = tuple(float(index == other) for other in range(len(FAMILIES)))
        options = KernelOptions(probabilities=chances, sizes=(21,), sigma=(1.0, 3.0), sinc=0)
        kernels = [draw_kernel(np.random.default_rng(number), options) for number in range(20)]
        spread = torch.stack([covariance(kernel) for kernel in kernels])
        round_ones = (spread[:, 0, 0] - spread[:, 1, 1]).abs() + spread[:, 0, 1].abs() < 1e-9
        assert bool(round_ones.all()) == (not FAMILIES[index].endswith("aniso"))
    always = KernelOptions(sinc=1.0, sizes=(21,))
    assert all(float(draw_kernel(np.random.default_rng(n), always).min()) < 0 for n in range(5))


def test_each_image_gets_its_own_kernel() -> None:
    spot = torch.zeros(2, 3, 15, 15)
    spot[:, :, 7, 7] = torch.tensor([1.0, 2.0, 3.0])
    kernels = [gaussian_kernel(7, 1, 2, 0.3), torch.ones(1, 1, dtype=torch.float64)]
    blurred = apply_kernels(spot, kernels)
    # Symmetric in the middle, so a single spot shows the kernel itself, weighted by its colour.
    assert_close(blurred[0, 1, 4:11, 4:11], 2 * kernels[0].float(), atol=1e-7, rtol=0)
    assert_close(blurred[1], spot[1])
    plain = torch.full((2, 3, 9, 9), 0.25)
    assert_close(apply_kernels(plain, kernels), plain)  # mirrored borders keep plain pictures


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    """A coloured disc on white, alike in 4 frames, and its alpha."""
    line = torch.arange(48) - 23.5
    radius = torch.hypot(line[:, None], line[None])
    inside = (radius < 16).float()[None]
    stripes = 0.5 + 0.3 * torch.sin(line / 3)
    color = torch.stack([stripes.expand(48, 48), stripes[:, None].expand(48, 48), torch.full((48, 48), 0.3)])
    frame = color * inside + 1 - inside
    return frame.expand(4, 3, 48, 48).clone(), inside.expand(4, 1, 48, 48).clone()


def tiny(**changes: object) -> DegradationOptions:
    options = compact_options()
    first, second = (replace(part, kernels=SMALL) for part in (options.first, options.second))
    return replace(options, first=first, second=second, **changes)


def test_a_clip_follows_from_seed_and_item(clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, alpha = clip
    one = degrade(frames, tiny(), seed=1, item=5, alpha=alpha)
    torch.manual_seed(9)
    np.random.seed(9)
    assert torch.equal(degrade(frames, tiny(), seed=1, item=5, alpha=alpha), one)
    assert not torch.equal(degrade(frames, tiny(), seed=1, item=6, alpha=alpha), one)
    assert not torch.equal(degrade(frames, tiny(), seed=2, item=5, alpha=alpha), one)
    assert one.shape == frames.shape
    assert 0 <= float(one.min()) <= float(one.max()) <= 1


def test_a_window_is_degraded_like_the_whole_clip(clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, _ = clip
    whole = degrade(frames, tiny(), seed=0, item=2)
    assert torch.equal(degrade(frames[2:], tiny(), seed=0, item=2, first_frame=2), whole[2:])


def test_the_first_frame_stays_and_transparency_is_white(clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, alpha = clip
    for item in range(4):
        worse = degrade(frames, tiny(), seed=0, item=item, alpha=alpha)
        assert torch.equal(worse[0], frames[0])
        assert not torch.equal(worse[1], frames[1])
        assert (worse[1:][alpha[1:].expand(-1, 3, -1, -1) == 0] == 1).all()
    assert not torch.equal(degrade(frames, tiny(clean_first=False), seed=0, item=0)[0], frames[0])


def alone(**changes: object) -> DegradationOptions:
    """Nothing happens in either round but what is asked for of the first; JPEG remains."""
    rest = {
        "blur": 0.0,
        "resize": (0, 0, 1),
        "gaussian": 1.0,
        "gaussian_sigma": (0.0, 0.0),
        "jpeg": (99, 99.5),
    }
    return DegradationOptions(
        first=RoundOptions(kernels=SMALL, **{**rest, **changes}),  # pyright: ignore[reportArgumentType]
        second=RoundOptions(kernels=SMALL, **rest),  # pyright: ignore[reportArgumentType]
        final_sinc=0.0,
        target=1,
        clean_first=False,
    )


def test_frames_share_all_but_kernels(clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, _ = clip
    # Sizes, filters, qualities and their order: equal frames stay equal, whatever is drawn.
    for item in range(6):
        options = alone(resize=(0.4, 0.5, 0.1), scale=(0.3, 1.5), jpeg=(30, 95))
        shared = degrade(frames, options, seed=0, item=item)
        assert torch.equal(shared, shared[:1].expand_as(shared))
        assert not torch.equal(shared[0], frames[0])
    # Kernels: every frame its own.
    blurred = degrade(frames, alone(blur=1.0), seed=0, item=0)
    assert all(not torch.equal(blurred[0], other) for other in blurred[1:])


@pytest.mark.parametrize("gaussian", [0.0, 1.0])
def test_noise_has_one_strength_and_fresh_pixels(gaussian: float) -> None:
    grey_levels = torch.linspace(0.3, 0.7, 96).expand(3, 3, 96, 96).contiguous()
    found = {}
    for grey in (0.0, 1.0):
        options = RoundOptions(gaussian=gaussian, grey=grey, poisson_scale=(2.0, 2.0))
        frames = [np.random.default_rng(number) for number in range(3)]
        noise = draw_noise(grey_levels, options, np.random.default_rng(0), frames)
        spread = noise.std(dim=(1, 2, 3))
        assert_close(spread, spread[:1].expand(3), rtol=0.05, atol=0)
        assert not torch.equal(noise[0], noise[1])
        assert torch.equal(noise[:, 0], noise[:, 1]) == (grey == 1)
        found[grey] = spread[0].item()
    # Beside chance, channels that share their noise are as noisy as those that do not.
    assert found[0.0] == pytest.approx(found[1.0], rel=0.1)
    if gaussian == 0:
        # Levels from 77 to 178 of 255: at most 102 kinds, 96 columns give 96 of them, so 128 photons;
        # the variance is 2^2 x mean / 128 with a mean of 0.5.
        assert found[0.0] == pytest.approx(math.sqrt(4 * 0.5 / 128), rel=0.05)


def test_jpeg_is_pillows(clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, _ = clip
    buffer = io.BytesIO()
    picture = Image.fromarray((frames[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
    picture.save(buffer, "JPEG", quality=40)
    expected = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 255
    assert torch.equal(compress_jpeg(frames, 40)[3], expected)
    # Blocks of one grey are what JPEG stores exactly (a cosine of frequency 0; 128 is its zero).
    plain = torch.full((1, 3, 16, 16), 128 / 255)
    assert torch.equal(compress_jpeg(plain, 30), plain)
    errors = [(compress_jpeg(frames, quality) - frames).abs().mean() for quality in (20, 60, 98)]
    assert errors[0] > errors[1] > errors[2]


def test_blocks_are_missing_where_asked(clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, _ = clip
    plain = degrade(frames, tiny(masking=MaskingOptions()), seed=0, item=1)
    masked = degrade(frames, tiny(masking=MaskingOptions(probability=1.0, side=(0.2, 0.2))), seed=0, item=1)
    assert torch.equal(plain[0], masked[0])
    for before, after in zip(plain[1:], masked[1:], strict=True):
        changed = (before != after).any(dim=0)
        assert (after[:, changed] == 1).all()
        # A fifth of 48 px is a block of 10 x 10, of which the middle lies on the object; at most three.
        assert 20 < int(changed.sum()) <= 300


def test_what_does_not_fit_is_refused(clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, alpha = clip
    with pytest.raises(InputError, match="clip"):
        degrade(frames[..., :47, :], tiny(), seed=0, item=0)
    with pytest.raises(InputError, match="alpha"):
        degrade(frames, tiny(), seed=0, item=0, alpha=alpha[:1])
    with pytest.raises(InputError, match="images"):
        degrade(torch.ones(1, 3, 8, 8), released_options(), seed=0, item=0)


def test_enlarging_keeps_plain_pictures_and_the_range() -> None:
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1
    large = enlarge(step, 16, 16)
    assert large.shape == (1, 3, 16, 16)
    assert float(large.min()) == 0
    assert float(large.max()) == 1
    assert_close(enlarge(torch.full((1, 3, 8, 8), 0.4), 16, 16), torch.full((1, 3, 16, 16), 0.4))
