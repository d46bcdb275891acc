"""x + gate * y, forward and backward, one pass over a row.

N rows of one group may share a gate (see adaln.py); one program then walks a group's rows and adds up the gradient of the
gate in order. The gradient of x is that of the result: no kernel writes it again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwm.engine.cuda import device
from fastwm.triton._rows import load, rows_of, store, tile


@triton.jit
def gated_forward(
    X, GATE, Y, OUT, rows, N, W, x_stride, gate_stride, y_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """OUT = X + GATE Y: X and Y [rows, W], GATE [rows / N, W]; grid (rows / ROWS)"""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    valid = (row < rows)[:, None] & (column < W)[None, :]
    x = load(X, row, x_stride, column, valid)
    gate = load(GATE, row // N, gate_stride, column, valid)
    store(OUT, row, W, column, valid, x + gate * load(Y, row, y_stride, column, valid))


@triton.jit
def gated_backward(
    GATE, Y, GRADIENT, DGATE, DY, rows, N, W, gate_stride, y_stride, gradient_stride,
    SHARED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """GRADIENT of OUT -> DGATE [rows / N, W] and DY [rows, W]; grid (groups) if rows are SHARED, else (rows / ROWS)"""
    column = tl.arange(0, COLUMNS)
    if SHARED:
        group = tl.program_id(0)
        gate = tl.load(GATE + group.to(tl.int64) * gate_stride + column, mask=column < W, other=0.0).to(
            tl.float32
        )
        dgate = tl.zeros([COLUMNS], tl.float32)
        for first in range(0, N, ROWS):
            inside = first + tl.arange(0, ROWS)
            row = group * N + inside
            valid = (inside < N)[:, None] & (column < W)[None, :]
            gradient = load(GRADIENT, row, gradient_stride, column, valid)
            store(DY, row, W, column, valid, gate[None, :] * gradient)
            dgate += tl.sum(gradient * load(Y, row, y_stride, column, valid), 0)
        at = DGATE + group.to(tl.int64) * W + column
        tl.store(at, dgate.to(DGATE.dtype.element_ty), mask=column < W)
    else:
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        valid = (row < rows)[:, None] & (column < W)[None, :]
        gradient = load(GRADIENT, row, gradient_stride, column, valid)
        gate = load(GATE, row, gate_stride, column, valid)
        store(DY, row, W, column, valid, gate * gradient)
        store(DGATE, row, W, column, valid, gradient * load(Y, row, y_stride, column, valid))


def forward(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """x and y [..., N, W], gate [..., N or 1, W] -> x + gate y"""
    inputs = [rows_of(t) for t in (x, gate, y)]
    rows, W = inputs[0].shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    sizes = tile(W)
    device.start(
        "gated_forward",
        lambda: gated_forward[(triton.cdiv(rows, sizes["ROWS"]),)](
            *inputs, out, rows, rows // len(inputs[1]), W, *(t.stride(0) for t in inputs), **sizes
        ),
    )
    return out


def backward(gradient: Tensor, gate: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and y, from that of the result."""
    inputs = [rows_of(t) for t in (gate, y, gradient)]
    (rows, W), groups = inputs[1].shape, len(inputs[0])
    dgate, dy = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (gate, y))
    sizes = tile(W)
    shared = groups < rows
    device.start(
        "gated_backward",
        lambda: gated_backward[(groups if shared else triton.cdiv(rows, sizes["ROWS"]),)](
            *inputs,
            dgate,
            dy,
            rows,
            rows // groups,
            W,
            *(t.stride(0) for t in inputs),
            SHARED=shared,
            **sizes,
        ),
    )
    return dgate, dy
