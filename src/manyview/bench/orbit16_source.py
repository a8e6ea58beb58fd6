"""The orbits that Hi3D makes for a question, each part once, however many rows of a table show it."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from manyview.bench.orbit16_options import COARSE, NO_DEPTH, NUM_AZIMUTHS, UPSCALED, Orbit16Options
from manyview.bench.shared_parts import SharedParts
from manyview.errors import InputError
from manyview.methods.hi3d.pipeline import Hi3dPipeline
from manyview.methods.hi3d.upscaler import load_upscaler, upscale
from manyview.types import Views

_UPSCALED_AT_ONCE = 4


class Refiner(Protocol):
    """What makes a coarse orbit sharper."""

    size: int
    """Pixels a side that come out."""
    reads_depth: bool
    """Whether there is a difference without depth."""
    options: dict[str, Any]
    """What beside the weights decides the answer."""

    def __call__(
        self, coarse: Tensor, given: Views, elevation_deg: float, seed: int, sample: int, *, depth: bool
    ) -> Tensor:
        """[16, 3, size, size] of a coarse orbit [16, 3, s, s] whose view 0 is `given`; without `depth` its
        depth channels are zero. The noise follows from (seed, sample)."""
        ...


class OrbitSource(SharedParts):
    """Orbits of one pipeline. What was made for the last question is kept, with the seconds it took."""

    def __init__(
        self,
        pipeline: Hi3dPipeline,
        options: Orbit16Options,
        refiner: Refiner | None,
        num_samples: int = 1,
    ) -> None:
        """`num_samples`: orbits that are drawn together for a question, for all rows. Raises `InputError` for
        weights of another number of views, and where `options.upscaler` is none."""
        super().__init__()
        if pipeline.num_frames != NUM_AZIMUTHS:
            line = f"orbits of {pipeline.num_frames} views, orbit16 needs {NUM_AZIMUTHS}"
            raise InputError("--weights", pipeline.bundle.name if pipeline.bundle else "in memory", line)
        self.pipeline, self.refiner, self.num_samples = pipeline, refiner, num_samples
        self.upscaler = None
        if options.upscaler is not None and options.wants(UPSCALED):
            self.upscaler = load_upscaler(options.upscaler)
            cast(nn.Module, self.upscaler).to(pipeline.device)
        guidance = pipeline.choose_guidance(options.guidance)
        recorded = pipeline.config
        self._asked: dict[str, Any] = {
            "num_steps": options.num_steps or int(recorded["default_steps"]),
            "guidance": guidance,
            "guidance_shape": options.guidance_shape or str(recorded["default_shape"]),
        }
        more = {name: recorded[name] for name in ("augmentation", "condition", "sigma_max")}
        self.options: dict[str, Any] = {**self._asked, **more}
        """What beside the weights decides the first stage's orbits."""

    @property
    def size(self) -> int:
        """Pixels a side of the final orbit."""
        return self.pipeline.resolution if self.refiner is None else self.refiner.size

    def lacks(self, name: str) -> str | None:
        """Why there is no such row of the pipeline, if there is none."""
        if name == UPSCALED:
            return "no --upscaler was given" if self.upscaler is None else None
        if name != COARSE and self.refiner is None:
            return "its weights have no refiner"
        if name == NO_DEPTH and self.refiner is not None and not self.refiner.reads_depth:
            return "its refiner reads no depth"
        return None

    def coarse(self, given: Views, seed: int) -> Tensor:
        """[S, 16, 3, r, r] before refinement, at the pipeline's resolution; view 0 is the given one."""

        def make() -> Tensor:
            made = self.pipeline.orbit(given, seed=seed, num_samples=self.num_samples, **self._asked)
            return torch.stack([one.images for one in made])

        return self.keep(given, seed, "coarse", make)

    def upscaled(self, given: Views, seed: int) -> Tensor:
        """[16, 3, 2r, 2r] the first coarse orbit enlarged picture by picture by `upscaler`."""
        network = self.upscaler
        assert network is not None, "rows that it lacks are not asked for"
        coarse = self.coarse(given, seed)[0]

        def make() -> Tensor:
            with torch.inference_mode():
                parts = [
                    upscale(network, part.to(network.device)) for part in coarse.split(_UPSCALED_AT_ONCE)
                ]
            return torch.cat(parts).clamp(0, 1).cpu()

        return self.keep(given, seed, "upscaled", make)

    def refined(self, given: Views, seed: int, sample: int = 0, depth: bool = True) -> Tensor:
        """[16, 3, R, R] one refined orbit."""
        refiner = self.refiner
        assert refiner is not None, "rows that refine are not asked for without"
        coarse = self.coarse(given, seed)[sample]

        def make() -> Tensor:
            elevation = self.pipeline.choose_elevation(given, None)
            return refiner(coarse, given, elevation, seed, sample, depth=depth)

        return self.keep(given, seed, f"refined {sample} {depth}", make)

    def final(self, given: Views, seed: int) -> Tensor:
        """[16, 3, S, S] the first sample as the pipeline would hand it over."""
        return self.coarse(given, seed)[0] if self.refiner is None else self.refined(given, seed)


class OwnRefiner:
    """The second stage of a pipeline."""

    def __init__(self, pipeline: Hi3dPipeline, options: Orbit16Options) -> None:
        """Raises `InputError` for options out of range, and for weights that cannot show their refiner the
        depth it reads."""
        chosen = pipeline.choose_refinement(options.refine_steps, options.refine_guidance)
        self.pipeline, self.size, self.reads_depth = pipeline, pipeline.refined_resolution, chosen.depth
        self._asked: dict[str, Any] = {
            "num_steps": chosen.num_steps,
            "guidance": chosen.guidance,
            "blend": chosen.blend,
        }
        recorded = pipeline.config
        shape = str(recorded["refine_shape"] or recorded["default_shape"])
        more = {"guidance_shape": shape}
        more |= {name: recorded[name] for name in ("depth_normalize", "refine_sigma_max")}
        self.options: dict[str, Any] = {**self._asked, **more}

    def __call__(
        self, coarse: Tensor, given: Views, elevation_deg: float, seed: int, sample: int, *, depth: bool
    ) -> Tensor:
        """[16, 3, size, size]"""
        picture = self.pipeline.picture(given, self.size)
        made = self.pipeline.predict_refined(
            coarse[None],
            picture,
            torch.tensor([elevation_deg]),
            items=[sample],
            seed=seed,
            depth=depth,
            **self._asked,
        )
        return torch.cat([picture.to(made), made[0, 1:]])


def find_refiner(pipeline: Hi3dPipeline, options: Orbit16Options) -> Refiner | None:
    """The pipeline's own refinement; None where its weights have none."""
    return None if pipeline.refiner is None else OwnRefiner(pipeline, options)
