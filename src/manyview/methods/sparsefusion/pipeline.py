"""SparseFusion as a diffusers pipeline: 1 to 8 posed views in, views at any cameras and a field out."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, PNDMScheduler
from torch import Tensor

from manyview.errors import InputError
from manyview.io.manifest import build_manifest
from manyview.io.result import Result
from manyview.lift.reconstruction import field_views
from manyview.lift.volume_files import Volume
from manyview.methods.sparsefusion.context import RAYS_AT_ONCE
from manyview.methods.sparsefusion.distill import Distilled, distill
from manyview.methods.sparsefusion.distill_options import DistillOptions
from manyview.methods.sparsefusion.eft import EpipolarTransformer
from manyview.methods.sparsefusion.spec import MAX_VIEWS
from manyview.methods.sparsefusion.teacher import Teacher
from manyview.methods.sparsefusion.unet import VldmUnet
from manyview.methods.sparsefusion.vldm import VldmSolver, check_sampling
from manyview.progress import Progress, silent
from manyview.sampling.noise import item_noise
from manyview.types import Cameras, Views, join_cameras
from manyview.weights import Bundle
from manyview.weights.packing import load_component

Mode = Literal["field", "vldm", "eft"]
MODES: tuple[Mode, ...] = ("field", "vldm", "eft")


@dataclass(frozen=True, kw_only=True)
class FieldResult(Result):
    """A result with the field behind its views."""

    field: Volume | None = None
    """In the world of the views' cameras; None where no field was made (modes eft and vldm)."""


