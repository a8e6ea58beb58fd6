"""StyleGAN2's published tensor names and ours, and what a published network's record says of its sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from manyview.errors import InputError
from manyview.nets.stylegan2.discriminator import StyleGAN2Discriminator
from manyview.nets.stylegan2.filters import filter_taps
from manyview.nets.stylegan2.generator import StyleGAN2Generator, block_widths

_CONV = {"style.weight": "affine.weight", "style.bias": "affine.bias", "noise": "noise_const"}
FILTER = "resample_filter"
"""The last part of the names of stored filters, which ours computes."""


def published_names(generator: StyleGAN2Generator) -> dict[str, str]:
    """Our name of every tensor of a generator -> the official one."""
    names = {}
    for name in generator.state_dict():
        parts = name.split(".")
        if name == "mapping.w_mean":
            names[name] = "mapping.w_avg"
        elif parts[0] == "mapping":
            names[name] = f"mapping.fc{parts[2]}.{parts[3]}"
        else:
            place = int(parts[1])
            block = f"synthesis.b{4 * 2**place}"
            if parts[2] == "const":
                names[name] = f"{block}.const"
            elif parts[2] == "to_image":
                names[name] = f"{block}.torgb.{_tail(parts[3:])}"
            else:
                # The first block has the second convolution only, and names it so.
                number = int(parts[3]) + (place == 0)
                names[name] = f"{block}.conv{number}.{_tail(parts[4:])}"
    return names


def published_discriminator_names(discriminator: StyleGAN2Discriminator) -> dict[str, str]:
    """Our name of every tensor of a discriminator -> the official one."""
    outer = {"from_image": f"b{discriminator.resolution}.fromrgb", "last_conv": "b4.conv"}
    outer |= {"hidden": "b4.fc", "out": "b4.out"}
    inner = {"first": "conv0", "second": "conv1", "shortcut": "skip"}
    names = {}
    for name in discriminator.state_dict():
        parts = name.split(".")
        if parts[0] == "blocks":
            names[name] = f"b{discriminator.resolution >> int(parts[1])}.{inner[parts[2]]}.{parts[3]}"
        else:
            names[name] = f"{outer[parts[0]]}.{parts[1]}"
    return names


def generator_sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The arguments of `StyleGAN2Generator` that published tensors say: sizes, and the number of layers.

    Raises `InputError` for tensors that are not of an unconditional generator of the skip architecture, or
    whose filter is not the binomial of four taps.
    """
    widths = {
        int(found[1]): weights[name].shape[1]
        for name in weights
        if (found := re.fullmatch(r"synthesis\.b(\d+)\.torgb\.weight", name))
    }
    layers = sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in weights)
    if not widths or not layers or "mapping.embed.weight" in weights:
        line = "expected a StyleGAN2 generator without classes, of the skip architecture"
        raise InputError("CHECKPOINT", "generator", line)
    resolution, channel_max = max(widths), max(widths.values())
    narrow = [width * size for size, width in widths.items() if width < channel_max]
    channel_base = max(narrow, default=channel_max * resolution)
    if dict(block_widths(resolution, channel_base, channel_max)) != widths:
        raise InputError("CHECKPOINT", f"widths {widths}", "expected a constant over the resolution, bounded")
    for name, value in weights.items():
        if name.endswith(FILTER) and not _is_binomial(value):
            raise InputError("CHECKPOINT", name, "expected the filter [1, 3, 3, 1]")
    first, last = weights["mapping.fc0.weight"], weights[f"mapping.fc{layers - 1}.weight"]
    return {
        "resolution": resolution,
        "z_dim": first.shape[1],
        "w_dim": last.shape[0],
        "mapping_layers": layers,
        "channel_base": channel_base,
        "channel_max": channel_max,
        "img_channels": weights["synthesis.b4.torgb.weight"].shape[0],
    }


def _tail(parts: list[str]) -> str:
    return _CONV.get(".".join(parts), ".".join(parts))


def _is_binomial(value: Tensor) -> bool:
    expected = filter_taps(value.float())
    return value.shape == expected.shape and bool((value.float() - expected).abs().max() < 1e-6)
