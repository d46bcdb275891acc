"""The agent that plans ahead: while one block is executed it plans the next, from where the model says that the block leads."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastwm.planning.agent import Agent, Memory
from fastwm.planning.clock import Clock
from fastwm.planning.goal import GivenGoal, Goal
from fastwm.planning.plan import Plan
from fastwm.planning.planner import Planner
from fastwm.planning.sampling import choose

_OF_THE_PLAN = (
    "plan",
    "std",
    "tries",
    "planned",
    "executed",
)  # fields of a Memory that a new plan changes, `kept` besides


@dataclasses.dataclass
class _Ahead:
    """A plan being made, for a goal, and the environments [B] that it is still of use to."""

    future: Future[tuple[Memory, Plan | None]]
    goal: Goal
    valid: Tensor


class AsyncAgent(Agent):
    """An `Agent` whose `act` has the plan already: it was made while the block before was executed.

    Every call answers with the block planned for now, encodes what is seen, and begins the plan for the next call in a thread
    of its own: from the latents that the model predicts for that time, the block just returned being executed until then. What
    the world did otherwise is seen one block later. The first call, and one for another goal or an environment just reset, has
    nothing that was planned for it and plans itself.

    period: seconds from one call to the next, by which the planning between them ends; None: it takes its time.
    late: calls whose plan was not there by their deadline; they returned the next block of the plan before.
    history, arrive: as of `Agent`. What planning ahead raises, the next `act` raises. Close it, or use it as a context manager,
    to end its thread. After a fork it serves the process that made it alone; `act` raises RuntimeError in another.
    """

    def __init__(
        self, planner: Planner, *, history: int = 1, arrive: float = 0.0, period: float | None = None
    ) -> None:
        super().__init__(planner, history=history, arrive=arrive)
        if period is not None and (
            isinstance(period, bool) or not isinstance(period, (int, float)) or not 0.0 < period < math.inf
        ):
            raise ValueError(f"period is {period!r}, expected a positive number of seconds or None")
        self.period, self.late = period, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fastwm-plan")
        self._ahead: _Ahead | None = None
        self._closed, self._process = False, os.getpid()

    def close(self) -> None:
        """Wait for the plan being made, and end the thread. `act` raises RuntimeError from then on."""
        with self._lock:
            self._closed = True
        self._thread.shutdown()

    def __enter__(self) -> AsyncAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reset(self, environments: Sequence[int] | Tensor | np.ndarray | None) -> Tensor | None:
        fresh = super()._reset(environments)
        if self._ahead is None:
            return fresh
        if fresh is None:
            self._ahead.future.cancel()
            self._ahead = None
        else:
            self._ahead.valid = self._ahead.valid & ~fresh
        return fresh

    def _act(self, obs: Tensor | np.ndarray, goal: GivenGoal | Goal | None, clock: Clock) -> Any:
        if self._closed:
            raise RuntimeError("the agent was closed")
        if self._process != os.getpid():
            raise RuntimeError("the agent was made before a fork, and its thread is in the other process")
        action = super()._act(obs, goal, clock)
        memory, target = self._memory, self._now
        assert memory is not None
        time = Clock(None if self.period is None else self.period - clock.elapsed)
        future = self._thread.submit(self._plan_ahead, memory, target, time)
        self._ahead = _Ahead(future, target, torch.ones(len(memory.frames), dtype=torch.bool, device="cpu"))
        return action

    def _replan(self, memory: Memory, target: Goal, clock: Clock) -> tuple[Memory, Plan | None]:
        """See Agent: the plans made ahead, and new ones where there is none."""
        found, ahead = self.plan, self._ahead
        self._ahead, self._now = (
            None,
            target.copy(),
        )  # the caller may write to its arrays while the next plan is made
        if ahead is not None and ahead.goal.equals(target):
            left = clock.left
            wait([ahead.future], None if left is None else max(0.0, left))
            if ahead.future.done():
                made, found = ahead.future.result()
            else:
                self.late += 1
                made = self._continued(memory)
            memory = _take(ahead.valid, made, memory)
        if ahead is not None:
            ahead.future.cancel()  # one that has not begun is of no use any more
        if (memory.executed == self.replan_every).any():
            memory, found = super()._replan(memory, target, clock)
        return memory, found

    @torch.no_grad()
    def _plan_ahead(self, memory: Memory, target: Goal, clock: Clock) -> tuple[Memory, Plan | None]:
        """Plans for when the block last returned will have been executed."""
        last = memory.latents.shape[1]
        predicted = torch.empty_like(memory.latents[:, -1])
        for K in memory.frames.unique().tolist():
            group = (memory.frames == K).nonzero()[:, 0]
            context, blocks = memory.latents[group, last - K :], memory.blocks[group, last - K :]
            actions = blocks[:, None, -1:]  # [b, 1, 1, A], being executed
            predicted[group] = self.planner.model.rollout(context, actions, blocks[:, :-1])[:, 0]
        then = dataclasses.replace(
            memory,
            latents=torch.cat([memory.latents[:, 1:], predicted[:, None]], dim=1),
            frames=(memory.frames + 1).clamp(max=self.history),
        )
        return super()._replan(then, target, clock)

    def _continued(self, memory: Memory) -> Memory:
        """The memory whose plans begin with their next block, after the last one with the mean of the training actions."""
        start = self._start(len(memory.frames))
        return dataclasses.replace(
            memory,
            plan=torch.cat([memory.plan[:, 1:], start.plan[:, -1:]], dim=1),
            std=torch.cat([memory.std[:, 1:], start.std[:, -1:]], dim=1),
            tries=start.tries,
            executed=torch.zeros_like(memory.executed),
        )


def _take(which: Tensor, made: Memory, memory: Memory) -> Memory:
    """The memory with the plans of `made` for the environments `which` [B]."""
    taken = {name: choose(which, getattr(made, name), getattr(memory, name)) for name in _OF_THE_PLAN}
    return dataclasses.replace(memory, **taken, kept=memory.kept if made.kept is None else made.kept)
