"""What the first layer reads: latents of the window, each with the position of its place.

A window's own tokens are the last context frame, one for all candidates of an environment, and the latents predicted so far.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastwm.engine.cuda.device import start
from fastwm.triton.rollout.dense import power


@triton.jit
def _tokens(
    CONTEXT, LATENTS, POSITION, X, rows, candidates, per_environment, context_row, latent_row, first, place,
    E: tl.constexpr, BM: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    e = tl.program_id(1) * BE + tl.arange(0, BE)
    mask = (row < rows)[:, None] & (e < E)[None, :]
    token, candidate = row // candidates, (row % candidates).to(tl.int64)
    predicted = (first + token > 0)[:, None]
    at = (candidate // per_environment * context_row)[:, None] + e[None, :]
    z = tl.load(CONTEXT + at, mask=mask & (first + token == 0)[:, None], other=0.0)
    at = (candidate * latent_row + (first + token - 1) * E)[:, None] + e[None, :]
    z += tl.load(LATENTS + at, mask=mask & predicted, other=0.0)
    z += tl.load(POSITION + (place + token)[:, None] * E + e[None, :], mask=mask, other=0.0)
    tl.store(X + row.to(tl.int64)[:, None] * E + e[None, :], z, mask=mask)


def tokens(
    context: Tensor,
    latents: Tensor,
    position: Tensor,
    out: Tensor,
    *,
    per_environment: int,
    first: int,
    place: int,
) -> None:
    """out [m, R, E]: own tokens first .. first + m - 1 of all candidates, plus position[place ..]. All float32.

    Own token 0 is context [B, E] (rows strided) of the candidate's environment, token i latents[:, i - 1] of [R, T, E].
    """
    m, R, E = out.shape
    BM, BE = 16, min(128, power(E))
    start(
        "tokens",
        lambda: _tokens[(triton.cdiv(m * R, BM), triton.cdiv(E, BE))](
            context, latents, position, out, m * R, R, per_environment, context.stride(0), latents.stride(0),
            first, place,
            E=E, BM=BM, BE=BE, num_warps=4,
        ),
    )  # fmt: skip
