"""The published distillation loop: one input view and one camera an iteration, shown whole, to a network.

Zhou and Tulsiani 2023, section 3.3, with the released script's numbers (`published_options`). It takes hours
on a CPU at full size; `distill.py` says what is done instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.errors import InputError
from manyview.geometry.rays import camera_rays
from manyview.lift.field.answers import RayAnswer
from manyview.lift.field.box import view_cube
from manyview.lift.field.neural import NeuralField, build_field, sparsefusion_field
from manyview.methods.sparsefusion.distill_options import DistillOptions
from manyview.methods.sparsefusion.distill_state import Checkpoints, Progressed
from manyview.methods.sparsefusion.distill_work import STREAMS, Distilled, Work, finish
from manyview.methods.sparsefusion.schedule import denoising_steps, noise_time, target_weight
from manyview.methods.sparsefusion.teacher import Teacher, object_center
from manyview.methods.sparsefusion.train import color_loss
from manyview.metrics.perceptual import load_lpips_vgg, load_stlpips
from manyview.metrics.report import Skipped
from manyview.progress import Progress
from manyview.sampling.noise import item_generator, item_noise
from manyview.types import Cameras

_KEPT_EVERY = 50
_LOGGED_EVERY = 100
_WINDOW = 200
_PUBLISHED_HALF_RANGE = 5.0
"""Of the EFT in CO3D's units, in which the published field's cube reaches 4 from its middle."""

PictureDistance = Callable[[Tensor, Tensor], Tensor]


def run_iterations(work: Work, place: Checkpoints, progress: Progress) -> Distilled:
    """Warm-up and diffusion iterations on what `distill` has prepared."""
    options = work.options
    perceptual = perceptual_distance(options, work.source)
    total = options.warmup_steps + options.rounds
    state = work.state
    field = _first_field(work) if state is None else _trainable(state.field)
    optimizer = _optimizer(field, options)
    losses: list[float] = []
    rounds: list[dict[str, Any]] = []
    done = 0
    if state is not None:
        _restore(optimizer, state.extra)
        losses, rounds, done = state.extra["losses"].tolist(), list(state.rounds), state.done
    progress.start(total - done, "iterations")
    stopped = False
    try:
        while done < total and not stopped:
            with work.timed("field"):
                loss_inputs = _input_loss(work, field, done)
                optimizer.zero_grad()
                loss_inputs.backward()
            loss_target, entry = _target_loss(work, field, done, perceptual)
            with work.timed("field"):
                (options.target_weight * loss_target).backward()
                optimizer.step()
            done += 1
            losses.append(float(loss_inputs.detach()) + float(loss_target.detach()))
            if entry is not None or done % _LOGGED_EVERY == 0:
                _log(rounds, entry, losses, done)
            stopped = done > options.warmup_steps and _settled(losses, options)
            if done % _KEPT_EVERY == 0 or done == total or stopped:
                place.write(_state(work, field, optimizer, losses, rounds, done))
            progress.advance()
    finally:
        progress.finish()
    made = Progressed(done, field.requires_grad_(False), rounds)
    if work.on_round is not None:
        work.on_round(done, made.field)
    return finish(work, made, stopped)


def input_loss(seen: RayAnswer, colors: Tensor, masks: Tensor, options: DistillOptions) -> Tensor:
    """[] Huber (scale 0.1) in colour, the same in silhouette, and the opacity term, of step A.

    colors [3, H, W] and masks [1, H, W] of the view; `seen` its rays row by row.
    """
    shape = colors.shape[1:]
    shown, alphas = _pictures(seen, shape)
    ones = torch.ones_like(alphas)
    total = color_loss(shown, colors[None], ones)
    total = total + options.field.silhouette_weight * color_loss(alphas, masks[None], ones)
    return total + options.opacity_weight * opacity_term(alphas)


def opacity_term(alphas: Tensor) -> Tensor:
    """[] mean of sqrt(alpha^2 + 0.01): about alpha for opaque rays, nearly flat for empty ones."""
    return (alphas.square() + 0.01).sqrt().mean()


def perceptual_distance(options: DistillOptions, source: object) -> PictureDistance | None:
    """The perceptual term of whole pictures [B, 3, H, W], [B] numbers; None where there is none.

    `codec` compares the latents that the codec makes of both (mean squared difference of normalised
    latents): a net that is there wherever the teacher is and knows these pictures. Raises `InputError`
    where the weights asked for are not there.
    """
    name = options.perceptual
    if name == "none" or options.perceptual_weight == 0:
        return None
    if name == "codec":
        if not isinstance(source, Teacher):
            raise InputError("perceptual", name, "expected a teacher with a codec")
        source.vae.requires_grad_(False)
        return lambda shown, target: (
            (source.encode(shown) - source.encode(target)).square().mean(dim=(1, 2, 3))
        )
    found = load_stlpips("vgg") if name == "stlpips_vgg" else load_lpips_vgg()
    if isinstance(found, Skipped):
        raise InputError("perceptual", name, found.reason)
    return found


def _input_loss(work: Work, field: NeuralField, done: int) -> Tensor:
    inputs, options = work.inputs, work.options
    generator = item_generator(work.seed, done, STREAMS["rays"])
    index = int(torch.randint(len(inputs), (), generator=generator))
    assert inputs.cameras is not None, "frames have cameras"
    assert inputs.masks is not None, "inputs have masks"
    seen = _show(field, inputs.cameras[index], options.render_size, generator)
    colors, masks = inputs.over(1.0)[index].float(), inputs.masks[index].float()
    side = int(len(seen.colors) ** 0.5)
    if side != colors.shape[-1]:
        seen = _enlarged(seen, side, colors.shape[-1])
    return options.input_weight * input_loss(seen, colors, masks, options)


def _target_loss(
    work: Work, field: NeuralField, done: int, perceptual: PictureDistance | None
) -> tuple[Tensor, dict[str, Any] | None]:
    """Step B: towards the EFT's picture in the warm-up, then towards the diffusion model's."""
    options, looked = work.options, work.looked
    side = looked.images.shape[-1]
    generator = item_generator(work.seed, done, STREAMS["cameras"])
    index = int(torch.randint(len(work.cameras), (), generator=generator))
    with work.timed("field"):
        seen = _show(field, work.cameras[index], options.render_size, generator)
        rendered = int(len(seen.colors) ** 0.5)
        if rendered != side:
            seen = _enlarged(seen, rendered, side)
        shown, alphas = _pictures(seen, (side, side))
    if done < options.warmup_steps:
        return input_loss(seen, looked.images[index], looked.coverage[index], options), None
    t_max = noise_time(
        options.schedule,
        done - options.warmup_steps,
        options.rounds,
        work.seed,
        first=options.t_first,
        last=options.t_last,
        stream=STREAMS["time"],
    )
    steps = denoising_steps(t_max, options.most_steps)
    fresh = item_generator(work.seed, done, STREAMS["fresh"])
    shape = work.source.latent_shape
    with work.timed("diffusion"):
        target = work.source.draw(
            looked.features[[index]],
            item_noise(work.seed, [done], shape, STREAMS["noise"]),
            start=shown.detach().clamp(0, 1),
            t_max=t_max,
            num_steps=steps,
            solver=options.solver,
            guidance=options.guidance,
            fresh=lambda: torch.randn(1, *shape, generator=fresh),
        )
    weight = target_weight(t_max)
    loss = weight * (shown - target).abs().mean() + options.opacity_weight * opacity_term(alphas)
    if perceptual is not None:
        loss = loss + options.perceptual_weight * perceptual(shown.clamp(0, 1), target).mean()
    apart = float((shown.detach() - target).abs().mean())
    return loss, {"t_max": t_max, "steps": steps, "weight": weight, "pictures": 1, "apart": apart}


def _first_field(work: Work) -> NeuralField:
    """The published field about the object's middle, in units in which the teacher's depth range is CO3D's;
    or one of the lift's."""
    cameras, kind = work.inputs.cameras, work.options.field.encoding
    assert cameras is not None, "frames have cameras"
    if kind in ("hash", "dense", "triplane"):
        low, high = view_cube(cameras if len(cameras) > 1 else work.cameras)
        return build_field(kind, low, high, work.options.field.resolution, seed=work.seed)
    x, y, z = object_center(cameras).tolist()
    reach = work.source.eft.config["half_range"] if isinstance(work.source, Teacher) else 0.9
    return sparsefusion_field(center=(x, y, z), scale=reach / _PUBLISHED_HALF_RANGE, seed=work.seed)


