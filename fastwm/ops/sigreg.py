"""The Epps-Pulley statistic of projected latents, with its gradient.

The projection is PyTorch's matrix product, not part of the kernels. At T 4, B 128, E 192, P 1024 in float32 the samples are
2.1 MB: written and read once forward (4.2 MB), read once, and their gradient written and read, backward (6.3 MB), all within
the L2 of an H100 or RTX 4090. A kernel that projects has 32 columns a program, to keep sums in registers, so it would read
the latents (0.4 MB) 32 times, 12.6 MB from the same L2, to save the 4.2; backward it would project again (0.2 GFLOP) and keep
one row tile's [BM, E] gradient over all 1024 columns, 16 programs for the whole GPU, or sum parts of it afterwards.

Where ranks hold parts of the batch, the mean of exp(i t x) is taken over all of them before it is squared. What the kernels
return of it, `pull`, is linear in its distance to the normal's: the ranks' mean of that is all there is to do.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastwm.engine.backend import cpu_module
from fastwm.engine.cuda.device import is_gpu
from fastwm.ops import _check
from fastwm.ops._register import op
from fastwm.reference.sigreg import LIMIT, of_pull, rule, slope, statistic

DTYPES = (torch.float32, torch.float64)  # the first is the kernels'
MOST_KNOTS = 33  # of the kernels: on a GPU two registers each; the error of powers grows with them


def sigreg(
    latents: Tensor, directions: Tensor, knots: int = 17, *, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Epps-Pulley statistic against N(0, 1) of each projection of the batch: [T, P].

    latents [T, B, E], directions [E, P] (of length 1 in SIGReg, arXiv:2511.08544), of one dtype: float32 or float64.
    `knots`, at least 2, of the trapezoid rule on [0, 3]. Kernels take float32 and at most 33; on the CPU PyTorch computes what
    they do not take, on a GPU that is refused. Gradients flow to the latents and not to the directions. The same bits at every
    call, whatever the threads (on the CPU, those of PyTorch).
    group: processes that hold parts of one batch (each its own B) and the same directions: all get the statistic of the whole
    batch. The gradient is that of the sum of all ranks' results, as of torch.distributed.nn.functional: where
    DistributedDataParallel averages it over the ranks, it is that of one process with the whole batch.
    Raises TypeError or ValueError naming the argument.
    """
    E = _check.rank("latents", latents, "T B E").shape[2]
    P = _check.rank("directions", directions, "E P").shape[1]
    if latents.dtype not in DTYPES:
        raise TypeError(f"latents is {latents.dtype}, expected torch.float32 or torch.float64")
    _check.tensor("directions", directions, (E, P), latents, latents.dtype)
    with torch.autocast(latents.device.type, enabled=False):
        samples = latents @ directions.detach()
    return epps_pulley(samples, knots, group=group)


def epps_pulley(samples: Tensor, knots: int = 17, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """Epps-Pulley statistic of each column against N(0, 1): samples [T, B, P] -> [T, P]; see `sigreg`."""
    found: Tensor = _EppsPulley.apply(samples, knots, group)
    return found


class _EppsPulley(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, samples: Tensor, knots: int, group: dist.ProcessGroup | None) -> Tensor:
        found, pull = _forward(samples, knots)
        if group is not None:
            found, pull = _of_all(pull, samples.shape[1], group)
        ctx.save_for_backward(samples, pull)
        ctx.group = group
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if ctx.group is not None:
            gradient = gradient.contiguous().clone()
            dist.all_reduce(gradient, group=ctx.group)
        return _backward(gradient, *ctx.saved_tensors), None, None


def _of_all(pull: Tensor, B: int, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """The statistic and pull of all ranks' samples, from each rank's own pull and number of samples."""
    parts = torch.cat([B * pull.flatten(), pull.new_tensor([B])])
    dist.all_reduce(parts, group=group)
    mean = (parts[:-1] / parts[-1]).view_as(pull)
    return of_pull(mean, parts[-1]), mean


def _check_dtype(name: str, value: Tensor) -> None:
    allowed = DTYPES[:1] if is_gpu(value.device) else DTYPES
    if value.dtype not in allowed:
        raise TypeError(f"{name} is {value.dtype}, expected {' or '.join(map(str, allowed))}")


def _check_forward(samples: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    T, _, P = _check.rank("samples", samples, "T B P").shape
    _check_dtype("samples", samples)
    _check.integer("knots", knots, 2, MOST_KNOTS + 1 if is_gpu(samples.device) else 1 << 31)
    return samples.new_empty(T, P), samples.new_empty(T, 2, knots - 1, P)


def _isa(samples: Tensor, frequencies: int) -> str | None:
    """The instruction set whose kernels take these samples, None if PyTorch computes."""
    isa = _check.training_kernels_for(samples)
    few = isa is not None and frequencies <= cpu_module().SIGREG_MOST_FREQUENCIES
    return isa if few else None


@functools.cache
def _cpu_rule(knots: int) -> Tensor:
    return rule(knots, torch.float64, torch.device("cpu")).float()


def _sizes(samples: Tensor, frequencies: int) -> tuple[int | float, ...]:
    """T, B, P, F, spacing, threads of the kernels."""
    return *samples.shape, frequencies, LIMIT / frequencies, torch.get_num_threads()


@op("sigreg(Tensor samples, int knots) -> (Tensor, Tensor)", fake=_check_forward)
def _forward(samples: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    found, pull = _check_forward(samples, knots)
    if not is_gpu(samples.device):
        isa = _isa(samples, knots - 1)
        if isa is None:
            return statistic(samples, knots)
        samples = samples.contiguous()
        addresses = map(_check.address, (samples, _cpu_rule(knots), found, pull))
        cpu_module().sigreg(isa, *addresses, *_sizes(samples, knots - 1))
        return found, pull
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
        isa = _isa(samples, pull.shape[2])
        if isa is None:
            return slope(samples, pull) * gradient[:, None]
        gradient, samples, pull = gradient.contiguous(), samples.contiguous(), pull.contiguous()
        addresses = map(_check.address, (gradient, samples, pull, out))
        cpu_module().sigreg_backward(isa, *addresses, *_sizes(samples, pull.shape[2]))
        return out
    from fastwm.triton import sigreg as kernels

    kernels.backward(gradient.contiguous(), samples.contiguous(), pull.contiguous(), out)
    return out
