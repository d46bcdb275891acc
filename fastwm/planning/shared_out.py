"""A search of many environments, shared out among engines: each searches for its own, at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from fastwm.planning.clock import Clock
from fastwm.planning.search import Found
from fastwm.planning.solve import Problem, Solver


class SharedSolver:
    """A `Solver` for each engine, and the same method."""

    def __init__(self, solvers: Sequence[Solver]) -> None:
        self._solvers = tuple(solvers)

    def solve(
        self,
        problem: Problem,
        seed: int,
        clock: Clock,
        *,
        callback: Callable[..., object] | None = None,
        expected: float = 0.0,
    ) -> Found:
        """See Solver.solve. Raises ValueError for a callback: no iteration is one of all environments."""
        if callback is not None:
            raise ValueError("callback is given, expected None: every engine has iterations of its own")
        parts = problem.parts(min(len(self._solvers), len(problem.mean)))
        clocks = [clock.again() for _ in parts]

        def run(solver: Solver, part: Problem, own: Clock) -> Found:
            with torch.no_grad():  # a thread has modes of its own
                return solver.solve(part, seed, own, expected=expected)

        with ThreadPoolExecutor(len(parts)) as pool:
            found = list(pool.map(run, self._solvers, parts, clocks))
        clock.join(clocks)

        def join(*tensors: Tensor) -> Tensor:
            return torch.cat(tensors)

        return found[0].map(join, *found[1:])
