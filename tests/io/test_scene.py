"""Scene folders written and read back, and what is said about broken ones."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.errors import InputError
from manyview.io.images import read_image, to_uint8, write_png, write_png16
from manyview.io.scene import frame_names, list_scenes, list_splits, read_scene, write_scene
from manyview.types import Cameras, Views


def ring(count: int, height: int, width: int) -> Cameras:
    """Cameras on a circle of radius 1.5 around +Z that look at the origin; x right, y down, z forward."""
    matrices = []
    for index in range(count):
        angle = 2 * math.pi * index / count
        forward = torch.tensor([-math.cos(angle), -math.sin(angle), 0.0])
        down = torch.tensor([0.0, 0.0, -1.0])
        right = torch.linalg.cross(down, forward)
        matrix = torch.eye(4)
        matrix[:3, :3] = torch.stack((right, down, forward), dim=1)
        matrix[:3, 3] = -1.5 * forward
        matrices.append(matrix)
    K = torch.tensor([[70.0, 0, width / 2 + 1], [0, 72.0, height / 2 - 2], [0, 0, 1]])
    return Cameras(
        world_from_cam=torch.stack(matrices),
        K=K.expand(count, 3, 3).clone(),
        sizes=torch.tensor([[height, width]]).expand(count, 2).clone(),
    )


def some_views(count: int = 3, height: int = 12, width: int = 20, *, cameras: bool = True) -> Views:
    """Views whose numbers survive 8 bits; half of each mask is 0 and there the image is white."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, height, width), generator=generator) / 255
    masks = torch.ones(count, 1, height, width)
    masks[..., : width // 2] = 0
    return Views(
        images=torch.where(masks > 0, images, 1.0),
        masks=masks,
        cameras=ring(count, height, width) if cameras else None,
        observed=torch.arange(count) == 1,
        depths=torch.rand(count, 1, height, width, generator=generator) + 1,
    )


def test_round_trip(tmp_path: Path) -> None:
    views = some_views()
    write_scene(views, tmp_path / "scene")
    back = read_scene(tmp_path / "scene", split=1)
    assert torch.equal(back.images, views.images)
    assert back.masks is not None
    assert views.masks is not None
    assert torch.equal(back.masks, views.masks)
    assert back.observed.tolist() == [False, True, False]
    assert back.names == ("000", "001", "002")
    assert back.cameras is not None
    assert views.cameras is not None
    assert torch.equal(back.cameras.world_from_cam, views.cameras.world_from_cam)
    assert torch.equal(back.cameras.K, views.cameras.K)
    assert back.depths is not None
    assert views.depths is not None
    # Depth is stored times 1000 in float32: equal to within a rounding.
    assert torch.allclose(back.depths, views.depths, rtol=3e-7, atol=0)
    assert sorted(path.name for path in (tmp_path / "scene").iterdir()) == [
        "depth",
        "images",
        "train_test_split_1.json",
        "transforms.json",
    ]


def test_without_split_all_are_observed(tmp_path: Path) -> None:
    write_scene(some_views(), tmp_path / "scene")
    assert read_scene(tmp_path / "scene").observed.all()
    assert list_splits(tmp_path / "scene") == [1]
    with pytest.raises(InputError, match="no such split; the scene has: 1"):
        read_scene(tmp_path / "scene", split=2)


def test_round_trip_without_cameras(tmp_path: Path) -> None:
    views = dataclasses.replace(some_views(11, cameras=False), names=tuple("kjihgfedcba"))
    write_scene(views, tmp_path / "scene")
    # The names sort backwards, so the index goes before them and the order stays.
    back = read_scene(tmp_path / "scene", split=1)
    assert torch.equal(back.images, views.images)
    assert back.cameras is None
    assert back.observed.tolist() == views.observed.tolist()
    assert back.names[0] == "000_k"
    assert not (tmp_path / "scene" / "transforms.json").exists()


def test_names() -> None:
    views = some_views(2)
    assert frame_names(dataclasses.replace(views, names=("b", "a"))) == ("b", "a")
    assert frame_names(dataclasses.replace(views, names=("a", "A"))) == ("000_a", "001_A")
    assert frame_names(dataclasses.replace(views, names=("../a", "b"))) == ("000__a", "001_b")


def test_plain_folder_and_single_image(tmp_path: Path) -> None:
    for index in (10, 2):
        write_png(tmp_path / f"{index}.png", torch.full((3, 4, 6), index / 255))
    views = read_scene(tmp_path)
    assert views.names == ("2", "10")
    assert views.masks is None
    assert views.cameras is None
    assert read_scene(tmp_path / "10.png").images.shape == (1, 3, 4, 6)


def test_hidden_pixels_take_the_background(tmp_path: Path) -> None:
    alpha = torch.tensor([0.0, 0.2, 1.0]).reshape(1, 1, 3)
    write_png(tmp_path / "a.png", torch.full((3, 1, 3), 0.2), alpha)
    views = read_scene(tmp_path, background=0.5)
    # Straight colour is kept wherever anything shows.
    assert torch.allclose(views.images[0, 0, 0], torch.tensor([0.5, 0.2, 0.2]))


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_size_moves_cameras_with_the_pixels(tmp_path: Path, fit: str) -> None:
    # A point's pixel must show the same spot after resizing. Mark one pixel block and follow its centre.
    height, width = 24, 48
    views = some_views(1, height, width)
    images = torch.zeros(1, 3, height, width)
    images[..., 8:12, 20:24] = 1
    views = dataclasses.replace(views, images=images, masks=None, depths=None)
    write_scene(views, tmp_path / "scene")
    small = read_scene(tmp_path / "scene", size=12, fit=fit, background=0.0)  # pyright: ignore[reportArgumentType]
    assert small.size == (12, 12)
    assert small.cameras is not None
    assert views.cameras is not None
    weight = small.images[0, 0]
    rows, columns = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(12) + 0.5, indexing="ij")
    seen = torch.stack(((weight * columns).sum(), (weight * rows).sum())) / weight.sum()
    # The block's centre (22, 10) as a direction of the old camera, seen by the new one.
    direction = torch.linalg.inv(views.cameras.K[0]) @ torch.tensor([22.0, 10.0, 1.0])
    expected = small.cameras.K[0] @ direction
    assert torch.allclose(seen, expected[:2], atol=1e-4)
    assert small.cameras.sizes.tolist() == [[12, 12]]


