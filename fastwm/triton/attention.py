"""Attention of windows of tokens, forward and backward, for training; scores are never written (FlashAttention-2,
arXiv:2307.08691: an online softmax, and backward from the logarithm of its sums).

A window is the tokens of one row r and head h. Windows of a few tokens (3 in LeWM) would leave a tile of 16 x 16, the least
that tensor cores take, almost empty: so SIDE // P windows of up to P tokens lie side by side in a tile of SIDE, and a score
counts only where query and key are of one window. At 3 tokens that is a product of 64 x 64 for 16 windows instead of 16 of
16 x 16: as many operations of tensor cores, and a sixteenth of the programs, each with full tiles to load. Longer windows take
one program for SIDE queries, and pass over their keys SIDE at a time.

Letters: R rows, n tokens, H heads, D numbers of a head, P places of a window in a tile.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwm.engine.cuda.device import start
from fastwm.triton.rollout.dense import power


def side(dtype: torch.dtype, D: int) -> int:
    """Of a tile: three tf32 parts of every operand take more registers."""
    return 64 if dtype == torch.bfloat16 else 32 if D <= 64 else 16


@triton.jit
def _offsets(window, token, H, row_stride, token_stride, head_stride):
    """Where a head's numbers begin: int64 [BM]."""
    row, head = (window // H).to(tl.int64), window % H
    return row * row_stride + token.to(tl.int64) * token_stride + head * head_stride


@triton.jit
def _rows(X, offsets, real, D: tl.constexpr, BD: tl.constexpr):
    """[BM, BD] from X + offsets [BM]; 0 where not real and beyond D."""
    d = tl.arange(0, BD)
    return tl.load(X + offsets[:, None] + d[None, :], mask=real[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _places(first, token, windows, n, P: tl.constexpr, SIDE: tl.constexpr, SMALL: tl.constexpr):
    """Window, token and whether both are there, of a tile's rows: `first` is its first window, `token` its first token."""
    i = tl.arange(0, SIDE)
    if SMALL:
        window, own = first + i // P, i % P
    else:
        window, own = first + i * 0, token + i
    return window, own, (window < windows) & (own < n)


@triton.jit
def _seen(window, token, real, other_window, other_token, other_real, frame):
    """[BM, BN]: which keys (others) the queries see."""
    same = window[:, None] == other_window[None, :]
    earlier = (token // frame)[:, None] >= (other_token // frame)[None, :]
    return same & earlier & real[:, None] & other_real[None, :]


@triton.jit
def _forward(
    Q, K, V, O, LSE, windows, n, H, frame, scale,
    q_row, q_token, q_head, k_row, k_token, k_head, v_row, v_token, v_head, o_row, o_token, o_head,
    D: tl.constexpr, BD: tl.constexpr, P: tl.constexpr, SIDE: tl.constexpr, SMALL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    if SMALL:
        first_window, first_token = tl.program_id(0) * (SIDE // P), 0
    else:
        first_window, first_token = tl.program_id(0), tl.program_id(1) * SIDE
    window, token, real = _places(first_window, first_token, windows, n, P, SIDE, SMALL)
    q = _rows(Q, _offsets(window, token, H, q_row, q_token, q_head), real, D, BD)
    best = tl.full([SIDE], -1e30, tl.float32)
    weight = tl.zeros([SIDE], tl.float32)
    sum = tl.zeros([SIDE, BD], tl.float32)
    end = SIDE
    if not SMALL:  # beyond the frame of the last query nobody sees anything
        end = tl.minimum(n, ((first_token + SIDE - 1) // frame + 1) * frame)
    for begun in range(0, end, SIDE):
        other, key_token, key_real = _places(first_window, begun, windows, n, P, SIDE, SMALL)
        k = _rows(K, _offsets(other, key_token, H, k_row, k_token, k_head), key_real, D, BD)
        v = _rows(V, _offsets(other, key_token, H, v_row, v_token, v_head), key_real, D, BD)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        score = tl.where(_seen(window, token, real, other, key_token, key_real, frame), score, float("-inf"))
        higher = tl.maximum(best, tl.max(score, 1))
        p = tl.exp(score - higher[:, None])
        old = tl.exp(best - higher)
        weight = weight * old + tl.sum(p, 1)
        sum = tl.dot(p.to(v.dtype), v, sum * old[:, None], input_precision=PRECISION)
        best = higher
    out = sum / tl.where(real, weight, 1.0)[:, None]
    d = tl.arange(0, BD)
    mask = real[:, None] & (d < D)[None, :]
    tl.store(
        O + _offsets(window, token, H, o_row, o_token, o_head)[:, None] + d[None, :],
        out.to(O.dtype.element_ty),
        mask=mask,
    )
    tl.store(LSE + window.to(tl.int64) * n + token, best + tl.log(tl.where(real, weight, 1.0)), mask=real)


@triton.jit
def _weights(q, k, lse, seen, scale, PRECISION: tl.constexpr, SMALL: tl.constexpr):
    """The softmax again [BM, BN]: of whole rows exactly, else from the logarithm of its sums [BM], which was rounded."""
    score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    if SMALL:
        score = tl.where(seen, score, -1e30)
        p = tl.where(seen, tl.exp(score - tl.max(score, 1)[:, None]), 0.0)
        return p / tl.maximum(tl.sum(p, 1), 1e-30)[:, None]
    return tl.where(seen, tl.exp(score - lse[:, None]), 0.0)


@triton.jit
def _of_queries(
    Q, K, V, O, LSE, DO, DQ, windows, n, H, frame, scale,
    q_row, q_token, q_head, k_row, k_token, k_head, v_row, v_token, v_head, o_row, o_token, o_head,
    D: tl.constexpr, BD: tl.constexpr, P: tl.constexpr, SIDE: tl.constexpr, SMALL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    if SMALL:
        first_window, first_token = tl.program_id(0) * (SIDE // P), 0
    else:
        first_window, first_token = tl.program_id(0), tl.program_id(1) * SIDE
    window, token, real = _places(first_window, first_token, windows, n, P, SIDE, SMALL)
    here = _offsets(window, token, H, o_row, o_token, o_head)
    q = _rows(Q, _offsets(window, token, H, q_row, q_token, q_head), real, D, BD)
    do = _rows(DO, here, real, D, BD)
    delta = tl.sum(do.to(tl.float32) * _rows(O, here, real, D, BD).to(tl.float32), 1)
    lse = tl.load(LSE + window.to(tl.int64) * n + token, mask=real, other=0.0)
    dq = tl.zeros([SIDE, BD], tl.float32)
    end = SIDE
    if not SMALL:
        end = tl.minimum(n, ((first_token + SIDE - 1) // frame + 1) * frame)
    for begun in range(0, end, SIDE):
        other, key_token, key_real = _places(first_window, begun, windows, n, P, SIDE, SMALL)
        k = _rows(K, _offsets(other, key_token, H, k_row, k_token, k_head), key_real, D, BD)
        v = _rows(V, _offsets(other, key_token, H, v_row, v_token, v_head), key_real, D, BD)
        p = _weights(
            q, k, lse, _seen(window, token, real, other, key_token, key_real, frame), scale, PRECISION, SMALL
        )
        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        if SMALL:  # all keys are here: exact, where the result's sum has its rounding
            delta = tl.sum(p * dp, 1)
        ds = p * (dp - delta[:, None]) * scale
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    d = tl.arange(0, BD)
    tl.store(
        DQ + here[:, None] + d[None, :], dq.to(DQ.dtype.element_ty), mask=real[:, None] & (d < D)[None, :]
    )


@triton.jit
def _of_keys(
    Q, K, V, O, LSE, DO, DK, DV, windows, n, H, frame, scale,
    q_row, q_token, q_head, k_row, k_token, k_head, v_row, v_token, v_head, o_row, o_token, o_head,
    D: tl.constexpr, BD: tl.constexpr, P: tl.constexpr, SIDE: tl.constexpr, SMALL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    if SMALL:
        first_window, first_token = tl.program_id(0) * (SIDE // P), 0
    else:
        first_window, first_token = tl.program_id(0), tl.program_id(1) * SIDE
    window, token, real = _places(first_window, first_token, windows, n, P, SIDE, SMALL)  # of the keys
    k = _rows(K, _offsets(window, token, H, k_row, k_token, k_head), real, D, BD)
    v = _rows(V, _offsets(window, token, H, v_row, v_token, v_head), real, D, BD)
    dk = tl.zeros([SIDE, BD], tl.float32)
    dv = tl.zeros([SIDE, BD], tl.float32)
    begin, end = 0, SIDE
    if not SMALL:  # queries before the frame of the first key see none of these
        begin, end = first_token // frame * frame // SIDE * SIDE, n
    for begun in range(begin, end, SIDE):
        other, query_token, query_real = _places(first_window, begun, windows, n, P, SIDE, SMALL)
        there = _offsets(other, query_token, H, o_row, o_token, o_head)
        q = _rows(Q, _offsets(other, query_token, H, q_row, q_token, q_head), query_real, D, BD)
        do = _rows(DO, there, query_real, D, BD)
        delta = tl.sum(do.to(tl.float32) * _rows(O, there, query_real, D, BD).to(tl.float32), 1)
        lse = tl.load(LSE + other.to(tl.int64) * n + query_token, mask=query_real, other=0.0)
        p = _weights(
            q,
            k,
            lse,
            _seen(other, query_token, query_real, window, token, real, frame),
            scale,
            PRECISION,
            SMALL,
        )
        dv = tl.dot(tl.trans(p.to(do.dtype)), do, dv, input_precision=PRECISION)
        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        if SMALL:
            delta = tl.sum(p * dp, 1)
        ds = p * (dp - delta[:, None]) * scale
        dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision=PRECISION)
    d = tl.arange(0, BD)
    at = _offsets(window, token, H, o_row, o_token, o_head)[:, None] + d[None, :]
    mask = real[:, None] & (d < D)[None, :]
    tl.store(DK + at, dk.to(DK.dtype.element_ty), mask=mask)
    tl.store(DV + at, dv.to(DV.dtype.element_ty), mask=mask)


def forward(q: Tensor, k: Tensor, v: Tensor, frame_tokens: int, scale: float) -> tuple[Tensor, Tensor]:
    """q, k, v [R, n, H, D] -> [R, n, H, D] and the logarithm of the softmax's sums float32 [R, H, n]."""
    R, n, H, D = q.shape
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((R, H, n), dtype=torch.float32, device=q.device)
    grid, sizes, constants = _launch(q, k, v, o, frame_tokens, scale, side(q.dtype, D))
    start("attention_forward", lambda: _forward[grid](q, k, v, o, lse, *sizes, **constants))
    return o, lse


def backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, frame_tokens: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, from that of the result."""
    gradient = gradient.contiguous()
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))
    saved = (q, k, v, o, lse, gradient)
    D = q.shape[-1]
    for name, kernel, out, rows in (
        (
            "attention_backward_queries",
            _of_queries,
            (dq,),
            side(q.dtype, D) if q.dtype == torch.bfloat16 else 16,
        ),
        (
            "attention_backward_keys",
            _of_keys,
            (dk, dv),
            min(32, side(q.dtype, D)),
        ),  # two sums, and so half a tile
    ):
        grid, sizes, constants = _launch(q, k, v, o, frame_tokens, scale, rows)
        start(name, functools.partial(kernel[grid], *saved, *out, *sizes, **constants))
    return dq, dk, dv


def _launch(
    q: Tensor, k: Tensor, v: Tensor, o: Tensor, frame_tokens: int, scale: float, rows: int
) -> tuple[tuple[int, ...], tuple[int | float, ...], dict[str, object]]:
    R, n, H, D = q.shape
    P = triton.next_power_of_2(n)
    small = rows >= P
    grid = (triton.cdiv(R * H, rows // P),) if small else (R * H, triton.cdiv(n, rows))
    strides = [stride for x in (q, k, v, o) for stride in x.stride()[:3]]
    constants: dict[str, object] = {
        "D": D,
        "BD": power(D),
        "P": P if small else rows,
        "SIDE": rows,
        "SMALL": small,
        "PRECISION": "ieee",  # three products of tf32 err more than twice what PyTorch does in a gradient
        "num_warps": 8,
        "num_stages": 1,
    }
    return grid, (R * H, n, H, frame_tokens or n, scale, *strides), constants
