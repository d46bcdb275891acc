"""Closed-loop evaluation: does a policy reach its goals, and what does a decision cost?

Many episodes advance together, but each is on its own: its task, its random stream and, with engines whose results do
not depend on the batch, its plans are functions of (seed, episode) alone, whoever else is still active.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from fastwm.envs import World

if TYPE_CHECKING:
    from fastwm.planning import Plan, Planner

CONFIDENCE_95 = 1.959963984540054  # the normal distribution's 97.5 % point
_TASKS, _RANDOM, _PLANNER = range(3)  # random streams of one seed


class Policy(ABC):
    """Chooses actions in the episodes that are still active. It is shown pixels, or states if `sees_states`."""

    name: str
    sees_states: bool = False

    @abstractmethod
    def begin(self, goal: NDArray[Any], seed: int, first: int = 0) -> None:
        """New episodes. goal: uint8 [n, size, size, 3], or [n, state_dim] if `sees_states`.

        first: the number of the first of them in the whole evaluation; what is random about an episode goes by that.
        """

    @abstractmethod
    def act(self, decision: int, episodes: NDArray[np.int64], seen: NDArray[Any]) -> NDArray[np.float32]:
        """Actions [b, A] of `episodes` [b] (places in `goal`) that now look like `seen`, as in `begin`."""


class PlannerPolicy(Policy):
    """Plans at every decision, warm-started from its last plan shifted by one, and takes the first action.

    The goal is given as pixels, and so is what it sees. After an evaluation `plans` holds, for each decision, the
    episodes [b] that were active and their plan.
    """

    def __init__(self, planner: Planner, *, name: str = "planner") -> None:
        self.name = name
        self.planner = planner
        self.plans: list[tuple[NDArray[np.int64], Plan]] = []

    def begin(self, goal: NDArray[Any], seed: int, first: int = 0) -> None:
        engine = self.planner.engine
        self._seed, self._first = seed, first
        self._goal = engine.encode(goal)[:, 0]  # [n, E]
        self._rest = engine.action_mean.expand(
            len(goal), self.planner.horizon, -1
        ).clone()  # [n, T, A], warm starts
        self.plans = []

    def act(self, decision: int, episodes: NDArray[np.int64], seen: NDArray[Any]) -> NDArray[np.float32]:
        which = torch.as_tensor(episodes)
        plan = self.planner.plan(
            seen,
            self._goal[which],
            warm_start=self._rest[which],
            generator=int(_generator(self._seed, _PLANNER, decision).integers(2**63)),
            environments=self._first + which,
        )
        self._rest[which, :-1] = plan.actions[:, 1:]
        self.plans.append((episodes, plan))
        return plan.actions[:, 0].numpy()


class ExpertPolicy(Policy):
    """The world's scripted expert, which is told the true state."""

    name = "expert"
    sees_states = True

    def __init__(self, world: World) -> None:
        self._world = world

    def begin(self, goal: NDArray[Any], seed: int, first: int = 0) -> None:
        self._goal = goal

    def act(self, decision: int, episodes: NDArray[np.int64], seen: NDArray[Any]) -> NDArray[np.float32]:
        return self._world.expert(seen, self._goal[episodes])


class RandomPolicy(Policy):
    """The world's random walk."""

    name = "random"
    sees_states = True

    def __init__(self, world: World) -> None:
        self._world = world

    def begin(self, goal: NDArray[Any], seed: int, first: int = 0) -> None:
        self._rngs = [_generator(seed, _RANDOM, first + episode) for episode in range(len(goal))]
        self._previous = np.zeros((len(goal), self._world.action_dim), np.float32)

    def act(self, decision: int, episodes: NDArray[np.int64], seen: NDArray[Any]) -> NDArray[np.float32]:
        for i in episodes:
            self._previous[i] = self._world.random(self._rngs[i], self._previous[i][None])[0]
        return self._previous[episodes]


