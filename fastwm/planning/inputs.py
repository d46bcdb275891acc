"""What the planner is given -> what the search works on. Everything is checked here, before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fastwm.ops._check import from_array, readable

Observation = Tensor | np.ndarray | Mapping[str, Tensor | np.ndarray]


class Dynamics(Protocol):
    """What planning needs of a world model; `fastwm.Engine` is one, `Planner.from_function` makes one."""

    embed_dim: int  # E
    action_dim: int  # A
    window: int  # most frames of context
    action_block: int  # environment steps in an action block, 1 where that is not known
    threads: int
    action_mean: Tensor  # [A] where searches begin, environment units
    action_std: Tensor  # [A] what a search's std is measured in

    @property
    def observation_dims(self) -> int:
        """Dimensions of one observation: 3 for an image, 1 for a state."""

    def encode(self, obs: Tensor | np.ndarray) -> Tensor:
        """[...], [B, ...] or [B, K, ...] -> latents float32 [B, K, E]"""

    def rollout(
        self,
        context: Tensor,
        actions: Tensor,
        past_actions: Tensor | None = None,
        *,
        keep: Literal["last", "all"] = "last",
        seconds: float | None = None,
    ) -> Tensor:
        """context [B, K, E], actions [B, S, T, A] -> [B, S, E] or [B, S, T, E]; NaN for what `seconds` do not suffice for.
        Gradients flow to the actions where they ask for them."""


def numbers(name: str, value: object, shape: tuple[int | None, ...]) -> Tensor:
    """`value` as finite float32 of `shape` on the CPU, where None is any size. Raises TypeError or ValueError naming the
    argument."""
    if isinstance(value, np.ndarray):
        value = from_array(name, value)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} is {kind}, expected a tensor or array of floating-point numbers")
    expected = ", ".join("any" if size is None else str(size) for size in shape)
    readable(name, value, f"({expected})")
    if value.dim() != len(shape) or any(
        size not in (None, got) for size, got in zip(shape, value.shape, strict=True)
    ):
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected ({expected})")
    value = value.detach().to("cpu", torch.float32)
    if not value.isfinite().all():
        raise ValueError(f"{name} holds numbers that are not finite in float32")
    return value


def observe(engine: Dynamics, obs: Observation) -> tuple[Tensor, Tensor | None]:
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
