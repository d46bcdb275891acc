"""Distance of predicted latents to the goal, against the same line of PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from bench.options import Options
from bench.timing import against_torch
from fastwm import ops, reference

B, S, T, E = 1, 300, 5, 192


def results(options: Options) -> Iterator[dict]:
    """One line per way, of the smallest distance over the horizon; costs agree to 1e-5."""
    random = torch.Generator().manual_seed(0)
    problem = torch.randn(B, S, T, E, generator=random), torch.randn(B, E, generator=random), "squared", "min"
    expected = reference.goal_cost(*problem)
    yield from against_torch(
        functools.partial(ops.goal_cost, *problem),
        functools.partial(reference.goal_cost, *problem),
        lambda cost: torch.allclose(cost, expected, rtol=1e-5),  # type: ignore[arg-type]
        threads=options.threads,
        repeats=20 * options.repeats,
    )
