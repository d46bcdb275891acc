"""The emulation of CUDA finds the faults that it is there to find, and none in correct kernels."""

from __future__ import annotations

from pathlib import Path

import emulation
import pytest
import torch

FAULTS = [Path(__file__).parent / "faults" / name for name in ("faults.cu", "bind.cpp")]


@pytest.fixture(scope="module")
def faults():
    return emulation.import_module(emulation.build(sources=FAULTS))


@pytest.mark.parametrize("order", ["forward", "reverse", 7])
def test_a_correct_kernel_gives_its_values_in_every_order(faults, order) -> None:
    x, y = torch.randn(100), torch.full((100,), torch.nan)
    faults.set_schedule(order)
    faults.run(0, 0, "reversed", x.data_ptr(), y.data_ptr(), 100)
    assert torch.equal(y, x.flip(0))
