"""The planner: a world model, a cost and a search become actions."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fastwm.planning.clock import Clock
from fastwm.planning.costs import Cost, Function, GoalDistance
from fastwm.planning.draws import Draws, make_draws, seed_from
from fastwm.planning.goal import GivenGoal, Goal, make_goal
from fastwm.planning.inputs import Dynamics, Observation, first_blocks, first_mean, numbers, observe
from fastwm.planning.policy import Policy, continued, propose
from fastwm.planning.sampling import Sampling
from fastwm.planning.search import Iteration, search

Fallback = Literal["warm_start", "policy", "zero"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a search found. Actions are in environment units.

    stats: "end", how the search ended: "complete", "converged", "deadline" (the next iteration would not have ended in time),
    "cut" (an iteration was cut short; its candidates count, its refit does not) or "fallback" (not one iteration fitted);
    "non_finite" int64 [B], candidates of non-finite cost over all iterations; "iteration_p50", "iteration_p99", seconds;
    "seed", which repeats the search as `generator=`; "best_cost" float32 [B], of the best candidate seen; "violation" float32
    [B] of the actions, where the cost has constraints.
    """

    actions: Tensor  # [B, T, A]
    cost: Tensor  # [B] mean cost of the last iteration's elites; infinite after a fallback
    mean: Tensor  # [B, T, A] of the final distribution
    std: Tensor  # [B, T, A]
    iterations: int  # that ran
    elapsed: float  # seconds, encoding included
    deadline_hit: bool  # the deadline ended the search early, or passed
    stats: dict[str, Any]


