"""Rows of a tile, held in registers as a tuple of pieces of BC columns: a width of 192 is three pieces of 64, nothing padded.

Every function is inlined into a kernel. Letters: BM rows of a tile, BC columns of a piece, NC pieces, W columns in all.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rows(X, offsets, inside, W: tl.constexpr, BC: tl.constexpr, NC: tl.constexpr):
    """Rows that start at X + offsets int64 [BM] -> NC pieces float32 [BM, BC]; 0 outside of `inside` [BM] and W."""
    pieces = ()
    for i in tl.static_range(NC):
        column = i * BC + tl.arange(0, BC)
        mask = inside[:, None] & (column < W)[None, :]
        pieces += (tl.load(X + offsets[:, None] + column[None, :], mask=mask, other=0.0).to(tl.float32),)
    return pieces


@triton.jit
def load_vector(X, W: tl.constexpr, BC: tl.constexpr, NC: tl.constexpr):
    """X [W] -> NC pieces float32 [BC]"""
    pieces = ()
    for i in tl.static_range(NC):
        column = i * BC + tl.arange(0, BC)
        pieces += (tl.load(X + column, mask=column < W, other=0.0).to(tl.float32),)
    return pieces


@triton.jit
def normalised(pieces, EPS: tl.constexpr, W: tl.constexpr, BC: tl.constexpr, NC: tl.constexpr):
    """LayerNorm without affine part, of pieces [BM, BC]; columns beyond W stay 0."""
    total = tl.sum(pieces[0], 1)
    for i in tl.static_range(1, NC):
        total += tl.sum(pieces[i], 1)
    mean = total / W
    centred = ()
    for i in tl.static_range(NC):
        column = i * BC + tl.arange(0, BC)
        centred += (tl.where((column < W)[None, :], pieces[i] - mean[:, None], 0.0),)
    square = tl.sum(centred[0] * centred[0], 1)
    for i in tl.static_range(1, NC):
        square += tl.sum(centred[i] * centred[i], 1)
    factor = 1.0 / tl.sqrt(square / W + EPS)
    normal = ()
    for i in tl.static_range(NC):
        normal += (centred[i] * factor[:, None],)
    return normal


@triton.jit
def modulated(X, x_offsets, M, m_offsets, inside, W: tl.constexpr, BC: tl.constexpr, NC: tl.constexpr):
    """LayerNorm_1e-5(LayerNorm_1e-6(x) (1 + scale) + shift): what a block's products read.

    Rows of x at X + x_offsets; of modulation, shift [W] then scale [W], at M + m_offsets. The outer norm's affine part is in
    the weights that follow.
    """
    inner = normalised(load_rows(X, x_offsets, inside, W, BC, NC), 1e-6, W, BC, NC)
    shift = load_rows(M, m_offsets, inside, W, BC, NC)
    scale = load_rows(M, m_offsets + W, inside, W, BC, NC)
    mixed = ()
    for i in tl.static_range(NC):
        mixed += (inner[i] * (1.0 + scale[i]) + shift[i],)
    return normalised(mixed, 1e-5, W, BC, NC)


@triton.jit
def affine_norm(X, x_offsets, G, S, inside, W: tl.constexpr, BC: tl.constexpr, NC: tl.constexpr):
    """LayerNorm_1e-5(x) G + S"""
    normal = normalised(load_rows(X, x_offsets, inside, W, BC, NC), 1e-5, W, BC, NC)
    gain = load_vector(G, W, BC, NC)
    shift = load_vector(S, W, BC, NC)
    out = ()
    for i in tl.static_range(NC):
        out += (normal[i] * gain[i][None, :] + shift[i][None, :],)
    return out


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """none, silu, gelu (exact) or mish, float32"""
    if ACTIVATION == "silu":
        x = x / (1.0 + tl.exp(-x))
    elif ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif (
        ACTIVATION == "mish"
    ):  # x tanh(log(1 + e^x)) = x (u^2 - 1) / (u^2 + 1), u = 1 + e^x; beyond 20 it is x
        u = 1.0 + tl.exp(tl.minimum(x, 20.0))
        x = x * (u * u - 1.0) / (u * u + 1.0)
    return x
