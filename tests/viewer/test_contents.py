"""What is read from a folder, how views find their truth, and what the page says about it in words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from box_world import SIZE, as_dc, box_mesh, box_views, splat_bytes, write_box_result, write_box_truth

from manyview.errors import InputError
from manyview.io.glb import write_glb
from manyview.io.scene import write_scene
from manyview.types import Views
from manyview.viewer.contents import frame_contents, load_contents
from manyview.viewer.facts import list_facts
from manyview.viewer.live import covariances_of
from manyview.viewer.truth import match_truth

GAUSSIAN = {
    "xyz": [0, 0, 0],
    "f_dc": as_dc((1, 0, 0)),
    "opacity": 3.0,
    "scale": [-3.0] * 3,
    "rot": [1, 0, 0, 0],
}


def test_a_result_is_read_whole(tmp_path: Path) -> None:
    write_box_result(tmp_path / "result")
    (tmp_path / "result" / "splats.ply").write_bytes(splat_bytes([GAUSSIAN]))
    cloud = trimesh.PointCloud([[0, 0, 1], [0, 0, 3]], colors=[[10, 20, 30, 255], [40, 50, 60, 255]])
    cloud.export(tmp_path / "result" / "points.ply")
    contents = load_contents(tmp_path / "result")
    assert contents.title == "result"
    assert contents.statuses == ("observed", "observed", "generated", "generated")
    assert contents.points is not None
    assert contents.points.colors.tolist() == [[10, 20, 30], [40, 50, 60]]
    assert contents.splats is not None
    assert len(contents.splats) == 1
    assert contents.mesh is not None
    assert contents.spread is not None
    assert contents.spread.shape == (4, 1, SIZE, SIZE)
    facts = dict(list_facts(contents))
    assert facts["views"] == f"4 (2 observed, 2 generated), {SIZE} x {SIZE} pixels"
    assert (facts["seeds"], facts["licence"], facts["weights"]) == ("31", "Apache-2.0", "box-net")
    # A page may be sent to anybody: of the input only the name.
    assert facts["from"] == "box"
    assert "private" not in str(facts)


def test_a_scene_has_real_views_that_were_not_given(tmp_path: Path) -> None:
    write_scene(box_views(observed=3), tmp_path / "scene")
    (tmp_path / "scene" / "images" / "top.png").unlink()
    assert load_contents(tmp_path / "scene").statuses == ("observed", "observed", "observed", "missing")
    write_scene(box_views(observed=3), tmp_path / "scene", force=True)
    contents = load_contents(tmp_path / "scene")
    assert contents.statuses[3] == "held out"
    facts = dict(list_facts(contents))
    assert (facts["seeds"], facts["licence"]) == ("not recorded", "not recorded")


def test_a_folder_of_shapes_alone(tmp_path: Path) -> None:
    write_glb(tmp_path / "mesh.glb", box_mesh())
    contents = load_contents(tmp_path)
    assert contents.views is None
    frame = frame_contents(contents)
    # Half the diagonal of a box of 0.8 x 0.6 x 0.5.
    assert frame.radius == pytest.approx(np.sqrt(0.64 + 0.36 + 0.25) / 2, abs=1e-4)
    assert frame.center == pytest.approx((0, 0, 0), abs=1e-6)
    with pytest.raises(InputError, match="no views"):
        load_contents(tmp_path, tmp_path)


def test_a_stray_splat_does_not_move_the_frame(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cloud = [{**GAUSSIAN, "xyz": place} for place in rng.uniform(-1, 1, (300, 3)).tolist()]
    (tmp_path / "splats.ply").write_bytes(splat_bytes([*cloud, {**GAUSSIAN, "xyz": [900.0, 0, 0]}]))
    frame = frame_contents(load_contents(tmp_path))
    assert frame.radius < 2
    assert max(map(abs, frame.center)) < 0.1


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_scene(box_views(), tmp_path / "set" / "one")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "splats.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\nend_header\n")
    for folder, words in (("nowhere", "existing"), ("empty", "nothing to see"), ("set", "for example one")):
        with pytest.raises(InputError, match=words):
            load_contents(tmp_path / folder)
    with pytest.raises(InputError, match="ply"):
        load_contents(tmp_path / "broken")


def test_truth_is_found_by_camera_whatever_the_names(tmp_path: Path) -> None:
    write_box_result(tmp_path / "result", damage=0.25)
    write_box_truth(tmp_path / "truth")
    contents = load_contents(tmp_path / "result", tmp_path / "truth")
    truth, views = contents.truth, box_views()
    assert truth is not None
    assert truth.matched_by == "camera"
    assert torch.allclose(truth.images, views.over(1.0), atol=0.01)
    # The given views are the real ones to 8 bits; the others are darker by 0.25 where there is something.
    # Channels darker than 0.25 end at 0, so the error is at most that of the full quarter.
    assert float(truth.psnr[:2].min()) > 45
    masks = views.masks
    assert masks is not None
    lowest = -10 * torch.log10((0.25 * masks[2:]).square().mean(dim=(1, 2, 3)))
    assert bool((truth.psnr[2:] >= lowest - 0.1).all())
    assert float(truth.psnr[2:].max()) < 25


def test_truth_by_name_in_part_and_at_another_size(tmp_path: Path) -> None:
    views = dataclasses.replace(box_views(), cameras=None, names=("a", "b", "c", "d"))
    doubled = torch.nn.functional.interpolate(views.over(1.0)[1:3], scale_factor=2, mode="nearest")
    write_scene(Views(images=doubled, names=("b", "x")), tmp_path / "truth")
    truth = match_truth(views, tmp_path / "truth")
    assert truth.matched_by == "name"
    assert truth.known.tolist() == [False, True, False, False]
    # Averaging by area undoes the doubling.
    assert torch.allclose(truth.images[1], views.over(1.0)[1], atol=0.003)
    assert torch.isnan(truth.psnr[[0, 2, 3]]).all()
    with pytest.raises(InputError, match="shares no view"):
        match_truth(views[3], tmp_path / "truth")
    cut = dataclasses.replace(views, images=views.images[..., :20], masks=None, depths=None)
    with pytest.raises(InputError, match="shape"):
        match_truth(cut, tmp_path / "truth")


def test_covariances_turn_with_the_gaussian(tmp_path: Path) -> None:
    # A quarter turn about z (w = z = sqrt(1/2)) takes the long x axis, sigma 2, to y.
    half = np.sqrt(0.5)
    long = {**GAUSSIAN, "scale": np.log([2.0, 1.0, 0.5]).tolist(), "rot": [3 * half, 0, 0, 3 * half]}
    (tmp_path / "splats.ply").write_bytes(splat_bytes([long]))
    splats = load_contents(tmp_path).splats
    assert splats is not None
    np.testing.assert_allclose(covariances_of(splats)[0], np.diag([1, 4, 0.25]), atol=1e-5)
