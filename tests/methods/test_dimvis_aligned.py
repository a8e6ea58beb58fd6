"""The option `aligned`: other slots at the same cell, and weights trained without it."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_dimvis import CHANNELS, DIM, conditioner_of, tiny_options

from manyview.methods.dimvis.model import build_denoiser, untile
from manyview.methods.dimvis.train import DimvisTask

OBSERVED = torch.tensor([[True, False, False, True]])


def test_cells_see_the_other_slots_in_the_order_of_the_rig() -> None:
    """Slot s holds the number 10 s everywhere: what slot s is shown is then known by counting on from s."""
    options = tiny_options(aligned=True)
    latents = (10.0 * torch.arange(4)).reshape(1, 4, 1, 1, 1).expand(1, 4, CHANNELS, 2, 2)
    picture = conditioner_of(options).picture(latents, torch.tensor([5]), OBSERVED, None)
    assert picture.shape[1] == options.in_channels == CHANNELS + 3 * (CHANNELS + 1)
    shown = untile(picture, options.grid)[0, :, :, 0, 0]
    for slot in range(4):
        assert bool((shown[slot, :CHANNELS] == 10 * slot).all())
        for turn in (1, 2, 3):
            other = (slot + turn) % 4
            part = shown[slot, CHANNELS + (turn - 1) * (CHANNELS + 1) :][: CHANNELS + 1]
            assert bool((part[:CHANNELS] == 10 * other).all())
            assert bool(part[CHANNELS]) == bool(OBSERVED[0, other])


def test_turning_the_rig_turns_what_is_shown() -> None:
    """Slot s + 1 of a rig that starts one slot later is shown what slot s was, whatever its place."""
    conditioner = conditioner_of(tiny_options(aligned=True, slot_time=True))
    latents = torch.randn(1, 4, CHANNELS, 2, 2, generator=torch.Generator().manual_seed(0))
    time = torch.tensor([400])
    before = untile(conditioner.picture(latents, time, OBSERVED, None), (2, 2))
    after = untile(conditioner.picture(latents.roll(1, 1), time, OBSERVED.roll(1, 1), None), (2, 2))
    assert torch.equal(after, before.roll(1, 1))


def test_a_run_goes_on_from_an_export_without_the_option(tmp_path: Path) -> None:
    """Added inputs start at zero, so the grown network answers as the exported one did."""
    torch.manual_seed(0)
    options = {"latent_channels": CHANNELS, "context_dim": DIM, "slot_embedding": True, "slot_time": True}
    latents = torch.randn(2, 4, CHANNELS, 8, 8)
    embeddings = torch.randn(2, 4, DIM)
    old = build_denoiser("compact", tiny_options(**options))
    with torch.no_grad():
        old.conditioner.slots.normal_()
        # A fresh network answers zero whatever it reads; these two layers decide that.
        old.unet.conv_out.weight.normal_()
    old.unet.save_pretrained(tmp_path / "unet")
    old.conditioner.save_pretrained(tmp_path / "conditioner")
    task = DimvisTask(latents, embeddings, tiny_options(**options, aligned=True), initial=tmp_path)
    new = task.build()
    inputs = (latents, torch.tensor([3, 800]), OBSERVED.expand(2, -1), embeddings)
    with torch.no_grad():
        answer = old(*inputs)
        assert float(answer.abs().max()) > 0
        torch.testing.assert_close(new(*inputs), answer)
