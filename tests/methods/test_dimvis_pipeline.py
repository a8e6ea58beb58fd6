"""The pipeline at toy size: what it keeps, what it promises about seeds and batches, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from tiny_dimvis import DIM, SIZE, spread_weights, tiny_options, tiny_pipeline, torch_threads

from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.methods.dimvis.pipeline import DimvisPipeline
from manyview.types import Views


@pytest.fixture(scope="module")
def pipeline() -> DimvisPipeline:
    return tiny_pipeline()


def pictures(count: int, size: int = SIZE) -> Views:
    return Views(images=torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2)))


def test_given_views_stay_and_the_rest_is_drawn(pipeline: DimvisPipeline) -> None:
    views = pictures(2)
    result = pipeline(views, seed=1, slots=(3, 1), num_steps=3)
    made = result.views
    assert made.images.shape == (4, 3, SIZE, SIZE)
    assert made.observed.tolist() == [False, True, False, True]
    assert torch.equal(made.images[[3, 1]], views.images)
    assert 0 <= float(made.images.min()) <= float(made.images.max()) <= 1
    assert made.cameras is not None
    assert len(made.cameras) == 4
    assert result.samples is None
    assert result.spread is None
    manifest = result.manifest
    assert manifest["command"] == "synth dimvis"
    assert manifest["seed"] == 1
    assert manifest["options"]["slots"] == [3, 1]
    assert manifest["options"]["guidance"] == 1.0


def test_same_seed_same_bytes(pipeline: DimvisPipeline) -> None:
    once, again, other = (pipeline(pictures(1), seed=seed, num_steps=3).views.images for seed in (5, 5, 6))
    assert save({"images": once}) == save({"images": again})
    assert not torch.equal(once, other)
    assert torch.equal(once[0], other[0])  # the given one


def test_global_random_state_has_no_say(pipeline: DimvisPipeline) -> None:
    torch.manual_seed(1)
    once = pipeline(pictures(1), num_steps=2).views.images
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(pipeline(pictures(1), num_steps=2).views.images, once)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_batches_change_nothing(pipeline: DimvisPipeline, guidance: float) -> None:
    """8 rigs with different observed sets: at once, in threes, and one by one."""
    images = torch.rand(8, 4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    subset = torch.arange(8) + 1
    observed = (subset[:, None] >> torch.arange(4)) & 1 == 1
    items = [30, 31, 32, 33, 34, 35, 36, 37]
    options = {"seed": 4, "num_steps": 4, "guidance": guidance}
    together = pipeline.complete(images, observed, items=items, **options)
    for size in (1, 3):
        parts = pipeline.complete(images, observed, items=items, batch_size=size, **options)
        assert float((parts - together).abs().max()) < 1e-3
    # An item's noise is its own: the last rig alone, as item 37.
    alone = pipeline.complete(images[7:], observed[7:], items=[37], **options)
    assert float((alone - together[7:]).abs().max()) < 1e-3
    other = pipeline.complete(images[7:], observed[7:], items=[0], **options)
    assert float((other - together[7:]).abs().max()) > 1e-2
    assert torch.equal(together[observed], images[observed])


def test_unobserved_images_are_never_read(pipeline: DimvisPipeline) -> None:
    images = torch.rand(1, 4, 3, SIZE, SIZE)
    observed = torch.tensor([[True, False, False, True]])
    expected = pipeline.complete(images, observed, items=[0], num_steps=2, guidance=2.0)
    spoilt = images.clone()
    spoilt[:, 1:3] = torch.nan
    assert torch.equal(pipeline.complete(spoilt, observed, items=[0], num_steps=2, guidance=2.0), expected)


def test_samples_and_spread(pipeline: DimvisPipeline) -> None:
    result = pipeline(pictures(1), seed=2, num_steps=2, num_samples=3, batch_size=2)
    single = pipeline(pictures(1), seed=2, num_steps=2)
    assert result.samples is not None
    assert result.spread is not None
    assert result.samples.shape == (3, 4, 3, SIZE, SIZE)
    torch.testing.assert_close(result.views.images, single.views.images, atol=1e-3, rtol=0)
    assert torch.equal(result.samples[0], result.views.images)
    assert result.spread.shape == (4, 1, SIZE, SIZE)
    assert float(result.spread[0].max()) < 1e-6  # the given view is the same in every sample
    assert float(result.spread[1:].min()) >= 0
    assert float(result.spread[1:].max()) > 1e-3


def test_images_are_brought_to_the_weights_resolution(pipeline: DimvisPipeline) -> None:
    """Area averages, over white where masks are known."""
    views = pictures(1, 2 * SIZE)
    half = pipeline(views, num_steps=1).views.images[0]
    expected = torch.nn.functional.avg_pool2d(views.images, 2)[0]
    torch.testing.assert_close(half, expected)
    masked = Views(images=views.images, masks=torch.zeros(1, 1, 2 * SIZE, 2 * SIZE))
    torch.testing.assert_close(pipeline(masked, num_steps=1).views.images[0], torch.ones(3, SIZE, SIZE))


def test_slots_come_from_cameras(pipeline: DimvisPipeline) -> None:
    views = Views(images=pictures(2).images, cameras=orbit(4, size=SIZE)[[1, 3]])
    result = pipeline(views, num_steps=1)
    assert result.views.observed.tolist() == [True, False, True, False]
    assert torch.equal(result.views.images[[0, 2]], views.images)
    assert result.views.cameras is not None
    assert views.cameras is not None
    torch.testing.assert_close(result.views.cameras.centers[[0, 2]], views.cameras.centers, atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", [(1, 4), (2, 3), (2, 4)])
def test_other_grids(grid: tuple[int, int]) -> None:
    pipeline = tiny_pipeline(tiny_options(grid=grid, slot_embedding=True, slot_time=True, rays=True))
    result = pipeline(pictures(2), num_steps=2, guidance=2.0)
    assert len(result.views) == grid[0] * grid[1]
    assert bool(torch.isfinite(result.views.images).all())


@pytest.mark.parametrize("solver", ["ddim", "dpm", "unipc"])
@pytest.mark.parametrize("unconditional", ["renoised", "clean"])
def test_solvers_and_branches(pipeline: DimvisPipeline, solver: str, unconditional: str) -> None:
    result = pipeline(
        pictures(1),
        num_steps=3,
        guidance=2.0,
        solver=solver,
        unconditional=unconditional,  # type: ignore[arg-type]
    )
    assert bool(torch.isfinite(result.views.images).all())
    assert result.manifest["options"]["solver"] == solver


def test_guidance_is_looked_up_by_number_of_references() -> None:
    pipeline = tiny_pipeline(guidance=(3.0, 1.5))
    assert [pipeline.default_guidance(count) for count in (1, 2, 3)] == [3.0, 1.5, 1.0]
    assert tiny_pipeline().default_guidance(1) == 1.0
    for count, value in ((1, 3.0), (2, 1.5)):
        asked = pipeline(pictures(count), num_steps=2)
        assert asked.manifest["options"]["guidance"] == value
        assert torch.equal(
            asked.views.images, pipeline(pictures(count), num_steps=2, guidance=value).views.images
        )
    # and it does something
    plain = pipeline(pictures(1), num_steps=2, guidance=1.0).views.images
    assert not torch.equal(plain, pipeline(pictures(1), num_steps=2).views.images)


def test_refused_before_any_network_runs(pipeline: DimvisPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a network ran")

    for part in (pipeline.vae.encoder, pipeline.image_encoder, pipeline.unet):
        monkeypatch.setattr(part, "forward", fail)
    for views, options, line in (
        (pictures(4), {}, "INPUT: 4 observed views"),
        (pictures(1), {"num_samples": 0}, "--samples: 0"),
        (pictures(1), {"slots": (4,)}, "--slots"),
        (pictures(1), {"num_steps": 0}, "--steps: 0"),
        (pictures(1), {"solver": "euler"}, "--solver: euler"),
    ):
        with pytest.raises(InputError, match=line):
            pipeline(views, **options)


def test_progress_counts_rigs_times_steps(pipeline: DimvisPipeline) -> None:
    events: list[object] = []

    class Recorder:
        def start(self, total: int, what: str) -> None:
            events.append(("start", total))

        def advance(self, n: int = 1) -> None:
            events.append(n)

        def finish(self) -> None:
            events.append("finish")

    for threads, expected in ((1, [2, 2, 1, 1]), (2, [1] * 6)):
        events.clear()
        with torch_threads(threads):
            pipeline(pictures(1), num_steps=2, num_samples=3, batch_size=2, progress=Recorder())
        assert events == [("start", 6), *expected, "finish"]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_workers_change_nothing(pipeline: DimvisPipeline, guidance: float) -> None:
    """4 rigs in 1, 2 and 3 threads: the same pictures; again with the same threads: the same bytes."""
    images = torch.rand(4, 4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    observed = torch.tensor([True, False, True, False]).expand(4, -1)

    def complete(threads: int) -> torch.Tensor:
        with torch_threads(threads):
            return pipeline.complete(
                images, observed, items=range(4), num_steps=2, guidance=guidance, batch_size=4
            )

    alone = complete(1)
    for threads in (2, 3):
        divided = complete(threads)
        assert not divided.requires_grad
        assert float((divided - alone).abs().max()) < 1e-3
        assert torch.equal(complete(threads), divided)


def test_an_error_in_a_worker_surfaces(pipeline: DimvisPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls, events = pipeline.unet.forward, [0], []

    class Recorder:
        def start(self, total: int, what: str) -> None:
            pass

        def advance(self, n: int = 1) -> None:
            pass

        def finish(self) -> None:
            events.append("finish")

    def fail_at_third(*args: object, **options: object) -> object:
        calls[0] += 1
        if calls[0] == 3:
            raise MemoryError("the third call")
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline.unet, "forward", fail_at_third)
    with torch_threads(2):
        with pytest.raises(MemoryError, match="the third call"):
            pipeline(pictures(1), num_steps=50, num_samples=4, batch_size=4, progress=Recorder())
        assert torch.get_num_threads() == 2
    assert events == ["finish"]
    assert calls[0] < 100  # two batches of 50 steps: the other one was stopped


def test_convolutions_are_channels_last(pipeline: DimvisPipeline) -> None:
    for part in (pipeline.unet, pipeline.vae):
        for module in part.modules():
            if isinstance(module, torch.nn.Conv2d):
                assert module.weight.is_contiguous(memory_format=torch.channels_last)


def test_round_trip_in_the_hubs_layout(tmp_path: Path) -> None:
    """`from_pretrained` finds the conditioner, our own component, by its module."""
    pipeline = tiny_pipeline(tiny_options(slot_embedding=True, slot_time=True), guidance=(2.0,))
    with torch.no_grad():
        pipeline.conditioner.slots.copy_(torch.randn(4, DIM))
    spread_weights(pipeline.unet)
    pipeline.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt")]
    loaded, again = (DimvisPipeline.from_pretrained(tmp_path, local_files_only=True) for _ in range(2))
    assert loaded.conditioner.options == pipeline.conditioner.options
    assert loaded.default_guidance(1) == 2.0
    for name in ("vae", "unet", "conditioner", "image_encoder"):
        saved, read = getattr(pipeline, name).state_dict(), getattr(loaded, name).state_dict()
        assert saved.keys() == read.keys()
        assert all(torch.equal(saved[key], read[key]) for key in saved)
    made, once, twice = (each(pictures(1), num_steps=2).views.images for each in (pipeline, loaded, again))
    assert torch.equal(once, twice)
    # Weights mapped from a file lie at other addresses, and some kernels sum in another order there.
    torch.testing.assert_close(once, made, atol=1e-4, rtol=0)


def test_bfloat16_runs() -> None:
    pipeline = tiny_pipeline(tiny_options(slot_time=True, rays=True)).to(torch.bfloat16)
    result = pipeline(pictures(1), num_steps=2, guidance=2.0)
    assert result.views.images.dtype == torch.float32
    assert bool(torch.isfinite(result.views.images).all())


def test_weights_may_bring_their_own_sampler() -> None:
    pipeline = tiny_pipeline()
    assert pipeline.choose_sampler(None, None) == ("ddim", 50)
    pipeline.register_to_config(default_solver="dpm", default_steps=3)
    assert pipeline.choose_sampler(None, None) == ("dpm", 3)
    assert pipeline.choose_sampler("dpm", None) == ("dpm", 3)
    assert pipeline.choose_sampler("ddim", None) == ("ddim", 50)
    assert pipeline.choose_sampler(None, 7) == ("dpm", 7)
    views = Views(images=torch.rand(1, 3, 16, 16))
    told = pipeline(views).manifest["options"]
    assert (told["solver"], told["steps"]) == ("dpm", 3)