def test_depth_png_in_millimetres(tmp_path: Path) -> None:
    write_scene(some_views(1), tmp_path / "scene")
    # 1.5 units are 1500 in the file.
    write_png16(tmp_path / "scene" / "depth" / "a.png", torch.full((1, 12, 20), 1500 / 65535))
    text = (tmp_path / "scene" / "transforms.json").read_text().replace("depth/000.npy", "depth/a.png")
    (tmp_path / "scene" / "transforms.json").write_text(text)
    depths = read_scene(tmp_path / "scene").depths
    assert depths is not None
    assert torch.allclose(depths, torch.full((1, 1, 12, 20), 1.5))


def test_mask_file_wins_over_alpha(tmp_path: Path) -> None:
    write_scene(some_views(1), tmp_path / "scene")
    write_png(tmp_path / "scene" / "mask.png", torch.ones(1, 12, 20))
    path = tmp_path / "scene" / "transforms.json"
    record = json.loads(path.read_text())
    record["frames"][0]["mask_path"] = "mask.png"
    path.write_text(json.dumps(record))
    masks = read_scene(tmp_path / "scene").masks
    assert masks is not None
    assert masks.min() == 1


def test_missing_images_are_listed_in_one_line(tmp_path: Path) -> None:
    write_scene(some_views(10), tmp_path / "scene")
    for index in range(1, 9):
        (tmp_path / "scene" / "images" / f"{index:03d}.png").unlink()
    with pytest.raises(InputError) as caught:
        read_scene(tmp_path / "scene")
    line = str(caught.value)
    names = ", ".join(f"images/{index:03d}.png" for index in range(1, 7))
    assert line == f"INPUT: {tmp_path}/scene: 8 of 10 images are missing: {names} and 2 more"


