"""Fields written and read back draw the same."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.lift.field.box import make_box
from manyview.lift.field.neural import build_field
from manyview.lift.field.render import render_field
from manyview.lift.field.voxels import VoxelField
from manyview.lift.sdf.model import SdfField
from manyview.lift.volume_files import Volume, read_volume, write_volume

LOW, HIGH = (-0.5, -0.4, -0.5), (0.5, 0.4, 0.5)


def ball(kind: str) -> Volume:
    box = make_box(LOW, HIGH, 20)
    distance = (torch.linalg.vector_norm(box.nodes(), dim=1) - 0.3).reshape(box.shape) / box.voxel
    volume = (
        SdfField(box, distance) if kind == "sdf" else VoxelField(box, -4 * distance, distance < 3, gain=60.0)
    )
    with torch.no_grad():
        volume.features.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        # A fit moves the surface after nodes got their rows; the file has to keep which have one.
        volume.geometry.sub_(0.4)
    return volume


@pytest.mark.parametrize("kind", ["sdf", "voxels"])
def test_voxels_come_back_exactly(kind: str, tmp_path: Path) -> None:
    volume = ball(kind)
    write_volume(tmp_path / "v.safetensors", volume)
    again = read_volume(tmp_path / "v.safetensors")
    assert type(again) is type(volume)
    cameras = orbit(2, 20.0, size=12)
    first, second = render_field(volume, cameras), render_field(again, cameras)
    assert float(first.alphas.max()) > 0.9
    torch.testing.assert_close(second.images, first.images, atol=0, rtol=0)
    torch.testing.assert_close(second.depths, first.depths, atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["hash", "tiled", "dense", "triplane"])
def test_neural_fields_come_back_exactly(
    kind: Literal["hash", "tiled", "dense", "triplane"], tmp_path: Path
) -> None:
    field = build_field(kind, LOW, HIGH, 24, seed=3)
    write_volume(tmp_path / "v.safetensors", field)
    again = read_volume(tmp_path / "v.safetensors")
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    torch.testing.assert_close(again.densities(points), field.densities(points), atol=0, rtol=0)
    ahead = torch.zeros(50, 3)
    torch.testing.assert_close(again.colors(points, ahead), field.colors(points, ahead), atol=0, rtol=0)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no")
    save_file({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    for name, words in (("text", "cannot be read"), ("weights", "expected a file"), ("none", "not exist")):
        with pytest.raises(InputError, match=words):
            read_volume(tmp_path / f"{name}.safetensors")
