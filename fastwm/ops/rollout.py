"""Batched latent rollouts: check once, allocate, call the kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from fastwm.engine.pack import PackedPredictor
from fastwm.engine.spec import PredictorSpec


def check_rollout(spec: PredictorSpec, context: Tensor, actions: Tensor, past_actions: Tensor | None) -> Tensor:
    """Raise TypeError or ValueError unless the arguments fit the predictor; returns past_actions [B, K-1, A] (empty when K is 1).

    context [B, K, E], actions [B, S, T, A], past_actions [B, K-1, A] or None when K is 1; float32, on the CPU, finite.
    """
    E, A = spec.embed_dim, spec.action_dim
    _check_tensor("context", context, f"[B, K, {E}]", 3)
    _check_tensor("actions", actions, f"[B, S, T, {A}]", 4)
    B, K = context.shape[:2]
    if context.shape[2] != E or B == 0:
        raise ValueError(f"context has shape {tuple(context.shape)}, expected [B, K, {E}]")
    if not 1 <= K <= spec.window:
        raise ValueError(f"context has {K} frames, expected 1 to {spec.window} (the predictor's window)")
    if actions.shape[0] != B or actions.shape[3] != A or 0 in actions.shape:
        raise ValueError(f"actions has shape {tuple(actions.shape)}, expected [{B}, S, T, {A}]")
    if past_actions is None:
        if K > 1:
            raise ValueError(f"past_actions is None, expected [{B}, {K - 1}, {A}]: the blocks between the {K} context frames")
        past_actions = context.new_empty(B, 0, A)
    _check_tensor("past_actions", past_actions, f"[{B}, {K - 1}, {A}]", 3)
    if past_actions.shape != (B, K - 1, A):
        raise ValueError(f"past_actions has shape {tuple(past_actions.shape)}, expected [{B}, {K - 1}, {A}]")
    for name, tensor in (("context", context), ("actions", actions), ("past_actions", past_actions)):
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    return past_actions


def packed_rollout(
    packed: PackedPredictor, context: Tensor, actions: Tensor, past_actions: Tensor, *, keep_all: bool, threads: int
) -> Tensor:
    """Run the kernel on checked arguments: [B, S, T, E] if keep_all, else [B, S, E]."""
    B, S, T, _ = actions.shape
    K, E = context.shape[1:]
    context, actions, past_actions = context.contiguous(), actions.contiguous(), past_actions.contiguous()
    latents = torch.empty((B, S, T, E) if keep_all else (B, S, E))
    workspace = packed.workspace(B, S, T, K, threads)
    packed.bound.rollout(
        context.data_ptr(),
        past_actions.data_ptr(),
        actions.data_ptr(),
        latents.data_ptr(),
        workspace.data_ptr(),
        B,
        S,
        T,
        K,
        keep_all,
        threads,
    )
    return latents


def _check_tensor(name: str, tensor: Tensor, expected: str, ndim: int) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is {type(tensor).__name__}, expected a tensor {expected}")
    if tensor.dtype != torch.float32:
        raise TypeError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}, expected float32 {expected}")
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on {tensor.device}, expected the CPU")
    if tensor.ndim != ndim:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {expected}")
