"""`manyview convert`: a published checkpoint into a bundle of weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from manyview.cli.flags import OutputFlags, check_output, check_readable
from manyview.cli.shell import Answer
from manyview.errors import InputError
from manyview.methods import find_converter
from manyview.progress import Progress

if TYPE_CHECKING:
    from manyview.weights.conversion import Survey

SUMMARY = "Convert a published checkpoint to safetensors in this package's layout; no pickle is run."

_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of `manyview convert`."""

    checkpoint: tyro.conf.Positional[tuple[Path, ...]]
    """The published files (safetensors, or torch's, read as weights alone; for refiner one .pkl, of which
    nothing is run); several that belong together. tunet: the folder of Stable Diffusion 1.x and that of a
    trained tunet."""
    method: str
    """Whose weights they are: hi3d, refiner, sparsefusion or tunet."""
    out: Path | None = None
    """Folder of the weights, for --weights; not needed with --dry-run."""
    dry_run: bool = False
    """Only list which keys fit, and write nothing."""
    codec: Path | None = None
    """Folder of the image codec that the weights go with (diffusers' AutoencoderKL), copied into the result;
    without one the result lacks it."""
    licence: str = "unknown"
    """The licence the weights are under, as it shall stand in manifests."""
    output: Annotated[OutputFlags, tyro.conf.arg(name="")] = field(default_factory=OutputFlags)


def run(options: Options, progress: Progress) -> Answer:
    """Check, list the keys, and write the bundle unless it is a dry run."""
    converter = find_converter(options.method)
    if not options.checkpoint:
        raise InputError("CHECKPOINT", "not given", "expected one or more files")
    for path in options.checkpoint:
        check_readable("CHECKPOINT", path)
    if options.out is None and not options.dry_run:
        raise InputError("--out", "not given", "expected a folder, or --dry-run")
    if options.out is not None:
        check_output(options.out, allowed=options.output.force)
    if options.dry_run:
        survey = converter.survey(options.checkpoint)
        data = {
            "command": "convert",
            "method": options.method,
            "fits": survey.fits,
            "parts": {name: asdict(part) for name, part in survey.parts.items()},
        }
        return Answer(data=data, text=describe(survey))
    assert options.out is not None, "checked above"
    progress.start(1, "conversion")
    try:
        folders = converter.convert(
            options.checkpoint,
            options.out,
            codec=options.codec,
            licence=options.licence,
            force=options.output.force,
        )
        progress.advance()
    finally:
        progress.finish()
    data = {"command": "convert", "method": options.method, "out": str(options.out), "parts": sorted(folders)}
    return Answer(data=data, text=f"wrote {', '.join(sorted(folders))} to {options.out}")


def describe(survey: Survey) -> str:
    """The survey in lines: numbers for each part, and the names that do not fit."""
    lines = []
    for name, part in survey.parts.items():
        counts = f"{part.matched} tensors fit, {len(part.passed_over)} are passed over"
        lines.append(f"{name}: {counts}{'' if part.fits else ', and it does not fit:'}")
        for what in ("unknown", "missing", "misshapen"):
            names = getattr(part, what)
            lines += [f"  {what}: {key}" for key in names[:_SHOWN]]
            if len(names) > _SHOWN:
                lines.append(f"  {what}: {len(names) - _SHOWN} more (--json lists all)")
    lines.append("it can be converted" if survey.fits else "it cannot be converted")
    return "\n".join(lines)
