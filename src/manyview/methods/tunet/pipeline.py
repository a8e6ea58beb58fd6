"""TUNet as a diffusers pipeline: one view in, views at given cameras out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.io.framing import resize_area
from manyview.io.manifest import build_manifest
from manyview.io.result import Result
from manyview.methods.tunet.cameras import pair_cameras, scene_focus
from manyview.methods.tunet.fusion import Candidate
from manyview.methods.tunet.networks import TunetNetworks
from manyview.methods.tunet.select import Selection
from manyview.progress import Progress
from manyview.types import Cameras, Views, join_cameras


@dataclass(frozen=True, kw_only=True)
class TunetResult(Result):
    """A result with what was chosen; where there were several candidates, `samples` has them all."""

    chosen: tuple[str, ...] = ()
    """For each target, the name of the candidate that its view is."""


class TunetPipeline(TunetNetworks):
    """Novel views by DDIM inversion: `pipe(views, targets=cameras)`.

    The reference is inverted once to t*, TUNet takes its mean to every target, noise is put back (`fusion`)
    and the base draws. The codec is deterministic (its mode), so the same call gives the same views.
    """

    @torch.inference_mode()
    def __call__(
        self,
        views: Views,
        targets: Cameras,
        *,
        seed: int = 0,
        t_star: int | None = None,
        mean_steps: int | None = None,
        refinements: int | None = None,
        candidates: Sequence[str | Candidate] | None = None,
        selection: Selection | None = None,
        class_id: int | None = None,
        prompt: str | None = None,
        guidance: float = 1.0,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> TunetResult:
        """The first observed view and one view for every target camera, in their order.

        The scene's unit is the reference's distance from the point that the views' cameras look at, or where
        only one has a camera, from the point of its axis nearest to the world's origin. class_id: as the
        weights number classes, unknown when not given. prompt: words for the new views, where the base takes
        text; `guidance` is its strength. The other options are those of `TunetNetworks.predict`, by default
        the weights' choice. Raises `InputError` before any network runs.
        """
        started = time.perf_counter()
        plan = self.plan(t_star, mean_steps, refinements, candidates, selection)
        self.check_prompt(prompt)
        self.check_class(class_id)
        if not bool(views.observed.any()):
            raise InputError("INPUT", "no observed view", "expected one image")
        if views.cameras is None:
            raise InputError("INPUT", "no cameras", "expected the camera of the given view (transforms.json)")
        first, size = int(views.observed.nonzero()[0, 0]), self.resolution
        focus = scene_focus(views.cameras) if len(views.cameras) > 1 else None
        pairs = pair_cameras(views.cameras[first], targets, focus=focus)
        given, _ = resize_area(views.over(1.0)[[first]], size, size)
        drawn = self.predict(
            given,
            pairs,
            items=range(len(targets)),
            seed=seed,
            t_star=t_star,
            mean_steps=mean_steps,
            refinements=refinements,
            candidates=candidates,
            selection=selection,
            class_ids=None if class_id is None else torch.tensor([class_id]),
            prompt=prompt,
            guidance=guidance,
            batch_size=batch_size,
            progress=progress,
        )
        camera = views.cameras[first].resized(size, size)
        cameras = replace(join_cameras([camera, targets.resized(size, size)]), distortion=None)
        observed = torch.arange(len(cameras)) == 0
        chosen = tuple(drawn.names[number] for number in drawn.chosen.tolist())
        options: dict[str, Any] = {
            **plan.record,
            "class_id": class_id,
            "prompt": prompt,
            "guidance": guidance,
            "resolution": size,
            "chosen": list(chosen),
        }
        return TunetResult(
            views=Views(images=_beside(given, drawn.images), cameras=cameras, observed=observed),
            samples=torch.stack([_beside(given, one) for one in drawn.candidates])
            if len(drawn.names) > 1
            else None,
            chosen=chosen,
            manifest=build_manifest(
                "synth tunet",
                options=options,
                seed=seed,
                weights=self.bundle.manifest_entries() if self.bundle else (),
                seconds=round(time.perf_counter() - started, 2),
            ),
        )


def _beside(given: Tensor, made: Tensor) -> Tensor:
    return torch.cat([given.to(made), made])