class Planner:
    """Plans `horizon` action blocks ahead with a compiled world model.

    cost: what to make small, a `Cost` or a function (latents [B, S, T, E], actions [B, S, T, A]) -> cost [B, S]; by default
    the distance from the last latent to the goal's. policy: proposes a share of the candidates (`policy_share`, one at
    least), and what a warm start does not reach.
    fallback: the plan when not one iteration fits the deadline: the "warm_start" (the rest of the plan before, or the mean of
    the training actions), the "policy"'s first proposal, or "zero" actions.
    seed: of the planner's own random numbers; every plan takes the next of its sequence.
    Plans may be made from several threads at once; which seed each takes is then a matter of order, so give `generator`.
    Raises TypeError or ValueError for an argument that does not fit.
    """

    def __init__(
        self,
        engine: Dynamics,
        optimizer: Sampling,
        horizon: int,
        *,
        cost: Cost | Callable[[Tensor, Tensor], Tensor] | None = None,
        policy: Policy | None = None,
        policy_share: float = 0.05,
        fallback: Fallback = "warm_start",
        seed: int = 0,
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
        if not isinstance(policy_share, (int, float)) or not 0.0 <= policy_share < 1.0:
            raise ValueError(f"policy_share is {policy_share!r}, expected 0 <= policy_share < 1")
        if fallback not in ("warm_start", "policy", "zero"):
            raise ValueError(f"fallback is {fallback!r}, expected 'warm_start', 'policy' or 'zero'")
        if policy is None and fallback == "policy":
            raise ValueError("fallback is 'policy', but there is no policy")
        if cost is not None and not callable(cost):
            raise TypeError(f"cost is {type(cost).__name__}, expected a fastwm Cost or a function")
        self.engine, self.optimizer, self.horizon = engine, optimizer, horizon
        given = GoalDistance() if cost is None else cost
        self.cost = given if isinstance(given, Cost) else Function(given)
        self.policy, self.policy_share, self.fallback = policy, policy_share, fallback
        self._seeds, self._lock = random.Random(seed), threading.Lock()
        self._pace: dict[tuple[int, int], float] = {}  # (B, K) -> seconds of one iteration, as last measured

    def next_seed(self) -> int:
        """The next seed of the planner's own sequence, 0 .. 2^63-1."""
        with self._lock:
            return self._seeds.getrandbits(63)

    def goal(self, goal: GivenGoal | Goal | None, B: int) -> Goal:
        """A goal as `plan` takes it, encoded for B environments: to be given to several plans."""
        found = make_goal(self.engine, goal, B)
        missing = [name for name in sorted(self.cost.needs) if getattr(found, name) is None]
        if missing:
            raise ValueError(f"goal has no {' and no '.join(missing)}, which the cost needs")
        return found

    @torch.no_grad()
    def plan(
        self,
        obs: Observation,
        goal: GivenGoal | Goal | None = None,
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
        goal: image(s), or latents [E] or [B, E]; or {"pixels" or "latents" [B, G, E], "state" [B, G, P]} for several goals, or
            for what a probe reads; one serves every environment. None for a cost that has no goal.
        warm_start: first mean [B, T', A], T' <= T; a Plan is shifted by one block. The rest is the policy's, or the mean of
            the training actions.
        deadline: seconds from now. No iteration starts that would likely end too late, and within one no candidates are
            started when the time has passed; `Plan.stats["end"]` says what happened.
        noise: standard normal draws [iterations, B, S, T, A] used instead of random ones.
        generator: a seed, or a torch generator to draw it from; None takes the planner's next seed.
        environments: [B] random stream of each environment, by default 0 .. B-1: a plan for one environment
            of a batch is, bit for bit, the plan for that environment alone with the same generator and stream.
        proposals: [B, n, T, A] candidates, a policy's for instance, that take the place of as many draws in every iteration.
        callback: is called with what every iteration did, before the next.

        Raises TypeError or ValueError naming an argument that does not fit, before any work, and RuntimeError
        if an iteration finds no candidate of finite cost for an environment.
        """
        clock, engine = Clock(deadline), self.engine
        context, past_actions = observe(engine, obs)  # [B, K, E], [B, K-1, A]
        B, K, _ = context.shape
        target, cost = self.goal(goal, B), self.cost.begin(B)
        mean = first_mean(engine, _blocks(warm_start), B, self.horizon)  # [B, T, A]
        tried = None if proposals is None else numbers("proposals", proposals, (B, None, *mean.shape[1:]))
        draws = self._draws(generator, environments, noise, mean)
        seeds = None
        if self.policy is not None:
            mean, seeds = self._consult(self.policy, context, past_actions, target, warm_start, draws.seed)
            tried = seeds if tried is None else torch.cat([tried, seeds], dim=1)

        def evaluate(actions: Tensor) -> Tensor:
            """[B, S, T, A] -> [B, S]"""
            latents = engine.rollout(context, actions, past_actions, keep=cost.keep, seconds=clock.left)
            return cost(latents, actions, target, threads=engine.threads)

        state, record, end = search(
            self.optimizer,
            evaluate,
            mean,
            self._first_std(warm_start, mean),
            draws,
            clock,
            fallback=self._fallback(mean, seeds),
            proposals=tried,
            callback=callback,
            expected=self._pace.get((B, K), 0.0),
            threads=engine.threads,
        )
        self._remember(clock, B, K)
        record.refuse_hopeless()
        seen = self.optimizer.return_best or not record.iterations
        actions, stats = record.best_actions if seen else self.optimizer.clip(state.mean), {}
        if cost.constrained:
            either = torch.stack([actions, record.best_actions], dim=1)  # [B, 2, T, A]
            latents = engine.rollout(context, either, past_actions, keep=cost.keep)
            actions, stats["violation"] = _least_violation(cost, latents, either)
        return Plan(
            actions=actions,
            cost=state.elite_cost,
            mean=state.mean,
            std=state.std,
            iterations=record.iterations,
            elapsed=clock.elapsed,
            deadline_hit=clock.deadline_hit,
            stats={"end": end} | record.stats() | stats | clock.stats() | {"seed": draws.seed},
        )

    def _consult(
        self,
        policy: Policy,
        context: Tensor,
        past_actions: Tensor | None,
        goal: Goal,
        warm_start: Plan | Tensor | np.ndarray | None,
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        """The policy's part of a plan: the first mean [B, T, A] and candidates [B, n, T, A]."""
        random = torch.Generator().manual_seed(seed)
        B, A = len(context), self.engine.action_dim
        begun = first_blocks(self.engine, _blocks(warm_start), B, self.horizon)
        mean = continued(policy, self.engine, context, past_actions, goal, begun, self.horizon, random)
        seeds = propose(
            policy,
            context,
            past_actions,
            goal,
            count=max(1, round(self.policy_share * self.optimizer.samples)),
            horizon=self.horizon,
            action_dim=A,
            generator=random,
        )
        return mean, seeds

    def _fallback(self, mean: Tensor, seeds: Tensor | None) -> Tensor:
        """[B, T, A], what is done when there was no time to search."""
        if self.fallback == "zero":
            mean = torch.zeros_like(mean)
        elif self.fallback == "policy":
            assert seeds is not None
            mean = seeds[:, 0]
        return self.optimizer.clip(mean)

    def _remember(self, clock: Clock, B: int, K: int) -> None:
        """What an iteration takes; an expectation that let none run shrinks, so that it is tried again."""
        known = self._pace.get((B, K), 0.0)
        self._pace[B, K] = float(np.median(clock.times)) if clock.times else 0.9 * known

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


def _least_violation(cost: Cost, latents: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Of candidates [B, 2, T, A] the one of less violation, the first if both have as much; and how much [B]."""
    violation = cost.violation(latents, actions)  # [B, 2]
    assert violation is not None
    least, which = violation.min(dim=1)
    return actions[torch.arange(len(actions)), which], least


def _blocks(warm_start: Plan | Tensor | np.ndarray | None) -> Tensor | np.ndarray | None:
    """The first mean as a tensor; a Plan's first block has been executed."""
    return warm_start.actions[:, 1:] if isinstance(warm_start, Plan) else warm_start
