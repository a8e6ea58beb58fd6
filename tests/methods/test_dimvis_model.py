"""The tile, the null vectors, the slot marks, and the published sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_dimvis import CHANNELS, DIM, conditioner_of, spread_weights, tiny_denoiser, tiny_options

from manyview.methods.dimvis.model import DimvisOptions, SlotConditioner, build_denoiser, tile, untile

GRIDS = [(1, 4), (2, 2), (2, 3), (2, 4)]


@pytest.mark.parametrize("grid", GRIDS)
def test_tiles_are_in_raster_order(grid: tuple[int, int]) -> None:
    rows, columns = grid
    slots = torch.randn(2, rows * columns, 3, 4, 5)
    picture = tile(slots, grid)
    assert picture.shape == (2, 3, rows * 4, columns * 5)
    for slot in range(rows * columns):
        row, column = divmod(slot, columns)
        place = picture[:, :, 4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
        assert torch.equal(place, slots[:, slot])
    assert torch.equal(untile(picture, grid), slots)


def example(options: DimvisOptions) -> dict[str, torch.Tensor]:
    views, generator = options.num_views, torch.Generator().manual_seed(1)
    return {
        "latents": torch.randn(2, views, CHANNELS, 2, 2, generator=generator),
        "timestep": torch.tensor([300, 700]),
        "observed": torch.arange(views).expand(2, -1) < torch.tensor([[1], [2]]),
        "embeddings": torch.randn(2, views, DIM, generator=generator),
    }


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_runs_forward_and_backward(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    options = tiny_options(grid=grid, slot_embedding=True, slot_time=True, aligned=True, rays=True)
    denoiser = tiny_denoiser(options)
    rays = torch.randn(2, options.num_views, 6, 2, 2)
    answer = denoiser(**example(options), rays=rays)
    assert answer.shape == (2, options.num_views, CHANNELS, 2, 2)
    answer.square().sum().backward()
    gradients = [weight.grad for weight in denoiser.parameters() if weight.requires_grad]
    assert all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert denoiser.conditioner.slots.grad is not None
    assert float(denoiser.conditioner.slots.grad.abs().max()) > 0


@torch.no_grad()
def test_missing_slots_get_the_null_vector() -> None:
    conditioner = conditioner_of(tiny_options())
    embeddings = torch.randn(1, 4, DIM)
    described = torch.tensor([[True, False, False, True]])
    tokens = conditioner.context(embeddings, described)
    assert torch.equal(tokens[0, [0, 3]], embeddings[0, [0, 3]])
    assert torch.equal(tokens[0, [1, 2]], torch.zeros(2, DIM))
    # What stands in a missing slot's embedding is never read.
    embeddings[0, 1:3] = torch.nan
    assert torch.equal(conditioner.context(embeddings, described), tokens)


@torch.no_grad()
def test_slot_marks_are_added_to_null_vectors_too() -> None:
    conditioner = conditioner_of(tiny_options(slot_embedding=True))
    conditioner.slots.copy_(torch.randn(4, DIM))
    embeddings = torch.randn(1, 4, DIM)
    tokens = conditioner.context(embeddings, torch.tensor([[True, False, False, False]]))
    assert torch.equal(tokens[0, 0], embeddings[0, 0] + conditioner.slots[0])
    assert torch.equal(tokens[0, 1:], conditioner.slots[1:])


@torch.no_grad()
def test_time_channel_is_zero_where_clean() -> None:
    conditioner = conditioner_of(tiny_options(slot_time=True))
    inputs = example(conditioner.options)
    picture = conditioner.picture(inputs["latents"], inputs["timestep"], inputs["observed"], None)
    assert picture.shape == (2, CHANNELS + 1, 4, 4)
    assert torch.equal(untile(picture, (2, 2))[:, :, :CHANNELS], inputs["latents"])
    time = untile(picture[:, CHANNELS:], (2, 2))[:, :, 0, 0, 0]
    # t / 1000: 0.3 and 0.7 where the slot is noisy; one slot of the first set is clean, two of the second.
    torch.testing.assert_close(time, torch.tensor([[0, 0.3, 0.3, 0.3], [0, 0, 0.7, 0.7]]))


@torch.no_grad()
def test_rays_fill_six_channels() -> None:
    conditioner = conditioner_of(tiny_options(slot_time=True, rays=True))
    inputs, rays = example(conditioner.options), torch.randn(2, 4, 6, 2, 2)
    args = (inputs["latents"], inputs["timestep"], inputs["observed"])
    assert torch.equal(untile(conditioner.picture(*args, rays), (2, 2))[:, :, CHANNELS + 1 :], rays)
    assert not conditioner.picture(*args, None)[:, CHANNELS + 1 :].any()


@torch.no_grad()
@pytest.mark.parametrize(
    ("option", "value"), [("slot_embedding", True), ("slot_time", True), ("rays", True), ("sweep_depths", 2)]
)
def test_options_change_nothing_at_first(option: str, value: bool | int) -> None:
    """All start as the printed method: zero vectors and zero input weights."""
    torch.manual_seed(0)
    plain = tiny_denoiser(tiny_options())
    spread_weights(plain)
    other = tiny_denoiser(tiny_options(**{option: value}))
    state, own = plain.unet.state_dict(), other.unet.state_dict()
    own["conv_in.weight"][:, :CHANNELS] = state.pop("conv_in.weight")
    other.unet.load_state_dict({**own, **state})
    inputs = example(plain.conditioner.options)
    rays = torch.randn(2, 4, 6, 2, 2)
    torch.testing.assert_close(other(**inputs, rays=rays), plain(**inputs), atol=1e-6, rtol=1e-5)


def test_slot_marks_train_only_where_they_are_on() -> None:
    assert not conditioner_of(tiny_options()).slots.requires_grad
    assert conditioner_of(tiny_options(slot_embedding=True)).slots.requires_grad


@torch.no_grad()
def test_a_set_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    denoiser = tiny_denoiser(tiny_options())
    spread_weights(denoiser)
    inputs = example(denoiser.conditioner.options)
    together = denoiser(**inputs)
    for index in range(2):
        alone = denoiser(**{name: value[index : index + 1] for name, value in inputs.items()})
        torch.testing.assert_close(alone, together[index : index + 1], atol=1e-5, rtol=1e-4)
    # A scalar time stands for all sets.
    same = denoiser(**{**inputs, "timestep": torch.tensor(300)})
    torch.testing.assert_close(same[:1], together[:1], atol=1e-5, rtol=1e-4)


def test_conditioner_round_trip(tmp_path: Path) -> None:
    conditioner = conditioner_of(tiny_options(grid=(2, 3), slot_embedding=True, slot_time=True))
    with torch.no_grad():
        conditioner.slots.copy_(torch.randn(6, DIM))
    conditioner.save_pretrained(tmp_path)
    loaded = SlotConditioner.from_pretrained(tmp_path)
    assert loaded.options == conditioner.options
    assert torch.equal(loaded.slots, conditioner.slots)


def test_compact_preset() -> None:
    with torch.device("meta"):
        denoiser = build_denoiser("compact", DimvisOptions(slot_embedding=True, slot_time=True))
    assert denoiser.unet.config["in_channels"] == 9
    assert denoiser.unet.config["out_channels"] == 8
    assert denoiser.conditioner.slots.shape == (4, 128)


def test_paper_preset_leaves_the_published_network_unchanged() -> None:
    """The paper fine-tunes SD Image Variations v2 as it is: 859,520,964 weights, 4 channels in and out,
    768-d tokens; V tokens instead of one need no weight."""
    with torch.device("meta"):
        denoiser = build_denoiser("paper", DimvisOptions(latent_channels=4, context_dim=768))
    assert sum(weight.numel() for weight in denoiser.unet.parameters()) == 859_520_964
    assert tuple(denoiser.unet.conv_in.weight.shape) == (320, 4, 3, 3)
    assert tuple(denoiser.unet.conv_out.weight.shape) == (4, 320, 3, 3)
    assert denoiser.unet.config["cross_attention_dim"] == 768
