"""Noise that is correlated over the horizon: factors of its covariance, for `fastwm.ops.cem_sample`."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.lru_cache(maxsize=64)
def autoregressive(T: int, correlation: float) -> Tensor:
    """Factor [T, T] of the AR(1) process n_t = r n_(t-1) + sqrt(1 - r^2) e_t: covariance r^|t - s|."""
    step = torch.arange(T, device="cpu")  # whatever the caller's default is
    distance = (step[:, None] - step).double()
    return _factor(correlation ** distance.abs())


@functools.lru_cache(maxsize=64)
def power_law(T: int, exponent: float) -> Tensor:
    """Factor [T, T] of noise of period T and unit variance whose power at frequency f is f^-exponent: 0 white, 1 pink, 2 red.

    Raises ValueError for an exponent that leaves too little noise at some frequency for float64 to tell from none.
    Frequency 0 has the power of the lowest other one. As of iCEM (Pinneri et al., arXiv:2008.06389).
    """
    frequency = torch.fft.fftfreq(T, dtype=torch.float64, device="cpu").abs()
    frequency[0] = 1 / T
    power = frequency**-exponent
    row = torch.fft.ifft(power / power.mean()).real  # of the circulant covariance
    return _factor(torch.stack([row.roll(t) for t in range(T)]))


def held(factor: Tensor, steps: int, count: int) -> Tensor:
    """Factor [count, count] of noise whose draws, of `factor`, are each held for as many steps."""
    draw = torch.arange(count, device="cpu") // steps
    columns = (torch.arange(len(factor), device="cpu") * steps)[None].expand(count, -1)
    return factor.new_zeros(count, count).scatter(1, columns, factor[draw])


def _factor(covariance: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        raise ValueError(
            f"the noise of {len(covariance)} draws is correlated too much for float64, expected a smaller noise_exponent or "
            "correlation"
        )
    return factor.float()
