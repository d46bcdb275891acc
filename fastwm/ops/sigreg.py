"""The Epps-Pulley statistic of projected latents, with its gradient.

The projection is PyTorch's matrix product, not part of the kernels. At T 4, B 128, E 192, P 1024 in float32 the samples are
2.1 MB: written and read once forward (4.2 MB), read once, and their gradient written and read, backward (6.3 MB), all within
the L2 of an H100 or RTX 4090. A kernel that projects has 32 columns a program, to keep sums in registers, so it would read
the latents (0.4 MB) 32 times, 12.6 MB from the same L2, to save the 4.2; backward it would project again (0.2 GFLOP) and keep
one row tile's [BM, E] gradient over all 1024 columns, 16 programs for the whole GPU, or sum parts of it afterwards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastwm.engine.cuda.device import is_gpu
from fastwm.ops import _check
from fastwm.ops._register import op
from fastwm.reference.sigreg import slope, statistic

DTYPES = (torch.float32, torch.float64)  # the first is the GPU's
MOST_KNOTS = 33  # of the GPU's kernels: a knot's two sums are two registers


def sigreg(latents: Tensor, directions: Tensor, knots: int = 17) -> Tensor:
    """Epps-Pulley statistic against N(0, 1) of each projection of the batch: [T, P].

    latents [T, B, E], directions [E, P] (of length 1 in SIGReg, arXiv:2511.08544), of one dtype: float32 or float64.
    `knots`, at least 2, of the trapezoid rule on [0, 3]; a GPU's kernels take float32 and at most 33. Gradients flow to the
    latents and not to the directions. The same bits at every call.
    Raises TypeError or ValueError naming the argument.
    """
    E = _check.rank("latents", latents, "T B E").shape[2]
    P = _check.rank("directions", directions, "E P").shape[1]
    if latents.dtype not in DTYPES:
        raise TypeError(f"latents is {latents.dtype}, expected torch.float32 or torch.float64")
    _check.tensor("directions", directions, (E, P), latents, latents.dtype)
    return epps_pulley(latents @ directions.detach(), knots)


def epps_pulley(samples: Tensor, knots: int = 17) -> Tensor:
    """Epps-Pulley statistic of each column against N(0, 1): samples [T, B, P] -> [T, P]; see `sigreg`."""
    found: Tensor = _EppsPulley.apply(samples, knots)
    return found


class _EppsPulley(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, samples: Tensor, knots: int) -> Tensor:
        found, pull = _forward(samples, knots)
        ctx.save_for_backward(samples, pull)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _backward(gradient, *ctx.saved_tensors), None


def _check_dtype(name: str, value: Tensor) -> None:
    allowed = DTYPES[:1] if is_gpu(value.device) else DTYPES
    if value.dtype not in allowed:
        raise TypeError(f"{name} is {value.dtype}, expected {' or '.join(map(str, allowed))}")


def _check_forward(samples: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    T, _, P = _check.rank("samples", samples, "T B P").shape
    _check_dtype("samples", samples)
    _check.integer("knots", knots, 2, MOST_KNOTS + 1 if is_gpu(samples.device) else 1 << 31)
    return samples.new_empty(T, P), samples.new_empty(T, 2, knots - 1, P)


@op("sigreg(Tensor samples, int knots) -> (Tensor, Tensor)", fake=_check_forward)
def _forward(samples: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    found, pull = _check_forward(samples, knots)
    if not is_gpu(samples.device):
        return statistic(samples, knots)
    from fastwm.triton import sigreg as kernels

    kernels.forward(samples.contiguous(), found, pull)
    return found, pull


def _check_backward(gradient: Tensor, samples: Tensor, pull: Tensor) -> Tensor:
    T, B, P = _check.rank("samples", samples, "T B P").shape
    _check_dtype("samples", samples)
    _check.tensor("gradient", gradient, (T, P), samples, samples.dtype)
    _check.tensor("pull", pull, (T, 2, pull.shape[2], P), samples, samples.dtype)
    return samples.new_empty(T, B, P)


@op("sigreg_backward(Tensor gradient, Tensor samples, Tensor pull) -> Tensor", fake=_check_backward)
def _backward(gradient: Tensor, samples: Tensor, pull: Tensor) -> Tensor:
    out = _check_backward(gradient, samples, pull)
    if not is_gpu(samples.device):
        return slope(samples, pull) * gradient[:, None]
    from fastwm.triton import sigreg as kernels

    kernels.backward(gradient.contiguous(), samples.contiguous(), pull.contiguous(), out)
    return out
