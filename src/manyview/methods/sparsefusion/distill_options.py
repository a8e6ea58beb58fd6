"""How a field is distilled. Loads no torch, so that a command's help is quick."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from manyview.errors import InputError
from manyview.lift.field.options import FieldOptions

Perceptual = Literal["none", "codec", "stlpips_vgg", "lpips_vgg"]


def _field_options() -> FieldOptions:
    return FieldOptions(encoding="voxels", resolution=96, rays=2048)


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """How a field is distilled. The defaults make one field in a few minutes of two CPU cores;
    `published_options` gives SparseFusion's numbers."""

    targets: int = 20
    """Cameras to distil at, on a belt about the object (poses.py)."""
    targets_per_round: int = 0
    """Pictures that a round of diffusion renews; 0: of all cameras. 1 is the published loop: one input view
    and one camera an iteration, each shown whole, to a network's field."""
    warmup_steps: int = 400
    """Steps of the field on the EFT's pictures, before the diffusion model is asked."""
    rounds: int = 8
    """Rounds of diffusion after the warm-up (with targets_per_round = 1: iterations)."""
    steps_per_round: int = 80
    """Steps of the field on the pictures of one round."""
    round_rate: float = 0.2
    """Learning rate of density voxels (networks: a tenth of it) in the rounds; in the warm-up it is the
    field's own."""
    schedule: Literal["annealed", "uniform"] = "annealed"
    """t_max of the rounds: from t_first evenly down to t_last, or drawn from U(0, t_first) as published."""
    t_first: float = 0.99
    t_last: float = 0.4
    most_steps: int = 25
    """Denoising takes min(100 t_max, 50) steps, at most so many."""
    solver: Literal["ddim", "plms", "released"] = "ddim"
    guidance: float = 1.0
    """Of the diffusion model; 1 for none."""
    rows: int = 32
    """The EFT's pictures have rows x rows rays; 0: the latent's cells."""
    target_weight: float = 1.0
    """Weight of all distillation pictures together, times 1 - alpha^2 at t_max."""
    input_weight: float = 1.0
    """Weight of all input views together."""
    perceptual: Perceptual = "none"
    """Only where pictures are shown whole (targets_per_round = 1): the network whose features are compared.
    codec: the latents of the codec at hand; stlpips_vgg and lpips_vgg: see metrics/perceptual.py."""
    perceptual_weight: float = 0.1
    jitter: float = 0.17
    """Radians that a camera may stand above or below the given ones."""
    given_poses: bool = False
    """Distil at the input views' poses too, each told from the others. Their truth is known, so no."""
    use_test_poses: bool = False
    """Distil at the poses that will be scored too, as the published script does."""
    render_size: int = 0
    """targets_per_round = 1: pixels a side of the renders, enlarged to the resolution; 0: the resolution."""
    network_rate: float = 5e-4
    """targets_per_round = 1: learning rate of the field's network; of its grid:"""
    grid_rate: float = 5e-3
    opacity_weight: float = 1e-3
    """targets_per_round = 1: weight of sqrt(opacity^2 + 0.01)."""
    stop_below: float = 0.0
    """Stop before the rounds are over once a round changes the renders by less than this (mean absolute
    difference in [0, 1]); with targets_per_round = 1 once the mean loss of 200 iterations is no longer lower
    than that of the 200 before by this share. 0: never."""
    field: FieldOptions = dataclasses.field(default_factory=_field_options)
    """How the field is fitted; `steps` and `seed` are set by the distillation. With targets_per_round = 1:
    tiled is the published field, hash, dense and triplane are the lift's; anything else means tiled."""

    def check(self) -> None:
        """Raise `InputError` for values that cannot be worked with."""
        self.field.check()
        least = {
            "targets": 1,
            "targets_per_round": 0,
            "warmup_steps": 1,
            "rounds": 0,
            "steps_per_round": 1,
            "most_steps": 1,
            "rows": 0,
            "render_size": 0,
        }
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(name, getattr(self, name), f"expected at least {value}")
        if not 0 < self.t_last <= self.t_first <= 0.999:
            raise InputError("t_last", (self.t_first, self.t_last), "expected 0 < t_last <= t_first <= 0.999")
        for name in ("target_weight", "input_weight", "round_rate", "network_rate", "grid_rate"):
            if not getattr(self, name) > 0:
                raise InputError(name, getattr(self, name), "expected a positive number")
        for name in ("perceptual_weight", "opacity_weight", "stop_below"):
            if not getattr(self, name) >= 0:
                raise InputError(name, getattr(self, name), "expected at least 0")
        if self.schedule not in ("annealed", "uniform"):
            raise InputError("schedule", self.schedule, "expected annealed or uniform")
        if self.perceptual != "none" and self.targets_per_round != 1:
            line = "compares whole pictures, which only targets_per_round 1 shows"
            raise InputError("perceptual", self.perceptual, line)
        if self.targets_per_round > self.targets:
            raise InputError("targets_per_round", self.targets_per_round, f"expected at most {self.targets}")


def published_options() -> DistillOptions:
    """SparseFusion's numbers: 3000 iterations of which the first 1000 look at the EFT, one picture each,
    t_max ~ U(0, 0.99), up to 50 steps, at 82 poses those scored among them (32 frames and 50 on a circle).

    Of its sampler's quirks nothing (that is `solver="released"`); the field is `sparsefusion_field`, its
    learning rates 5e-4 and 5e-3, renders of half the resolution are enlarged.
    """
    return DistillOptions(
        targets=50,
        targets_per_round=1,
        warmup_steps=1000,
        rounds=2000,
        steps_per_round=1,
        schedule="uniform",
        most_steps=50,
        solver="plms",
        rows=32,
        perceptual="lpips_vgg",
        perceptual_weight=0.1,
        given_poses=True,
        use_test_poses=True,
        render_size=128,
        field=FieldOptions(encoding="tiled", opacity_weight=1e-3, silhouette_weight=1.0, huber_delta=0.1),
    )
