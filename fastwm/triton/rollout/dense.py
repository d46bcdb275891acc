"""y = activation(x W^T + bias): the action encoder, all layers' modulation, input projections, a head's later layers.

One program makes a tile [BM, BN]; the sum over K runs in order in one accumulator, so a row's bits depend on that row alone. In
all kernels of a rollout BM is at most 32: from 64 on a Hopper multiplies by another instruction, whose sums need not be the
same, and a batch of environments would not have the bits of one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwm.engine.cuda.device import start
from fastwm.triton.rollout.rows import activate

PROCESSORS = 132  # of an H100: programs that are worth having; a speed, not a result, depends on it


@triton.jit
def _dense(
    X, WEIGHT, BIAS, LAST, Y,
    rows, group, x_group, x_row, last_row, y_row, N,
    K: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr, RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    inside, real = row < rows, column < N
    x_offset = (row // group).to(tl.int64) * x_group + (row % group).to(tl.int64) * x_row
    total = tl.zeros([BM, BN], tl.float32)
    for first in range(0, K, BK):
        k = first + tl.arange(0, BK)
        x = tl.load(X + x_offset[:, None] + k[None, :], mask=inside[:, None] & (k < K)[None, :], other=0.0)
        if BEFORE != "none":
            x = activate(x.to(tl.float32), BEFORE)
        weight = tl.load(
            WEIGHT + column.to(tl.int64)[None, :] * K + k[:, None],
            mask=(k < K)[:, None] & real[None, :],
            other=0.0,
        )
        total = tl.dot(x.to(weight.dtype), weight, total, input_precision=PRECISION)
    y = activate(total + tl.load(BIAS + column, mask=real, other=0.0)[None, :], AFTER)
    mask = inside[:, None] & real[None, :]
    if RESIDUAL:
        y += tl.load(LAST + row.to(tl.int64)[:, None] * last_row + column[None, :], mask=mask, other=0.0)
    tl.store(Y + row.to(tl.int64)[:, None] * y_row + column[None, :], y.to(Y.dtype.element_ty), mask=mask)


def dense(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    *,
    before: str = "none",
    after: str = "none",
    last: Tensor | None = None,
) -> None:
    """out[g, r] = after(before(x[g, r]) weight^T + bias) (+ last[r]); weight [N, K], bias float32 [N].

    x [G, R, K] and out [G, R, N], of any strides but the last, which is 1; out's rows follow each other evenly. last float32
    [R, N], when G is 1.
    """
    groups, group, K = x.shape
    N, rows = weight.shape[0], groups * group
    BM, BN, BK = tile(rows, N, K)
    start(
        "dense",
        lambda: _dense[(triton.cdiv(rows, BM), triton.cdiv(N, BN))](
            x, weight, bias, out if last is None else last, out,
            rows, group, x.stride(0), x.stride(1), 0 if last is None else last.stride(0), out.stride(-2), N,
            K=K, BEFORE=before, AFTER=after, RESIDUAL=last is not None, PRECISION=precision(weight.dtype),
            BM=BM, BN=BN, BK=BK, num_warps=warps(weight.dtype), num_stages=2 if weight.dtype == torch.float32 else 3,
        ),
    )  # fmt: skip


def tile(rows: int, N: int, K: int) -> tuple[int, int, int]:
    """BM, BN, BK: bits depend on none of them but BK, which is a function of K."""
    return 32, min(64, power(N)), min(64, power(K))


def power(n: int) -> int:
    """The least power of two that is at least n and 16, the smallest side of a product on tensor cores."""
    return max(16, triton.next_power_of_2(n))


def warps(dtype: torch.dtype) -> int:
    """Of a program: three tf32 parts of every operand take more registers than four warps have."""
    return 8 if dtype == torch.float32 else 4


def precision(dtype: torch.dtype) -> str:
    """Of products: float32 in three of tf32, as good as float32; one of tf32 would be off by 1e-3. AMD's have no tf32."""
    return "tf32x3" if dtype == torch.float32 and torch.version.hip is None else "ieee"
