"""Candidates drawn from counters, against torch.randn scaled and shifted."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from bench.options import Options
from bench.timing import against_torch
from fastwm import ops, reference

B, S, T, A = 1, 300, 5, 10


def results(options: Options) -> Iterator[dict]:
    """One line per way. The kernel's candidates are the reference's to the bit; PyTorch's are others."""
    mean, std = torch.zeros(B, T, A), torch.ones(B, T, A)
    expected = reference.cem_sample(mean, std, S, 0, 0)
    yield from against_torch(
        functools.partial(ops.cem_sample, mean, std, S, 0, 0),
        lambda: mean[:, None] + std[:, None] * torch.randn(B, S, T, A),
        lambda actions: torch.equal(actions, expected),  # type: ignore[arg-type]
        threads=options.threads,
        repeats=20 * options.repeats,
    )
