"""Work on a GPU, captured once and then started with one call: the only file that knows CUDA graphs.

On an emulated GPU (device.py) a `Recording` takes the graph's place. It keeps what a graph keeps: which operations were
started, on which memory. A number of the host is what it was when it was recorded, and an operation that would have to wait
for the device is refused, as a capture refuses it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from fastwm.engine.cuda import device as devices
from fastwm.engine.cuda.device import Kernel

_ONE = threading.Lock()  # PyTorch captures one graph at a time in a process


class Graph(Protocol):
    """Captured work."""

    def replay(self) -> None:
        """Start it again, on the memory that it was captured with."""


def capture(work: Callable[[], Any], device: torch.device) -> tuple[Graph, Any]:
    """The graph of `work`, and what it returned: tensors whose numbers every replay writes anew.

    `work` is done once before, so that kernels are compiled and constants are on the device. It may not wait for the device.
    """
    if device.type != "cuda":
        work()
        recording = Recording()
        return recording, recording.record(work)
    with _ONE:
        # A stream of this device: PyTorch's own for captures is one of the device that captured first.
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads, which plan or train meanwhile, may allocate memory and wait for the device.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            result = work()
        return graph, result


class Recording(TorchDispatchMode):
    """A graph of an emulated GPU: PyTorch's operations and fastwm's kernels, to be done again on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self._steps: list[Kernel] = []
        self._memory: list[object] = []  # keeps what kernels have addresses of
        self.kernels: list[str] = []  # names of fastwm's, in order
        self.operations: list[str] = []  # PyTorch's that would start a kernel

    def record(self, work: Callable[[], Any]) -> Any:
        """Do `work` and remember it."""
        devices.watchers.append(self._started)
        try:
            with self:
                return work()
        finally:
            devices.watchers.remove(self._started)

    def replay(self) -> None:
        """See Graph."""
        for step in self._steps:
            step()

    def _started(self, name: str, kernel: Kernel) -> Kernel:
        if threading.get_ident() != self._thread:
            return kernel  # another plan's

        def alone() -> None:
            with _disable_current_modes():  # what an interpreted kernel does inside is its own
                kernel()

        self.kernels.append(name)
        self._steps.append(alone)
        return alone

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs, name = kwargs or {}, str(function)
        if name in _WAITS:
            raise RuntimeError(f"{name} would wait for the device, which a CUDA graph cannot hold")
        result = function(*args, **kwargs)
        if function.is_view or name in _FREE:
            self._memory.append(result)
            if name in _EMPTY and result.is_floating_point():
                self._steps.append(lambda: result.fill_(float("nan")))  # an old number would not be seen
            return result
        self.operations.append(name)

        def again() -> None:
            found = function(*args, **kwargs)
            for old, new in zip(_tensors(result), _tensors(found), strict=True):
                if old is not new:
                    old.copy_(new)

        self._steps.append(again)
        return result


_WAITS = {
    "aten._local_scalar_dense.default",
    "aten.nonzero.default",
    "aten.equal.default",
    "aten.is_nonzero.default",
}
_EMPTY = {
    "aten.empty.memory_format",
    "aten.empty_like.default",
    "aten.new_empty.default",
    "aten.empty_strided.default",
}
_FREE = {*_EMPTY, "aten.detach.default", "aten.lift_fresh.default", "aten._unsafe_view.default"}


def _tensors(value: object) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