def _optimizer(field: NeuralField, options: DistillOptions) -> torch.optim.Optimizer:
    groups = [
        {"params": list(field.encoding.parameters()), "lr": options.grid_rate},
        {"params": list(field.network.parameters()), "lr": options.network_rate},
    ]
    return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)


def _show(field: NeuralField, camera: Cameras, size: int, generator: torch.Generator) -> RayAnswer:
    """A whole view, with gradients, of `size` pixels a side (0: the camera's)."""
    smaller = camera.resized(size, size) if size and size < int(camera.sizes[0, 0]) else camera
    origins, directions = (rays.reshape(-1, 3).float() for rays in camera_rays(smaller))
    jitter = torch.rand(len(origins), generator=generator)
    return field.render_rays(origins, directions, background=1.0, jitter=jitter)


def _enlarged(seen: RayAnswer, side: int, wanted: int) -> RayAnswer:
    colors, alphas = _pictures(seen, (side, side))
    size = (wanted, wanted)
    larger = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (colors, alphas)]
    flat = larger[0][0].flatten(1).mT, larger[1].flatten()
    return replace(seen, colors=flat[0], alphas=flat[1], depths=torch.zeros_like(flat[1]))


def _pictures(seen: RayAnswer, shape: tuple[int, ...] | torch.Size) -> tuple[Tensor, Tensor]:
    """[1, 3, H, W] and [1, 1, H, W] of rays row by row."""
    return seen.colors.mT.reshape(1, 3, *shape), seen.alphas.reshape(1, 1, *shape)