@dataclass(frozen=True)
class Evaluation:
    """What a policy did in n episodes of at most `budget` decisions.

    success [n]; decisions [n], `budget` where it failed; states [n, budget + 1, state_dim], the last one repeated after
    success; goals [n, state_dim]; decision_ms [n]: mean milliseconds of the policy per decision of each episode, the
    time of a batch shared equally among its active episodes.
    """

    policy: str
    success: NDArray[np.bool_]
    decisions: NDArray[np.int64]
    states: NDArray[np.float32]
    goals: NDArray[np.float32]
    decision_ms: NDArray[np.float64]

    @property
    def rate(self) -> float:
        """Share of episodes that reached their goal."""
        return float(self.success.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of `rate`."""
        return wilson_interval(int(self.success.sum()), len(self.success))

    @property
    def mean_decisions(self) -> float | None:
        """Decisions to the goal, mean over the episodes that reached it."""
        return float(self.decisions[self.success].mean()) if self.success.any() else None

    @property
    def mean_decision_ms(self) -> float:
        """Milliseconds per decision, mean over all decisions."""
        return float(np.average(self.decision_ms, weights=np.maximum(self.decisions, 1)))


def sample_tasks(world: World, episodes: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Starts and goals [episodes, state_dim] of the world's evaluation protocol."""
    if episodes < 1:
        raise ValueError(f"episodes: expected at least 1, got {episodes}")
    if seed < 0:
        raise ValueError(f"seed: expected at least 0, got {seed}")
    return world.sample_task(_generator(seed, _TASKS), episodes)


def evaluate(
    world: World,
    policy: Policy,
    *,
    episodes: int = 100,
    seed: int = 0,
    budget: int | None = None,
    progress: bool = False,
    part: tuple[int, int] | None = None,
) -> Evaluation:
    """Run `policy` in `episodes` tasks of `world`, each for at most `budget` decisions (the world's own by default).

    A policy may answer with a block of several actions, one decision of the world each: it is asked again after them.
    part: only the episodes from the first of these numbers to before the second, as they are among all.
    """
    if episodes < 1:
        raise ValueError(f"episodes: expected at least 1, got {episodes}")
    first, end = (0, episodes) if part is None else part
    if not 0 <= first < end <= episodes:
        raise ValueError(f"part is {part}, expected 0 <= first < end <= {episodes} episodes")
    budget = world.budget if budget is None else budget
    if budget < 1:
        raise ValueError(f"budget: expected at least 1 decision, got {budget}")
    state, goal = (drawn[first:end] for drawn in sample_tasks(world, episodes, seed))
    episodes = end - first
    policy.begin(goal if policy.sees_states else world.render(goal), seed, first)

    success = world.success(state, goal)
    decisions = np.where(success, 0, budget)
    milliseconds = np.zeros(episodes)
    states = [state]
    blocks: list[NDArray[np.float32]] = []  # actions yet to be taken, [episodes, A] each
    with tqdm(total=episodes, unit="episode", desc=f"evaluate {policy.name}", disable=not progress) as bar:
        for decision in range(budget):
            active = np.flatnonzero(~success)
            bar.update(episodes - len(active) - bar.n)
            if len(active) == 0:
                break
            if not blocks:
                seen = state[active] if policy.sees_states else world.render(state[active])
                began = time.perf_counter()
                chosen = policy.act(decision, active, seen)
                milliseconds[active] += 1e3 * (time.perf_counter() - began) / len(active)
                if chosen.shape[1] < world.action_dim or chosen.shape[1] % world.action_dim:
                    raise ValueError(
                        f"policy {policy.name!r} answers with {chosen.shape[1]} numbers; "
                        f"world {world.name!r} has actions of {world.action_dim}"
                    )
                answer = np.zeros((episodes, chosen.shape[1]), np.float32)
                answer[active] = chosen
                blocks = np.split(answer, chosen.shape[1] // world.action_dim, axis=1)
            state = state.copy()
            state[active] = world.step(state[active], blocks.pop(0)[active])
            reached = world.success(state[active], goal[active])
            decisions[active[reached]] = decision + 1
            success[active[reached]] = True
            states.append(state)
        bar.update(episodes - bar.n)
    states += [state] * (budget + 1 - len(states))
    return Evaluation(
        policy.name,
        success,
        decisions,
        np.stack(states, axis=1),
        goal,
        milliseconds / np.maximum(decisions, 1),
    )


@dataclass(frozen=True)
class Difference:
    """Success of one policy less that of another in the same episodes: those that it alone reached, or the other alone."""

    won: int
    lost: int
    episodes: int

    @property
    def rate(self) -> float:
        """Difference of the shares of episodes that reached their goal."""
        return (self.won - self.lost) / self.episodes

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of `rate` (Bonett and Price 2012): not empty where all episodes end alike."""
        n = self.episodes + 2
        won, lost = (self.won + 1) / n, (self.lost + 1) / n
        half = CONFIDENCE_95 * math.sqrt((won + lost - (won - lost) ** 2) / n)
        return max(-1.0, won - lost - half), min(1.0, won - lost + half)


def paired_difference(result: Evaluation, other: Evaluation) -> Difference:
    """`result` less `other`, episode by episode; ValueError unless both had the same tasks."""
    if not (
        result.goals.shape == other.goals.shape
        and np.array_equal(result.goals, other.goals)
        and np.array_equal(result.states[:, 0], other.states[:, 0])
    ):
        raise ValueError("result and other had other tasks; expected the same world, episodes and seed")
    won, lost = result.success & ~other.success, other.success & ~result.success
    return Difference(int(won.sum()), int(lost.sum()), len(won))


def wilson_interval(successes: int, trials: int, z: float = CONFIDENCE_95) -> tuple[float, float]:
    """Confidence interval of a share (Wilson 1927): honest for few trials and for shares near 0 and 1."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(
            f"successes is {successes} of {trials} trials; expected 0 to trials, and at least one trial"
        )
    share, square = successes / trials, z * z / trials
    centre = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return max(0.0, min(share, centre - half)), min(
        1.0, max(share, centre + half)
    )  # exact at 0 and 1 despite rounding


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)
