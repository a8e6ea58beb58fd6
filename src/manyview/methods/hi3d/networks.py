"""The networks of both stages as a diffusers pipeline, asked with tensors: pictures in, orbits out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self, cast, get_args

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, EulerDiscreteScheduler
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from manyview.errors import InputError
from manyview.methods.hi3d.components import load_components, recorded_choices
from manyview.methods.hi3d.depth import DepthModel, Normalize, as_depth_model
from manyview.methods.hi3d.elevation import ElevationNet
from manyview.methods.hi3d.frames import AT_ONCE, Condition, decode_frames
from manyview.methods.hi3d.guidance import GuidanceShape, frame_guidance
from manyview.methods.hi3d.memory import Profile, meta_like, profile_memory
from manyview.methods.hi3d.noise_levels import start_solver, starting_at
from manyview.methods.hi3d.refine import Refinement, count_depth_channels, draw_refined
from manyview.methods.hi3d.stage import StageNetworks
from manyview.methods.hi3d.unet import OrbitUNet
from manyview.progress import Progress, silent
from manyview.sampling.workers import OnStep, count_workers, map_batches
from manyview.weights import Bundle

Guidance = float | tuple[float, float]
"""The scale at frame 0 and the highest, or the highest with 1 at frame 0."""
ORBITS_AT_ONCE, REFINED_AT_ONCE = 4, 2
"""Orbits at work at once where several are asked for."""
_STREAMS = {"orbit": (1, 2), "refine": (3, 4)}
"""Draws of latents and of the condition's noise."""


