"""What the refiner is shown: degraded and own clips, kept once, read alike by the task, cut alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch.testing import assert_close

from manyview.data.packed import PackedViews, pack_procedural
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.methods.hi3d.degradation import compact_options, degrade, enlarge
from manyview.methods.hi3d.depth import DepthOptions, depth_channels
from manyview.methods.hi3d.depth_net import DepthNet
from manyview.methods.hi3d.kernels import KernelOptions
from manyview.methods.hi3d.orbits import Orbits, StoredCoarse
from manyview.methods.hi3d.refine_data import (
    CoarseOptions,
    coarse_clip,
    crop_clips,
    encode_coarse,
    own_starts,
    to_images,
    write_own_clips,
)
from manyview.methods.hi3d.train import clips_of
from manyview.nets.autoencoder import build_autoencoder, encode

VIEWS, SIZE, CELLS, CHANNELS = 4, 64, 8, 2


def small_options(**changes: object) -> CoarseOptions:
    whole = compact_options()
    kernels = KernelOptions(sizes=(7,))
    first, second = (replace(part, kernels=kernels) for part in (whole.first, whole.second))
    return CoarseOptions(degradation=replace(whole, first=first, second=second), **changes)  # pyright: ignore


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PackedViews:
    folder = tmp_path_factory.mktemp("refine") / "set"
    pack_procedural(folder, 0, 3, orbit(VIEWS, size=SIZE))
    return PackedViews(folder)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return build_autoencoder("compact", latent_channels=CHANNELS).eval()


@pytest.fixture(scope="module")
def net() -> DepthNet:
    torch.manual_seed(1)
    return DepthNet(size=16, widths=(8, 16)).eval()


def half_size(inputs: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
    """Orbits that say where they are: frame t of object n is grey n / 10 + t / 100, the first the input."""
    frames = torch.arange(VIEWS) / 100 + objects[:, None] / 10
    made = frames[:, :, None, None, None].expand(-1, -1, *inputs.shape[1:]).clone()
    made[:, 0] = inputs
    return made


@pytest.fixture(scope="module")
def own(source: PackedViews, tmp_path_factory: pytest.TempPathFactory) -> PackedViews:
    folder = tmp_path_factory.mktemp("own") / "clips"
    write_own_clips(folder, source, SIZE // 2, half_size, seed=4, batch_size=2)
    return PackedViews(folder)


def test_own_clips_are_turned_back(source: PackedViews, own: PackedViews) -> None:
    assert (len(own), own.num_views) == (3, VIEWS)
    starts = own_starts(3, VIEWS, 4)
    for index in range(3):
        start = int(starts[index])
        # The input's view shows the input, at half the size; view v is frame v - start of the orbit.
        small = torch.nn.functional.avg_pool2d(to_images(source[index])[start], 2)
        assert_close(to_images(own[index])[start], small, atol=0.51 / 255, rtol=0)
        for view in set(range(VIEWS)) - {start}:
            grey = index / 10 + ((view - start) % VIEWS) / 100
            assert_close(to_images(own[index])[view].mean().item(), grey, atol=0.51 / 255, rtol=0)


def test_own_clips_go_on_and_are_checked(source: PackedViews, tmp_path: Path) -> None:
    asked: list[int] = []

    def counted(inputs: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
        asked.extend(objects.tolist())
        return half_size(inputs, objects)

    write_own_clips(tmp_path / "a", source, 32, counted, batch_size=2)
    (tmp_path / "a/views_00000002.npy").unlink()
    write_own_clips(tmp_path / "a", source, 32, counted, batch_size=2)
    assert asked == [0, 1, 2, 2]
    with pytest.raises(InputError, match="other options"):
        write_own_clips(tmp_path / "a", source, 32, counted, seed=9)
    with pytest.raises(InputError, match="predict"):
        write_own_clips(tmp_path / "b", source, 16, lambda inputs, _: inputs)


def test_kept_clips_are_what_the_parts_make(
    source: PackedViews, own: PackedViews, vae: AutoencoderKL, net: DepthNet, tmp_path: Path
) -> None:
    options = small_options(variants=2, halo=None)
    folder = encode_coarse(source, tmp_path, vae, net, options, own=[own])
    stored = StoredCoarse([folder], [3], VIEWS, CHANNELS)
    assert stored.depth_channels == 9
    assert stored.variants == [4]  # the last one for the depth of clean views
    # Object 1, by hand: its second degradation is item 1 * 2 + 1 of the degradation.
    clean = to_images(source[1])
    every = replace(options.degradation, clean_first=False)
    worse = (degrade(clean, every, seed=0, item=3) * 255).round() / 255
    enlarged = enlarge(to_images(own[1]), SIZE, SIZE)
    cache = stored.caches[0]
    plain = DepthOptions(normalize="none")
    for kind, clip in ((1, worse), (2, enlarged), (3, clean)):
        entries = cache[slice((4 + kind) * VIEWS, (4 + kind + 1) * VIEWS)].float()
        with torch.no_grad():
            latents = encode(vae, clip) if kind < 3 else torch.zeros(VIEWS, CHANNELS, CELLS, CELLS)
            depth = depth_channels(net.estimate(clip), CELLS, CELLS, plain)
        assert_close(entries[:, :CHANNELS], latents, atol=2e-3, rtol=2e-3)
        assert_close(entries[:, CHANNELS:], depth, atol=2e-3, rtol=0)
    assert torch.equal(coarse_clip(source, 1, 1, options), worse)


def test_an_own_clip_begins_where_it_was_made(
    source: PackedViews, own: PackedViews, vae: AutoencoderKL, net: DepthNet, tmp_path: Path
) -> None:
    """As at inference: the real input in the place of frame 0 before depth is estimated and stretched."""
    options = small_options(variants=1)
    folder = encode_coarse(source, tmp_path, vae, net, options, own=[own])
    stored = StoredCoarse([folder], [3], VIEWS, CHANNELS, own_share=0.25)
    items, objects = torch.arange(400), torch.arange(400) % 3
    starts, told = stored.starts(objects, items), own_starts(3, VIEWS, 4)
    is_own = starts >= 0
    assert float(is_own.float().mean()) == pytest.approx(0.25, abs=0.06)
    assert torch.equal(starts[is_own], told[objects[is_own]])
    for item in (int(is_own.nonzero()[0]), int((~is_own).nonzero()[0])):
        one, index = torch.tensor([item]), int(objects[item])
        start = int(starts[item]) if is_own[item] else 2
        clip = coarse_clip(source, index, int(is_own[item]), options, [own])
        clip[start] = to_images(source[index])[start]
        frames = (start + torch.arange(VIEWS)) % VIEWS
        expected = depth_channels(net.estimate(clip), CELLS, CELLS)[frames]
        _, depth = stored.clips(objects[one], frames[None], torch.tensor([start]), one)
        # Kept in half precision, stretched by up to 20.
        assert_close(depth[0], expected, atol=2e-2, rtol=0)
        part = stored.clips(objects[one], frames[None, 1:2], torch.tensor([start]), one)[1]
        assert torch.equal(part[0, 0], depth[0, 1])  # a window is a part of the whole
    # The task overrules the start it drew.
    orbits = Orbits(
        latents=torch.randn(3, VIEWS, CHANNELS, CELLS, CELLS),
        embeddings=torch.zeros(3, VIEWS, 6),
        elevation_deg=torch.zeros(3),
        coarse=stored,
    )
    places = torch.arange(VIEWS).expand(400, -1)
    clean = clips_of(orbits, objects, torch.zeros(400, dtype=torch.int64), places, items)["clean"]
    first = torch.where(is_own, starts, 0)
    assert torch.equal(clean[:, 0], orbits.latents[objects, first])
    for share in (0.0, 1.0):
        always = StoredCoarse([folder], [3], VIEWS, CHANNELS, own_share=share).starts(objects, items) >= 0
        assert bool((always == (share == 1)).all())


def test_finished_work_is_found_and_other_options_are_other_work(
    source: PackedViews, vae: AutoencoderKL, net: DepthNet, tmp_path: Path
) -> None:
    options = small_options(variants=1)
    folder = encode_coarse(source, tmp_path, vae, net, options)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("latents_*")}
    assert encode_coarse(source, tmp_path, vae, net, options) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("latents_*")} == before
    others = [
        encode_coarse(source, tmp_path, vae, net, small_options(variants=1, seed=1)),
        encode_coarse(source, tmp_path, vae, None, options),
    ]
    assert len({folder, *others}) == 3
    assert StoredCoarse([others[1]], [3], VIEWS, CHANNELS).depth_channels == 0
    with pytest.raises(InputError, match="variants"):
        encode_coarse(source, tmp_path, vae, net, small_options(variants=0))


def test_far_from_the_object_it_is_white(source: PackedViews) -> None:
    clean = to_images(source[0])
    solid = (clean.amin(dim=1) < 1).float()
    near = torch.nn.functional.max_pool2d(solid[:, None], 7, stride=1, padding=3)[:, 0] > 0
    clip = coarse_clip(source, 0, 0, small_options(variants=1, halo=3))
    assert bool((clip.permute(0, 2, 3, 1)[~near] == 1).all())
    ring = near & (solid == 0)
    assert float(clip.permute(0, 2, 3, 1)[ring].min()) < 1  # the outline is blurred, not cut
    cut = coarse_clip(source, 0, 0, small_options(variants=1, halo=0))
    assert bool((cut.permute(0, 2, 3, 1)[solid == 0] == 1).all())


def test_own_clips_have_to_fit(
    source: PackedViews, vae: AutoencoderKL, net: DepthNet, tmp_path: Path
) -> None:
    pack_procedural(tmp_path / "less", 0, 2, orbit(VIEWS, size=32))
    with pytest.raises(InputError, match="expected 3 x 4"):
        encode_coarse(source, tmp_path, vae, net, own=[PackedViews(tmp_path / "less")])
    with pytest.raises(InputError, match="write_own_clips"):
        encode_coarse(source, tmp_path, vae, net, own=[source])


def test_clips_are_cut_alike() -> None:
    # Maps that hold their own coordinates: what is cut shows where.
    place = torch.arange(CELLS * CELLS, dtype=torch.float32).reshape(CELLS, CELLS)
    maps = place.expand(5, 3, 1, CELLS, CELLS)
    batch = {"clean": maps, "depth": maps + 100, "condition": maps, "embedding": torch.zeros(5, 7)}
    items = torch.tensor([3, 8, 1, 2, 9])
    cut = crop_clips(batch, items, 3, seed=0)
    assert cut["clean"].shape == (5, 3, 1, 3, 3)
    assert torch.equal(cut["depth"], cut["clean"] + 100)
    assert torch.equal(cut["embedding"], batch["embedding"])
    for row in cut["clean"]:
        top, left = divmod(int(row[0, 0, 0, 0]), CELLS)
        assert torch.equal(row, maps[0, :, :, top : top + 3, left : left + 3])
    alone = crop_clips({"clean": maps[:1]}, items[1:2], 3, seed=0)
    assert torch.equal(alone["clean"][0], cut["clean"][1])
    assert len({float(row[0, 0, 0, 0]) for row in cut["clean"]}) > 2
    whole = crop_clips(batch, items, CELLS, seed=0)
    assert torch.equal(whole["clean"], maps)
    with pytest.raises(InputError, match="--crop-cells"):
        crop_clips(batch, items, CELLS + 1, seed=0)


def test_the_task_reads_them(source: PackedViews, vae: AutoencoderKL, net: DepthNet, tmp_path: Path) -> None:
    folder = encode_coarse(source, tmp_path, vae, net, small_options(variants=2))
    with torch.no_grad():
        latents = torch.stack([encode(vae, to_images(source[index])) for index in range(3)])
    orbits = Orbits(
        latents=latents,
        embeddings=torch.zeros(3, VIEWS, 6),
        elevation_deg=torch.full((3,), 30.0),
        coarse=StoredCoarse([folder], [3], VIEWS, CHANNELS),
    )
    items = torch.tensor([5, 6])
    places = torch.arange(VIEWS).expand(2, -1)
    clips = clips_of(orbits, torch.tensor([2, 0]), torch.tensor([1, 3]), places, items)
    assert clips["depth"].shape == (2, VIEWS, 9, CELLS, CELLS)
    assert torch.equal(clips["condition"][:, 0], clips["clean"][:, 0])
    assert not torch.equal(clips["condition"][:, 1], clips["clean"][:, 1])
    # Blurred or not, a clip shows the same object: it is nearer to its own latents than to another's.
    own = (clips["condition"] - clips["clean"]).square().mean()
    other = (clips["condition"] - clips["clean"].flip(0)).square().mean()
    assert own < other
    cut = crop_clips(clips, items, 4, seed=0)
    assert cut["depth"].shape == (2, VIEWS, 9, 4, 4)
    assert np.isfinite(cut["condition"].numpy()).all()
