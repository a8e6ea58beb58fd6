"""Files of Gaussians: bytes where the format fixes them, round trips, and readers that are not ours."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from scipy.spatial.transform import Rotation

from manyview.errors import InputError
from manyview.io.splat_axes import sh_basis, turned_sh
from manyview.io.splat_files import (
    SplatArrays,
    ply_bytes,
    read_splats,
    splats_from_ply,
    splats_from_splat,
    write_splats,
)


def some_splats(count: int = 7, num_coefficients: int = 16) -> SplatArrays:
    rng = np.random.default_rng(3)
    quaternions = rng.normal(size=(count, 4))
    return SplatArrays(
        means=rng.uniform(-0.5, 0.5, (count, 3)),
        log_scales=rng.uniform(-5, -2, (count, 3)),
        quaternions=quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True),
        opacity_logits=rng.uniform(-2, 3, count),
        sh=rng.uniform(-0.7, 0.7, (count, num_coefficients, 3)),
    )


def colors(splats: SplatArrays, directions: np.ndarray) -> np.ndarray:
    return 0.5 + np.einsum("dk,nkc->ndc", sh_basis(directions, splats.sh.shape[1]), splats.sh)


def covariances(splats: SplatArrays) -> np.ndarray:
    turns = Rotation.from_quat(np.roll(splats.quaternions, -1, axis=1)).as_matrix()
    return np.einsum("nij,nj,nkj->nik", turns, np.exp(2 * splats.log_scales), turns)


def assert_same(a: SplatArrays, b: SplatArrays, **tolerance: float) -> None:
    for name in ("means", "log_scales", "quaternions", "opacity_logits", "sh"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), err_msg=name, **tolerance)


@pytest.mark.parametrize("num_coefficients", [1, 4, 9, 16])
def test_ply_round_trip_is_exact(tmp_path: Path, num_coefficients: int) -> None:
    splats = some_splats(num_coefficients=num_coefficients)
    write_splats(tmp_path / "a.ply", splats)
    assert_same(read_splats(tmp_path / "a.ply"), splats, rtol=0, atol=0)


def test_ply_bytes_are_the_format_s() -> None:
    splats = SplatArrays(
        means=np.array([[1, 2, 3]]),
        log_scales=np.array([[-1, -2, -3]]),
        quaternions=np.array([[0.5, -0.5, 0.5, -0.5]]),
        opacity_logits=np.array([7.0]),
        # Coefficient k of channel c is 10 k + c.
        sh=(10 * np.arange(4)[:, None] + np.arange(3))[None],
    )
    header, _, body = ply_bytes(splats).partition(b"end_header\n")
    names = [line.split()[2].decode() for line in header.split(b"\n") if line.startswith(b"property")]
    expected = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    expected += [f"f_rest_{i}" for i in range(9)]
    assert names == [
        *expected,
        *["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"],
    ]
    # Red's three coefficients, green's, blue's.
    rest = [10, 20, 30, 11, 21, 31, 12, 22, 32]
    numbers = [1, 2, 3, 0, 0, 0, 0, 1, 2, *rest, 7, -1, -2, -3, 0.5, -0.5, 0.5, -0.5]
    assert body == struct.pack("<26f", *numbers)


def test_ply_is_read_by_name() -> None:
    splats = some_splats(3, 4)
    written = ply_bytes(splats)
    header, _, body = written.partition(b"end_header\n")
    names = [line.split()[2].decode() for line in header.split(b"\n") if line.startswith(b"property")]
    columns = dict(zip(names, np.frombuffer(body, "<f4").reshape(3, -1).T, strict=True))
    # Another order, doubles, big-endian, no normals, one property more, and faces behind.
    shuffled = sorted(n for n in names if n not in ("nx", "ny", "nz"))
    lines = ["ply", "format binary_big_endian 1.0", "comment made up", "element vertex 3"]
    lines += ["property uchar label", *(f"property double {name}" for name in shuffled)]
    lines += ["element face 0", "property list uchar int vertex_indices", "end_header", ""]
    records = np.zeros(3, [("label", "u1"), *((name, ">f8") for name in shuffled)])
    for name in shuffled:
        records[name] = columns[name]
    assert_same(splats_from_ply("\n".join(lines).encode() + records.tobytes()), splats, rtol=0, atol=0)


def test_a_ply_of_ours_in_two_foreign_readers(tmp_path: Path) -> None:
    import trimesh

    splats = some_splats()
    write_splats(tmp_path / "a.ply", splats)
    cloud = trimesh.load(tmp_path / "a.ply")
    np.testing.assert_array_equal(np.asarray(cloud.vertices, np.float32), splats.means)
    raw = cloud.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(raw["opacity"].ravel(), splats.opacity_logits)

    gsply = pytest.importorskip("gsply", reason="gsply, another project's reader, is not installed")
    theirs = gsply.plyread(tmp_path / "a.ply")
    np.testing.assert_array_equal(theirs.means, splats.means)
    np.testing.assert_array_equal(theirs.scales, splats.log_scales)
    np.testing.assert_array_equal(theirs.quats, splats.quaternions)
    np.testing.assert_array_equal(theirs.opacities, splats.opacity_logits)
    np.testing.assert_array_equal(theirs.sh0, splats.sh[:, 0])
    np.testing.assert_array_equal(theirs.shN.reshape(-1, 15, 3), splats.sh[:, 1:])
    # And what they write, we read.
    gsply.plywrite(tmp_path / "b.ply", theirs)
    assert_same(read_splats(tmp_path / "b.ply"), splats, rtol=0, atol=0)


def test_splat_bytes_and_order(tmp_path: Path) -> None:
    splats = SplatArrays(
        means=np.array([[1, 2, 3], [4, 5, 6]]),
        log_scales=np.log([[0.1, 0.2, 0.3], [1, 1, 1]]),
        quaternions=np.array([[1, 0, 0, 0], [0, 0, -2, 0]]),
        opacity_logits=np.array([0.0, 50.0]),
        # 0.5 + SH_C0 * dc: white is (1 - 0.5) / 0.2820948.
        sh=np.array([[[1.7724539] * 3], [[0, -5, 0]]]),
    )
    write_splats(tmp_path / "a.splat", splats)
    data = (tmp_path / "a.splat").read_bytes()
    # The larger, more opaque one comes first. 0.5 is byte 128 (127.5 rounded to even), -1 is 0, 1 is 255.
    assert data[:32] == struct.pack("<6f8B", 4, 5, 6, 1, 1, 1, 128, 0, 128, 255, 128, 128, 0, 128)
    np.testing.assert_allclose(struct.unpack("<6f", data[32:56]), [1, 2, 3, 0.1, 0.2, 0.3], rtol=1e-6)
    assert list(data[56:]) == [255, 255, 255, 128, 255, 128, 128, 128]


def test_splat_round_trip_within_its_bytes(tmp_path: Path) -> None:
    splats = some_splats(20, 1)
    write_splats(tmp_path / "a.splat", splats)
    back = read_splats(tmp_path / "a.splat")
    volume = splats.log_scales.sum(1) + np.log(1 / (1 + np.exp(-splats.opacity_logits.astype(float))))
    order = np.argsort(-volume)
    np.testing.assert_array_equal(back.means, splats.means[order])
    np.testing.assert_allclose(back.log_scales, splats.log_scales[order], atol=1e-5)
    np.testing.assert_allclose(back.quaternions, splats.quaternions[order], atol=1.001 / 128)
    inside = np.abs(0.5 + 0.2820948 * splats.sh[order] - 0.5) <= 0.5
    np.testing.assert_allclose(back.sh[inside], splats.sh[order][inside], atol=0.5 / 255 / 0.2820948 + 1e-5)
    opacity = 1 / (1 + np.exp(-splats.opacity_logits[order]))
    np.testing.assert_allclose(1 / (1 + np.exp(-back.opacity_logits)), opacity, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("suffix", [".ply", ".spz"])
def test_turned_files_turn_back(tmp_path: Path, suffix: str) -> None:
    if suffix == ".spz":
        pytest.importorskip("gsply", reason="gsply, which packs spz, is not installed")
    splats = some_splats(num_coefficients=9)
    path = tmp_path / f"a{suffix}"
    write_splats(path, splats, axes="rdf")
    back = read_splats(path, axes="rdf")
    # spz: 16 bits behind the point, 1/16 of a log-scale, 8 bits a coefficient of +-1.
    lossy = suffix == ".spz"
    np.testing.assert_allclose(back.means, splats.means, atol=1e-4 if lossy else 1e-6)
    np.testing.assert_allclose(back.log_scales, splats.log_scales, atol=0.04 if lossy else 0)
    # A quaternion and its negative are one turn.
    dots = np.abs((back.quaternions * splats.quaternions).sum(1))
    np.testing.assert_allclose(dots, 1, atol=0.01 if lossy else 1e-6)
    np.testing.assert_allclose(back.sh, splats.sh, atol=0.03 if lossy else 1e-5)
    sigmoid = [1 / (1 + np.exp(-s.opacity_logits)) for s in (back, splats)]
    np.testing.assert_allclose(*sigmoid, atol=0.01 if lossy else 0)


def test_spz_is_y_up_for_others(tmp_path: Path) -> None:
    spz = pytest.importorskip("gsply.spz", reason="gsply, which packs spz, is not installed")
    splats = some_splats()
    write_splats(tmp_path / "a.spz", splats)
    theirs = spz.read_spz(tmp_path / "a.spz")
    # Our +Z is their +Y, our +Y their -Z.
    x, y, z = splats.means.T
    np.testing.assert_allclose(theirs.means, np.stack([x, z, -y], axis=1), atol=1e-4)


def test_rdf_has_y_down() -> None:
    splats = some_splats(2)
    turned = splats.turned(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]))
    x, y, z = splats.means.T
    np.testing.assert_allclose(turned.means, np.stack([x, -z, y], axis=1))


def test_a_turn_moves_shape_and_colour_together() -> None:
    splats = some_splats()
    turn = Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix()
    turned = splats.turned(turn)
    directions = np.random.default_rng(0).normal(size=(5, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Seen from the turned direction, the turned Gaussian looks as before.
    np.testing.assert_allclose(colors(turned, directions @ turn.T), colors(splats, directions), atol=1e-5)
    np.testing.assert_allclose(covariances(turned), turn @ covariances(splats) @ turn.T, atol=1e-7)


def test_turns_compose() -> None:
    a, b = (Rotation.from_euler("xyz", angles).as_matrix() for angles in ([1, 2, 3], [-0.5, 0.2, 0.9]))
    sh = some_splats().sh
    np.testing.assert_allclose(turned_sh(turned_sh(sh, a), b), turned_sh(sh, b @ a), atol=1e-5)


def test_basis_against_scipy() -> None:
    directions = np.random.default_rng(0).normal(size=(6, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    polar, azimuth = np.arccos(directions[:, 2]), np.arctan2(directions[:, 1], directions[:, 0])
    expected = []
    for degree in range(4):
        for order in range(-degree, degree + 1):
            value = scipy.special.sph_harm_y(degree, abs(order), polar, azimuth)
            part = value.imag if order < 0 else value.real
            expected.append(part * (1 if order == 0 else np.sqrt(2)))
    np.testing.assert_allclose(sh_basis(directions, 16), np.stack(expected, axis=1), atol=1e-12)


def test_faults_are_one_line(tmp_path: Path) -> None:
    good = ply_bytes(some_splats())
    text = b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n"
    packed = b"ply\nformat binary_little_endian 1.0\nelement chunk 1\nproperty float min_x\n"
    packed += b"element vertex 1\nproperty uint packed_position\nend_header\n" + b"\0" * 8
    faults = {
        "short.ply": (good[:-1], "ends too early"),
        "text.ply": (text, "binary"),
        "none.ply": (b"what", "no ply header"),
        "mesh.ply": (good.replace(b"rot_2", b"rat_2"), "no rot_2"),
        "gap.ply": (good.replace(b"f_rest_44", b"f_rest_45"), "f_rest"),
        "nan.ply": (good[:-4] + struct.pack("<f", float("nan")), "NaN"),
        "packed.ply": (packed, "compressed"),
        "short.splat": (b"\0" * 33, "32 bytes"),
        "x.obj": (b"", ".splat"),
    }
    for name, (data, words) in faults.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=words) as caught:
            read_splats(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(InputError, match="does not exist"):
        read_splats(tmp_path / "nothing.ply")
    with pytest.raises(InputError, match="axes"):
        write_splats(tmp_path / "a.ply", some_splats(), axes="up")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"splats\.sh"):
        SplatArrays(**{**vars(some_splats()), "sh": np.zeros((7, 5, 3))})
    assert not (tmp_path / "a.ply").exists()


def test_splat_of_nothing_visible_stays_finite() -> None:
    record = struct.pack("<6f8B", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 128, 128, 128)
    splats = splats_from_splat(record)
    assert np.isfinite(splats.log_scales).all()
    assert np.isfinite(splats.opacity_logits).all()
