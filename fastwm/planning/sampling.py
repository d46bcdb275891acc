"""What every search by sampling shares: candidates around a mean, and the options of drawing them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from fastwm import ops
from fastwm.planning import noise
from fastwm.planning.draws import Draws

CPU = torch.device("cpu")
Bound = float | tuple[float, ...] | None  # a number, or one per dimension of an action


class Best(NamedTuple):
    """The cheapest candidate of several iterations."""

    cost: Tensor  # [B], infinity before there is one
    actions: Tensor  # [B, T, A]


class State(NamedTuple):
    """A search between two iterations, and what is known of the candidates of the last one."""

    mean: Tensor  # [B, T, A]
    std: Tensor  # [B, T, A]
    elites: Tensor  # int64 [B, k] candidates, best first
    elite_cost: Tensor  # [B] mean over those of finite cost
    non_finite: Tensor  # int64 [B] how many costs were not finite
    kept: Tensor | None = None  # [B, n, T, A] candidates that are tried again
    memory: tuple[Tensor, ...] = ()  # [B, ...] each: what else a search of its own kind carries on
    best: Best | None = None  # ever seen, if `update` is to keep it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Candidates ~ N(mean, std), candidate 0 = mean. A search adds `update`: how costs change the mean and the std.

    std: of the first iteration, in standard deviations of the model's training actions. min_std, max_std: floor and ceiling
    of the std after an iteration, environment units.
    low, high: bounds of the actions in environment units, a number or one per dimension of an action (a block of several
    actions repeats them); None leaves candidates unclipped.
    steps: environment steps in an action block, each with its own action. hold: how many steps, one after another over the
    horizon, share one draw; hold = steps repeats an action over its block.
    correlation: of the noise from one draw to the next, 0 .. 1; or noise_exponent: of its power over frequency, 0 is white,
    2 red (fastwm/planning/noise.py). Not both.
    momentum: the next mean and std = momentum * the last ones + (1 - momentum) * what the candidates say, 0 .. 1.
    keep: of the best candidates of an iteration, how many the next one tries again.
    decay: the number of candidates is divided by it after every iteration, 1 keeps it.
    tolerance: an environment's search has converged, and stays as it is, once every std is at most this share of the first
    one; 0 never. return_best: plan the best candidate ever seen instead of the final mean.
    warm_std: a warm start from a Plan takes its std, too, shifted as its actions are.
    """

    if TYPE_CHECKING:  # declared by the searches, so that their order is the search's own
        samples: int
        iterations: int

    gradients: ClassVar[bool] = False  # whether `update` is given the gradient of the costs

    @property
    def captured(self) -> bool:
        """Whether a CUDA graph can hold it."""
        return not self.gradients

    std: float = 1.0
    min_std: float = 0.0
    max_std: float = math.inf
    low: float | Sequence[float] | None = None
    high: float | Sequence[float] | None = None
    steps: int = 1
    hold: int = 1
    correlation: float = 0.0
    noise_exponent: float = 0.0
    momentum: float = 0.0
    keep: int = 0
    decay: float = 1.0
    tolerance: float = 0.0
    return_best: bool = False
    warm_std: bool = False

    def __post_init__(self) -> None:
        self._integers("samples", "iterations", "steps", "hold")
        self._integers("keep", least=0)
        self._ranges(
            std=math.inf,
            min_std=math.inf,
            correlation=1.0,
            noise_exponent=math.inf,
            tolerance=1.0,
            momentum=1.0,
        )
        for name in ("low", "high"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if self.low is not None and self.high is not None and not _in_order(self.low, self.high):
            raise ValueError(f"low is {self.low} and high is {self.high}, expected low <= high")
        if not self.max_std >= self.min_std:
            raise ValueError(f"max_std is {self.max_std!r}, expected at least min_std = {self.min_std}")
        if self.correlation and self.noise_exponent:
            raise ValueError(
                f"correlation is {self.correlation} and noise_exponent {self.noise_exponent}, expected one of them"
            )
        if not isinstance(self.decay, (int, float)) or not 1.0 <= self.decay < math.inf:
            raise ValueError(f"decay is {self.decay!r}, expected a number of at least 1")
        fewest = self.population(self.iterations - 1)
        if self.keep >= fewest:
            raise ValueError(f"keep is {self.keep}, expected less than {fewest}, the fewest candidates")

    def _integers(self, *names: str, least: int = 1) -> None:
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}, expected an integer of at least {least}")

    def _ranges(self, **ends: float) -> None:
        for name, end in ends.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < end:
                raise ValueError(f"{name} is {value!r}, expected 0 <= {name} < {end}")

    def _unused(self, *names: str) -> None:
        """Raise ValueError for options that say nothing of this search."""
        defaults = {field.name: field.default for field in dataclasses.fields(Sampling)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, expected none: {type(self).__name__} has no use for it"
                )

    @property
    def least(self) -> int:
        """The fewest candidates that an iteration may have."""
        return 1

    def population(self, iteration: int) -> int:
        """Candidates of an iteration."""
        return max(self.least, int(self.samples * self.decay**-iteration))

    def start(self, mean: Tensor, std: Tensor) -> State:
        """The state before the first iteration, of mean and std [B, T, A]."""
        none = torch.zeros(len(mean), dtype=torch.int64, device=mean.device)
        return State(mean, std, none[:, None][:, :0], mean.new_full((len(mean),), math.inf), none)

    def sample(
        self,
        state: State,
        draws: Draws,
        iteration: int,
        *,
        proposals: Tensor | None = None,
        threads: int = 1,
    ) -> Tensor:
        """Candidates [B, S, T, A]: the mean, those kept, `proposals` [B, n, T, A], and draws."""
        samples = self.population(iteration)
        more = [given for given in (state.kept, proposals) if given is not None]
        injected = torch.cat(more, dim=1)[:, : samples - 1] if more else None
        return self.draw(state.mean, state.std, samples, draws, iteration, injected=injected, threads=threads)

    def draw(
        self,
        mean: Tensor,
        std: Tensor,
        samples: int,
        draws: Draws,
        iteration: int,
        *,
        injected: Tensor | None = None,
        threads: int = 1,
    ) -> Tensor:
        """[B, samples, T, A] around mean and std [B, T, A], within bounds; the first is the mean, the next are those injected,
        [B, I, T, A], I < samples."""
        low, high = cast("Bound", self.low), cast("Bound", self.high)  # since __post_init__
        return self._drawn(mean, std, samples, draws, iteration, low, high, injected, threads)

    def deviates(
        self, mean: Tensor, samples: int, draws: Draws, iteration: int, *, threads: int = 1
    ) -> Tensor:
        """[B, samples, T, A] for a mean [B, T, A]: as `draw` draws, but of mean 0, std 1 and no bounds; the first is 0."""
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        return self._drawn(zero, one, samples, draws, iteration, None, None, None, threads)

    def _drawn(
        self,
        mean: Tensor,
        std: Tensor,
        samples: int,
        draws: Draws,
        iteration: int,
        low: Bound,
        high: Bound,
        injected: Tensor | None,
        threads: int,
    ) -> Tensor:
        B, T, A = mean.shape
        if A % self.steps:
            raise ValueError(
                f"steps is {self.steps}, expected a divisor of {A}, the numbers in an action block"
            )
        flat = (T * self.steps, A // self.steps)  # one row for each environment step
        given = None if draws.noise is None else draws.noise[iteration][:, :samples]
        if injected is not None:
            injected = injected.reshape(B, injected.shape[1], *flat) if injected.shape[1] else None
        actions = ops.cem_sample(
            mean.reshape(B, *flat),
            std.reshape(B, *flat),
            samples,
            draws.seed,
            iteration,
            stream=draws.environments,
            noise=None if given is None else given.reshape(B, samples, *flat),
            low=_bound("low", low, flat[1], mean.device, flat[0]),
            high=_bound("high", high, flat[1], mean.device, flat[0]),
            factor=self.factor(flat[0], mean.device),
            injected=injected,
            counter=None if draws.counters is None else draws.counters[iteration],
            threads=threads,
        )
        return actions.view(B, samples, T, A)

    def factor(self, count: int, device: torch.device = CPU) -> Tensor | None:
        """Factor [count, count] of the noise's covariance over as many environment steps; None: they are independent."""
        return _factor(count, self.hold, self.correlation, self.noise_exponent, device)

    def clip(self, actions: Tensor) -> Tensor:
        """[..., A] within the bounds."""
        A = actions.shape[-1]
        low, high = (_bound(name, getattr(self, name), A, actions.device) for name in ("low", "high"))
        return actions if low is None and high is None else torch.clamp(actions, low, high)

    def update(
        self,
        state: State,
        actions: Tensor,
        cost: Tensor,
        *,
        gradient: Tensor | None = None,
        threads: int = 1,
    ) -> State:
        """actions [B, S, T, A], cost [B, S] -> the next mean and std. gradient [B, S, T, A] of the costs if `gradients`."""
        raise NotImplementedError

    def ranked(
        self,
        state: State,
        actions: Tensor,
        cost: Tensor,
        elites: int,
        *,
        momentum: float = 0.0,
        threads: int = 1,
    ) -> State:
        """The state refitted to the elites, with the candidates to keep and the best seen if it is kept."""
        mean, std = state.mean, state.std
        if momentum:  # a first mean from outside the bounds must not hold the next ones there
            mean = self.clip(mean)
        best_cost, best_actions = state.best or (None, None)
        mean, std, chosen, elite_cost, non_finite, *seen = ops.cem_update(
            actions,
            cost,
            mean,
            std,
            elites,
            momentum=momentum,
            min_std=self.min_std,
            best_cost=best_cost,
            best_actions=best_actions,
            threads=threads,
        )
        after = State(mean, std, chosen, elite_cost, non_finite, best=Best(*seen) if seen else None)
        if self.max_std < math.inf:
            after = after._replace(std=after.std.clamp(max=self.max_std))
        return after._replace(kept=best(actions, after.elites[:, : self.keep])) if self.keep else after

    def converged(self, state: State, first: State) -> Tensor:
        """Which environments' searches have narrowed to `tolerance`: bool [B]."""
        return (state.std <= self.tolerance * first.std).flatten(1).all(1)


def choose(environments: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """[B, ...]: of each environment in the mask bool [B] the new numbers, of the others the old."""
    return torch.where(environments.view(-1, *[1] * (new.dim() - 1)), new, old)


def best(actions: Tensor, chosen: Tensor) -> Tensor:
    """actions [B, S, T, A], chosen int64 [B, n] -> [B, n, T, A]"""
    return actions.gather(1, chosen[:, :, None, None].expand(-1, -1, *actions.shape[2:]))


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
    lows, highs = (torch.tensor(bound, device="cpu") for bound in (low, high))
    if lows.dim() and highs.dim() and len(lows) != len(highs):
        raise ValueError(f"low has {len(lows)} numbers and high {len(highs)}, expected as many")
    return bool((lows <= highs).all())


# Kept for good: a captured CUDA graph goes on reading what it was captured with.
@functools.cache
def _bound(name: str, bound: Bound, A: int, device: torch.device, steps: int | None = None) -> Tensor | None:
    """The bound as a tensor [A]; [steps, A] is what a kernel reads, and spares it a copy in every iteration."""
    if bound is None:
        return None
    numbers = torch.tensor(bound, dtype=torch.float32, device="cpu").reshape(-1)
    if A % len(numbers):
        raise ValueError(
            f"{name} has {len(numbers)} numbers, expected 1 or a divisor of {A}, the numbers in an action block"
        )
    numbers = numbers.repeat(A // len(numbers))
    return (numbers if steps is None else numbers.repeat(steps, 1)).to(device)


@functools.cache
def _factor(
    count: int, hold: int, correlation: float, exponent: float, device: torch.device
) -> Tensor | None:
    draws = -(-count // hold)
    if correlation:
        factor = noise.autoregressive(draws, correlation)
    elif exponent:
        factor = noise.power_law(draws, exponent)
    elif hold > 1:
        factor = torch.eye(draws, dtype=torch.float32, device="cpu")
    else:
        return None
    return (factor if hold == 1 else noise.held(factor, hold, count)).to(device)
