"""x + gate * y, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastwm import reference
from fastwm.engine.cuda import device
from fastwm.ops import _check
from fastwm.ops._register import op
from fastwm.ops.adaln import WIDEST


def gated_residual(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """x + gate y [..., N, W]: x and y [..., N, W]; gate [..., N or 1, W], of each row or of the N rows that share one.

    float32 or bfloat16 (any floating dtype where the PyTorch reference runs), one for all. Half of an AdaLN-zero block
    (arXiv:2212.09748). Raises TypeError or ValueError naming the argument.
    """
    return _GatedResidual.apply(x, gate, y)


class _GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(gate, y)
        return _forward(x, gate, y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *_backward(gradient, *ctx.saved_tensors)


def _check_forward(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    if _check.floating("x", x, "N W") and x.shape[-1] > WIDEST:
        raise ValueError(f"x has rows of {x.shape[-1]} numbers, expected at most {WIDEST}")
    _check.shared_by_rows("gate", gate, x)
    _check.tensor("y", y, tuple(x.shape), x, x.dtype)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@op("gated_residual_forward(Tensor x, Tensor gate, Tensor y) -> Tensor", fake=_check_forward)
def _forward(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    _check_forward(x, gate, y)
    if not device.is_gpu(x.device):
        return reference.gated_residual(x, gate, y).contiguous()
    from fastwm.triton import gated_residual as kernels

    return kernels.forward(x, gate, y)


def _fake_backward(gradient: Tensor, gate: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    dgate, dy = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (gate, y))
    return dgate, dy


@op(
    "gated_residual_backward(Tensor gradient, Tensor gate, Tensor y) -> (Tensor, Tensor)", fake=_fake_backward
)
def _backward(gradient: Tensor, gate: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if not device.is_gpu(y.device):
        dgate, dy = reference.gated_residual_backward(gradient, gate, y)
        return dgate.contiguous(), dy.contiguous()
    from fastwm.triton import gated_residual as kernels

    return kernels.backward(gradient, gate, y)
