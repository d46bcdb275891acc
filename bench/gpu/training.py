"""Kernels of training, forward and backward together, beside the same formula in PyTorch: eager and compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.agreement import Agreement
from bench.gpu import peers
from bench.gpu.counts import counted
from bench.gpu.kernels import DTYPES, Case, Key
from bench.gpu.place import Place, Size
from bench.gpu.timing import Call
from fastwm import ops, reference

CLIPS, TOKENS, WIDTH = 128, 3, 192  # a batch of LeWM's training: the rows that a layer sees are all of them
TIMES = 2.0  # as much error as PyTorch's own in the same dtype, against float64, of the worst gradient

Function = Callable[..., Tensor]


def adaln(place: Place, size: Size) -> Iterator[Case]:
    """Both norms and the modulation of a block, and their gradients."""
    rows, vector = _rows(place), (WIDTH,)
    yield from _case("adaln", place, size, ops.adaln, reference.adaln, (rows, rows, rows, vector, vector))


def gated_residual(place: Place, size: Size) -> Iterator[Case]:
    """x + gate y, and its gradients."""
    yield from _case(
        "gated_residual", place, size, ops.gated_residual, reference.gated_residual, (_rows(place),) * 3
    )


def _rows(place: Place) -> tuple[int, ...]:
    return (2 if place.rehearsal else CLIPS, TOKENS, WIDTH)


def _case(
    name: str, place: Place, size: Size, ours: Function, plain: Function, shapes: tuple[tuple[int, ...], ...]
) -> Iterator[Case]:
    """One case, of inputs of these shapes; not one for every number of environments."""
    if size != place.sizes[0]:
        return
    ways: dict[Key, Call] = {}
    truths: dict[str, list[Tensor]] = {}
    compiled = {"torch.compile": peers.compiled(plain, place)} if place.compiled else {}
    with torch.inference_mode(False):  # which keeps no gradients
        random = torch.Generator().manual_seed(0)
        numbers = [torch.randn(shape, generator=random).to(place.device) for shape in (*shapes, shapes[0])]
        for dtype in DTYPES:
            *inputs, gradient = (x.to(getattr(torch, dtype)) for x in numbers)
            for engine, function in {"fastwm": ours, "torch eager": plain, **compiled}.items():
                leaves = [x.clone().requires_grad_() for x in inputs]
                ways[engine, dtype] = functools.partial(_step, function, leaves, gradient)
            exact = [x.double().requires_grad_() for x in inputs]
            truths[dtype] = _step(plain, exact, gradient.double())

    def error(key: Key) -> float:
        found = ways[key]()
        assert isinstance(found, list)
        pairs = zip(found, truths[key[1]], strict=True)
        return max(float((mine.double() - exact).abs().max() / exact.abs().max()) for mine, exact in pairs)

    def agree(key: Key) -> Agreement:
        found, allowed = error(key), TIMES * error(("torch eager", key[1]))
        return Agreement(found <= allowed + torch.finfo(getattr(torch, key[1])).eps, found)

    rows = Size(shapes[0][0], S=1, T=shapes[0][1])
    yield Case(name, rows, ways, agree, work={d: counted(ways["fastwm", d]) for d in DTYPES})


def _step(function: Function, inputs: list[Tensor], gradient: Tensor) -> list[Tensor]:
    """The result and the gradient of each input."""
    with torch.inference_mode(False), torch.enable_grad():
        y = function(*inputs)
        return [y.detach(), *torch.autograd.grad(y, inputs, gradient)]
