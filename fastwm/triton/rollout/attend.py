"""The second kernel of a layer: attention within the window, its output projection, gate and residual.

A window is a few tokens, so a score is a dot product of two rows held in registers, not a tile of a matrix product: rows of a
tile are candidates, and the loop over tokens reads one key and one value of each. A head's output goes straight into the
projection, whose sum over heads stays in one accumulator. Context frames that no candidate's action touches are read from one
copy per environment.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwm.engine.cuda.device import start
from fastwm.triton.rollout.dense import PROCESSORS, power, precision


@triton.jit
def _token(KEYS_VALUES, offset, query, seen, best, weight, sum, inner, D: tl.constexpr, BD: tl.constexpr):
    """One more token of the softmax: its key at KEYS_VALUES + offset [BM], its value `inner` further on."""
    d = tl.arange(0, BD)
    mask = seen[:, None] & (d < D)[None, :]
    key = tl.load(KEYS_VALUES + offset[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
    value = tl.load(KEYS_VALUES + (offset + inner)[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
    score = tl.where(seen, tl.sum(query * key, 1), float("-inf"))
    higher = tl.maximum(best, score)
    old, new = tl.exp(best - higher), tl.exp(score - higher)
    return higher, weight * old + new, sum * old[:, None] + new[:, None] * value


@triton.jit
def _attend(
    QUERY, SHARED, OWN, WEIGHT, BIAS, GATE, X,
    rows, candidates, per_environment, environments, shared, first, gate_row, W,
    H: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, NN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    left = tl.program_id(1) * BN * NN
    inside = row < rows
    asking, candidate = first + row // candidates, row % candidates  # which of its own tokens asks
    environment = candidate // per_environment
    d = tl.arange(0, BD)
    inner = H * D
    latest = first + tl.minimum((tl.program_id(0) * BM + BM - 1), rows - 1) // candidates  # of the tile
    total = ()
    for _ in tl.static_range(NN):
        total += (tl.zeros([BM, BN], tl.float32),)
    for head in range(H):
        offset = row.to(tl.int64)[:, None] * inner + head * D + d[None, :]
        query = tl.load(QUERY + offset, mask=inside[:, None] & (d < D)[None, :], other=0.0).to(tl.float32)
        best = tl.full([BM], -1e30, tl.float32)
        weight = tl.zeros([BM], tl.float32)
        sum = tl.zeros([BM, BD], tl.float32)
        for token in range(shared):
            at = (token * environments + environment).to(tl.int64) * (2 * inner) + head * D
            best, weight, sum = _token(SHARED, at, query, inside, best, weight, sum, inner, D, BD)
        for token in range(latest + 1):
            at = (token * candidates + candidate).to(tl.int64) * (2 * inner) + head * D
            seen = inside & (token <= asking)
            best, weight, sum = _token(OWN, at, query, seen, best, weight, sum, inner, D, BD)
        out = sum / tl.where(inside, weight, 1.0)[:, None]
        added = ()
        for i in tl.static_range(NN):
            column = left + i * BN + tl.arange(0, BN)
            projection = tl.load(
                WEIGHT + column.to(tl.int64)[None, :] * inner + (head * D + d)[:, None],
                mask=(d < D)[:, None] & (column < W)[None, :],
                other=0.0,
            )
            added += (tl.dot(out.to(projection.dtype), projection, total[i], input_precision=PRECISION),)
        total = added
    long = row.to(tl.int64)[:, None]
    for i in tl.static_range(NN):
        column = left + i * BN + tl.arange(0, BN)
        mask = inside[:, None] & (column < W)[None, :]
        y = total[i] + tl.load(BIAS + column, mask=column < W, other=0.0)[None, :]
        gate = tl.load(GATE + long * gate_row + column[None, :], mask=mask, other=0.0).to(tl.float32)
        at = X + long * W + column[None, :]
        tl.store(at, tl.load(at, mask=mask, other=0.0) + gate * y, mask=mask)


def attend(
    query: Tensor,
    shared: Tensor | None,
    own: Tensor,
    weight: Tensor,
    bias: Tensor,
    gate: Tensor,
    x: Tensor,
    *,
    candidates: int,
    per_environment: int,
    first: int,
    heads: int,
) -> None:
    """x [rows, W] += gate (attention(query) weight^T + bias), in place.

    Rows: tokens that ask, one after another, each of all candidates. query [rows, H D], already scaled by D^-1/2. shared
    [tokens, environments, 2 H D]: keys, then values, of context frames, or None; own [tokens, candidates, 2 H D]: of each
    candidate's tokens, of which the first that asks has place `first`; a token sees itself and those before it. weight
    [W, H D], gate [rows, W] (rows strided), x float32.
    """
    (rows, inner), W = query.shape, weight.shape[0]
    D = inner // heads
    BM, BN, NN = tile(rows, W, weight.dtype)
    start(
        "attend",
        lambda: _attend[(triton.cdiv(rows, BM), triton.cdiv(W, BN * NN))](
            query, own if shared is None else shared, own, weight, bias, gate, x,
            rows, candidates, per_environment, candidates // per_environment,
            0 if shared is None else shared.shape[0], first, gate.stride(0), W,
            H=heads, D=D, PRECISION=precision(weight.dtype), BM=BM, BN=BN, BD=power(D), NN=NN,
            num_warps=4, num_stages=2,
        ),
    )  # fmt: skip


def tile(rows: int, W: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Rows and columns of a tile, and how many such tiles side by side are one program's: bits depend on none of them.

    Attention is made again for every column tile. Where rows are few that is cheaper than processors without work.
    """
    BN = min(64, power(W))
    if dtype == torch.float32 or triton.cdiv(rows, 16) * triton.cdiv(W, BN) <= 2 * PROCESSORS:
        return 16, BN, 1
    return 32, BN, triton.cdiv(W, BN)
