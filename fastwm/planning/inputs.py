"""What the planner is given -> what the search works on. Everything is checked here, before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastwm.ops._check import readable

if TYPE_CHECKING:
    from fastwm.engine.engine import Engine

Observation = Tensor | np.ndarray | Mapping[str, Tensor | np.ndarray]


def numbers(name: str, value: object, shape: tuple[int | None, ...]) -> Tensor:
    """`value` as finite float32 of `shape`, where None is any size. Raises TypeError or ValueError naming the
    argument."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} is {kind}, expected a tensor or array of floating-point numbers")
    expected = ", ".join("any" if size is None else str(size) for size in shape)
    readable(name, value, f"({expected})")
    if value.dim() != len(shape) or any(
        size not in (None, got) for size, got in zip(shape, value.shape, strict=True)
    ):
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected ({expected})")
    value = value.detach().float()
    if not value.isfinite().all():
        raise ValueError(f"{name} holds numbers that are not finite in float32")
    return value


def observe(engine: Engine, obs: Observation) -> tuple[Tensor, Tensor | None]:
    """Latents of the context frames [B, K, E], and the blocks executed between them [B, K-1, A] (None if
    there are none).

    obs: image(s) that `engine.encode` takes, or a mapping with "pixels" (such images) or "latents" [B, K, E],
    and with "past_actions" [B, K-1, A] in environment units when K > 1.
    """
    given = obs if isinstance(obs, Mapping) else {"pixels": obs}
    unknown = set(given) - {"pixels", "latents", "past_actions"}
    if unknown or len({"pixels", "latents"} & set(given)) != 1:
        raise ValueError(
            f"obs has {sorted(given)}, expected 'pixels' or 'latents', and 'past_actions' for several frames"
        )
    if "latents" in given:
        context = numbers("obs['latents']", given["latents"], (None, None, engine.embed_dim))
        if 0 in context.shape:
            raise ValueError(f"obs['latents'] has shape {tuple(context.shape)}, expected at least one frame")
    else:
        context = engine.encode(given["pixels"])
    B, K, _ = context.shape
    if engine.window < K:
        raise ValueError(f"obs holds {K} frames, expected at most {engine.window}, the model's window")
    past_actions = given.get("past_actions")
    if past_actions is None:
        if K > 1:
            raise ValueError(
                f"obs holds {K} frames but no 'past_actions', expected [{B}, {K - 1}, {engine.action_dim}]"
            )
        return context, None
    return context, numbers("obs['past_actions']", past_actions, (B, K - 1, engine.action_dim))


def goal_latent(engine: Engine, goal: Tensor | np.ndarray, B: int) -> Tensor:
    """Goal latents [B, E] of image(s) that `engine.encode` takes, or of latents [E] or [B, E]; one goal
    serves every environment."""
    if not isinstance(goal, (Tensor, np.ndarray)):
        raise TypeError(f"goal is {type(goal).__name__}, expected a tensor or array of images or latents")
    if goal.ndim > 2:
        try:
            latent = engine.encode(goal)[:, -1]
        except (TypeError, ValueError) as error:  # it was the goal that did not fit
            raise type(error)(f"goal, taken for images as it has {goal.ndim} dimensions: {error}") from error
    else:
        latent = numbers("goal", goal[None] if goal.ndim == 1 else goal, (None, engine.embed_dim))
    if len(latent) not in (1, B):
        raise ValueError(f"goal holds {len(latent)} goals, expected 1 or {B}, one for each environment")
    return latent.expand(B, -1)


def first_mean(engine: Engine, warm_start: Tensor | np.ndarray | None, B: int, T: int) -> Tensor:
    """Mean of the first iteration [B, T, A]: the warm start [B, T', A], then the mean of the model's training
    actions."""
    rest = engine.action_mean.expand(B, T, -1)
    if warm_start is None:
        return rest
    given = numbers("warm_start", warm_start, (B, None, engine.action_dim))
    if given.shape[1] > T:
        raise ValueError(f"warm_start has {given.shape[1]} blocks, expected at most {T}, the horizon")
    return torch.cat([given, rest[:, given.shape[1] :]], dim=1)
