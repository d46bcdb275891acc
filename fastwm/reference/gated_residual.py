"""Gated residuals in plain PyTorch, any floating dtype."""

from __future__ import annotations

from torch import Tensor


def gated_residual(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """x and y [..., N, W], gate [..., N or 1, W] -> x + gate y. See `fastwm.ops.gated_residual`."""
    return x + gate * y


def gated_residual_backward(gradient: Tensor, gate: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and y, from that of the result."""
    return (gradient * y).sum_to_size(gate.shape), gradient * gate
