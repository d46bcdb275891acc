"""Calling functions that are written in PyTorch, numpy or JAX with tensors, and taking tensors back."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Arrays = Literal["torch", "numpy", "jax"]


class TorchCalls:
    """Functions of tensors on the CPU. Gradients flow."""

    kind: Any = Tensor

    def prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What is called in the function's place."""
        return function

    def call(
        self, name: str, function: Callable[..., Any], *tensors: Tensor, shape: tuple[int, ...]
    ) -> Tensor:
        """function(copies of the tensors) as float32 of `shape`.

        Raises TypeError or ValueError, which says `name`, for what does not fit.
        """
        found = function(*(self._give(tensor) for tensor in tensors))
        if not isinstance(found, self.kind):
            raise TypeError(
                f"{name} returned {type(found).__name__}, expected {self.kind.__name__} of shape {shape}"
            )
        if tuple(found.shape) != shape:
            raise ValueError(f"{name} returned shape {tuple(found.shape)}, expected {shape}")
        if not self._floating(found):
            raise TypeError(f"{name} returned {found.dtype}, expected floating-point numbers")
        return self._take(name, found)

    def _give(self, tensor: Tensor) -> Any:
        return tensor.clone()

    def _floating(self, array: Any) -> bool:
        return array.is_floating_point()

    def _take(self, name: str, array: Any) -> Tensor:
        if array.device.type != "cpu":
            raise ValueError(f"{name} returned a tensor on {array.device}, expected the CPU")
        return array.clone().float()  # the function may go on to use its tensor


class NumpyCalls(TorchCalls):
    """Functions of numpy arrays."""

    kind = np.ndarray

    def _give(self, tensor: Tensor) -> Any:
        return tensor.detach().clone().numpy()

    def _floating(self, array: Any) -> bool:
        return array.dtype.kind == "f"

    def _take(self, name: str, array: Any) -> Tensor:
        return torch.from_numpy(
            np.array(array, np.float32)
        )  # a copy: the function may go on to use its array


class JaxCalls(NumpyCalls):
    """Functions of JAX arrays, compiled by `jax.jit`. Results are waited for, so that deadlines hold."""

    def __init__(self) -> None:
        try:
            self._jax = importlib.import_module("jax")
        except ImportError as error:
            raise ImportError("arrays is 'jax', but JAX is not installed: pip install jax") from error
        self.kind = self._jax.Array

    def prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """See TorchCalls."""
        return self._jax.jit(function)

    def _give(self, tensor: Tensor) -> Any:
        return self._jax.numpy.array(tensor.detach().numpy())


def calls(arrays: str) -> TorchCalls:
    """The way to call functions of "torch", "numpy" or "jax" arrays. Raises ValueError, and ImportError without JAX."""
    kinds: dict[str, type[TorchCalls]] = {"torch": TorchCalls, "numpy": NumpyCalls, "jax": JaxCalls}
    if arrays not in kinds:
        raise ValueError(f"arrays is {arrays!r}, expected 'torch', 'numpy' or 'jax'")
    return kinds[arrays]()