def _settled(losses: list[float], options: DistillOptions) -> bool:
    """Whether the mean loss of a window is no longer lower than that of the window before."""
    recent = losses[options.warmup_steps :]
    if options.stop_below <= 0 or len(recent) < 2 * _WINDOW or len(recent) % _WINDOW:
        return False
    before = sum(recent[-2 * _WINDOW : -_WINDOW]) / _WINDOW
    after = sum(recent[-_WINDOW:]) / _WINDOW
    return after > before * (1 - options.stop_below)


def _log(rounds: list[dict[str, Any]], entry: dict[str, Any] | None, losses: list[float], done: int) -> None:
    """Keep one line for every 100 iterations, with the sum of the pictures in it."""
    start = (done - 1) // _LOGGED_EVERY * _LOGGED_EVERY
    if not rounds or rounds[-1]["first"] != start:
        rounds.append({"first": start, "pictures": 0})
    rounds[-1]["loss"] = sum(losses[start:done]) / (done - start)
    if entry is not None:
        pictures = rounds[-1]["pictures"] + entry["pictures"]
        rounds[-1] = {**rounds[-1], **entry, "pictures": pictures}


def _state(
    work: Work,
    field: NeuralField,
    optimizer: torch.optim.Optimizer,
    losses: list[float],
    rounds: list[dict[str, Any]],
    done: int,
) -> Progressed:
    extra = {"losses": torch.tensor(losses, dtype=torch.float64)}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            extra[f"{number}.{name}"] = torch.as_tensor(value)
    return Progressed(done, field, rounds, dict(work.seconds), extra)


def _restore(optimizer: torch.optim.Optimizer, extra: dict[str, Tensor]) -> None:
    given = optimizer.state_dict()
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in extra.items():
        number, _, name = key.partition(".")
        if name:
            moments.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**given, "state": moments})


def _trainable(field: object) -> NeuralField:
    assert isinstance(field, NeuralField), "the published loop keeps a network's field"
    return field.requires_grad_(True)
