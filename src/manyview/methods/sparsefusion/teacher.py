"""What the trained networks say about views that are not there: feature maps and colours from the EFT,
pictures from the diffusion model. Nothing here is trained.

Shapes: T asked cameras, B pictures, R pixels a side, h x w latent cells, C feature channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.geometry.normalization import focus_point
from manyview.io.framing import resize_area
from manyview.methods.sparsefusion.context import Context, Own
from manyview.methods.sparsefusion.eft import EftAnswer, EpipolarTransformer
from manyview.methods.sparsefusion.unet import VldmUnet
from manyview.methods.sparsefusion.vldm import CLIP, VldmSolver, sample_latents
from manyview.nets.autoencoder import decode, encode, latent_scale
from manyview.progress import Progress, silent
from manyview.types import Cameras, Views

# A picture's pixel is empty up to the first distance from white (largest channel) and full from the second:
# SparseFusion's threshold of a tenth, made soft.
_WHITE, _OBJECT = 0.05, 0.15
_TOGETHER = 16
"""Pictures that go through codec and denoiser at once."""


@dataclass(frozen=True)
class Looked:
    """What the EFT says about T cameras; float32 on the CPU."""

    features: Tensor
    """[T, C, h, w] over the latent's cells: the condition of the diffusion model (`EftAnswer.condition`)."""
    images: Tensor
    """[T, 3, R, R] in [0, 1]: its colours on the asked grid of rays, bilinearly upsampled."""
    coverage: Tensor
    """[T, 1, R, R] in [0, 1]: how far the picture is object, by `coverage_of`."""
    depths: Tensor | None = None
    """[T, 1, rows, columns] mean depth under the attention along the camera's z axis, for each colour ray."""

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, chosen: int | slice | list[int] | Tensor) -> Looked:
        """Some of the cameras, always as a batch."""
        some = [chosen] if isinstance(chosen, int) else chosen
        depths = None if self.depths is None else self.depths[some]
        return Looked(self.features[some], self.images[some], self.coverage[some], depths)


def coverage_of(images: Tensor) -> Tensor:
    """[B, 1, H, W] in [0, 1] how far pictures [B, 3, H, W] over white are object: 0 up to a distance of 0.05
    from white (in the channel where it is largest), 1 from 0.15, linear between.

    White parts of an object count as background: a picture alone cannot tell them apart.
    """
    distance = (1 - images).amax(dim=1, keepdim=True)
    return ((distance - _WHITE) / (_OBJECT - _WHITE)).clamp(0, 1)


def object_center(cameras: Cameras) -> Tensor:
    """[3] the middle of the object: where the optical axes meet.

    Of one camera, or of cameras that all look one way, it is the point of the (mean) axis nearest to the
    world's origin, where the objects of the training data stand. Raises `InputError` where that lies
    behind the camera.
    """
    try:
        return focus_point(cameras)
    except InputError:
        center = cameras.centers.double().mean(dim=0)
        axis = F.normalize(cameras.world_from_cam[:, :3, 2].double().mean(dim=0), dim=0)
        along = -(center @ axis)
        if float(along) <= 0:
            line = "looks away from the world's origin, where a single view's object is expected"
            raise InputError("cameras", "one direction", line) from None
        return (center + along * axis).to(cameras.K.dtype)


