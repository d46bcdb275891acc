"""The planner: a world model, a cost and a search become actions."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from fastwm.engine.ensemble import Ensemble
from fastwm.engine.replicas import Replicas
from fastwm.planning.arrays import Arrays
from fastwm.planning.clock import Clock
from fastwm.planning.costs import Cost, Function, GoalDistance
from fastwm.planning.draws import Draws, make_draws, seed_from
from fastwm.planning.function import FunctionDynamics
from fastwm.planning.goal import GivenGoal, Goal, make_goal
from fastwm.planning.inputs import Dynamics, Observation, numbers, observe
from fastwm.planning.plan import Plan
from fastwm.planning.policy import Policy, continued, propose
from fastwm.planning.recommended import SEARCH_OPTIONS, recommended_search
from fastwm.planning.sampling import Sampling, best
from fastwm.planning.search import Iteration, Propose
from fastwm.planning.shared_out import SharedSolver
from fastwm.planning.solve import Problem, Solver
from fastwm.planning.warm_start import WarmStart, first_blocks, first_kept, first_mean, first_std

Fallback = Literal["warm_start", "policy", "zero"]


class Planner:
    """Plans `horizon` action blocks ahead with a compiled world model.

    engine: of `fastwm.compile`, an `Ensemble`, `Replicas` on several devices, or a `FunctionDynamics`. optimizer: the search,
    `CEM` for instance.
    cost: what to make small, a `Cost` or a function (latents [B, S, T, E], actions [B, S, T, A]) -> cost [B, S]; by default
    the distance from the last latent to the goal's. Where it has constraints, the plan is the cheaper of the final mean and
    the best candidate seen. An Ensemble needs a `Risk`: what its members' costs become is to be said.
    policy: proposes a share of the candidates (`policy_share`, one at least), and what a warm start does not reach.
    propose_in: "every" iteration tries all proposals again, beside what has become of them (TD-MPC2, arXiv:2310.16828), or the
    "first" alone, after which all candidates are draws around the best. Some searches propose in the first alone anyway:
    those that descend from their candidates, and `MixtureCEM`.
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
        propose_in: Propose = "every",
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
        if propose_in not in get_args(Propose):
            raise ValueError(f"propose_in is {propose_in!r}, expected 'every' or 'first'")
        if fallback not in ("warm_start", "policy", "zero"):
            raise ValueError(f"fallback is {fallback!r}, expected 'warm_start', 'policy' or 'zero'")
        if policy is None and fallback == "policy":
            raise ValueError("fallback is 'policy', but there is no policy")
        if cost is not None and not callable(cost):
            raise TypeError(f"cost is {type(cost).__name__}, expected a fastwm Cost or a function")
        self.engine, self.optimizer, self.horizon = engine, optimizer, horizon
        given = GoalDistance() if cost is None else cost
        self.cost = given if isinstance(given, Cost) else Function(given)
        ensemble = isinstance(engine, Ensemble)
        if not self.cost.fits(ensemble):
            made, expected = ("an", "a fastwm.Risk of it") if ensemble else ("no", "one of a single model")
            raise ValueError(f"cost is {self.cost}, but engine is {made} Ensemble, expected {expected}")
        self.policy, self.policy_share, self.fallback = policy, policy_share, fallback
        engines = engine.engines if isinstance(engine, Replicas) else (engine,)
        self.propose_in = propose_in
        solvers = [Solver(one, self.optimizer, self.cost, propose_in) for one in engines]
        self._solver = SharedSolver(solvers) if isinstance(engine, Replicas) else solvers[0]
        self._seeds, self._lock = random.Random(seed), threading.Lock()
        self._pace: dict[tuple[int, int], float] = {}  # (B, K) -> seconds of one iteration, as last measured
        self._consultation: dict[tuple[int, int], float] = {}  # the same of all that a policy is asked

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("engine", "optimizer", "cost", "propose_in") and name in self.__dict__:
            raise AttributeError(f"{name} of a Planner cannot be changed: make another Planner")
        super().__setattr__(name, value)

    @classmethod
    def recommended(
        cls,
        engine: Dynamics,
        *,
        low: float | Sequence[float] | None = None,
        high: float | Sequence[float] | None = None,
        horizon: int = 16,
        cost: Cost | Callable[[Tensor, Tensor], Tensor] | None = None,
        **options: Any,
    ) -> Planner:
        """What reaches goals with few candidates: `recommended_search`, a long horizon, the closest point of the path.

        low, high: bounds of an environment step's action; give them where there are some, as a model is wrong outside of
        what it was trained on. cost: by default GoalDistance(reduce="min"), as the last step's distance puts arriving off
        for ever where the horizon recedes. options: any other of `CEM`, such as samples=64, and of the planner.
        """
        changes = {name: options.pop(name) for name in SEARCH_OPTIONS & options.keys()}
        method = recommended_search(engine, low=low, high=high, **changes)
        return cls(
            engine, method, horizon, cost=GoalDistance(reduce="min") if cost is None else cost, **options
        )

    @classmethod
    def from_function(
        cls,
        step: Callable[[Any, Any], Any],
        cost: Cost | Callable[[Any, Any], Any] | None,
        optimizer: Sampling,
        horizon: int,
        *,
        state_dim: int,
        action_dim: int,
        arrays: Arrays = "torch",
        action_mean: float | Sequence[float] = 0.0,
        action_std: float | Sequence[float] = 1.0,
        **options: Any,
    ) -> Planner:
        """A planner for dynamics that are a function: step(states [N, D], actions [N, A]) -> next states [N, D].

        cost: a function (states [B, S, T, D] after each action, actions [B, S, T, A]) -> cost [B, S], of arrays as `step`'s; a
        `Cost`; or None, the squared distance from the last state to the goal's.
        state_dim: D. action_dim: A. arrays: "torch", "numpy" or "jax"; this and the other arguments are those of
        `FunctionDynamics`; options: the planner's own.
        """
        dynamics = FunctionDynamics(
            step,
            state_dim=state_dim,
            action_dim=action_dim,
            arrays=arrays,
            action_mean=action_mean,
            action_std=action_std,
        )
        return cls(dynamics, optimizer, horizon, cost=dynamics.cost(cost), **options)

    def __repr__(self) -> str:
        return f"Planner({self.engine}, {self.optimizer}, horizon={self.horizon}, cost={self.cost})"

    @property
    def model(self) -> Dynamics:
        """The engine, of an ensemble its first member: what predicts one future."""
        return self.engine.engines[0] if isinstance(self.engine, Ensemble) else self.engine

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
        warm_start: Plan | WarmStart | Tensor | np.ndarray | None = None,
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
        warm_start: first mean [B, T', A], T' <= T; a Plan is shifted by one block and gives its std and kept candidates, too
            (see `WarmStart`). The rest is the policy's, or the mean of the training actions.
        deadline: seconds from now. No iteration starts that would likely end too late, and within one no candidates are
            started when the time has passed; `Plan.stats["end"]` says what happened.
        noise: standard normal draws [iterations, B, S, T, A] used instead of random ones.
        generator: a seed, or a torch generator to draw it from; None takes the planner's next seed.
        environments: [B] random stream of each environment, by default 0 .. B-1: a plan for one environment
            of a batch is, bit for bit, the plan for that environment alone with the same generator and stream.
        proposals: [B, n, T, A] candidates, a policy's for instance, that take the place of as many draws in every iteration (or
            in the first: `propose_in`).
        callback: is called with what every iteration did, before the next.

        Raises TypeError or ValueError naming an argument that does not fit, before any work, and RuntimeError
        if an iteration finds no candidate of finite cost for an environment.
        """
        clock, engine = Clock(deadline), self.engine
        if self.optimizer.gradients and torch.is_inference_mode_enabled():
            raise RuntimeError(
                f"{type(self.optimizer).__name__} needs gradients, which inference mode forbids"
            )
        context, past_actions = observe(engine, obs)  # [B, K, E], [B, K-1, A]
        B, K, _ = context.shape
        target = self.goal(goal, B)
        start = WarmStart.of(warm_start)
        begun = first_blocks(engine, start, B, self.horizon)  # [B, T', A]
        mean = first_mean(engine, begun, self.horizon)  # [B, T, A]
        tried = None if proposals is None else numbers("proposals", proposals, (B, None, *mean.shape[1:]))
        draws = self._draws(generator, environments, noise, mean)
        std = (self.optimizer.std * engine.action_std).expand_as(mean)
        seeds = None
        if self.policy is not None:
            mean, seeds = self._consult(self.policy, context, past_actions, target, begun, draws.seed, clock)
            tried = seeds if tried is None else torch.cat([tried, seeds], dim=1)

        state, record, end, graph = self._solver.solve(
            Problem(
                context, past_actions, target.latents, target.state, target.reached,
                mean=mean,
                std=first_std(start if self.optimizer.warm_std else None, std),
                fallback=self._fallback(mean, seeds),
                proposals=tried,
                kept=first_kept(start, mean) if self.optimizer.keep else None,
                environments=draws.environments,
                noise=draws.noise,
            ),
            draws.seed,
            clock,
            callback=callback,
            expected=self._pace.get((B, K), 0.0),
        )  # fmt: skip
        self._remember(clock, B, K)
        record.refuse_hopeless()
        seen = self.optimizer.return_best or not record.iterations
        final = self.optimizer.clip(state.mean)  # [B, T, A]
        actions, stats = record.best_actions if seen else final, {}
        if self.cost.constrained:
            either = torch.stack([final, record.best_actions], dim=1)  # [B, 2, T, A]
            either = either if record.iterations else either[:, 1:]
            latents = engine.rollout(context, either, past_actions, keep=self.cost.keep)
            actions, stats["violation"] = _cheapest(self.cost.at(context, target), latents, either, target)
        return Plan(
            actions=actions,
            cost=state.elite_cost,
            mean=state.mean,
            std=state.std,
            iterations=record.iterations,
            elapsed=clock.elapsed,
            deadline_hit=clock.deadline_hit,
            stats={"end": end, "graph": graph}
            | record.stats()
            | stats
            | clock.stats()
            | {"seed": draws.seed},
            kept=state.kept if self.optimizer.keep else None,
        )

    def _consult(
        self,
        policy: Policy,
        context: Tensor,
        past_actions: Tensor | None,
        goal: Goal,
        begun: Tensor,
        seed: int,
        clock: Clock,
    ) -> tuple[Tensor, Tensor]:
        """The policy's part of a plan: the first mean [B, T, A] and candidates [B, n, T, A].

        Where all of it would likely take more than the time that is left, one proposal, which is what a fallback needs.
        """
        random = torch.Generator("cpu").manual_seed(seed)
        kind, began = (context.shape[0], context.shape[1]), clock.elapsed

        def ask(count: int) -> Tensor:
            sizes = {"horizon": self.horizon, "action_dim": self.engine.action_dim}
            return propose(policy, context, past_actions, goal, count=count, generator=random, **sizes)

        usual = self._consultation.get(kind, 0.0)
        if clock.left is not None and clock.left < usual:
            self._consultation[kind] = 0.9 * usual  # or one that was slow once would never be tried again
            seeds = ask(1)
            return torch.cat([begun, seeds[:, 0, begun.shape[1] :]], dim=1), seeds
        mean = continued(policy, self.model, context, past_actions, goal, begun, self.horizon, random)
        seeds = ask(max(1, round(self.policy_share * self.optimizer.samples)))
        self._consultation[kind] = clock.elapsed - began
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
        """What an iteration may take: the longest of late, but no more than half as much again as is usual.

        One that the operating system held up says nothing of the next, and an expectation that lets none run has to shrink.
        """
        known = 0.9 * self._pace.get((B, K), 0.0)
        if clock.times:
            known = min(max(known, *clock.times), 1.5 * float(np.median(clock.times)))
        self._pace[B, K] = known

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


def _cheapest(cost: Cost, latents: Tensor, actions: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
    """Of candidates [B, n, T, A] the cheapest, the first of several; and its violation [B]."""
    price, violation = cost(latents, actions, goal), cost.violation(latents, actions)  # [B, n]
    assert violation is not None
    which = torch.where(price.isfinite(), price, math.inf).argmin(1, keepdim=True)
    return best(actions, which)[:, 0], violation.gather(1, which)[:, 0]
