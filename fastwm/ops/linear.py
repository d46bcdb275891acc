"""A linear layer with gradients, float32 on the CPU by our own products; PyTorch's wherever those are not better."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastwm import reference
from fastwm.engine.backend import cpu_module
from fastwm.ops import _check
from fastwm.ops._register import op


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, bfloat16: bool = False) -> Tensor:
    """x weight^T + bias: x [..., K], weight [N, K], bias [N] -> [..., N], all of one floating dtype.

    bfloat16: of float32, round what is multiplied, as autocast does, but keep sums, results and gradients float32. PyTorch's
    own, where our kernels do not run, rounds results, too.

    Our products run for `bfloat16` on any processor, without copies of the weights, and for float32 on one with AVX-512,
    where PyTorch's library keeps AMD's to AVX2; with any other dtype, device or instruction set, and without `bfloat16`
    under autocast, it is `torch.nn.functional.linear`. Sums of ours do not depend on the threads.
    Raises TypeError or ValueError naming the argument.
    """
    if isinstance(x, Tensor) and x.numel() == 0:
        return reference.linear(x, weight, bias)
    autocast = torch.is_autocast_enabled(x.device.type) if isinstance(x, Tensor) else False
    _check_linear(x, weight, bias, autocast=autocast and not bfloat16)
    if bfloat16 and x.dtype != torch.float32:
        raise TypeError(f"x is {x.dtype}, expected torch.float32 for bfloat16=True")
    ours = x.dtype == torch.float32 and (bfloat16 or not autocast) and len(weight) > 0
    if ours and _isa(x, bfloat16) is not None:
        found: Tensor = _Linear.apply(x, weight, bias, bfloat16)
        return found
    return reference.linear(x, weight, bias, bfloat16=bfloat16)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, bfloat16: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bfloat16 = bfloat16
        rows = _product(x.reshape(-1, x.shape[-1]), weight, bias, False, True, bfloat16)
        return rows.view(*x.shape[:-1], len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows, narrow = gradient.reshape(-1, len(weight)), ctx.bfloat16
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        return (
            _product(rows, weight, None, False, False, narrow).view(x.shape) if of_x else None,
            _product(rows, x.reshape(-1, x.shape[-1]), None, True, False, narrow) if of_weight else None,
            rows.sum(0) if of_bias else None,
            None,
        )


def _check_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, autocast: bool) -> None:
    _check.floating("x", x, "K")
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        came = list(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f"weight is {came}, expected a tensor [N, {x.shape[-1]}]")
    if autocast:
        return  # which makes the dtypes one
    _check.tensor("weight", weight, (len(weight), x.shape[-1]), x, x.dtype)
    if bias is not None:
        _check.tensor("bias", bias, (len(weight),), x, x.dtype)


def _isa(x: Tensor, bfloat16: bool) -> str | None:
    """The instruction set whose products are better than PyTorch's."""
    isa = _check.training_kernels_for(x)
    return isa if isa and (bfloat16 or isa.startswith("avx512")) else None


def _fake_product(
    a: Tensor, b: Tensor, bias: Tensor | None, a_turned: bool, b_turned: bool, bfloat16: bool
) -> Tensor:
    return a.new_empty(a.shape[1] if a_turned else a.shape[0], b.shape[0] if b_turned else b.shape[1])


@op(
    "product(Tensor a, Tensor b, Tensor? bias, bool a_turned, bool b_turned, bool bfloat16) -> Tensor",
    fake=_fake_product,
)
def _product(
    a: Tensor, b: Tensor, bias: Tensor | None, a_turned: bool, b_turned: bool, bfloat16: bool
) -> Tensor:
    """op(a) op(b) + bias [M, N]: a [M, K] or, turned, [K, M]; b [K, N] or, turned, [N, K]; float32."""
    found = _fake_product(a, b, bias, a_turned, b_turned, bfloat16)
    isa, threads = _isa(a, bfloat16), torch.get_num_threads()
    if isa is None:  # a graph that was compiled where the products are better, run where they are not
        a, b = (t.to(torch.bfloat16) if bfloat16 else t for t in (a, b))
        product = ((a.T if a_turned else a) @ (b.T if b_turned else b)).float()
        return product if bias is None else product + bias
    a, b = a.resolve_neg().contiguous(), b.resolve_neg().contiguous()
    bias = None if bias is None else bias.resolve_neg().contiguous()
    cpu = cpu_module()
    workspace = torch.empty(threads, cpu.LINEAR_WORKSPACE)
    K = a.shape[0] if a_turned else a.shape[1]
    addresses = map(_check.address, (a, b, bias, found, workspace))
    cpu.linear(isa, *addresses, *found.shape, K, a_turned, b_turned, bfloat16, threads)
    return found
