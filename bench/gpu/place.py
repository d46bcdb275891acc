"""Where the GPU benchmarks run: on a GPU, or in a rehearsal, on the CPU at tiny sizes, to see that all of it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
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
    """device: of all tensors. rehearsal: kernels are emulated, times mean nothing and are never kept."""

    device: torch.device
    rehearsal: bool

    @property
    def sizes(self) -> tuple[Size, ...]:
        """LeWM's default plan for one environment and for 50 at once."""
        if self.rehearsal:
            return tuple(Size(B, S=5, T=2, elites=2, iterations=2, model="tiny") for B in (1, 2))
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
def at(*, rehearse: bool) -> Iterator[Place]:
    """The GPU that PyTorch uses; or, to rehearse, the emulated one.

    Raises ImportError or RuntimeError that say what is missing.
    """
    if rehearse:
        _emulate()
    from fastwm.engine.cuda import device as devices

    device = devices.default_device()
    if device.type == "cpu" and not rehearse:
        raise RuntimeError(
            "fastwm._cuda is emulated here, expected a GPU; --rehearse runs the benchmarks without one"
        )
    with devices.on(device), torch.inference_mode():
        yield Place(device, rehearse)


def _emulate() -> None:
    """Triton's interpreter, which must be chosen before a kernel is defined, and the emulated `fastwm._cuda`."""
    if "fastwm.triton.rollout.dense" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("Triton's kernels are loaded already: rehearse in a process of its own")
    os.environ["TRITON_INTERPRET"] = "1"
    folder = str(ROOT / "tests" / "gpu")
    if folder not in sys.path:
        sys.path.append(folder)
    import emulation

    emulation.load()


def describe(place: Place) -> dict[str, Any]:
    """What every line of results is of, besides machine and versions (`bench.machine.header`)."""
    versions = {"triton": importlib.metadata.version("triton"), "torch_cuda": torch.version.cuda}
    if place.rehearsal:
        return {"gpu": "emulated", **versions}
    properties = torch.cuda.get_device_properties(place.device)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        **versions,
    }
