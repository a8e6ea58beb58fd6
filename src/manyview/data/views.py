"""What training reads: objects with the same number of views each, as bytes.

`PackedViews` (one file for many objects) and `SceneArrays` (folders of scenes) are both of this kind, so that
whatever encodes or trains need not know how its data lies on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class ObjectViews(Protocol):
    """`views[i]` is [V, H, W, 3] uint8 sRGB: object i over a plain background. V, H, W are alike for all."""

    @property
    def identity(self) -> str:
        """A hash of what the views hold: equal for equal bytes, and in practice for those alone."""
        ...

    @property
    def num_views(self) -> int:
        """Views of one object."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """All objects in order, `size` at a time: [<= size, V, H, W, 3]."""
        for start in range(0, len(self), size):
            yield np.stack([self[i] for i in range(start, min(start + size, len(self)))])
