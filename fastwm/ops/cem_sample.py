"""Candidate actions drawn around the current mean, from counters."""

from __future__ import annotations

import torch
from torch import Tensor

from fastwm import reference
from fastwm.engine.backend import cpu_module
from fastwm.ops import _check
from fastwm.ops._register import op


def cem_sample(
    mean: Tensor,
    std: Tensor,
    samples: int,
    seed: int,
    iteration: int,
    *,
    stream: Tensor | None = None,
    noise: Tensor | None = None,
    low: Tensor | None = None,
    high: Tensor | None = None,
    factor: Tensor | None = None,
    injected: Tensor | None = None,
    counter: Tensor | None = None,
    threads: int = 1,
    isa: str | None = None,
) -> Tensor:
    """actions [B, S, T, A] = clip(mean + std * noise); candidate 0 is clip(mean).

    The noise is standard normal and a function of (seed, iteration, stream[b], s, t, a) alone: the same bits
    on every instruction set, thread count and batch split, and in the PyTorch reference. No gradient flows.

    mean, std: float32 [B, T, A]. seed: 0 .. 2^63-1. iteration: 0 .. 2^32-1.
    stream: int64 [B] below 2^32, the random stream of each environment; None is 0 .. B-1.
    noise: float32 [B, S, T, A] draws used instead. low, high: float32 [A] or [T, A].
    factor: float32 [T, T], lower triangular: over T, the noise of a number is factor times independent normals, and so
    has the covariance factor factor^T (fastwm/planning/noise.py); also applied to `noise`.
    injected: float32 [B, I, T, A], I < samples: candidates 1 .. I, within the same bounds; the others are what they were.
    counter: int64 [2], the seed and the iteration, in place of the two numbers: what a captured CUDA graph is replayed with.
    Raises TypeError or ValueError naming the argument.
    """
    return _cem_sample(
        mean, std, samples, seed, iteration, stream, noise, low, high, factor, injected, counter, threads, isa
    )


def _check_arguments(
    mean: Tensor,
    std: Tensor,
    samples: int,
    seed: int,
    iteration: int,
    stream: Tensor | None,
    noise: Tensor | None,
    low: Tensor | None,
    high: Tensor | None,
    factor: Tensor | None,
    injected: Tensor | None,
    counter: Tensor | None,
    threads: int,
    isa: str | None,
) -> Tensor:
    B, T, A = _check.rank("mean", mean, "B T A").shape
    _check.tensor("mean", mean, (B, T, A), mean)
    _check.tensor("std", std, (B, T, A), mean)
    _check.integer("samples", samples, 1, 2**31)
    _check.integer("seed", seed, 0, 2**63)
    _check.integer("iteration", iteration, 0, 2**32)
    if stream is not None:
        _check.tensor("stream", stream, (B,), mean, torch.int64)
    if noise is not None:
        _check.tensor("noise", noise, (B, samples, T, A), mean)
    for name, bound in (("low", low), ("high", high)):
        if bound is not None:
            _check.tensor(name, bound, (A,) if bound.dim() == 1 else (T, A), mean)
    if factor is not None:
        _check.tensor("factor", factor, (T, T), mean)
    if injected is not None:
        _check.rank("injected", injected, "B I T A")
        _check.tensor("injected", injected, (B, injected.shape[1], T, A), mean)
        if injected.shape[1] >= samples:
            raise ValueError(
                f"injected has {injected.shape[1]} candidates, expected less than {samples}, all there are"
            )
    if counter is not None:
        _check.tensor("counter", counter, (2,), mean, torch.int64)
    _check.integer("threads", threads, 1, 1025)
    return mean.new_empty(B, samples, T, A)


@op(
    "cem_sample(Tensor mean, Tensor std, SymInt samples, SymInt seed, SymInt iteration, Tensor? stream, Tensor? noise, "
    "Tensor? low, Tensor? high, Tensor? factor, Tensor? injected, Tensor? counter, int threads, str? isa) -> Tensor",
    fake=_check_arguments,
)
def _cem_sample(
    mean: Tensor,
    std: Tensor,
    samples: int,
    seed: int,
    iteration: int,
    stream: Tensor | None,
    noise: Tensor | None,
    low: Tensor | None,
    high: Tensor | None,
    factor: Tensor | None,
    injected: Tensor | None,
    counter: Tensor | None,
    threads: int,
    isa: str | None,
) -> Tensor:
    actions = _check_arguments(
        mean, std, samples, seed, iteration, stream, noise, low, high, factor, injected, counter, threads, isa
    )
    gpu, kernels = _check.gpu_for(mean.device, isa), _check.kernels_for(mean.device, isa)
    if gpu is None and kernels is None:
        return reference.cem_sample(
            mean, std, samples, seed, iteration, stream, noise, low, high, factor, injected, counter
        )
    B, S, T, A = actions.shape
    low = None if low is None else low.expand(T, A)
    high = None if high is None else high.expand(T, A)
    given = (mean, std, noise, stream, low, high, factor, injected, counter)
    inputs = [None if value is None else value.contiguous() for value in given]
    addresses = map(_check.address, (*inputs, actions))
    sizes = (B, S, T, A, 0 if injected is None else injected.shape[1])
    if gpu is not None:
        gpu("cem_sample", *addresses, *sizes, seed, iteration)
    else:
        cpu_module().cem_sample(kernels, *addresses, *sizes, seed, iteration, threads)
    return actions
