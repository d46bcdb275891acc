"""The planner: a world model, a cost and a search become actions."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastwm.engine.engine import Engine
from fastwm.planning.clock import Clock
from fastwm.planning.costs import Cost, GoalDistance
from fastwm.planning.draws import Draws, make_draws, seed_from
from fastwm.planning.inputs import Observation, first_mean, goal_latent, numbers, observe
from fastwm.planning.record import Record
from fastwm.planning.sampling import Sampling, State


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a search found. Actions are in environment units.

    stats: "non_finite" int64 [B], candidates of non-finite cost over all iterations; "iteration_p50",
    "iteration_p99", seconds; "seed", which repeats the search as `generator=`; "best_cost" float32 [B], of
    the best candidate seen.
    """

    actions: Tensor  # [B, T, A]
    cost: Tensor  # [B] mean cost of the last iteration's elites
    mean: Tensor  # [B, T, A] of the final distribution
    std: Tensor  # [B, T, A]
    iterations: int  # that ran
    elapsed: float  # seconds, encoding included
    deadline_hit: bool  # the deadline ended the search early, or passed
    stats: dict[str, Any]


class Iteration(NamedTuple):
    """What a callback sees: candidates [B, S, T, A], their cost [B, S], and the search after them."""

    number: int
    actions: Tensor
    cost: Tensor
    state: State


class Planner:
    """Plans `horizon` action blocks ahead with a compiled world model.

    cost: what to make small. seed: of the planner's own random numbers; every plan takes the next of its
    sequence.
    Raises ValueError unless horizon is a positive integer.
    """

    def __init__(
        self, engine: Engine, optimizer: Sampling, horizon: int, *, cost: Cost | None = None, seed: int = 0
    ) -> None:
        for name, value, methods in (
            ("engine", engine, ("encode", "rollout")),
            ("optimizer", optimizer, ("sample", "update")),
        ):
            if isinstance(value, nn.Module) or not all(callable(getattr(value, m, None)) for m in methods):
                raise TypeError(
                    f"{name} is {type(value).__name__}, expected one with {' and '.join(methods)}"
                )
        if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
            raise ValueError(f"horizon is {horizon!r}, expected an integer of at least 1")
        self.engine, self.optimizer, self.horizon = engine, optimizer, horizon
        self.cost = GoalDistance() if cost is None else cost
        if not isinstance(self.cost, Cost):
            raise TypeError(f"cost is {type(cost).__name__}, expected a fastwm Cost")
        self._seeds = random.Random(seed)

    def next_seed(self) -> int:
        """The next seed of the planner's own sequence, 0 .. 2^63-1."""
        return self._seeds.getrandbits(63)

    @torch.no_grad()
    def plan(
        self,
        obs: Observation,
        goal: Tensor | np.ndarray,
        *,
        warm_start: Plan | Tensor | np.ndarray | None = None,
        deadline: float | None = None,
        noise: Tensor | np.ndarray | None = None,
        generator: int | torch.Generator | None = None,
        environments: Sequence[int] | Tensor | None = None,
        proposals: Tensor | np.ndarray | None = None,
        callback: Callable[[Iteration], object] | None = None,
    ) -> Plan:
        """Search for the actions of lowest cost from each observation.

        obs: image(s) that `engine.encode` takes, or {"pixels" or "latents" [B, K, E], "past_actions" [B, K-1, A]}.
        goal: image(s), or latents [E] or [B, E]; one goal serves every environment.
        warm_start: first mean [B, T', A], T' <= T; a Plan is shifted by one block. The rest is the training actions' mean.
        deadline: seconds from now. At least one iteration runs; none starts that would likely end too late.
        noise: standard normal draws [iterations, B, S, T, A] used instead of random ones.
        generator: a seed, or a torch generator to draw it from; None takes the planner's next seed.
        environments: [B] random stream of each environment, by default 0 .. B-1: a plan for one environment
        of a batch is, bit for bit, the plan for that environment alone with the same generator and stream.
        proposals: [B, n, T, A] candidates, a policy's for instance, that take the place of as many draws in every iteration.
        callback: is called with what every iteration did, before the next.

        Raises TypeError or ValueError naming an argument that does not fit, before any work, and RuntimeError
        if an iteration finds no candidate of finite cost for an environment.
        """
        clock, search, engine, threads = Clock(deadline), self.optimizer, self.engine, self.engine.threads
        context, past_actions = observe(engine, obs)  # [B, K, E], [B, K-1, A]
        target = goal_latent(engine, goal, len(context))  # [B, E]
        mean = first_mean(engine, _blocks(warm_start), len(context), self.horizon)  # [B, T, A]
        first_std = std = self._first_std(warm_start, mean)  # [B, T, A]
        tried = (
            None if proposals is None else numbers("proposals", proposals, (len(mean), None, *mean.shape[1:]))
        )
        draws = self._draws(generator, environments, noise, mean)
        record = Record(mean)
        state: State | None = None
        active: Tensor | None = None  # [B] environments whose search goes on; None: of all
        for iteration in clock.iterations(search.iterations):
            before = (mean, std) if state is None else state
            actions = search.sample(
                before, draws, iteration, proposals=tried, threads=threads
            )  # [B, S, T, A]
            latents = engine.rollout(context, actions, past_actions, keep=self.cost.keep)  # [B, S, (T,) E]
            cost = self.cost(latents, actions, target, threads=threads)  # [B, S]
            after = search.update(before, actions, cost, threads=threads)
            record.add(actions, cost, after, active)
            state = after if active is None or state is None else _where(active, after, state)
            if callback is not None:
                callback(Iteration(iteration, actions, cost, state))
            if search.tolerance:
                active = ~search.converged(state, first_std)
                if not active.any():
                    break
        assert state is not None
        record.refuse_hopeless()
        return Plan(
            actions=record.best_actions if search.return_best else state.mean,
            cost=state.elite_cost,
            mean=state.mean,
            std=state.std,
            iterations=len(clock.times),
            elapsed=clock.elapsed,
            deadline_hit=clock.deadline_hit,
            stats=record.stats() | clock.stats() | {"seed": draws.seed},
        )

    def _first_std(self, warm_start: object, mean: Tensor) -> Tensor:
        std = (self.optimizer.std * self.engine.action_std).expand_as(mean)
        if not (self.optimizer.warm_std and isinstance(warm_start, Plan)):
            return std
        rest = warm_start.std[:, 1:]
        return torch.cat([rest, std[:, rest.shape[1] :]], dim=1)

    def _draws(
        self,
        generator: int | torch.Generator | None,
        environments: Sequence[int] | Tensor | None,
        noise: Tensor | np.ndarray | None,
        mean: Tensor,
    ) -> Draws:
        seed = self.next_seed() if generator is None else seed_from(generator)
        B, T, A = mean.shape
        return make_draws(
            seed, environments, noise, (self.optimizer.iterations, B, self.optimizer.samples, T, A)
        )


def _where(active: Tensor, after: State, before: State) -> State:
    """Of each environment the state after an iteration if it is active, else the one before."""

    def choose(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(active.view(-1, *[1] * (new.dim() - 1)), new, old)

    chosen = [
        None if new is None or old is None else choose(new, old)
        for new, old in zip(after, before, strict=True)
    ]
    return State(*chosen)  # type: ignore[arg-type]


def _blocks(warm_start: Plan | Tensor | np.ndarray | None) -> Tensor | np.ndarray | None:
    """The first mean as a tensor; a Plan's first block has been executed."""
    return warm_start.actions[:, 1:] if isinstance(warm_start, Plan) else warm_start
