"""Are the candidates that look best to the model the best in the world? Plans from random to expert, tried in both."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray

from fastwm.engine.engine import Engine
from fastwm.envs import World
from fastwm.envs.raster import Array
from fastwm.evaluation import CONFIDENCE_95, sample_tasks

TASKS, CANDIDATES, DECISIONS = 32, 48, 15
PERSISTENCE = 0.8  # of an action from one decision to the next: plans that get somewhere


@dataclasses.dataclass(frozen=True)
class Share:
    """A mean over tasks with its 95 % interval (normal)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Share:
        half = CONFIDENCE_95 * float(values.std(ddof=1)) / math.sqrt(len(values))
        mean = float(values.mean())
        return cls(mean, mean - half, mean + half)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Plans of `blocks` action blocks, `candidates` of them in each of `tasks` tasks, evenly between random and the expert's.

    Spearman's rank correlations of costs at the plans' ends: `dynamics`, predicted latents against the latents of what really
    came; `representation`, those latents against the world's own distance; `both`, predicted latents against the world.
    regret: how much farther from the goal the plan that looks best ends than the best one, as a share of what the average plan
    loses: 0 is perfect, 1 is choosing blindly. pixels_lost: the same in the world's unit.
    """

    tasks: int
    candidates: int
    blocks: int
    dynamics: Share
    representation: Share
    both: Share
    regret: Share
    pixels_lost: Share


def measure_ranking(engine: Engine, world: World, *, seed: int = 0) -> Ranking:
    """Try plans in the model and in `world`. ValueError where the engine's actions are not the world's."""
    block = engine.action_block
    if engine.action_dim != block * world.action_dim:
        raise ValueError(
            f"the model's action blocks hold {engine.action_dim} numbers; {world.name} takes {block} x {world.action_dim}"
        )
    blocks = max(1, DECISIONS // block)
    start, goal = sample_tasks(world, TASKS, seed)
    goals = np.repeat(goal, CANDIDATES, axis=0)
    actions, state = _plans(world, np.repeat(start, CANDIDATES, axis=0), goals, blocks * block, seed)
    away = world.distance(state, goals).reshape(TASKS, CANDIDATES)

    wanted = engine.encode(world.render(goal)[:, None])  # [tasks, 1, E]
    came = engine.encode(world.render(state)[:, None])[:, 0].view(TASKS, CANDIDATES, -1)
    given = torch.as_tensor(actions).view(TASKS, CANDIDATES, blocks, -1)
    imagined = engine.rollout(engine.encode(world.render(start)[:, None]), given)  # [tasks, candidates, E]
    real_cost = (came - wanted).square().sum(-1).numpy()
    cost = (imagined - wanted).square().sum(-1).numpy()

    chosen = np.take_along_axis(away, cost.argmin(axis=1)[:, None], axis=1)[:, 0]
    lost, at_random = chosen - away.min(axis=1), away.mean(axis=1) - away.min(axis=1)
    return Ranking(
        tasks=TASKS,
        candidates=CANDIDATES,
        blocks=blocks,
        dynamics=Share.of(spearman(cost, real_cost)),
        representation=Share.of(spearman(real_cost, away)),
        both=Share.of(spearman(cost, away)),
        regret=Share.of(lost / np.maximum(at_random, 1e-9)),
        pixels_lost=Share.of(lost.astype(np.float64)),
    )


def spearman(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rank correlation [n] of the rows of two [n, S]; ties share their mean rank, and constants give 0."""
    a, b = (_ranks(values) for values in (one, other))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), norm, out=np.zeros(len(a)), where=norm > 0)


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    below = (values[:, None, :] < values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    return below + (equal - 1) / 2.0


def _plans(
    world: World, start: Array, goal: Array, decisions: int, seed: int
) -> tuple[NDArray[np.float32], Array]:
    """Actions [TASKS * CANDIDATES, decisions, A], and the states where they end.

    Candidate 0 follows the expert, the last one noise that lasts, the others mix both: random plans may not get anywhere.
    """
    rng = np.random.default_rng((seed, 7))
    middle, half = (world.action_high + world.action_low) / 2, (world.action_high - world.action_low) / 2
    share = np.tile(np.linspace(0, 1, CANDIDATES), TASKS)[:, None]
    noise = np.zeros((len(start), world.action_dim))
    actions, state = [], start
    for decision in range(decisions):
        fresh = rng.standard_normal(noise.shape)
        noise = fresh if decision == 0 else PERSISTENCE * noise + math.sqrt(1 - PERSISTENCE**2) * fresh
        mixed = (1 - share) * world.expert(state, goal) + share * (middle + half * noise)
        actions.append(np.clip(mixed, world.action_low, world.action_high).astype(np.float32))
        state = world.step(state, actions[-1])
    return np.stack(actions, axis=1), state
