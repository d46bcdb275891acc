"""What every result line must say: machine, instruction sets, versions, commit; and the machine's own peak."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path

import torch

import fastwm
from fastwm import _cpu
from fastwm.engine.pack import DTYPES

PEERS = ("stable-worldmodel", "transformers", "openvino", "nncf", "onnxruntime", "onnx")


def header() -> dict:
    """Machine, versions and commit. load: runnable processes of the last minute; above 1 the times are not to be trusted."""
    return {
        **fastwm.info(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "commit": _commit(),
        "peers": {name: version for name in PEERS if (version := _version(name))},
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def peak(isa: str, dtype: str, threads: int, *, seconds: float = 0.05, repeats: int = 7) -> float:
    """The most floating-point operations per second that `threads` threads reach with operands in registers."""

    def measure(rounds: int) -> tuple[float, float]:
        sums = torch.ones(threads, _cpu.FMA_PEAK_SUMS)
        began = time.perf_counter()
        operations = _cpu.fma_peak(isa, sums.data_ptr(), rounds, DTYPES[dtype], threads)
        elapsed = time.perf_counter() - began
        return operations / elapsed, elapsed

    _, elapsed = measure(100_000)
    rounds = int(100_000 * seconds / elapsed) + 1
    return max(measure(rounds)[0] for _ in range(repeats))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    if not (Path(__file__).parents[1] / "csrc").is_dir():
        return "unknown"  # installed, perhaps inside someone else's repository
    try:
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", "../fastwm", "../csrc", "../CMakeLists.txt"
        )
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
