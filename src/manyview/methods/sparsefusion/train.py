"""Training of SparseFusion: epipolar transformer (EFT) and diffusion model (VLDM), jointly or in turn; and of
the regressor that is their baseline, on the same examples.

Shapes: B items, K context views at most, L noise levels of an item, h x w latent cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.methods.sparsefusion.context import Context
from manyview.methods.sparsefusion.eft import EpipolarTransformer, build_eft
from manyview.methods.sparsefusion.epipolar import ray_pixels
from manyview.methods.sparsefusion.examples import Draw, Examples, PosedObjects
from manyview.methods.sparsefusion.features import Sampling
from manyview.methods.sparsefusion.regressor import PixelRegressor, build_regressor
from manyview.methods.sparsefusion.unet import VldmUnet, build_vldm
from manyview.methods.sparsefusion.vldm import build_scheduler, denoising_loss
from manyview.sampling.noise import item_integers, item_noise, item_uniform
from manyview.training.task import Task
from manyview.types import Cameras, join_cameras
from manyview.weights.packing import load_component

Stage = Literal["joint", "eft", "vldm", "regressor"]
_WITH_LATENTS = ("joint", "vldm")
_STREAMS = {"time": 1, "drop": 2, "noise": 3, "rays": 4}
_LAST_TIME = 0.999
"""At 1 the log signal-to-noise ratio is rounding."""
_VALID_SHARE = 0.6
_VALIDATED = 16


def color_loss(colors: Tensor, target: Tensor, valid: Tensor, scale: float = 0.1) -> Tensor:
    """[] the mean of s (sqrt(1 + (e / s)^2) - 1) over all numbers: about e^2 / 2s where the error e is well
    below the scale s, and |e| - s far above it.

    colors and target [B, 3, rows, columns]; valid [B, 1, rows, columns] multiplies both, as for the latents.
    """
    error = (colors.float() - target) * valid / scale
    return (scale * ((1 + error.square()).sqrt() - 1)).mean()


def valid_cells(valid: Tensor, rows: int, columns: int) -> Tensor:
    """[B, 1, rows, columns] 1 where more than 0.6 of a cell of valid [B, 1, H, W] is valid, else 0."""
    return (F.interpolate(valid, (rows, columns), mode="area") > _VALID_SHARE).to(valid.dtype)


def draw_times(seed: int, items: Tensor, num_levels: int) -> Tensor:
    """[B, L] times in [0, 0.999): one in each L-th of the range, so that an item's levels differ."""
    within = item_uniform(seed, items, (num_levels,), _STREAMS["time"])
    return (torch.arange(num_levels) + within) / num_levels * _LAST_TIME


def lattice_cameras(query: Cameras, offsets: Tensor, side: int, sampling: Sampling) -> Cameras:
    """Cameras of which a side x side grid of rays goes through pixels of `query`'s image, evenly apart.

    offsets int64 [B, 2] (row, column): the grid's first pixel, below the distance between two of them,
    height / side and width / side. Intrinsics move, places do not. Raises `InputError` for a `side` that
    does not divide the image.
    """
    height, width = (int(length) for length in query.sizes[0])
    if side < 2 or height % side or width % side:
        line = f"expected the square of a number of at least 2 that divides {height} and {width}"
        raise InputError("--rays-at-once", side * side, line)
    grid = ray_pixels(side, side, height, width, sampling, dtype=torch.float64)
    K = query.K.clone()
    for axis, length in ((0, width), (1, height)):
        places = grid[: side * side : side, 1] if axis == 1 else grid[:side, 0]
        stretch = (length / side) / float(places[1] - places[0])
        first = offsets[:, 1 - axis].to(K) + 0.5
        # The ray at grid pixel u has to be the one at stretch u + shift.
        shift = first - stretch * float(places[0])
        K[:, axis, 2] = (K[:, axis, 2] - shift) / stretch
        K[:, axis, :2] = K[:, axis, :2] / stretch
    return Cameras(world_from_cam=query.world_from_cam, K=K, sizes=query.sizes, distortion=query.distortion)


def lattice_pixels(pictures: Tensor, offsets: Tensor, side: int) -> Tensor:
    """[B, C, side, side] the pixels of pictures [B, C, H, W] that `lattice_cameras` looks through."""
    height, width = pictures.shape[-2:]
    rows, columns = height // side, width // side
    parts = [
        picture[:, row::rows, column::columns]
        for picture, (row, column) in zip(pictures, offsets.tolist(), strict=True)
    ]
    return torch.stack(parts)


