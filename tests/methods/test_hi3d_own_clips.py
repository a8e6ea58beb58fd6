"""Clips that the first stage draws of a data set's objects, as the refiner learns from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_hi3d import tiny_hi3d
from torch.testing import assert_close

from manyview.data.packed import PackedViews, pack_procedural
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.io.framing import resize_area
from manyview.methods.hi3d.own_clips import draw_own_clips
from manyview.methods.hi3d.refine_data import own_starts, to_images


def test_clips_are_the_pipeline_s_orbits(tmp_path: Path) -> None:
    pack_procedural(tmp_path / "set", 0, 2, orbit(8, 20.0, size=32))
    source, pipe = PackedViews(tmp_path / "set"), tiny_hi3d()
    draw_own_clips(tmp_path / "own", source, pipe, num_steps=2, seed=5)
    own = PackedViews(tmp_path / "own")
    assert (len(own), own.num_views, own.description["guidance"]) == (2, 8, [1.0, 2.5])
    starts = own_starts(2, 8, 5)
    for index in range(2):
        start = int(starts[index])
        given = resize_area(to_images(source[index])[[start]], 16, 16)[0]
        (drawn,) = pipe.predict(given, torch.tensor([20.0]), items=[index], seed=5, num_steps=2)
        kept = to_images(own[index]).roll(-start, 0)
        assert_close(kept[0], given[0], atol=0.51 / 255, rtol=0)
        assert_close(kept[1:], drawn[1:], atol=1.1 / 255, rtol=0)
    # Other steps are other clips, not a continuation of these.
    with pytest.raises(InputError, match="other options"):
        draw_own_clips(tmp_path / "own", source, pipe, num_steps=3, seed=5)
    pack_procedural(tmp_path / "few", 0, 1, orbit(4, size=16))
    with pytest.raises(InputError, match="orbits of 8 views"):
        draw_own_clips(tmp_path / "no", PackedViews(tmp_path / "few"), pipe)
