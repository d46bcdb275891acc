"""Refit of the distribution to the elites, against topk, gather, mean and std in PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from bench.options import Options
from bench.timing import against_torch
from fastwm import ops, reference

B, S, T, A, ELITES = 1, 300, 5, 10, 30


def results(options: Options) -> Iterator[dict]:
    """One line per way. The kernel's mean and std are the reference's to the bit."""
    random = torch.Generator().manual_seed(0)
    actions, cost = torch.randn(B, S, T, A, generator=random), torch.randn(B, S, generator=random)
    problem = actions, cost, torch.zeros(B, T, A), torch.ones(B, T, A), ELITES
    expected = reference.cem_update(*problem)

    def plain() -> tuple[torch.Tensor, torch.Tensor]:
        elites = actions[0, cost[0].topk(ELITES, largest=False).indices]
        return elites.mean(0), elites.std(0)

    yield from against_torch(
        functools.partial(ops.cem_update, *problem),
        plain,
        lambda update: all(map(torch.equal, update, expected)),  # type: ignore[call-overload]
        threads=options.threads,
        repeats=20 * options.repeats,
    )