class SparseFusionNetwork(nn.Module):
    """Both networks in one, as the training loop wants it. Without `unet` it is the EFT alone, or the
    regressor in its place; with `frozen` the EFT is only looked at."""

    def __init__(
        self, eft: EpipolarTransformer | PixelRegressor, unet: VldmUnet | None, *, frozen: bool = False
    ) -> None:
        super().__init__()
        assert unet is None or isinstance(eft, EpipolarTransformer), (
            "the regressor has nothing to denoise with"
        )
        self.eft, self.unet, self.frozen = eft, unet, frozen
        if frozen:
            eft.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SparseFusionNetwork:
        """As any module; a frozen EFT stays as it answers when asked for views."""
        super().train(mode)
        if self.frozen:
            self.eft.eval()
        return self

    def forward(
        self,
        images: Tensor,
        context: Sequence[Cameras],
        centers: Tensor,
        query: Cameras,
        color_query: Cameras,
        color_grid: tuple[int, int] | None,
        denoise: Mapping[str, Any] | None,
        latents: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`colors` [B, 3, rows, columns] at `color_query` if a `color_grid` is given, and the scalar
        `denoise`.

        images [B, K, 3, H, W] whose first views have the cameras `context`, one entry an item; centers
        [B, 3] of the objects. `denoise` has the arguments of `denoising_loss` for B L latents, item by item,
        without the condition: that is made here. `latents` [B, K, c, h, w] of the images, for a denoiser that
        is shown them blended.
        """
        cells = None if denoise is None else tuple(denoise["clean"].shape[-2:])
        shared = cells is not None and color_query is query and color_grid == cells
        rows, features, colors = [], [], []
        # Items with equally many views go together: no work for views that are not there.
        counts = [len(cameras) for cameras in context]
        for count in sorted(set(counts)):
            members = [row for row, own in enumerate(counts) if own == count]
            rows += members
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                found, color = self._look(
                    self._encode(images, context, centers, members, count, latents),
                    query[members],
                    None if color_grid is None or shared else color_query[members],
                    color_grid,
                    cells,
                )
            if found is not None:
                features.append(found)
            if color is not None:
                colors.append(color)
        back = torch.tensor(rows, device=images.device).argsort()
        answer = {}
        if color_grid is not None:
            answer["colors"] = torch.cat(colors)[back]
        if denoise is not None:
            assert self.unet is not None, "this stage has nothing to denoise"
            condition = torch.cat(features)[back]
            levels = len(denoise["clean"]) // len(condition)
            condition = condition.repeat_interleave(levels, 0)
            answer["denoise"] = denoising_loss(self.unet, condition=condition, **denoise)
        return answer

    def _encode(
        self,
        images: Tensor,
        context: Sequence[Cameras],
        centers: Tensor,
        members: list[int],
        count: int,
        latents: Tensor | None,
    ) -> Context:
        ranges = [self.eft.depth_range(context[row], center=centers[row]) for row in members]
        cameras = join_cameras([context[row] for row in members])
        read = self.eft.encode(images[members, :count], cameras, torch.stack(ranges).to(images))
        return read if latents is None else replace(read, latents=latents[members, :count])

    def _look(
        self,
        context: Context,
        query: Cameras,
        color_query: Cameras | None,
        color_grid: tuple[int, int] | None,
        cells: tuple[int, ...] | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Features over the latent's `cells`, if any, and colours of `color_query` or, without one, of those
        cells' rays."""
        features = colors = None
        if cells is not None:
            found = self.eft(context, query, *cells)
            features, colors = found.condition[:, 0], found.colors[:, 0]
        if color_query is not None and color_grid is not None:
            colors = self.eft(context, color_query, *color_grid).colors[:, 0]
        return features, colors


class SparseFusionTask(Task):
    """Views of objects told from 1 to 8 other views of them.

    `stage`: `joint` trains both networks from one loss, as published, so the diffusion's error shapes the
    EFT's features too; `eft` trains the EFT on colours alone; `vldm` trains the denoiser on the features of
    the frozen EFT that `initial` holds; `regressor` trains the baseline of `regressor.py` as `eft` does.

    `rays_at_once`: colours are learned on so many rays of the full-size image (the square of a divisor of its
    side), another lattice of them every item; 0 learns them on the grid of latent cells against the mean
    colour of each cell, as published. In the stage `joint` the first costs that many rays more a step.
    `noise_levels`: latents noised to so many levels share one feature map. `drop`: so often a level sees no
    feature map, for guidance. `prediction` and `blend`: what a fresh denoiser tells, and whether it is shown
    the context's latents blended (`unet.VldmUnet`).
    """

    name = "sparsefusion"

    def __init__(
        self,
        sets: Sequence[PosedObjects],
        stage: Stage = "joint",
        preset: Literal["compact", "paper"] = "compact",
        context_views: tuple[int, int] = (1, 6),
        rays_at_once: int = 64,
        noise_levels: int = 4,
        drop: float = 0.1,
        color_weight: float = 1.0,
        gamma: float = 0.5,
        prediction: Literal["epsilon", "v_prediction"] = "epsilon",
        blend: bool = False,
        shares: Sequence[float] = (),
        validation: PosedObjects | None = None,
        seed: int = 0,
        initial: Path | None = None,
        data_name: str = "",
    ) -> None:
        if stage not in get_args(Stage):
            raise InputError("--stage", stage, f"expected one of {', '.join(get_args(Stage))}")
        if noise_levels < 1:
            raise InputError("--noise-levels", noise_levels, "expected at least 1")
        if stage == "vldm" and (initial is None or not (initial / "eft").is_dir()):
            found = "not given" if initial is None else str(initial)
            raise InputError("--initial", found, "expected the export of a run that trained the EFT")
        self.examples = Examples(sets, context_views, shares, seed)
        self.validation = None
        if validation is not None:
            self.validation = Examples([validation], context_views, (), seed)
            if self.validation.size != self.examples.size:
                line = f"expected views of {self.examples.size}, as in the training data"
                raise InputError("--validation", self.validation.size, line)
        latents = self.examples.sets[0].latents
        if latents is None and stage in _WITH_LATENTS:
            raise InputError("latents", "not given", f"expected them for the stage {stage}")
        self.cells = self._latent_cells(latents)
        self.latent_channels = None if latents is None else int(latents.shape[2])
        self.stage: Stage = stage
        self.preset: Literal["compact", "paper"] = preset
        self.rays_at_once, self.noise_levels = rays_at_once, noise_levels
        self.drop, self.color_weight, self.gamma = drop, color_weight, gamma
        self.prediction: Literal["epsilon", "v_prediction"] = prediction
        self.blend = blend
        self.context_views, self.shares = tuple(context_views), tuple(shares)
        self.seed, self.initial, self.data_name = seed, initial, data_name
        side = math.isqrt(max(rays_at_once, 0))
        divides = side >= 2 and not any(length % side for length in self.examples.size)
        if stage != "vldm" and rays_at_once != 0 and (side * side != rays_at_once or not divides):
            line = f"expected 0 or the square of a divisor of the views' side {self.examples.size[0]}"
            raise InputError("--rays-at-once", rays_at_once, line)
        self.side = 0 if stage == "vldm" else side

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "stage": self.stage,
            "preset": self.preset,
            "context_views": list(self.context_views),
            "rays_at_once": self.rays_at_once,
            "noise_levels": self.noise_levels,
            "drop": self.drop,
            "color_weight": self.color_weight,
            "gamma": self.gamma,
            "prediction": self.prediction,
            "blend": self.blend,
            "shares": list(self.shares),
            "initial": str(self.initial) if self.initial else "",
            "data": self.data_name,
            "examples": len(self.examples),
        }

    @property
    def component(self) -> Literal["eft", "regressor"]:
        """Name of the network that tells colours."""
        return "regressor" if self.stage == "regressor" else "eft"

    def build(self) -> nn.Module:
        """Fresh networks, or those that `initial` (an export) has."""
        folder = self.initial
        if folder is not None and (folder / self.component).is_dir():
            kind: Any = PixelRegressor if self.stage == "regressor" else EpipolarTransformer
            eft: Any = load_component(kind, folder / self.component, argument="--initial")
        else:
            eft = self.build_regressor() if self.stage == "regressor" else self.build_eft()
        unet: Any = None
        if self.stage in _WITH_LATENTS:
            if folder is not None and (folder / "unet").is_dir():
                unet = load_component(VldmUnet, folder / "unet", argument="--initial")
            else:
                unet = self.build_unet(eft.config["width"])
            unet = unet.float()
        return SparseFusionNetwork(eft.float(), unet, frozen=self.stage == "vldm")

    def build_eft(self) -> EpipolarTransformer:
        """A fresh EFT of the preset."""
        return build_eft(self.preset)

    def build_regressor(self) -> PixelRegressor:
        """A fresh regressor of the preset."""
        return build_regressor(self.preset)

    def build_unet(self, condition_channels: int) -> VldmUnet:
        """A fresh denoiser of the preset for the data's latents and an EFT of so many channels."""
        if self.blend:
            condition_channels += self.latent_channels or 0
        return build_vldm(self.preset, self.latent_channels, condition_channels, self.prediction, self.blend)

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        return self.examples.batch(items)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        draws = [self.examples.draw(item) for item in items.tolist()]
        parts, _ = self._parts(model, self.examples, draws, batch, items, seed)
        if self.stage == "joint":
            return parts["denoise"] + self.color_weight * parts["color"], parts
        return next(iter(parts.values())), parts

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """The losses on up to 16 held-out objects with fixed draws, and the PSNR of the colours (dB)."""
        if self.validation is None:
            return {}
        found: list[dict[str, Tensor]] = []
        for item in range(min(_VALIDATED, len(self.validation))):
            items = torch.tensor([item])
            batch = {name: value.to(device) for name, value in self.validation.batch(items).items()}
            draws = [self.validation.draw(item)]
            parts, squared = self._parts(model, self.validation, draws, batch, items, self.seed)
            found.append(parts if squared is None else {**parts, "squared": squared})
        means = {name: float(torch.stack([one[name] for one in found]).mean()) for name in found[0]}
        figures = {f"loss_val_{name}": value for name, value in means.items() if name != "squared"}
        if "squared" in means:
            figures["psnr_val"] = -10 * math.log10(max(means["squared"], 1e-10))
        return figures

    def export(self, model: nn.Module, folder: Path) -> None:
        """`eft` or `regressor`, and where there is one `unet` and `scheduler`: component folders, float16."""
        assert isinstance(model, SparseFusionNetwork), "the SparseFusion task trains a SparseFusionNetwork"
        model.eft.half().save_pretrained(folder / self.component)
        if model.unet is not None:
            unet = model.unet
            frequencies = unet.noise_level.frequencies.detach().float().clone()
            unet.half()
            # They are multiplied by log ratios up to 11 and 2 pi: half precision would turn the phases.
            unet.noise_level.frequencies = nn.Parameter(frequencies, requires_grad=False)
            unet.save_pretrained(folder / "unet")
            build_scheduler("ddim", 50).save_pretrained(folder / "scheduler")

    def _latent_cells(self, latents: Tensor | None) -> tuple[int, int]:
        """Cells of a latent, or, where there are none, the published grid of one ray for 8 x 8 pixels."""
        if latents is not None:
            return int(latents.shape[-2]), int(latents.shape[-1])
        height, width = self.examples.size
        return max(1, height // 8), max(1, width // 8)

    def _parts(
        self,
        model: nn.Module,
        examples: Examples,
        draws: Sequence[Draw],
        batch: dict[str, Tensor],
        items: Tensor,
        seed: int,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The losses of the stage, and the mean squared error of the colours, if any."""
        found = [examples.cameras(draw) for draw in draws]
        query = join_cameras([camera for _, camera, _ in found])
        centers = torch.stack([center for _, _, center in found])
        target, valid, grid, color_query = batch["query"], batch["valid"], None, query
        if self.stage != "vldm" and self.side:
            eft = _unwrap(model).eft
            offsets = self._offsets(seed, items)
            color_query = lattice_cameras(query, offsets, self.side, eft.sampling)
            grid = self.side, self.side
            target, valid = (lattice_pixels(part, offsets, self.side) for part in (target, valid))
            valid = (valid > _VALID_SHARE).to(target.dtype)
        elif self.stage != "vldm":
            grid = self.cells
            target, valid = F.interpolate(target, grid, mode="area"), valid_cells(valid, *grid)
        denoise = None if self.stage not in _WITH_LATENTS else self._denoise(batch, items, seed)
        cameras = [context for context, _, _ in found]
        unet = _unwrap(model).unet
        blended = unet is not None and unet.config["blended"]
        latents = batch["context_latents"] if blended else None
        answer = model(batch["context"], cameras, centers, query, color_query, grid, denoise, latents)
        parts, squared = {}, None
        if denoise is not None:
            parts["denoise"] = answer["denoise"]
        if grid is not None:
            parts["color"] = color_loss(answer["colors"], target, valid)
            squared = ((answer["colors"].detach().float() - target) * valid).square().mean()
        return parts, squared

    def _offsets(self, seed: int, items: Tensor) -> Tensor:
        height, width = self.examples.size
        rows, columns = height // self.side, width // self.side
        place = item_integers(seed, items, rows * columns, (), _STREAMS["rays"])
        return torch.stack([place // columns, place % columns], dim=1)

    def _denoise(self, batch: dict[str, Tensor], items: Tensor, seed: int) -> dict[str, Any]:
        """The arguments of `denoising_loss` but for network and condition: B L latents, item by item."""
        latents, levels = batch["latents"], self.noise_levels
        device = latents.device
        shape = (levels, *latents.shape[1:])
        keep = item_uniform(seed, items, (levels,), _STREAMS["drop"]) >= self.drop
        mask = valid_cells(batch["valid"], *latents.shape[-2:])
        return {
            "clean": latents.repeat_interleave(levels, 0),
            "times": draw_times(seed, items, levels).flatten().to(device),
            "noise": item_noise(seed, items, shape, _STREAMS["noise"]).flatten(0, 1).to(device),
            "keep": keep.flatten().to(device),
            "mask": mask.repeat_interleave(levels, 0),
            "gamma": self.gamma,
        }


def _unwrap(model: nn.Module) -> SparseFusionNetwork:
    """The network itself: on several processes it comes wrapped."""
    inner = getattr(model, "module", model)
    assert isinstance(inner, SparseFusionNetwork), "the SparseFusion task trains a SparseFusionNetwork"
    return inner
