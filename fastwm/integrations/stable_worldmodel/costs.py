"""Candidates -> costs, for the environments of one solve: on the engine, or by the cost's own `get_cost`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastwm import ops
from fastwm.engine.engine import Engine
from fastwm.integrations.stable_worldmodel.recognise import Known, NotOnEngine

Evaluate = Callable[[Tensor], Tensor]  # candidates [b, S, T, A] -> cost [b, S]

CACHED = ("emb", "goal_emb")  # latents that a caller encoded; the engine encodes by itself

# Of the largest cost. Float32 differs by 1e-6, a cost of another kind far more; narrow dtypes were judged by their ranking.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "int8": 0.3}


def expand(
    info: Mapping[str, Any], rows: slice, samples: int, device: str | torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """The information on some environments as `get_cost` takes it: [b, S, ...] for tensors and arrays, S a view for tensors."""
    found = {}
    for name, value in info.items():
        value = value[rows]
        if isinstance(value, Tensor):
            value = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            value = value[:, None].expand(-1, samples, *value.shape[1:])
        elif isinstance(value, np.ndarray):
            value = value[:, None].repeat(samples, axis=1)
        found[name] = value
    return found


class OwnCost(NamedTuple):
    """The cost's own `get_cost`, called as stable-worldmodel's solvers call it."""

    cost: Any
    info: Mapping[str, Any]
    samples: int
    device: str | torch.device
    dtype: torch.dtype
    together: bool = False  # batches of environments are searched one after another

    def of(self, rows: slice) -> Evaluate:
        """The costs of the environments `rows`."""
        info = expand(self.info, rows, self.samples, self.device, self.dtype)

        def evaluate(actions: Tensor) -> Tensor:
            cost = self.cost.get_cost(info, actions.to(self.device, self.dtype))
            if not isinstance(cost, Tensor):
                raise TypeError(f"get_cost returned {type(cost).__name__}, expected a torch.Tensor")
            if cost.shape != actions.shape[:2]:
                raise ValueError(
                    f"get_cost returned shape {tuple(cost.shape)}, expected {tuple(actions.shape[:2])}"
                )
            return cost.detach().to("cpu", torch.float32)

        return evaluate


class EngineCost(NamedTuple):
    """A known cost on the engine; frames are encoded once per solve."""

    engine: Engine
    known: Known
    context: Tensor  # [n, K, E]
    goal: Tensor  # [n, E]
    past: Tensor | None  # [n, K-1, A] executed blocks; None where they are the candidates' first
    frames: int  # K before those that the model's window does not reach were left out
    together: bool = True  # environments are searched at once

    def of(self, rows: slice) -> Evaluate:
        """The costs of the environments `rows`."""
        context, goal = self.context[rows], self.goal[rows]
        past = None if self.past is None else self.past[rows]
        terms, engine = self.known.terms, self.engine
        weight = terms.goal_sum + terms.goal_mean / engine.embed_dim

        def evaluate(actions: Tensor) -> Tensor:
            own = self._after_own_past
            latents = own(context, actions) if past is None else engine.rollout(context, actions, past)
            cost = weight * ops.goal_cost(latents, goal, threads=engine.threads)
            return cost + terms.action * actions.square().sum((2, 3)) if terms.action else cost

        return evaluate

    def _after_own_past(self, context: Tensor, actions: Tensor) -> Tensor:
        """Latents [b, S, E] where a candidate's first blocks are its past: it is one environment of the engine."""
        (b, S, T, A), K = actions.shape, context.shape[1]
        if K == 1:
            return self.engine.rollout(context, actions[:, :, self.frames - 1 :])
        alone = actions[:, :, self.frames - K :].reshape(b * S, 1, T - self.frames + K, A)
        latents = self.engine.rollout(
            context.repeat_interleave(S, dim=0), alone[:, :, K - 1 :], alone[:, 0, : K - 1]
        )
        return latents.view(b, S, -1)

    def check(
        self, cost: Any, info: Mapping[str, Any], mean: Tensor, std: Tensor, dtype: torch.dtype
    ) -> None:
        """NotOnEngine unless the first environment's costs are those of the cost's own `get_cost`. mean, std [n, T, A]."""
        draws = torch.randn((1, 4, *mean.shape[1:]), generator=torch.Generator().manual_seed(0))
        actions, rows = (mean[:1, None] + std[:1, None] * draws), slice(0, 1)
        expected = OwnCost(cost, info, 4, "cpu", dtype).of(rows)(actions)
        difference = float((self.of(rows)(actions) - expected).abs().max())
        tolerance = TOLERANCE[self.engine.dtype] if dtype == torch.float32 else TOLERANCE["bfloat16"]
        if not difference <= tolerance * float(expected.abs().max()) + 1e-6:
            raise NotOnEngine(
                f"its get_cost gives {expected[0].tolist()} where the engine finds other costs (by {difference:.2g}): a hook, "
                "a changed method or another version of stable-worldmodel"
            )


