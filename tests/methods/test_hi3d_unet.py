"""The video U-Net: rolled orbits, windows, frames on their own, both presets, and what it is saved as."""

from __future__ import annotations

import pytest
import torch
from tiny_dimvis import CHANNELS, DIM
from tiny_hi3d import tiny_unet
from torch import nn
from torch.testing import assert_close

from manyview.methods.hi3d.unet import OrbitConv, OrbitUNet, build_unet, place_features

FRAMES = 8


def given(clips: int = 1, frames: int = FRAMES, channels: int = 2 * CHANNELS) -> tuple[torch.Tensor, ...]:
    draws = torch.Generator().manual_seed(2)
    sample = torch.randn(clips, frames, channels, 2, 2, generator=draws)
    level = torch.linspace(-0.5, 0.5, clips)
    tokens = torch.randn(clips, 1, DIM, generator=draws)
    return sample, level, tokens, torch.randn(clips, 16, generator=draws)


@torch.no_grad()
@pytest.mark.parametrize("turn", [1, 5])
def test_a_closed_orbit_rolls_with_its_frames(turn):
    unet = tiny_unet(closed=True)
    sample, *told = given()
    places = torch.arange(FRAMES)
    made = unet(sample, *told)
    rolled = unet(sample.roll(turn, 1), *told, places=places.roll(turn))
    assert_close(rolled, made.roll(turn, 1), atol=1e-5, rtol=0)
    # Without the places the network takes another frame for the input's: they tell which one it is.
    assert float((unet(sample.roll(turn, 1), *told) - made.roll(turn, 1)).abs().max()) > 1e-2
    # An open clip has ends, so it does not roll.
    ends = tiny_unet(closed=False)
    made, rolled = ends(sample, *told), ends(sample.roll(turn, 1), *told, places=places.roll(turn))
    assert float((rolled - made.roll(turn, 1)).abs().max()) > 1e-2


@pytest.mark.parametrize(("frames", "closed"), [(FRAMES, True), (5, True), (FRAMES, False)])
def test_convolution_over_frames(frames, closed):
    """torch's own three-axis convolution, circular over frames where the whole closed orbit is there."""
    conv = OrbitConv(3, 5, FRAMES if closed else None)
    wraps = closed and frames == FRAMES
    mode = "circular" if wraps else "zeros"
    reference = nn.Conv3d(3, 5, (3, 1, 1), padding=(1, 0, 0), padding_mode=mode)
    reference.load_state_dict(conv.state_dict())
    x = torch.randn(2, 3, frames, 4, 6)
    assert_close(conv(x), reference(x), atol=1e-6, rtol=0)


def test_places_on_a_circle():
    features = place_features(torch.arange(16), 32, 16, closed=True)
    apart = torch.cdist(features, features)
    # Turned by any number of places the distances are the same, the seam's too.
    for turn in range(1, 16):
        assert_close(apart.diagonal(turn), apart[0, turn].expand(16 - turn), atol=1e-5, rtol=0)
    assert_close(apart[0, 15], apart[0, 1], atol=1e-5, rtol=0)
    assert float(apart[~torch.eye(16, dtype=torch.bool)].min()) > 1  # no two places alike
    assert torch.equal(place_features(torch.arange(16) + 16, 32, 16, closed=True), features)
    assert place_features(torch.arange(16), 33, 16, closed=True).shape == (16, 33)


@torch.no_grad()
def test_a_window_is_told_where_it_lies():
    unet = tiny_unet(closed=True)
    sample, *told = given(frames=3)
    here, there = (unet(sample, *told, places=(first + torch.arange(3)) % FRAMES) for first in (0, 6))
    assert here.shape == (1, 3, CHANNELS, 2, 2)
    assert float((here - there).abs().max()) > 1e-3


@torch.no_grad()
def test_clips_do_not_see_each_other_and_frames_do():
    unet = tiny_unet(closed=True)
    parts = given(clips=2)
    both = unet(*parts)
    for clip in range(2):
        assert_close(unet(*(part[clip : clip + 1] for part in parts))[0], both[clip], atol=1e-5, rtol=0)
    sample, *told = given()
    changed = sample.clone()
    changed[:, 3] += 1
    assert float((unet(changed, *told) - unet(sample, *told))[:, 0].abs().max()) > 1e-4
    alone = torch.ones(1, FRAMES, dtype=torch.bool)
    before, after = (unet(x, *told, image_only=alone) for x in (sample, changed))
    others = [frame for frame in range(FRAMES) if frame != 3]
    assert torch.equal(before[:, others], after[:, others])


def test_saved_and_loaded(tmp_path):
    unet = tiny_unet(closed=True)
    unet.save_pretrained(tmp_path)
    again = OrbitUNet.from_pretrained(tmp_path, local_files_only=True)
    assert again.config["closed"]
    assert set(again.config) >= {"vector_dim", "vector_slots", "feedforward"}
    assert "down_block_types" not in again.config
    with torch.no_grad():
        # Weights read from a file lie otherwise in memory, which changes the order of sums.
        assert_close(again(*given()), unet(*given()), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("stage", "cells", "channels"), [("orbit", 16, 16), ("refine", 32, 25)])
def test_presets(stage, cells, channels):
    with torch.device("meta"):
        unet = build_unet("compact", stage, closed=True).to("meta")
        assert 3e6 < sum(weight.numel() for weight in unet.parameters()) < 4.5e6
        sample = torch.zeros(1, 16, channels, cells, cells)
        made = unet(sample, torch.zeros(1), torch.zeros(1, 1, 128), torch.zeros(1, 128))
        assert made.shape == (1, 16, 8, cells, cells)
        paper = build_unet("paper", stage)
    assert paper.config["in_channels"] == (8 if stage == "orbit" else 17)
    # As its authors count them: 1 524 623 082 with the third slot, 1 524 321 322 with the depth channels.
    count = sum(weight.numel() for weight in paper.parameters())
    assert count == (1_524_623_082 if stage == "orbit" else 1_524_321_322)
    plain = build_unet("compact", "refine", depth_channels=1, latent_channels=4)
    assert plain.config["in_channels"] == 4 + 1 + 4
