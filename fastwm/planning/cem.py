"""The cross-entropy method: sample around a mean, keep the best, refit.

Rubinstein, "The cross-entropy method for combinatorial and continuous optimization", 1999. With the defaults,
the algorithm of stable-worldmodel's `CEMSolver`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastwm import ops
from fastwm.planning.draws import Draws


class Update(NamedTuple):
    """The distribution after an iteration, and what is known of the candidates that made it."""

    mean: Tensor  # [B, T, A]
    std: Tensor  # [B, T, A]
    elites: Tensor  # [B, elites] candidate indices, best first
    elite_cost: Tensor  # [B] mean over the elites of finite cost
    non_finite: Tensor  # [B] how many costs were not finite


@dataclasses.dataclass(frozen=True)
class CEM:
    """Candidates ~ N(mean, std), candidate 0 = mean; new mean and std = those of the elites (std unbiased, 0
    for one elite).

    samples: S, candidates per iteration. elites: how many of lowest cost refit the distribution.
    std: of the first iteration, in standard deviations of the model's training actions.
    momentum: new = momentum * old + (1 - momentum) * elites'. min_std: floor of the std, environment units.
    low, high: bounds of the actions in environment units, a number or one per dimension of an action (a block
    of several actions repeats them); None leaves candidates unclipped. correlation: of the noise from one
    block to the next, 0 .. 1.
    return_best: plan the best candidate ever seen instead of the final mean.
    """

    samples: int = 300
    elites: int = 30
    iterations: int = 30
    std: float = 1.0
    momentum: float = 0.0
    min_std: float = 0.0
    low: float | Sequence[float] | None = None
    high: float | Sequence[float] | None = None
    correlation: float = 0.0
    return_best: bool = False

    def __post_init__(self) -> None:
        for name in ("samples", "elites", "iterations"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected an integer of at least 1")
        if self.elites > self.samples:
            raise ValueError(f"elites is {self.elites}, expected at most samples = {self.samples}")
        ranges = {"std": math.inf, "momentum": 1.0, "min_std": math.inf, "correlation": 1.0}
        for name, end in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < end:
                raise ValueError(f"{name} is {value!r}, expected 0 <= {name} < {end}")
        for name in ("low", "high"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if self.low is not None and self.high is not None and not _in_order(self.low, self.high):
            raise ValueError(f"low is {self.low} and high is {self.high}, expected low <= high")

    def sample(self, mean: Tensor, std: Tensor, draws: Draws, iteration: int, *, threads: int = 1) -> Tensor:
        """mean, std [B, T, A] -> candidates [B, S, T, A]"""
        A = mean.shape[-1]
        return ops.cem_sample(
            mean,
            std,
            self.samples,
            draws.seed,
            iteration,
            stream=draws.environments,
            noise=None if draws.noise is None else draws.noise[iteration],
            low=_bound("low", self.low, A),
            high=_bound("high", self.high, A),
            correlation=self.correlation,
            threads=threads,
        )

    def update(self, mean: Tensor, std: Tensor, actions: Tensor, cost: Tensor, *, threads: int = 1) -> Update:
        """mean, std [B, T, A], actions [B, S, T, A], cost [B, S] -> the distribution refitted to the
        elites"""
        if self.momentum:  # a first mean from outside the bounds must not hold the next ones there
            mean = self._clip(mean)
        return Update(
            *ops.cem_update(
                actions,
                cost,
                mean,
                std,
                self.elites,
                momentum=self.momentum,
                min_std=self.min_std,
                threads=threads,
            )
        )

    def _clip(self, mean: Tensor) -> Tensor:
        low, high = (_bound(name, getattr(self, name), mean.shape[-1]) for name in ("low", "high"))
        return mean if low is None and high is None else torch.clamp(mean, low, high)


def _numbers(name: str, bound: float | Sequence[float] | None) -> float | tuple[float, ...] | None:
    if bound is None:
        return None
    if isinstance(bound, (bool, str)):
        raise TypeError(f"{name} is {bound!r}, expected a number, a sequence of numbers or None")
    try:
        numbers = (float(bound),) if isinstance(bound, (int, float)) else tuple(float(x) for x in bound)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {bound!r}, expected a number, a sequence of numbers or None") from error
    if not numbers or any(math.isnan(x) for x in numbers):
        raise ValueError(f"{name} is {bound!r}, expected at least one number and no NaN")
    unreachable = math.inf if name == "low" else -math.inf
    if unreachable in numbers:
        raise ValueError(f"{name} is {bound!r}, expected no {unreachable}")
    return numbers[0] if len(numbers) == 1 else numbers


def _in_order(low: float | Sequence[float], high: float | Sequence[float]) -> bool:
    lows, highs = torch.tensor(low), torch.tensor(high)
    if lows.dim() and highs.dim() and len(lows) != len(highs):
        raise ValueError(f"low has {len(lows)} numbers and high {len(highs)}, expected as many")
    return bool((lows <= highs).all())


def _bound(name: str, bound: float | Sequence[float] | None, A: int) -> Tensor | None:
    """The bound as a tensor [A]."""
    if bound is None:
        return None
    numbers = torch.tensor(bound, dtype=torch.float32).reshape(-1)
    if A % len(numbers):
        raise ValueError(
            f"{name} has {len(numbers)} numbers, expected 1 or a divisor of {A}, the numbers in an action block"
        )
    return numbers.repeat(A // len(numbers))
