"""The refiner as a diffusers pipeline: a code or a photo in, views at asked yaws with their cameras out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.io.framing import resize_area
from manyview.io.manifest import build_manifest
from manyview.io.result import Result
from manyview.methods.refiner.attributes import Boundary, edit_attribute
from manyview.methods.refiner.basis import SweepBasis
from manyview.methods.refiner.depth_scores import tell_depths
from manyview.methods.refiner.generator import CodeGenerator, StyleGANCodes
from manyview.methods.refiner.inversion import Inversion, InversionOptions, Perceptual, invert
from manyview.methods.refiner.model import CodeRefiner
from manyview.methods.refiner.photometric import colour_mask
from manyview.methods.refiner.pose import PoseEstimator
from manyview.methods.refiner.surface import fuse_mesh, fuse_points
from manyview.methods.refiner.sweeps import Turner
from manyview.nets.monodepth.disparity import DisparityNet
from manyview.nets.stylegan2.generator import StyleGAN2Generator
from manyview.progress import Progress
from manyview.types import Views
from manyview.weights import Bundle
from manyview.weights.packing import load_component

TARGETS_DEG = (-40.0, -30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0, 40.0)
_KINDS: dict[str, Any] = {
    "generator": StyleGAN2Generator,
    "depth": DisparityNet,
    "pose": PoseEstimator,
    "directions": SweepBasis,
    "refiner": CodeRefiner,
}
_CHOICES = ("default_steps", "default_level")


@dataclass(frozen=True, kw_only=True)
class SweepResult(Result):
    """A sweep and what it was made of."""

    codes: Tensor
    """[V, L, D]."""
    source: Tensor
    """[1, L, D] the code that was turned."""
    yaw_deg: Tensor
    """[V] against the source, as the pose network finds it."""
    amounts: Tensor
    """[V] turns along the direction, in deviations."""
    points: NDArray[Any] | None = None
    """[N, 3] in the world, where they were asked for and found."""
    colors: NDArray[Any] | None = None
    """[N, 3] uint8."""
    inversion: Inversion | None = None
    """Of a photo."""
    failed: str = ""
    """Why there are no points or no mesh, where they were asked for."""


class RefinerPipeline(DiffusionPipeline):
    """Turned and refined codes of a generator (anonymous, "Self-calibrated latent refinement").

    `pipe(targets=[-20, 0, 20], seed=3)` draws a code and turns it; `pipe(codes, ...)` and `pipe(views, ...)`
    turn a given one or a photo. `refiner` may be missing: sweeps are then GANSpace's.
    """

    # diffusers reads it from the class
    _optional_components = ["refiner"]  # noqa: RUF012

    def __init__(
        self,
        generator: StyleGAN2Generator,
        depth: nn.Module,
        pose: PoseEstimator,
        directions: SweepBasis,
        refiner: CodeRefiner | None = None,
        default_steps: int = 1,
        default_level: int = 0,
    ) -> None:
        """`default_steps`, `default_level`: of refining, and the level of noise that it begins with."""
        super().__init__()
        self.register_modules(
            generator=generator, depth=depth, pose=pose, directions=directions, refiner=refiner
        )
        self.register_to_config(default_steps=default_steps, default_level=default_level)
        self.bundle: Bundle | None = None
        self._codes: CodeGenerator | None = None

    @classmethod
    def from_bundle(cls, bundle: Bundle, dtype: torch.dtype | None = None) -> Self:
        """Built from located weights; float32 unless another dtype is asked for. Depth, pose and direction
        measure, and stay float32. Raises `InputError` for weights that lack more than the refiner."""
        folders = bundle.folders("generator")
        missing = [name for name in ("depth", "pose", "directions") if name not in bundle.components]
        if missing:
            line = f"has no {' and '.join(missing)}; train them (manyview train refiner --stage depth)"
            raise InputError("--weights", bundle.name, line)
        folders |= {name: str(bundle.components[name]) for name in _KINDS if name in bundle.components}
        made = {
            name: load_component(kind, folders[name], _dtype_of(name, dtype)).eval().requires_grad_(False)
            for name, kind in _KINDS.items()
            if name in folders
        }
        settings = {name: bundle.settings[name] for name in _CHOICES if name in bundle.settings}
        pipeline = cls(**made, **settings)
        pipeline.bundle = bundle
        return pipeline

    @property
    def codes_of(self) -> CodeGenerator:
        """The generator that is asked for pictures: the bundle's, or any other given to `use_generator`."""
        return self._codes or StyleGANCodes(self.generator)

    def use_generator(self, generator: CodeGenerator) -> None:
        """Turn codes of another generator G(w), whatever it is; its direction, depth and pose have to be this
        pipeline's. Raises `InputError` for codes of other sizes."""
        if generator.w_dim != self.directions.mean.numel():
            line = f"expected codes of {self.directions.mean.numel()} numbers"
            raise InputError("generator", generator.w_dim, line)
        self._codes = generator

    @property
    def resolution(self) -> int:
        """Pixels a side of the views."""
        return int(self.codes_of.resolution)

    def turner(
        self,
        code: Tensor,
        *,
        refined: bool = True,
        num_steps: int | None = None,
        level: int | None = None,
        seed: int = 0,
    ) -> Turner:
        """What turns one code [1, L, D]. Raises `InputError` where refining is asked for and there is no
        refiner, and for numbers out of range."""
        if refined and self.refiner is None:
            raise InputError("refine", True, "these weights have no refiner; expected False")
        steps = int(self.config["default_steps"]) if num_steps is None else num_steps
        start = int(self.config["default_level"]) if level is None else level
        if not 1 <= steps <= 1000:
            raise InputError("--steps", steps, "expected 1 to 1000")
        if not 0 <= start <= 999:
            raise InputError("level", start, "expected 0 to 999")
        return Turner(
            generator=self.codes_of,
            basis=self.directions,
            pose=self.pose,
            code=code.to(self.device).float(),
            refiner=self.refiner if refined else None,
            num_steps=steps,
            level=start,
            seed=seed,
        )

    def sample(self, seed: int, truncation: float | None = None) -> Tensor:
        """[1, L, D] the code of a seed, truncated as in training when not said."""
        chosen = self.directions.truncation if truncation is None else truncation
        if not 0 <= chosen <= 1:
            raise InputError("truncation", chosen, "expected 0 to 1")
        with torch.no_grad():
            return self.codes_of.sample([seed], truncation=chosen).to(self.device).float()

    def invert(
        self,
        views: Views,
        *,
        options: InversionOptions | None = None,
        perceptual: Perceptual | None = None,
        seed: int = 0,
        state: Path | None = None,
        progress: Progress | None = None,
    ) -> Inversion:
        """The code of the first observed view, over white, square. Raises `InputError` where there is
        none."""
        if not bool(views.observed.any()):
            raise InputError("INPUT", "no observed view", "expected one image")
        height, width = views.size
        if height != width:
            raise InputError("INPUT", f"{height} x {width} pixels", "expected a square picture")
        first = int(views.observed.nonzero()[0, 0])
        size = self.resolution
        picture = resize_area(views.over(1.0)[[first]], size, size)[0][0].clamp(0, 1)
        more = {} if progress is None else {"progress": progress}
        # Networks made under inference mode cannot be differentiated through.
        with torch.inference_mode(False), torch.enable_grad():
            spread = self.directions.spread.clone()
            return invert(
                self.codes_of,
                picture.clone(),
                spread,
                options,
                perceptual=perceptual,
                seed=seed,
                state=state,
                **more,
            )

    def __call__(
        self,
        views: Views | Tensor | None = None,
        *,
        targets: Sequence[float] = TARGETS_DEG,
        seed: int = 0,
        truncation: float | None = None,
        facing: bool = True,
        refine: bool | None = None,
        num_steps: int | None = None,
        level: int | None = None,
        attribute: tuple[Boundary, float] | None = None,
        points: bool = True,
        mesh: bool = False,
        inversion: InversionOptions | None = None,
        perceptual: Perceptual | None = None,
        state: Path | None = None,
        progress: Progress | None = None,
    ) -> SweepResult:
        """Views at `targets`, yaws in degrees against the source, positive as for a camera that moves to its
        right.

        views: a code [1, L, D] (or [L, D]), views of which the first observed one is inverted, or None for
        the code of `seed`. That is first turned to the middle of the direction with `facing`, so that it can
        be turned as far to either side; a given code stays as it is. refine: by default where there is a
        refiner. num_steps, level: of refining, by default what goes with the weights. attribute: a boundary
        and how far every code is moved over it, after refining (the paper's A.3). points, mesh: also fuse the
        views' depths. inversion, perceptual, state: see `inversion.invert`. What was asked and what was
        reached are both in the manifest. Raises `InputError` before any network draws.
        """
        started = time.perf_counter()
        yaws = [float(target) for target in targets]
        if not yaws or not all(-180 <= yaw <= 180 for yaw in yaws):
            raise InputError("--targets", tuple(yaws), "expected yaws from -180 to 180 degrees")
        refines = self.refiner is not None if refine is None else refine
        found = None
        if isinstance(views, Views):
            found = self.invert(
                views,
                options=inversion,
                perceptual=perceptual,
                seed=seed,
                state=state,
                progress=progress,
            )
            code = found.codes
        elif views is None:
            code = self.sample(seed, truncation)
            code = self.directions.facing(code) if facing else code
        else:
            code = views[None] if views.ndim == 2 else views
            expected = (1, self.codes_of.num_ws, self.codes_of.w_dim)
            if tuple(code.shape) != expected:
                raise InputError("codes", tuple(code.shape), f"expected {list(expected)}")
        turner = self.turner(code, refined=refines, num_steps=num_steps, level=level, seed=seed)
        sweep = turner.sweep(yaws)
        codes = sweep.codes
        if attribute is not None:
            with torch.no_grad():
                codes = edit_attribute(codes, attribute[0], attribute[1])
        made = self.look(turner, codes, sweep.amounts, given=found is None and attribute is None)
        fused, failed = self._fuse(made, points=points, mesh=mesh)
        options = {
            "targets_deg": yaws,
            "reached_deg": [round(float(yaw), 2) for yaw in sweep.yaw_deg],
            "amounts": [round(float(amount), 3) for amount in sweep.amounts],
            "refined": refines,
            "steps": turner.num_steps,
            "level": turner.level,
            "truncation": self.directions.truncation if truncation is None else truncation,
            "facing": facing if views is None else None,
            "resolution": self.resolution,
            "focal_px": float(self.pose.K(self.resolution, self.resolution)[0, 0]),
            "elevation_deg": round(self.pose.elevation_deg, 2),
            "attribute": None if attribute is None else attribute[1],
        }
        if found is not None:
            options["inversion"] = {"psnr_db": round(found.psnr_db, 2), "distance": round(found.distance, 3)}
        return SweepResult(
            views=made,
            codes=codes.cpu(),
            source=turner.code.cpu(),
            yaw_deg=sweep.yaw_deg,
            amounts=sweep.amounts,
            inversion=found,
            failed=failed,
            **fused,
            manifest=build_manifest(
                "synth refiner",
                options=options,
                seed=seed,
                weights=self.bundle.manifest_entries() if self.bundle else (),
                seconds=round(time.perf_counter() - started, 2),
            ),
        )

    @torch.no_grad()
    def look(self, turner: Turner, codes: Tensor, amounts: Tensor, *, given: bool = True) -> Views:
        """Pictures of codes [V, L, D] with masks, depths and the cameras that the pose network finds;
        `given`: a code that was not turned counts as observed."""
        images = turner.pictures(codes)
        height, width = images.shape[-2:]
        masks = colour_mask(images)
        depths = tell_depths(self.depth, self.pose, images) * masks
        still = (amounts == 0).to(codes.device)
        vectors = torch.where(still[:, None], 0.0, turner.vectors(codes))
        return Views(
            images=images.cpu(),
            masks=masks.cpu(),
            depths=depths.cpu(),
            cameras=self.pose.cameras(vectors, height, width),
            observed=(still if given else torch.zeros_like(still)).cpu(),
            names=tuple(f"{index:03d}" for index in range(len(codes))),
        )

    def _fuse(self, views: Views, *, points: bool, mesh: bool) -> tuple[dict[str, Any], str]:
        """Points and a mesh, or why not."""
        made: dict[str, Any] = {}
        try:
            if points:
                made["points"], made["colors"] = fuse_points(views, min_views=min(2, len(views)))
            if mesh:
                made["mesh"] = fuse_mesh(views)
        except InputError as error:
            return made, str(error)
        return made, ""


def _dtype_of(name: str, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and name == "generator" else torch.float32
