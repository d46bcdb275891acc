"""One search, run where the engine is: on the CPU as it is, on a GPU as CUDA graphs.

A search without a deadline is one graph, captured once per shape and started again with other numbers: nothing waits for the
GPU until the plan is read. With a deadline or an end on convergence the evaluation of an iteration's candidates is one graph,
and the host looks in between. With a function that a graph may not hold (`Cost.foreign`: Reward, Value, Constraint,
TemporalDistance, TrustRegion, a probe's GoalDistance, a function as the cost), gradients, a cost that changes during the
search or a callback nothing is captured: the same kernels are started one by one. `Found.graph` says which it was: "search",
"iteration" or "none".
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fastwm.planning.clock import Clock
from fastwm.planning.costs import Cost
from fastwm.planning.draws import Draws
from fastwm.planning.goal import Goal
from fastwm.planning.inputs import Dynamics
from fastwm.planning.sampling import Sampling
from fastwm.planning.search import Found, Iteration, Propose, search

CPU = torch.device("cpu")
GRAPHS = 8  # kept, each with the memory of a rollout; the oldest goes. More where one search alone needs more


class Problem(NamedTuple):
    """What a search is given, as tensors alone. None: there is none."""

    context: Tensor  # [B, K, E]
    past_actions: Tensor | None  # [B, K-1, A]
    latents: Tensor | None  # of the goal, as are the next two
    state: Tensor | None
    reached: Tensor | None
    mean: Tensor  # [B, T, A]
    std: Tensor  # [B, T, A]
    fallback: Tensor  # [B, T, A]
    proposals: Tensor | None  # [B, n, T, A] of every iteration, or of the first
    kept: Tensor | None  # [B, n, T, A] of the first
    environments: Tensor  # int64 [B] random streams
    noise: Tensor | None  # [iterations, B, S, T, A]
    counters: Tensor | None = None  # int64 [iterations, 2] seeds and iterations

    def map(self, change: Callable[[Tensor], Tensor]) -> Problem:
        return Problem(*(None if value is None else change(value) for value in self))  # type: ignore[arg-type]

    def parts(self, count: int) -> list[Problem]:
        """The environments shared out evenly, in their order."""
        where = torch.arange(len(self.mean), device="cpu").tensor_split(count)
        noise = [None if self.noise is None else self.noise[:, rows] for rows in where]
        whole = self._replace(noise=None)
        return [whole.map(lambda x, r=r: x[r])._replace(noise=n) for r, n in zip(where, noise, strict=True)]  # type: ignore[misc]

    @property
    def goal(self) -> Goal:
        return Goal(self.latents, self.state, self.reached)

    @property
    def shapes(self) -> tuple[Any, ...]:
        return tuple(None if value is None else tuple(value.shape) for value in self)


class Solver:
    """Runs the searches of one planner. Safe to use from several threads at once: on a GPU they take turns."""

    def __init__(
        self, engine: Dynamics, optimizer: Sampling, cost: Cost, propose_in: Propose = "every"
    ) -> None:
        self.engine, self.optimizer, self.cost, self.propose_in = engine, optimizer, cost, propose_in
        self._gpu: torch.device | None = None
        if getattr(engine, "backend", "") == "cuda":
            self._gpu = engine.device  # type: ignore[attr-defined]
        self._lock = threading.Lock()
        self._graphs: dict[tuple[Any, ...], _Captured] = {}
        self._most = GRAPHS
        if self._gpu is not None:  # `decay` makes the iterations' shapes others
            shapes = {optimizer.population(iteration) for iteration in range(optimizer.iterations)}
            self._most = max(GRAPHS, len(shapes))

    def solve(
        self,
        problem: Problem,
        seed: int,
        clock: Clock,
        *,
        callback: Callable[[Iteration], object] | None = None,
        expected: float = 0.0,
    ) -> Found:
        """Of a problem on the CPU; what is found is there, too. cost changes during a search if its `begin` makes another."""
        cost = self.cost.at(problem.context, problem.goal)
        begun = cost.begin(len(problem.mean))
        if self._gpu is None:
            return self._search(problem, seed, cost, begun, clock, callback, expected)
        from fastwm.engine.cuda import device as gpu  # a GPU's modules are imported where there is one

        device = self._gpu
        count = torch.arange(self.optimizer.iterations, device="cpu")
        problem = problem._replace(counters=torch.stack([torch.full_like(count, seed), count], dim=1))
        with self._lock, gpu.on(device):
            placed = problem.map(lambda tensor: tensor.to(device))
            whole = callback is None and begun is self.cost and self.optimizer.captured and not cost.foreign
            if whole and clock.left is None and not self.optimizer.tolerance:
                found = self._captured(
                    ("search", *placed.shapes),
                    lambda given: self._search(given, seed, cost, begun, Clock(None)),
                    placed,
                    clock,
                )
                found = found._replace(graph="search")
            else:
                evaluate = self._evaluation(placed, clock) if whole else None
                found = self._search(placed, seed, cost, begun, clock, callback, expected, evaluate)
                found = found._replace(graph="iteration" if whole else "none")
            return found.map(lambda tensor: tensor.to(CPU, copy=True))

    def _search(
        self,
        problem: Problem,
        seed: int,
        plain: Cost,
        cost: Cost,
        clock: Clock,
        callback: Callable[[Iteration], object] | None = None,
        expected: float = 0.0,
        evaluate: Callable[[Tensor], Tensor] | None = None,
    ) -> Found:
        """cost: what `plain` has begun."""
        changes = cost is not plain  # while the search goes on
        judged: list[Tensor] = []  # the last candidates' cost that does not

        def here(actions: Tensor) -> Tensor:
            """[B, S, T, A] -> [B, S]"""
            goal, threads = problem.goal, self.engine.threads
            latents = self.engine.rollout(
                problem.context, actions, problem.past_actions, keep=cost.keep, seconds=clock.left
            )
            if changes:
                judged[:] = [plain(latents, actions, goal, threads=threads).detach()]
            return cost(latents, actions, goal, threads=threads)

        return search(
            self.optimizer,
            evaluate or here,
            problem.mean,
            problem.std,
            Draws(seed, problem.environments, problem.noise, problem.counters),
            clock,
            fallback=problem.fallback,
            proposals=problem.proposals,
            propose_in=self.propose_in,
            kept=problem.kept,
            judge=judged.pop if changes else None,
            callback=callback,
            expected=expected,
            threads=self.engine.threads,
        )

    def _evaluation(self, problem: Problem, clock: Clock) -> Callable[[Tensor], Tensor]:
        """An iteration's evaluation as a graph; returns when the costs are there, so that the clock means something."""
        from fastwm.engine.cuda import device as gpu

        context, past, goal = problem.context, problem.past_actions, problem[2:5]

        def work(given: tuple[Tensor | None, ...]) -> Tensor:
            actions, context, past, *goal = given
            assert actions is not None
            assert context is not None
            latents = self.engine.rollout(context, actions, past, keep=self.cost.keep)
            return self.cost(latents, actions, Goal(*goal), threads=self.engine.threads)

        def evaluate(actions: Tensor) -> Tensor:
            if clock.passed:
                return actions.new_full(actions.shape[:2], torch.nan)
            given = (actions, context, past, *goal)
            shapes = (None if value is None else tuple(value.shape) for value in given)
            cost = self._captured(("evaluation", *shapes), work, given, clock)
            gpu.synchronise(actions.device)
            return cost

        return evaluate

    def _captured(self, key: tuple[Any, ...], work: Callable[[Any], Any], given: Any, clock: Clock) -> Any:
        """work(given) by a graph of its own, captured where there is none yet: the graph's own memory, until it runs again."""
        # What a graph reads is written to by later plans, which inference mode would forbid all that are not in it.
        with torch.inference_mode(False), torch.no_grad():
            graph = self._graphs.pop(key, None)
            if graph is None:
                while len(self._graphs) >= self._most:
                    self._graphs.pop(next(iter(self._graphs)))
                begun = clock.elapsed
                graph = _Captured(work, given)
                clock.once(clock.elapsed - begun)
            self._graphs[key] = graph  # the youngest
            return graph(given)


class _Captured:
    """Work of one shape: the tensors that it reads, its graph, and the tensors that the graph writes."""

    def __init__(self, work: Callable[[Any], Any], given: Any) -> None:
        from fastwm.engine.cuda.graph import capture

        self._given = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, given)
        self._graph, self._result = capture(lambda: work(self._given), given[0].device)

    def __call__(self, given: Any) -> Any:
        for own, new in zip(self._given, given, strict=True):
            if own is not None:
                own.copy_(new)
        self._graph.replay()
        return self._result
