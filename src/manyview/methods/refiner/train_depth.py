"""Depth and pose that teach each other on sweeps of a generator, with no truth of either.

Monodepth2's scheme (Godard et al. 2019): the depth of one picture and the pose between two of them have to
explain the other picture. Its losses are in photometric.py. What a lone object in front of nothing needs
beside them: the losses look at the object alone, without its rim (`inner_mask`); poses turn about it
(pose.py); a round depth and the yaw that goes with it are the start (coarse_pose.py, or even_yaws.py where
the range of yaws is known), whose weight falls to nothing in the first part of training; turns have to add
up, from the target by way of a neighbour to a frame far away, which also teaches turns too large for pictures
to overlap; and shifts are kept small, as what turns on the spot does not move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.methods.refiner.augmentation import recolour
from manyview.methods.refiner.basis import SweepBasis
from manyview.methods.refiner.coarse_pose import coarse_yaw, inner_mask, round_depth
from manyview.methods.refiner.depth_scores import score_depths
from manyview.methods.refiner.even_yaws import EvenYaws
from manyview.methods.refiner.generator import CodeGenerator, StyleGANCodes
from manyview.methods.refiner.photometric import (
    PhotometricOptions,
    colour_mask,
    depth_from_disparity,
    photometric_loss,
)
from manyview.methods.refiner.pose import FOCAL, PIVOT, REACH, PoseEstimator
from manyview.methods.refiner.single_views import SingleViewSet
from manyview.methods.refiner.sweep_frames import (
    SearchOptions,
    frame_amounts,
    place_generator,
    search_basis,
    sweep_images,
)
from manyview.methods.refiner.yaw_net import YawNet
from manyview.nets.monodepth.disparity import DisparityNet, build_disparity_net
from manyview.nets.monodepth.encoder import PAPER_WIDTHS
from manyview.nets.stylegan2.generator import StyleGAN2Generator
from manyview.sampling.noise import item_generator, item_noise
from manyview.training.task import Task
from manyview.weights.packing import load_component

_CODES, _TIES, _CHECKS, _COLOURS = 0x646370, 0x646374, 0x646376, 0x646377
_NUM_CHECKED = 48
_LEAST_DEG, _MOST_DEG = 2.0, 25.0
"""Crude yaws beyond these are passed over: larger ones are told worse than small turns that add up tell
them."""
_CALIBRATION = 64


@dataclass(frozen=True, kw_only=True)
class DepthOptions:
    """Weights beside the photometric loss's 1, and what is looked at."""

    masked: bool = True
    """Look at the object alone; without it at the whole picture, as Monodepth2 does."""
    start: float = 2.0
    """Weight of the round depth and its yaw at the first step."""
    start_share: float = 0.3
    """Part of the training in which it falls to nothing."""
    anchor: float | None = None
    """Weight that the yaw keeps to the end: a flat object that turns far looks nearly as a deep one that
    turns little, so the scale of turns would drift. When None 4, and 16 where the range of yaws is known:
    that is right on average, while what blurred pictures show best is a turn that is too small."""
    yaw_range: float = 0.0
    """Degrees to either side within which the generator's pictures are known to be spread evenly; turns are
    then anchored to what that says of the codes (even_yaws.py) instead of to outlines. 0 for unknown."""
    recolour: float = 0.5
    """Deviation of the powers by which each frame's colours are changed, apart from the others', before the
    pose network sees it (`augmentation.recolour`)."""
    adding_up: float = 0.5
    shift: float = 0.05
    smoothness: float = 1e-3
    automask: bool = True
    reach: float = 3.0
    """How far sweeps go, in deviations."""
    near: tuple[float, float] = (0.25, 1.2)
    """Steps from the target to the frames that it is compared with."""
    focal: float = FOCAL
    """In picture widths."""
    learned_focal: bool = False
    pivot: float = PIVOT
    depth_reach: float = REACH
    search: SearchOptions = field(default_factory=SearchOptions)

    @property
    def kept(self) -> float:
        """Weight of the yaw once its start is over."""
        return self.anchor if self.anchor is not None else 16.0 if self.yaw_range else 4.0


