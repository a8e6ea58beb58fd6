"""TUNet's bundled weights on the example's pictures: what they promise wherever they are installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import manyview as mv
from manyview.io.framing import resize_area
from manyview.io.scene import read_scene
from manyview.methods.tunet.base import BaseNoise
from manyview.methods.tunet.pipeline import TunetPipeline
from manyview.metrics.image import psnr
from manyview.nets.autoencoder import decode, encode
from manyview.sampling.inversion import Levels, even_timesteps, invert, sample
from manyview.types import Views

DEMO = Path(__file__).parents[2] / "examples" / "data" / "demo"


@pytest.fixture(scope="module")
def pipeline() -> TunetPipeline:
    return mv.load("tunet")


@pytest.fixture(scope="module")
def views() -> Views:
    scene = read_scene(DEMO)
    return replace(scene, observed=torch.arange(len(scene)) == 0)


def test_the_same_camera_gives_the_input_back(pipeline: TunetPipeline, views: Views) -> None:
    assert views.cameras is not None
    result = pipeline(views, targets=views.cameras[[0]], seed=0, mean_steps=10)
    given, made = result.views.images
    assert float(psnr(made[None], given[None])) > 30


@torch.inference_mode()
def test_inverting_and_sampling_come_back(pipeline: TunetPipeline, views: Views) -> None:
    given, _ = resize_area(views.over(1.0)[:2], pipeline.resolution, pipeline.resolution)
    latents = encode(pipeline.vae, given)
    model = BaseNoise(pipeline.base)
    levels = Levels.of(pipeline.scheduler, even_timesteps(600, 20))
    path = invert(latents, model, levels)
    back = sample(path.latent(levels.timesteps[-1]), model, levels)
    before, after = (decode(pipeline.vae, one) for one in (latents, back))
    assert float(psnr(after, before).min()) > 35


def test_a_turned_view_is_nearer_to_the_truth_than_the_input(pipeline: TunetPipeline, views: Views) -> None:
    assert views.cameras is not None
    made = pipeline(views, targets=views.cameras[1:], seed=0, mean_steps=10).views.images[1:]
    truth, _ = resize_area(views.over(1.0), pipeline.resolution, pipeline.resolution)
    copied = psnr(truth[:1].expand(len(made), -1, -1, -1), truth[1:]).mean()
    assert float(psnr(made, truth[1:]).mean()) > float(copied)
