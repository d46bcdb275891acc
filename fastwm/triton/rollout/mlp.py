"""The third kernel of a layer: norms, fc1, GELU, fc2, gate and residual. The hidden layer never leaves the registers.

With few candidates there are few row tiles, and one program per tile would read all weights through one processor's port
while most processors idle. So the hidden columns are PARTS parts, and up to PARTS programs share a tile: each writes the sum of
its parts, and the one that arrives last (a counter with acquire and release) adds them, always in the order of the parts. A
single program for all parts adds them in the same order: bits do not depend on how many programs shared the work, and so not
on how many environments are planned at once. With `affine` the kernel is the head's last two layers.

Not taken: one kernel for fc1 and one for fc2 (a launch more per layer, and the hidden layer through L2); float atomics (the
order of additions, and with it the bits, would be chance).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwm.engine.cuda.device import start
from fastwm.triton.rollout.dense import PROCESSORS, power, precision, warps
from fastwm.triton.rollout.rows import activate, affine_norm, modulated

PARTS = 8  # in which the hidden layer is summed, whoever sums it


@triton.jit
def _mlp(
    X, MODULATION, GAIN, SHIFT, FC1, BIAS1, FC2, BIAS2, LAST, OUT, PARTIAL, ARRIVED,
    rows, modulation_row, last_row, out_row, M, N: tl.constexpr,
    W: tl.constexpr, AFFINE: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    PART: tl.constexpr, PARTS: tl.constexpr, SHARE: tl.constexpr,
    BM: tl.constexpr, BH: tl.constexpr, BC: tl.constexpr, NC: tl.constexpr, NN: tl.constexpr,
):  # fmt: skip
    tile, share = tl.program_id(0), tl.program_id(1)
    row = tile * BM + tl.arange(0, BM)
    inside = row < rows
    long = row.to(tl.int64)
    piece = tl.arange(0, BC)
    if AFFINE:
        x = affine_norm(X, long * W, GAIN, SHIFT, inside, W, BC, NC)
    else:
        x = modulated(X, long * W, MODULATION, long * modulation_row, inside, W, BC, NC)
    total = ()
    for _ in tl.static_range(NN):
        total += (tl.zeros([BM, BC], tl.float32),)
    for part in range(share * SHARE, share * SHARE + SHARE):
        sum = ()
        for _ in tl.static_range(NN):
            sum += (tl.zeros([BM, BC], tl.float32),)
        for first in range(part * PART, tl.minimum(part * PART + PART, M), BH):
            h = first + tl.arange(0, BH)
            hidden = tl.zeros([BM, BH], tl.float32)
            for i in tl.static_range(NC):
                k = i * BC + piece
                weight = tl.load(
                    FC1 + h[None, :] * W + k[:, None], mask=(k < W)[:, None] & (h < M)[None, :], other=0.0
                )
                hidden = tl.dot(x[i].to(weight.dtype), weight, hidden, input_precision=PRECISION)
            hidden = activate(hidden + tl.load(BIAS1 + h, mask=h < M, other=0.0)[None, :], ACTIVATION)
            added = ()
            for i in tl.static_range(NN):
                n = i * BC + piece
                weight = tl.load(
                    FC2 + n[None, :] * M + h[:, None], mask=(n < N)[None, :] & (h < M)[:, None], other=0.0
                )
                added += (tl.dot(hidden.to(weight.dtype), weight, sum[i], input_precision=PRECISION),)
            sum = added
        if SHARE < PARTS:
            for i in tl.static_range(NN):
                n = i * BC + piece
                at = (part * rows + long)[:, None] * N + n[None, :]
                tl.store(PARTIAL + at, sum[i], mask=inside[:, None] & (n < N)[None, :])
        else:
            added = ()
            for i in tl.static_range(NN):
                added += (total[i] + sum[i],)
            total = added
    if SHARE < PARTS:
        tl.debug_barrier()  # all threads' parts are stored before one of them says so
        arrived = tl.atomic_add(ARRIVED + tile, 1, sem="acq_rel")
        if arrived != PARTS // SHARE - 1:
            return
        tl.store(ARRIVED + tile, 0)  # for the next launch
        for part in range(PARTS):
            added = ()
            for i in tl.static_range(NN):
                n = i * BC + piece
                at = (part * rows + long)[:, None] * N + n[None, :]
                one = tl.load(
                    PARTIAL + at, mask=inside[:, None] & (n < N)[None, :], other=0.0, cache_modifier=".cg"
                )
                added += (total[i] + one,)
            total = added
    for i in tl.static_range(NN):
        n = i * BC + piece
        mask = inside[:, None] & (n < N)[None, :]
        y = total[i] + tl.load(BIAS2 + n, mask=n < N, other=0.0)[None, :]
        if not AFFINE:
            gate = tl.load(
                MODULATION + 2 * W + (long * modulation_row)[:, None] + n[None, :], mask=mask, other=0.0
            )
            y = y * gate.to(tl.float32)
        if RESIDUAL:
            y += tl.load(LAST + (long * last_row)[:, None] + n[None, :], mask=mask, other=0.0)
        tl.store(OUT + (long * out_row)[:, None] + n[None, :], y, mask=mask)


def mlp(
    x: Tensor,
    modulation: Tensor,
    fc1: tuple[Tensor, Tensor],
    fc2: tuple[Tensor, Tensor],
    scratch: tuple[Tensor, Tensor],
) -> None:
    """x float32 [rows, W] += gate fc2(gelu(fc1(norm(x)))), in place.

    modulation [rows, shift, scale, gate of W] (rows strided). fc1, fc2: weight [M, W], bias float32 [M]; [W, M], [W].
    scratch: of `mlp_scratch`.
    """
    _start("mlp", x, modulation, None, fc1, fc2, "gelu", x, x, scratch)


def head(
    x: Tensor,
    norm: tuple[Tensor, Tensor],
    fc1: tuple[Tensor, Tensor],
    fc2: tuple[Tensor, Tensor],
    activation: str,
    last: Tensor | None,
    out: Tensor,
    scratch: tuple[Tensor, Tensor],
) -> None:
    """out [rows, E] = (last [rows, E] +) fc2 activation(fc1 norm(x)), both of strided rows.

    x float32 [rows, W]; norm: gain and shift [W]; fc1, fc2, scratch as in `mlp`.
    """
    _start("head", x, x, norm, fc1, fc2, activation, last, out, scratch)


def mlp_scratch(rows: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What programs that share a tile tell each other: parts float32, and how many arrived (0 before and after a launch)."""
    parts = torch.empty(PARTS * rows * width, dtype=torch.float32, device=device)
    return parts, torch.zeros(triton.cdiv(rows, 16), dtype=torch.int32, device=device)


