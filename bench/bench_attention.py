"""Causal attention of small windows, forward and backward: LeWM's 3 tokens and others, against PyTorch's fused one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import gradients
from bench.options import Options
from fastwm import ops

H, D = 16, 64


def pytorch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def results(options: Options) -> Iterator[dict]:
    for B, T in ((64, 3), (128, 3), (64, 8), (64, 16), (64, 32)):
        random = torch.Generator().manual_seed(0)
        inputs = [torch.randn(B, T, H, D, generator=random) for _ in range(3)]
        ways = {"torch": pytorch, "fastwm": ops.attention}
        if options.compiled:
            ways["torch.compile"] = torch.compile(pytorch, dynamic=False)
        yield from gradients.lines(options, ways, inputs, {"B": B, "T": T})
