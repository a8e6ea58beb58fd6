"""How much memory a run needs, found without any: the networks on torch's meta device, step by step.

Every tensor that a step makes is counted from its making to its end, so the peak is that of the step's own
order of work. Attention counts as the fused kernels work, without its matrix of weights; what a convolution
borrows for itself and what an allocator leaves unused are not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, PreTrainedModel

from manyview.methods.hi3d.depth import as_depth_model
from manyview.methods.hi3d.depth_net import DepthNet
from manyview.methods.hi3d.elevation import ElevationNet
from manyview.methods.hi3d.frames import AT_ONCE
from manyview.methods.hi3d.spec import PAPER_TRAINING
from manyview.methods.hi3d.unet import OrbitUNet, build_unet
from manyview.nets.autoencoder import build_autoencoder, decode, encode, latent_scale
from manyview.nets.image_encoder import embed
from manyview.weights import Bundle

Unit = Literal["frame", "orbit"]
_META = torch.device("meta")
_PLAIN: dict[str, Any] = {
    "vae": AutoencoderKL,
    "unet": OrbitUNet,
    "refiner": OrbitUNet,
    "elevation": ElevationNet,
}
_PROFILES: dict[tuple[object, ...], Profile] = {}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a run."""

    name: str
    network: str
    """The component at work."""
    weights: int
    """Bytes of its weights."""
    activations: int
    """Bytes beside all weights at the step's peak."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """A run's steps in order."""

    steps: tuple[Step, ...]
    weights: int
    """Bytes of all networks together."""

    @property
    def peak(self) -> int:
        """Bytes at the worst step with all networks in place."""
        return self.weights + max(step.activations for step in self.steps)

    @property
    def offloaded_peak(self) -> int:
        """Bytes at the worst step where only the network at work is on the device."""
        return max(step.weights + step.activations for step in self.steps)

    def worst(self, *, offload: bool = False) -> Step:
        """The step that decides the peak."""
        return max(self.steps, key=lambda step: step.activations + (step.weights if offload else 0))

    def as_json(self) -> dict[str, Any]:
        """For reports, in bytes."""
        return {
            "weights": self.weights,
            "peak": self.peak,
            "offloaded_peak": self.offloaded_peak,
            "steps": {
                step.name: {
                    "network": step.network,
                    "weights": step.weights,
                    "activations": step.activations,
                }
                for step in self.steps
            },
        }


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What one picture, one frame and one orbit cost at each step; everything that a step makes grows with
    their number."""

    steps: tuple[tuple[Step, Unit], ...]
    weights: int
    num_frames: int

    def plan(
        self, *, num_orbits: tuple[int, int] = (1, 1), at_once: int = AT_ONCE, refine: bool = True
    ) -> MemoryPlan:
        """With so many samples at work at once in the two stages, and frames in the codec; without the second
        stage if asked."""
        found = []
        for step, unit in self.steps:
            is_second = step.name.startswith("refine")
            if is_second and not refine:
                continue
            orbits = num_orbits[is_second]
            frames = orbits * (1 if step.name == "orbit: encode" else self.num_frames)
            count = min(at_once, frames) if unit == "frame" else orbits
            found.append(replace(step, activations=step.activations * count))
        return MemoryPlan(steps=tuple(found), weights=self.weights)


def profile_memory(
    parts: Mapping[str, nn.Module],
    *,
    resolution: int,
    dtype: torch.dtype = torch.float32,
    refine: bool = True,
    depth: bool = True,
    guided: bool = True,
) -> Profile:
    """The profile of networks `parts`, which go to the meta device, by their names in a pipeline.

    `resolution`: pixels a side of the first stage; `guided`: the network answers twice at each step.
    """
    for module in parts.values():
        # Not diffusers' own, which warns. Some weights are made on the CPU whatever the device in force.
        nn.Module.to(module, device=_META, dtype=dtype)
    profiler = _Profiler(parts, dtype, guided)
    steps = list(profiler.stage("orbit", "unet", resolution))
    if refine and "refiner" in parts:
        if depth and "depth" in parts:
            steps.append(profiler.depth(2 * resolution))
        steps += profiler.stage("refine", "refiner", 2 * resolution)
    weights = sum(map(_weight_bytes, parts.values()))
    return Profile(steps=tuple(steps), weights=weights, num_frames=profiler.num_frames)


def profile_bundle(
    bundle: Bundle,
    *,
    resolution: int,
    dtype: torch.dtype = torch.float32,
    refine: bool = True,
    depth: bool = True,
) -> Profile:
    """The profile of weights that are not loaded, made once in a process: it takes seconds."""
    key = (bundle.sha256, resolution, dtype, refine, depth)
    if key not in _PROFILES:
        _PROFILES[key] = profile_memory(
            meta_components(bundle), resolution=resolution, dtype=dtype, refine=refine, depth=depth
        )
    return _PROFILES[key]


def meta_components(bundle: Bundle) -> dict[str, nn.Module]:
    """A bundle's networks on the meta device, from their configurations alone."""
    found: dict[str, nn.Module] = {}
    with _META:
        for name, kind in _PLAIN.items():
            if name in bundle.components:
                found[name] = kind.from_config(kind.load_config(str(bundle.components[name])))
        folder = str(bundle.components["image_encoder"])
        found["image_encoder"] = CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(folder))
        if "depth" in bundle.components:
            found["depth"] = _meta_depth(str(bundle.components["depth"]))
    return {name: module.eval() for name, module in found.items()}


