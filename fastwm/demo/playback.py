"""Episodes to look at: what the agent saw, and where its plans led in its imagination.

Latents cannot be looked at. A linear probe, fitted on training frames whose true states are known, reads positions
out of the latents that a plan passes through. It is for the eye alone: the planner never sees a state.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastwm.data import Episodes
from fastwm.engine.engine import Engine
from fastwm.envs import World
from fastwm.evaluation import Evaluation, PlannerPolicy
from fastwm.models import WorldModel
from fastwm.training.health import encode_in_chunks
from fastwm.training.sampler import evenly_spaced

PROBE_FRAMES = 2048
RIDGE = 1e-4  # of the latents' mean variance


@dataclass(frozen=True)
class Probe:
    """state = latent @ weight + bias"""

    weight: Tensor  # [E, state_dim]
    bias: Tensor  # [state_dim]

    def __call__(self, latents: Tensor) -> NDArray[np.float32]:
        """latents [..., E] -> states [..., state_dim], pixels"""
        return (latents @ self.weight + self.bias).numpy()


@torch.inference_mode()
def fit_probe(model: WorldModel, episodes: Episodes) -> Probe:
    """Ridge regression from latents to the states of frames spread over `episodes`."""
    frames = episodes.batch(evenly_spaced(episodes.windows(1), PROBE_FRAMES), 1)
    x = encode_in_chunks(model, frames["pixels"][:, 0]).double()
    y = torch.as_tensor(frames["state"][:, 0]).double()
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + torch.finfo(torch.float64).tiny)
    weight = torch.linalg.solve(gram, x.T @ y)
    return Probe(weight.float(), (y_mean - x_mean @ weight).float())


def choose_episodes(evaluation: Evaluation, count: int = 6) -> list[int]:
    """The first `count` episodes, unchosen; if all of them succeed and a later one fails, it takes the last place."""
    chosen = list(range(min(count, len(evaluation.success))))
    failures = np.flatnonzero(~evaluation.success)
    if len(failures) and failures[0] >= count > 1:
        chosen[-1] = int(failures[0])
    return chosen


@torch.inference_mode()
def playback(
    world: World,
    engine: Engine,
    probe: Probe,
    policy: PlannerPolicy,
    evaluation: Evaluation,
    episodes: list[int],
) -> dict[str, Any]:
    """All that the report's player needs, as JSON: points are (x, y) in pixels of the picture.

    Per episode: `frames`, a PNG strip of all pictures; `goal`, a PNG; and for each decision the path of every body
    that its plan imagined, the number of blocks to the path's closest point to the goal (the rest of a plan is not
    part of its cost), and the squared latent distance to the goal.
    """
    bodies = body_columns(world)
    shown = []
    for i in episodes:
        decisions = int(evaluation.decisions[i])
        states = evaluation.states[i, : decisions + 1]
        frames = world.render(states)
        latents = engine.encode(frames)  # [decisions + 1, 1, E]
        goal_frame = world.render(evaluation.goals[i][None])
        goal = engine.encode(goal_frame)[0, 0]
        paths, arrivals = [], []
        for decision in range(decisions):
            imagined = _imagined(engine, policy, decision, i, latents[decision])
            points = probe(torch.cat([latents[decision], imagined]))
            paths.append([_points(points[:, columns]) for columns in bodies.values()])
            arrivals.append(int((imagined - goal).square().sum(dim=-1).argmin()) + 1)
        shown.append(
            {
                "number": i,
                "reached": bool(evaluation.success[i]),
                "frames": png_uri(np.concatenate(list(frames), axis=0)),
                "goal": png_uri(goal_frame[0]),
                "paths": paths,
                "arrivals": arrivals,
                "distance": [round(float(d), 1) for d in (latents[:, 0] - goal).square().sum(dim=-1)],
            }
        )
    return {"size": world.image_size, "bodies": list(bodies), "budget": world.budget, "episodes": shown}


def body_columns(world: World) -> dict[str, list[int]]:
    """Names of what moves, and the columns of its x and y in a state."""
    names = world.state_names
    return {
        name.removesuffix("_x"): [column, names.index(name.removesuffix("_x") + "_y")]
        for column, name in enumerate(names)
        if name.endswith("_x")
    }


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """A picture uint8 [height, width, 3] as a data URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _imagined(engine: Engine, policy: PlannerPolicy, decision: int, episode: int, context: Tensor) -> Tensor:
    """Latents [T, E] that the plan of that decision passes through from `context` [1, E]."""
    active, plan = policy.plans[decision]
    actions = plan.actions[int(np.searchsorted(active, episode))]
    return engine.rollout(context[None], actions[None, None], keep="all")[0, 0]


def _points(points: NDArray[np.float32]) -> list[list[float]]:
    return [[round(float(x), 1), round(float(y), 1)] for x, y in points]
