"""The pipeline: identity, items apart from their batch, choices, words, and its way to disk and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_dimvis import SIZE
from tiny_tunet import tiny_network, tiny_tunet, write_tiny_tunet
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.io.result import Result
from manyview.methods import load
from manyview.methods.tunet.cameras import pair_cameras
from manyview.methods.tunet.networks import TunetNetworks
from manyview.methods.tunet.pipeline import TunetPipeline
from manyview.nets.autoencoder import decode, encode
from manyview.types import Views

ALL = ("A", "B", "B:gaussian", "A:latent_T")


def given(count: int = 1) -> Views:
    images = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    observed = torch.arange(count) == 0
    return Views(images=images, cameras=orbit(max(count, 3), 20.0, size=SIZE)[:count], observed=observed)


def targets() -> Any:
    return orbit(5, 20.0, size=SIZE)


def rows(*chosen: int) -> list[int]:
    return list(chosen)


@torch.no_grad()
def test_the_references_camera_gives_the_input_as_the_codec_has_it() -> None:
    # The network is exact there by construction; A finds the trajectory's own noise again once the inversion
    # is refined to its fixed point.
    pipe = tiny_tunet(mean_steps=4)
    pipe.base.conv_out.weight.mul_(0.2)  # random weights are rougher than learned ones
    made = pipe(given(), targets()[:2], candidates=("A",), refinements=20).views.images
    wanted = decode(pipe.vae, encode(pipe.vae, given().images))
    assert_close(made[1], wanted[0], rtol=0, atol=5e-3)
    assert float((made[2] - wanted[0]).abs().max()) > 0.02


def test_a_result_has_input_and_targets_with_their_cameras() -> None:
    made = tiny_tunet()(given(), targets())
    assert made.views.images.shape == (6, 3, SIZE, SIZE)
    assert_close(made.views.images[0], given().images[0])
    assert made.views.observed.tolist() == [True] + [False] * 5
    assert made.views.cameras is not None
    assert_close(made.views.cameras.world_from_cam[1:], targets().world_from_cam)
    options = made.manifest["options"]
    assert options["candidates"] == ["A:eps_t"]
    assert options["t_star"] == 600
    assert options["mean_steps"] == 2
    assert options["selection"] is None
    assert made.samples is None


def test_same_seed_same_views_and_items_apart_from_their_batch() -> None:
    pipe, told = tiny_tunet(), pair_cameras(given().cameras, targets())  # pyright: ignore[reportArgumentType]
    shared: dict[str, Any] = {"candidates": ("B:gaussian",), "seed": 3}
    whole = pipe.predict(given().images, told, items=range(5), **shared).images
    again = pipe.predict(given().images, told, items=range(5), batch_size=2, **shared).images
    assert_close(whole, again, rtol=0, atol=2e-4)
    part = pipe.predict(given().images, told.targets(torch.tensor([3, 1])), items=[3, 1], **shared).images
    assert_close(part, whole[[3, 1]], rtol=0, atol=2e-4)
    changed = pipe.predict(given().images, told, items=range(5), candidates=("B:gaussian",), seed=4).images
    assert float((changed - whole).abs().max()) > 0.01


def test_references_are_inverted_once_and_keep_apart() -> None:
    pipe, cameras = tiny_tunet(), targets()
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    asked: list[int] = []
    forward = pipe.base.forward

    def count(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        asked.append(len(sample))
        return forward(sample, *args, **kwargs)

    pipe.base.forward = count  # type: ignore[method-assign]
    of = torch.tensor([0, 1, 1, 0])
    told = pair_cameras(cameras[[0, 2]], cameras[[1, 3, 4, 2]], reference_of=of)
    both = pipe.predict(images, told, items=range(4)).images
    # Two levels up for two references; fusion A asks once, then two levels down for four targets.
    assert sum(asked) == 2 * 2 + 4 + 2 * 4
    alone = pipe.predict(images[1:], pair_cameras(cameras[2], cameras[[3, 4]]), items=[1, 2]).images
    assert_close(both[[1, 2]], alone, rtol=0, atol=2e-4)


@pytest.mark.parametrize("selection", ["agreement", "encoder"])
def test_one_of_several_candidates_is_chosen_and_all_are_kept(selection: Any) -> None:
    pipe, told = tiny_tunet(), pair_cameras(given().cameras, targets())  # pyright: ignore[reportArgumentType]
    drawn = pipe.predict(given().images, told, items=range(5), candidates=ALL, selection=selection)
    assert drawn.names == ("A:eps_t", "B:latent_T", "B:gaussian", "A:latent_T")
    assert drawn.candidates.shape == (4, 5, 3, SIZE, SIZE)
    assert_close(drawn.scores.amin(dim=0), drawn.scores[drawn.chosen, torch.arange(5)])
    for number, choice in enumerate(drawn.chosen.tolist()):
        assert_close(drawn.images[number], drawn.candidates[choice, number])
    for number, name in enumerate(drawn.names):
        alone = pipe.predict(given().images, told, items=range(5), candidates=(name,)).images
        assert_close(drawn.candidates[number], alone, rtol=0, atol=2e-4)
    made = pipe(given(), targets(), candidates=ALL, selection=selection)
    assert made.samples is not None
    assert made.samples.shape == (4, 6, 3, SIZE, SIZE)
    assert list(made.chosen) == made.manifest["options"]["chosen"]


def test_mean_only_is_the_decoded_estimate() -> None:
    pipe, told = tiny_tunet(), pair_cameras(given().cameras, targets())  # pyright: ignore[reportArgumentType]
    found = pipe.predict(given().images, told, items=range(5), candidates=("mean",)).images
    other = pipe.predict(given().images, told, items=range(5), candidates=("A",)).images
    assert found.shape == other.shape
    assert float((found - other).abs().max()) > 0.01


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_latent_t_goes_on_to_the_end_of_the_schedule(prediction: Any) -> None:
    pipe = tiny_tunet(prediction=prediction)
    assert pipe.plan(candidates=("B",)).levels.timesteps == (300, 600, 900, 999)
    assert pipe.plan(candidates=("B:eps_t",)).levels.timesteps == (300, 600)
    assert bool(torch.isfinite(pipe(given(), targets(), candidates=("B",)).views.images).all())


def test_classes_are_heard_where_a_network_knows_them() -> None:
    pipe = tiny_tunet()
    plain, first = pipe(given(), targets()), pipe(given(), targets(), class_id=1)
    assert float((plain.views.images - first.views.images).abs().max()) > 1e-3
    with pytest.raises(InputError, match="--class-id"):
        pipe(given(), targets(), class_id=2)


def test_words_change_views_and_are_refused_where_nothing_reads_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no text"):
        tiny_tunet()(given(), targets(), prompt="red")
    pipe = tiny_tunet(words=tmp_path / "sd", resolution=SIZE)
    plain, red = (pipe(given(), targets(), prompt=prompt).views.images for prompt in (None, "red"))
    strong = pipe(given(), targets(), prompt="red", guidance=5.0).views.images
    assert_close(plain[0], red[0])
    assert float((plain - red).abs().max()) > 1e-5
    assert float((strong - red).abs().max()) > 1e-5
    parts = {name: getattr(pipe, name) for name in ("vae", "base", "tunet", "scheduler")}
    with pytest.raises(InputError, match="text_encoder"):
        TunetPipeline(**parts)


@pytest.mark.parametrize("words", [False, True])
def test_goes_to_disk_and_comes_back(tmp_path: Path, words: bool) -> None:
    pipe = tiny_tunet(
        words=tmp_path / "sd" if words else None,
        candidates=("A", "B:gaussian"),
        selection="encoder",
        resolution=SIZE,
    )
    pipe.save_pretrained(tmp_path / "saved")
    again = load("tunet", tmp_path / "saved")
    assert isinstance(again, TunetNetworks)
    assert again.plan().record == pipe.plan().record
    assert_close(again(given(), targets()).views.images, pipe(given(), targets()).views.images)
    plain = TunetPipeline.from_pretrained(tmp_path / "saved")
    assert_close(plain(given(), targets()).views.images, pipe(given(), targets()).views.images)


def test_a_bundle_records_its_choices(tmp_path: Path) -> None:
    folder = write_tiny_tunet(tmp_path / "w", candidates=["B:gaussian"], t_star=500, mean_steps=5)
    pipe = load("tunet", folder)
    assert pipe.plan().record == {
        "t_star": 500,
        "mean_steps": 5,
        "refinements": 0,
        "candidates": ["B:gaussian"],
        "selection": None,
    }
    made = pipe(given(), targets())
    made.save(tmp_path / "out")
    assert (tmp_path / "out" / "video.mp4").is_file()
    assert len(Result.load(tmp_path / "out").views) == 6
    assert [one["name"].rsplit("/", 1)[-1] for one in made.manifest["weights"]] == sorted(
        ["vae", "base", "tunet", "scheduler", "image_encoder"]
    )


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"t_star": 1000}, "--t-star"),
        ({"mean_steps": 0}, "--mean-steps"),
        ({"refinements": -1}, "--refinements"),
        ({"candidates": ()}, "--candidates"),
        ({"candidates": ("A", "A:eps_t")}, "--candidates"),
        ({"candidates": ("A", "mean")}, "--candidates"),
        ({"candidates": ("Z",)}, "--candidates"),
        ({"candidates": ("A", "B"), "selection": "luck"}, "--selection"),
    ],
)
def test_refuses_before_any_network_runs(options: dict[str, Any], argument: str) -> None:
    pipe = tiny_tunet()
    pipe.vae.forward = pipe.tunet.forward = None  # type: ignore
    with pytest.raises(InputError, match=argument):
        pipe(given(), targets(), **options)


def test_refuses_views_that_cannot_be_placed() -> None:
    pipe, views = tiny_tunet(), given()
    with pytest.raises(InputError, match="camera"):
        pipe(Views(images=views.images), targets())
    with pytest.raises(InputError, match="no observed view"):
        pipe(Views(images=views.images, cameras=views.cameras, observed=torch.tensor([False])), targets())
    with pytest.raises(InputError, match="image encoder"):
        tiny_tunet(image_encoder=None).plan(candidates=("A", "B"), selection="encoder")


@torch.no_grad()
def test_runs_in_half_precision() -> None:
    pipe = tiny_tunet(network=tiny_network()).to(torch.bfloat16)
    assert bool(torch.isfinite(pipe(given(), targets()).views.images).all())
