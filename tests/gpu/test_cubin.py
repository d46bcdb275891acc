"""The machine code of `fastwm._cuda`: nothing spilled, no bank conflicts, blocks that fit; read without a GPU."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cubin
import pytest
from occupancy import occupancy

pytest.importorskip("triton")
ARCHITECTURES = {80, 90, 100, 120}
FAULTS = Path(__file__).parent / "faults" / "spills.cu"


def _built() -> Path:
    spec = importlib.util.find_spec("fastwm._cuda")
    if spec is None or spec.origin is None:
        pytest.skip("fastwm._cuda was built without nvcc")
    return Path(spec.origin)


@pytest.fixture(scope="module")
def kernels() -> list[cubin.Kernel]:
    return cubin.read(_built())


def test_every_kernel_is_there_for_every_architecture(kernels: list[cubin.Kernel]) -> None:
    assert kernels
    for name in {kernel.name for kernel in kernels}:
        assert {kernel.architecture for kernel in kernels if kernel.name == name} == ARCHITECTURES, name


def test_nothing_spills_and_every_block_fits(kernels: list[cubin.Kernel], record_property: Callable) -> None:
    for kernel in kernels:
        record_property("kernel", json.dumps(cubin.row(kernel)))
    assert cubin.violations(kernels) == []


def test_no_bank_conflicts() -> None:
    pytest.importorskip("cuxray")
    found, judged = cubin.bank_conflicts(_built())
    assert judged
    assert found == []


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on PATH")
    built = tmp_path_factory.mktemp("cubin") / "faults.cubin"
    subprocess.run([nvcc, "-arch=sm_90", "-cubin", "-lineinfo", "-o", built, FAULTS], check=True)
    return built


def test_the_gate_refuses_faults(faulty: Path) -> None:
    found = "\n".join(cubin.violations(cubin.read(faulty, 90)))
    assert "array sm_90: spills" in found
    assert "array sm_90: stack 256, expected 0" in found
    assert "unbounded sm_90: no __launch_bounds__" in found
    assert "right" not in found
    assert "column" not in found


def test_bank_conflicts_are_found(faulty: Path) -> None:
    pytest.importorskip("cuxray")
    found, judged = cubin.bank_conflicts(faulty)
    assert found
    assert all(line.startswith("column sm_90: 8 ways at spills.cu:") for line in found)
    assert judged["right sm_90"][0] > 0


@pytest.mark.parametrize(
    ("architecture", "threads", "registers", "shared", "expected"),
    [
        (80, 128, 32, 0, 1.0),
        (80, 128, 128, 0, 0.25),
        (90, 128, 116, 0, 0.25),
        (90, 128, 80, 16384, 0.375),
        (90, 1024, 65, 0, 0.0),
        (90, 256, 32, 100 << 10, 0.25),
        (120, 128, 32, 0, 1.0),
        (120, 128, 32, 100 << 10, 0.0),
    ],
)
def test_occupancy(architecture: int, threads: int, registers: int, shared: int, expected: float) -> None:
    assert occupancy(architecture, threads, registers, shared) == expected
