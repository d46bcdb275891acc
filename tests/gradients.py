"""A function's result and every gradient: of a kernel, of PyTorch in the same dtype, and in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from close import assert_close
from torch import Tensor

Function = Callable[..., Tensor]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers that are exact in `dtype`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def result_and_gradients(
    function: Function,
    inputs: Mapping[str, Tensor],
    gradient: Tensor,
    dtype: torch.dtype,
    device: object = "cpu",
) -> dict[str, Tensor]:
    """On the CPU: the result for inputs of this dtype, and the gradient of each, from that of the result."""
    leaves = {name: x.to(device, dtype, copy=True).requires_grad_() for name, x in inputs.items()}
    result = function(**leaves)
    result.backward(gradient.to(device, dtype))
    found = {"result": result.detach()} | {f"gradient of {name}": leaf.grad for name, leaf in leaves.items()}
    assert all(x.dtype == dtype for x in found.values())
    return {name: x.cpu() for name, x in found.items()}


def assert_as_exact_as_pytorch(
    found: Mapping[str, Tensor], reference: Function, inputs: Mapping[str, Tensor], gradient: Tensor
) -> None:
    """Assert that all of `found` is as close to float64 as what PyTorch computes by `reference` in the same dtype."""
    same_dtype = result_and_gradients(reference, inputs, gradient, found["result"].dtype)
    truth = result_and_gradients(reference, inputs, gradient, torch.float64)
    assert found.keys() == truth.keys()
    for name, exact in truth.items():
        assert_close(name, found[name], same_dtype[name], exact)
