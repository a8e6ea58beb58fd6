"""What is made of an orbit: splats, a textured mesh, and what they look like from all round.

The paper's mesh stage, whose code was never released: Gaussian splats of the orbit, M views of them between
its own, a signed distance field of both. Cameras are known, so nothing has to be matched.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.io.cutout import find_mask
from manyview.lift.reconstruction import Reconstruction, ReconstructOptions, Stages, reconstruct
from manyview.lift.sdf.options import SdfOptions
from manyview.lift.splats.options import SplatOptions
from manyview.progress import Progress, silent
from manyview.types import Views

Lifted = Literal["splats", "mesh"]
INTERPOLATED = 16
"""M of the paper's choice."""


def lift_options(
    *, interpolated: int = INTERPOLATED, num_steps: int | None = None, seed: int = 0
) -> ReconstructOptions:
    """How an orbit becomes splats and a mesh: the lift's defaults, with `interpolated` views of the splats
    between the orbit's own and, where given, so many steps of each fit. Raises `InputError` for numbers out
    of range."""
    splats, surface = SplatOptions(seed=seed), SdfOptions(seed=seed)
    if num_steps is not None:
        splats, surface = replace(splats, num_steps=num_steps), replace(surface, steps=num_steps)
    options = ReconstructOptions(to="mesh", interpolate=interpolated, splats=splats, sdf=surface)
    try:
        options.check()
    except InputError as error:
        raise InputError("--interpolated", error.value, error.accepted) from None
    return options


@dataclass(frozen=True, kw_only=True)
class Lift:
    """What was asked for, as far as it could be made."""

    splats: Reconstruction | None = None
    mesh: Reconstruction | None = None
    failed: dict[Lifted, str] = field(default_factory=dict)
    """Why something is missing: views that contradict each other leave no surface."""

    @property
    def best(self) -> Reconstruction | None:
        """What pictures are drawn of: the mesh where there is one."""
        return self.mesh or self.splats


def lift_orbit(
    views: Views,
    wanted: Collection[Lifted] = ("splats", "mesh"),
    options: ReconstructOptions | None = None,
    *,
    stages: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> Lift:
    """Splats and mesh of a made orbit, those that are wanted, in the world of its cameras.

    All views count alike, the given one and the made ones. Views without masks are cut out of their white
    (`cut_out`). `stages`: a folder where finished fits are kept, so that a stopped run goes on. Splats are
    fitted on `device`.
    """
    options = options or lift_options()
    views = replace(cut_out(views), observed=torch.ones_like(views.observed))
    if stages is None and len(wanted) > 1:
        # So that the mesh finds the splats, rather than fit them anew.
        with tempfile.TemporaryDirectory(prefix="manyview-hi3d-") as folder:
            return lift_orbit(views, wanted, options, stages=Path(folder), device=device, progress=progress)
    made: dict[str, Reconstruction] = {}
    failed: dict[Lifted, str] = {}
    plans: dict[Lifted, ReconstructOptions] = {
        "splats": replace(options, to="splats", interpolate=0),
        "mesh": options,
    }
    for kind, plan in plans.items():
        if kind not in wanted:
            continue
        try:
            made[kind] = reconstruct(views, plan, progress, stages=Stages(stages), device=device)
        except InputError as error:
            failed[kind] = str(error)
    return Lift(splats=made.get("splats"), mesh=made.get("mesh"), failed=failed)


def cut_out(views: Views) -> Views:
    """The views with masks: their own, else what stands on the plain background, else all that is not
    white."""
    if views.masks is not None:
        return views
    return replace(views, masks=torch.stack([_cut(image) for image in views.images.cpu()]))


def _cut(image: Tensor) -> Tensor:
    """[1, S, S]"""
    found, _ = find_mask(image, None, "plain")
    if found is None:
        found, _ = find_mask(image, None, "white")
    assert found is not None, "this way always finds one"
    return found
