"""A photo as a code: the picture that a generator makes of it is as near to the photo as can be.

By descent on the rows of W+ (Abdal et al. 2019, "Image2StyleGAN"), held near the codes that the generator was
trained on by a prior (Tov et al. 2021, "Designing an encoder for StyleGAN image manipulation", call it
editability): codes far away paint the photo well and do not turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from manyview.errors import InputError
from manyview.io.atomic import write_bytes_atomic
from manyview.methods.refiner.generator import CodeGenerator
from manyview.metrics.image import psnr
from manyview.progress import Progress, silent

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Pictures [N, 3, H, W] in [0, 1] twice, to distances [N]; differentiable."""


@dataclass(frozen=True, kw_only=True)
class InversionOptions:
    """How a photo's code is sought."""

    steps: int = 300
    lr: float = 0.05
    """In deviations of the codes."""
    pixels: float = 1.0
    perceptual: float = 0.8
    prior: float = 0.02
    """Weight of the squared distance from the mean code, in deviations."""
    together: float = 0.05
    """Weight of how much the rows of the code differ: those of a mapped code do not."""
    starts: int = 256
    """Codes among which the nearest picture is where the descent begins."""
    keep_every: int = 50
    """Steps from one kept state to the next, where there is a place for it."""


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """A photo's code."""

    codes: Tensor
    """[1, L, D]."""
    image: Tensor
    """[3, R, R] in [0, 1]: what the generator makes of it."""
    psnr_db: float
    """Of that against the photo."""
    distance: float
    """Root mean square distance from the mean code, in deviations: about 1 for codes of its own."""


def invert(
    generator: CodeGenerator,
    image: Tensor,
    spread: Tensor,
    options: InversionOptions | None = None,
    *,
    perceptual: Perceptual | None = None,
    seed: int = 0,
    state: Path | None = None,
    progress: Progress = silent,
) -> Inversion:
    """The code of a photo [3, R, R] in [0, 1], as large as the generator's pictures, over white.

    `spread` [D]: deviations of the codes. `perceptual`: a distance beside that of the pixels. `state`: a file
    in which the descent is kept every few steps, and from which a stopped one goes on; it is removed in the
    end. Raises `InputError` for another size, and for a state of other options or another photo.
    """
    options = options or InversionOptions()
    size = generator.resolution
    if tuple(image.shape) != (3, size, size):
        raise InputError("image", tuple(image.shape), f"expected [3, {size}, {size}]")
    mean = generator.mean_code().detach().float()
    device = mean.device
    target, spread = image.to(device).float()[None], spread.to(device).float().clamp_min(1e-3)
    descent = _Descent(generator, target, mean, spread, options, perceptual, seed)
    begun = descent.restore(state) if state is not None and state.is_file() else descent.begin()
    progress.start(options.steps - begun, "steps of the inversion")
    try:
        for step in range(begun, options.steps):
            descent.step(step)
            progress.advance()
            if state is not None and (step + 1) % options.keep_every == 0:
                descent.keep(state, step + 1)
    finally:
        progress.finish()
    if state is not None:
        state.unlink(missing_ok=True)
    return descent.answer()


class _Descent:
    """Adam on z = (codes - mean) / spread."""

    def __init__(
        self,
        generator: CodeGenerator,
        target: Tensor,
        mean: Tensor,
        spread: Tensor,
        options: InversionOptions,
        perceptual: Perceptual | None,
        seed: int,
    ) -> None:
        self.generator, self.target, self.options = generator, target, options
        self.mean, self.spread, self.perceptual, self.seed = mean, spread, perceptual, seed
        self.place = torch.zeros_like(mean)[None].requires_grad_()
        self.adam = torch.optim.Adam([self.place], lr=options.lr, betas=(0.9, 0.99))

    def codes(self) -> Tensor:
        return self.mean + self.place * self.spread

    @torch.no_grad()
    def begin(self) -> int:
        """From the nearest of some codes, or the mean."""
        best, nearest = self._error(self.mean[None]), self.mean[None]
        for first in range(0, self.options.starts, 32):
            seeds = range(first, min(first + 32, self.options.starts))
            drawn = self.generator.sample([(self.seed << 20) + number for number in seeds], truncation=0.7)
            errors = self._errors(drawn.to(self.mean))
            if float(errors.min()) < best:
                best, nearest = float(errors.min()), drawn[[int(errors.argmin())]].to(self.mean)
        self.place.copy_((nearest - self.mean) / self.spread)
        return 0

    def step(self, number: int) -> None:
        options = self.options
        # Up for a twentieth of the steps, down over the last quarter.
        share = number / options.steps
        rate = min(1.0, 20 * (number + 1) / options.steps, 4 * (1 - share))
        for group in self.adam.param_groups:
            group["lr"] = options.lr * rate
        made = self.generator(self.codes())
        loss = options.pixels * (made - self.target).square().mean()
        if self.perceptual is not None:
            loss = loss + options.perceptual * self.perceptual(made.clamp(0, 1), self.target).mean()
        rows = self.place - self.place.mean(dim=1, keepdim=True)
        loss = loss + options.prior * self.place.square().mean() + options.together * rows.square().mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()

    @torch.no_grad()
    def answer(self) -> Inversion:
        codes = self.codes().detach()
        image = self.generator(codes).clamp(0, 1)
        level = float(psnr(image, self.target)[0])
        distance = float(self.place.square().mean().sqrt())
        return Inversion(codes=codes, image=image[0], psnr_db=min(level, 100.0), distance=distance)

    def keep(self, path: Path, step: int) -> None:
        moments = self.adam.state[self.place]
        tensors = {
            "target": self.target,
            "place": self.place.detach(),
            "mean": moments["exp_avg"],
            "square": moments["exp_avg_sq"],
        }
        told = {"step": str(step), "options": self._told()}
        stored = {name: value.cpu().contiguous() for name, value in tensors.items()}
        write_bytes_atomic(path, save(stored, metadata={"inversion": repr(sorted(told.items()))}))

    def restore(self, path: Path) -> int:
        from safetensors import safe_open

        try:
            tensors = load_file(path)
            with safe_open(path, framework="pt") as file:
                told = (file.metadata() or {}).get("inversion", "")
        except SafetensorError as error:
            raise InputError("--resume", str(path), f"is damaged ({error})") from None
        step = next((n for n in range(self.options.steps + 1) if told == self._mark(n)), None)
        same = tensors["target"].shape == self.target.shape and torch.equal(
            tensors["target"], self.target.cpu()
        )
        if step is None or not same:
            raise InputError("--resume", str(path), "was begun with another photo, seed or other options")
        with torch.no_grad():
            self.place.copy_(tensors["place"])
        self.adam.state[self.place] = {
            "step": torch.tensor(float(step)),
            "exp_avg": tensors["mean"].to(self.place),
            "exp_avg_sq": tensors["square"].to(self.place),
        }
        return step

    def _told(self) -> str:
        return repr(sorted({**asdict(self.options), "seed": self.seed}.items()))

    def _mark(self, step: int) -> str:
        return repr(sorted({"step": str(step), "options": self._told()}.items()))

    def _errors(self, codes: Tensor) -> Tensor:
        return (self.generator(codes) - self.target).square().mean(dim=(1, 2, 3))

    def _error(self, codes: Tensor) -> float:
        return float(self._errors(codes)[0])
