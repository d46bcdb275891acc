"""Attention of a candidate's newest frames to what came before, for models with hundreds of tokens a frame (DINO-WM: 196,
V-JEPA 2-AC: 258), where keys and values of earlier frames are kept and those of context frames are stored once per environment.

One program has 64 queries (32 or 16 in float32) of one candidate and head. It passes first over the context's keys, which all
of its queries see, then over the candidate's own up to the last frame that its queries see; the softmax is kept online
(arXiv:2307.08691), scores are never written. Neighbouring programs are tiles of one candidate: they find its keys in L2, as
candidates of an environment find the context's.

A launch tells the compiler which integers are multiples of 16, and no more: with heads of 88 it would load number by number.
So strides between heads are counted in STEP numbers, a constant, from which it knows that 16 bytes may be loaded at once.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwm.engine.cuda.device import start
from fastwm.triton.attention import side
from fastwm.triton.rollout.dense import power, precision


@triton.jit
def _tile(X, at, token, token_stride, real, D: tl.constexpr, BD: tl.constexpr):
    """Rows [BN, BD] of tokens, of the head that begins at X + at."""
    d = tl.arange(0, BD)
    offset = token.to(tl.int64)[:, None] * token_stride + d[None, :]
    return tl.load(X + at + offset, mask=real[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _more(q, k, v, seen, scale, best, weight, sum, PRECISION: tl.constexpr):
    """A tile of keys and values more: the online softmax's highest score, sum of weights, weighted sum of values."""
    score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    score = tl.where(seen, score, float("-inf"))
    higher = tl.maximum(best, tl.max(score, 1))
    p = tl.exp(score - higher[:, None])
    old = tl.exp(best - higher)
    sum = tl.dot(p.to(v.dtype), v, sum * old[:, None], input_precision=PRECISION)
    return higher, weight * old + tl.sum(p, 1), sum


@triton.jit
def _frame_attention(
    Q, K, V, SHARED_K, SHARED_V, O, H, new, own, shared, each, N, scale,
    q_row, q_token, q_head, k_row, k_token, k_head, v_row, v_token, v_head,
    sk_row, sk_token, sk_head, sv_row, sv_token, sv_head,
    STEP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, SIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    environment = row // each
    token = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
    real = token < new
    asks = (own - new + token) // N  # the frame of a query, among its candidate's own
    q = _tile(Q, row * q_row + head * (q_head * STEP), token, q_token, real, D, BD)
    best = tl.full([SIDE], -1e30, tl.float32)
    weight = tl.zeros([SIDE], tl.float32)
    sum = tl.zeros([SIDE, BD], tl.float32)
    for begun in range(0, shared, SIDE):
        key = begun + tl.arange(0, SIDE)
        there = key < shared
        k = _tile(SHARED_K, environment * sk_row + head * (sk_head * STEP), key, sk_token, there, D, BD)
        v = _tile(SHARED_V, environment * sv_row + head * (sv_head * STEP), key, sv_token, there, D, BD)
        seen = real[:, None] & there[None, :]
        best, weight, sum = _more(q, k, v, seen, scale, best, weight, sum, PRECISION)
    latest = (own - new + tl.minimum(tl.program_id(1) * SIDE + SIDE, new) - 1) // N
    for begun in range(0, tl.minimum(own, (latest + 1) * N), SIDE):
        key = begun + tl.arange(0, SIDE)
        there = key < own
        k = _tile(K, row * k_row + head * (k_head * STEP), key, k_token, there, D, BD)
        v = _tile(V, row * v_row + head * (v_head * STEP), key, v_token, there, D, BD)
        seen = real[:, None] & there[None, :] & ((key // N)[None, :] <= asks[:, None])
        best, weight, sum = _more(q, k, v, seen, scale, best, weight, sum, PRECISION)
    d = tl.arange(0, BD)
    at = ((row * new + token) * H + head)[:, None] * D + d[None, :]
    out = sum / tl.where(real, weight, 1.0)[:, None]
    tl.store(O + at, out.to(O.dtype.element_ty), mask=real[:, None] & (d < D)[None, :])


def frame_attention(
    query: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    shared_keys: Tensor | None,
    shared_values: Tensor | None,
    frame_tokens: int,
    scale: float,
) -> Tensor:
    """[R, m N, H, D]. See `fastwm.ops.frame_attention`."""
    R, new, H, D = query.shape
    out = torch.empty((R, new, H, D), dtype=query.dtype, device=query.device)
    none = shared_keys is None or shared_values is None
    keys, values = (own_keys, own_values) if none else (shared_keys, shared_values)
    assert keys is not None
    assert values is not None
    given = (query, own_keys, own_values, keys, values)
    step = math.gcd(8, *(x.stride(2) for x in given))
    strides = [stride for x in given for stride in (x.stride(0), x.stride(1), x.stride(2) // step)]
    rows = side(query.dtype, D)
    start(
        "frame_attention",
        lambda: _frame_attention[(R * H, triton.cdiv(new, rows))](
            *given, out, H, new, own_keys.shape[1], 0 if none else keys.shape[1], R // len(keys), frame_tokens, scale,
            *strides, STEP=step, D=D, BD=power(D), SIDE=rows, PRECISION=precision(query.dtype),
            num_warps=8 if D > 64 or query.dtype == torch.float32 else 4, num_stages=1,
        ),
    )  # fmt: skip
    return out
