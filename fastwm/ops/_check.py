"""What every door asks of its arguments, and which kernels serve them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fastwm.engine import backend
from fastwm.engine.cuda.device import Launch, is_gpu, launch


def tensor(
    name: str, value: object, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype = torch.float32
) -> None:
    """Raise unless `value` is a tensor of this shape and dtype on the device of `like`, with no gradient to
    carry."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {type(value).__name__}, expected a torch.Tensor")
    if value.dtype != dtype:
        raise TypeError(f"{name} is {value.dtype}, expected {dtype}")
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {tuple(shape)}")
    if value.device != like.device:
        raise ValueError(f"{name} is on {value.device}, expected {like.device}")


def floating(name: str, value: object, letters: str) -> bool:
    """Raise unless `value` is a tensor [..., `letters`] with no dimension 0, of a floating dtype that its device has.

    Whether its device is a GPU, whose kernels have float32 and bfloat16; the PyTorch reference has every floating dtype.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {type(value).__name__}, expected a torch.Tensor")
    gpu = is_gpu(value.device)
    if gpu and value.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"{name} is {value.dtype}, expected torch.float32 or torch.bfloat16")
    if not value.is_floating_point():
        raise TypeError(f"{name} is {value.dtype}, expected a floating dtype")
    if value.dim() < len(letters.split()) or 0 in value.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, expected [..., {letters.replace(' ', ', ')}], none of them 0"
        )
    return gpu


def shared_by_rows(name: str, value: object, x: Tensor) -> None:
    """Raise unless `value` is like x [..., N, W], or [..., 1, W]: one row of it for N of x."""
    one = (*x.shape[:-2], 1, x.shape[-1])
    tensor(
        name, value, one if isinstance(value, Tensor) and value.shape == one else tuple(x.shape), x, x.dtype
    )


CPU = torch.device("cpu")


def dense(name: str, value: object, expected: str, device: torch.device = CPU) -> Tensor:
    """`value` if it is a dense float32 tensor on the CPU or on `device`. `expected`: its shape, for messages."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {type(value).__name__}, expected a torch.Tensor {expected}")
    if value.dtype != torch.float32:
        raise TypeError(f"{name} is {value.dtype}, expected torch.float32 {expected}")
    readable(name, value, expected)
    if value.device not in (CPU, device):
        raise ValueError(
            f"{name} is on {value.device}, expected {device if device.type != 'cpu' else 'the CPU'}"
        )
    return value


def readable(name: str, value: Tensor, expected: str) -> None:
    """Raise ValueError unless the tensor has numbers, each at its place."""
    if value.is_nested or value.layout != torch.strided:
        kind = "nested" if value.is_nested else f"{value.layout}"
        raise ValueError(f"{name} is a {kind} tensor, expected a dense one {expected}")
    if value.is_meta:
        raise ValueError(f"{name} is on the meta device, expected numbers {expected}")


def from_array(name: str, value: np.ndarray) -> Tensor:
    """The array's numbers, shared where PyTorch can: not those of arrays that are read-only, strided backwards or byte-swapped.

    Raises TypeError naming the argument for numbers that PyTorch does not have.
    """
    try:
        return torch.from_numpy(np.require(value, value.dtype.newbyteorder("="), ["C", "W"]))
    except TypeError as error:
        raise TypeError(f"{name} is an array of {value.dtype}, expected numbers that PyTorch has") from error


def finite(name: str, value: Tensor) -> None:
    """Raise ValueError unless all numbers of a float32 tensor on the CPU are finite.

    By numpy: PyTorch would share a large tensor out among its threads, which a forked child does not have.
    """
    if not np.isfinite(value.detach().numpy()).all():
        raise ValueError(f"{name} holds numbers that are not finite")


def rank(name: str, value: object, letters: str) -> Tensor:
    """`value` if it is a tensor with one non-empty dimension for each of `letters`, for example "B T A"."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {type(value).__name__}, expected a torch.Tensor")
    if value.dim() != len(letters.split()) or 0 in value.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, expected [{letters.replace(' ', ', ')}], none of them 0"
        )
    return value


def integer(name: str, value: int, low: int, high: int) -> None:
    """Raise unless low <= value < high."""
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected an integer")
    if not low <= value < high:
        raise ValueError(f"{name} is {value}, expected {low} <= {name} < {high}")


def number(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise unless low <= value < high."""
    if not isinstance(value, (float, int)) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected a number")
    if not low <= value < high:
        raise ValueError(f"{name} is {value}, expected {low} <= {name} < {high}")


def choice(name: str, value: str, allowed: tuple[str, ...]) -> int:
    """The place of `value` among `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {allowed}")
    return allowed.index(value)


def gpu_for(device: torch.device, isa: str | None) -> Launch | None:
    """What starts the GPU's kernels, or None if tensors of this device are not theirs.

    They are not where an instruction set was asked for by name, and CUDA tensors are not where the backend is torch or
    `fastwm._cuda` was not built: then the PyTorch reference runs.
    """
    if isa is not None or (device.type == "cuda" and backend.backend() == "torch"):
        return None
    try:
        return launch(device)
    except ImportError:
        if device.type != "cuda":
            raise
        return None


def kernels_for(device: torch.device, isa: str | None) -> str | None:
    """The instruction set whose kernels run, or None for the PyTorch reference.

    An instruction set asked for by name is used or refused; else tensors on the CPU get the best one, unless
    the backend is torch.
    """
    if isa is not None:
        if device.type != "cpu":
            raise ValueError(f"isa is {isa!r} but the tensors are on {device}, expected them on the cpu")
        return isa
    if device.type != "cpu" or backend.backend() == "torch":
        return None
    return backend.isa()


def training_kernels_for(value: Tensor) -> str | None:
    """The instruction set whose kernels train with such a tensor, float32 on the CPU; None for the PyTorch reference."""
    return kernels_for(value.device, None) if value.dtype == torch.float32 else None


def address(value: Tensor | None) -> int:
    """Where a contiguous tensor starts, 0 for None."""
    return 0 if value is None else value.data_ptr()
