"""Episodes of an agent in many environments at once."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from tqdm import tqdm

from fastwm.integrations.gymnasium.actions import Actions
from fastwm.integrations.gymnasium.goals import Goals, GoalSource
from fastwm.integrations.gymnasium.run import SUCCESS, Run, check_count, known
from fastwm.planning import Agent


def run_vector(
    envs: VectorEnv[Any, Any, Any],
    agent: Agent,
    *,
    episodes: int | None = None,
    goal: GoalSource = None,
    seed: int | None = None,
    deadline: float | None = None,
    progress: bool = False,
) -> Run:
    """`run` in a vector environment of any autoreset mode: one `agent.act` for all of it.

    episodes: by default one for each environment. Each environment contributes its equal share (the first ones one more), so
    that short episodes do not count more often; those of the first environment come first in the result.
    goal: of all or of each environment, or a function (obs, info) -> goals; None takes the last `info["goal"]` of each.
    An action block is one step: environments that take several steps per block are wrapped in `ActionBlock`.
    Raises as `run` does.
    """
    n = envs.num_envs
    check_count("episodes", n if episodes is None else episodes)
    mode = envs.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise ValueError(
            f"envs.metadata['autoreset_mode'] is {mode!r}, expected a gymnasium.vector.AutoresetMode"
        )
    actions = Actions(envs.single_action_space, agent.planner.engine.action_dim)
    if actions.steps != 1:
        raise ValueError(
            f"the planner's action blocks hold {actions.steps} actions, expected one: make the environments with "
            f"wrappers=[lambda env: ActionBlock(env, {actions.steps})]"
        )
    share = np.full(n, 1) if episodes is None else episodes // n + (np.arange(n) < episodes % n)
    done: list[list[tuple[float, int, bool | None]]] = [[] for _ in range(n)]
    seconds, totals, steps = [], np.zeros(n), np.zeros(n, np.int64)
    resetting = np.zeros(n, bool)  # environments that the next step only resets
    obs, info = envs.reset(seed=seed)
    agent.reset()
    goals = Goals(goal, agent)
    goals.see(info)
    with tqdm(total=int(share.sum()), unit="episode", disable=not progress) as bar:
        while True:
            target = goals.now(obs, info)
            began = time.perf_counter()
            blocks = agent.act(obs, target, deadline)
            seconds.append(time.perf_counter() - began)
            step = np.stack([actions.of(block)[0] for block in np.asarray(blocks)])
            obs, rewards, terminated, truncated, info = envs.step(step)
            goals.see(info)
            totals += np.where(resetting, 0.0, rewards)
            steps += ~resetting
            ended = (terminated | truncated) & ~resetting
            final = info.get("final_info", {}) if mode == AutoresetMode.SAME_STEP else info
            for i in np.flatnonzero(ended):
                if len(done[i]) < share[i]:
                    done[i].append((totals[i], steps[i], _success(final, int(i))))
                    bar.update()
            if all(len(own) == count for own, count in zip(done, share, strict=True)):
                break
            totals[ended], steps[ended] = 0.0, 0
            started = resetting if mode == AutoresetMode.NEXT_STEP else ended
            resetting = ended if mode == AutoresetMode.NEXT_STEP else np.zeros(n, bool)
            if mode == AutoresetMode.DISABLED and ended.any():
                obs, info = envs.reset(options={"reset_mask": ended})
                goals.see(info)
            if started.any():
                agent.reset(started)
    returns, lengths, success = zip(*(episode for own in done for episode in own), strict=True)
    return Run(np.array(returns), np.array(lengths), known(success), np.array(seconds))


def _success(info: dict[str, Any], environment: int) -> bool | None:
    """What an info of a vector environment says of one environment."""
    for name in SUCCESS:
        which = info.get(f"_{name}")
        if name in info and (which is None or which[environment]):
            return bool(info[name][environment])
    return None
