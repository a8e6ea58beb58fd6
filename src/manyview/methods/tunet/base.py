"""The diffusion model that inverts the reference and draws the target: ours, or Stable Diffusion's.

Both are asked as `manyview.sampling.inversion.NoiseModel`. Ours is a small class-conditional `UNet2DModel` of
single views; Stable Diffusion 1.5 is a `UNet2DConditionModel` that is told a prompt, the empty one unless
something is to be edited.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor

from manyview.errors import InputError
from manyview.weights.packing import load_component

BaseNet = UNet2DModel | UNet2DConditionModel


def build_base(
    preset: Literal["compact", "paper"] = "compact", *, latent_channels: int = 8, num_classes: int = 0
) -> BaseNet:
    """A network with fresh weights: `compact` for latents of 16 x 16, about 1.9 million parameters; `paper`
    in the sizes of Stable Diffusion 1.5, which knows no classes.

    The compact one has an embedding for each of `num_classes` and one more for the unknown, id `num_classes`.
    """
    if preset == "paper":
        return UNet2DConditionModel(
            sample_size=64,
            in_channels=latent_channels,
            out_channels=latent_channels,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
    return UNet2DModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(48, 80, 80),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        norm_num_groups=16,
        num_class_embeds=num_classes + 1,
    )


def load_base(
    folder: str | Path, dtype: torch.dtype | None = None, *, argument: str = "--weights"
) -> BaseNet:
    """The network in a component folder, of whichever of the two classes its config names.

    Raises `InputError` for another class.
    """
    name = base_class(folder)
    if name == "UNet2DModel":
        return load_component(UNet2DModel, folder, dtype, argument=argument)
    if name == "UNet2DConditionModel":
        return load_component(UNet2DConditionModel, folder, dtype, argument=argument)
    accepted = "expected a UNet2DModel or a UNet2DConditionModel as base"
    raise InputError(argument, f"{folder} ({name or 'no class'})", accepted)


def base_class(folder: str | Path) -> str:
    """The class that a component's config names, read without loading its weights; empty where none is."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("_class_name", ""))


def count_classes(base: BaseNet) -> int:
    """Classes that a base knows; 0 for one that takes none or only the unknown."""
    return max(0, int(base.config.get("num_class_embeds") or 0) - 1)


def base_forward(
    base: BaseNet,
    latents: Tensor,
    timesteps: Tensor,
    class_ids: Tensor | None = None,
    context: Tensor | None = None,
) -> Tensor:
    """[B, C, h, w] the answer (epsilon or v) to latents [B, C, h, w] at timesteps [] or [B].

    class_ids [B] int64 for a base that knows classes, the unknown when not given. context [B or 1, T, D]:
    embedded words for a base that takes text; raises `InputError` where such a base gets none.
    """
    if isinstance(base, UNet2DConditionModel):
        if context is None:
            raise InputError(
                "prompt", "not given", "this base takes embedded words, the empty prompt at least"
            )
        words = context.to(latents.dtype).expand(len(latents), -1, -1)
        return base(latents, timesteps, encoder_hidden_states=words, return_dict=False)[0]
    labels = class_ids
    if labels is None and base.config.get("num_class_embeds"):
        labels = torch.full((len(latents),), count_classes(base), device=latents.device)
    # The annotation leaves out that a scalar tensor is a timestep too.
    return base(latents, timesteps, class_labels=labels, return_dict=False)[0]


class BaseNoise:
    """A base bound to what it is told beside latent and time: a `NoiseModel`.

    The answer comes in the latents' dtype, whatever the network's.
    """

    def __init__(
        self,
        base: BaseNet,
        *,
        class_ids: Tensor | None = None,
        context: Tensor | None = None,
        without: Tensor | None = None,
        guidance: float = 1.0,
    ) -> None:
        """class_ids [B]; context [B or 1, T, D]: the words; without [1, T, D]: the empty prompt, for
        `guidance` other than 1 (classifier-free guidance, both answers in one call)."""
        self.base, self.class_ids, self.context = base, class_ids, context
        self.without, self.guidance = without, guidance

    def rows(self, chosen: Tensor | slice) -> BaseNoise:
        """Bound to some of the rows, or to rows repeated."""
        context = self.context
        if context is not None and len(context) > 1:
            context = context[chosen]
        return BaseNoise(
            self.base,
            class_ids=None if self.class_ids is None else self.class_ids[chosen],
            context=context,
            without=self.without,
            guidance=self.guidance,
        )

    def __call__(self, latents: Tensor, timestep: Tensor, /) -> Tensor:
        """As `NoiseModel`."""
        x = latents.to(self.base.dtype)
        if self.guidance == 1.0 or self.without is None or self.context is None:
            return base_forward(self.base, x, timestep, self.class_ids, self.context).to(latents)
        count = len(x)
        words = torch.cat([part.expand(count, -1, -1) for part in (self.context, self.without)])
        classes = None if self.class_ids is None else self.class_ids.repeat(2)
        told, free = base_forward(self.base, torch.cat([x, x]), timestep, classes, words).chunk(2)
        return (free + self.guidance * (told - free)).to(latents)


def embed_words(tokenizer: Any, text_encoder: Any, prompt: str) -> Tensor:
    """[1, T, D] the last hidden states of CLIP's text encoder, padded to its length, as Stable Diffusion
    reads them; longer prompts are cut."""
    tokens = tokenizer(
        prompt,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    device = next(text_encoder.parameters()).device
    return text_encoder(tokens.input_ids.to(device))[0]