def _start(
    name: str,
    x: Tensor,
    modulation: Tensor,
    affine: tuple[Tensor, Tensor] | None,
    fc1: tuple[Tensor, Tensor],
    fc2: tuple[Tensor, Tensor],
    activation: str,
    last: Tensor | None,
    out: Tensor,
    scratch: tuple[Tensor, Tensor],
) -> None:
    (rows, W), (N, M) = x.shape, fc2[0].shape
    BM = 16 if fc1[0].dtype == torch.float32 else 32  # no spilled register at LeWM's sizes
    BC, BH = min(64, power(max(W, N))), min(64, power(M))
    part = triton.cdiv(triton.cdiv(M, PARTS), BH) * BH
    tiles = triton.cdiv(rows, BM)
    share = PARTS
    while share > 1 and tiles * (PARTS // share) * 2 <= PROCESSORS:
        share //= 2
    gain, shift = affine or (fc1[1], fc1[1])
    start(
        name,
        lambda: _mlp[(tiles, PARTS // share)](
            x, modulation, gain, shift, *fc1, *fc2, out if last is None else last, out, *scratch,
            rows, modulation.stride(0), out.stride(0) if last is None else last.stride(0), out.stride(0), M, N,
            W=W, AFFINE=affine is not None, RESIDUAL=last is not None, ACTIVATION=activation,
            PRECISION=precision(fc1[0].dtype), PART=part, PARTS=PARTS, SHARE=share,
            BM=BM, BH=BH, BC=BC, NC=triton.cdiv(W, BC), NN=triton.cdiv(N, BC), num_warps=warps(fc1[0].dtype),
            num_stages=stages(triton.cdiv(W, BC) + triton.cdiv(N, BC), fc1[0].dtype),
        ),
    )  # fmt: skip


def stages(pieces: int, dtype: torch.dtype) -> int:
    """How many iterations' weights a program holds in shared memory: as many as leave it below 99 KB, what every GPU has.

    pieces: of fc1 and fc2, 8 KB each in bfloat16. With two stages 24 pieces, a width of 768, take 250 KB, which no GPU has.
    """
    return 2 if dtype != torch.float32 and pieces <= 8 else 1
