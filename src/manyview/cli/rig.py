"""Given images into the slots of a rig: V views of which some are observed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from manyview.errors import InputError

if TYPE_CHECKING:
    from manyview.types import Views


def parse_grid(text: str) -> tuple[int, int]:
    """(rows, columns) of `2x2`. Raises `InputError` for anything else."""
    match = re.fullmatch(r"([1-9][0-9]?)x([1-9][0-9]?)", text.strip().lower())
    if match is None or int(match[1]) * int(match[2]) < 2:
        raise InputError("--grid", text, "expected rows x columns with at least two views, such as 2x2")
    return int(match[1]), int(match[2])


def parse_slots(text: str | None, num_views: int) -> tuple[int, ...] | None:
    """Slot numbers of `0,2`; None stays None. Raises `InputError` for repeats and numbers outside the rig."""
    if text is None:
        return None
    accepted = f"expected different slots from 0 to {num_views - 1}, such as 0,2"
    if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text) is None:
        raise InputError("--slots", text, accepted)
    slots = tuple(int(part) for part in text.split(","))
    if len(set(slots)) != len(slots) or max(slots) >= num_views:
        raise InputError("--slots", text, accepted)
    if len(slots) == num_views:
        raise InputError("--slots", text, "names every view; leave at least one to make")
    return slots


def fill_rig(given: Views, slots: Sequence[int] | None, num_views: int) -> Views:
    """`num_views` views, the given ones observed and in their slots, the others unknown.

    As many images as views: all are the rig's, and `slots` says which count as observed (without it, what
    `given.observed` says). Fewer: image i goes to `slots[i]`, by default to slot i. Raises `InputError` when
    counts do not fit or nothing is left to make.
    """
    import torch

    from manyview.types import Views

    count = len(given)
    if count == num_views:
        observed = given.observed.clone()
        if slots is not None:
            observed = torch.zeros(num_views, dtype=torch.bool)
            observed[list(slots)] = True
        if bool(observed.all()):
            raise InputError(
                "INPUT",
                f"{count} images",
                f"a rig of {num_views} has nothing left to make; give --slots for those that count as observed",
            )
        keep = observed[:, None, None, None]
        return Views(
            images=given.images * keep,
            masks=None if given.masks is None else given.masks * keep,
            cameras=given.cameras,
            observed=observed,
            names=given.names,
        )
    if count > num_views:
        raise InputError("INPUT", f"{count} images", f"expected at most the rig's {num_views}")
    places = list(range(count)) if slots is None else list(slots)
    if len(places) != count:
        raise InputError("--slots", ",".join(map(str, places)), f"expected one slot for each of {count} images")
    height, width = given.size
    images = torch.zeros(num_views, 3, height, width)
    observed = torch.zeros(num_views, dtype=torch.bool)
    images[places] = given.images
    observed[places] = True
    masks = None
    if given.masks is not None:
        masks = torch.zeros(num_views, 1, height, width)
        masks[places] = given.masks
    return Views(images=images, masks=masks, observed=observed)
