"""Which implementation of attention a training step takes."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def attention_kernels(device: torch.device) -> AbstractContextManager[object]:
    """A context for steps on `device`: torch's own choice, but on a CPU plain matrix products.

    On a CPU the fused kernel's backward pass is slow for the few tokens that small networks have: without it
    steps of the compact orbit network (16 frames, 64 tokens each) take a third less time. It saves memory
    only where there are thousands of tokens, which nobody trains on a CPU.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
