"""TUNet's components as a diffusers pipeline, asked with tensors: pictures and cameras in, views out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast, get_args

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from manyview.errors import InputError
from manyview.methods.tunet.base import BaseNet, BaseNoise, count_classes, embed_words, load_base
from manyview.methods.tunet.cameras import CameraPairs
from manyview.methods.tunet.fusion import Candidate, agreement, fuse, parse_candidate
from manyview.methods.tunet.model import TUNet
from manyview.methods.tunet.select import Selection, encoder_distance, lowest, pick
from manyview.nets.autoencoder import decode, encode
from manyview.progress import Progress, silent
from manyview.sampling.inversion import Levels, Trajectory, even_timesteps, invert, sample
from manyview.sampling.noise import item_noise
from manyview.sampling.workers import OnStep, count_workers, map_batches
from manyview.weights import Bundle
from manyview.weights.packing import load_component

_NOISE_STREAM = 1
CHOICES = ("t_star", "mean_steps", "refinements", "candidates", "selection", "resolution")
"""Arguments of the pipeline that a bundle's settings record."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Resolved choices of one call."""

    t_star: int
    mean_steps: int
    refinements: int
    candidates: tuple[Candidate, ...]
    selection: Selection
    levels: Levels
    """Up to t*, and on to the end of the schedule where a candidate takes noise from there."""

    @property
    def record(self) -> dict[str, Any]:
        """For manifests."""
        return {
            "t_star": self.t_star,
            "mean_steps": self.mean_steps,
            "refinements": self.refinements,
            "candidates": [candidate.name for candidate in self.candidates],
            "selection": self.selection if len(self.candidates) > 1 else None,
        }


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The views of B targets, and everything they were chosen from."""

    images: Tensor
    """[B, 3, S, S] the chosen candidate of each."""
    candidates: Tensor
    """[K, B, 3, S, S]"""
    names: tuple[str, ...]
    """K, as `parse_candidate` reads them."""
    scores: Tensor
    """[K, B] what the selection went by, the lowest wins; zeros for a single candidate."""
    chosen: Tensor
    """[B] which candidate."""


class TunetNetworks(DiffusionPipeline):
    """Components and the choices recorded with them. A base that takes text has text encoder and tokenizer
    beside it; the image encoder is for the selection `encoder`."""

    model_cpu_offload_seq = "text_encoder->base->tunet->image_encoder->vae"
    # diffusers reads it from the class
    _optional_components = ["image_encoder", "text_encoder", "tokenizer"]  # noqa: RUF012

    def __init__(
        self,
        vae: AutoencoderKL,
        base: BaseNet,
        tunet: TUNet,
        scheduler: DDIMScheduler,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
        t_star: int | None = None,
        mean_steps: int = 10,
        refinements: int = 0,
        candidates: str | Sequence[str] = "A:eps_t",
        selection: Selection = "agreement",
        resolution: int | None = None,
    ) -> None:
        """t_star: the network's own when not given. mean_steps: levels of the inversion up to it, and of the
        sampling down from it. candidates: ways to draw a target (`fusion.parse_candidate`), with
        commas between several, of which `selection` takes one. resolution: the codec's `sample_size` when not
        given."""
        super().__init__()
        if isinstance(base, UNet2DConditionModel) and (text_encoder is None or tokenizer is None):
            line = "its base takes text: expected text_encoder and tokenizer beside it"
            raise InputError("--weights", "in memory", line)
        self.register_modules(
            vae=vae,
            base=base,
            tunet=tunet,
            scheduler=scheduler,
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )
        self.register_to_config(
            t_star=t_star,
            mean_steps=mean_steps,
            refinements=refinements,
            candidates=candidates if isinstance(candidates, str) else ",".join(candidates),
            selection=selection,
            resolution=resolution,
        )
        self.bundle: Bundle | None = None
        # Convolutions on a CPU are a fifth faster in this layout; the values stay the same.
        for part in (vae, base, tunet):
            part.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.plan()  # refuses what does not fit

    @classmethod
    def from_bundle(cls, bundle: Bundle, dtype: torch.dtype | None = None) -> Self:
        """Built from located weights; float32 unless another dtype is asked for."""
        chosen = dtype or torch.float32
        part = bundle.folders("vae", "base", "tunet", "scheduler")
        more: dict[str, Any] = {}
        if "image_encoder" in bundle.components:
            folder = bundle.components["image_encoder"]
            more["image_encoder"] = load_component(CLIPVisionModelWithProjection, folder, chosen)
        if "text_encoder" in bundle.components:
            folder = bundle.components["text_encoder"]
            more["text_encoder"] = load_component(CLIPTextModel, folder, chosen)
        if "tokenizer" in bundle.components:
            folder = bundle.components["tokenizer"]
            more["tokenizer"] = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        pipeline = cls(
            vae=load_component(AutoencoderKL, part["vae"], chosen),
            base=load_base(part["base"], chosen),
            tunet=load_component(TUNet, part["tunet"], chosen),
            scheduler=cast(DDIMScheduler, DDIMScheduler.from_pretrained(part["scheduler"])),
            **more,
            **recorded_choices(bundle.settings),
        )
        pipeline.bundle = bundle
        return pipeline

    @property
    def resolution(self) -> int:
        """Pixels a side of the views that come out."""
        return int(self.config["resolution"] or self.vae.config["sample_size"])

    @property
    def takes_text(self) -> bool:
        """Whether the base can be told a prompt."""
        return isinstance(self.base, UNet2DConditionModel)

    def plan(
        self,
        t_star: int | None = None,
        mean_steps: int | None = None,
        refinements: int | None = None,
        candidates: Sequence[str | Candidate] | None = None,
        selection: Selection | None = None,
    ) -> Plan:
        """What is given, and the weights' choice for what is not. Raises `InputError` for values out of
        range, names that are not known, and a selection these weights cannot make."""
        recorded = self.config
        last = int(self.scheduler.config["num_train_timesteps"]) - 1
        level = t_star or recorded["t_star"] or self.tunet.options.t_star
        if not 1 <= level <= last:
            raise InputError("--t-star", level, f"expected 1 to {last}")
        steps = recorded["mean_steps"] if mean_steps is None else mean_steps
        again = recorded["refinements"] if refinements is None else refinements
        if not 0 <= again <= 100:
            raise InputError("--refinements", again, "expected 0 to 100")
        ways = tuple(
            way if isinstance(way, Candidate) else parse_candidate(way)
            for way in (recorded["candidates"].split(",") if candidates is None else candidates)
        )
        if not ways or len(set(ways)) != len(ways):
            shown = ", ".join(way.name for way in ways) or "none"
            raise InputError("--candidates", shown, "expected one or more, all different")
        rule = selection or recorded["selection"]
        if rule not in get_args(Selection):
            raise InputError("--selection", rule, f"expected one of {', '.join(get_args(Selection))}")
        if len(ways) > 1 and rule == "encoder" and self.image_encoder is None:
            raise InputError("--selection", rule, "these weights have no image encoder; expected agreement")
        if len(ways) > 1 and rule == "agreement" and any(way.fusion == "mean" for way in ways):
            line = "always agrees with itself; leave it out, or give --selection encoder"
            raise InputError("--candidates", "mean", line)
        beyond = last if any(way.noise_source == "latent_T" for way in ways) else None
        return Plan(
            t_star=level,
            mean_steps=steps,
            refinements=again,
            candidates=ways,
            selection=rule,
            levels=Levels.of(self.scheduler, even_timesteps(level, steps, beyond=beyond)),
        )

    @torch.inference_mode()
    def predict(
        self,
        images: Tensor,
        pairs: CameraPairs,
        *,
        items: Sequence[int],
        seed: int = 0,
        t_star: int | None = None,
        mean_steps: int | None = None,
        refinements: int | None = None,
        candidates: Sequence[str | Candidate] | None = None,
        selection: Selection | None = None,
        class_ids: Tensor | None = None,
        prompt: str | None = None,
        guidance: float = 1.0,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> Drawn:
        """Views of B targets from R references [R, 3, S, S] in [0, 1]; every reference is inverted once.

        `items`: B numbers, of which each with `seed` decides fresh noise (the source gaussian), whatever the
        batches. class_ids [R]; a network that does not know one is told the unknown. prompt and `guidance`:
        what the base is told while it draws (not while it inverts). `batch_size`: targets at work at once,
        on a CPU divided among torch's threads; 32, or 4 above 128 pixels, when not given. Raises `InputError`
        as `plan`, and for a prompt that the base does not take, before any network runs.
        """
        plan = self.plan(t_star, mean_steps, refinements, candidates, selection)
        self.check_prompt(prompt)
        numbers, at_once = list(items), batch_size or (32 if self.resolution <= 128 else 4)
        if len(numbers) != len(pairs):
            raise InputError("items", len(numbers), f"expected {len(pairs)}, one for each target")
        device = self._execution_device
        pairs = pairs.to(device)
        plain = self._words("") if self.takes_text else None
        told = plain if prompt is None else self._words(prompt)
        parts = [part for part in (self.vae, self.base, self.tunet, self.image_encoder) if part is not None]
        workers = count_workers(len(pairs), at_once, parts)
        report = progress or silent
        steps = len(plan.levels.until(plan.t_star)) * len(plan.candidates)
        report.start(len(images) * len(plan.levels) + len(pairs) * steps, "denoising steps")
        try:
            base = BaseNoise(self.base, class_ids=self._class_ids(class_ids, self.base), context=plain)
            trajectory = self._invert(images.to(device), base, plan, at_once, report)
            artist = BaseNoise(
                self.base, class_ids=base.class_ids, context=told, without=plain, guidance=guidance
            )

            @torch.inference_mode()  # which does not reach other threads by itself
            def work(part: slice, on_step: OnStep) -> tuple[Tensor, Tensor]:
                return self._draw(
                    pairs.targets(part),
                    trajectory,
                    base,
                    artist,
                    plan,
                    noise_of=(seed, numbers[part]),
                    class_ids=class_ids,
                    references=images,
                    on_step=on_step,
                )

            made = map_batches(work, len(pairs), at_once, workers, report.advance)
        finally:
            report.finish()
        views, scores = (torch.cat(found, dim=1) for found in zip(*made, strict=True))
        chosen = lowest(scores)
        return Drawn(
            images=pick(views, chosen),
            candidates=views,
            names=tuple(candidate.name for candidate in plan.candidates),
            scores=scores,
            chosen=chosen,
        )

    def check_prompt(self, prompt: str | None) -> None:
        """Raise `InputError` for a prompt that the base does not take."""
        if prompt is not None and not self.takes_text:
            raise InputError("--prompt", prompt, "these weights' base takes no text")

    def check_class(self, class_id: int | None) -> None:
        """Raise `InputError` for a class that neither network knows."""
        known = max(count_classes(self.base), self.tunet.options.num_classes)
        if class_id is not None and not 0 <= class_id < known:
            accepted = (
                f"expected 0 to {known - 1}" if known else "these weights know no classes; leave it out"
            )
            raise InputError("--class-id", class_id, accepted)

    def _invert(
        self, images: Tensor, base: BaseNoise, plan: Plan, at_once: int, report: Progress
    ) -> Trajectory:
        """The references' trajectories, in float32."""
        found = []
        for part in torch.arange(len(images)).split(at_once):
            latents = encode(self.vae, images[part].to(self.vae.dtype)).float()
            rows = slice(int(part[0]), int(part[-1]) + 1)
            found.append(invert(latents, base.rows(rows), plan.levels, refinements=plan.refinements))
            report.advance(len(part) * len(plan.levels))
        if len(found) == 1:
            return found[0]
        return replace(
            found[0],
            clean=torch.cat([one.clean for one in found]),
            latents=torch.cat([one.latents for one in found], dim=1),
            estimates=torch.cat([one.estimates for one in found], dim=1),
            noises=torch.cat([one.noises for one in found], dim=1),
        )

    def _draw(
        self,
        pairs: CameraPairs,
        trajectory: Trajectory,
        base: BaseNoise,
        artist: BaseNoise,
        plan: Plan,
        *,
        noise_of: tuple[int, list[int]],
        class_ids: Tensor | None,
        references: Tensor,
        on_step: OnStep,
    ) -> tuple[Tensor, Tensor]:
        """Views [K, b, 3, S, S] of some targets by every candidate, and the selection's scores [K, b]."""
        of = pairs.reference_of
        known = trajectory.estimate(plan.t_star)
        shown, used = pairs.narrowed()
        classes = self._class_ids(class_ids, self.tunet)
        estimate = self.tunet(
            known[used].to(self.tunet.dtype), shown, plan.t_star, None if classes is None else classes[used]
        ).float()
        told, drawing, down = base.rows(of), artist.rows(of), plan.levels.until(plan.t_star)
        views, scores = [], []
        for candidate in plan.candidates:
            noise = None
            if candidate.noise_source == "gaussian":
                seed, numbers = noise_of
                noise = item_noise(seed, numbers, estimate.shape[1:], _NOISE_STREAM).to(estimate.device)
            score = torch.zeros(len(of))
            if candidate.fusion == "mean":
                clean = estimate
                on_step(len(of) * len(down))
            else:
                latents = fuse(
                    estimate,
                    trajectory,
                    told,
                    candidate,
                    t_star=plan.t_star,
                    reference_of=of,
                    noise=noise,
                )
                if len(plan.candidates) > 1 and plan.selection == "agreement":
                    score = agreement(latents, estimate, told, down, plan.t_star).cpu()
                clean = sample(latents, drawing, down, on_step=lambda _: on_step(len(of)))
            view = decode(self.vae, clean.to(self.vae.dtype)).float()
            if len(plan.candidates) > 1 and plan.selection == "encoder":
                assert self.image_encoder is not None, "checked with the plan"
                score = encoder_distance(self.image_encoder, view, references[of.to(references.device)]).cpu()
            views.append(view.cpu())
            scores.append(score)
        return torch.stack(views), torch.stack(scores)

    def _class_ids(self, class_ids: Tensor | None, network: BaseNet | TUNet) -> Tensor | None:
        """Ids as a network knows them, the unknown for others; None where it takes none."""
        if class_ids is None:
            return None
        if isinstance(network, TUNet):
            unknown = network.unknown_class
        elif network.config.get("num_class_embeds"):
            unknown = count_classes(network)
        else:
            return None
        return torch.where(class_ids < unknown, class_ids, unknown).to(self._execution_device)

    def _words(self, prompt: str) -> Tensor:
        assert self.text_encoder is not None, "checked with the components"
        assert self.tokenizer is not None, "checked with the components"
        return embed_words(self.tokenizer, self.text_encoder, prompt)


def recorded_choices(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the pipeline that a bundle's settings record; the others keep their defaults."""
    return {name: settings[name] for name in CHOICES if settings.get(name) is not None}


def stable_diffusion_parts(source: str | Path, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Codec, base, scheduler, text encoder and tokenizer of Stable Diffusion 1.x, by folder or hub id.

    Safetensors only. The scheduler is a DDIM scheduler on the model's own noise schedule.
    """
    shared: dict[str, Any] = {"use_safetensors": True, "torch_dtype": dtype or torch.float32}
    name = str(source)
    words = CLIPTextModel.from_pretrained(
        name, subfolder="text_encoder", use_safetensors=True, dtype=dtype or torch.float32
    )
    return {
        "vae": AutoencoderKL.from_pretrained(name, subfolder="vae", **shared),
        "base": UNet2DConditionModel.from_pretrained(name, subfolder="unet", **shared),
        "scheduler": DDIMScheduler.from_pretrained(name, subfolder="scheduler", clip_sample=False),
        "text_encoder": words,
        "tokenizer": CLIPTokenizer.from_pretrained(name, subfolder="tokenizer"),
    }
