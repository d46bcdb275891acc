"""AdaLN, forward and backward: 3 tokens of LeWM's width for batches of 64 and 128, against the same lines of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench import gradients
from bench.options import Options
from fastwm import ops, reference

T, W = 3, 192


def results(options: Options) -> Iterator[dict]:
    for B in (64, 128):
        random = torch.Generator().manual_seed(0)
        inputs = [torch.randn(B, T, W, generator=random) for _ in range(3)]
        inputs += [torch.randn(W, generator=random) for _ in range(2)]
        ways = {"torch": reference.adaln, "fastwm": ops.adaln}
        if options.compiled:
            ways["torch.compile"] = torch.compile(reference.adaln, dynamic=False)
        yield from gradients.lines(options, ways, inputs, {"B": B, "T": T})
