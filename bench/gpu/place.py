"""Where the GPU benchmarks run: on a GPU, or in a rehearsal, on the CPU at tiny sizes, to see that all of it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Size:
    """A plan: B environments, S candidates, T blocks ahead, elites, iterations. model: of `bench.problems`."""

    B: int
    S: int = 300
    T: int = 5
    elites: int = 30
    iterations: int = 30
    model: str = "lewm"


@dataclasses.dataclass(frozen=True)
class Place:
    """device: of all tensors. rehearsal: kernels are emulated, times mean nothing and are never kept.

    compiled: whether torch.compile is among the ways.
    """

    device: torch.device
    rehearsal: bool
    compiled: bool = True

    @property
    def sizes(self) -> tuple[Size, ...]:
        """LeWM's default plan for one environment and for 50 at once."""
        if self.rehearsal:
            return (Size(2, S=3, T=2, elites=2, iterations=2, model="tiny"),)
        return Size(1), Size(50)

    @property
    def l2_bytes(self) -> int:
        if self.rehearsal:
            return 1 << 16
        return torch.cuda.get_device_properties(self.device).L2_cache_size

    def synchronise(self) -> None:
        if not self.rehearsal:
            torch.cuda.synchronize(self.device)


@contextlib.contextmanager
def at(*, rehearse: bool, compiled: bool = True) -> Iterator[Place]:
    """The GPU that PyTorch uses; or, to rehearse, the emulated one.

    Raises ImportError or RuntimeError that say what is missing.
    """
    with contextlib.ExitStack() as stack:
        if rehearse:
            stack.enter_context(_emulation())
        from fastwm.engine.cuda import device as devices

        device = devices.default_device()
        if device.type == "cpu" and not rehearse:
            raise RuntimeError("fastwm._cuda is emulated here, expected a GPU")
        stack.enter_context(devices.on(device))
        stack.enter_context(torch.inference_mode())
        yield Place(device, rehearse, compiled)


def _emulation() -> contextlib.AbstractContextManager[object]:
    """The emulated `fastwm._cuda`, and Triton's interpreter under the tests' guard, which gives it bfloat16."""
    if "fastwm.triton.rollout.dense" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("Triton's kernels are loaded already: rehearse in a process of its own")
    os.environ["TRITON_INTERPRET"] = "1"  # read where a kernel is defined
    folder = str(ROOT / "tests" / "gpu")
    if folder not in sys.path:
        sys.path.append(folder)
    import emulation
    from guard import guard

    emulation.load()
    return guard()


def describe(place: Place) -> dict[str, Any]:
    """What every line of results is of, besides machine and versions (`bench.machine.header`)."""
    if place.rehearsal:
        return {"gpu": "emulated"}
    properties = torch.cuda.get_device_properties(place.device)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "torch_cuda": torch.version.cuda,
    }
