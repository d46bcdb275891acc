"""Where the GPU's kernels run in tests: on a GPU if there is one, else on the CPU, emulated."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastwm.engine.cuda import device

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from triton_fixtures import INTERPRETED, order, triton_device  # noqa: E402, F401


def _has_gpu() -> bool:
    if INTERPRETED or not torch.cuda.is_available():
        return False
    try:
        from fastwm import _cuda
    except ImportError:
        return False
    return not _cuda.emulated


@pytest.fixture
def gpu_device() -> torch.device:
    """The device of tensors that the GPU's kernels take: cuda, or the CPU where `fastwm._cuda` is emulated. Not entered."""
    if _has_gpu():
        return torch.device("cuda", torch.cuda.current_device())
    import emulation

    emulation.load().set_schedule("forward")
    return torch.device("cpu")


@pytest.fixture
def gpu(gpu_device: torch.device) -> Iterator[torch.device]:
    """The same, entered: tensors on it belong to the GPU's kernels."""
    with device.on(gpu_device):
        yield gpu_device


@pytest.fixture(params=["forward", "reverse", 7])
def schedule(request: pytest.FixtureRequest, gpu: torch.device) -> Iterator[str | int]:
    """Each order in which the emulation runs threads and blocks; a GPU has one of its own."""
    if gpu.type == "cuda":
        if request.param != "forward":
            pytest.skip("a GPU orders its threads itself")
        yield request.param
        return
    from fastwm import _cuda

    _cuda.set_schedule(request.param)
    yield request.param
    _cuda.set_schedule("forward")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in this folder are `gpu`; those with kernels in Triton are `triton`, too."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("gpu")
            if "triton_device" in getattr(item, "fixturenames", ()):
                item.add_marker("triton")
            sanitizer = getattr(item, "callspec", None) and item.callspec.params.get("sanitizer")
            if sanitizer in ("address", "thread"):
                item.add_marker(sanitizer)
