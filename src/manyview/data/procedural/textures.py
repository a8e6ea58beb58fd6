"""Random surface pictures: noise, stripes, checks, dots, text labels and painted scenes."""

from __future__ import annotations

import colorsys
import string
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TEXTURE_SIZE = 192
_WORDS = (  # noqa: SIM905 (as a list, one line a word)
    "FRESH NATURAL ORIGINAL SUPER CLASSIC MINI SOUP COFFEE TOY SPORT CARE CLEAN POWER SWEET GREEN BLUE "
    "OATS JUICE SALT TEA COCOA RICE BLOCK RACER STAR LION HOME KIDS PRO MAX VITA NET WT 100% NEW"
).split()

Picture = NDArray[np.float32]
Painter = Callable[[np.random.Generator, ImageDraw.ImageDraw, list], None]


def palette(rng: np.random.Generator) -> Picture:
    """[5, 3] colours that go together; greys, white and black are as common as on real goods."""
    hue = rng.random()
    spread = rng.choice([0.04, 0.12, 0.5])
    colours = []
    for index in range(5):
        kind = rng.random()
        if kind < 0.18:
            colours.append((rng.uniform(0.85, 1.0),) * 3)
        elif kind < 0.3:
            colours.append((rng.uniform(0.02, 0.2),) * 3)
        elif kind < 0.38:
            colours.append((rng.uniform(0.25, 0.75),) * 3)
        else:
            shade = hue + spread * rng.normal() * (index > 0)
            saturation = rng.beta(2, 1.6)
            colours.append(colorsys.hsv_to_rgb(shade % 1.0, saturation, rng.uniform(0.2, 1.0)))
    return np.clip(np.asarray(colours) + rng.normal(scale=0.01, size=(5, 3)), 0, 1).astype(np.float32)


def random_texture(rng: np.random.Generator, colours: Picture) -> Picture:
    """[T, T, 3] float in [0, 1], in the given palette, rows from top to bottom."""
    kind = rng.choice(
        ["plain", "noise", "stripes", "checks", "dots", "label", "painting", "bands"],
        p=[0.3, 0.17, 0.1, 0.04, 0.05, 0.16, 0.1, 0.08],
    )
    if kind == "plain":
        picture = _plain(colours)
    elif kind == "noise":
        picture = _noise(rng, colours)
    elif kind == "stripes":
        picture = _stripes(rng, colours)
    elif kind == "checks":
        picture = _checks(rng, colours)
    elif kind == "bands":
        picture = _bands(rng, colours)
    elif kind == "dots":
        picture = _draw(rng, colours, _dots)
    elif kind == "label":
        picture = _draw(rng, colours, _label)
    else:
        picture = _draw(rng, colours, _painting)
    grain = rng.uniform(0, 0.05) * (fractal_noise(rng, int(rng.integers(4, 24))) - 0.5)
    return np.clip(picture + grain[..., None], 0, 1).astype(np.float32)


def fractal_noise(rng: np.random.Generator, cells: int) -> Picture:
    """[T, T] in [0, 1]: four octaves of smooth value noise that tiles."""
    total = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE), np.float32)
    weight = 1.0
    for _ in range(4):
        if cells * 2 > TEXTURE_SIZE:
            break
        grid = rng.random((cells, cells)).astype(np.float32)
        wrapped = np.pad(grid, 1, mode="wrap")
        edge = TEXTURE_SIZE // cells
        side = (cells + 2) * edge
        big = Image.fromarray(wrapped).resize((side, side), Image.Resampling.BICUBIC)
        full = np.asarray(big)[edge : edge + cells * edge, edge : edge + cells * edge]
        total += weight * np.asarray(Image.fromarray(full).resize((TEXTURE_SIZE, TEXTURE_SIZE)))
        weight *= 0.55
        cells *= 2
    low, high = total.min(), total.max()
    return (total - low) / max(float(high - low), 1e-6)


def _plain(colours: Picture) -> Picture:
    return np.broadcast_to(colours[0], (TEXTURE_SIZE, TEXTURE_SIZE, 3)).copy()


def _ramp(position: Picture, colours: Picture) -> Picture:
    """Colours blended along [0, 1] through the palette."""
    knots = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(position, knots, colours[:, c]) for c in range(3)], -1).astype(np.float32)


def _noise(rng: np.random.Generator, colours: Picture) -> Picture:
    field = fractal_noise(rng, int(rng.integers(2, 9)))
    chosen = colours[: rng.integers(2, 5)]
    if rng.random() < 0.4:  # spots and camouflage: hard steps
        return chosen[np.minimum((field * len(chosen)).astype(int), len(chosen) - 1)]
    return _ramp(field, chosen)


