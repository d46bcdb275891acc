"""Episodes of an agent in one environment."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fastwm.integrations.gymnasium.actions import Actions
from fastwm.integrations.gymnasium.goals import Goals, GoalSource
from fastwm.integrations.gymnasium.video import filming
from fastwm.planning import Agent

SUCCESS = ("success", "is_success")  # in `info`; the second is gymnasium-robotics'


@dataclasses.dataclass(frozen=True)
class Run:
    """What an agent did in n episodes.

    returns float64 [n], sums of rewards; lengths int64 [n], environment steps; success bool [n], what `info` said at the end
    of each episode, None if it does not say; action_seconds float64 [calls], the time of each `agent.act`, be it for one
    environment or for a batch; video: the file written.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    success: NDArray[np.bool_] | None
    action_seconds: NDArray[np.float64]
    video: Path | None = None

    @property
    def p50(self) -> float:
        """Median of `action_seconds`."""
        return float(np.percentile(self.action_seconds, 50))

    @property
    def p99(self) -> float:
        """99th percentile of `action_seconds`."""
        return float(np.percentile(self.action_seconds, 99))

    @property
    def worst(self) -> float:
        """Largest of `action_seconds`."""
        return float(self.action_seconds.max())

    def __str__(self) -> str:
        reached = "" if self.success is None else f", success {self.success.mean():.0%}"
        return (
            f"{len(self.returns)} episodes: return {self.returns.mean():.2f}{reached}, {self.lengths.mean():.1f} steps; "
            f"an action takes {1e3 * self.p50:.1f} ms (p99 {1e3 * self.p99:.1f}, worst {1e3 * self.worst:.1f})"
        )


def run(
    env: gymnasium.Env[Any, Any],
    agent: Agent,
    *,
    episodes: int = 1,
    goal: GoalSource = None,
    seed: int | None = None,
    deadline: float | None = None,
    max_steps: int | None = None,
    video: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Run:
    """Let `agent` act in `env`, which has observations that the agent takes. Both are reset before each episode.

    Action blocks of several environment steps are executed step by step; for discrete spaces they are one-hot (see `Actions`).
    goal: of every episode, or a function (obs, info) -> goal that is asked before every action; None takes the last
        `info["goal"]` if the planner's cost needs a goal.
    seed: of the first episode's `env.reset`, the next ones' follow. deadline: seconds of each `agent.act`. max_steps: of an
        episode, in environment steps. video: a .gif or .mp4 of all episodes, written when they have ended.
    Raises ValueError, TypeError or ImportError for what does not fit, before the first action where it can be known; and
    ValueError for an action outside the environment's space.
    """
    check_count("episodes", episodes)
    check_count("max_steps", 1 if max_steps is None else max_steps)
    actions = Actions(env.action_space, agent.planner.engine.action_dim)
    returns, lengths, success, seconds = [], [], [], []
    bar = tqdm(total=episodes, unit="episode", disable=not progress)
    with bar, filming(video, env) as film:
        for episode in range(episodes):
            obs, info = env.reset(seed=None if seed is None else seed + episode)
            agent.reset()
            film.add()
            goals, total, steps, ended = Goals(goal, agent), 0.0, 0, False
            goals.see(info)
            while not ended:
                target = goals.now(obs, info)
                began = time.perf_counter()
                block = agent.act(obs, target, deadline)
                seconds.append(time.perf_counter() - began)
                for action in actions.of(np.asarray(block)):
                    obs, reward, terminated, truncated, info = env.step(action)
                    goals.see(info)
                    film.add()
                    total, steps = total + float(reward), steps + 1
                    ended = terminated or truncated or steps == max_steps
                    if ended:
                        break
            returns.append(total)
            lengths.append(steps)
            success.append(next((bool(info[name]) for name in SUCCESS if name in info), None))
            bar.update()
    written = None if video is None else Path(video)
    return Run(np.array(returns), np.array(lengths), known(success), np.array(seconds), written)


def known(success: Sequence[bool | None]) -> NDArray[np.bool_] | None:
    """Whether episodes succeeded, None unless every one of them says so."""
    return None if None in success else np.array(success, bool)


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least 1")
