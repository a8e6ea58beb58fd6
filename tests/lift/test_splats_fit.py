"""Fitting Gaussians: small scenes, input that is hard to use, growth and loss of Gaussians."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from splat_scenes import make_splats

from manyview.data.procedural import render_seed
from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.geometry.rays import camera_rays
from manyview.geometry.trajectories import orbit, sphere_cameras
from manyview.lift.splats.fit import SplatOptions, fit_splats
from manyview.lift.splats.losses import dissimilarity, target_moments
from manyview.lift.splats.model import Splats
from manyview.lift.splats.population import Population
from manyview.lift.splats.render import render_splats
from manyview.lift.splats.start import fit_frame, hull_cells
from manyview.metrics.image import psnr, ssim_gauss
from manyview.types import Cameras, Views

TINY = SplatOptions(num_steps=40, num_points=300, most_splats=600, densify_every=12, sh_degree=1)
RATES = dict.fromkeys(("means", "log_scales", "quaternions", "opacity_logits", "sh_base", "sh_rest"), 0.01)


def ball_views(cameras: Cameras, radius: float = 0.3) -> Views:
    """Views of a red ball at the origin, by the angle between ray and centre: masks and colour are exact."""
    height, width = cameras.sizes[0].tolist()
    origins, directions = camera_rays(cameras)
    along = -(origins * directions).sum(-1)
    gap = (origins + along[..., None] * directions).norm(dim=-1)
    masks = (gap < radius).float()[:, None]
    color = torch.tensor([0.8, 0.2, 0.1]).reshape(1, 3, 1, 1)
    return Views(images=color.expand(len(cameras), 3, height, width).clone(), masks=masks, cameras=cameras)


class Count:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.total, self.done, self.finished = 0, 0, False

    def start(self, total: int, what: str) -> None:
        self.total = total

    def advance(self, n: int = 1) -> None:
        self.done += n

    def finish(self) -> None:
        self.finished = True


def test_held_out_views_of_a_textured_object() -> None:
    views = render_seed(3, orbit(12, size=40))
    views = replace(views, observed=torch.arange(12) % 4 != 3)
    progress = Count()
    splats = fit_splats(views, replace(TINY, num_steps=160, num_points=800, most_splats=1600), progress)
    assert (progress.total, progress.done, progress.finished) == (160, 160, True)
    assert views.cameras is not None
    drawn = render_splats(splats, views.cameras).images.clamp(0, 1)
    held_out = ~views.observed
    score = float(psnr(drawn[held_out], views.over(1.0)[held_out]).mean())
    blank = float(psnr(torch.ones_like(drawn)[held_out], views.over(1.0)[held_out]).mean())
    assert score > blank + 4
    assert score > 18


def test_the_scale_and_place_of_the_world_do_not_matter() -> None:
    views = ball_views(orbit(6, size=24))
    assert views.cameras is not None
    move = Similarity(1000.0, torch.eye(3), torch.tensor([5000.0, -300.0, 20.0]))
    far = replace(views, cameras=move.apply_to_cameras(views.cameras))
    assert far.cameras is not None
    pictures = [
        render_splats(fit_splats(v, TINY), c).images for v, c in ((views, views.cameras), (far, far.cameras))
    ]
    # Rounding grows over the steps, so the two are alike, not equal.
    assert float((pictures[0] - pictures[1]).abs().mean()) < 0.02
    assert float(psnr(pictures[1].clamp(0, 1), views.over(1.0)).mean()) > 18


def test_same_seed_same_result() -> None:
    views = ball_views(orbit(4, size=20))
    one, two, other = (fit_splats(views, replace(TINY, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(value, two.tensors()[name]) for name, value in one.tensors().items())
    assert len(one) != len(other) or not torch.equal(one.means, other.means)


@pytest.mark.parametrize(
    "kind", ["one view", "same camera twice", "one mask empty", "contradiction", "no masks"]
)
def test_hard_input_gives_something_finite(kind: str) -> None:
    cameras = orbit(4, size=20)
    views = ball_views(cameras)
    assert views.masks is not None
    if kind == "one view":
        views = views[0]
    if kind == "same camera twice":
        views = views[[0, 0]]
    if kind == "one mask empty":
        views = replace(views, masks=views.masks * torch.tensor([1.0, 1, 1, 0]).reshape(4, 1, 1, 1))
    if kind == "contradiction":
        # A quarter of the views shows another thing in another place.
        views = replace(views, masks=torch.cat((views.masks[:3], views.masks[3:].roll(9, dims=-1))))
    if kind == "no masks":
        views = replace(views, images=views.over(1.0), masks=None)
    splats = fit_splats(views, TINY)
    assert all(bool(torch.isfinite(value).all()) for value in splats.tensors().values())
    assert views.cameras is not None
    drawn = render_splats(splats, views.cameras).images.clamp(0, 1)
    blank = psnr(torch.ones_like(drawn), views.over(1.0))[0]
    assert float(psnr(drawn, views.over(1.0))[0]) > float(blank)


def test_bad_input_is_one_line() -> None:
    views = ball_views(orbit(3, size=20))
    assert views.masks is not None
    bad = {
        "views.cameras": replace(views, cameras=None),
        "views.observed": replace(views, observed=torch.zeros(3, dtype=torch.bool)),
        "views.masks": replace(views, masks=torch.zeros_like(views.masks)),
        "sizes": replace(views, cameras=orbit(3, size=24)),
    }
    for name, given in bad.items():
        with pytest.raises(InputError, match=name) as caught:
            fit_splats(given, TINY)
        assert "\n" not in str(caught.value)
    for weights in (torch.ones(2), torch.tensor([1.0, -1.0, 1.0]), torch.zeros(3)):
        with pytest.raises(InputError, match="weights"):
            fit_splats(views, TINY, weights=weights)
    with pytest.raises(InputError, match="sh_degree"):
        SplatOptions(sh_degree=4)
    with pytest.raises(InputError, match="num_steps"):
        SplatOptions(num_steps=0)


def test_a_view_without_weight_is_not_looked_at() -> None:
    views = ball_views(orbit(4, size=20))
    wrong = replace(views, images=torch.cat((views.images[:3], 1 - views.images[3:])))
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0])
    one, two = fit_splats(wrong, TINY, weights=weights), fit_splats(views[:3], TINY)
    assert torch.equal(one.means, two.means)


def test_hull_of_a_ball() -> None:
    # From many directions the hull of a ball is nearly the ball: volume 4/3 pi r^3, a little more outside.
    radius = 0.3
    cameras = sphere_cameras([0, 60, 120, 180, 240, 300, 0, 0], [30, -30, 30, -30, 30, -30, 90, -90], size=64)
    views = ball_views(cameras, radius)
    cells, side = hull_cells(views, 0.7)
    volume = len(cells) * side**3
    assert 0.9 < volume / (4 / 3 * torch.pi * radius**3) < 1.3
    assert float(cells.norm(dim=-1).max()) < 1.4 * radius


def test_frame_of_a_single_camera_is_in_front_of_it() -> None:
    camera = sphere_cameras([40.0], 20.0, 3.0, size=16)
    moved, similarity = fit_frame(camera)
    # The camera looks at the world's origin, which stays the origin; its distance becomes 1.5.
    assert torch.allclose(similarity.apply_to_points(torch.zeros(3)), torch.zeros(3), atol=1e-5)
    assert float(moved.centers.norm()) == pytest.approx(1.5, abs=1e-4)


def test_dissimilarity_is_one_minus_ssim_over_two() -> None:
    generator = torch.Generator().manual_seed(0)
    image, target = torch.rand(2, 3, 30, 28, generator=generator)
    assert float(dissimilarity(image, image).abs().max()) < 1e-5
    # Whole windows only, as the exact metric takes them.
    inner = dissimilarity(image, target)[:, 5:-5, 5:-5].mean()
    assert float(1 - 2 * inner) == pytest.approx(float(ssim_gauss(image[None], target[None])[0]), abs=1e-4)


def test_adam_is_torchs() -> None:
    splats = make_splats(5, 1)
    ours = Population(splats, RATES)
    theirs = splats.means.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.01, eps=1e-15)
    for step in range(3):
        factor = torch.linspace(-1, 2, 15).reshape(5, 3) + step
        for loss in ((ours.splats(1).means * factor).square().sum(), (theirs * factor).square().sum()):
            loss.backward()
        ours.step(torch.zeros(5, 2), torch.ones(5, dtype=torch.bool))
        optimizer.step()
        optimizer.zero_grad()
    assert torch.allclose(ours.splats(1).means, theirs, atol=1e-6)


def test_growth_and_loss() -> None:
    splats = Splats.from_points(torch.rand(4, 3), torch.rand(4, 3), torch.tensor([0.001, 0.5, 0.001, 0.02]))
    population = Population(splats, RATES)
    # The first two have large gradients: the small one is cloned, the large one split in two.
    gradient = torch.tensor([[1.0, 0], [1, 0], [0, 0], [1e-5, 0]])
    population.step(gradient, torch.ones(4, dtype=torch.bool))
    grown = population.densify(0.1, 0.1, 10, torch.Generator().manual_seed(0))
    assert grown == (1, 1)
    assert len(population) == 4 + 2
    scales = population.splats(0).scales.detach()[:, 0].sort().values
    assert torch.allclose(scales, torch.tensor([0.001, 0.001, 0.001, 0.02, 0.5 / 1.6, 0.5 / 1.6]))
    # The halves are too large; the third was seen and changed nothing; the newborn have not been looked at.
    assert population.prune(0.005, 0.3, hidden=True) == 3
    assert len(population) == 3
    population.fade(0.01)
    assert float(population.splats(0).opacities.detach().max()) <= 0.01 + 1e-6
    # Nothing is left with opacities that low, so nothing goes.
    assert population.prune(0.02, 0.3) == 0


def test_no_more_than_the_most() -> None:
    population = Population(make_splats(20, 0), RATES)
    population.step(torch.ones(20, 2), torch.ones(20, dtype=torch.bool))
    population.densify(0.1, 0.01, 25, torch.Generator().manual_seed(0))
    assert len(population) == 25


def test_dissimilarity_has_the_gradient_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    image, target = torch.rand(2, 3, 7, 9, generator=generator, dtype=torch.float64)
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda values: dissimilarity(values, target), (image,))
    given = dissimilarity(image, target, target_moments(target))
    torch.testing.assert_close(given, dissimilarity(image, target), atol=0, rtol=0)
