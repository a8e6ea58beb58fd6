"""Where a fit looks for the object."""

from __future__ import annotations

from manyview.lift.field.box import view_cube
from manyview.lift.field.hull import VisualHull, find_hull
from manyview.lift.field.pixels import PixelSource


def find_region(source: PixelSource) -> tuple[VisualHull | None, tuple[float, ...], tuple[float, ...]]:
    """The masks' visual hull and the corners of the box about it, or the cube that the cameras look at.

    Raises `InputError` as `find_hull` and `view_cube`.
    """
    outlines = source.outlines()
    if outlines is None:
        return None, *view_cube(source.cameras)
    hull, box = find_hull(*outlines)
    return hull, box.low, box.high
