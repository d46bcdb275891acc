"""Dynamics that are a function of your own, in PyTorch, numpy or JAX: what `Planner.from_function` plans with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fastwm.ops._check import dense
from fastwm.planning.arrays import Arrays, TorchCalls, calls
from fastwm.planning.costs import Cost
from fastwm.planning.goal import Goal
from fastwm.planning.inputs import numbers


class FunctionDynamics:
    """What a `Planner` needs of a world model, made of `step`: states [N, D], actions [N, A] -> next states [N, D].

    N counts the candidates of all environments: one call is one step of all of them. A latent is a state.
    arrays: what `step` is given and returns: "torch", "numpy" or "jax"; float32, and its own to write to. Numbers of another
    precision are taken as float32. A JAX function is compiled by `jax.jit`, once for each N. Only with "torch" do gradients
    flow to the actions.
    action_mean, action_std: where searches begin and what their std is measured in, a number or one per action.
    Raises TypeError or ValueError naming the argument that does not fit, and ImportError if JAX is asked for and missing.
    """

    window = 1
    action_block = 1
    observation_dims = 1
    threads = 1

    def __init__(
        self,
        step: Callable[[Any, Any], Any],
        *,
        state_dim: int,
        action_dim: int,
        arrays: Arrays = "torch",
        action_mean: float | Sequence[float] = 0.0,
        action_std: float | Sequence[float] = 1.0,
    ) -> None:
        if not callable(step):
            raise TypeError(f"step is {type(step).__name__}, expected a function of states and actions")
        for name, size in (("state_dim", state_dim), ("action_dim", action_dim)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}, expected an integer of at least 1")
        self.embed_dim, self.action_dim = state_dim, action_dim
        self.action_mean = _per_action("action_mean", action_mean, action_dim)
        self.action_std = _per_action("action_std", action_std, action_dim)
        if not (self.action_std > 0).all():
            raise ValueError(f"action_std is {action_std!r}, expected positive numbers")
        self._calls = calls(arrays)
        self._step = self._calls.prepare(step)

    def encode(self, obs: Tensor | np.ndarray) -> Tensor:
        """States [D], [B, D] or [B, K, D] -> float32 [B, K, D], as they are. Raises TypeError or ValueError."""
        ndim = getattr(obs, "ndim", 0)
        if not 1 <= ndim <= 3:
            found = tuple(obs.shape) if isinstance(obs, (Tensor, np.ndarray)) else type(obs).__name__
            raise ValueError(
                f"obs is {found}, expected states [{self.embed_dim}] or [B, {self.embed_dim}] as a tensor or array"
            )
        states = numbers("obs", obs, (*[None] * (ndim - 1), self.embed_dim))
        if 0 in states.shape:
            raise ValueError(f"obs has shape {tuple(states.shape)}, expected at least one state")
        return states.view(1, 1, -1) if ndim == 1 else states[:, None] if ndim == 2 else states

    def rollout(
        self,
        context: Tensor,
        actions: Tensor,
        past_actions: Tensor | None = None,
        *,
        keep: Literal["last", "all"] = "last",
        seconds: float | None = None,
    ) -> Tensor:
        """States after each candidate's actions: [B, S, D] after the last, or [B, S, T, D] with keep="all".

        context [B, 1, D], actions [B, S, T, A]; past_actions are of no use here.
        seconds: no step is started later than that; the states from there on are NaN.
        Raises TypeError or ValueError naming the argument, or `step` if what it returns does not fit.
        """
        if keep not in ("last", "all"):
            raise ValueError(f"keep is {keep!r}, expected 'last' or 'all'")
        D, A = self.embed_dim, self.action_dim
        dense("context", context, f"[B, 1, {D}]")
        dense("actions", actions, f"[B, S, T, {A}]")
        if actions.dim() != 4 or actions.shape[-1] != A or 0 in actions.shape:
            raise ValueError(f"actions has shape {tuple(actions.shape)}, expected [B, S, T, {A}]")
        B, S, T, _ = actions.shape
        if context.shape != (B, 1, D):
            raise ValueError(f"context has shape {tuple(context.shape)}, expected {(B, 1, D)}")
        end = time.perf_counter() + (math.inf if seconds is None else seconds)
        states = context.expand(B, S, D).reshape(B * S, D)
        each = []
        for t in range(T):
            if time.perf_counter() < end:
                block = actions[:, :, t].reshape(B * S, A)
                states = self._calls.call("step", self._step, states, block, shape=(B * S, D))
            else:
                states = torch.full_like(states, math.nan)
            each.append(states.view(B, S, D))
        return each[-1] if keep == "last" else torch.stack(each, dim=2)

    def cost(self, cost: Cost | Callable[[Any, Any], Any] | None) -> Cost | None:
        """The `cost` of a Planner: a function of arrays becomes one of tensors, a Cost or None stays."""
        if cost is None or isinstance(cost, Cost):
            return cost
        if not callable(cost):
            raise TypeError(f"cost is {type(cost).__name__}, expected a fastwm Cost, a function or None")
        return _ArrayCost(self._calls, self._calls.prepare(cost))


class _ArrayCost(Cost):
    """A function of arrays, `prepared`: states [B, S, T, D], actions [B, S, T, A] -> cost [B, S]."""

    keep = "all"

    def __init__(self, how: TorchCalls, prepared: Callable[..., Any]) -> None:
        self._calls, self._prepared = how, prepared

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        return self._calls.call("cost", self._prepared, latents, actions, shape=tuple(actions.shape[:2]))


def _per_action(name: str, value: float | Sequence[float], count: int) -> Tensor:
    """A number, or one per action, as [A]."""
    found = torch.as_tensor(value, dtype=torch.float32, device="cpu")
    if found.shape not in ((), (count,)) or not found.isfinite().all():
        raise ValueError(f"{name} is {value!r}, expected a finite number or {count} of them")
    return found.expand(count).clone()