class SparseFusionPipeline(DiffusionPipeline):
    """Epipolar transformer, view-conditioned diffusion, and distillation (Zhou and Tulsiani 2023).

    `pipe(views, targets)` returns the observed views as the networks read them (square, at the weights'
    resolution) and one view for each target camera. The networks know objects of size about 1 at the
    origin, seen from about 1.5; `capture.prepare` brings any capture there.
    """

    model_cpu_offload_seq = "eft->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        eft: EpipolarTransformer,
        unet: VldmUnet,
        scheduler: DDIMScheduler | PNDMScheduler,
        default_solver: VldmSolver = "ddim",
        default_steps: int = 50,
        default_guidance: float = 1.0,
        resolution: int | None = None,
    ) -> None:
        """`resolution`: pixels a side the networks were trained for; the codec's `sample_size` if not given.

        `scheduler` is there for the hub's layout: samplers are built for their noise range anew, with the
        same schedule (`vldm.build_scheduler`)."""
        super().__init__()
        self.register_modules(vae=vae, eft=eft, unet=unet, scheduler=scheduler)
        self.register_to_config(
            default_solver=default_solver,
            default_steps=default_steps,
            default_guidance=default_guidance,
            resolution=resolution,
        )
        self.bundle: Bundle | None = None
        vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @classmethod
    def from_bundle(cls, bundle: Bundle, dtype: torch.dtype | None = None) -> SparseFusionPipeline:
        """Built from located weights; float32 unless another dtype is asked for."""
        chosen = dtype or torch.float32
        part = bundle.folders("vae", "eft", "unet", "scheduler")
        unet = load_component(VldmUnet, part["unet"], chosen)
        # Half precision would turn the phases of the noise level's embedding.
        unet.noise_level.frequencies.data = unet.noise_level.frequencies.data.float()
        pipeline = cls(
            vae=load_component(AutoencoderKL, part["vae"], chosen),
            eft=load_component(EpipolarTransformer, part["eft"], chosen),
            unet=unet,
            scheduler=cast(DDIMScheduler, DDIMScheduler.from_pretrained(part["scheduler"])),
            default_solver=bundle.settings.get("solver", bundle.settings.get("default_solver", "ddim")),
            default_steps=bundle.settings.get("steps", bundle.settings.get("default_steps", 50)),
            default_guidance=bundle.settings.get("guidance", bundle.settings.get("default_guidance", 1.0)),
            resolution=bundle.settings.get("resolution"),
        )
        pipeline.bundle = bundle
        return pipeline

    @property
    def teacher(self) -> Teacher:
        """The networks, to be asked directly."""
        return Teacher(self.vae, self.eft, self.unet, resolution=self.resolution)

    @property
    def resolution(self) -> int:
        """Pixels a side of the views that come out."""
        return int(self.config["resolution"] or self.vae.config["sample_size"])

    def estimate_memory(self, num_views: int = MAX_VIEWS) -> int:
        """Bytes that a call with so many given views needs at its peak, roughly: weights, features of the
        views, and the activations of what is largest, the EFT's tokens or the codec's pictures."""
        weights = sum(
            parameter.numel() * parameter.element_size()
            for module in (self.vae, self.eft, self.unet)
            for parameter in module.parameters()
        )
        side, config = self.resolution, self.eft.config
        features = num_views * self.eft.encoder.num_features * (side // 2) ** 2 * 4
        ray = 6 * (2 * config["num_octaves"] + 1)
        token = 4 * (3 * ray + 2 * self.eft.encoder.num_features + 6 * config["width"])
        tokens = RAYS_AT_ONCE * config["num_depths"] * token
        pictures = 400 * 16 * 3 * side**2 * 4
        return weights + features + max(tokens, pictures)

    @property
    def default_distillation(self) -> DistillOptions:
        """The distillation recorded with the weights (`distill` in a bundle), else the defaults."""
        settings = {} if self.bundle is None else self.bundle.settings
        recorded, default = dict(settings.get("distill", {})), DistillOptions()
        field = replace(default.field, **recorded.pop("field", {}))
        return replace(default, field=field, **recorded)

    def choose_sampler(self, solver: VldmSolver | None, num_steps: int | None) -> tuple[VldmSolver, int]:
        """What is given, and the weights' choice for what is not; their steps go with their solver only."""
        own: VldmSolver = self.config["default_solver"]
        if num_steps is None:
            num_steps = int(self.config["default_steps"]) if solver in (None, own) else 50
        return solver or own, num_steps

    def distill(
        self,
        views: Views,
        options: DistillOptions | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        test_cameras: Cameras | None = None,
        checkpoint: Path | None = None,
    ) -> Distilled:
        """The field that the observed views and the networks agree on; see `distill.distill`."""
        self._check(views)
        return distill(
            self.teacher,
            views,
            options or self.default_distillation,
            seed=seed,
            progress=progress or silent,
            test_cameras=test_cameras,
            checkpoint=checkpoint,
        )

    def __call__(
        self,
        views: Views,
        targets: Cameras,
        *,
        mode: Mode = "field",
        seed: int = 0,
        num_steps: int | None = None,
        solver: VldmSolver | None = None,
        guidance: float | None = None,
        options: DistillOptions | None = None,
        rows: int | None = None,
        depths: bool = False,
        checkpoint: Path | None = None,
        progress: Progress | None = None,
    ) -> FieldResult:
        """The observed views and one view for each of T target cameras.

        views: square, with cameras, one to eight observed; targets: square cameras, brought to the weights'
        resolution. mode: `eft` tells each view's colours on `rows` x `rows` rays (default: all pixels);
        `vldm` draws each on its own by diffusion, the noise of target i from (seed, i) alone; `field` distils
        both into one field (`options`) and renders that, with masks and depth. The others draw over white
        and give no masks; `depths` adds the depth of the EFT's attention in mode `eft`. num_steps, solver,
        guidance: default those recorded in the weights, for `vldm`. `checkpoint`: a folder in which a
        distillation goes on where it was killed. Raises `InputError` before any network
        runs.
        """
        started = time.perf_counter()
        if mode not in MODES:
            raise InputError("--mode", mode, f"expected one of {', '.join(MODES)}")
        self._check(views)
        if len(targets) == 0:
            raise InputError("targets", 0, "expected at least one camera")
        teacher = self.teacher
        side = self.resolution
        solver, num_steps = self.choose_sampler(solver, num_steps)
        guidance = float(self.config["default_guidance"]) if guidance is None else guidance
        record: dict[str, Any] = {"mode": mode, "resolution": side}
        given = teacher.frames(views)
        field: Volume | None = None
        if mode == "field":
            options = options or self.default_distillation
            distilled = self.distill(
                views,
                options,
                seed=seed,
                progress=progress,
                test_cameras=targets if options.use_test_poses else None,
                checkpoint=checkpoint,
            )
            field = distilled.field
            made = field_views(field, targets.resized(side, side))
            record |= {"distill": options, "distilled": distilled.record}
        elif mode == "vldm":
            check_sampling(solver, num_steps, 0.99)
            record |= {"steps": num_steps, "solver": solver, "guidance": guidance}
            looked = teacher.look(views, targets, rows=0, progress=progress)
            noise = item_noise(seed, range(len(targets)), teacher.latent_shape)
            made = Views(
                images=self._draw(looked.features, noise, num_steps, solver, guidance, progress),
                cameras=targets.resized(side, side),
            )
        else:
            record["rows"] = rows = side if rows is None else rows
            looked = teacher.look(views, targets, rows=rows, depths=depths, progress=progress)
            made = Views(
                images=looked.images,
                cameras=targets.resized(side, side),
                depths=None if looked.depths is None else _enlarged(looked.depths, looked.coverage),
            )
        manifest = build_manifest(
            "synth sparsefusion",
            options=record,
            seed=seed,
            weights=self.bundle.manifest_entries() if self.bundle else (),
            seconds=round(time.perf_counter() - started, 2),
        )
        return FieldResult(views=join_views(given, made), field=field, manifest=manifest)

    def _check(self, views: Views) -> None:
        if views.cameras is None:
            raise InputError("INPUT", "no cameras", "expected the cameras of the given views")
        count = int(views.observed.sum())
        if not 1 <= count <= MAX_VIEWS:
            raise InputError("INPUT", f"{count} given views", f"expected 1 to {MAX_VIEWS}")

    def _draw(
        self,
        features: Tensor,
        noise: Tensor,
        num_steps: int,
        solver: VldmSolver,
        guidance: float,
        progress: Progress | None,
    ) -> Tensor:
        report = progress or silent
        report.start(len(features), "views drawn")
        teacher, drawn = self.teacher, []
        try:
            for some in torch.arange(len(features)).split(4):
                drawn.append(
                    teacher.draw(
                        features[some],
                        noise[some],
                        num_steps=num_steps,
                        solver=solver,
                        guidance=guidance,
                    )
                )
                report.advance(len(some))
        finally:
            report.finish()
        return torch.cat(drawn)


def join_views(given: Views, made: Views) -> Views:
    """Given views, observed, and made ones, not observed, as one.

    Masks are kept where the made views have some, else all images are put over white; depths of given views
    are unknown (0).
    """
    assert given.cameras is not None, "given views have cameras"
    assert made.cameras is not None, "made views have cameras"
    images, masks, depths = given.images, None, None
    if made.masks is not None:
        masks = torch.ones_like(given.images[:, :1]) if given.masks is None else given.masks
        masks = torch.cat([masks, made.masks])
    else:
        images = given.over(1.0)
    if made.depths is not None:
        depths = torch.cat([torch.zeros_like(given.images[:, :1]), made.depths])
    names = ()
    if given.names:
        taken = {name.casefold() for name in given.names}
        free = (name for number in range(10**6) if (name := f"made_{number:03d}") not in taken)
        names = (*given.names, *(next(free) for _ in range(len(made))))
    return Views(
        images=torch.cat([images, made.images]),
        masks=masks,
        depths=depths,
        cameras=replace(
            join_cameras([given.cameras, made.cameras.to(given.cameras.K.dtype)]), distortion=None
        ),
        observed=torch.arange(len(given) + len(made)) < len(given),
        names=names,
    )


def _enlarged(depths: Tensor, coverage: Tensor) -> Tensor:
    """[T, 1, R, R] attention depth where there is an object, 0 elsewhere."""
    size = tuple(coverage.shape[-2:])
    shown = torch.nn.functional.interpolate(depths, size, mode="bilinear", align_corners=False)
    return torch.where(coverage >= 0.5, shown, 0)
