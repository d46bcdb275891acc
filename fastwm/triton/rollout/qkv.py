"""The first kernel of a layer: both norms and the modulation of a row, then its queries, keys and values.

The norms are made again by every program of a row's column tiles: W numbers of a row are read from L2 and normalised in
registers, which costs less than writing them and starting another kernel. With `affine` the same kernel is the predictor's
last norm and its head's first layer.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwm.engine.cuda.device import start
from fastwm.triton.rollout.dense import PROCESSORS, power, precision, warps
from fastwm.triton.rollout.rows import activate, affine_norm, modulated


@triton.jit
def _qkv(
    X, MODULATION, GAIN, SHIFT, WEIGHT, BIAS, FIRST, SECOND,
    rows, asking_from, modulation_row, N, split,
    W: tl.constexpr, AFFINE: tl.constexpr, AFTER: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, NC: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    if tl.program_id(1) * BN + BN <= split and tl.program_id(0) * BM + BM <= asking_from:
        return  # queries that nobody asks
    inside, real = row < rows, column < N
    long = row.to(tl.int64)
    if AFFINE:
        x = affine_norm(X, long * W, GAIN, SHIFT, inside, W, BC, NC)
    else:
        x = modulated(X, long * W, MODULATION, long * modulation_row, inside, W, BC, NC)
    total = tl.zeros([BM, BN], tl.float32)
    for i in tl.static_range(NC):
        k = i * BC + tl.arange(0, BC)
        weight = tl.load(
            WEIGHT + column.to(tl.int64)[None, :] * W + k[:, None],
            mask=(k < W)[:, None] & real[None, :],
            other=0.0,
        )
        total = tl.dot(x[i].to(weight.dtype), weight, total, input_precision=PRECISION)
    y = activate(total + tl.load(BIAS + column, mask=real, other=0.0)[None, :], AFTER).to(
        FIRST.dtype.element_ty
    )
    query = (long - asking_from)[:, None] * split + column[None, :]
    tl.store(FIRST + query, y, mask=((row >= asking_from) & inside)[:, None] & (column < split)[None, :])
    other = long[:, None] * (N - split) + (column - split)[None, :]
    tl.store(SECOND + other, y, mask=inside[:, None] & (real & (column >= split))[None, :])


def qkv(
    x: Tensor,
    modulation: Tensor,
    weight: Tensor,
    bias: Tensor,
    query: Tensor,
    keys_values: Tensor,
    *,
    asking_from: int,
) -> None:
    """x float32 [rows, W], modulation [rows, shift, scale, gate of W] (rows strided), weight [3 H D, W] ->
    query [rows - asking_from, H D] of the rows from `asking_from` on, keys_values [rows, 2 H D].
    """
    _start("qkv", x, modulation, None, weight, bias, query, keys_values, asking_from, "none")


def norm_dense(
    x: Tensor, norm: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor, out: Tensor, *, after: str
) -> None:
    """out [rows, N] = after(LayerNorm_1e-5(x) weight^T + bias), norm: gain and shift [W]; x float32 [rows, W]."""
    _start("norm_dense", x, x, norm, weight, bias, out, out, 0, after)


def _start(
    name: str,
    x: Tensor,
    modulation: Tensor,
    affine: tuple[Tensor, Tensor] | None,
    weight: Tensor,
    bias: Tensor,
    first: Tensor,
    second: Tensor,
    asking_from: int,
    after: str,
) -> None:
    (rows, W), (N, _) = x.shape, weight.shape
    BM, BN, BC = 32, columns(rows, N, weight.dtype), min(64, power(W))
    gain, shift = affine or (bias, bias)
    start(
        name,
        lambda: _qkv[(triton.cdiv(rows, BM), triton.cdiv(N, BN))](
            x, modulation, gain, shift, weight, bias, first, second,
            rows, asking_from, modulation.stride(0), N, first.shape[-1],
            W=W, AFFINE=affine is not None, AFTER=after, PRECISION=precision(weight.dtype),
            BM=BM, BN=BN, BC=BC, NC=triton.cdiv(W, BC), num_warps=warps(weight.dtype), num_stages=2,
        ),
    )  # fmt: skip


def columns(rows: int, N: int, dtype: torch.dtype) -> int:
    """Of a tile: many, so that rows are read and normalised by few programs, as long as most processors have one."""
    BN = min(64 if dtype == torch.float32 else 256, power(N))
    while BN > 64 and triton.cdiv(rows, 32) * triton.cdiv(N, BN) < 3 * PROCESSORS // 4:
        BN //= 2
    return BN
