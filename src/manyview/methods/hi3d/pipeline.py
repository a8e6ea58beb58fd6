"""Hi3D as a diffusers pipeline: one view and its elevation in, an orbit of views with their cameras out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.trajectories import spherical_angles
from manyview.io.cutout import find_mask
from manyview.io.framing import resize_area
from manyview.io.manifest import build_manifest
from manyview.io.result import Result
from manyview.methods.hi3d.cameras import first_camera, orbit_cameras
from manyview.methods.hi3d.elevation import Elevation, candidate_elevations, given_elevation
from manyview.methods.hi3d.frames import AT_ONCE
from manyview.methods.hi3d.guidance import GuidanceShape
from manyview.methods.hi3d.networks import Guidance, Hi3dNetworks
from manyview.methods.hi3d.sweep import sweep
from manyview.progress import Progress, silent
from manyview.types import Cameras, Views

FindElevation = Literal["auto", "estimate", "sweep"]


@dataclass(frozen=True, kw_only=True)
class OrbitResult(Result):
    """A result with what came before it."""

    elevation: Elevation
    coarse: Views | None = None
    """The orbit of the first stage, where `views` is a refined one."""


class Hi3dPipeline(Hi3dNetworks):
    """Video diffusion over an orbit, and its refinement (Yang et al. 2024): `pipe(views, elevation_deg=20)`.

    The picture is expected as the networks know pictures: square, the object in the middle on white, of the
    size it has from a distance of 1.5 when its longest side is 1 (`io.photo.frame_photo` brings it there).
    """

    @torch.inference_mode()
    def __call__(
        self,
        views: Views,
        *,
        elevation_deg: float | None = None,
        find_elevation: FindElevation = "auto",
        seed: int = 0,
        num_steps: int | None = None,
        guidance: Guidance | None = None,
        guidance_shape: GuidanceShape | None = None,
        refine: bool | None = None,
        refine_steps: int | None = None,
        refine_guidance: Guidance | None = None,
        blend: bool | None = None,
        depth: bool = True,
        num_samples: int = 1,
        decode_at_once: int = AT_ONCE,
        progress: Progress | None = None,
    ) -> OrbitResult:
        """The orbit of the first observed view, which is its frame 0, refined where there is a refiner (or as
        `refine` says).

        The options are those of `find_elevation`, `orbit` and `refine`. With two or more samples all are
        returned too, and their spread. Raises `InputError` before any network draws.
        """
        started = time.perf_counter()
        refines = self.refiner is not None if refine is None else refine
        second = self.choose_refinement(refine_steps, refine_guidance, blend, depth) if refines else None
        chosen = self.find_elevation(
            views, elevation_deg, find_elevation, seed=seed, progress=progress or silent
        )
        low, high = self.choose_guidance(guidance)
        shared: dict[str, Any] = {"seed": seed, "decode_at_once": decode_at_once, "progress": progress}
        coarse = self.orbit(
            views,
            elevation_deg=chosen.degrees,
            num_steps=num_steps,
            guidance=guidance,
            guidance_shape=guidance_shape,
            num_samples=num_samples,
            **shared,
        )
        options: dict[str, Any] = {
            "elevation": chosen,
            "steps": self.config["default_steps"] if num_steps is None else num_steps,
            "guidance": [low, high],
            "guidance_shape": guidance_shape or self.config["default_shape"],
            "samples": num_samples,
            "resolution": self.resolution,
            "refined": second is not None,
        }
        made = coarse
        if second is not None:
            made = self.refine(
                coarse,
                views,
                elevation_deg=chosen.degrees,
                num_steps=refine_steps,
                guidance=refine_guidance,
                blend=blend,
                depth=depth,
                **shared,
            )
            options |= {
                "resolution": self.refined_resolution,
                "refine_steps": second.num_steps,
                "refine_guidance": second.guidance,
                "blend": second.blend,
                "depth": second.depth,
            }
        samples = torch.stack([one.images for one in made])
        return OrbitResult(
            views=made[0],
            coarse=coarse[0] if second is not None else None,
            elevation=chosen,
            spread=samples.std(dim=0).mean(dim=1, keepdim=True) if num_samples > 1 else None,
            samples=samples if num_samples > 1 else None,
            manifest=build_manifest(
                "synth hi3d",
                options=options,
                seed=seed,
                weights=self.bundle.manifest_entries() if self.bundle else (),
                seconds=round(time.perf_counter() - started, 2),
            ),
        )

    @torch.inference_mode()
    def orbit(
        self,
        views: Views,
        *,
        elevation_deg: float | None = None,
        seed: int = 0,
        num_steps: int | None = None,
        guidance: Guidance | None = None,
        guidance_shape: GuidanceShape | None = None,
        num_samples: int = 1,
        keep_input: bool = True,
        decode_at_once: int = AT_ONCE,
        progress: Progress | None = None,
    ) -> list[Views]:
        """`num_samples` orbits of the first observed view: A views each, view 0 the input, view k 360 k / A
        degrees counter-clockwise of it, all at the input's elevation (`cameras.orbit_cameras`).

        elevation_deg: by default that of the view's camera. num_steps, guidance, guidance_shape: by default
        what goes with the weights; guidance is the scale at frame 0 and the highest one, or the highest with
        1 at frame 0. keep_input: view 0 is the given picture, not what the network makes of it. Sample k has
        the noise of (seed, k). Raises `InputError` before any network runs.
        """
        elevation = self.choose_elevation(views, elevation_deg)
        if num_samples < 1:
            raise InputError("--samples", num_samples, "expected at least 1")
        given = self.picture(views, self.resolution)
        made = self.predict(
            given.expand(num_samples, -1, -1, -1),
            torch.full((num_samples,), elevation),
            items=range(num_samples),
            seed=seed,
            num_steps=num_steps,
            guidance=guidance,
            guidance_shape=guidance_shape,
            decode_frames=decode_at_once,
            progress=progress,
        )
        cameras = orbit_cameras(views, elevation, self.num_frames, self.resolution)
        return _posed(made, given if keep_input else None, cameras)

    @torch.inference_mode()
    def refine(
        self,
        coarse: Views | Sequence[Views],
        views: Views | None = None,
        *,
        elevation_deg: float | None = None,
        seed: int = 0,
        num_steps: int | None = None,
        guidance: Guidance | None = None,
        blend: bool | None = None,
        depth: bool = True,
        items: Sequence[int] | None = None,
        keep_input: bool = True,
        decode_at_once: int = AT_ONCE,
        progress: Progress | None = None,
    ) -> list[Views]:
        """Coarse orbits, view 0 the input, at twice the weights' resolution and with their own cameras.

        views: the real input (its first observed view), as large as there is; the orbits' own view 0 when not
        given. elevation_deg: by default that of the orbit's cameras. num_steps, guidance, blend: by default
        what goes with the weights. depth: show the refiner depth. items: numbers of the orbits, 0, 1, ... by
        default, of which each with `seed` decides the noise. Raises `InputError` before any network runs.
        """
        orbits = [coarse] if isinstance(coarse, Views) else list(coarse)
        if not orbits:
            raise InputError("coarse", "none", "expected one or more orbits")
        if orbits[0].cameras is None:
            raise InputError("coarse", "no cameras", "expected an orbit as `orbit` gives it")
        elevation = self.choose_elevation(orbits[0], elevation_deg)
        size = self.refined_resolution
        given = self.picture(orbits[0][0] if views is None else views, size)
        made = self.predict_refined(
            torch.stack([one.over(1.0) for one in orbits]),
            given.expand(len(orbits), -1, -1, -1),
            torch.full((len(orbits),), elevation),
            items=range(len(orbits)) if items is None else items,
            seed=seed,
            num_steps=num_steps,
            guidance=guidance,
            blend=blend,
            depth=depth,
            decode_frames=decode_at_once,
            progress=progress,
        )
        cameras = orbits[0].cameras
        assert cameras is not None, "checked with the elevation"
        return _posed(made, given if keep_input else None, cameras.resized(size, size))

    @torch.inference_mode()
    def find_elevation(
        self,
        views: Views,
        elevation_deg: float | None = None,
        how: FindElevation = "auto",
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Elevation:
        """The elevation of the first observed view, and where it is from: the given one, else as `how` says.

        `auto`: its camera's, else the weights' network for it. `estimate`: the network's. `sweep`: the first
        stage tries several (`sweep.sweep`), around the network's estimate where there is one. Raises
        `InputError` where none of it can be, and for an elevation outside [-90, 90].
        """
        if how not in get_args(FindElevation):
            raise InputError("--elevation", how, f"expected degrees, {', '.join(get_args(FindElevation))}")
        if elevation_deg is not None:
            return given_elevation(self.choose_elevation(views, elevation_deg))
        if how == "auto" and views.cameras is not None:
            return Elevation(degrees=self.choose_elevation(views, None), source="camera")
        picture = self.picture(views, self.refined_resolution)
        if self.elevation is None and how != "sweep":
            line = "expected degrees, or sweep: the picture has no camera, these weights no network for it"
            raise InputError("--elevation", "not given", line)
        estimated = None
        if self.elevation is not None:
            cover = self._cover(views, picture)
            device = self._execution_device
            estimated = self.elevation.estimate(picture[0].to(device), cover[0].to(device))
        if how != "sweep":
            assert estimated is not None, "there is a network"
            return estimated
        given = self.picture(views, self.resolution)[0]
        candidates = candidate_elevations(estimated)
        return sweep(self.orbit_networks, given, candidates, seed=seed, progress=progress)

    def choose_elevation(self, views: Views, elevation_deg: float | None) -> float:
        """The given elevation, or that of the first observed view's camera. Raises `InputError` where there
        is neither, for an elevation outside [-90, 90] and where no view is observed."""
        if not bool(views.observed.any()):
            raise InputError("INPUT", "no observed view", "expected one image")
        if elevation_deg is not None:
            return given_elevation(elevation_deg).degrees
        camera = first_camera(views)
        if camera is None:
            line = "expected degrees above the horizon, as the picture has no camera"
            raise InputError("--elevation", "not given", line)
        return float(spherical_angles(camera.centers[0])[1])

    def picture(self, views: Views, size: int) -> Tensor:
        """[1, 3, size, size] the first observed view over white. Raises `InputError` where there is none, or
        it is not square."""
        if not bool(views.observed.any()):
            raise InputError("INPUT", "no observed view", "expected one image")
        height, width = views.size
        if height != width:
            raise InputError("INPUT", f"{height} x {width} pixels", "expected a square picture")
        first = int(views.observed.nonzero()[0, 0])
        return resize_area(views.over(1.0)[[first]], size, size)[0]

    def _cover(self, views: Views, picture: Tensor) -> Tensor:
        """[1, 1, S, S] the mask of the first observed view, else what is not white."""
        if views.masks is not None:
            first = int(views.observed.nonzero()[0, 0])
            height, width = picture.shape[-2:]
            return resize_area(views.masks[[first]], height, width)[0]
        found, _ = find_mask(picture[0], None, "white")
        assert found is not None, "this way always finds one"
        return found[None]


def _posed(images: Tensor, given: Tensor | None, cameras: Cameras) -> list[Views]:
    """Orbits [N, A, 3, S, S] with their cameras, view 0 the given picture [1, 3, S, S] where there is one."""
    if given is not None:
        images[:, 0] = given.to(images)
    observed = torch.arange(len(cameras)) == 0
    return [Views(images=one, cameras=cameras, observed=observed) for one in images]
