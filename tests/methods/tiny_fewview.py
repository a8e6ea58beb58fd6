"""A SparseFusion pipeline at toy size: the networks of tiny_teacher, as a folder of weights too."""

from __future__ import annotations

from pathlib import Path

from tiny_sparsefusion import tiny_eft, tiny_unet
from tiny_teacher import tiny_codec

from manyview.lift.field.options import FieldOptions
from manyview.methods.sparsefusion.distill_options import DistillOptions
from manyview.methods.sparsefusion.pipeline import SparseFusionPipeline
from manyview.methods.sparsefusion.vldm import build_scheduler
from manyview.weights import write_bundle

PARTS = ("vae", "eft", "unet", "scheduler")
QUICK = DistillOptions(
    targets=4,
    warmup_steps=12,
    rounds=1,
    steps_per_round=6,
    most_steps=2,
    rows=8,
    field=FieldOptions(encoding="surface", resolution=24, rays=256),
)


def tiny_fewview() -> SparseFusionPipeline:
    return SparseFusionPipeline(
        vae=tiny_codec(),
        eft=tiny_eft(blend=True, num_depths=9).float(),
        unet=tiny_unet(),
        scheduler=build_scheduler("ddim", 50),
        default_steps=3,
    )


def write_tiny_bundle(folder: Path) -> Path:
    """The weights as `--weights` takes them."""
    pipeline = tiny_fewview()
    for name in PARTS:
        getattr(pipeline, name).save_pretrained(folder / name)
    write_bundle(
        folder,
        name="tiny",
        method="sparsefusion",
        licence="Apache-2.0",
        components={name: name for name in PARTS},
        settings={"solver": "ddim", "steps": 3, "guidance": 1.0},
    )
    return folder
