"""Whether an orbit turns as the true one does: changes from each view to the next, all the way round.

Of 16 views, the input first and the true one in every orbit, pair k is views k and k + 1; pair 15 joins view
15 to the input and is the seam. A change is the difference of two views, pixel by pixel.

neighbour_mae     one a pair: mean absolute difference between the made change and the true one. 0 for the
                  true views, the mean absolute true change for a still picture; a view that jumps out of its
                  neighbours' row, or a detail that is there in one view only, adds to two pairs.
neighbour_ratio   one an orbit: mean absolute made change over mean absolute true one, of all pairs together.
                  1 for the true views, 0 for a still picture; above 1 where views flicker.
seam_ratio        one an orbit: mean absolute made change of the seam, over its mean of the other 15 pairs.
                  About 1 where the orbit closes; what the true views have at the same place stands beside it.
seam_to_first     one an orbit: mean absolute made change of the seam, over that from the input to view 1.
                  Both join a made view to the given picture, which may be sharper than all others: 1 where
                  the orbit closes as well behind the input as it begins.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manyview.metrics.consistency import neighbour_l1

PER_PAIR = ("neighbour_mae",)
PER_ORBIT = ("neighbour_ratio", "seam_ratio", "seam_to_first")
PER_MESH = ("chamfer_mean", "chamfer_visible_mean", "volume_iou_64")
"""Of `metrics.geometry`; the second is what the paper's evaluation calls Chamfer distance."""
_STILL = 1e-7


def score_turning(made: Tensor, true: Tensor) -> dict[str, Any]:
    """`neighbour_mae` [16] and the three ratios of orbits [16, 3, S, S], the input first.

    A ratio to changes that are not there is None.
    """
    own, wanted = (torch.roll(images, -1, dims=0) - images for images in (made, true))
    changes, true_changes = neighbour_l1(made), neighbour_l1(true)
    return {
        "neighbour_mae": (own - wanted).abs().mean(dim=(1, 2, 3)).tolist(),
        "neighbour_ratio": _ratio(changes.mean(), true_changes.mean()),
        "seam_ratio": seam_ratio(changes),
        "seam_to_first": _ratio(changes[-1], changes[0]),
    }


def seam_ratio(changes: Tensor) -> float | None:
    """The last of the changes [V] from view to view of a closed orbit, over the mean of the others; None
    where those do not change."""
    return _ratio(changes[-1], changes[:-1].mean())


def _ratio(above: Tensor, below: Tensor) -> float | None:
    return float(above / below) if float(below) > _STILL else None
