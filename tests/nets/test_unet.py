"""The latent denoiser in its two sizes."""

from __future__ import annotations

import torch

from manyview.nets.unet import build_unet


def count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_compact_size() -> None:
    with torch.device("meta"):
        unet = build_unet("compact", in_channels=8, latent_channels=8, context_dim=128)
    assert 4_000_000 < count(unet) < 5_000_000


@torch.no_grad()
def test_zeroed_channels_change_nothing() -> None:
    torch.manual_seed(0)
    unet = build_unet("compact", in_channels=11, latent_channels=4, context_dim=16, zero_channels=7).eval()
    picture, context = torch.randn(1, 11, 16, 16), torch.randn(1, 3, 16)
    other = picture.clone()
    other[:, 4:] = torch.randn(1, 7, 16, 16)
    answers = [unet(x, 10, encoder_hidden_states=context).sample for x in (picture, other)]
    assert answers[0].shape == (1, 4, 16, 16)
    assert torch.equal(answers[0], answers[1])
    other[:, :4] += 1  # the first four do count
    assert not torch.equal(unet(other, 10, encoder_hidden_states=context).sample, answers[0])


def test_zeroed_channels_can_still_learn() -> None:
    torch.manual_seed(0)
    unet = build_unet("compact", in_channels=3, latent_channels=2, context_dim=8, zero_channels=1)
    unet(
        torch.randn(1, 3, 8, 8), 10, encoder_hidden_states=torch.randn(1, 1, 8)
    ).sample.square().sum().backward()
    gradient = unet.conv_in.weight.grad
    assert gradient is not None
    assert float(gradient[:, 2:].abs().max()) > 0


def test_paper_preset_is_the_unet_of_stable_diffusion() -> None:
    """859,520,964 parameters and 686 tensors, as in Stable Diffusion 1 and its image variations."""
    with torch.device("meta"):
        unet = build_unet("paper", in_channels=4, latent_channels=4, context_dim=768)
    assert count(unet) == 859_520_964
    state = unet.state_dict()
    assert len(state) == 686
    shapes = {
        "conv_in.weight": (320, 4, 3, 3),
        "time_embedding.linear_1.weight": (1280, 320),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "down_blocks.2.resnets.0.conv1.weight": (1280, 640, 3, 3),
        "down_blocks.3.resnets.1.conv2.weight": (1280, 1280, 3, 3),
        "mid_block.attentions.0.proj_in.weight": (1280, 1280, 1, 1),
        "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
        "up_blocks.3.resnets.0.conv_shortcut.weight": (320, 960, 1, 1),
        "conv_out.weight": (4, 320, 3, 3),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert unet.config["cross_attention_dim"] == 768
