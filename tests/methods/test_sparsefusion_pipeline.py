"""The pipeline at toy size: every mode, the same again, what it refuses, weights from a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from box_capture import draw_box
from tiny_fewview import PARTS, QUICK, tiny_fewview, write_tiny_bundle
from tiny_sparsefusion import SIZE
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.geometry.trajectories import orbit
from manyview.lift.field.box import Box
from manyview.lift.mesh.options import MeshOptions
from manyview.lift.sdf.model import SdfField
from manyview.lift.volume_files import Volume
from manyview.methods import load
from manyview.methods.sparsefusion.pipeline import SparseFusionPipeline, join_views
from manyview.methods.sparsefusion.products import RENDERS, attention_pictures, look_around, make_mesh
from manyview.types import Views

STILL = Similarity(1.0, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))


@pytest.fixture(scope="module")
def views() -> Views:
    """Two given views of the box and two that are not, twice as large as the networks want."""
    cameras = orbit(4, 25.0, size=2 * SIZE)
    images, masks = draw_box(cameras.to(torch.float64), STILL)
    seen = torch.tensor([True, False, True, False])
    return Views(images=images, masks=masks, cameras=cameras, observed=seen, names=("a", "b", "c", "d"))


@pytest.fixture(scope="module")
def pipeline() -> SparseFusionPipeline:
    return tiny_fewview()


def targets(views: Views):
    return views.cameras[[1, 3]]


def test_views_told_and_drawn(pipeline: SparseFusionPipeline, views: Views):
    told = pipeline(views, targets(views), mode="eft")
    looked = pipeline.teacher.look(views, targets(views), rows=SIZE)
    assert_close(told.views.images[2:], looked.images)
    assert_close(told.views.images[:2], pipeline.teacher.frames(views).over(1.0))
    assert told.views.observed.tolist() == [True, True, False, False]
    assert told.views.names == ("a", "c", "made_000", "made_001")
    assert told.views.masks is None
    assert told.field is None
    assert told.manifest["options"] == {"mode": "eft", "resolution": SIZE, "rows": SIZE}
    drawn = pipeline(views, targets(views), mode="vldm", seed=3)
    assert drawn.manifest["options"]["steps"] == 3
    again = pipeline(views, targets(views), mode="vldm", seed=3)
    assert_close(again.views.images, drawn.views.images, atol=0, rtol=0)
    other = pipeline(views, targets(views), mode="vldm", seed=4)
    assert float((other.views.images[2:] - drawn.views.images[2:]).abs().max()) > 1e-3


def test_a_views_noise_is_its_own(pipeline: SparseFusionPipeline, views: Views):
    both = pipeline(views, targets(views), mode="vldm").views.images[2]
    alone = pipeline(views, targets(views)[0], mode="vldm").views.images[2]
    assert_close(alone, both, atol=1e-5, rtol=0)


def test_coarse_rays_and_depths(pipeline: SparseFusionPipeline, views: Views):
    told = pipeline(views, targets(views), mode="eft", rows=4, depths=True)
    assert told.views.depths is not None
    assert float(told.views.depths[:2].max()) == 0  # of given views nothing is known
    known = told.views.depths[2:][told.views.depths[2:] > 0]
    # The cameras stand 1.5 away, the network looks 0.9 before and behind.
    assert float(known.min()) >= 0.6 - 1e-4
    assert float(known.max()) <= 2.4 + 1e-4


def test_a_field(pipeline: SparseFusionPipeline, views: Views):
    made = pipeline(views, targets(views), seed=1, options=QUICK)
    assert isinstance(made.field, Volume)
    assert made.views.masks is not None
    assert made.views.depths is not None
    assert len(made.views) == 4
    assert made.manifest["options"]["mode"] == "field"
    assert set(made.manifest["options"]["distilled"]["seconds"])
    again = pipeline(views, targets(views), seed=1, options=QUICK)
    assert_close(again.views.images, made.views.images, atol=0, rtol=0)


def test_refusals(pipeline: SparseFusionPipeline, views: Views):
    asked = targets(views)
    with pytest.raises(InputError, match="--mode: nerf: expected one of field, vldm, eft"):
        pipeline(views, asked, mode="nerf")
    with pytest.raises(InputError, match="INPUT: no cameras"):
        pipeline(replace(views, cameras=None), asked)
    with pytest.raises(InputError, match="INPUT: 0 given views: expected 1 to 8"):
        pipeline(replace(views, observed=torch.zeros(4, dtype=torch.bool)), asked)
    with pytest.raises(InputError, match="targets: 0"):
        pipeline(views, asked[[]])
    with pytest.raises(InputError, match="--steps: 0"):
        pipeline(views, asked, mode="vldm", num_steps=0)
    with pytest.raises(InputError, match="--solver: dpm: expected one of ddim, plms"):
        pipeline(views, asked, mode="vldm", solver="dpm")


def test_weights_come_from_a_folder(pipeline: SparseFusionPipeline, views: Views, tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    loaded = load("sparsefusion", tmp_path / "bundle")
    expected = pipeline(views, targets(views), mode="vldm").views.images
    found = loaded(views, targets(views), mode="vldm")
    assert_close(found.views.images, expected, atol=1e-4, rtol=0)
    assert [entry["name"].split("/")[-1] for entry in found.manifest["weights"]] == sorted(PARTS)
    half = load("sparsefusion", tmp_path / "bundle", dtype=torch.bfloat16)
    assert half.eft.dtype == torch.bfloat16
    assert half.unet.noise_level.frequencies.dtype == torch.float32
    pipeline.save_pretrained(tmp_path / "hub")
    hub = load("sparsefusion", tmp_path / "hub")
    assert hub.choose_sampler(None, None) == ("ddim", 3)
    assert_close(hub(views, targets(views), mode="vldm").views.images, expected, atol=1e-4, rtol=0)


def test_memory_is_estimated(pipeline: SparseFusionPipeline):
    weights = sum(p.numel() for m in (pipeline.vae, pipeline.eft, pipeline.unet) for p in m.parameters()) * 4
    assert pipeline.estimate_memory(2) > weights
    assert pipeline.estimate_memory(8) > pipeline.estimate_memory(2)


def test_attention_pictures(pipeline: SparseFusionPipeline, views: Views):
    points, depth = attention_pictures(pipeline.teacher, views, targets(views)[0])
    assert points.shape == (3, 3 * SIZE, 2 * SIZE)
    assert depth.shape == (1, SIZE, SIZE)
    frames = pipeline.teacher.frames(views)
    plain = torch.cat([torch.cat(list(frames.images), dim=2)] * 3, dim=1)
    share = float(((points - plain).abs().amax(dim=0) > 0.02).float().mean())
    assert 0.01 < share < 0.7  # dots on the pictures, which are still there


def test_a_surface_becomes_a_mesh_and_the_lift_sees_all_sides(views: Views):
    # A sphere of radius 3 at (40, -7, 3): the mesh has its middle and extent, whatever the world's scale.
    box = Box(low=(36.0, -11.0, -1.0), voxel=0.5, shape=(17, 17, 17))
    middle = torch.tensor([40.0, -7.0, 3.0])
    distance = (torch.linalg.vector_norm(box.nodes() - middle, dim=1) - 3) / box.voxel
    field = SdfField(box, distance.reshape(box.shape), sharpness=4.0)
    far = Similarity(8.0, torch.eye(3, dtype=torch.float64), middle.double())
    given = replace(
        views[[0, 2]], cameras=far.apply_to_cameras(views.cameras[[0, 2]].to(torch.float64)).to(torch.float32)
    )
    seen = look_around(field, given)
    assert len(seen.views) == 2 + RENDERS
    assert bool(seen.views.observed.all())
    assert float(seen.views.masks[2:].amax(dim=(1, 2, 3)).min()) > 0.9
    assert seen.weights.tolist()[:3] == [1, 1, 0.25]
    mesh = make_mesh(seen, options=MeshOptions(resolution=16, num_faces=300, texture_size=32))
    low, high = torch.from_numpy(mesh.bounds.copy())
    assert_close(((low + high) / 2).float(), middle, atol=0.3, rtol=0)
    assert_close((high - low).float(), torch.full((3,), 6.0), atol=0.5, rtol=0)


def test_joined_views(views: Views):
    given, made = views[[0]], replace(views[[1, 2]], names=())
    both = join_views(given, made)
    assert both.observed.tolist() == [True, False, False]
    assert_close(both.masks, views.masks[:3])
    bare = join_views(given, replace(made, masks=None))
    assert bare.masks is None
    assert_close(bare.images[0], given.over(1.0)[0])