def _coordinates(rng: np.random.Generator) -> tuple[Picture, Picture]:
    v, u = np.mgrid[0:TEXTURE_SIZE, 0:TEXTURE_SIZE].astype(np.float32) / TEXTURE_SIZE
    return u, v


def _stripes(rng: np.random.Generator, colours: Picture) -> Picture:
    u, v = _coordinates(rng)
    count = int(rng.integers(1, 9))
    along = [u, v, u + v][rng.integers(3)] * count
    if rng.random() < 0.3:
        along = along + 0.5 * fractal_noise(rng, 4)
    chosen = colours[: rng.integers(2, 5)]
    return chosen[(np.floor(along * 2).astype(int)) % len(chosen)]


def _checks(rng: np.random.Generator, colours: Picture) -> Picture:
    u, v = _coordinates(rng)
    count = int(rng.integers(2, 8))
    return colours[((np.floor(u * count) + np.floor(v * count)) % 2).astype(int)]


def _bands(rng: np.random.Generator, colours: Picture) -> Picture:
    """Horizontal zones of unequal height: the commonest pattern of bottles, tins and toys."""
    _, v = _coordinates(rng)
    edges = np.sort(rng.random(rng.integers(1, 4)))
    return colours[np.searchsorted(edges, v) % len(colours)]


def _draw(rng: np.random.Generator, colours: Picture, painter: Painter) -> Picture:
    image = Image.new("RGB", (TEXTURE_SIZE, TEXTURE_SIZE), _rgb(colours[0]))
    painter(rng, ImageDraw.Draw(image), [_rgb(c) for c in colours])
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _dots(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colours: list) -> None:
    step = TEXTURE_SIZE / rng.integers(3, 9)
    radius = step * rng.uniform(0.15, 0.42)
    for row in np.arange(step / 2, TEXTURE_SIZE, step):
        for column in np.arange(step / 2, TEXTURE_SIZE, step):
            draw.ellipse((column - radius, row - radius, column + radius, row + radius), fill=colours[1])


def _painting(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colours: list) -> None:
    """Overlapping shapes from large to small, as statistics of pictures on packages."""
    for size in np.geomspace(TEXTURE_SIZE * 0.6, TEXTURE_SIZE * 0.06, int(rng.integers(6, 40))):
        x, y = rng.uniform(0, TEXTURE_SIZE, 2)
        w, h = size * rng.uniform(0.4, 1.2, 2)
        colour = colours[rng.integers(len(colours))]
        if rng.random() < 0.5:
            draw.ellipse((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=colour)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
            points = [(x + w / 2 * np.cos(a), y + h / 2 * np.sin(a)) for a in angles]
            draw.polygon(points, fill=colour)


def _label(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colours: list) -> None:
    """A printed label, once or twice round: panel, headline, small print, a picture."""
    repeat = int(rng.integers(1, 3))
    width = TEXTURE_SIZE / repeat
    top, bottom = sorted(rng.uniform(0.02, 0.98, 2) * TEXTURE_SIZE)
    if bottom - top < TEXTURE_SIZE * 0.25:
        top, bottom = TEXTURE_SIZE * 0.2, TEXTURE_SIZE * 0.8
    state = rng.bit_generator.state
    for index in range(repeat):
        rng.bit_generator.state = state  # both sides carry the same print
        left = index * width
        draw.rectangle((left, top, left + width * rng.uniform(0.5, 1.0), bottom), fill=colours[1])
        for _ in range(int(rng.integers(0, 5))):
            x, y = left + rng.uniform(0, width), rng.uniform(top, bottom)
            r = rng.uniform(0.03, 0.18) * TEXTURE_SIZE
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colours[rng.integers(2, 5)])
        for _ in range(int(rng.integers(1, 5))):
            text = " ".join(rng.choice(_WORDS, rng.integers(1, 3)))
            font = ImageFont.load_default(size=float(rng.uniform(0.05, 0.24)) * TEXTURE_SIZE)
            position = (left + rng.uniform(0, 0.4) * width, rng.uniform(top, bottom))
            draw.text(position, text, fill=colours[rng.integers(2, 5)], font=font)
        for _ in range(int(rng.integers(0, 6))):
            text = "".join(rng.choice(list(string.ascii_lowercase + "   "), 24))
            font = ImageFont.load_default(size=0.045 * TEXTURE_SIZE)
            draw.text((left + 0.1 * width, rng.uniform(top, bottom)), text, fill=colours[4], font=font)


def _rgb(colour: Picture) -> tuple[int, int, int]:
    red, green, blue = (round(float(c) * 255) for c in colour)
    return red, green, blue
