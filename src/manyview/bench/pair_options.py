"""What a `pair` run asks and how. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from manyview.errors import InputError

HEADLINE = "tunet"
MEAN_ONLY = "mean_only"
FUSION_A = "fusion_a"
FUSION_B = "fusion_b"
ORACLE = "oracle"
PIPELINE_ROWS = (HEADLINE, MEAN_ONLY, FUSION_A, FUSION_B, ORACLE)
"""Of one network: with the fusion that a rule without the truth selects, without fusion, with each fusion,
and with the one whose answer is nearest to the truth (a bound, no method)."""
VARIANTS = ("full_short", "no_cross_attention", "concat")
"""Translators trained otherwise: each as the headline row, all three for equally many steps."""
OPPONENT = "one2one"
WARP = "warp_by_depth"
COPY = "copy_input"
NAMES = (*PIPELINE_ROWS, *VARIANTS, OPPONENT, WARP, COPY)
FEATURES = ("compact_encoder", "stvgg16")
"""Networks whose features two sets of pictures are compared by: the image encoder of the compact weights (128
numbers), and the last stage of the shift-tolerant VGG16 of `stlpips_vgg`, averaged over the pixels (512)."""
Pairing = Literal["auto", "orbit", "ordered"]


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """What is asked of whom. What is None of the method's own options is as recorded with the weights."""

    pairing: Pairing = "auto"
    """orbit: any view of an orbit of 16 with all 15 others; ordered: the paper's pairs of a capture's frames;
    auto: orbit where the cameras are one."""
    num_inputs: int = 1
    """orbit: references of an object, one after the other."""
    split: str = "all"
    """Which scenes are scored: all, or the test part of 90-5-5 or 1-of-99 (`data.captures`)."""
    only: Sequence[str] | None = None
    """Rows that are wanted, of `NAMES`; all when None."""
    variants: Mapping[str, Path] = field(default_factory=dict)
    """Of `VARIANTS`: the folder of its translator (an export, or a component)."""
    depth_net: str | Path | None = None
    """Depth network of the row `warp_by_depth`; the one of Hi3D's compact weights when None."""
    features: Sequence[str] = FEATURES[:1]
    num_steps: int | None = None
    """Steps of the inversion and of sampling."""
    one2one_steps: int = 50
    one2one_guidance: float | None = None
    """That recorded with its weights for one reference when None, else 1."""
    perceptual_size: int | None = None
    """Pixels a side for the perceptual figures and the distances of sets, where not those of PSNR and SSIM
    (the paper compares at 256 and 90 and has PSNR and SSIM at 512)."""
    seed: int = 0

    def check(self) -> None:
        """Raise `InputError` for what the protocol cannot ask for."""
        if self.pairing not in ("auto", "orbit", "ordered"):
            raise InputError("--pairing", self.pairing, "expected auto, orbit or ordered")
        if not 1 <= self.num_inputs <= 16:
            raise InputError("--inputs", self.num_inputs, "expected one number from 1 to 16")
        unknown = [name for name in self.only or () if name not in NAMES]
        if unknown or (self.only is not None and not self.only):
            raise InputError("--only", ", ".join(unknown), f"expected some of {', '.join(NAMES)}")
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown:
            raise InputError("--features", ", ".join(unknown), f"expected some of {', '.join(FEATURES)}")
        for name, folder in self.variants.items():
            if name not in VARIANTS:
                raise InputError("--variants", name, f"expected some of {', '.join(VARIANTS)}")
            if not Path(folder).is_dir():
                raise InputError("--variants", str(folder), f"expected the folder of {name}'s translator")
        for name, steps in (("--steps", self.num_steps), ("--one2one-steps", self.one2one_steps)):
            if steps is not None and not 1 <= steps <= 1000:
                raise InputError(name, steps, "expected 1 to 1000")
        if self.perceptual_size is not None and not 8 <= self.perceptual_size <= 8192:
            raise InputError("--perceptual-size", self.perceptual_size, "expected 8 to 8192")

    def wants(self, name: str) -> bool:
        """Whether a row is wanted."""
        return self.only is None or name in self.only


def parse_variants(words: Sequence[str]) -> dict[str, Path]:
    """`name=folder` as the command line has it. Raises `InputError` for other words, and a name given
    twice."""
    found: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not folder or name in found:
            raise InputError(
                "--variants", word, f"expected name=folder, names of {', '.join(VARIANTS)}, each once"
            )
        found[name] = Path(folder)
    return found
