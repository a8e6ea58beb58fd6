"""The one-to-one baseline as a diffusers pipeline: one view in, others at given cameras out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from manyview.errors import InputError
from manyview.io.framing import resize_area
from manyview.io.manifest import build_manifest
from manyview.io.result import Result
from manyview.methods.one2one.model import PairDenoiser, PoseConditioner, relative_camera
from manyview.nets.autoencoder import decode, encode
from manyview.nets.image_encoder import embed
from manyview.sampling.noise import item_noise
from manyview.sampling.solvers import Solver, build_solver
from manyview.sampling.workers import OnStep, count_workers, map_batches
from manyview.types import Cameras, Views, join_cameras
from manyview.weights import Bundle
from manyview.weights.packing import load_component


class One2OnePipeline(DiffusionPipeline):
    """Every target view drawn on its own from one reference and the relative camera (Liu et al. 2023)."""

    model_cpu_offload_seq = "image_encoder->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        image_encoder: CLIPVisionModelWithProjection,
        unet: UNet2DConditionModel,
        conditioner: PoseConditioner,
        scheduler: DDIMScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, image_encoder=image_encoder, unet=unet, conditioner=conditioner, scheduler=scheduler
        )
        self.bundle: Bundle | None = None
        # Convolutions on a CPU are a fifth faster in this layout; the values stay the same.
        for part in (vae, unet):
            part.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @classmethod
    def from_bundle(cls, bundle: Bundle, dtype: torch.dtype | None = None) -> One2OnePipeline:
        """Built from located weights; float32 unless another dtype is asked for."""
        chosen = dtype or torch.float32
        part = bundle.folders("vae", "image_encoder", "unet", "conditioner", "scheduler")
        pipeline = cls(
            vae=load_component(AutoencoderKL, part["vae"], chosen),
            image_encoder=load_component(CLIPVisionModelWithProjection, part["image_encoder"], chosen),
            unet=load_component(UNet2DConditionModel, part["unet"], chosen),
            conditioner=load_component(PoseConditioner, part["conditioner"], chosen),
            scheduler=cast(DDIMScheduler, DDIMScheduler.from_pretrained(part["scheduler"])),
        )
        pipeline.bundle = bundle
        return pipeline

    @property
    def resolution(self) -> int:
        """Pixels a side of the views that come out."""
        return int(self.vae.config["sample_size"])

    @torch.inference_mode()
    def __call__(
        self,
        views: Views,
        targets: Cameras,
        *,
        seed: int = 0,
        num_steps: int | None = None,
        guidance: float = 1.0,
        solver: Solver | None = None,
    ) -> Result:
        """The first observed view and one drawn view for every target camera, by 50 steps of DDIM where
        nothing else is given.

        Raises `InputError` where the views have no cameras, before any network runs.
        """
        started = time.perf_counter()
        num_steps, solver = 50 if num_steps is None else num_steps, solver or "ddim"
        if views.cameras is None:
            raise InputError("INPUT", "no cameras", "expected the camera of the given view (transforms.json)")
        if not bool(views.observed.any()):
            raise InputError("INPUT", "no observed view", "expected one image")
        first = int(views.observed.nonzero()[0, 0])
        size = self.resolution
        given, _ = resize_area(views.over(1.0)[[first]], size, size)
        pose = relative_camera(views.cameras[[first] * len(targets)], targets)
        made = self.predict(
            given.expand(len(targets), -1, -1, -1),
            pose,
            items=range(len(targets)),
            seed=seed,
            num_steps=num_steps,
            guidance=guidance,
            solver=solver,
        )
        camera = views.cameras[first].resized(size, size)
        moved = targets.resized(size, size)
        cameras = replace(join_cameras([camera, moved]), distortion=None)
        observed = torch.zeros(len(targets) + 1, dtype=torch.bool)
        observed[0] = True
        options = {"steps": num_steps, "guidance": guidance, "solver": solver, "resolution": size}
        return Result(
            views=Views(images=torch.cat([given, made]), cameras=cameras, observed=observed),
            manifest=build_manifest(
                "synth one2one",
                options=options,
                seed=seed,
                weights=self.bundle.manifest_entries() if self.bundle else (),
                seconds=time.perf_counter() - started,
            ),
        )

    @torch.inference_mode()
    def predict(
        self,
        references: Tensor,
        pose: Tensor,
        *,
        items: Sequence[int],
        seed: int = 0,
        num_steps: int = 50,
        guidance: float = 1.0,
        solver: Solver = "ddim",
        batch_size: int = 32,
    ) -> Tensor:
        """[N, 3, H, W] one view for every reference [N, 3, H, W] and relative camera [N, 4].

        `items`: N numbers, of which each with `seed` decides the noise of its view; `batch_size`: views
        at work at once, on a CPU divided among torch's threads (`manyview.sampling.workers`).
        """
        numbers = list(items)
        workers = count_workers(len(references), batch_size, (self.vae, self.image_encoder, self.unet))
        build_solver(self.scheduler, solver, num_steps)  # refuses before any work

        def predict_part(part: slice, on_step: OnStep) -> Tensor:
            scheduler = build_solver(self.scheduler, solver, num_steps, self.device)
            return self._predict_batch(
                references[part], pose[part], numbers[part], seed, scheduler, guidance, on_step
            )

        return torch.cat(map_batches(predict_part, len(references), batch_size, workers))

    @torch.inference_mode()
    def _predict_batch(
        self,
        references: Tensor,
        pose: Tensor,
        items: list[int],
        seed: int,
        solver: Any,
        guidance: float,
        on_step: OnStep,
    ) -> Tensor:
        dtype, device = self.unet.dtype, self.device
        denoiser = PairDenoiser(self.unet, self.conditioner)
        pixels, turn = references.to(device, dtype), pose.to(device, dtype)
        latent, embedding = encode(self.vae, pixels), embed(self.image_encoder, pixels)
        x = item_noise(seed, items, latent.shape[1:]).to(device, dtype)
        keep = torch.ones(len(pixels), dtype=torch.bool, device=device)
        answers = 1 if guidance == 1.0 else 2  # with guidance, both answers in one call
        latent, embedding, turn = (
            part.repeat(answers, *[1] * (part.ndim - 1)) for part in (latent, embedding, turn)
        )
        keep = torch.cat([keep, ~keep])[: answers * len(pixels)]
        for timestep in solver.timesteps:
            read = solver.scale_model_input(x, timestep)
            output = denoiser(torch.cat([read] * answers), timestep, latent, embedding, turn, keep)
            if guidance != 1.0:
                output, base = output.chunk(2)
                output = base + guidance * (output - base)
            x = solver.step(output, timestep, x).prev_sample
            on_step(1)
        return decode(self.vae, x).float().cpu()
