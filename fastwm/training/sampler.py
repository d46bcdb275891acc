"""Batches and random seeds as functions of (seed, step): a resumed run needs no sampler state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def batch_starts(
    windows: npt.NDArray[np.int64], batch_size: int, *, seed: int, step: int
) -> npt.NDArray[np.int64]:
    """Start rows [batch_size] of one step's sequences, uniform over `windows` with replacement."""
    return windows[np.random.default_rng((seed, step, 0)).integers(len(windows), size=batch_size)]


def step_seed(*, seed: int, step: int, rank: int = 0) -> int:
    """The seed of everything torch draws in one step on one process (projections, dropout)."""
    key = (seed, step, 1) if rank == 0 else (seed, step, 1, rank)
    return int(np.random.default_rng(key).integers(2**63))


def draws_generator(*, seed: int, step: int) -> np.random.Generator:
    """What draws a step's masks, noise and times, sample by sample."""
    return np.random.default_rng((seed, step, 2))


def evenly_spaced(windows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """At most `count` of `windows`, spread over all of them, always the same."""
    if len(windows) <= count:
        return windows
    return windows[np.arange(count) * len(windows) // count]
