"""What an orbit is made of: photos, views of scenes, words; and what is made of it by the lift."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from box_capture import box_cameras
from tiny_text import write_tiny_text_model
from torch.testing import assert_close

from manyview.data.given import read_given_view
from manyview.data.procedural.source import render_seed
from manyview.errors import InputError
from manyview.geometry.trajectories import orbit
from manyview.io.images import write_png
from manyview.io.scene import write_scene
from manyview.lift.mesh.options import MeshOptions
from manyview.lift.sdf.options import SdfOptions
from manyview.lift.splats.options import SplatOptions
from manyview.methods.hi3d.products import cut_out, lift_options, lift_orbit
from manyview.methods.hi3d.text import check_text_model, draw_text
from manyview.types import Views


@pytest.fixture(scope="module")
def turned() -> Views:
    """A drawn object from 8 sides, as a scene has it."""
    return render_seed(3, orbit(8, 20.0, size=48))


def test_a_posed_view_is_taken_as_it_is(turned: Views, tmp_path: Path) -> None:
    write_scene(turned, tmp_path / "scene")
    given = read_given_view(tmp_path / "scene", index=2)
    assert given.elevation_deg == pytest.approx(20.0, abs=1e-3)
    views, record = given.frame(24)
    assert record["fill"] == "as its camera sees it"
    assert_close(views.cameras.world_from_cam, turned.cameras.world_from_cam[[2]], atol=1e-5, rtol=0)
    assert views.cameras.sizes.tolist() == [[24, 24]]
    # Averaged over squares of two pixels, over white.
    small = torch.nn.functional.avg_pool2d(turned.over(1.0)[[2]], 2)
    assert_close(views.over(1.0), small, atol=0.01, rtol=0)
    # With a share of the frame asked for it is a photo like any other.
    framed, record = given.frame(24, fill=0.5)
    assert framed.cameras is None
    assert record["fill"] == 0.5
    solid = (framed.masks[0, 0] > 0.5).any(dim=0).sum(), (framed.masks[0, 0] > 0.5).any(dim=1).sum()
    assert max(int(side) for side in solid) == 12


def test_one_view_has_to_be_meant(turned: Views, tmp_path: Path) -> None:
    write_scene(turned, tmp_path / "scene")
    with pytest.raises(InputError, match="8 given views"):
        read_given_view(tmp_path / "scene")
    with pytest.raises(InputError, match="--slots: 8"):
        read_given_view(tmp_path / "scene", index=8)
    observed = torch.arange(8) == 5
    write_scene(dataclasses.replace(turned, observed=observed), tmp_path / "split")
    assert read_given_view(tmp_path / "split").name.endswith(": 005")
    with pytest.raises(InputError, match="--mask"):
        read_given_view(tmp_path / "split", mask=tmp_path / "mask.png")


def test_other_cameras_say_nothing(turned: Views, tmp_path: Path) -> None:
    """One that looks at the origin from elsewhere still has an elevation; one that does not has none."""
    far = dataclasses.replace(turned, cameras=orbit(8, 20.0, 4.0, size=48))
    write_scene(far, tmp_path / "far")
    given = read_given_view(tmp_path / "far", index=0)
    assert given.camera is None
    assert given.elevation_deg == pytest.approx(20.0, abs=1e-3)
    assert given.frame(24)[0].cameras is None
    away = dataclasses.replace(turned, cameras=box_cameras(8).resized(48, 48).to(torch.float32))
    away = dataclasses.replace(away, cameras=dataclasses.replace(away.cameras, distortion=None))
    write_scene(away, tmp_path / "away")
    assert read_given_view(tmp_path / "away", index=0).elevation_deg is None


def test_a_photo_and_its_mask(tmp_path: Path) -> None:
    image = torch.rand(3, 30, 40)
    mask = torch.zeros(1, 30, 40)
    mask[:, 5:25, 10:20] = 1
    write_png(tmp_path / "photo.png", image)
    write_png(tmp_path / "mask.png", mask.expand(3, -1, -1))
    given = read_given_view(tmp_path / "photo.png", mask=tmp_path / "mask.png")
    views, record = given.frame(20, elevation_deg=0.0)
    assert record["object_pixels"] == [20, 10]
    assert record["fill"] == pytest.approx(0.805)  # of tall objects at the horizon
    assert float(views.images[0, :, 0].min()) == 1
    with pytest.raises(InputError, match="no transparency and no plain background"):
        read_given_view(tmp_path / "photo.png").frame(20)
    with pytest.raises(InputError, match="--slots"):
        read_given_view(tmp_path / "photo.png", index=1)


def test_what_is_made_of_an_orbit(turned: Views, tmp_path: Path) -> None:
    flat = Views(images=turned.over(1.0), cameras=turned.cameras, observed=torch.arange(8) == 0)
    cut = cut_out(flat)
    off = (cut.masks > 0.5) != (turned.masks > 0.5)
    # Half-covered pixels of the outline count as the object.
    assert float(off.float().mean()) < 0.04
    options = dataclasses.replace(
        lift_options(interpolated=8, num_steps=60),
        splats=SplatOptions(num_steps=60, num_points=400),
        sdf=SdfOptions(steps=60, resolution=24, rays=512),
        mesh=MeshOptions(resolution=24, texture_size=64, num_faces=800),
    )
    made = lift_orbit(flat, options=options, stages=tmp_path)
    assert made.failed == {}
    assert made.mesh is not None
    assert made.best is made.mesh
    # The mesh has found the splats of before.
    assert list(made.mesh.seconds) == ["splats", "surface", "mesh"]
    assert torch.equal(made.mesh.splats.means, made.splats.splats.means)
    extent = made.mesh.mesh.extents.max()
    assert extent == pytest.approx(1.0, abs=0.15)  # objects have longest side 1
    # A stopped run goes on from what it finished.
    for name in ("splats.ply", "surface.safetensors"):
        assert (tmp_path / name).is_file()
    again = lift_orbit(flat, ["mesh"], options, stages=tmp_path)
    assert again.splats is None
    assert again.mesh.mesh.extents.max() == pytest.approx(extent)
    with pytest.raises(InputError, match="--interpolated"):
        lift_options(interpolated=-1)


def test_views_without_a_surface(turned: Views) -> None:
    white = Views(images=torch.ones(8, 3, 48, 48), cameras=turned.cameras)
    made = lift_orbit(white, ["mesh"], lift_options(interpolated=0, num_steps=5))
    assert made.mesh is None
    assert made.best is None
    assert "mesh" in made.failed


def test_pictures_of_words(tmp_path: Path) -> None:
    model = str(write_tiny_text_model(tmp_path / "text"))
    one, again, other = (draw_text("a chair", model, seed=seed, num_inference_steps=2) for seed in (0, 0, 1))
    assert one.shape == (3, 16, 16)
    assert torch.equal(one, again)
    assert float((one - other).abs().max()) > 1e-3
    assert float((one - draw_text("zebra", model, num_inference_steps=2)).abs().max()) > 1e-6


def test_text_models_are_refused_before_they_load(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"model_index\.json"):
        check_text_model(str(tmp_path / "empty"))
    for name in ("nowhere", str(tmp_path / "nowhere"), "./no/where"):
        with pytest.raises(InputError, match="no such folder"):
            check_text_model(name)
    model = write_tiny_text_model(tmp_path / "text")
    check_text_model(str(model))
    for file in model.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(InputError, match="not safetensors"):
        check_text_model(str(model))