class SelfTaught(nn.Module):
    """Both networks, and the direction of the sweeps they learn from."""

    def __init__(self, depth: nn.Module, pose: PoseEstimator, basis: SweepBasis) -> None:
        super().__init__()
        self.depth, self.pose, self.basis = depth, pose, basis
        basis.requires_grad_(False)

    def forward(self, frames: Tensor, shown: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """Disparities [B, 1, H / 2^s, W / 2^s] of the targets, finest first, and turns and shifts [B, 4, 6]:
        target to left, to right, to far, and left to far. frames [B, 4, 3, H, W] as `sweep_frames.FRAMES`;
        `shown`: the same as the pose network is to see them."""
        target, left, right, far = (frames if shown is None else shown).unbind(dim=1)
        starts, ends = torch.cat([target, target, target, left]), torch.cat([left, right, far, far])
        vectors = self.pose(starts, ends).unflatten(0, (4, -1)).transpose(0, 1)
        return self.depth(frames[:, 0]), vectors


class SelfTaughtTask(Task):
    """See the module. Exports `depth`, `pose` and `directions`, calibrated: which sign of the amounts is
    positive yaw, how much a deviation turns, about which axis."""

    name = "refiner_depth"

    def __init__(
        self,
        generator: Path | CodeGenerator,
        validation: Path | None = None,
        *,
        preset: Literal["compact", "paper"] = "compact",
        steps: int = 2000,
        batch_size: int = 12,
        options: DepthOptions | None = None,
        yaw_net: Path | None = None,
        basis: SweepBasis | None = None,
        seed: int = 0,
        initial: Path | None = None,
        data_name: str = "",
    ) -> None:
        """`generator`: the folder of a StyleGAN2, or any generator of codes. `steps`, `batch_size`: of the
        run, to know where in it an item comes. `validation`: rendered single views with true depths;
        `yaw_net`: the network that measures yaw, both for validation alone. `basis`: instead of searching.
        `initial`: an export to go on from."""
        if isinstance(generator, Path):
            loaded = load_component(StyleGAN2Generator, generator, torch.float32, argument="--generator")
            generator = StyleGANCodes(loaded.eval().requires_grad_(False))
        if generator.resolution % 32:
            line = "expected pictures of a multiple of 32 pixels"
            raise InputError("--generator", f"{generator.resolution} pixels", line)
        self.generator = generator
        self.preset: Literal["compact", "paper"] = preset
        self.validation = None if validation is None else SingleViewSet(validation, "--validation")
        self.num_items = steps * batch_size
        self.options = options or DepthOptions()
        self.yaw_net = None
        if yaw_net is not None:
            self.yaw_net = load_component(YawNet, yaw_net, torch.float32, argument="--yaw-net").eval()
        self.basis, self.seed, self.initial, self.data_name = basis, seed, initial, data_name
        self._ranks: EvenYaws | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        told = {f"depth_{name}": value for name, value in asdict(self.options).items()}
        told["depth_anchor"] = self.options.kept
        return {
            "preset": self.preset,
            "initial": str(self.initial) if self.initial else "",
            "data": self.data_name,
            **told,
        }

    def build(self) -> nn.Module:
        """Fresh networks and the direction that was found, or those of `initial`."""
        if self.initial is not None:
            return load_self_taught(self.initial, "--initial")
        options = self.options
        widths: dict[str, Any] = {"widths": PAPER_WIDTHS, "hidden": 256} if self.preset == "paper" else {}
        pose = PoseEstimator(
            pivot=options.pivot,
            reach=options.depth_reach,
            focal=options.focal,
            learned_focal=options.learned_focal,
            **widths,
        )
        depth = build_disparity_net(self.preset)
        basis = self.basis
        if basis is None:
            # With draws of its own: what the search needs must not decide the networks' first weights.
            with torch.random.fork_rng(devices=[]):
                basis = search_basis(self.generator, pose, options.search)
        return SelfTaught(depth, pose, basis)

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        """amounts [B, 4] of the frames, share [B]: how far the training is, 0 to 1; colours [B, 4, 3]
        normal."""
        amounts = frame_amounts(self.seed, items, reach=self.options.reach, near=self.options.near)
        share = items.double().div(self.num_items).clamp(0, 1).float()
        return {"amounts": amounts, "share": share, "colours": item_noise(self.seed, items, (4, 3), _COLOURS)}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], items: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        options, inner = self.options, _inner(model)
        device = batch["amounts"].device
        place_generator(self.generator, device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            codes = self._codes(items, device)
            frames = sweep_images(self.generator, inner.basis, codes, batch["amounts"]).float()
        shown = recolour(frames.flatten(0, 1), batch["colours"].flatten(0, 1), options.recolour)
        disparities, vectors = model(frames, shown.view_as(frames))
        disparities, vectors = tuple(d.float() for d in disparities), vectors.float()
        target = frames[:, 0]
        height, width = target.shape[-2:]
        pose, K = inner.pose, inner.pose.K(height, width).float()
        mask = colour_mask(target)
        near, far = pose.depths
        draws = item_generator(seed, int(items[0]), _TIES)
        result = photometric_loss(
            target,
            [frames[:, 1], frames[:, 2]],
            disparities,
            K[None],
            [pose.transform(vectors[:, 0]), pose.transform(vectors[:, 1])],
            PhotometricOptions(
                min_depth=near, max_depth=far, smoothness=options.smoothness, automask=options.automask
            ),
            mask=inner_mask(mask) if options.masked else None,
            generator=draws,
        )
        by_way = pose.transform(vectors[:, 3]) @ pose.transform(vectors[:, 0])
        adding_up = _pose_error(by_way, pose.transform(vectors[:, 2]))
        shift = vectors[..., 3:].square().sum(dim=-1).mean()
        weight = (1 - batch["share"] / max(options.start_share, 1e-6)).clamp_min(0).mean() * options.start
        rounded, coarse = target.new_zeros(()), target.new_zeros(())
        if float(weight) > 0:
            rounded = self._round_error(inner, target, disparities[0], mask, (near, far))
        if float(weight) + options.kept > 0:
            coarse = self._coarse_error(inner, frames, vectors, codes, batch["amounts"])
        loss = result.loss + options.adding_up * adding_up + options.shift * shift
        loss = loss + weight * rounded + (weight + options.kept) * coarse
        parts = {"photometric": result.loss, "adding_up": adding_up, "shift": shift}
        parts |= {"round": rounded, "coarse": coarse}
        parts["turn_deg"] = torch.rad2deg(vectors[:, :2, :3].norm(dim=-1)).mean()
        parts["focal"] = K[0, 0] / width
        return loss, parts

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Rank correlation of true depth and of the told one, and of a round one, on rendered views; and how
        far turns of sweeps are from what the yaw network measures, where there is one."""
        inner = _inner(model)
        found: dict[str, float] = {}
        if self.validation is not None:
            chosen = range(min(_NUM_CHECKED, len(self.validation)))
            images = self.validation.images(chosen).to(device)
            truth = torch.stack([self.validation.depth(index) for index in chosen])
            scores = score_depths(inner.depth, inner.pose, images, truth)
            found |= {f"{name}_val": value for name, value in scores.items()}
        if self.yaw_net is not None:
            seeds = [(_CHECKS << 32) + number for number in range(24)]
            codes = self.generator.sample(seeds, truncation=inner.basis.truncation)
            amounts = torch.tensor([[0.0, -2.0, -1.0, 1.0, 2.0]], device=device).expand(len(codes), -1)
            frames = sweep_images(self.generator, inner.basis, codes.to(device), amounts)
            nn.Module.to(self.yaw_net, device)
            measured = self.yaw_net.measure(frames.flatten(0, 1)).view(len(codes), -1)
            source = frames[:, :1].expand(-1, amounts.shape[1] - 1, -1, -1, -1).flatten(0, 1)
            told = inner.pose.yaw_deg(inner.pose(source, frames[:, 1:].flatten(0, 1))).view(len(codes), -1)
            true = measured[:, 1:] - measured[:, :1]
            # Which way is positive is settled by calibration.
            errors = [(sign * told - true).abs().mean() for sign in (1, -1)]
            found["yaw_error_deg_val"] = float(min(errors))
            found["turned_deg_val"] = float(true.abs().mean())
        return found

    def export(self, model: nn.Module, folder: Path) -> None:
        """`depth`, `pose` and `directions`, in float32: they are small and measure."""
        inner = _inner(model)
        self._calibrate(inner)
        for name, part in (("depth", inner.depth), ("pose", inner.pose), ("directions", inner.basis)):
            part.save_pretrained(folder / name)  # pyright: ignore

    def _codes(self, items: Tensor, device: torch.device) -> Tensor:
        # Numbers far from those of any sample a user asks for.
        seeds = [(_CODES << 32) + int(item) for item in items]
        return self.generator.sample(seeds, truncation=self.options.search.truncation).to(device)

    def _round_error(
        self, inner: SelfTaught, target: Tensor, disparity: Tensor, mask: Tensor, depths: tuple[float, float]
    ) -> Tensor:
        """How far the depth is from a round one."""
        with torch.no_grad():
            focal = float(inner.pose.K(*target.shape[-2:])[0, 0].detach())
            guess = round_depth(mask, inner.pose.pivot, focal)
        _, depth = depth_from_disparity(disparity, *depths)
        return ((depth - guess).abs() * mask).sum() / mask.sum().clamp_min(1)

    def _coarse_error(
        self, inner: SelfTaught, frames: Tensor, vectors: Tensor, codes: Tensor, amounts: Tensor
    ) -> Tensor:
        """How far the target's turns are from those under which round depths fit, or from those that the
        known range says."""
        with torch.no_grad():
            if self.options.yaw_range:
                known = self._even_yaws(inner.basis).yaw_deg(codes, amounts)
                yaws = (known[:, 1:] - known[:, :1]).T.flatten()
                sure = torch.ones_like(yaws)
            else:
                target, others = frames[:, 0].repeat(3, 1, 1, 1), frames[:, 1:].transpose(0, 1).flatten(0, 1)
                yaws = coarse_yaw(target, others, inner.pose)
                # Nothing found where there must be a turn says nothing, nor does the end of what was tried.
                sure = ((yaws.abs() > _LEAST_DEG) & (yaws.abs() < _MOST_DEG)).to(yaws)
            turns = inner.pose.turn(yaws)[:, :3]
        told = vectors[:, :3, :3].transpose(0, 1).flatten(0, 1)
        return (F.smooth_l1_loss(told, turns, reduction="none", beta=0.1).sum(dim=1) * sure).mean()

    def _even_yaws(self, basis: SweepBasis) -> EvenYaws:
        if self._ranks is None or self._ranks.basis is not basis:
            self._ranks = EvenYaws(self.generator, basis, self.options.yaw_range)
        return self._ranks

    @torch.no_grad()
    def _calibrate(self, inner: SelfTaught) -> None:
        """Axis, sign and degrees a deviation from sweeps of new codes."""
        device = next(inner.depth.parameters()).device
        seeds = [(_CHECKS << 32) + number for number in range(_CALIBRATION)]
        codes = self.generator.sample(seeds, truncation=self.options.search.truncation).to(device)
        amounts = torch.tensor([[0.0, -1.0, 1.0]], device=device).expand(len(codes), -1)
        frames = sweep_images(self.generator, inner.basis, codes, amounts)
        vectors = inner.pose(frames[:, 0].repeat(2, 1, 1, 1), torch.cat([frames[:, 1], frames[:, 2]]))
        inner.pose.find_axis(vectors)
        back, ahead = inner.pose.yaw_deg(vectors).chunk(2)
        slope = float((ahead - back).median()) / 2
        inner.basis.calibrate(1 if slope >= 0 else -1, abs(slope))


def load_self_taught(folder: Path, argument: str) -> SelfTaught:
    """An export's networks. Raises `InputError` naming `argument` for a folder that lacks one."""
    kinds: dict[str, Any] = {"depth": DisparityNet, "pose": PoseEstimator, "directions": SweepBasis}
    for name in kinds:
        if not (folder / name).is_dir():
            line = f"misses {name}; expected the export of the stage depth"
            raise InputError(argument, str(folder), line)
    parts = {
        name: load_component(kind, folder / name, torch.float32, argument=argument)
        for name, kind in kinds.items()
    }
    return SelfTaught(parts["depth"], parts["pose"], parts["directions"])


def _pose_error(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of poses [B, 4, 4]: of rotations in about radians, of shifts."""
    turned = (first[:, :3, :3] - second[:, :3, :3]).square().sum(dim=(1, 2)) / 2
    return (turned + (first[:, :3, 3] - second[:, :3, 3]).square().sum(dim=1)).mean()


def _inner(model: nn.Module) -> SelfTaught:
    inner = getattr(model, "module", model)
    assert isinstance(inner, SelfTaught), "the depth task trains depth and pose together"
    return inner