class Teacher:
    """Codec, EFT and denoiser, asked but not trained; on the device and in the type their weights have."""

    def __init__(
        self,
        vae: AutoencoderKL,
        eft: EpipolarTransformer,
        unet: VldmUnet,
        *,
        resolution: int | None = None,
    ) -> None:
        """`resolution`: pixels a side that the networks were trained for; the codec's `sample_size` if not
        given. Raises `InputError` where latent cells do not divide it."""
        self.vae, self.eft, self.unet = vae.eval(), eft.eval(), unet.eval()
        self.resolution = int(resolution or vae.config["sample_size"])
        if self.resolution % latent_scale(vae):
            line = f"expected a multiple of the codec's {latent_scale(vae)}"
            raise InputError("resolution", self.resolution, line)

    @property
    def cells(self) -> int:
        """Latent cells a side."""
        return self.resolution // latent_scale(self.vae)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a latent."""
        return int(self.unet.config["latent_channels"]), self.cells, self.cells

    @torch.no_grad()
    def look(
        self,
        given: Views,
        cameras: Cameras,
        *,
        rows: int = 32,
        own: Own = "hide",
        depths: bool = False,
        progress: Progress | None = None,
    ) -> Looked:
        """What T `cameras` should see, told from the observed frames of `given`.

        The frames are put over white and averaged down to the resolution; features are told on the latent's
        cells, colours on rows x rows rays (0: on the cells, from the same pass). `own` says what happens
        where a camera is that of a given frame (`eft.Own`); `depths` adds where the attention found its
        colours. Distances and the object's middle follow from the given cameras alone, so what a camera is
        told does not depend on which others are asked. Raises `InputError` as the EFT, without cameras, for
        views that are not square, and for a view without any context but itself.
        """
        report = silent if progress is None else progress
        context = self.read(given)
        queries = _square(cameras, self.resolution, "cameras")
        found: list[tuple[EftAnswer, EftAnswer]] = []
        report.start(len(queries), "views looked at")
        try:
            for place in range(len(queries)):
                query = queries[place]
                answer = self._ask(context, query, self.cells, own, depths and rows in (0, self.cells))
                if rows in (0, self.cells):
                    found.append((answer, answer))
                else:
                    found.append((answer, self._ask(context, query, rows, own, depths)))
                report.advance()
        finally:
            report.finish()
        features = torch.cat([first.condition[:, 0] for first, _ in found]).float().cpu()
        colors = torch.cat([second.colors[:, 0] for _, second in found]).float().cpu()
        maps = None
        if depths:
            seen = [second.attention for _, second in found]
            maps = torch.cat([one.depth_map[:, 0] for one in seen if one is not None]).float().cpu()
        images = self._enlarged(colors)
        return Looked(features, images, coverage_of(images), maps)

    def read(self, given: Views) -> Context:
        """The EFT's reading of the observed frames of `given`, as `look` uses it."""
        frames = self.frames(given)
        assert frames.cameras is not None, "frames have cameras"
        net = self.eft
        cameras, device = frames.cameras, _device(net)
        ranges = net.depth_range(cameras, center=object_center(cameras))[None]
        images = frames.images.to(device, _dtype(net))[None]
        context = net.encode(images, cameras, ranges.to(images))
        if self.unet.config["blended"]:
            context = replace(context, latents=self.encode(frames.images).to(images)[None])
        return context

    def frames(self, given: Views) -> Views:
        """The observed frames of `given` over white at the resolution, with masks where there are any."""
        if given.cameras is None:
            raise InputError("views.cameras", "none", "expected cameras of the given views")
        chosen = given[given.observed.nonzero()[:, 0]]
        if len(chosen) == 0:
            raise InputError("views.observed", "none", "expected at least one observed view")
        assert chosen.cameras is not None, "the given views have cameras"
        side = self.resolution
        cameras = _square(chosen.cameras, side, "views.cameras")
        if chosen.size[0] != chosen.size[1]:
            raise InputError("views", f"{chosen.size[1]} x {chosen.size[0]} pixels", "expected square views")
        images, _ = resize_area(chosen.over(1.0).float(), side, side)
        masks = None if chosen.masks is None else resize_area(chosen.masks.float(), side, side)[0]
        return Views(images=images, masks=masks, cameras=cameras, names=chosen.names)

    @torch.no_grad()
    def draw(
        self,
        features: Tensor,
        noise: Tensor,
        *,
        start: Tensor | None = None,
        t_max: float = 0.99,
        num_steps: int = 50,
        solver: VldmSolver = "ddim",
        guidance: float = 1.0,
        clip: float = CLIP,
        fresh: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """[B, 3, R, R] pictures in [0, 1] drawn from noise [B, c, h, w] given features [B, C, h, w].

        `start` [B, 3, R, R]: pictures that are encoded (the posterior's mode), noised to t_max and denoised
        in `num_steps` steps, SparseFusion's multi-step target; without it the noise itself is the start.
        float32 on the CPU. `fresh` is for solver `released`: it draws latents of noise [B, c, h, w]. Raises
        `InputError` as `sample_latents`.
        """
        device, dtype = _device(self.unet), _dtype(self.unet)
        parts = []
        together = len(noise) if solver == "released" else _TOGETHER
        for first in range(0, len(noise), max(1, together)):
            part = slice(first, first + together)
            latents = sample_latents(
                self.unet,
                features[part].to(device, dtype),
                noise[part].to(device, dtype),
                start=None if start is None else self.encode(start[part]).to(device, dtype),
                t_max=t_max,
                num_steps=num_steps,
                solver=solver,
                guidance=guidance,
                clip=clip,
                draw=None if fresh is None else lambda: fresh().to(device, dtype),
            )
            parts.append(self.decode(latents))
        return torch.cat(parts)

    def encode(self, images: Tensor) -> Tensor:
        """[B, c, h, w] normalised latents (the mode) of pictures [B, 3, R, R] in [0, 1]."""
        return encode(self.vae, images.to(_device(self.vae), _dtype(self.vae)))

    def decode(self, latents: Tensor) -> Tensor:
        """[B, 3, R, R] pictures in [0, 1] of latents; float32 on the CPU."""
        return decode(self.vae, latents.to(_device(self.vae), _dtype(self.vae))).float().cpu()

    def _ask(self, context: Context, query: Cameras, rows: int, own: Own, attention: bool) -> EftAnswer:
        return self.eft(context, query, rows, rows, own=own, attention=attention)

    def _enlarged(self, colors: Tensor) -> Tensor:
        if colors.shape[-1] == self.resolution:
            return colors.clamp(0, 1)
        # The published grid has its outermost rays in the outermost pixels.
        corners = self.eft.sampling == "published"
        size = (self.resolution, self.resolution)
        return F.interpolate(colors, size, mode="bilinear", align_corners=corners).clamp(0, 1)


def _square(cameras: Cameras, side: int, argument: str) -> Cameras:
    for height, width in cameras.sizes.tolist():
        if height != width:
            raise InputError(argument, f"{width} x {height} pixels", "expected cameras of square images")
    return cameras.to("cpu").resized(side, side)


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def _dtype(net: nn.Module) -> torch.dtype:
    return next(net.parameters()).dtype
