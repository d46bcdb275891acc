"""What kernels on rows [R, W] share: tiles of whole rows, and sums over rows that are the same in every run."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

TILE = 2048  # numbers of a tile, 16 for each thread: a backward pass holds seven such tiles in at most 255 registers


def tile(W: int) -> dict[str, int]:
    """Rows and columns of a tile, and warps. By W alone: a row's bits do not depend on how many rows there are."""
    columns = triton.next_power_of_2(W)
    height = max(1, TILE // columns)
    return {"ROWS": height, "COLUMNS": columns, "num_warps": min(16, max(1, height * columns // 512))}


def rows_of(x: Tensor) -> Tensor:
    """[..., W] as rows [R, W] whose numbers lie side by side; a copy only where the strides allow no view."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


@triton.jit
def load(pointer, row, stride, column, valid):
    """Rows of a matrix as float32 [ROWS, COLUMNS], 0 where not valid."""
    return tl.load(pointer + row.to(tl.int64)[:, None] * stride + column[None, :], mask=valid, other=0.0).to(
        tl.float32
    )


@triton.jit
def store(pointer, row, stride, column, valid, value):
    address = pointer + row.to(tl.int64)[:, None] * stride + column[None, :]
    tl.store(address, value.to(pointer.dtype.element_ty), mask=valid)


@triton.jit
def add_parts(PARTS, SUM, parts, width, COLUMNS: tl.constexpr):
    """PARTS [parts, width] float32 -> SUM [width], added in order; grid (width / COLUMNS)"""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for part in range(parts):
        total += tl.load(PARTS + part * width + column, mask=column < width, other=0.0)
    tl.store(SUM + column, total.to(SUM.dtype.element_ty), mask=column < width)
