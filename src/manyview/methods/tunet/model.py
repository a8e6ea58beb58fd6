"""TUNet: the clean estimate of a reference view into that of a target view, told both cameras.

A U-Net in diffusers' manner: the encoder is told the reference's camera, the middle both, the decoder the
target's; the decoder looks back at the reference with ray attention. Beyond the paper the reference's latent
is gathered along the target's rays (`sweep`), and the output can copy what is gathered (`blend`).

Scale. The paper's network maps means sqrt(alpha_bar) x0 at t*. Ours reads and gives clean estimates x0, which
are the means divided by sqrt(alpha_bar): about unit variance at every t*, and one constant away from the
paper's loss. `Trajectory.estimate` gives the input; multiply the output by sqrt(alpha_bar) for the mean.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import Downsample2D, Upsample2D
from torch import Tensor, nn

from manyview.geometry.rays import harmonic_embedding
from manyview.methods.tunet.blocks import ConditionedResnet, RayTransformer, Told, self_attention
from manyview.methods.tunet.cameras import CAMERA_NUMBERS, RAY_NUMBERS, CameraPairs
from manyview.methods.tunet.options import Conditioning, Keys, SweepPlace, TUNetOptions
from manyview.methods.tunet.sweep import (
    FEATURES,
    PlaneFeatures,
    blend_output,
    camera_gate,
    gather_planes,
    start_blend,
)

_CLASS_MAPS = 16
"""Channels of the class as maps beside the input."""


class TUNet(ModelMixin, ConfigMixin):
    """See the module. The arguments are those of `TUNetOptions`; `build_tunet` takes them as one."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        widths: tuple[int, ...] = (48, 64, 64),
        resnets: int = 1,
        self_attention: tuple[bool, ...] = (False, True, True),
        ray_levels: tuple[bool, ...] = (False, True, True),
        cross_attention: bool = True,
        cross_dim: int = 128,
        head_dim: int = 32,
        groups: int = 8,
        camera_dim: int = 32,
        class_dim: int = 32,
        num_classes: int = 0,
        conditioning: Conditioning = "blocks",
        key_cells: Keys = "full",
        feature_keys: bool = True,
        ray_octaves: int = 4,
        sweep_depths: int = 16,
        sweep_half_range: float = 0.55,
        sweep_into: SweepPlace = "input",
        blend: bool = True,
        identity_gate: bool = True,
        t_star: int = 600,
    ) -> None:
        super().__init__()
        self.options = options = TUNetOptions(
            latent_channels=latent_channels,
            widths=tuple(widths),
            resnets=resnets,
            self_attention=tuple(self_attention),
            ray_levels=tuple(ray_levels),
            cross_attention=cross_attention,
            cross_dim=cross_dim,
            head_dim=head_dim,
            groups=groups,
            camera_dim=camera_dim,
            class_dim=class_dim,
            num_classes=num_classes,
            conditioning=conditioning,
            key_cells=key_cells,
            feature_keys=feature_keys,
            ray_octaves=ray_octaves,
            sweep_depths=sweep_depths,
            sweep_half_range=sweep_half_range,
            sweep_into=sweep_into,
            blend=blend,
            identity_gate=identity_gate,
            t_star=t_star,
        )
        first, time_dim = options.widths[0], 4 * options.widths[0]
        self.time_proj = Timesteps(first, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(first, time_dim)
        self.planes = PlaneFeatures(latent_channels) if sweep_depths else None
        self.class_maps = None
        beside = 0
        if conditioning == "concat":
            self.class_maps = nn.Embedding(num_classes + 1, _CLASS_MAPS)
            beside += 2 * CAMERA_NUMBERS + 2 * self.ray_channels + _CLASS_MAPS
        if sweep_depths and sweep_into == "input":
            beside += FEATURES * sweep_depths
        self.conv_in = nn.Conv2d(latent_channels + beside, first, 3, padding=1)
        self.down, skips = _build_down(options)
        self.mid = _Stage(
            options,
            [(options.widths[-1], options.widths[-1])] * 2,
            cameras=2,
            rays=True,
            trailing_attention=False,
        )
        self.up = _build_up(options, skips)
        self.planes_in = None
        if sweep_depths and sweep_into == "decoder":
            sizes = [options.widths[-1], *reversed(options.widths)]
            self.planes_in = nn.ModuleList(nn.Conv2d(FEATURES * sweep_depths, size, 1) for size in sizes)
            for layer in self.planes_in:
                assert isinstance(layer, nn.Conv2d), "made above"
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
        self.conv_norm_out = nn.GroupNorm(groups, first, eps=1e-5)
        self.conv_out = nn.Conv2d(
            first, latent_channels + (options.num_candidates if blend else 0), 3, padding=1
        )
        if blend:
            start_blend(self.conv_out, latent_channels)

    @property
    def ray_channels(self) -> int:
        """Numbers of an embedded ray."""
        return RAY_NUMBERS * (2 * self.options.ray_octaves + 1)

    @property
    def unknown_class(self) -> int:
        """The id of a view whose class nobody said, or that is of none of the known ones."""
        return self.options.num_classes

    def forward(
        self,
        estimates: Tensor,
        pairs: CameraPairs,
        timestep: Tensor | int | None = None,
        class_ids: Tensor | None = None,
    ) -> Tensor:
        """[B, C, h, w] clean estimates of the targets from those of the references [R, C, h, w].

        pairs: R references and B targets (`pair_cameras`), on the same device. timestep: t* of the estimates,
        a number or [R]; `t_star` when not given. class_ids [R] int64, unknown when not given. Targets of one
        reference share what does not depend on them.
        """
        options, of = self.options, pairs.reference_of
        cells = (int(estimates.shape[-2]), int(estimates.shape[-1]))
        time, classes = self._time(estimates, timestep), self._classes(estimates, class_ids)
        mine = estimates[of]
        grid = inside = gathered = features = None
        if options.sweep_depths:
            grid, inside = pairs.sweep(options.sweep_depths, options.sweep_half_range, cells)
            gathered = gather_planes(mine, grid, inside)
            assert self.planes is not None, "made with the sweep"
            features = self.planes(gathered, inside)
        seen, told = estimates, self._told(time, classes, pairs.reference_vectors())
        if not options.shares_encoder:
            beside = self._beside(mine, pairs, classes[of], features)
            seen, told = torch.cat([mine, *beside], dim=1), self._told(time[of], classes[of], *_own(pairs))
        x = self.conv_in(seen)
        first = x
        skips = [x]
        for stage in self.down:
            assert isinstance(stage, _Stage), "made above"
            x = stage.descend(x, told, skips)
        if options.shares_encoder:
            x, first, skips = x[of], first[of], [skip[of] for skip in skips]
        look = self._look(mine, first, pairs, cells)
        target = pairs.target_vectors()
        both = self._told(time[of], classes[of], pairs.reference_vectors()[of], target)
        after = self._told(time[of], classes[of], target)
        x = self._show_planes(x, features, 0)
        x = self.mid(x, both, look)
        for number, stage in enumerate(self.up):
            assert isinstance(stage, _Stage), "made above"
            x = stage.ascend(x, after, look, skips)
            x = self._show_planes(x, features, number + 1)
        answer = self.conv_out(F.silu(self.conv_norm_out(x)))
        if not options.blend:
            return answer
        residual, logits = answer.split([options.latent_channels, options.num_candidates], dim=1)
        gate = None
        if options.identity_gate:
            places = grid if grid is not None else pairs.sweep(1, 0.0, cells)[0]
            gate = camera_gate(places, cells)
        return blend_output(mine, gathered, inside, logits, residual, gate)

    def _time(self, estimates: Tensor, timestep: Tensor | int | None) -> Tensor:
        chosen = self.options.t_star if timestep is None else timestep
        times = torch.as_tensor(chosen, device=estimates.device).expand(len(estimates))
        return self.time_embedding(self.time_proj(times).to(estimates.dtype))

    def _classes(self, estimates: Tensor, class_ids: Tensor | None) -> Tensor:
        if class_ids is None:
            return torch.full((len(estimates),), self.unknown_class, device=estimates.device)
        return class_ids.to(estimates.device)

    def _told(self, time: Tensor, classes: Tensor, *cameras: Tensor) -> Told:
        if self.options.conditioning == "concat":
            return Told(time=time)
        return Told(time=time, cameras=tuple(camera.to(time.dtype) for camera in cameras), classes=classes)

    def _rays(self, rays: Tensor, like: Tensor) -> Tensor:
        """Embedded rays [N, r, h, w] of rays [N, 6, h, w]."""
        embedded = harmonic_embedding(rays.movedim(1, -1), self.options.ray_octaves)
        return embedded.movedim(-1, 1).to(like.dtype)

    def _beside(
        self, mine: Tensor, pairs: CameraPairs, classes: Tensor, features: Tensor | None
    ) -> list[Tensor]:
        """Maps that the first layer reads beside the latent."""
        cells = (int(mine.shape[-2]), int(mine.shape[-1]))
        maps: list[Tensor] = []
        if self.class_maps is not None:
            own = pairs.reference_vectors()[pairs.reference_of]
            vectors = torch.cat([own, pairs.target_vectors()], dim=-1).to(mine.dtype)
            told = torch.cat([vectors, self.class_maps(classes)], dim=-1)
            maps.append(told[..., None, None].expand(-1, -1, *cells))
            maps.append(self._rays(pairs.reference_rays(cells)[pairs.reference_of], mine))
            maps.append(self._rays(pairs.target_rays(cells), mine))
        if features is not None and self.options.sweep_into == "input":
            maps.append(features)
        return maps

    def _look(self, mine: Tensor, first: Tensor, pairs: CameraPairs, cells: tuple[int, int]) -> _Look | None:
        if not self.options.cross_attention:
            return None
        keys = torch.cat([mine, first], dim=1) if self.options.feature_keys else mine
        return _Look(self, keys, pairs, cells)

    def _show_planes(self, x: Tensor, features: Tensor | None, number: int) -> Tensor:
        """Add what the sweep says to a decoder's features, averaged to their size."""
        if self.planes_in is None or features is None:
            return x
        return x + self.planes_in[number](F.adaptive_avg_pool2d(features, (x.shape[-2], x.shape[-1])))


class _Look:
    """Rays and keys at the size that each ray attention asks for, made once a size."""

    def __init__(self, network: TUNet, keys: Tensor, pairs: CameraPairs, cells: tuple[int, int]) -> None:
        self.network, self.keys, self.pairs, self.cells = network, keys, pairs, cells
        self.known: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def at(self, cells: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Target rays of so many cells, and keys with their rays: spatially aligned, cell by cell."""
        if cells not in self.known:
            many = cells if self.network.options.key_cells == "pooled" else self.cells
            rays = self.network._rays(self.pairs.target_rays(cells), self.keys)
            theirs = self.network._rays(self.pairs.reference_rays(many), self.keys)[self.pairs.reference_of]
            self.known[cells] = rays, F.adaptive_avg_pool2d(self.keys, many), theirs
        return self.known[cells]


class _Stage(nn.Module):
    """Residual blocks at one size, each with its attention, and the change of size that follows."""

    def __init__(
        self,
        options: TUNetOptions,
        blocks: list[tuple[int, int]],
        *,
        cameras: int,
        rays: bool = False,
        attends: bool = False,
        sampler: nn.Module | None = None,
        trailing_attention: bool = True,
    ) -> None:
        super().__init__()
        out = blocks[-1][1]
        ray_channels = RAY_NUMBERS * (2 * options.ray_octaves + 1)
        key_channels = options.latent_channels + (options.widths[0] if options.feature_keys else 0)
        self.resnets = nn.ModuleList(
            ConditionedResnet(
                before,
                after,
                4 * options.widths[0],
                num_cameras=0 if options.conditioning == "concat" else cameras,
                camera_dim=options.camera_dim,
                class_dim=options.class_dim,
                num_classes=options.num_classes,
                groups=options.groups,
            )
            for before, after in blocks
        )
        count = len(blocks) if trailing_attention else len(blocks) - 1
        self.attentions = nn.ModuleList()
        if rays:
            self.attentions.extend(
                RayTransformer(
                    out,
                    key_channels,
                    ray_channels,
                    cross_dim=options.cross_dim,
                    head_dim=options.head_dim,
                    groups=options.groups,
                    cross_attention=options.cross_attention,
                )
                for _ in range(count)
            )
        elif attends:
            self.attentions.extend(
                self_attention(out, options.head_dim, options.groups) for _ in range(count)
            )
        self.sampler = sampler

    def forward(self, x: Tensor, told: Told, look: _Look | None) -> Tensor:
        """The middle."""
        for number in range(len(self.resnets)):
            x = self._step(number, x, told, look)
        return x

    def descend(self, x: Tensor, told: Told, skips: list[Tensor]) -> Tensor:
        """A level of the encoder, which leaves its features in `skips`."""
        for number in range(len(self.resnets)):
            x = self._step(number, x, told, None)
            skips.append(x)
        if self.sampler is not None:
            x = self.sampler(x)
            skips.append(x)
        return x

    def ascend(self, x: Tensor, told: Told, look: _Look | None, skips: list[Tensor]) -> Tensor:
        """A level of the decoder, which takes them."""
        for number in range(len(self.resnets)):
            x = self._step(number, torch.cat([x, skips.pop()], dim=1), told, look)
        return x if self.sampler is None else self.sampler(x, skips[-1].shape[-2:])

    def _step(self, number: int, x: Tensor, told: Told, look: _Look | None) -> Tensor:
        x = self.resnets[number](x, told)
        if number >= len(self.attentions):
            return x
        attention = self.attentions[number]
        if not isinstance(attention, RayTransformer):
            return attention(x)
        if look is None:
            return attention(x, x, x, x)
        return attention(x, *look.at((int(x.shape[-2]), int(x.shape[-1]))))


def _own(pairs: CameraPairs) -> tuple[Tensor, ...]:
    return (pairs.reference_vectors()[pairs.reference_of],)


def _build_down(options: TUNetOptions) -> tuple[nn.ModuleList, list[int]]:
    """The encoder and the channels of what it leaves, in order."""
    stages, skips, before = nn.ModuleList(), [options.widths[0]], options.widths[0]
    for level, width in enumerate(options.widths):
        last = level == len(options.widths) - 1
        blocks = [(before if number == 0 else width, width) for number in range(options.resnets)]
        stages.append(
            _Stage(
                options,
                blocks,
                cameras=1,
                attends=options.self_attention[level],
                sampler=None if last else Downsample2D(width, use_conv=True, out_channels=width, name="op"),
            )
        )
        skips += [width] * (options.resnets + (not last))
        before = width
    return stages, skips


def _build_up(options: TUNetOptions, skips: list[int]) -> nn.ModuleList:
    left, stages, before = list(skips), nn.ModuleList(), options.widths[-1]
    for level in reversed(range(len(options.widths))):
        width = options.widths[level]
        blocks = []
        for _ in range(options.resnets + 1):
            blocks.append((before + left.pop(), width))
            before = width
        stages.append(
            _Stage(
                options,
                blocks,
                cameras=1,
                rays=options.ray_levels[level],
                sampler=None if level == 0 else Upsample2D(width, use_conv=True, out_channels=width),
            )
        )
    return stages


def build_tunet(options: TUNetOptions) -> TUNet:
    """A network with fresh weights."""
    return TUNet(**asdict(options))
