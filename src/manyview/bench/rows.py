"""What every table says of whoever answers: name, weights, options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from manyview.bench.partial import hash_tensor
from manyview.weights import Bundle


@dataclass(frozen=True, kw_only=True)
class NamedRow:
    """One row of a table, without what answers."""

    name: str
    weights: dict[str, str | None] = field(default_factory=dict)
    """name and sha256; empty for rows without weights."""
    options: dict[str, Any] = field(default_factory=dict)
    """What beside the weights decides its answers."""
    may_fail: bool = False
    """Whether a refusal of what it is given counts as an empty answer, not as an error: a fit may find no
    surface."""

    def identity(self) -> dict[str, Any]:
        """What of it decides the numbers."""
        return {"name": self.name, "weights": self.weights, "options": self.options}


def bundle_weights(bundle: Bundle) -> dict[str, str | None]:
    """Name and hash of weights."""
    return {"name": bundle.name, "sha256": bundle.sha256}


def weights_of(bundle: Bundle | None, networks: Sequence[nn.Module | None]) -> dict[str, str | None]:
    """Name and hash of a pipeline's weights; those of one that no bundle was read for are hashed in
    memory."""
    if bundle is not None:
        return bundle_weights(bundle)
    parts = []
    for network in networks:
        if network is not None:
            parts += [hash_tensor(value.float()) for _, value in sorted(network.state_dict().items())]
    return {"name": "in memory", "sha256": hash_tensor(torch.tensor([int(part[:15], 16) for part in parts]))}
