"""Linear layers, forward and backward: LeWM's projections for batches of 64 and 128 of 3 tokens, against PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from bench import gradients
from bench.options import Options
from fastwm import ops

T = 3
LAYERS = {
    "qkv": (192, 3072),
    "out": (1024, 192),
    "fc1": (192, 2048),
    "fc2": (2048, 192),
    "modulation": (192, 1152),
}


def results(options: Options) -> Iterator[dict]:
    for B in (64, 128):
        for layer, (K, N) in LAYERS.items():
            random = torch.Generator().manual_seed(0)
            inputs = [torch.randn(*shape, generator=random) for shape in ((B, T, K), (N, K), (N,))]
            ways = {"torch": F.linear, "fastwm": ops.linear}
            yield from gradients.lines(options, ways, inputs, {"model": layer, "B": B, "T": T})
