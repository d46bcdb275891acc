"""y = activation(LayerNorm_1e-5(x)) by rows, for layers of MLP dynamics that have a norm, and simplicial normalisation."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastwm.engine.cuda.device import start
from fastwm.triton.rollout.dense import power
from fastwm.triton.rollout.rows import activate


@triton.jit
def _normalise(
    X, GAIN, SHIFT, Y, rows, N: tl.constexpr, NORM: tl.constexpr, ACTIVATION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.arange(0, BN)
    real = n < N
    mask = (row < rows)[:, None] & real[None, :]
    at = row.to(tl.int64)[:, None] * N + n[None, :]
    x = tl.load(X + at, mask=mask, other=0.0)
    if NORM:
        centred = tl.where(real[None, :], x - (tl.sum(x, 1) / N)[:, None], 0.0)
        x = centred / tl.sqrt(tl.sum(centred * centred, 1) / N + 1e-5)[:, None]
        x = (
            x * tl.load(GAIN + n, mask=real, other=0.0)[None, :]
            + tl.load(SHIFT + n, mask=real, other=0.0)[None, :]
        )
    if ACTIVATION == "simnorm":  # the softmax of every 8 neighbours
        groups = tl.reshape(x, [BM, BN // 8, 8])
        groups = tl.exp(groups - tl.max(groups, 2, keep_dims=True))
        x = tl.reshape(groups / tl.sum(groups, 2, keep_dims=True), [BM, BN])
    else:
        x = activate(x, ACTIVATION)
    tl.store(Y + at, x.to(Y.dtype.element_ty), mask=mask)


def normalise(x: Tensor, norm: tuple[Tensor, Tensor] | None, activation: str, out: Tensor) -> None:
    """out [rows, N] = activation(LayerNorm_1e-5(x)), with gain and shift [N]; no norm if None. x float32 [rows, N]."""
    rows, N = x.shape
    gain, shift = norm or (x, x)
    BM = 4
    start(
        "normalise",
        lambda: _normalise[(triton.cdiv(rows, BM),)](
            x, gain, shift, out, rows, N=N, NORM=norm is not None, ACTIVATION=activation, BM=BM, BN=power(N),
            num_warps=4,
        ),
    )  # fmt: skip
