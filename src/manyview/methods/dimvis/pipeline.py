"""DiMViS as a diffusers pipeline: some views of a rig in, all views of the rig out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from manyview.errors import InputError
from manyview.io.framing import resize_area
from manyview.io.manifest import build_manifest
from manyview.io.result import Result
from manyview.methods.dimvis.model import SlotConditioner, TileDenoiser
from manyview.methods.dimvis.rig import choose_slots, rig_cameras, rig_rays
from manyview.nets.autoencoder import decode, encode, latent_scale
from manyview.nets.image_encoder import embed
from manyview.progress import Progress, silent
from manyview.sampling.masked import Unconditional, sample_masked
from manyview.sampling.noise import item_noise
from manyview.sampling.solvers import Solver, build_solver
from manyview.sampling.workers import OnStep, count_workers, map_batches
from manyview.types import Views
from manyview.weights import Bundle
from manyview.weights.packing import load_component


class DimvisPipeline(DiffusionPipeline):
    """Masked joint diffusion over a tile of views (Di Giacomo et al. 2024).

    `pipe(views, seed=0)` returns a `Result` with all V views of the rig: the given ones as they are
    (resized to the weights' resolution), the others drawn. Same seed, same result; a sample's noise
    depends on (seed, sample number) alone.
    """

    model_cpu_offload_seq = "image_encoder->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        image_encoder: CLIPVisionModelWithProjection,
        unet: UNet2DConditionModel,
        conditioner: SlotConditioner,
        scheduler: DDIMScheduler,
        guidance_by_references: list[float] | tuple[float, ...] = (),
        default_solver: Solver = "ddim",
        default_steps: int = 50,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, image_encoder=image_encoder, unet=unet, conditioner=conditioner, scheduler=scheduler
        )
        self.register_to_config(
            guidance_by_references=list(guidance_by_references),
            default_solver=default_solver,
            default_steps=default_steps,
        )
        self.bundle: Bundle | None = None
        # Convolutions on a CPU are a fifth faster in this layout; the values stay the same.
        for part in (vae, unet):
            part.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @classmethod
    def from_bundle(cls, bundle: Bundle, dtype: torch.dtype | None = None) -> DimvisPipeline:
        """Built from located weights; float32 unless another dtype is asked for."""
        chosen = dtype or torch.float32
        part = bundle.folders("vae", "image_encoder", "unet", "conditioner", "scheduler")
        pipeline = cls(
            vae=load_component(AutoencoderKL, part["vae"], chosen),
            image_encoder=load_component(CLIPVisionModelWithProjection, part["image_encoder"], chosen),
            unet=load_component(UNet2DConditionModel, part["unet"], chosen),
            conditioner=load_component(SlotConditioner, part["conditioner"], chosen),
            scheduler=cast(DDIMScheduler, DDIMScheduler.from_pretrained(part["scheduler"])),
            guidance_by_references=bundle.settings.get("guidance_by_references", ()),
            default_solver=bundle.settings.get("solver", "ddim"),
            default_steps=bundle.settings.get("steps", 50),
        )
        pipeline.bundle = bundle
        return pipeline

    @property
    def num_views(self) -> int:
        """Slots of the rig the weights were trained for."""
        return self.conditioner.options.num_views

    @property
    def resolution(self) -> int:
        """Pixels a side of the views that come out."""
        return int(self.vae.config["sample_size"])

    def estimate_memory(self, num_samples: int = 1, batch_size: int = 8) -> int:
        """Bytes that a call needs at its peak, roughly: weights, and activations of one batch.

        Measured on the compact weights: activations come to about 400 copies of a batch's images in
        float32, the decoder's being the largest.
        """
        weights = sum(
            parameter.numel() * parameter.element_size()
            for module in (self.vae, self.image_encoder, self.unet)
            for parameter in module.parameters()
        )
        images = min(num_samples, batch_size) * self.num_views * 3 * self.resolution**2 * 4
        return weights + 400 * images

    @torch.inference_mode()
    def __call__(
        self,
        views: Views,
        *,
        seed: int = 0,
        slots: tuple[int, ...] | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        num_samples: int = 1,
        solver: Solver | None = None,
        unconditional: Unconditional = "renoised",
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> Result:
        """All views of the rig, from its observed ones.

        views: the given images (only `observed` ones are read); slots: which slot each of them fills
        (default: from their cameras, else 0, 1, ...); guidance: classifier-free guidance scale (default:
        the value found on validation objects for this number of references, else 1); num_samples: how
        many answers to draw: the first is returned in `views`, all in `samples`, and `spread` is their
        deviation per pixel; num_steps, solver: default those found on validation objects, recorded in the
        weights, else the paper's 50 steps of DDIM. Raises `InputError` before any network runs.
        """
        started = time.perf_counter()
        if num_samples < 1:
            raise InputError("--samples", num_samples, "expected at least 1")
        chosen = choose_slots(views, self.num_views, slots)
        if guidance is None:
            guidance = self.default_guidance(len(chosen))
        solver, num_steps = self.choose_sampler(solver, num_steps)
        size = self.resolution
        given, _ = resize_area(views.over(1.0)[views.observed], size, size)
        cameras = rig_cameras(views, chosen, self.num_views, size)
        images = given.new_zeros(self.num_views, 3, size, size)
        images[list(chosen)] = given
        observed = torch.zeros(self.num_views, dtype=torch.bool)
        observed[list(chosen)] = True
        samples = self.complete(
            images.expand(num_samples, -1, -1, -1, -1),
            observed.expand(num_samples, -1),
            items=range(num_samples),
            seed=seed,
            num_steps=num_steps,
            guidance=guidance,
            solver=solver,
            unconditional=unconditional,
            batch_size=batch_size,
            progress=progress,
        )
        options = {
            "slots": list(chosen),
            "steps": num_steps,
            "guidance": guidance,
            "samples": num_samples,
            "solver": solver,
            "unconditional": unconditional,
            "resolution": size,
        }
        return Result(
            views=Views(images=samples[0], cameras=cameras, observed=observed),
            spread=samples.std(dim=0).mean(dim=1, keepdim=True) if num_samples > 1 else None,
            samples=samples if num_samples > 1 else None,
            manifest=build_manifest(
                "synth dimvis",
                options=options,
                seed=seed,
                weights=self.bundle.manifest_entries() if self.bundle else (),
                seconds=time.perf_counter() - started,
            ),
        )

    def choose_sampler(self, solver: Solver | None, num_steps: int | None) -> tuple[Solver, int]:
        """What is given, and the weights' choice for what is not; their steps go with their solver only."""
        own: Solver = self.config["default_solver"]
        if num_steps is None:
            num_steps = int(self.config["default_steps"]) if solver in (None, own) else 50
        return solver or own, num_steps

    def default_guidance(self, num_references: int) -> float:
        """The guidance chosen on validation objects for this many references, else 1 (none)."""
        chosen = self.config["guidance_by_references"]
        return float(chosen[num_references - 1]) if num_references <= len(chosen) else 1.0

    @torch.inference_mode()
    def complete(
        self,
        images: Tensor,
        observed: Tensor,
        *,
        items: Sequence[int],
        seed: int = 0,
        num_steps: int = 50,
        guidance: float = 1.0,
        solver: Solver = "ddim",
        unconditional: Unconditional = "renoised",
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> Tensor:
        """[N, V, 3, H, W] in [0, 1]: N rigs completed, the observed views left untouched.

        images [N, V, 3, H, W] at the weights' resolution, read only where `observed` [N, V]; `items`: N
        numbers, of which each with `seed` decides the noise of its rig, whatever the batches;
        `batch_size`: rigs at work at once, on a CPU divided among torch's threads
        (`manyview.sampling.workers`).
        """
        numbers = list(items)
        workers = count_workers(len(images), batch_size, (self.vae, self.image_encoder, self.unet))
        build_solver(self.scheduler, solver, num_steps)  # refuses before any work

        def complete_part(part: slice, on_step: OnStep) -> Tensor:
            count = len(numbers[part])
            return self._complete_batch(
                images[part],
                observed[part],
                numbers[part],
                seed,
                build_solver(self.scheduler, solver, num_steps, self.device),
                guidance,
                unconditional,
                lambda _: on_step(count),
            )

        report = progress or silent
        report.start(len(images) * num_steps, "denoising steps")
        try:
            return torch.cat(map_batches(complete_part, len(images), batch_size, workers, report.advance))
        finally:
            report.finish()

    @torch.inference_mode()
    def _complete_batch(
        self,
        images: Tensor,
        observed: Tensor,
        items: list[int],
        seed: int,
        solver: Any,
        guidance: float,
        unconditional: Unconditional,
        on_step: OnStep,
    ) -> Tensor:
        dtype, device = self.unet.dtype, self.device
        count, num_views = observed.shape
        pixels = images.to(device, dtype)
        observed = observed.to(device)
        cells = self.resolution // latent_scale(self.vae)
        channels = self.conditioner.options.latent_channels
        latents = torch.zeros(count, num_views, channels, cells, cells, dtype=dtype, device=device)
        embeddings = torch.zeros(
            count, num_views, self.conditioner.options.context_dim, dtype=dtype, device=device
        )
        latents[observed] = encode(self.vae, pixels[observed])
        embeddings[observed] = embed(self.image_encoder, pixels[observed])
        noise = item_noise(seed, items, latents.shape[1:]).to(device, dtype)
        rays = None
        if self.conditioner.options.rays:
            rays = rig_rays(num_views, cells).to(device, dtype).expand(count, -1, -1, -1, -1)
        denoiser = TileDenoiser(self.unet, self.conditioner)

        def denoise(x: Tensor, timestep: Tensor, clean: Tensor, described: Tensor) -> Tensor:
            repeats = len(x) // count  # 2 where guidance asks for both answers at once
            shown = None if rays is None else rays.repeat(repeats, 1, 1, 1, 1)
            return denoiser(x, timestep, clean, embeddings.repeat(repeats, 1, 1), described, shown)

        drawn = sample_masked(
            denoise, solver, latents, observed, noise, guidance, unconditional, on_step=on_step
        )
        missing = ~observed
        result = pixels.clone()
        result[missing] = decode(self.vae, drawn[missing])
        return result.float().cpu()
