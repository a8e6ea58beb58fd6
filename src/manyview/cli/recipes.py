"""What `manyview train` can train: for each target its task, built from folders, and where it starts from."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manyview.cli.flags import check_readable
from manyview.errors import InputError
from manyview.progress import Progress, silent
from manyview.training.config import TrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from manyview.training.task import Task

Preset = Literal["compact", "paper"]

# The compact sizes on two CPU cores or one GPU.
DEFAULTS = {
    "vae": TrainConfig(steps=20_000, batch_size=16, lr=2e-3),
    "image_encoder": TrainConfig(steps=6_000, batch_size=64, lr=1e-3),
    "dimvis": TrainConfig(steps=40_000, batch_size=16, lr=4e-4),
    "one2one": TrainConfig(steps=40_000, batch_size=16, lr=4e-4),
}
TARGETS = tuple(DEFAULTS)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides a training run beside its `TrainConfig`."""

    target: str
    data: tuple[Path, ...]
    """Packed data sets, or data sets of scenes."""
    preset: Preset = "compact"
    shares: tuple[float, ...] = ()
    """How often each data set is drawn from; equal when empty."""
    validation: Path | None = None
    initial: Path | None = None
    vae: Path | None = None
    """The codec's folder; that of the compact weights when None."""
    image_encoder: Path | None = None
    freeze_encoder: bool = False
    grid: tuple[int, int] = (2, 2)
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    slot_embedding: bool = False
    slot_time: bool = False
    seed: int = 0
    resolution: int = 128
    """Pixels a side to which views of scenes are packed."""


def default_config(target: str, preset: Preset) -> TrainConfig:
    """The published numbers of dimvis for `paper`, else ours."""
    if target == "dimvis" and preset == "paper":
        from manyview.methods.dimvis.spec import PAPER_TRAINING as paper

        return TrainConfig(
            steps=int(paper["steps"]),
            # 112 items a pass, averaged over 12 passes.
            batch_size=int(paper["batch_size"]),
            accumulate=int(paper["accumulate"]),
            lr=float(paper["lr"]),
            warmup_steps=int(paper["warmup_steps"]),
        )
    return DEFAULTS[target]


def check_recipe(recipe: Recipe) -> None:
    """Raise `InputError` for what can be known to be wrong before anything loads."""
    if recipe.target not in TARGETS:
        raise InputError("TARGET", recipe.target, f"expected one of {', '.join(TARGETS)}")
    if not recipe.data:
        raise InputError("--data", "not given", "expected one or more data sets")
    named = {
        "--validation": recipe.validation,
        "--initial": recipe.initial,
        "--vae": recipe.vae,
        "--image-encoder": recipe.image_encoder,
    }
    for folder in recipe.data:
        check_readable("--data", folder)
    for flag, path in named.items():
        if path is not None:
            check_readable(flag, path)
    if recipe.shares and (len(recipe.shares) != len(recipe.data) or min(recipe.shares) <= 0):
        accepted = f"expected {len(recipe.data)} positive numbers, one for each data set"
        raise InputError("--shares", recipe.shares, accepted)


def make_task(recipe: Recipe, device: torch.device, progress: Progress = silent) -> Task:
    """The task of a checked recipe. Scenes are packed and, for latent methods, views encoded first."""
    folders = [packed_folder(folder, recipe.resolution, progress) for folder in recipe.data]
    shares = list(recipe.shares) or [1.0] * len(folders)
    validation = None
    if recipe.validation is not None:
        validation = packed_folder(recipe.validation, recipe.resolution, progress)
    if recipe.target == "vae":
        from manyview.training.autoencoder import AutoencoderTask

        return AutoencoderTask(
            folders,
            shares,
            validation,
            seed=recipe.seed,
            initial=recipe.initial,
            freeze_encoder=recipe.freeze_encoder,
        )
    if recipe.target == "image_encoder":
        from manyview.training.image_encoder import ImageEncoderTask

        return ImageEncoderTask(folders, shares, validation, seed=recipe.seed)
    latents, embeddings = encode_views(recipe, folders, device, progress)
    data_name = ",".join(str(folder) for folder in recipe.data)
    if recipe.target == "one2one":
        from manyview.methods.one2one.train import One2OneTask

        return One2OneTask(
            latents,
            embeddings,
            prediction=recipe.prediction,
            preset=recipe.preset,
            seed=recipe.seed,
            data_name=data_name,
        )
    from manyview.methods.dimvis.model import DimvisOptions
    from manyview.methods.dimvis.train import DimvisTask

    options = DimvisOptions(
        grid=recipe.grid,
        latent_channels=latents.shape[2],
        context_dim=embeddings.shape[2],
        slot_embedding=recipe.slot_embedding,
        slot_time=recipe.slot_time,
    )
    held_out = None if validation is None else encode_views(recipe, [validation], device, progress)
    return DimvisTask(
        latents,
        embeddings,
        options,
        prediction=recipe.prediction,
        preset=recipe.preset,
        validation=held_out,
        seed=recipe.seed,
        initial=recipe.initial,
        data_name=data_name,
    )


