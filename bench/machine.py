"""What every result line must say: machine, instruction sets, versions, commit; and the machine's own peak."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import fastwm
from fastwm.engine.backend import cpu_module
from fastwm.engine.pack import DTYPES

MEASURED = "csrc", "fastwm", "CMakeLists.txt", "pyproject.toml"  # what a result is of
BUSY, SPREAD = (
    0.5,
    1.5,
)  # runnable processes per processor, and third quartile against the first, that are too much
PEERS = ("stable-worldmodel", "transformers", "openvino", "nncf", "onnxruntime", "onnx")


def header() -> dict:
    """Machine, versions and commit. load: runnable processes of the last minute, of which some may be the run before."""
    return {
        **fastwm.info(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "commit": _commit(),
        "peers": {name: version for name in PEERS if (version := _version(name))},
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def describe(machine: dict, threads: int) -> str:
    """The one line that stands above printed times."""
    more = ", more threads than processors" if threads > machine["cores"] else ""
    return (
        f"{machine['processor']}, {machine['isa']}, {threads} thread{'s' if threads > 1 else ''}{more}, "
        f"fastwm {machine['fastwm']} ({machine['commit']}), torch {machine['torch']}, load {machine['load']}"
    )


def doubts(machine: dict, lines: Sequence[dict] = ()) -> list[str]:
    """Why the times are not to be trusted, a sentence each; none on a quiet machine."""
    found = []
    if machine.get("load", 0) > BUSY * machine["cores"]:
        found.append(
            f"machine busy (load {machine['load']:.1f} on {machine['cores']} cores): ratios are not to be trusted"
        )
    timed = [line["milliseconds"] for line in lines if "milliseconds" in line]
    uneven = [ms["q3"] / ms["q1"] for ms in timed if "q1" in ms and ms["q3"] > SPREAD * ms["q1"]]
    if uneven:
        found.append(
            f"times uneven (third quartile up to {max(uneven):.1f} times the first, {len(uneven)} of {len(timed)} times): "
            "ratios are not to be trusted"
        )
    return found


def peak(isa: str, dtype: str, threads: int, *, seconds: float = 0.05, repeats: int = 7) -> float:
    """The most floating-point operations per second that `threads` threads reach with operands in registers."""
    module = cpu_module()

    def measure(rounds: int) -> tuple[float, float]:
        sums = torch.ones(threads, module.FMA_PEAK_SUMS)
        began = time.perf_counter()
        operations = module.fma_peak(isa, sums.data_ptr(), rounds, DTYPES[dtype], threads)
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
    """The last commit that touched what is measured: results and documents may be committed between parts of a run."""
    root = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments, "--", *MEASURED]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    if not (root / "csrc").is_dir():
        return "unknown"  # installed, perhaps inside someone else's repository
    try:
        commit = git("log", "-1", "--format=%H")[:12]
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changed else "") if commit else "unknown"
