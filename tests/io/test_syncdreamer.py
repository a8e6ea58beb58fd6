from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from manyview.errors import InputError
from manyview.io.syncdreamer import read_syncdreamer_meta, syncdreamer_cameras


def blender_meta(count: int = 16) -> list[np.ndarray]:
    """[K, azimuths, elevations, distances, poses] built from a look-at, as renderings store it."""
    azimuths = (np.arange(count) / count * np.pi * 2).astype(np.float32)
    elevations = np.deg2rad(np.linspace(-10, 40, count))
    elevations[3] = np.deg2rad(30)
    distances = np.full(count, 1.5)
    poses = []
    for a, e, d in zip(azimuths, elevations, distances, strict=True):
        position = d * np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        z = -position / d
        x = np.cross(z, [0, 0, 1])
        x /= np.linalg.norm(x)
        rotation = np.stack((x, np.cross(z, x), z))
        poses.append(np.concatenate((rotation, -rotation @ position[:, None]), axis=1))
    K = np.array([[280, 0, 128], [0, 280, 128], [0, 0, 1]], dtype=np.float32)
    return [K, azimuths, elevations, distances, np.stack(poses)]


def test_fixed_views_see_the_origin_in_the_centre(opencv_pixels):
    cameras = syncdreamer_cameras()
    assert cameras.K[7].tolist() == [[280, 0, 128], [0, 280, 128], [0, 0, 1]]
    for index in range(16):
        pixels = opencv_pixels(cameras, index, np.array([[0.0, 0, 0], [0, 0, 0.1]]))
        np.testing.assert_allclose(pixels[0], (128, 128), atol=1e-4)
        assert pixels[1, 1] < 128
    # View 4 is a quarter turn counter-clockwise: on +Y.
    np.testing.assert_allclose(cameras.centers[4], (0, 1.5 * np.cos(np.pi / 6), 0.75), atol=1e-6)
    assert syncdreamer_cameras(512).K[0, 0, 0] == 560


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_meta_of_every_protocol(tmp_path, protocol, points, opencv_pixels):
    content = blender_meta()
    path = tmp_path / "meta.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    meta = read_syncdreamer_meta(path)
    np.testing.assert_allclose(meta.azimuths_deg, 22.5 * np.arange(16), rtol=1e-6)
    np.testing.assert_allclose(meta.elevations_deg[[0, -1]], (-10, 40))
    K, *_, poses = content
    for index in (0, 5):
        image = K @ (poses[index][:, :3] @ points.T + poses[index][:, 3:])
        expected = opencv_pixels(meta.cameras, index, points)
        np.testing.assert_allclose((image[:2] / image[2]).T, expected, atol=1e-3)
    # Where the elevation is 30 degrees the file agrees with the fixed views.
    np.testing.assert_allclose(
        meta.cameras.world_from_cam[3], syncdreamer_cameras().world_from_cam[3], atol=1e-6
    )


def test_module_names_of_numpy_1_are_read(tmp_path):
    data = pickle.dumps(blender_meta(), protocol=2).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    assert b"numpy.core.multiarray" in data
    (tmp_path / "meta.pkl").write_bytes(data)
    assert len(read_syncdreamer_meta(tmp_path / "meta.pkl").cameras) == 16


class _Payload:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_in_the_pickle_is_not_run(tmp_path, protocol):
    marker = tmp_path / "ran"
    path = tmp_path / "meta.pkl"
    path.write_bytes(pickle.dumps([*blender_meta()[:4], _Payload(str(marker))], protocol=protocol))
    with pytest.raises(InputError, match="mkdir"):
        read_syncdreamer_meta(path)
    assert not marker.exists()
    # The same bytes do make the folder when loaded carelessly, so the test would see it.
    pickle.loads(path.read_bytes())
    assert marker.exists()


def test_other_codecs_are_refused(tmp_path):
    path = tmp_path / "meta.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vx\nVrot13\ntR.")
    with pytest.raises(InputError, match="rot13"):
        read_syncdreamer_meta(path)


def test_wrong_content_is_named(tmp_path):
    path = tmp_path / "meta.pkl"
    with pytest.raises(InputError, match="no such file"):
        read_syncdreamer_meta(path)
    for content, word in (
        ({"K": 1}, "dict"),
        ([1, 2], "list"),
        (["a", "b", "c", "d", "e"], "no numbers"),
        ([*blender_meta()[:4], np.zeros((4, 3, 4))], "shapes"),
        ([*blender_meta()[:4], np.zeros((16, 3, 4))], "view 0.*orthonormal"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(InputError, match=word):
            read_syncdreamer_meta(path)
    path.write_bytes(pickle.dumps(blender_meta())[:-40])
    with pytest.raises(InputError):
        read_syncdreamer_meta(path)
