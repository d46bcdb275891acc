"""Where the random numbers of one plan come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastwm.planning.inputs import numbers


@dataclasses.dataclass(frozen=True)
class Draws:
    """A seed and one stream per environment: a draw is a function of (seed, stream, iteration, candidate,
    place)."""

    seed: int  # 0 .. 2^63-1
    environments: Tensor  # int64 [B], the stream of each environment, 0 .. 2^32-1
    noise: Tensor | None = None  # [iterations, B, S, T, A] standard normal draws used instead
    counters: Tensor | None = (
        None  # int64 [iterations, 2] seed and iteration, read when a kernel runs, not when it is started
    )


def make_draws(
    seed: int,
    environments: Sequence[int] | Tensor | np.ndarray | None,
    noise: Tensor | np.ndarray | None,
    shape: tuple[int, int, int, int, int],
) -> Draws:
    """Draws for candidates of `shape` (iterations, B, S, T, A).

    Raises TypeError or ValueError if `environments` is not B integers in 0 .. 2^32-1 or `noise` not finite
    numbers of that shape.
    """
    B = shape[1]
    streams = torch.as_tensor(range(B) if environments is None else environments, device="cpu")
    if streams.is_floating_point() or streams.is_complex() or streams.dtype == torch.bool:
        raise TypeError(f"environments holds {streams.dtype}, expected integers")
    if streams.shape != (B,):
        raise ValueError(f"environments has shape {tuple(streams.shape)}, expected ({B},)")
    streams = streams.to(torch.int64)
    if streams.min() < 0 or streams.max() >= 2**32:
        raise ValueError(f"environments is {streams.tolist()}, expected integers from 0 to 2^32-1")
    return Draws(seed, streams, None if noise is None else numbers("noise", noise, shape))


def seed_from(generator: int | torch.Generator) -> int:
    """A seed in 0 .. 2^63-1: the integer itself, or one drawn from a torch generator."""
    if isinstance(generator, torch.Generator):
        drawn = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
        return int(drawn)
    if isinstance(generator, bool) or not isinstance(generator, int):
        raise TypeError(
            f"generator is {type(generator).__name__}, expected an integer seed, a torch.Generator or None"
        )
    if not 0 <= generator < 2**63:
        raise ValueError(f"generator is {generator}, expected a seed from 0 to 2^63-1")
    return generator
