"""LayerNorm, modulation and an optional second LayerNorm: one pass over a row, forward and backward.

    u = (x - mean(x)) rstd(x) (1 + scale) + shift,   y = u   or   y = (u - mean(u)) rstd(u) gain + bias

Rows are [R, N, W]: N rows of one group share a shift and a scale (N = 1: each row has its own, as in LeWM; N = the
tokens of a frame in DINO-WM's family). A whole row lies in one program, so that both normalisations need one read of x; means
and reciprocal deviations are kept, [4, R N] float32, and the backward pass normalises x again from them: a read of x is the
price, three rows of intermediates are what it saves.

Forward: a tile of rows per program, the group's modulation gathered by row / N.
Backward: rows with a modulation of their own are tiled in the same way; rows that share one are walked by one program per
group, which adds up the gradients of shift and scale in order. Gradients of gain and bias need sums over all rows: each
program adds up its own rows and stores the part, `add_parts` adds the parts in order. No atomics: the bits are the same in
every run.

Counted per row at LeWM's size (bfloat16, W = 192), forward: 4 rows of 384 bytes move, by one launch. PyTorch's five kernels
(layer_norm, 1 + scale, times, plus, layer_norm) move 12.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwm.engine.cuda import device
from fastwm.triton._rows import add_parts, load, rows_of, store, tile

PARTS = (
    256  # programs that add up the gradients of gain and bias: about two for each multiprocessor of an H100
)

# ---- rows ------------------------------------------------------------------------------------------------------------------


@triton.jit
def _mean(x, W):
    return tl.sum(x, 1) / W


@triton.jit
def _statistics(x, valid, W, eps):
    """Mean and reciprocal deviation of each row: the deviations from the mean are squared, which loses no digits."""
    mean = _mean(x, W)
    centred = tl.where(valid, x - mean[:, None], 0.0)
    return mean, 1.0 / tl.sqrt(_mean(centred * centred, W) + eps)


@triton.jit
def _normalised(x, mean, rstd, valid):
    return tl.where(valid, (x - mean[:, None]) * rstd[:, None], 0.0)


@triton.jit
def _through_norm(gradient, normalised, rstd, W):
    """The gradient of a LayerNorm's input, from that of its output (0 beyond W)."""
    along = _mean(gradient * normalised, W)
    return rstd[:, None] * (gradient - _mean(gradient, W)[:, None] - normalised * along[:, None])


# ---- forward ---------------------------------------------------------------------------------------------------------------


