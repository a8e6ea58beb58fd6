"""`manyview train`: one network of a method, or one that methods share."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from manyview.cli.flags import check_memory, check_output, torch_device
from manyview.cli.progress import silence_loading
from manyview.cli.recipes import Recipe, check_recipe, make_task
from manyview.cli.refiner_recipes import RefinerTrainFlags
from manyview.cli.rig import parse_grid
from manyview.cli.shell import Answer
from manyview.cli.train_defaults import Stage, default_config
from manyview.cli.tunet_recipe import Ablation, Split, TunetRecipe
from manyview.progress import Progress
from manyview.training.config import TrainConfig

SUMMARY = "Train one network on a data set; stop with Ctrl-C, go on with --resume."

# Weights, gradients, AdamW's two running means and the averaged weights, 4 bytes each.
_TRAINING_BYTES = 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview train`."""

    target: tyro.conf.Positional[str]
    """vae, image_encoder (shared by methods), dimvis, one2one, sparsefusion, hi3d, tunet or refiner."""
    data: tuple[Path, ...] = ()
    """Data sets: folders of scenes as `manyview render` writes them, or packed ones; tunet: also MVImgNet's
    tree, of which frames are paired in their order."""
    out: Path
    """Folder of the run: checkpoints, curves, and the trained network in export/."""
    preset: Literal["compact", "paper"] = "compact"
    """Sizes of the network: ours, or the published ones."""
    resume: bool = False
    """Go on from the newest checkpoint in --out."""
    shares: tuple[float, ...] = ()
    """How often each data set is drawn from; equally when not given."""
    validation: Path | None = None
    """Held-out data set, scored every --validate-every steps."""
    initial: Path | None = None
    """Folder of weights to start from instead of fresh ones."""
    vae: Path | None = None
    """The codec of a latent method; the one in the package when not given."""
    image_encoder: Path | None = None
    """The image encoder of a latent method; the one in the package when not given."""
    cache: Path | None = None
    """Where what is made of the data once is kept: packed scenes, latents, embeddings. Without it, in hidden
    folders beside the data."""
    size: int | None = None
    """Pixels a side to which views of scenes are resized; 128, for the preset paper 256, when not given
    (hi3d and tunet: 128 or 512, in hi3d twice that for the stages refine and upscaler)."""
    freeze_encoder: bool = False
    """vae: train only the decoder, so that latents made before stay valid."""
    crop: int = 64
    """vae: pixels a side of the pieces it trains on; hi3d --stage upscaler: of those it enlarges."""
    negatives: float = 0.5
    """vae: share of pictures with inverted channels; high teaches a fresh codec colour, low then suits it."""
    grid: str = "2x2"
    """dimvis: rows x columns of the tile; their product is the number of views."""
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    """What a denoiser learns: the noise (as the dimvis paper prints) or the velocity."""
    slot_embedding: bool = False
    """dimvis: tell the context tokens which slot they belong to."""
    slot_time: bool = False
    """dimvis: show every cell its own diffusion time."""
    aligned: bool = False
    """dimvis: show every cell what the other slots hold at the same cell."""
    rays: bool = False
    """dimvis: show every cell its camera ray."""
    sweep_depths: int = 0
    """dimvis: show every cell what the other slots hold along its ray at so many depths, 0 for none; hi3d:
    the same with what the input holds."""
    blend: bool = False
    """dimvis: choose for every cell among what the observed slots hold, and learn the rest as a residual;
    sparsefusion: the same with what the EFT's attention finds in the given views; hi3d: with what the input
    or the coarse orbit holds."""
    time_exponent: float = 1.0
    """dimvis, one2one, tunet --stage base: below 1 trains more on noisy times (1000 u^exponent for uniform
    u)."""
    stage: Stage | None = None
    """sparsefusion: both networks from one loss (joint, without the flag), the EFT alone, the denoiser on the
    EFT in --initial, or the regressor that is the baseline. hi3d: the network of the orbit (without the
    flag), the one that refines it, the small ones that tell depth and elevation, or the one that enlarges
    pictures one by one, for comparison (--data and --validation of twice the orbit's size). tunet: the
    network from view to view (without the flag), or the base it needs. refiner: the refiner itself (without
    the flag), the generator of single views (autoencoder: by drawing pictures again; generator: against a
    discriminator), depth and pose taught by its sweeps, or the network that measures yaw."""
    context_views: tuple[int, int] = (1, 6)
    """sparsefusion: fewest and most views that another one is told from."""
    rays_at_once: int = 64
    """sparsefusion: rays of the full-size image on which an item learns colours, the square of a divisor of
    its side; 0 for mean colours of latent cells."""
    noise_levels: int = 4
    """sparsefusion: levels of noise at which an item's latent is denoised."""
    coarse: tuple[Path, ...] = ()
    """hi3d --stage refine: for each data set the folder of its coarse latents and depth, the validation's
    last."""
    depth_net: Path | None = None
    """hi3d --stage refine: make them with this depth network, and keep them in --cache."""
    own: tuple[Path, ...] = ()
    """With --depth-net: for each data set the clips that a first stage made of its objects; for the
    validation's one more, or none."""
    own_share: float = 0.5
    """hi3d --stage refine: how often an item is shown such a clip where there is one, not a degraded one."""
    closed: bool = False
    """hi3d: tell the network that the last view of an orbit stands beside the first."""
    window: int = 0
    """hi3d: views of a training clip, consecutive ones of the orbit; 0 for all."""
    crop_cells: int = 0
    """hi3d --stage refine: latent cells along a side of the square cut out of a training clip; 0 for all."""
    log_sigma: tuple[float, float] | None = None
    """hi3d: mean and deviation of the log of the noise it trains at; the paper's 1.0 1.6 when not given."""
    joint_drop: float = 0.0
    """hi3d: how often all conditions are left out together."""
    drop: float = 0.1
    """hi3d: how often each condition is left out on its own, beside that."""
    base: Path | None = None
    """tunet: the trained base, the export of --stage base or a folder with unet and scheduler (Stable
    Diffusion's), whose inversions are learned from."""
    t_star: int = 600
    """tunet: the timestep to which views are inverted."""
    mean_steps: int = 10
    """tunet: steps of that inversion; the paper has 30."""
    targets_each: int = 4
    """tunet: targets of every reference in a step; 1 is the paper's pairs."""
    ablation: Ablation = "full"
    """tunet: leave a part of the network out, as the paper's ablation does."""
    class_drop: float = 0.1
    """tunet: how often the category of a capture is said to be unknown."""
    min_snr: float = 0.0
    """tunet --stage base: weigh times by their signal-to-noise ratio, counted up to this; 0 weighs all
    alike."""
    split: Split = "all"
    """tunet: of MVImgNet's tree train on all scenes, or leave those out that one of the paper's two rules
    scores."""
    refiner: Annotated[RefinerTrainFlags, tyro.conf.arg(name="")] = field(default_factory=RefinerTrainFlags)
    steps: int | None = None
    """Optimiser steps of the whole run; the preset's number when not given, like all below."""
    batch_size: int | None = None
    """Items in one forward pass."""
    accumulate: int | None = None
    """Forward passes averaged into one optimiser step."""
    lr: float | None = None
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] | None = None
    """muon needs fewer steps than adamw for the same loss, each a little dearer."""
    schedule: Literal["cosine", "cyclic"] | None = None
    """How the rate falls: once along a half cosine, or again and again from the peak."""
    cycles: int | None = None
    """Of the cyclic schedule: how often it falls."""
    warmup_steps: int | None = None
    """Steps over which the learning rate rises to its peak."""
    ema_decay: float | None = None
    """Decay of the averaged weights, the ones exported."""
    checkpoint_minutes: float | None = None
    """Minutes between checkpoints."""
    log_every: int | None = None
    """Steps averaged into one row of log.jsonl."""
    validate_every: int | None = None
    """Steps between validations; 0 for none."""
    num_threads: int | None = None
    """Threads on the CPU; torch's choice when not given."""
    stop_after_steps: int | None = None
    """Stop after this many steps of this call, with a checkpoint."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a CUDA GPU if there is one."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the forward pass; weights and averages stay in fp32. auto takes bf16 where the
    processor computes in it."""
    max_memory: str | None = None
    """Refuse to start if weights, gradients and optimiser alone need more, for example 8GB."""
    seed: int = 0
    """Start of all randomness: first weights, order of the data, noise."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""


_OVERRIDES = (
    "steps",
    "batch_size",
    "accumulate",
    "lr",
    "optimizer",
    "schedule",
    "cycles",
    "warmup_steps",
    "ema_decay",
    "checkpoint_minutes",
    "log_every",
    "validate_every",
    "num_threads",
    "stop_after_steps",
)


def train_config(options: Options) -> TrainConfig:
    """The preset's options with those the user gave in their place. Raises `InputError` for bad values."""
    given = {name: getattr(options, name) for name in _OVERRIDES if getattr(options, name) is not None}
    default = default_config(options.target, options.preset, options.stage)
    if "steps" in given and "warmup_steps" not in given:
        # A short run of a long preset would else be all warm-up.
        given["warmup_steps"] = min(default.warmup_steps, given["steps"] // 10)
    return replace(default, **given, seed=options.seed, device=options.device, dtype=options.dtype)


def run(options: Options, progress: Progress) -> Answer:
    """Check, build the task, train until done or stopped."""
    recipe = Recipe(
        target=options.target,
        data=options.data,
        preset=options.preset,
        shares=options.shares,
        validation=options.validation,
        initial=options.initial,
        vae=options.vae,
        image_encoder=options.image_encoder,
        cache=options.cache,
        size=options.size,
        freeze_encoder=options.freeze_encoder,
        crop=options.crop,
        negatives=options.negatives,
        grid=parse_grid(options.grid),
        prediction=options.prediction,
        slot_embedding=options.slot_embedding,
        slot_time=options.slot_time,
        aligned=options.aligned,
        rays=options.rays,
        sweep_depths=options.sweep_depths,
        blend=options.blend,
        time_exponent=options.time_exponent,
        stage=options.stage,
        context_views=options.context_views,
        rays_at_once=options.rays_at_once,
        noise_levels=options.noise_levels,
        coarse=options.coarse,
        depth_net=options.depth_net,
        own=options.own,
        own_share=options.own_share,
        closed=options.closed,
        window=options.window,
        crop_cells=options.crop_cells,
        log_sigma=options.log_sigma,
        joint_drop=options.joint_drop,
        drop=options.drop,
        tunet=TunetRecipe(**{one.name: getattr(options, one.name) for one in fields(TunetRecipe)}),
        refiner=options.refiner,
        seed=options.seed,
    )
    check_recipe(recipe)
    config = train_config(options)
    check_output(options.out, allowed=options.resume, flag="--resume")

    from manyview.training.loop import fit

    silence_loading()
    task = make_task(recipe, torch_device(options.device), progress, config)
    if options.max_memory is not None:
        import torch

        with torch.device("meta"):
            count = sum(weight.numel() for weight in task.build().parameters())
        check_memory(_TRAINING_BYTES * count, options.max_memory)
    # On a terminal the loop's own bar shows the loss too; in a log ours prints lines.
    report = fit(task, config, options.out, options.resume, None if sys.stderr.isatty() else progress)
    figures = {"command": "train", **asdict(report), "curve": len(report.curve)}
    text = f"trained {report.steps} steps in {report.seconds:.0f} s; network in {report.export}"
    return Answer(data={**figures, "export": str(report.export)}, text=text)
