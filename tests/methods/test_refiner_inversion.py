"""A photo as a code: pictures of the generator's own are found again, stopped searches go on exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_refiner import SIZE, ToyGenerator, tiny_codes

from manyview.errors import InputError
from manyview.methods.refiner.inversion import InversionOptions, invert
from manyview.progress import Silent

SPREAD = torch.full((12,), 0.6)


class Stopping(Silent):
    """Stops the search after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, n: int = 1) -> None:
        self.left -= n
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def scene() -> ToyGenerator:
    return ToyGenerator(32)


def test_a_picture_of_a_known_scene_is_found_again(scene: ToyGenerator) -> None:
    code = scene.sample([77])
    with torch.no_grad():
        photo = scene(code)[0]
    options = InversionOptions(steps=60, starts=64, prior=1e-4, together=1e-3)
    found = invert(scene, photo, SPREAD, options)
    assert found.psnr_db > 26
    # Not only the picture: the turn too.
    assert float((scene.yaw_deg(found.codes) - scene.yaw_deg(code)).abs()) < 6
    assert 0.2 < found.distance < 3
    torch.testing.assert_close(scene(found.codes)[0].clamp(0, 1), found.image)


def test_the_prior_holds_codes_near_the_mean(scene: ToyGenerator) -> None:
    photo = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    free, held = (
        invert(scene, photo, SPREAD, InversionOptions(steps=15, starts=0, lr=0.2, prior=prior))
        for prior in (0.0, 5.0)
    )
    assert held.distance < 0.6 * free.distance


def test_a_perceptual_distance_is_asked(scene: ToyGenerator) -> None:
    with torch.no_grad():
        photo = scene(scene.sample([3]))[0]
    asked = []

    def perceptual(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        asked.append((a.shape, b.shape))
        return (a.mean(dim=(2, 3)) - b.mean(dim=(2, 3))).square().sum(dim=1)

    invert(scene, photo, SPREAD, InversionOptions(steps=3, starts=0), perceptual=perceptual)
    assert asked == [((1, 3, 32, 32), (1, 3, 32, 32))] * 3


def test_a_stopped_search_goes_on_exactly(scene: ToyGenerator, tmp_path: Path) -> None:
    with torch.no_grad():
        photo = scene(scene.sample([8]))[0]
    options = InversionOptions(steps=12, starts=8, keep_every=4)
    whole = invert(scene, photo, SPREAD, options)
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        invert(scene, photo, SPREAD, options, state=state, progress=Stopping(9))
    assert state.is_file()
    other = InversionOptions(steps=12, starts=8, keep_every=4, lr=0.01)
    with pytest.raises(InputError, match=r"--resume: .* was begun with another photo, seed or other options"):
        invert(scene, photo, SPREAD, other, state=state)
    with pytest.raises(InputError, match="--resume"):
        invert(scene, photo.flip(-1), SPREAD, options, state=state)
    went_on = invert(scene, photo, SPREAD, options, state=state)
    assert torch.equal(went_on.codes, whole.codes)
    assert not state.exists()


def test_photos_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="image"):
        invert(tiny_codes(), torch.rand(3, SIZE, SIZE // 2), torch.ones(8))
