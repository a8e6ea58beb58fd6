"""Attributes of a generator's images as directions of its codes (InterFaceGAN; Shen et al. 2020,
arXiv 2005.09635), for edits of codes that are already view-consistent (appendix A.3).

Shapes: N codes, B items, L rows of a code, D numbers a row.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from manyview.errors import InputError
from manyview.methods.refiner.ganspace import layer_mask

PAPER_SHARE = 0.02
"""Of the scored codes at either end, from which the boundary is learned."""
_ROUNDS = 100
_HELD_OUT = 5
"""Every so many-th code is kept out of the fit, to tell how well the boundary separates."""


@dataclass(frozen=True)
class Boundary:
    """The hyperplane between codes with and without an attribute: normal . w + bias = 0."""

    normal: Tensor
    """[D] of unit length, towards more of the attribute"""
    bias: float
    accuracy: float
    """Share of codes that were kept out of the fit and lie on their side; 0.5 is chance."""

    def distance(self, codes: Tensor) -> Tensor:
        """[N] signed distances of codes [N, D]."""
        return codes @ self.normal.to(codes) + self.bias

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file."""
        numbers = torch.tensor([self.bias, self.accuracy], dtype=torch.float64)
        save_file({"normal": self.normal.contiguous(), "numbers": numbers}, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Boundary:
        """What `save` wrote."""
        stored = load_file(path)
        bias, accuracy = stored["numbers"].tolist()
        return cls(stored["normal"], bias, accuracy)


def fit_boundary(
    codes: Tensor, scores: Tensor, *, share: float = PAPER_SHARE, strength: float = 1.0
) -> Boundary:
    """The boundary of an attribute that `scores` [N] tell of codes [N, D].

    A linear support vector machine between the codes of the highest and of the lowest `share` of scores, with
    squared hinges so that its optimum is one and smooth; `strength` weighs errors against the width of the
    margin. Every fifth of them is kept out and judged. Raises `InputError` for fewer than five codes at
    either end, and for scores that do not differ.
    """
    if codes.ndim != 2 or scores.shape != codes.shape[:1]:
        shapes = f"{tuple(codes.shape)}, {tuple(scores.shape)}"
        raise InputError("codes, scores", shapes, "expected [N, D] and [N]")
    count = round(share * len(codes))
    if not _HELD_OUT <= count <= len(codes) // 2:
        accepted = f"expected a share that takes {_HELD_OUT} codes or more, and at most half, from either end"
        raise InputError("share", share, accepted)
    order = scores.argsort(stable=True)
    low, high = order[:count], order[-count:]
    if not bool(scores[high].min() > scores[low].max()):
        raise InputError("scores", float(scores[high].min()), "expected scores that differ at either end")
    chosen = torch.stack([high, low], dim=1).flatten()
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(count)
    rows = codes[chosen].detach().double().cpu()
    # Pairs of either side stand next to each other, so that every fifth pair is kept out.
    judged = (torch.arange(count) % _HELD_OUT == _HELD_OUT - 1).repeat_interleave(2)
    mean, spread = rows.mean(dim=0), rows.std(dim=0).mean().clamp_min(1e-12)
    normal, bias = _separate((rows[~judged] - mean) / spread, signs[~judged], strength)
    length = torch.linalg.vector_norm(normal)
    unit = normal / length
    offset = float(bias / length * spread - unit @ mean)
    right = ((rows[judged] @ unit + offset) * signs[judged]) > 0
    return Boundary(unit.to(codes), offset, float(right.double().mean()))


def condition(boundary: Boundary, others: Sequence[Boundary]) -> Boundary:
    """The boundary with what it shares with the others taken out of its normal (section 3.3 there): moving
    along it changes none of their distances.

    Bias and accuracy no longer apply and are NaN. Raises `InputError` where nothing is left.
    """
    basis = torch.stack([other.normal.double() for other in others], dim=1)
    normal = boundary.normal.double()
    # The projection of least squares, which does not ask that the others stand orthogonal to each other.
    shared = basis @ torch.linalg.lstsq(basis, normal[:, None]).solution
    left = normal - shared[:, 0]
    length = torch.linalg.vector_norm(left)
    if not bool(length > 1e-4):
        raise InputError("boundary", float(length), "is nothing but a mixture of the others")
    return Boundary((left / length).to(boundary.normal), float("nan"), float("nan"))


def edit_attribute(
    codes: Tensor, boundary: Boundary, amount: Tensor | float, layers: tuple[int, int] | None = None
) -> Tensor:
    """[B, L, D] the codes moved by `amount` ([B] or one for all) along the boundary's normal, in all rows or
    in layers[0] <= l < layers[1]. Raises `InputError` for layers that there are not."""
    step = torch.as_tensor(amount, dtype=codes.dtype, device=codes.device).reshape(-1, 1, 1)
    return codes + step * layer_mask(codes, layers) * boundary.normal.to(codes)


def _separate(rows: Tensor, signs: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Normal [D] and bias [] with the least |normal|^2 / 2 + strength * mean squared hinge."""
    plane = torch.zeros(rows.shape[1] + 1, dtype=rows.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([plane], max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        margins = signs * (rows @ plane[:-1] + plane[-1])
        loss = plane[:-1].square().sum() / 2 + strength * len(rows) * F.relu(1 - margins).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    found = plane.detach()
    return found[:-1], found[-1]