def packed_folder(folder: Path, resolution: int, progress: Progress) -> Path:
    """The folder itself where it is packed, else its scenes packed once into a hidden folder inside it."""
    if (folder / "packed.json").is_file():
        return folder
    import numpy as np

    from manyview.data.packed import describe, write_shard
    from manyview.io.scene import list_scenes, read_scene

    scenes = list_scenes(folder)
    stamps = [f"{scene.name}:{_written(scene)}" for scene in scenes]
    key = hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:12]
    packed = folder / f".packed-{resolution}-{key}"
    if not os.access(folder, os.W_OK):
        raise InputError("--data", str(folder), "its scenes are packed into it once, but it is not writable")
    describe(packed, {"source": [scene.name for scene in scenes], "size": [resolution, resolution]})
    progress.start(len(scenes), f"packing {folder.name}")
    for number, scene in enumerate(scenes):
        if not (packed / f"views_{number:08d}.npy").is_file():
            pixels = (read_scene(scene, size=resolution, argument="--data").over(1.0) * 255).round()
            write_shard(packed, number, pixels.permute(0, 2, 3, 1).byte().numpy()[None].astype(np.uint8))
        progress.advance()
    progress.finish()
    return packed


def _written(scene: Path) -> int:
    """When a scene was last written, in nanoseconds; a scene without cameras is dated by its images."""
    transforms = scene / "transforms.json"
    return (transforms if transforms.is_file() else scene / "images").stat().st_mtime_ns


def encode_views(
    recipe: Recipe, folders: list[Path], device: torch.device, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Latents [N, A, C, h, w] and embeddings [N, A, D] (float16, CPU) of all objects of packed data sets."""
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPVisionModelWithProjection

    from manyview.data.packed import PackedViews
    from manyview.nets.autoencoder import encode
    from manyview.nets.image_encoder import embed

    vae: Any = AutoencoderKL.from_pretrained(str(_component(recipe, "vae")), local_files_only=True)
    encoder: Any = CLIPVisionModelWithProjection.from_pretrained(
        str(_component(recipe, "image_encoder")), local_files_only=True
    )
    vae, encoder = vae.to(device).float().eval(), encoder.to(device).float().eval()
    sources = [PackedViews(folder) for folder in folders]
    latents, embeddings = [], []
    progress.start(sum(len(source) for source in sources), "encoding objects")
    with torch.inference_mode():
        for source in sources:
            for batch in source.batches(4):
                images = torch.from_numpy(batch).to(device).permute(0, 1, 4, 2, 3).float() / 255
                flat = images.flatten(0, 1)
                count = images.shape[:2]
                latents.append(encode(vae, flat).unflatten(0, count).half().cpu())
                embeddings.append(embed(encoder, flat).unflatten(0, count).half().cpu())
                progress.advance(len(batch))
    progress.finish()
    if len({tuple(part.shape[1:]) for part in latents}) != 1:
        raise InputError(
            "--data", f"{len(folders)} data sets", "expected the same number and size of views in all"
        )
    return torch.cat(latents).clone(), torch.cat(embeddings).clone()


def _component(recipe: Recipe, name: Literal["vae", "image_encoder"]) -> Path:
    given = recipe.vae if name == "vae" else recipe.image_encoder
    if given is not None:
        return given
    from manyview.weights import open_bundle

    flag = "--" + name.replace("_", "-")
    try:
        return open_bundle("compact", "dimvis").components[name]
    except InputError as error:
        raise InputError(flag, "not given", f"and {error.accepted}; name a trained one") from None