class Hi3dNetworks(DiffusionPipeline):
    """Components, the choices recorded with them, and orbits of pictures. All components from `refiner` on
    may be missing; `refine_scheduler` is then the first stage's."""

    model_cpu_offload_seq = "elevation->image_encoder->depth->unet->refiner->vae"
    # diffusers reads it from the class
    _optional_components = ["refiner", "refine_scheduler", "depth", "elevation"]  # noqa: RUF012

    def __init__(
        self,
        vae: AutoencoderKL,
        image_encoder: CLIPVisionModelWithProjection,
        unet: OrbitUNet,
        scheduler: EulerDiscreteScheduler,
        refiner: OrbitUNet | None = None,
        refine_scheduler: EulerDiscreteScheduler | None = None,
        depth: nn.Module | None = None,
        elevation: ElevationNet | None = None,
        default_steps: int = 25,
        default_guidance: tuple[float, float] | list[float] = (1.0, 2.5),
        default_shape: GuidanceShape = "linear",
        refine_steps: int | None = None,
        refine_guidance: tuple[float, float] | list[float] = (1.0, 2.0),
        refine_shape: GuidanceShape | None = None,
        blend: bool = True,
        depth_normalize: Normalize = "clip",
        augmentation: float = 0.02,
        condition: Condition = "latents",
        resolution: int | None = None,
        sigma_max: float | None = None,
        refine_sigma_max: float | None = None,
    ) -> None:
        """`depth`: our `DepthNet` or a network of transformers. `augmentation`: deviation of the noise on the
        condition, `condition`: on what it is put (`frames.noised_latents`). `resolution`: pixels a side of
        the orbit before it is refined; the codec's `sample_size` if not given. `sigma_max`,
        `refine_sigma_max`: noise to begin with, the schedulers' own if not given; steps above all that a
        network was shown in training are wasted. What else is None of the second stage is as for the
        first."""
        super().__init__()
        if condition not in get_args(Condition):
            raise InputError("condition", condition, f"expected one of {', '.join(get_args(Condition))}")
        self.register_modules(
            vae=vae,
            image_encoder=image_encoder,
            unet=unet,
            scheduler=scheduler,
            refiner=refiner,
            refine_scheduler=refine_scheduler,
            depth=depth,
            elevation=elevation,
        )
        self.register_to_config(
            default_steps=default_steps,
            default_guidance=list(default_guidance),
            default_shape=default_shape,
            refine_steps=refine_steps,
            refine_guidance=list(refine_guidance),
            refine_shape=refine_shape,
            blend=blend,
            depth_normalize=depth_normalize,
            augmentation=augmentation,
            condition=condition,
            resolution=resolution,
            sigma_max=sigma_max,
            refine_sigma_max=refine_sigma_max,
        )
        starting_at(scheduler, sigma_max)  # refuses what does not fit
        starting_at(refine_scheduler or scheduler, refine_sigma_max)
        self.bundle: Bundle | None = None
        self.depth_model: DepthModel | None = None if depth is None else as_depth_model(depth)
        # Convolutions on a CPU are a fifth faster in this layout; the values stay the same.
        vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @classmethod
    def from_bundle(cls, bundle: Bundle, dtype: torch.dtype | None = None) -> Self:
        """Built from located weights; float32 unless another dtype is asked for."""
        parts, depth_model = load_components(bundle, dtype or torch.float32)
        pipeline = cls(**parts, **recorded_choices(bundle.settings))
        pipeline.bundle, pipeline.depth_model = bundle, depth_model
        return pipeline

    @property
    def resolution(self) -> int:
        """Pixels a side of the orbit before it is refined."""
        return int(self.config["resolution"] or self.vae.config["sample_size"])

    @property
    def refined_resolution(self) -> int:
        """Pixels a side of a refined orbit."""
        return 2 * self.resolution

    @property
    def num_frames(self) -> int:
        """Views of an orbit."""
        return int(self.unet.config["num_frames"])

    @property
    def orbit_networks(self) -> StageNetworks:
        """The first stage."""
        scheduler = starting_at(self.scheduler, self.config["sigma_max"])
        return self._stage(self.unet, scheduler, _STREAMS["orbit"])

    @property
    def refine_networks(self) -> StageNetworks:
        """The second stage. Raises `InputError` for weights without a refiner."""
        if self.refiner is None:
            raise InputError("--refine", "asked for", "these weights have no refiner")
        scheduler = starting_at(self.refine_scheduler or self.scheduler, self.config["refine_sigma_max"])
        return self._stage(self.refiner, scheduler, _STREAMS["refine"])

    @torch.inference_mode()
    def predict(
        self,
        images: Tensor,
        elevation_deg: Tensor,
        *,
        items: Sequence[int],
        seed: int = 0,
        num_steps: int | None = None,
        guidance: Guidance | None = None,
        guidance_shape: GuidanceShape | None = None,
        batch_size: int = ORBITS_AT_ONCE,
        decode_frames: int = AT_ONCE,
        progress: Progress | None = None,
    ) -> Tensor:
        """[N, A, 3, S, S] an orbit for every picture [N, 3, S, S] at the weights' resolution and elevation
        [N].

        `items`: N numbers, of which each with `seed` decides the noise of its orbit, whatever the batches;
        `batch_size`: orbits at work at once, on a CPU divided among torch's threads
        (`manyview.sampling.workers`); `decode_frames`: frames that the codec decodes at once.
        """
        numbers = list(items)
        networks = self.orbit_networks
        steps = int(self.config["default_steps"]) if num_steps is None else num_steps
        start_solver(networks.scheduler, steps)  # refuses before any work
        shape = guidance_shape or cast(GuidanceShape, self.config["default_shape"])
        scale = frame_guidance(self.num_frames, *self.choose_guidance(guidance), shape)

        def draw(part: slice, on_step: OnStep) -> Tensor:
            given = images[part]
            return networks.draw(
                given,
                given[:, None],
                elevation_deg[part],
                scale,
                items=numbers[part],
                seed=seed,
                num_steps=steps,
                at_once=decode_frames,
                on_step=on_step,
            )

        return self._in_batches(
            draw, len(images), batch_size, steps, "denoising steps", decode_frames, progress
        )

    @torch.inference_mode()
    def predict_refined(
        self,
        coarse: Tensor,
        images: Tensor,
        elevation_deg: Tensor,
        *,
        items: Sequence[int],
        seed: int = 0,
        num_steps: int | None = None,
        guidance: Guidance | None = None,
        blend: bool | None = None,
        depth: bool = True,
        batch_size: int = REFINED_AT_ONCE,
        decode_frames: int = AT_ONCE,
        progress: Progress | None = None,
    ) -> Tensor:
        """[N, A, 3, R, R] refined orbits of coarse ones [N, A, 3, s, s], of pictures [N, 3, R, R] at the
        refined resolution. The options are those of `predict` and `choose_refinement`."""
        if tuple(coarse.shape[:3]) != (len(images), self.num_frames, 3):
            wanted = [len(images), self.num_frames, 3, "s", "s"]
            raise InputError("coarse", tuple(coarse.shape), f"expected {wanted}")
        numbers, networks = list(items), self.refine_networks
        how = self.choose_refinement(num_steps, guidance, blend, depth)

        def draw(part: slice, on_step: OnStep) -> Tensor:
            return draw_refined(
                networks,
                self.depth_model,
                self.config["depth_normalize"],
                coarse[part],
                images[part],
                elevation_deg[part],
                how,
                items=numbers[part],
                seed=seed,
                at_once=decode_frames,
                on_step=on_step,
            )

        return self._in_batches(
            draw, len(images), batch_size, how.num_steps, "refining steps", decode_frames, progress
        )

    def profile_memory(self, *, refine: bool = True, depth: bool = True) -> Profile:
        """What each step of a call needs, from the networks' sizes alone (`memory.Profile.plan`)."""
        return profile_memory(
            meta_like(self.components),
            resolution=self.resolution,
            dtype=self.unet.dtype,
            refine=refine,
            depth=depth,
        )

    def estimate_memory(self, num_samples: int = 1) -> int:
        """Bytes that a call with the default batches needs at its peak, with all networks in place."""
        return self.profile_memory().plan(num_orbits=orbits_at_once(num_samples)).peak

    def choose_guidance(self, guidance: Guidance | None) -> tuple[float, float]:
        """Guidance at frame 0 and its highest in the first stage; by default the weights' choice."""
        return _pair(self.config["default_guidance"] if guidance is None else guidance)

    def choose_refinement(
        self,
        num_steps: int | None = None,
        guidance: Guidance | None = None,
        blend: bool | None = None,
        depth: bool = True,
    ) -> Refinement:
        """What is given, and the weights' choice for what is not. Raises `InputError` for values out of
        range, for weights without a refiner, and where depth is to be shown and they have no network for
        it."""
        networks = self.refine_networks
        channels = count_depth_channels(networks)
        if channels and depth and self.depth_model is None:
            line = "the refiner reads depth, and these weights have no network for it; leave depth out"
            raise InputError("--weights", self.bundle.name if self.bundle else "in memory", line)
        recorded = self.config["refine_steps"] or self.config["default_steps"]
        steps = int(recorded) if num_steps is None else num_steps
        try:
            start_solver(networks.scheduler, steps)
        except InputError as error:
            raise InputError("--refine-steps", steps, error.accepted) from None
        pair = _pair(self.config["refine_guidance"] if guidance is None else guidance)
        shape = cast(GuidanceShape, self.config["refine_shape"] or self.config["default_shape"])
        return Refinement(
            num_steps=steps,
            guidance=pair,
            scale=frame_guidance(networks.num_frames, *pair, shape),
            blend=bool(self.config["blend"]) if blend is None else blend,
            depth=depth and channels > 0,
        )

    def _stage(
        self, unet: OrbitUNet, scheduler: EulerDiscreteScheduler, streams: tuple[int, int]
    ) -> StageNetworks:
        return StageNetworks(
            vae=self.vae,
            image_encoder=self.image_encoder,
            unet=unet,
            scheduler=scheduler,
            condition=cast(Condition, self.config["condition"]),
            augmentation=float(self.config["augmentation"]),
            streams=streams,
            device=self._execution_device,
        )

    def _in_batches(
        self,
        draw: Callable[[slice, OnStep], Tensor],
        count: int,
        batch_size: int,
        num_steps: int,
        what: str,
        at_once: int,
        progress: Progress | None,
    ) -> Tensor:
        """[N, A, 3, H, W] what `draw` makes of each part, decoded."""
        modules = [one for one in self.components.values() if isinstance(one, nn.Module)]
        workers = count_workers(count, batch_size, modules)

        @torch.inference_mode()  # which does not reach other threads by itself
        def work(part: slice, on_step: OnStep) -> Tensor:
            latents = draw(part, lambda done: on_step(done * (part.stop - part.start)))
            return decode_frames(self.vae, latents, at_once, self._execution_device)

        report = progress or silent
        report.start(count * num_steps, what)
        try:
            return torch.cat(map_batches(work, count, batch_size, workers, report.advance))
        finally:
            report.finish()


def orbits_at_once(num_samples: int) -> tuple[int, int]:
    """How many samples are at work at once in the two stages, by default."""
    return min(num_samples, ORBITS_AT_ONCE), min(num_samples, REFINED_AT_ONCE)


def _pair(guidance: Guidance | list[float]) -> tuple[float, float]:
    if isinstance(guidance, int | float):
        return 1.0, float(guidance)
    low, high = guidance
    return float(low), float(high)
