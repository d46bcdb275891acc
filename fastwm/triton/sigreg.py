"""The Epps-Pulley statistic of samples [T, B, P] and its gradient, never making [T, B, P, knots].

The formula is in fastwm/reference/sigreg.py. One sine and cosine per sample; the other knots by angle addition,
(c, s)_{k+1} = (c_k c - s_k s, c_k s + s_k c). `_moments` adds up 2 (knots - 1) sums in registers, one number per thread and
knot, over every BB-th sample of a part of the batch; `_statistic` adds the parts in their order and makes the statistic and
what the gradient needs; `_slope` evaluates the gradient, a polynomial in exp(i d x), by Horner's rule. No float atomics: the
same bits at every call.

Error of the powers, u = 2^-24: a complex product rounds by at most sqrt(5) u relative to its length (Brent, Percival and
Zimmermann, Math. Comp. 76, 2007), and exp(i d x) itself by e = 3 u + |d x| u (polynomials and reduction, angle), so the k-th
power by k e + (k - 1) sqrt(5) u: at the 16th 82 u = 4.9e-6, plus 16 |d x| u, which cos(t x) in float32 has as well. Measured
against float64: at most 6.5e-7 for |x| up to 3, nowhere above 27 % of the bound for |x| up to 90 (tests/gpu/test_sigreg.py).

Not taken: tl.sin and tl.cos, whose reduction of angles above 105615 needs local memory in every thread; sums of a tile per
step (32 reductions across warps for every BB samples instead of once per program).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastwm.engine.cuda.device import start
from fastwm.reference.sigreg import LIMIT

PART = 512  # samples of one program: sums depend on it, so it is no function of the GPU
BB, BP = 8, 32  # tile of `_moments`: one sample per thread of 8 warps


@triton.jit
def _turn(angle):
    """cos, sin of float32 angles, off by at most 1.5e-7 up to 10^4 and by |angle| 2^-24 more up to 10^5.

    NaN of what is not finite. The rest of the angle after quarter turns, pi / 2 in three parts of which the first two have 9
    and 12 bits (their products are exact up to 4096 quarter turns), goes into Taylor polynomials on [-pi/4, pi/4], whose next
    terms are 1.8e-9 and 1.2e-10. Of angles so large that the rest is lost to rounding it is taken to be 0: the lengths stay 1,
    and the powers finite.
    """
    turns = tl.floor(angle * 0.6366197723675814 + 0.5)
    rest = ((angle - turns * 1.5703125) - turns * 0.0004837512969970703) - turns * 7.549789954891882e-08
    rest = tl.where(tl.abs(rest) < 0.8, rest, angle * 0.0)
    square = rest * rest
    s = 1.0 / 120 + square * (-1.0 / 5040 + square * (1.0 / 362880))
    s = rest + rest * square * (-1.0 / 6 + square * s)
    c = 1.0 / 24 + square * (-1.0 / 720 + square * (1.0 / 40320 - square * (1.0 / 3628800)))
    c = 1.0 - square * (0.5 - square * c)
    quarter = turns - 4.0 * tl.floor(turns * 0.25)  # 0, 1, 2 or 3
    odd = (quarter == 1.0) | (quarter == 3.0)
    cosine, sine = tl.where(odd, s, c), tl.where(odd, c, s)
    return (
        tl.where((quarter == 1.0) | (quarter == 2.0), -cosine, cosine),
        tl.where(quarter >= 2.0, -sine, sine),
    )


@triton.jit
def _moments(
    X, SUMS, T, B, P, spacing, K: tl.constexpr, PART: tl.constexpr, BB: tl.constexpr, BP: tl.constexpr
):
    """SUMS [parts, T, 2, K, P]: over a part of the samples, of cos(k d x) and of sin(k d x), k = 1 .. K."""
    column = tl.program_id(0) * BP + tl.arange(0, BP)
    t, part = tl.program_id(1), tl.program_id(2)
    real = column < P
    cosines, sines = (), ()
    for _ in tl.static_range(K):
        cosines += (tl.zeros([BB, BP], tl.float32),)
        sines += (tl.zeros([BB, BP], tl.float32),)
    for first in range(part * PART, tl.minimum(part * PART + PART, B), BB):
        b = first + tl.arange(0, BB)
        inside = (b < B)[:, None] & real[None, :]
        x = tl.load(X + (t.to(tl.int64) * B + b)[:, None] * P + column[None, :], mask=inside, other=0.0)
        c, s = _turn(x * spacing)
        c = tl.where(inside, c, 0.0)  # (0, 0) outside, and so are its powers
        power_c, power_s = c, s
        more_c, more_s = (), ()
        for k in tl.static_range(K):
            more_c += (cosines[k] + power_c,)
            more_s += (sines[k] + power_s,)
            power_c, power_s = power_c * c - power_s * s, power_c * s + power_s * c
        cosines, sines = more_c, more_s
    at = SUMS + (part * T + t).to(tl.int64) * (2 * K * P) + column
    for k in tl.static_range(K):
        tl.store(at + k * P, tl.sum(cosines[k], 0), mask=real)
        tl.store(at + (K + k) * P, tl.sum(sines[k], 0), mask=real)


@triton.jit
def _statistic(SUMS, STATISTIC, PULL, T, B, P, parts, spacing, K: tl.constexpr, BP: tl.constexpr):
    """STATISTIC [T, P] and PULL [T, 2, K, P] of all parts' sums."""
    column = tl.program_id(0) * BP + tl.arange(0, BP)
    t = tl.program_id(1).to(tl.int64)
    real = column < P
    total = tl.zeros([BP], tl.float32)
    for k in range(K):
        knot = (k + 1) * spacing
        target = tl.exp(-0.5 * knot * knot)
        weight = tl.where(k == K - 1, 1.0, 2.0) * spacing * target  # trapezoid, both signs
        cosine = tl.zeros([BP], tl.float32)
        sine = tl.zeros([BP], tl.float32)
        for part in range(parts):
            sums = SUMS + (part * T + t) * (2 * K * P) + k * P + column
            cosine += tl.load(sums, mask=real, other=0.0)
            sine += tl.load(sums + K * P, mask=real, other=0.0)
        cosine, sine = cosine / B - target, sine / B
        total += weight * (cosine * cosine + sine * sine)
        pull = PULL + t * (2 * K * P) + k * P + column
        tl.store(pull, 2.0 * weight * knot * cosine, mask=real)
        tl.store(pull + K * P, 2.0 * weight * knot * sine, mask=real)
    tl.store(STATISTIC + t * P + column, B * total, mask=real)


