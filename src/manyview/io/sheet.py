"""A contact sheet: all views of a result on one page, given ones told from made ones by colour and word."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from manyview.io.framing import resize_area
from manyview.io.images import to_uint8
from manyview.types import Views

GIVEN = (70, 70, 70)
MADE = (26, 152, 80)
_PAPER = (255, 255, 255)
_BORDER = 4
_GAP = 8
_LABEL = 18
_CELL = 192
_COLUMNS = 8


def draw_sheet(
    views: Views, spread: Tensor | None = None, *, columns: int = _COLUMNS, words: bool = True
) -> Image.Image:
    """Views in rows of at most `columns`, over white, each framed dark grey (given) or green (made) and
    labelled; without `words` by its name alone.

    With `spread` [V, 1, H, W] (standard deviation over seeds) a row of maps follows every row of views:
    white is 0, dark red the largest value of all, which the labels name. Cells keep the aspect; their
    longer side is 192 pixels.
    """
    height, width = views.size
    scale = _CELL / max(height, width)
    cell = (max(1, round(height * scale)), max(1, round(width * scale)))
    pictures = [_picture(image, cell) for image in views.over(1.0)]
    names = views.names or tuple(f"{index:03d}" for index in range(len(views)))
    labels = [
        f"{name} {'given' if given else 'made'}" if words else name
        for name, given in zip(names, views.observed.tolist(), strict=True)
    ]
    colors = [GIVEN if given else MADE for given in views.observed.tolist()]
    maps: list[Image.Image] = []
    map_labels: list[str] = []
    if spread is not None:
        top = float(spread.max())
        maps = [_picture(_heat(values, top), cell) for values in spread]
        map_labels = [f"std, max {float(values.max()):.3f}" for values in spread]
    columns = min(columns, len(views))
    bands = -(-len(views) // columns) * (2 if maps else 1)
    step_x = cell[1] + 2 * _BORDER + _GAP
    step_y = cell[0] + 2 * _BORDER + _LABEL + _GAP
    page = Image.new("RGB", (columns * step_x + _GAP, bands * step_y + _GAP), _PAPER)
    for index in range(len(views)):
        row, column = divmod(index, columns)
        row = row * 2 if maps else row
        x, y = _GAP + column * step_x, _GAP + row * step_y
        _paste(page, pictures[index], labels[index], colors[index], x, y)
        if maps:
            _paste(page, maps[index], map_labels[index], colors[index], x, y + step_y)
    return page


def _picture(image: Tensor, cell: tuple[int, int]) -> Image.Image:
    resized, _ = resize_area(image.detach().float().cpu(), *cell)
    return Image.fromarray(to_uint8(resized).permute(1, 2, 0).numpy())


def _heat(values: Tensor, top: float) -> Tensor:
    """[3, H, W] white through orange to dark red for values [1, H, W] from 0 to `top`."""
    stops = np.array([[1.0, 1.0, 1.0], [0.99, 0.68, 0.38], [0.84, 0.19, 0.15], [0.40, 0.0, 0.12]])
    part = (values[0].detach().float().cpu() / max(top, 1e-12)).clamp(0, 1).numpy()
    channels = [np.interp(part, np.linspace(0, 1, len(stops)), stops[:, index]) for index in range(3)]
    return torch.from_numpy(np.stack(channels)).float()


def _paste(
    page: Image.Image, picture: Image.Image, label: str, color: tuple[int, int, int], x: int, y: int
) -> None:
    draw = ImageDraw.Draw(page)
    width, height = picture.size
    draw.rectangle((x, y, x + width + 2 * _BORDER - 1, y + height + 2 * _BORDER - 1), fill=color)
    page.paste(picture, (x + _BORDER, y + _BORDER))
    font = ImageFont.load_default(size=12)
    text = label
    while len(text) > 1 and draw.textlength(text, font=font) > width + 2 * _BORDER:
        text = text[1:]
    draw.text((x, y + height + 2 * _BORDER + 2), text, fill=color, font=font)