def meta_like(components: Mapping[str, object]) -> dict[str, nn.Module]:
    """Copies of a pipeline's networks on the meta device, without their weights."""
    with _META:
        return {
            name: type(module)(module.config).eval()  # pyright: ignore[reportCallIssue]
            if isinstance(module, PreTrainedModel)
            else cast(Any, type(module)).from_config(cast(Any, module).config).eval()
            for name, module in components.items()
            if isinstance(module, nn.Module)
        }


def paper_components() -> dict[str, nn.Module]:
    """The published networks on the meta device: both U-Nets, Stable Diffusion's codec, OpenCLIP ViT-H/14 and
    MiDaS's DPT-hybrid."""
    from transformers import DPTConfig, DPTForDepthEstimation

    with _META:
        found: dict[str, nn.Module] = {
            "vae": build_autoencoder("paper"),
            "image_encoder": CLIPVisionModelWithProjection(
                CLIPVisionConfig(
                    hidden_size=1280,
                    intermediate_size=5120,
                    projection_dim=1024,
                    num_hidden_layers=32,
                    num_attention_heads=16,
                    image_size=224,
                    patch_size=14,
                )
            ),
            "unet": build_unet("paper", "orbit"),
            "refiner": build_unet("paper", "refine"),
            "depth": DPTForDepthEstimation(DPTConfig(is_hybrid=True, neck_hidden_sizes=[256, 512, 768, 768])),
        }
    return {name: module.eval() for name, module in found.items()}


def profile_paper(dtype: torch.dtype = torch.float16) -> Profile:
    """The published pipeline: 16 views of 512, then of 1024 pixels."""
    size = int(PAPER_TRAINING["orbit"]["resolution"])
    return profile_memory(paper_components(), resolution=size, dtype=dtype)


def measure_peak(work: Callable[[], object], held: Mapping[str, nn.Module]) -> int:
    """Bytes of all tensors alive at once while `work` runs on the meta device, beside those of `held`."""
    meter = _Meter()
    for module in held.values():
        for tensor in [*module.parameters(), *module.buffers()]:
            meter.ignore(tensor)
    with torch.inference_mode(), _FusedAttention(), meter:
        work()
    return meter.peak


class _Profiler:
    """Steps of one pipeline, for one picture, frame or orbit."""

    def __init__(self, parts: Mapping[str, nn.Module], dtype: torch.dtype, guided: bool) -> None:
        self.parts, self.dtype, self.guided = parts, dtype, guided
        self.vae = cast(AutoencoderKL, parts["vae"])
        self.num_frames = int(cast(OrbitUNet, parts["unet"]).config["num_frames"])

    def stage(self, name: str, unet: str, size: int) -> Iterator[tuple[Step, Unit]]:
        """What a stage does for frames of `size` pixels."""
        config = cast(OrbitUNet, self.parts[unet]).config
        cells, frames = size // latent_scale(self.vae), self.num_frames
        channels = int(config["out_channels"])
        encoder = cast(CLIPVisionModelWithProjection, self.parts["image_encoder"])
        rows = 2 if self.guided else 1

        def denoise() -> object:
            # What a step holds: latents and noise in float32, what is shown, and what the network reads.
            kept = [self._make(1, frames, channels, cells, cells, kind=torch.float32) for _ in range(2)]
            read = self._make(rows, frames, int(config["in_channels"]), cells, cells)
            token = self._make(rows, 1, int(config["cross_attention_dim"]))
            vector = self._make(rows, int(config["vector_dim"]) + int(config["sweep_depths"] > 0))
            return kept, self.parts[unet](read, torch.zeros((), device=_META), token, vector)

        picture = [1, 3, size, size]
        embedding = self._step("embed", "image_encoder", lambda: embed(encoder, self._make(*picture)))
        encoding = self._step("encode", "vae", lambda: encode(self.vae, self._make(*picture)))
        decoding = self._step(
            "decode", "vae", lambda: decode(self.vae, self._make(1, channels, cells, cells))
        )
        steps: list[tuple[Step, Unit]] = [
            (embedding, "orbit"),
            (encoding, "frame"),
            (self._step("denoise", unet, denoise), "orbit"),
            (decoding, "frame"),
        ]
        for step, unit in steps:
            yield replace(step, name=f"{name}: {step.name}"), unit

    def depth(self, size: int) -> tuple[Step, Unit]:
        """Depth of the enlarged frames."""
        model = as_depth_model(self.parts["depth"])
        return self._step(
            "refine: depth", "depth", lambda: model.estimate(self._make(1, 3, size, size))
        ), "frame"

    def _step(self, name: str, network: str, work: Callable[[], object]) -> Step:
        found = measure_peak(work, self.parts)
        return Step(name=name, network=network, weights=_weight_bytes(self.parts[network]), activations=found)

    def _make(self, *shape: int, kind: torch.dtype | None = None) -> Tensor:
        return torch.zeros(shape, device=_META, dtype=kind or self.dtype)


class _Meter(TorchDispatchMode):
    """Counts the bytes of tensors from their making to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def ignore(self, tensor: Tensor) -> None:
        """Do not count this tensor, nor views of it."""
        self._known.add(tensor.untyped_storage()._cdata)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if not isinstance(tensor, Tensor) or tensor.device.type != "meta":
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._end, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return made

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


class _FusedAttention(TorchFunctionMode):
    """Attention on the meta device as fused kernels do it: nothing but the answer is made."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            query = args[0] if args else kwargs["query"]
            value = args[2] if len(args) > 2 else kwargs["value"]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **kwargs)


def _weight_bytes(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def _meta_depth(folder: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForDepthEstimation

    record = cast(dict[str, Any], DepthNet.load_config(folder))
    if record.get("_class_name") == "DepthNet":
        return cast(nn.Module, DepthNet.from_config(record))
    return AutoModelForDepthEstimation.from_config(AutoConfig.from_pretrained(folder))
