"""Cameras of packed data sets and of scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from manyview.data.datasets import SceneArrays
from manyview.data.packed import PackedViews, describe, write_shard
from manyview.data.rigs import read_rigs
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.io.scene import write_scene
from manyview.types import Views


def packed(folder: Path, description: dict) -> PackedViews:
    describe(folder, description)
    write_shard(folder, 0, np.zeros((2, 4, 8, 8, 3), dtype=np.uint8))
    return PackedViews(folder)


def test_all_objects_of_a_packed_set_share_their_cameras(tmp_path: Path) -> None:
    rig = orbit(4, 20.0, size=8)
    told = {"world_from_cam": rig.world_from_cam.tolist(), "K": rig.K.tolist(), "size": [8, 8]}
    (found,) = read_rigs(packed(tmp_path / "posed", told))
    assert found.K.dtype == torch.float64
    assert_close(found.world_from_cam, rig.world_from_cam.double())
    assert found.sizes.tolist() == [[8, 8]] * 4
    with pytest.raises(InputError, match=r"--validation: .*no cameras"):
        read_rigs(packed(tmp_path / "blind", {"size": [8, 8]}), "--validation")


def test_every_scene_has_its_own(tmp_path: Path) -> None:
    for name, elevation in (("a", 10.0), ("b", 30.0)):
        cameras = orbit(3, elevation, size=16)
        write_scene(Views(images=torch.rand(3, 3, 16, 16), cameras=cameras), tmp_path / "posed" / name)
    rigs = read_rigs(SceneArrays(tmp_path / "posed", size=8))
    for rig, elevation in zip(rigs, (10.0, 30.0), strict=True):
        assert_close(rig.world_from_cam, orbit(3, elevation).world_from_cam.double(), atol=1e-5, rtol=0)
        assert rig.sizes.tolist() == [[8, 8]] * 3
    write_scene(Views(images=torch.rand(3, 3, 16, 16)), tmp_path / "blind" / "a")
    with pytest.raises(InputError, match="no cameras"):
        read_rigs(SceneArrays(tmp_path / "blind", size=8))
