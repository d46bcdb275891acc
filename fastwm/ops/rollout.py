"""Batched latent rollouts of a packed predictor."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from fastwm.engine.backend import own_precision
from fastwm.engine.pack import PackedPredictor, handles
from fastwm.engine.spec import PredictorSpec
from fastwm.ops import _check
from fastwm.ops._register import op
from fastwm.reference.rollout import rollout as reference_rollout


def rollout(
    packed: PackedPredictor,
    context: Tensor,
    actions: Tensor,
    past_actions: Tensor | None = None,
    *,
    keep_all: bool = False,
    seconds: float | None = None,
    threads: int = 1,
) -> Tensor:
    """Predicted latents [B, S, E] after the last action block of each candidate, or [B, S, T, E] after each block if keep_all.

    context [B, K, E], 1 <= K <= window; actions [B, S, T, A] in environment units; past_actions [B, K-1, A], needed when K > 1;
    all float32, on the CPU, finite. seconds: no tile of candidates is started later than that; what is left out is NaN.
    Where gradients are asked for, the PyTorch reference runs, in float32.
    Raises TypeError or ValueError naming the argument.
    """
    if past_actions is None and isinstance(context, Tensor) and context.ndim == 3 and context.shape[1] == 1:
        past_actions = context.new_empty(context.shape[0], 0, packed.spec.action_dim)
    if torch.is_grad_enabled() and any(
        t.requires_grad for t in (context, actions, past_actions) if isinstance(t, Tensor)
    ):
        past = check_rollout(packed.spec, context, actions, past_actions)
        latents = one_by_one(packed.spec, context, actions, past, seconds)
        return latents if keep_all else latents[:, :, -1]
    return _rollout(packed.handle, context, actions, past_actions, keep_all, seconds, threads)


def one_by_one(
    spec: PredictorSpec, context: Tensor, actions: Tensor, past_actions: Tensor, seconds: float | None
) -> Tensor:
    """The reference's latents [B, S, T, E]; NaN, without a gradient, of environments that were not started in `seconds`.

    One environment at a time: PyTorch's matrix products round differently for another number of rows.
    """
    end = None if seconds is None else time.perf_counter() + seconds
    each = []
    with own_precision():
        for environment in zip(context.split(1), actions.split(1), past_actions.split(1), strict=True):
            if end is None or time.perf_counter() < end:
                each.append(reference_rollout(spec, *environment))
            else:
                each.append(context.new_full((1, *actions.shape[1:3], context.shape[2]), math.nan))
    return torch.cat(each)


def check_shapes(
    spec: PredictorSpec,
    context: object,
    actions: object,
    past_actions: object,
    device: torch.device = _check.CPU,
) -> None:
    """Raise TypeError or ValueError unless the three tensors fit the predictor and each other, on the CPU or `device`."""
    E, A = spec.embed_dim, spec.action_dim
    for name, tensor, expected, ndim in (
        ("context", context, f"[B, K, {E}]", 3),
        ("actions", actions, f"[B, S, T, {A}]", 4),
        ("past_actions", past_actions, f"[B, K-1, {A}]", 3),
    ):
        if name == "past_actions" and tensor is None:
            continue
        dense = _check.dense(name, tensor, expected, device)
        if dense.ndim != ndim:
            raise ValueError(f"{name} has shape {tuple(dense.shape)}, expected {expected}")
    assert isinstance(context, Tensor)
    assert isinstance(actions, Tensor)
    B, K = context.shape[:2]
    if context.shape[2] != E or B == 0:
        raise ValueError(f"context has shape {tuple(context.shape)}, expected [B, K, {E}], B at least 1")
    if not 1 <= K <= spec.window:
        raise ValueError(f"context has {K} frames, expected 1 to {spec.window} (the predictor's window)")
    if actions.shape[0] != B or actions.shape[3] != A or 0 in actions.shape:
        raise ValueError(f"actions has shape {tuple(actions.shape)}, expected [{B}, S, T, {A}]")
    if past_actions is None:
        if K > 1:
            raise ValueError(
                f"past_actions is None, expected [{B}, {K - 1}, {A}]: the blocks between the {K} context frames"
            )
    elif past_actions.shape != (B, K - 1, A):  # type: ignore[attr-defined]
        raise ValueError(f"past_actions has shape {tuple(past_actions.shape)}, expected [{B}, {K - 1}, {A}]")  # type: ignore[attr-defined]


def check_rollout(
    spec: PredictorSpec,
    context: Tensor,
    actions: Tensor,
    past_actions: Tensor | None,
    device: torch.device = _check.CPU,
) -> Tensor:
    """Shapes, and values of what is on the CPU; returns past_actions [B, K-1, A] (empty when K is 1)."""
    check_shapes(spec, context, actions, past_actions, device)
    if past_actions is None:
        past_actions = context.new_empty(context.shape[0], 0, spec.action_dim)
    for name, tensor in (("context", context), ("actions", actions), ("past_actions", past_actions)):
        if tensor.device.type == "cpu":
            _check.finite(name, tensor)
    return past_actions


def _empty(handle, context, actions, past_actions, keep_all, seconds, threads):  # type: ignore[no-untyped-def]
    check_shapes(handles[handle].spec, context, actions, past_actions)
    _check.integer("threads", threads, 1, 1025)
    if seconds is not None and not seconds < 1e9:
        raise ValueError(f"seconds is {seconds!r}, expected less than 1e9 or None")
    B, S, T, _ = actions.shape
    E = context.shape[2]
    return context.new_empty((B, S, T, E) if keep_all else (B, S, E))


@op(
    "rollout(int predictor, Tensor context, Tensor actions, Tensor? past_actions, bool keep_all, float? seconds, int threads) "
    "-> Tensor",
    fake=_empty,
)
def _rollout(handle, context, actions, past_actions, keep_all, seconds, threads):  # type: ignore[no-untyped-def]
    latents = _empty(handle, context, actions, past_actions, keep_all, seconds, threads)
    packed = handles[handle]
    past_actions = check_rollout(packed.spec, context, actions, past_actions).contiguous()
    context, actions = context.contiguous(), actions.contiguous()
    sizes = (*actions.shape[:3], context.shape[1])
    workspace = packed.workspace(*sizes, threads)
    packed.bound.rollout(
        *map(_check.address, (context, past_actions, actions, latents, workspace)),
        *(*sizes, keep_all, threads, -1.0 if seconds is None else max(0.0, seconds)),
    )
    return latents