@triton.jit
def adaln_forward(
    X, SHIFT, SCALE, GAIN, BIAS, Y, STATISTICS,
    rows, N, W, x_stride, shift_stride, scale_stride, eps, affine_eps,
    AFFINE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """X [rows, W], SHIFT and SCALE [rows / N, W] -> Y [rows, W], STATISTICS [4, rows]; grid (rows / ROWS)"""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    there = row < rows
    valid = there[:, None] & (column < W)[None, :]
    x = load(X, row, x_stride, column, valid)
    shift = load(SHIFT, row // N, shift_stride, column, valid)
    scale = load(SCALE, row // N, scale_stride, column, valid)
    mean, rstd = _statistics(x, valid, W, eps)
    y = _normalised(x, mean, rstd, valid) * (1.0 + scale) + shift
    tl.store(STATISTICS + row, mean, mask=there)
    tl.store(STATISTICS + rows + row, rstd, mask=there)
    if AFFINE:
        gain = tl.load(GAIN + column, mask=column < W, other=0.0).to(tl.float32)
        bias = tl.load(BIAS + column, mask=column < W, other=0.0).to(tl.float32)
        mean, rstd = _statistics(y, valid, W, affine_eps)
        y = _normalised(y, mean, rstd, valid) * gain[None, :] + bias[None, :]
        tl.store(STATISTICS + 2 * rows + row, mean, mask=there)
        tl.store(STATISTICS + 3 * rows + row, rstd, mask=there)
    store(Y, row, W, column, valid, y)


# ---- backward --------------------------------------------------------------------------------------------------------------


@triton.jit
def _row_gradients(
    X, SHIFT, SCALE, GAIN, STATISTICS, GRADIENT, DX,
    row, group, there, rows, W, x_stride, shift_stride, scale_stride, gradient_stride,
    AFFINE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store DX of a tile of rows; what its rows add to shift, scale, gain and bias, [ROWS, COLUMNS] each."""
    column = tl.arange(0, COLUMNS)
    valid = there[:, None] & (column < W)[None, :]
    mean = tl.load(STATISTICS + row, mask=there, other=0.0)
    rstd = tl.load(STATISTICS + rows + row, mask=there, other=0.0)
    x = _normalised(load(X, row, x_stride, column, valid), mean, rstd, valid)
    scale = load(SCALE, group, scale_stride, column, valid)
    gradient = load(GRADIENT, row, gradient_stride, column, valid)
    to_bias = gradient
    to_gain = gradient
    if AFFINE:
        gain = tl.load(GAIN + column, mask=column < W, other=0.0).to(tl.float32)
        mean = tl.load(STATISTICS + 2 * rows + row, mask=there, other=0.0)
        inner_rstd = tl.load(STATISTICS + 3 * rows + row, mask=there, other=0.0)
        modulated = x * (1.0 + scale) + load(SHIFT, group, shift_stride, column, valid)
        modulated = _normalised(modulated, mean, inner_rstd, valid)
        to_gain = gradient * modulated
        gradient = _through_norm(gradient * gain[None, :], modulated, inner_rstd, W)
        gradient = tl.where(valid, gradient, 0.0)
    store(DX, row, W, column, valid, _through_norm(gradient * (1.0 + scale), x, rstd, W))
    return gradient, gradient * x, to_gain, to_bias


@triton.jit
def adaln_backward(
    X, SHIFT, SCALE, GAIN, STATISTICS, GRADIENT, DX, DSHIFT, DSCALE, PARTS,
    rows, N, W, x_stride, shift_stride, scale_stride, gradient_stride,
    AFFINE: tl.constexpr, SHARED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """GRADIENT of Y -> DX [rows, W], DSHIFT and DSCALE [rows / N, W], PARTS [programs, 2, W] of gain and bias; grid (programs)

    A program takes every programs-th tile of rows, or, where rows are SHARED by groups, every programs-th group.
    """
    column = tl.arange(0, COLUMNS)
    dgain = tl.zeros([COLUMNS], tl.float32)
    dbias = tl.zeros([COLUMNS], tl.float32)
    if SHARED:
        for group in range(tl.program_id(0), rows // N, tl.num_programs(0)):
            dshift = tl.zeros([COLUMNS], tl.float32)
            dscale = tl.zeros([COLUMNS], tl.float32)
            for first in range(0, N, ROWS):
                inside = first + tl.arange(0, ROWS)
                same = tl.full([ROWS], 0, tl.int32) + group
                to_shift, to_scale, to_gain, to_bias = _row_gradients(
                    X, SHIFT, SCALE, GAIN, STATISTICS, GRADIENT, DX,
                    group * N + inside, same, inside < N, rows, W, x_stride, shift_stride, scale_stride, gradient_stride,
                    AFFINE, COLUMNS,
                )  # fmt: skip
                dshift += tl.sum(to_shift, 0)
                dscale += tl.sum(to_scale, 0)
                dgain += tl.sum(to_gain, 0)
                dbias += tl.sum(to_bias, 0)
            at = tl.cast(group, tl.int64) * W + column
            tl.store(DSHIFT + at, dshift.to(DSHIFT.dtype.element_ty), mask=column < W)
            tl.store(DSCALE + at, dscale.to(DSCALE.dtype.element_ty), mask=column < W)
    else:
        for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
            row = first + tl.arange(0, ROWS)
            there = row < rows
            to_shift, to_scale, to_gain, to_bias = _row_gradients(
                X, SHIFT, SCALE, GAIN, STATISTICS, GRADIENT, DX,
                row, row, there, rows, W, x_stride, shift_stride, scale_stride, gradient_stride,
                AFFINE, COLUMNS,
            )  # fmt: skip
            valid = there[:, None] & (column < W)[None, :]
            store(DSHIFT, row, W, column, valid, to_shift)
            store(DSCALE, row, W, column, valid, to_scale)
            dgain += tl.sum(to_gain, 0)
            dbias += tl.sum(to_bias, 0)
    if AFFINE:
        part = PARTS + tl.program_id(0) * 2 * W
        tl.store(part + column, dgain, mask=column < W)
        tl.store(part + W + column, dbias, mask=column < W)


# ---- launchers


def forward(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    eps: float,
    affine_eps: float,
) -> tuple[Tensor, Tensor]:
    """x [..., N, W], shift and scale [..., N or 1, W] -> y like x, statistics [4, rows]"""
    x_rows, shift_rows, scale_rows = rows_of(x), rows_of(shift), rows_of(scale)
    rows, W = x_rows.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    statistics = torch.empty(4, rows, dtype=torch.float32, device=x.device)
    sizes = tile(W)
    device.start(
        "adaln_forward",
        lambda: adaln_forward[(triton.cdiv(rows, sizes["ROWS"]),)](
            x_rows, shift_rows, scale_rows, gain, bias, y, statistics,
            rows, rows // len(shift_rows), W, *(t.stride(0) for t in (x_rows, shift_rows, scale_rows)), eps, affine_eps,
            AFFINE=gain is not None, **sizes,
        ),
    )  # fmt: skip
    return y, statistics


def backward(
    gradient: Tensor, x: Tensor, shift: Tensor, scale: Tensor, gain: Tensor | None, statistics: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, shift, scale, and [2, W] of gain and bias (empty without them), from that of y."""
    inputs = [rows_of(t) for t in (x, shift, scale, gradient)]
    (rows, W), groups = inputs[0].shape, len(inputs[1])
    dx, dshift, dscale = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, shift, scale))
    sizes = tile(W)
    shared = groups < rows
    programs = min(PARTS, groups if shared else triton.cdiv(rows, sizes["ROWS"]))
    parts = None if gain is None else torch.empty(programs, 2, W, dtype=torch.float32, device=x.device)
    device.start(
        "adaln_backward",
        lambda: adaln_backward[(programs,)](
            *inputs[:3], gain, statistics, inputs[3], dx, dshift, dscale, parts,
            rows, rows // groups, W, *(t.stride(0) for t in inputs), AFFINE=gain is not None, SHARED=shared, **sizes,
        ),
    )  # fmt: skip
    if gain is None:
        return dx, dshift, dscale, x.new_empty(0)
    total = torch.empty(2, W, dtype=gain.dtype, device=x.device)
    device.start(
        "adaln_add", lambda: add_parts[(triton.cdiv(2 * W, 128),)](parts, total, programs, 2 * W, COLUMNS=128)
    )
    return dx, dshift, dscale, total
