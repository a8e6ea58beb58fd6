"""What SparseFusion learns from, how its losses are weighed, and runs that visibly learn, stop and go on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_sparsefusion import SIZE, scene_cameras, scene_images, tiny_eft, tiny_unet

from manyview.data.datasets import SceneArrays
from manyview.data.packed import PackedViews, pack_procedural
from manyview.data.views import ObjectViews
from manyview.errors import InputError, Stopped
from manyview.geometry.trajectories import orbit
from manyview.io.scene import write_scene
from manyview.methods.sparsefusion.eft import EpipolarTransformer
from manyview.methods.sparsefusion.examples import Examples, PosedObjects, open_posed
from manyview.methods.sparsefusion.features import Sampling
from manyview.methods.sparsefusion.noise_levels import add_noise, cosine_log_snr, p2_weight
from manyview.methods.sparsefusion.train import (
    SparseFusionNetwork,
    SparseFusionTask,
    color_loss,
    draw_times,
    lattice_cameras,
    lattice_pixels,
    valid_cells,
)
from manyview.methods.sparsefusion.unet import VldmUnet
from manyview.training.config import TrainConfig
from manyview.training.loop import fit
from manyview.types import Cameras, Views, join_cameras

CHANNELS = 3


class Pictures(ObjectViews):
    """Pictures in memory."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    @property
    def identity(self) -> str:
        return "toy"

    @property
    def num_views(self) -> int:
        return self.pixels.shape[1]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pixels[index]


class TinyTask(SparseFusionTask):
    """The same task with smaller networks."""

    def build_eft(self) -> EpipolarTransformer:
        return tiny_eft(dropout=0.0, num_layers=1, num_depths=4).float()

    def build_unet(self, condition_channels: int) -> VldmUnet:
        channels = self.latent_channels or 0
        return tiny_unet(
            latent_channels=channels,
            condition_channels=condition_channels + channels * self.blend,
            prediction=self.prediction,
            blended=self.blend,
        )


def pooled(views: ObjectViews) -> torch.Tensor:
    """Latents [N, V, 3, 4, 4] that the pictures decide: means over 4 x 4 pixels."""
    pixels = torch.from_numpy(np.stack([views[i] for i in range(len(views))])).float() / 255
    cells = F.avg_pool2d(pixels.permute(0, 1, 4, 2, 3).flatten(0, 1), 4).unflatten(0, pixels.shape[:2])
    return (cells - 0.8) / 0.25