def test_unobserved_frames_may_have_no_image(tmp_path: Path) -> None:
    write_scene(some_views(3), tmp_path / "scene")
    (tmp_path / "scene" / "images" / "002.png").unlink()
    views = read_scene(tmp_path / "scene", split=1)
    assert len(views) == 3
    assert views.images[2].abs().max() == 0
    assert views.images[0].abs().max() > 0


def test_broken_scenes(tmp_path: Path) -> None:
    write_scene(some_views(2), tmp_path / "scene")
    Image.new("RGB", (5, 5)).save(tmp_path / "scene" / "images" / "001.png")
    with pytest.raises(InputError, match="5 x 5 pixels, but its camera has 20 x 12"):
        read_scene(tmp_path / "scene")
    write_scene(some_views(2), tmp_path / "other")
    np.save(tmp_path / "other" / "depth" / "000.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="expected depth as"):
        read_scene(tmp_path / "other")
    with pytest.raises(InputError, match="expected an existing scene folder"):
        read_scene(tmp_path / "absent")


def test_sizes_that_differ(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", torch.zeros(3, 4, 6))
    write_png(tmp_path / "b.png", torch.zeros(3, 5, 6))
    with pytest.raises(InputError, match=r"6 x 4, but b is 6 x 5\); give one size"):
        read_scene(tmp_path)
    assert read_scene(tmp_path, size=4).size == (4, 4)


def test_cameras_of_another_size_are_refused(tmp_path: Path) -> None:
    views = some_views(2)
    assert views.cameras is not None
    wrong = dataclasses.replace(views, cameras=views.cameras.resized(8, 8))
    with pytest.raises(InputError, match=r"views\.cameras"):
        write_scene(wrong, tmp_path / "scene")
    assert list(tmp_path.iterdir()) == []


def test_list_scenes(tmp_path: Path) -> None:
    for name in ("obj10", "obj2"):
        write_scene(some_views(1), tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert [path.name for path in list_scenes(tmp_path)] == ["obj2", "obj10"]
    assert list_scenes(tmp_path / "obj2") == [tmp_path / "obj2"]
    with pytest.raises(InputError, match=r"--data: .*holds no scene"):
        list_scenes(tmp_path / "notes")


def test_images_hold_alpha_as_mask(tmp_path: Path) -> None:
    views = some_views(1)
    write_scene(views, tmp_path / "scene")
    color, alpha = read_image(tmp_path / "scene" / "images" / "000.png")
    assert alpha is not None
    assert to_uint8(alpha).unique().tolist() == [0, 255]
    assert torch.equal(color, views.images[0])


def test_max_side_shrinks_in_shape_and_moves_cameras(tmp_path: Path) -> None:
    views = Views(
        images=torch.rand(3, 3, 24, 48), cameras=ring(3, 24, 48), depths=torch.rand(3, 1, 24, 48) + 1
    )
    write_scene(views, tmp_path / "scene")
    small = read_scene(tmp_path / "scene", max_side=16)
    assert small.size == (8, 16)
    # Blocks of 3 x 3 pixels become one; 8-bit rounding of the file is below 1/500.
    expected = views.images.unfold(2, 3, 3).unfold(3, 3, 3).mean(dim=(4, 5))
    torch.testing.assert_close(small.images, expected, atol=2e-3, rtol=0)
    assert views.cameras is not None
    assert small.cameras is not None
    torch.testing.assert_close(small.cameras.K[:, :2] * 3, views.cameras.K[:, :2])
    assert small.cameras.sizes.tolist() == [[8, 16]] * 3
    assert read_scene(tmp_path / "scene", max_side=48).size == (24, 48)
