"""LayerNorm, modulation by shift and scale, and an optional second LayerNorm; with gradients.

A GPU's kernels are Triton's; the CPU's, in C++, take float32, and PyTorch computes other dtypes there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastwm import reference
from fastwm.engine.backend import cpu_module
from fastwm.engine.cuda import device
from fastwm.ops import _check
from fastwm.ops._register import op

WIDEST = 16384  # numbers in a row that one program holds


def adaln(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    gain: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-6,
    affine_eps: float = 1e-5,
) -> Tensor:
    """norm(x) (1 + scale) + shift, and with gain and bias the LayerNorm of that: [..., N, W] like x.

    x [..., N, W]; shift and scale [..., N or 1, W]: of each row, or of the N rows that share one (a frame's tokens); gain and
    bias [W], both or none. float32 or bfloat16 (any floating dtype where the PyTorch reference runs), one for all; sums
    are float32. AdaLN: arXiv:2212.09748, section 3.2; the second LayerNorm is that of LeWM's blocks (arXiv:2603.19312).
    Raises TypeError or ValueError naming the argument.
    """
    return _AdaLN.apply(x, shift, scale, gain, bias, float(eps), float(affine_eps))


class _AdaLN(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor, scale: Tensor, gain: Tensor, bias: Tensor, *eps: float
    ) -> Tensor:
        y, statistics = _forward(x, shift, scale, gain, bias, *eps)
        ctx.save_for_backward(x, shift, scale, gain, statistics)
        ctx.eps = eps
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once: activation checkpointing unpacks each but once
        *gradients, of_affine = _backward(gradient, *saved, *ctx.eps)
        affine = (None, None) if saved[3] is None else of_affine.unbind()
        return *gradients, *affine, None, None


def _check_forward(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    eps: float,
    affine_eps: float,
) -> tuple[Tensor, Tensor]:
    gpu = _check.floating("x", x, "N W")
    W = x.shape[-1]
    if gpu and W > WIDEST:
        raise ValueError(f"x has rows of {W} numbers, expected at most {WIDEST}")
    _check.shared_by_rows("shift", shift, x)
    _check.tensor("scale", scale, tuple(shift.shape), x, x.dtype)
    if (gain is None) != (bias is None):
        raise ValueError("gain and bias come together, expected both or none")
    for name, value in (("gain", gain), ("bias", bias)):
        if value is not None:
            _check.tensor(name, value, (W,), x, x.dtype)
    _check.number("eps", eps, 0)
    _check.number("affine_eps", affine_eps, 0)
    statistics = torch.empty((4, x.numel() // W) if gpu else 0, dtype=torch.float32, device=x.device)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), statistics


@op(
    "adaln_forward(Tensor x, Tensor shift, Tensor scale, Tensor? gain, Tensor? bias, float eps, float affine_eps)"
    " -> (Tensor, Tensor)",
    fake=_check_forward,
)
def _forward(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    eps: float,
    affine_eps: float,
) -> tuple[Tensor, Tensor]:
    empty = _check_forward(x, shift, scale, gain, bias, eps, affine_eps)
    if not device.is_gpu(x.device):
        isa = _check.training_kernels_for(x)
        if isa is not None:
            x, shift, scale = x.contiguous(), shift.contiguous(), scale.contiguous()
            affine = [None if t is None else t.contiguous() for t in (gain, bias)]
            addresses = map(_check.address, (x, shift, scale, *affine, empty[0]))
            cpu_module().adaln(isa, *addresses, *_sizes(x, shift), eps, affine_eps, torch.get_num_threads())
            return empty
        return reference.adaln(x, shift, scale, gain, bias, eps, affine_eps).contiguous(), empty[1]
    from fastwm.triton import adaln as kernels

    return kernels.forward(x, shift, scale, gain, bias, eps, affine_eps)


def _fake_backward(
    gradient: Tensor,
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    gain: Tensor | None,
    statistics: Tensor,
    eps: float,
    affine_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    like = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, shift, scale)]
    return *like, x.new_empty(0) if gain is None else x.new_empty(2, x.shape[-1])  # type: ignore[return-value]


@op(
    "adaln_backward(Tensor gradient, Tensor x, Tensor shift, Tensor scale, Tensor? gain, Tensor statistics, float eps, "
    "float affine_eps) -> (Tensor, Tensor, Tensor, Tensor)",
    fake=_fake_backward,
)
def _backward(
    gradient: Tensor,
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    gain: Tensor | None,
    statistics: Tensor,
    eps: float,
    affine_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not device.is_gpu(x.device):
        isa = _check.training_kernels_for(x)
        if isa is not None:
            return _backward_on_cpu(isa, gradient, x, shift, scale, gain, eps, affine_eps)
        found = reference.adaln_backward(gradient, x, shift, scale, gain, eps, affine_eps)
        return tuple(t.contiguous() for t in found)  # type: ignore[return-value]
    from fastwm.triton import adaln as kernels

    return kernels.backward(gradient, x, shift, scale, gain, statistics)


def _sizes(x: Tensor, shift: Tensor) -> tuple[int, int, int]:
    """Rows of x, how many share one of shift, and their width."""
    return x.numel() // x.shape[-1], x.numel() // shift.numel(), x.shape[-1]


def _backward_on_cpu(
    isa: str,
    gradient: Tensor,
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    gain: Tensor | None,
    eps: float,
    affine_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, share, W = _sizes(x, shift)
    given = [None if t is None else t.contiguous() for t in (gradient, x, shift, scale, gain)]
    each = max(1, cpu_module().ADALN_ROWS_PER_TASK // share) * share
    tasks = -(-rows // each)
    dx, dshift, dscale = (torch.empty(t.shape) for t in (x, shift, scale))
    of_affine = torch.empty(tasks if gain is not None else 0, 2, W)
    workspace = torch.empty(tasks, 3, W)
    addresses = map(_check.address, (*given, dx, dshift, dscale, of_affine, workspace))
    threads = torch.get_num_threads()
    cpu_module().adaln_backward(isa, *addresses, rows, share, W, tasks, eps, affine_eps, threads)
    return dx, dshift, dscale, x.new_empty(0) if gain is None else of_affine.sum(0)