def toy_set(objects: int = 2, views: int = 5, seed: int = 0, valid: bool = False) -> PosedObjects:
    """Noise seen by cameras of its own for every object."""
    pictures = [(scene_images(views, seed + i) * 255).byte().permute(0, 2, 3, 1) for i in range(objects)]
    arrays = Pictures(torch.stack(pictures).numpy())
    shown = torch.ones(objects, views, SIZE, SIZE, dtype=torch.bool)
    shown[..., : SIZE // 2] = False
    return PosedObjects(
        views=arrays,
        cameras=tuple(scene_cameras(views, seed + i) for i in range(objects)),
        latents=pooled(arrays),
        valid=shown if valid else None,
    )


def with_repeated_camera(views: int) -> PosedObjects:
    """View 1 has the camera of view 0."""
    one = toy_set(1, views)
    order = [0, 0, *range(2, views)]
    return dataclasses.replace(one, cameras=(one.cameras[0][order],))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four procedural objects from six sides at 16 pixels."""
    folder = tmp_path_factory.mktemp("sparsefusion") / "packed"
    pack_procedural(folder, 0, 4, orbit(6, size=SIZE))
    return folder


@pytest.fixture(scope="module")
def objects(packed: Path) -> PosedObjects:
    one = open_posed(PackedViews(packed))
    return dataclasses.replace(one, latents=pooled(one.views))


def quick(**changes: Any) -> TrainConfig:
    options: dict[str, Any] = {
        "steps": 20,
        "batch_size": 4,
        "lr": 2e-2,
        "warmup_steps": 2,
        "ema_decay": 0.9,
        "log_every": 5,
        "dtype": "fp32",
        "device": "cpu",
        "num_threads": 1,
        "tensorboard": False,
    }
    return TrainConfig(**{**options, **changes})


def test_the_query_is_never_in_its_context() -> None:
    """Nor a view with the query's camera; every number of views and every data set has its turn."""
    sets = [toy_set(3, 5), with_repeated_camera(4)]
    examples = Examples(sets, (1, 3), seed=7)
    draws = [examples.draw(item) for item in range(400)]
    assert all(draw.query not in draw.context for draw in draws)
    assert all(len(set(draw.context)) == len(draw.context) for draw in draws)
    repeated = [{draw.query, *draw.context} for draw in draws if draw.source == 1 and draw.query in (0, 1)]
    pairs = [(draw.query, view) for draw in draws if draw.source == 1 for view in draw.context]
    assert repeated
    assert (0, 1) not in pairs
    assert (1, 0) not in pairs
    assert {(draw.source, draw.query) for draw in draws} == {(0, i) for i in range(5)} | {
        (1, i) for i in range(4)
    }
    # Views 0 and 1 of the last object have two others each, so three are never asked of it there.
    assert {len(draw.context) for draw in draws} == {1, 2, 3}
    # An epoch visits each of the 3 + 1 objects once.
    for start in range(0, 400, 4):
        seen = {(draw.source, draw.index) for draw in draws[start : start + 4]}
        assert seen == {(0, 0), (0, 1), (0, 2), (1, 0)}
    again = Examples(sets, (1, 3), seed=7)
    assert [again.draw(item) for item in (399, 3)] == [draws[399], draws[3]]
    assert [Examples(sets, (1, 3), seed=8).draw(item) for item in range(9)] != draws[:9]


def test_shares_choose_the_data_set() -> None:
    """Shares 3 : 1; of 400 draws 300 +- 8.7 fall on the first, so 260 to 340 is 4.6 deviations."""
    examples = Examples([toy_set(1), toy_set(2)], (1, 2), (3, 1))
    first = sum(examples.draw(item).source == 0 for item in range(400))
    assert 260 < first < 340


def test_a_batch_holds_what_was_drawn() -> None:
    one = toy_set(2, valid=True)
    examples = Examples([one], (1, 3))
    batch = examples.batch(torch.arange(8))
    assert one.latents is not None
    for row in range(8):
        draw = examples.draw(row)
        pixels = torch.from_numpy(one.views[draw.index]).permute(0, 3, 1, 2).float() / 255
        many = len(draw.context)
        assert torch.equal(batch["query"][row], pixels[draw.query])
        assert torch.equal(batch["context"][row, :many], pixels[list(draw.context)])
        assert not bool(batch["context"][row, many:].any())
        assert torch.equal(batch["latents"][row], one.latents[draw.index, draw.query])
        context, query, center = examples.cameras(draw)
        rig = one.cameras[draw.index]
        assert torch.equal(context.world_from_cam, rig.world_from_cam[list(draw.context)])
        assert torch.equal(query.K[0], rig.K[draw.query])
        assert center.shape == (3,)
    assert float(batch["valid"].mean()) == 0.5


@torch.no_grad()
@pytest.mark.parametrize("sampling", ["exact", "published"])
def test_lattice_rays_are_rays_of_the_full_image(sampling: Sampling) -> None:
    """The EFT's answers on a lattice are those at the same pixels of the 16 x 16 grid."""
    eft = tiny_eft(sampling=sampling)
    cameras = scene_cameras(4)
    ranges = eft.depth_range(cameras)[None].expand(2, -1)
    images = scene_images(4).unflatten(0, (2, 2))
    context = eft.encode(images, cameras, ranges)
    query = scene_cameras(2, seed=5)
    whole = eft(context, query, SIZE, SIZE).colors[:, 0]
    offsets = torch.tensor([[3, 0], [1, 2]])
    lattice = eft(context, lattice_cameras(query, offsets, 4, sampling), 4, 4).colors[:, 0]
    torch.testing.assert_close(lattice, lattice_pixels(whole, offsets, 4), atol=1e-9, rtol=0)
    assert float((lattice_pixels(whole, offsets.flip(0), 4) - lattice).abs().max()) > 1e-4


def test_color_loss_by_hand() -> None:
    """Errors 0.1 and 0 where valid: 0.1 (sqrt 2 - 1) / 2, and an error of 5 that is not valid counts 0."""
    target = torch.zeros(1, 3, 1, 4)
    colors = torch.tensor([0.1, 0.0, 5.0, 5.0]).expand(1, 3, 1, 4)
    valid = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
    expected = torch.tensor(0.1 * (2**0.5 - 1) / 4)
    torch.testing.assert_close(color_loss(colors, target, valid), expected)


def test_cells_need_more_than_six_tenths() -> None:
    """Of cells of ten pixels one has six valid ones, the other seven."""
    valid = torch.zeros(1, 1, 10, 20)
    valid[..., :6, :10] = 1
    valid[..., :7, 10:] = 1
    assert valid_cells(valid, 1, 2).flatten().tolist() == [0, 1]


def test_times_cover_the_range() -> None:
    """One time in each quarter, and together as good as uniform: mean 0.4995 of 4000, deviation 0.0012."""
    times = draw_times(0, torch.arange(1000), 4)
    quarter = (times / 0.999 * 4).floor()
    assert torch.equal(quarter, torch.arange(4.0).expand(1000, -1))
    assert abs(float(times.mean()) - 0.4995) < 0.005


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("rays", [0, 16])
def test_losses_as_written(rays: int, blend: bool) -> None:
    """The task's losses against a loop over items, levels and formulas; half of each picture is not valid."""
    sets = [toy_set(2, valid=True), toy_set(1, 4, seed=9)]
    task = TinyTask(
        sets, context_views=(1, 3), rays_at_once=rays, noise_levels=2, drop=0.5, color_weight=0.3, blend=blend
    )
    items = torch.arange(6)
    model = task.build()
    assert isinstance(model, SparseFusionNetwork)
    assert model.unet is not None
    batch = task.batch(items)
    loss, parts = task.loss(model, batch, items, 3)
    denoise, color = [], []
    dropped = set()
    for row, item in enumerate(items.tolist()):
        draw = task.examples.draw(item)
        cameras, query, center = task.examples.cameras(draw)
        images = batch["context"][row : row + 1, : len(cameras)]
        ranges = model.eft.depth_range(cameras, center)[None].float()
        context = model.eft.encode(images, cameras, ranges)
        if blend:
            latents = task.examples.sets[draw.source].latents
            assert latents is not None
            context = dataclasses.replace(context, latents=latents[draw.index, list(draw.context)][None])
        coarse = model.eft(context, query, 4, 4)
        given = task._denoise({name: value[row : row + 1] for name, value in batch.items()}, items[[row]], 3)
        mask = torch.ones(4, 4)
        if draw.source == 0:
            mask[:, :2] = 0
        for level in range(2):
            log_snr = cosine_log_snr(given["times"][level : level + 1])
            noise = given["noise"][level : level + 1]
            noisy = add_noise(batch["latents"][row : row + 1], noise, log_snr)
            dropped.add(bool(given["keep"][level]))
            features = coarse.condition[:, 0] * given["keep"][level]
            error = (model.unet(noisy, log_snr, features) - noise) * mask
            denoise.append(error.square().mean() * p2_weight(log_snr)[0])
        if rays == 0:
            colors, target = coarse.colors[0, 0], F.avg_pool2d(batch["query"][row], 4)
        else:
            place = task._offsets(3, items[[row]])[0].tolist()
            fine = model.eft(context, query, SIZE, SIZE).colors[0, 0]
            colors, target = (part[:, place[0] :: 4, place[1] :: 4] for part in (fine, batch["query"][row]))
            if draw.source == 0:
                mask = (torch.arange(SIZE)[place[1] :: 4] >= SIZE // 2).float().expand(4, 4)
        color.append((0.1 * ((1 + ((colors - target) * mask / 0.1) ** 2).sqrt() - 1)).mean())
    assert dropped == {True, False}
    torch.testing.assert_close(parts["denoise"], torch.stack(denoise).mean(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(parts["color"], torch.stack(color).mean(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loss, parts["denoise"] + 0.3 * parts["color"])


def test_items_do_not_depend_on_their_batch() -> None:
    task = TinyTask([toy_set(3)], context_views=(1, 3), rays_at_once=16, noise_levels=2)
    model = task.build()
    items = torch.arange(5, 10)
    together, _ = task.loss(model, task.batch(items), items, 1)
    alone = [task.loss(model, task.batch(item), item, 1)[0] for item in items.split(1)]
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("stage", ["joint", "eft", "vldm"])
def test_gradients_of_the_stages(stage: Any, tmp_path: Path) -> None:
    """Jointly the diffusion's error reaches the EFT, here its only loss; a frozen EFT has no gradient."""
    tiny_eft(dropout=0.1, normalization="batch").float().save_pretrained(tmp_path / "eft")
    task = TinyTask(
        [toy_set()],
        stage=stage,
        rays_at_once=16,
        color_weight=0.0,
        drop=0.0,
        context_views=(2, 2),
        initial=tmp_path if stage == "vldm" else None,
    )
    model = task.build().train()
    assert isinstance(model, SparseFusionNetwork)
    before = {name: value.clone() for name, value in model.eft.state_dict().items()}
    items = torch.arange(2)
    task.loss(model, task.batch(items), items, 0)[0].backward()
    touched = [name for name, weight in model.eft.named_parameters() if weight.grad is not None]
    assert (model.unet is None) == (stage == "eft")
    assert model.eft.training == (stage != "vldm")
    if stage == "vldm":
        # Neither gradients nor batch statistics move.
        assert not touched
        assert all(torch.equal(before[name], value) for name, value in model.eft.state_dict().items())
    else:
        assert "encoder.stem.weight" in touched
        assert float(model.eft.encoder.stem.weight.grad.abs().max()) > 0  # type: ignore[union-attr]


def test_it_learns_stops_resumes_and_exports(objects: PosedObjects, tmp_path: Path) -> None:
    """Twenty steps take the loss of five below 0.8 of the first five's; cut in two they end alike."""
    held_out = dataclasses.replace(objects)
    task = TinyTask([objects], context_views=(2, 3), rays_at_once=16, noise_levels=2, validation=held_out)
    report = fit(task, quick(validate_every=20), tmp_path / "whole", progress=False)
    losses = [row["loss"] for row in report.curve if "loss" in row]
    assert losses[-1] < 0.8 * losses[0], losses
    assert list(report.validation) == ["loss_val_denoise", "loss_val_color", "psnr_val"]
    assert report.final["color"] > 0

    with pytest.raises(Stopped):
        fit(task, quick(validate_every=20, stop_after_steps=8), tmp_path / "parts", progress=False)
    resumed = fit(task, quick(validate_every=20), tmp_path / "parts", resume=True, progress=False)
    assert [row["loss"] for row in resumed.curve if "loss" in row] == losses
    for part in ("eft", "unet"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (report.export / name).read_bytes() == (resumed.export / name).read_bytes()
    assert (report.export / "scheduler/scheduler_config.json").is_file()

    # What was exported is what a further run starts from.
    model = TinyTask([objects], initial=report.export, rays_at_once=16).build()
    assert isinstance(model, SparseFusionNetwork)
    loaded: Any = EpipolarTransformer.from_pretrained(str(report.export / "eft"))
    for name, value in model.eft.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name].float()), name
    denoiser: Any = VldmUnet.from_pretrained(str(report.export / "unet"))
    assert model.unet is not None
    assert torch.equal(denoiser.noise_level.frequencies, model.unet.noise_level.frequencies)


def test_staged_training(objects: PosedObjects, tmp_path: Path) -> None:
    """The EFT first, on colours alone; then the denoiser, which leaves the EFT's weights byte by byte."""
    plain = dataclasses.replace(objects, latents=None)
    first = TinyTask([plain], stage="eft", context_views=(2, 2), rays_at_once=16)
    report = fit(first, quick(), tmp_path / "eft", progress=False)
    losses = [row["loss"] for row in report.curve if "loss" in row]
    assert losses[-1] < 0.8 * losses[0], losses
    assert sorted(path.name for path in report.export.iterdir()) == ["eft"]
    second = TinyTask([objects], stage="vldm", context_views=(2, 2), noise_levels=2, initial=report.export)
    then = fit(second, quick(), tmp_path / "vldm", progress=False)
    falls = [row["loss"] for row in then.curve if "loss" in row]
    assert falls[-1] < 0.85 * falls[0], falls
    name = "eft/diffusion_pytorch_model.safetensors"
    assert (then.export / name).read_bytes() == (report.export / name).read_bytes()
    assert {"eft", "unet", "scheduler"} == {path.name for path in then.export.iterdir()}


def test_cameras_of_data_sets(packed: Path, tmp_path: Path) -> None:
    """The same rig from a packed data set and from scenes; without cameras there is nothing to learn."""
    rig = orbit(6, size=SIZE)
    one = open_posed(PackedViews(packed))
    assert len(one.cameras) == 1
    torch.testing.assert_close(one.rig(3).world_from_cam, rig.world_from_cam.double())
    torch.testing.assert_close(one.rig(3).K, rig.K.double())
    for name in ("a", "b"):
        write_scene(Views(images=scene_images(6).float(), cameras=rig), tmp_path / "scenes" / name)
    scenes = open_posed(SceneArrays(tmp_path / "scenes", size=8))
    assert len(scenes.cameras) == 2
    torch.testing.assert_close(scenes.rig(1).world_from_cam.float(), rig.world_from_cam.float())
    torch.testing.assert_close(scenes.rig(1).K.float(), rig.resized(8, 8).K.float())
    (packed / "packed.json").replace(tmp_path / "kept.json")
    try:
        (packed / "packed.json").write_text('{"source": "noise"}')
        with pytest.raises(InputError, match="no cameras"):
            open_posed(PackedViews(packed))
    finally:
        (tmp_path / "kept.json").replace(packed / "packed.json")


def test_joined_cameras_keep_their_lenses() -> None:
    bent, plain = scene_cameras(2), scene_cameras(1, distorted=False)
    both = join_cameras([bent, plain])
    assert both.distortion is not None
    assert torch.equal(both.distortion[:2], bent.distortion)  # type: ignore[arg-type]
    assert not bool(both.distortion[2].any())
    assert join_cameras([plain, plain]).distortion is None
    assert isinstance(both, Cameras)


def test_refusals(tmp_path: Path) -> None:
    one = toy_set()
    other_size = dataclasses.replace(one, views=Pictures(np.zeros((2, 5, 8, 8, 3), np.uint8)), latents=None)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("--context-views", {"context_views": (0, 2)}),
        ("--context-views", {"context_views": (1, 9)}),
        ("--data: 5 views", {"context_views": (5, 6)}),
        ("--rays-at-once: 15", {"rays_at_once": 15}),
        ("--rays-at-once: 9", {"rays_at_once": 9}),
        ("--noise-levels", {"noise_levels": 0}),
        ("--initial", {"stage": "vldm"}),
        ("--initial", {"stage": "vldm", "initial": tmp_path}),
        ("--stage", {"stage": "both"}),
        ("--shares", {"shares": (1, 2)}),
    ]
    for match, options in cases:
        with pytest.raises(InputError, match=match):
            TinyTask([one], **options)
    with pytest.raises(InputError, match="one size"):
        TinyTask([dataclasses.replace(one, latents=None), other_size], stage="eft")
    with pytest.raises(InputError, match="expected latents of one size"):
        TinyTask([one, dataclasses.replace(one, latents=None)])
    with pytest.raises(InputError, match="latents: not given"):
        TinyTask([dataclasses.replace(one, latents=None)])
    with pytest.raises(InputError, match="cameras: 1"):
        TinyTask([dataclasses.replace(one, cameras=(one.cameras[0][:4],))])
