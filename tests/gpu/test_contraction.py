"""nvcc fuses no product with a sum in the kernels that promise the reference's bits; the emulation cannot see that."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kernel", ["cem_sample", "cem_update"])
def test_no_product_is_fused_with_a_sum(kernel: str, tmp_path: Path) -> None:
    """With the flag that cmake/cuda.cmake gives these two files, and not without it: the test sees what it looks for."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on PATH")
    source, fused = f"csrc/cuda/{kernel}.cu", {}
    for flag in ("-fmad=false", "-fmad=true"):
        command = [nvcc, "-ptx", "-std=c++17", "-arch=sm_80", flag, "-Icsrc", source]
        subprocess.run([*command, "-o", str(tmp_path / "out.ptx")], check=True, cwd=ROOT)
        fused[flag] = (tmp_path / "out.ptx").read_text().count("fma.rn")
    assert fused["-fmad=false"] == 0
    assert fused["-fmad=true"] > 0
    flags = (ROOT / "cmake" / "cuda.cmake").read_text()
    assert any(source in line and "COMPILE_OPTIONS -fmad=false" in line for line in flags.splitlines())
