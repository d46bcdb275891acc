"""Attention over a window of a few tokens: fastwm's CUDA kernel beside PyTorch's ways to write it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import problems
from bench.agreement import Agreement
from bench.gpu import peers
from bench.gpu.counts import counted
from bench.gpu.kernels import DTYPES, Case, Key
from bench.gpu.place import Place, Size
from bench.gpu.timing import Call
from fastwm.engine.cuda import device as devices
from fastwm.engine.pack import DTYPES as NUMBERS

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v [R, n, H, D] -> [R, n, H, D], causal
TIMES = 2.0  # as much error as PyTorch's eager attention in the same dtype, against float64


def attention(place: Place, size: Size) -> Iterator[Case]:
    """Causal, of a model's full window, every candidate and head; q, k and v are parts of one tensor."""
    ways: dict[Key, Call] = {}
    given: dict[str, tuple[Tensor, ...]] = {}
    for dtype in DTYPES:
        q, k, v = given[dtype] = tuple(x.to(place.device) for x in inputs(size, getattr(torch, dtype)))
        for engine, way in {"fastwm": kernel, **others(place)}.items():
            ways[engine, dtype] = functools.partial(way, q, k, v)
    eager = {dtype: ways["torch eager", dtype] for dtype in DTYPES}

    def error(key: Key, way: Call) -> float:
        exact = plain(*(x.double() for x in given[key[1]]))
        return float((way().double() - exact).abs().max())  # type: ignore[attr-defined]

    def agree(key: Key) -> Agreement:
        found, allowed = error(key, ways[key]), TIMES * error(key, eager[key[1]])
        return Agreement(found <= allowed + torch.finfo(getattr(torch, key[1])).eps, found)

    yield Case("attention", size, ways, agree, work={d: counted(ways["fastwm", d]) for d in DTYPES})


def inputs(size: Size, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """q, k, v [B S, window, H, D]"""
    spec = problems.spec(size.model)
    random = torch.Generator().manual_seed(0)
    shape = size.B * size.S, spec.window, 3, spec.heads, spec.head_dim
    return torch.randn(shape, generator=random).to(dtype).unbind(2)


def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """fastwm's, straight from its launcher; AttentionArgs in csrc/ops.h is the order of what it takes."""
    launch = devices.launch(q.device)
    assert launch is not None
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    strides = [stride for x in (q, k, v, out) for stride in x.stride()[:3]]
    addresses = [x.data_ptr() for x in (q, k, v, out)]
    number = NUMBERS[str(q.dtype).removeprefix("torch.")]
    launch("attention", *addresses, *q.shape, *strides, 1, q.shape[-1] ** -0.5, number)
    return out


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def flex(place: Place) -> Attention:
    """FlexAttention, which is meant to be compiled; a rehearsal runs it as it is."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    call = flex_attention if place.rehearsal else torch.compile(flex_attention, dynamic=False)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return call(*(x.transpose(1, 2) for x in (q, k, v)), block_mask=masks(q.shape[1])).transpose(1, 2)

    @functools.cache
    def masks(n: int) -> object:
        return create_block_mask(lambda b, h, i, j: i >= j, None, None, n, n, device=str(place.device))

    return run


def others(place: Place) -> dict[str, Attention]:
    found: dict[str, Attention] = {"torch eager": plain, "torch SDPA": sdpa}
    if place.compiled:
        found |= {"torch.compile": peers.compiled(plain, place), "torch FlexAttention": flex(place)}
    return found