@triton.jit
def _slope(GRADIENT, X, PULL, OUT, B, P, spacing, K: tl.constexpr, BB: tl.constexpr, BP: tl.constexpr):
    """OUT [T, B, P] = GRADIENT [T, P] sum_k PULL_sin_k cos(k d x) - PULL_cos_k sin(k d x)"""
    column = tl.program_id(0) * BP + tl.arange(0, BP)
    b = tl.program_id(1) * BB + tl.arange(0, BB)
    t = tl.program_id(2).to(tl.int64)
    real = column < P
    inside = (b < B)[:, None] & real[None, :]
    at = (t * B + b)[:, None] * P + column[None, :]
    c, s = _turn(tl.load(X + at, mask=inside, other=0.0) * spacing)
    re = tl.zeros([BB, BP], tl.float32)
    im = tl.zeros([BB, BP], tl.float32)
    pull = PULL + t * (2 * K * P) + column
    for i in tl.static_range(K):
        re += tl.load(pull + (K - 1 - i) * P, mask=real, other=0.0)[None, :]
        im -= tl.load(pull + (2 * K - 1 - i) * P, mask=real, other=0.0)[None, :]
        re, im = re * c - im * s, re * s + im * c
    gradient = tl.load(GRADIENT + t * P + column, mask=real, other=0.0)
    tl.store(OUT + at, -im * gradient[None, :], mask=inside)


def forward(samples: Tensor, statistic: Tensor, pull: Tensor) -> None:
    """Fills statistic [T, P] and pull [T, 2, K, P], as `fastwm.reference.sigreg.statistic` has them, from samples [T, B, P].

    All contiguous float32.
    """
    T, B, P = samples.shape
    K, parts = pull.shape[2], triton.cdiv(B, PART)
    sums = samples.new_empty(parts, T, 2, K, P)
    start(
        "sigreg_moments",
        lambda: _moments[(triton.cdiv(P, BP), T, parts)](
            samples, sums, T, B, P, LIMIT / K, K=K, PART=PART, BB=BB, BP=BP, num_warps=8
        ),
    )
    start(
        "sigreg_statistic",
        lambda: _statistic[(triton.cdiv(P, 128), T)](
            sums, statistic, pull, T, B, P, parts, LIMIT / K, K=K, BP=128, num_warps=4
        ),
    )


def backward(gradient: Tensor, samples: Tensor, pull: Tensor, out: Tensor) -> None:
    """Fills out [T, B, P]: gradient [T, P] times the slope of the statistic at samples [T, B, P]. All contiguous float32."""
    T, B, P = samples.shape
    K = pull.shape[2]
    rows = min(32, triton.next_power_of_2(B))
    start(
        "sigreg_slope",
        lambda: _slope[(triton.cdiv(P, 32), triton.cdiv(B, rows), T)](
            gradient, samples, pull, out, B, P, LIMIT / K, K=K, BB=rows, BP=32, num_warps=4
        ),
    )
