"""Images in and out. Pixel values are chosen so that each expected number can be worked out by hand."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from manyview.errors import InputError, MissingDependency
from manyview.io import images as images_module
from manyview.io.images import list_images, read_folder, read_image, to_uint8, write_png, write_png16

RAMP = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def png_of(pixels: np.ndarray, color_type: int) -> bytes:
    """A 16-bit PNG by the standard: big-endian rows, each after a filter byte 0."""
    height, width = pixels.shape[:2]

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def as_bytes(image: torch.Tensor) -> np.ndarray:
    return to_uint8(image).permute(1, 2, 0).numpy()


def test_eight_bit_round_trip_is_exact(tmp_path: Path) -> None:
    # All 256 levels survive: level / 255 * 255 rounds back to level.
    levels = torch.arange(256, dtype=torch.float32).reshape(1, 16, 16).expand(3, -1, -1) / 255
    alpha = levels[:1].flip(1)
    write_png(tmp_path / "a.png", levels, alpha)
    color, mask = read_image(tmp_path / "a.png")
    assert torch.equal(color, levels)
    assert mask is not None
    assert torch.equal(mask, alpha)
    assert color.dtype == torch.float32


def test_no_alpha_stays_none(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", torch.rand(3, 4, 5))
    color, mask = read_image(tmp_path / "a.png")
    assert mask is None
    assert color.shape == (3, 4, 5)


def test_write_rounds_and_clamps(tmp_path: Path) -> None:
    # 0.5 * 255 = 127.5 rounds to even 128; below 0 and above 1 are clamped.
    write_png(tmp_path / "a.png", torch.tensor([0.5, -3.0, 7.0]).reshape(3, 1, 1))
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[[128, 0, 255]]]


def test_write_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NaN"):
        write_png(tmp_path / "a.png", torch.full((3, 2, 2), float("nan")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_png_keeps_all_bits(tmp_path: Path, color_type: int, channels: int) -> None:
    # Neighbouring values differ by less than 1/255, so 8 bits could not tell them apart.
    pixels = (np.arange(3 * 5 * channels) * 37 + 1000).astype(np.uint16).reshape(3, 5, channels)
    (tmp_path / "a.png").write_bytes(png_of(pixels, color_type))
    color, alpha = read_image(tmp_path / "a.png")
    stored = torch.from_numpy(pixels.astype(np.float32) / 65535).permute(2, 0, 1)
    expected = stored[:3] if channels >= 3 else stored[:1].expand(3, -1, -1)
    assert torch.equal(color, expected)
    if channels in (2, 4):
        assert alpha is not None
        assert torch.equal(alpha, stored[-1:])
    else:
        assert alpha is None


def test_grey_sixteen_bit_round_trip(tmp_path: Path) -> None:
    values = torch.arange(0, 65536, 97, dtype=torch.float32)[:400].reshape(1, 20, 20) / 65535
    write_png16(tmp_path / "a.png", values)
    color, _ = read_image(tmp_path / "a.png")
    assert torch.equal(color[:1], values)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bit_tiff(tmp_path: Path, channels: int) -> None:
    pixels = (np.arange(3 * 5 * channels) * 37 + 1000).astype(np.uint16).reshape(3, 5, channels)
    photometric = "rgb" if channels >= 3 else "minisblack"
    extra = ["unassalpha"] if channels == 4 else None
    tifffile.imwrite(tmp_path / "a.tif", pixels.squeeze(), photometric=photometric, extrasamples=extra)
    color, alpha = read_image(tmp_path / "a.tif")
    stored = torch.from_numpy(pixels.astype(np.float32) / 65535).permute(2, 0, 1)
    assert torch.equal(color, stored[:3].expand(3, -1, -1))
    assert (alpha is not None) == (channels == 4)


# Row by row where each EXIF orientation shows the stored image's corners, from the standard's wording:
# 1 row 0 top, column 0 left; 2 mirrored; 3 turned by 180; 4 flipped; 5 transposed; 6 row 0 at the right;
# 7 transversed; 8 row 0 at the left. Stored is [[a, b, c], [d, e, f]].
UPRIGHT = {
    1: ["abc", "def"],
    2: ["cba", "fed"],
    3: ["fed", "cba"],
    4: ["def", "abc"],
    5: ["ad", "be", "cf"],
    6: ["da", "eb", "fc"],
    7: ["fc", "eb", "da"],
    8: ["cf", "be", "ad"],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png8", "png16", "tiff8", "tiff16"])
def test_exif_orientations(tmp_path: Path, orientation: int, kind: str) -> None:
    letters = np.array([list(map(ord, "abc")), list(map(ord, "def"))], dtype=np.uint8)
    stored = Image.fromarray(np.repeat(letters[..., None], 3, axis=2))
    exif = Image.Exif()
    exif[0x0112] = orientation
    suffix = "tif" if kind.startswith("tiff") else "png"
    path = tmp_path / f"a.{suffix}"
    if kind == "png16":
        plain = png_of(np.repeat(letters.astype(np.uint16)[..., None] * 257, 3, axis=2), 2)
        body = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
        path.write_bytes(plain[:33] + chunk + plain[33:])
    elif kind == "tiff16":
        wide = np.repeat(letters.astype(np.uint16)[..., None] * 257, 3, axis=2)
        tifffile.imwrite(path, wide, photometric="rgb", extratags=[(0x0112, "H", 1, orientation)])
    else:
        stored.save(path, exif=exif)
    color, _ = read_image(path)
    shown = ["".join(chr(value) for value in row) for row in as_bytes(color)[..., 0]]
    assert shown == UPRIGHT[orientation]


def test_exif_orientation_of_a_jpeg(tmp_path: Path) -> None:
    # Left half black, right half white; orientation 6 turns clockwise, so black comes to the top.
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    color, _ = read_image(tmp_path / "a.jpg")
    assert color.shape == (3, 32, 16)
    assert float(color[:, :14].max()) < 0.1
    assert float(color[:, 18:].min()) > 0.9


def test_modes_become_rgb_and_alpha(tmp_path: Path) -> None:
    grey = Image.fromarray(RAMP[..., 0])
    cases = {
        "L": (grey, False),
        "LA": (Image.merge("LA", (grey, grey)), True),
        "1": (grey.convert("1"), False),
        "P": (Image.fromarray(RAMP).convert("P"), False),
        "RGBA": (Image.fromarray(np.dstack((RAMP, RAMP[..., :1]))), True),
    }
    for name, (picture, has_alpha) in cases.items():
        picture.save(tmp_path / f"{name}.png")
        color, alpha = read_image(tmp_path / f"{name}.png")
        expected = np.asarray(picture.convert("RGB"))
        assert (as_bytes(color) == expected).all(), name
        assert (alpha is not None) == has_alpha, name
        if alpha is not None:
            assert (to_uint8(alpha)[0].numpy() == np.asarray(picture.getchannel("A"))).all(), name


def test_palette_and_grey_with_a_transparent_value(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode="P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png", transparency=bytes([255, 0, 128]))
    color, alpha = read_image(tmp_path / "p.png")
    assert alpha is not None
    assert to_uint8(alpha)[0].tolist() == [[255, 0, 128]]
    assert as_bytes(color)[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    Image.fromarray(np.array([[7, 9]], dtype=np.uint8)).save(tmp_path / "g.png", transparency=9)
    _, alpha = read_image(tmp_path / "g.png")
    assert alpha is not None
    assert alpha[0].tolist() == [[1.0, 0.0]]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    # Cyan ink only: no red, full green and blue.
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    color, alpha = read_image(tmp_path / "a.jpg")
    assert alpha is None
    assert torch.allclose(color.mean(dim=(1, 2)), torch.tensor([0.0, 1.0, 1.0]), atol=0.02)


def test_heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    picture = heif.from_pillow(Image.new("RGB", (64, 32), (200, 30, 30)))
    picture.save(tmp_path / "photo.heic")
    color, _ = read_image(tmp_path / "photo.heic")
    assert color.shape == (3, 32, 64)
    assert torch.allclose(color.mean(dim=(1, 2)), torch.tensor([200, 30, 30]) / 255, atol=0.03)

    def absent(data: bytes) -> Image.Image:
        raise ImportError

    monkeypatch.setattr(images_module, "decode_heif", absent)
    with pytest.raises(MissingDependency, match="pip install pillow-heif"):
        read_image(tmp_path / "photo.heic")


def broken_inputs(folder: Path) -> dict[str, Path]:
    """Files no reader can accept, by what the line must say."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    data = buffer.getvalue()
    (folder / "half.png").write_bytes(data[: len(data) // 2])
    Image.fromarray(noise).save(folder / "half.jpg")
    jpeg = (folder / "half.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    sixteen = png_of(noise.astype(np.uint16), 2)
    (folder / "half16.png").write_bytes(sixteen[: len(sixteen) // 2])
    (folder / "text.png").write_text("not an image\n" * 9)
    (folder / "empty.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    Image.new("1", (60000, 1)).save(folder / "long.png")
    bomb = bytearray(png_of(np.zeros((1, 1, 3), dtype=np.uint16), 2))
    bomb[16:24] = struct.pack(">II", 200_000, 200_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    (folder / "bomb.png").write_bytes(bytes(bomb))
    tifffile.imwrite(folder / "float.tif", np.zeros((4, 4, 3), dtype=np.float32), photometric="rgb")
    tifffile.imwrite(folder / "grey.tif", np.zeros((4, 4), dtype=np.float32))
    return {
        "broken image": folder / "half.png",
        "broken image (": folder / "half.jpg",
        "image file is truncated": folder / "half16.png",
        "not an image": folder / "text.png",
        "is empty": folder / "empty.png",
        "is a folder": folder / "folder.png",
        "60000 x 1 pixels": folder / "long.png",
        "far too many pixels": folder / "bomb.png",
        "a TIFF of float or rare format": folder / "float.tif",
        "float32 has no fixed range": folder / "grey.tif",
        "does not exist": folder / "absent.png",
    }


def test_bad_inputs_are_one_line(tmp_path: Path) -> None:
    for words, path in broken_inputs(tmp_path).items():
        with pytest.raises(InputError) as caught:
            read_image(path)
        line = str(caught.value)
        assert line.startswith(f"INPUT: {path}: "), line
        assert words in line
        assert "\n" not in line


def test_size_limit_is_checked_before_decoding(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", torch.zeros(3, 40, 50))
    data = (tmp_path / "a.png").read_bytes()
    # Cut right after the header: only a reader that does not decode can name the size.
    (tmp_path / "a.png").write_bytes(data[:41])
    with pytest.raises(InputError, match="50 x 40 pixels; expected at most 48 a side"):
        read_image(tmp_path / "a.png", max_side=48)
    with pytest.raises(InputError, match="1999 in all"):
        read_image(tmp_path / "a.png", max_pixels=1999)


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for name in ("view10.png", "view2.png", "View1.png", ".hidden.png"):
        write_png(tmp_path / name, torch.zeros(3, 2, 2))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["View1.png", "view2.png", "view10.png"]
    assert [path.name for path, _, _ in read_folder(tmp_path)] == ["View1.png", "view2.png", "view10.png"]


def test_empty_or_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        list_images(tmp_path)
    with pytest.raises(InputError, match="expected an existing folder"):
        list_images(tmp_path / "absent")
