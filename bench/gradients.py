"""Forward and backward of one operation, fastwm's beside PyTorch's: what the benchmarks of training kernels share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from bench.options import Options
from bench.timing import in_turns

Operation = Callable[..., Tensor]


def lines(
    options: Options, ways: Mapping[str, Operation], inputs: list[Tensor], size: Mapping[str, object]
) -> Iterator[dict]:
    """One line per way and number of threads. The first way is PyTorch's: results and all gradients agree with its to 1e-4."""
    for threads in options.threads:
        torch.set_num_threads(threads)
        timed: dict[str, Callable[[], object]] = {}
        expected: tuple[Tensor, ...] | None = None
        for name, way in ways.items():
            run = functools.partial(forward_and_backward, way, inputs)
            found = run()
            expected = expected or found
            if all(map(close, found, expected)):
                timed[name] = run
            else:
                yield {**size, "threads": threads, "way": name, "passed": False}
        for name, times in in_turns(timed, repeats=options.repeats).items():
            yield {**size, "threads": threads, "way": name, "milliseconds": times, "passed": True}


def forward_and_backward(operation: Operation, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """The result and the gradient of each input, where the result's is one."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    result = operation(*leaves)
    return (result.detach(), *torch.autograd.grad(result, leaves, torch.ones_like(result)))


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
