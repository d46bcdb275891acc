"""Attention of windows of tokens, with gradients: LeWM's three tokens or a video's hundreds.

The CPU's kernels, in C++, take float32 and at most 32 tokens; PyTorch computes the rest there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastwm import reference
from fastwm.engine.backend import cpu_module
from fastwm.engine.cuda import device
from fastwm.ops import _check
from fastwm.ops._register import op

WIDEST = 128  # numbers of a head that a GPU's kernels take
FEW = 32  # tokens for which the kernel without gradients is made (csrc/cuda/attention.cu)


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, frame_tokens: int = 1, scale: float | None = None
) -> Tensor:
    """softmax(scale q k^T) v of each row and head: q, k, v [R, n, H, D] -> [R, n, H, D].

    frame_tokens: N, a token sees all tokens of its own frame of N and of frames before; 1 is causal, 0 lets all see all.
    scale: D^-1/2 by default. float32 or bfloat16 (any floating dtype where the PyTorch reference runs), one for all; the
    softmax and sums are float32. Of q, k, v any strides whose last is 1 are taken as they are: parts of one projection.
    In training, and where rows are not of whole 16 bytes, a NaN in v may reach other windows on a GPU: small ones share a
    tile. Gradients flow to q, k and v (FlashAttention-2, arXiv:2307.08691). Raises TypeError or ValueError naming the argument.
    """
    if scale is None and isinstance(q, Tensor) and q.dim() == 4:
        scale = max(q.shape[3], 1) ** -0.5
    return _Attention.apply(q, k, v, frame_tokens, scale)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, frame_tokens: int, scale: float) -> Tensor:
        out, sums = _forward(q, k, v, frame_tokens, scale, any(ctx.needs_input_grad))
        ctx.save_for_backward(q, k, v, out, sums)
        ctx.of = frame_tokens, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *_backward(gradient, *ctx.saved_tensors, *ctx.of), None, None


def _check_forward(
    q: Tensor, k: Tensor, v: Tensor, frame_tokens: int, scale: float, trains: bool
) -> tuple[Tensor, Tensor]:
    gpu = _check.floating("q", _check.rank("q", q, "R n H D"), "R n H D")
    for name, value in (("k", k), ("v", v)):
        _check.tensor(name, value, tuple(q.shape), q, q.dtype)
    R, n, H, D = q.shape
    if gpu and D > WIDEST:
        raise ValueError(f"q has heads of {D} numbers, expected at most {WIDEST}")
    _check.integer("frame_tokens", frame_tokens, 0, 2**31)
    _check.number("scale", scale, 0.0)
    sums = torch.empty((R, H, n) if gpu and trains else 0, dtype=torch.float32, device=q.device)
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), sums


@op(
    "attention_forward(Tensor q, Tensor k, Tensor v, int frame_tokens, float scale, bool trains) -> (Tensor, Tensor)",
    fake=_check_forward,
)
def _forward(
    q: Tensor, k: Tensor, v: Tensor, frame_tokens: int, scale: float, trains: bool
) -> tuple[Tensor, Tensor]:
    out, sums = _check_forward(q, k, v, frame_tokens, scale, trains)
    if not device.is_gpu(q.device):
        if _on_cpu(None, q, k, v, (out, None, None, None), frame_tokens, scale):
            return out, sums
        return reference.attention(q, k, v, frame_tokens, scale).contiguous(), sums
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    gpu = None if trains else _few(q, k, v, out)
    if gpu is not None:
        strides = [stride for x in (q, k, v, out) for stride in x.stride()[:3]]
        kind = 0 if q.dtype == torch.float32 else 1
        gpu("attention", *map(_check.address, (q, k, v, out)), *q.shape, *strides, frame_tokens, scale, kind)
        return out, sums
    from fastwm.triton import attention as kernels

    found = kernels.forward(q, k, v, frame_tokens, scale)
    return found if trains else (found[0], sums)


def _on_cpu(
    gradient: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    results: tuple[Tensor | None, ...],
    frame_tokens: int,
    scale: float,
) -> bool:
    """Run the CPU's kernel if it takes these; forward where there is no gradient."""
    isa = _check.training_kernels_for(q)
    if isa is None or q.shape[1] > cpu_module().ATTENTION_MOST_TOKENS:
        return False
    given = [x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v)]
    strides = [stride for x in given for stride in x.stride()[:3]]
    addresses = [_check.address(x) for x in (gradient, *given, *results)]
    cpu_module().attention(
        isa, addresses, list(q.shape), strides, frame_tokens, scale, torch.get_num_threads()
    )
    return True


def _few(*tensors: Tensor) -> device.Launch | None:
    """What starts the kernel for few tokens, if it takes q, k, v and out: rows and addresses of 16 bytes."""
    q = tensors[0]
    step = 16 // q.element_size()
    aligned = all(
        x.data_ptr() % 16 == 0 and all(stride % step == 0 for stride in x.stride()[:3]) for x in tensors
    )
    if q.shape[1] > FEW or q.shape[3] % 8 or not aligned:
        return None
    return _check.gpu_for(q.device, None)


def _fake_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    frame_tokens: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))
    return dq, dk, dv


@op(
    "attention_backward(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor out, Tensor sums, int frame_tokens, "
    "float scale) -> (Tensor, Tensor, Tensor)",
    fake=_fake_backward,
)
def _backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    frame_tokens: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if not device.is_gpu(q.device):
        dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
        if _on_cpu(gradient.contiguous(), q, k, v, (None, dq, dk, dv), frame_tokens, scale):
            return dq, dk, dv
        dq, dk, dv = reference.attention_backward(gradient, q, k, v, frame_tokens, scale)
        return dq.contiguous(), dk.contiguous(), dv.contiguous()
    from fastwm.triton import attention as kernels

    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return kernels.backward(gradient, q, k, v, out, sums, frame_tokens, scale)
