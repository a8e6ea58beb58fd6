"""Who turns codes under the protocol `yaw`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manyview.bench.rows import NamedRow, weights_of
from manyview.bench.yaw import Source
from manyview.bench.yaw_options import DRAG, GANSPACE, HEADLINE, YawOptions
from manyview.errors import InputError
from manyview.methods.refiner.drag import DragOptions, drag_to_pose
from manyview.methods.refiner.model import CodeRefiner
from manyview.methods.refiner.pipeline import RefinerPipeline
from manyview.methods.refiner.sweeps import Turner, match_yaws
from manyview.methods.refiner.yaw_net import YawNet
from manyview.weights import component_hash
from manyview.weights.packing import load_component

Answer = Callable[[Source], Tensor]
"""A source to pictures [V, 3, R, R] in [0, 1], one a target, their measured yaws as near to it as they
get."""


@dataclass(frozen=True, kw_only=True)
class YawRow(NamedRow):
    """One row of the table."""

    answer: Answer
    num_sources: int | None = None
    """How many of the sources it is asked about; all when None."""


def choose_rows(pipeline: RefinerPipeline, net: YawNet, options: YawOptions) -> list[YawRow]:
    """The rows that are wanted and that there are weights for, the headline first."""
    weights = weights_of(pipeline.bundle, [pipeline.generator, pipeline.refiner])
    shared = {"targets_deg": list(options.targets_deg), "truncation": options.truncation}
    rows = []

    def sweeping(name: str, refiner: CodeRefiner | None, row_weights: dict[str, str | None]) -> YawRow:
        steps = options.num_steps or int(pipeline.config["default_steps"])
        level = int(pipeline.config["default_level"])

        def answer(source: Source) -> Tensor:
            turner = Turner(
                generator=pipeline.codes_of,
                basis=pipeline.directions,
                pose=pipeline.pose,
                code=source.code,
                refiner=refiner,
                num_steps=steps,
                level=level,
                seed=options.seed,
            )
            return swept(turner, net, source, options)

        told = {**shared, "steps": steps, "level": level} if refiner is not None else dict(shared)
        return YawRow(name=name, weights=row_weights, options=told, answer=answer)

    if pipeline.refiner is not None and options.wants(HEADLINE):
        rows.append(sweeping(HEADLINE, pipeline.refiner, weights))
    if options.wants(GANSPACE):
        rows.append(sweeping(GANSPACE, None, weights))
    for name, folder in options.ablations.items():
        if options.wants(name):
            refiner = load_component(CodeRefiner, folder, torch.float32, argument="--ablations")
            nn.Module.to(refiner, pipeline.device).eval()  # not diffusers' own, whose type is narrower
            told: dict[str, str | None] = {"name": folder.name, "sha256": component_hash(folder)}
            rows.append(sweeping(name, refiner, told))
    if options.wants(DRAG):
        rows.append(
            YawRow(
                name=DRAG,
                weights=weights,
                options={**shared, "steps": options.drag_steps},
                answer=lambda source: dragged(pipeline, net, source, options),
                num_sources=options.num_dragged,
            )
        )
    return rows


def swept(turner: Turner, net: YawNet, source: Source, options: YawOptions) -> Tensor:
    """Pictures of turned codes whose measured yaws are nearest to the targets."""

    def measure(amounts: Tensor) -> Tensor:
        return net.measure(turner.pictures(turner.turn(amounts))).cpu() - source.yaw_deg

    amounts, _ = match_yaws(measure, options.targets_deg, rounds=3)
    return turner.pictures(turner.turn(amounts))


def dragged(pipeline: RefinerPipeline, net: YawNet, source: Source, options: YawOptions) -> Tensor:
    """Pictures of codes that were moved until features stand where the depth says they are at each yaw; once
    more with the yaw asked for corrected by what came out."""
    pose, size = pipeline.pose, int(source.image.shape[-1])
    K = pose.K(size, size).float()
    pictures = []
    for number, target in enumerate(options.targets_deg):
        asked, best, off = float(target), source.image, abs(float(target))
        for _ in range(2):
            turned = pose.transform(pose.turn(torch.tensor([asked], device=source.code.device)))
            try:
                found = drag_to_pose(
                    pipeline.codes_of,
                    source.code,
                    source.depth,
                    K,
                    turned,
                    source.mask,
                    DragOptions(steps=options.drag_steps),
                    options.seed + number,
                )
            except InputError:  # no point of the object stays in the picture
                break
            with torch.no_grad():
                image = pipeline.codes_of(found.codes).clamp(0, 1).float()
            reached = float(net.measure(image)[0]) - source.yaw_deg
            if abs(reached - target) < off:
                best, off = image, abs(reached - target)
            if off <= options.tolerance_deg or reached * target <= 0:
                break
            asked = float(target) * min(max(float(target) / reached, 0.5), 2.0)
        pictures.append(best)
    return torch.cat(pictures)
