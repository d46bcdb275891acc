"""A linear layer with gradients, float32 on the CPU by our own products; PyTorch's wherever those are not better."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastwm.engine.backend import cpu_module
from fastwm.ops import _check
from fastwm.ops._register import op


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: x [..., K], weight [N, K], bias [N] -> [..., N], all of one floating dtype.

    Our products run for float32 on a processor with AVX-512, where PyTorch's library keeps AMD's to AVX2; with any other
    dtype, device or instruction set, and under autocast, it is `torch.nn.functional.linear`. Their sums do not depend on the
    threads. Raises TypeError or ValueError naming the argument.
    """
    _check_linear(x, weight, bias)
    if x.dtype != torch.float32 or torch.is_autocast_enabled(x.device.type) or _isa(x) is None:
        return F.linear(x, weight, bias)
    found: Tensor = _Linear.apply(x, weight, bias)
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows = _product(x.reshape(-1, x.shape[-1]), weight, bias, False, True)
        return rows.view(*x.shape[:-1], len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, len(weight))
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(rows, weight, None, False, False).view(x.shape) if of_x else None,
            _product(rows, x.reshape(-1, x.shape[-1]), None, True, False) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _check_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    _check.floating("x", x, "K")
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        came = list(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f"weight is {came}, expected a tensor [N, {x.shape[-1]}]")
    if torch.is_autocast_enabled(x.device.type):
        return  # which makes the dtypes one
    _check.tensor("weight", weight, (len(weight), x.shape[-1]), x, x.dtype)
    if bias is not None:
        _check.tensor("bias", bias, (len(weight),), x, x.dtype)


def _isa(x: Tensor) -> str | None:
    """The instruction set whose products are better than PyTorch's."""
    isa = _check.training_kernels_for(x)
    return isa if isa is not None and isa.startswith("avx512") else None


def _fake_product(a: Tensor, b: Tensor, bias: Tensor | None, a_turned: bool, b_turned: bool) -> Tensor:
    return a.new_empty(a.shape[1] if a_turned else a.shape[0], b.shape[0] if b_turned else b.shape[1])


@op("product(Tensor a, Tensor b, Tensor? bias, bool a_turned, bool b_turned) -> Tensor", fake=_fake_product)
def _product(a: Tensor, b: Tensor, bias: Tensor | None, a_turned: bool, b_turned: bool) -> Tensor:
    """op(a) op(b) + bias [M, N]: a [M, K] or, turned, [K, M]; b [K, N] or, turned, [N, K]."""
    found = _fake_product(a, b, bias, a_turned, b_turned)
    if found.numel() == 0:
        return found
    isa, threads = _isa(a), torch.get_num_threads()
    if isa is None:  # a graph that was compiled where the products are better, run where they are not
        turned = (a.T if a_turned else a) @ (b.T if b_turned else b)
        return turned if bias is None else turned + bias
    a, b = a.contiguous(), b.contiguous()
    bias = None if bias is None else bias.contiguous()
    cpu = cpu_module()
    workspace = torch.empty(threads, cpu.PRODUCT_WORKSPACE)
    K = a.shape[0] if a_turned else a.shape[1]
    addresses = map(_check.address, (a, b, bias, found, workspace))
    cpu.product(isa, *addresses, *found.shape, K, a_turned, b_turned, threads)
    return found
