"""Where the goal of an episode comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastwm.planning import Agent, Goal
from fastwm.planning.goal import GivenGoal

GoalSource = GivenGoal | Goal | Callable[[Any, dict[str, Any]], GivenGoal | Goal] | None


class Goals:
    """The goal that was given, that a function (obs, info) says, or the last `info["goal"]` if the planner's cost needs one."""

    def __init__(self, source: GoalSource, agent: Agent) -> None:
        self._source = source
        self._needed = bool(agent.planner.cost.needs)
        self._seen: Any = None

    def see(self, info: dict[str, Any]) -> None:
        """Remember the goal of an `info`; of a vector environment's, for the environments that have one."""
        if "goal" not in info:
            return
        goal, which = info["goal"], info.get("_goal")
        if which is None or self._seen is None or np.all(which):
            self._seen = goal
        else:
            shape = (-1, *[1] * (np.ndim(goal) - 1))
            self._seen = np.where(np.reshape(which, shape), goal, self._seen)

    def now(self, obs: Any, info: dict[str, Any]) -> GivenGoal | Goal | None:
        """The goal to act for. Raises ValueError if one is needed and there is none."""
        if callable(self._source):
            return self._source(obs, info)
        if self._source is not None or not self._needed:
            return self._source
        if self._seen is None:
            raise ValueError(
                f"goal is None and info has {sorted(info)}, expected a goal or a 'goal' in info: the planner's cost needs one"
            )
        return self._seen