def engine_cost(engine: Engine, known: Known, info: Mapping[str, Any], T: int, A: int) -> EngineCost:
    """Encode observations and goals of all environments.

    info: "pixels" [n, K, C, height, width], "goal" [n, G, C, height, width], of which the last frame counts, and with
    K > 1 on the main branch "action_history" [n, K-1, A].
    Raises TypeError or ValueError naming what does not fit, NotOnEngine where the caller brings latents.
    """
    given = [name for name in CACHED if name in info]
    if given:
        raise NotOnEngine(f"info_dict has {' and '.join(given)}")
    if engine.action_dim != A:
        raise ValueError(
            f"the action space has {A} numbers in a block, expected the model's {engine.action_dim}"
        )
    pixels = _frames("pixels", info)
    goal = _frames("goal_pixels" if "goal_pixels" in info else "goal", info)[:, -1:]
    n, K = pixels.shape[:2]
    if len(goal) != n:
        raise ValueError(f"info_dict['goal'] has {len(goal)} environments, expected {n} as 'pixels' has")
    past = None
    if not known.past_in_candidate:
        past = _history(info, (n, K - 1, A))
    elif T < K:
        raise ValueError(
            f"horizon is {T}, expected at least {K}: the first {K} blocks go with the frames of 'pixels'"
        )
    kept = min(K, engine.window)
    return EngineCost(
        engine,
        known,
        _encode("pixels", engine, pixels[:, K - kept :]),
        _encode("goal", engine, goal)[:, 0],
        None if past is None else past[:, K - kept :],
        K,
    )


def _frames(name: str, info: Mapping[str, Any]) -> Tensor:
    if name not in info:
        raise ValueError(f"info_dict has {sorted(info)}, expected '{name}', too")
    value = info[name]
    if not isinstance(value, Tensor):
        raise TypeError(f"info_dict['{name}'] is {type(value).__name__}, expected a tensor")
    if value.ndim != 5:
        raise ValueError(
            f"info_dict['{name}'] has shape {tuple(value.shape)}, expected [n, frames, C, height, width]"
        )
    return value


def _encode(name: str, engine: Engine, frames: Tensor) -> Tensor:
    try:
        return engine.encode(frames.to("cpu", torch.float32))
    except (TypeError, ValueError) as error:
        raise type(error)(f"info_dict['{name}']: {error}") from error


def _history(info: Mapping[str, Any], shape: tuple[int, int, int]) -> Tensor:
    value = info.get("action_history")
    if value is None and shape[1] == 0:
        return torch.zeros(shape)
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise TypeError(
            f"info_dict['action_history'] is {kind}, expected a tensor {shape}, the blocks between the frames"
        )
    if value.shape != shape:
        raise ValueError(f"info_dict['action_history'] has shape {tuple(value.shape)}, expected {shape}")
    return value.to("cpu", torch.float32)
