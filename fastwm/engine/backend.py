"""Which backend and instruction set run, chosen once, printable and forceable.

Two environment variables: `FASTWM_BACKEND` (cpu, cuda, torch) and `FASTWM_ISA` (avx512_bf16, avx512, avx2, baseline). A choice
that this machine or this build cannot run raises when it is first used.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

BACKENDS = ("cpu", "cuda", "torch")


def cpu_module() -> Any:
    """The compiled module `fastwm._cpu`, or an ImportError that says how to get it."""
    try:
        from fastwm import _cpu
    except ImportError as error:
        raise ImportError(
            "fastwm was installed without its compiled module fastwm._cpu; reinstall it with `pip install .` "
            f"(needs a C++17 compiler), or use backend='torch'{_sources()}"
        ) from error
    return _cpu


def cuda_module() -> Any:
    """The compiled module `fastwm._cuda`, or an ImportError that says how to get it."""
    try:
        from fastwm import _cuda
    except ImportError as error:
        if importlib.util.find_spec("fastwm._cuda") is not None:
            raise ImportError(f"fastwm._cuda is there and does not load: {error}") from error
        raise ImportError(
            "fastwm was installed without its CUDA module fastwm._cuda; `FASTWM_CUDA=ON pip install .` builds it, with the "
            f"nvcc on PATH, else with one that it fetches for the build{_sources()}"
        ) from error
    return _cuda


def _sources() -> str:
    """What else to know where fastwm comes from a folder of sources, which hides an installed package; else nothing."""
    import fastwm

    sources = Path(fastwm.__file__).parents[1]
    if not (sources / "CMakeLists.txt").is_file():
        return ""
    return (
        f"; you import the sources in {sources}, not an installed package: start Python in another folder, or install with "
        "`pip install --editable .`"
    )


def isas() -> list[str]:
    """Instruction sets that this build has and this machine runs, best first."""
    return list(cpu_module().isas())


def isa() -> str:
    """The instruction set in use: `FASTWM_ISA` if set, else the best.

    Raises ValueError if `FASTWM_ISA` names one that cannot run here.
    """
    return _isa(os.environ.get("FASTWM_ISA", ""))


@functools.cache
def _isa(wanted: str) -> str:
    available = isas()
    if not wanted:
        return available[0]
    if wanted not in available:
        raise ValueError(f"FASTWM_ISA is {wanted!r}, expected {', '.join(available)}: what this machine runs")
    return wanted


def backend(name: str = "auto") -> str:
    """Resolve a backend name: the argument, else `FASTWM_BACKEND`, else cuda on a machine with a GPU that can be used, else cpu
    where its compiled module is there, else torch.

    Raises ValueError for an unknown name; ImportError if a backend that was asked for by name was not built, or `triton`, which
    cuda needs, is missing; RuntimeError if there is no GPU for it.
    """
    source = "backend"
    if name == "auto" and os.environ.get("FASTWM_BACKEND"):
        name, source = os.environ["FASTWM_BACKEND"], "FASTWM_BACKEND"
    if name == "auto":
        if _has_gpu():
            return "cuda"
        try:
            cpu_module()
        except ImportError:
            return "torch"
        return "cpu"
    if name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}, expected one of {BACKENDS} or 'auto'")
    if name == "cpu":
        cpu_module()
    if name == "cuda":
        _check_gpu()
    return name


def _has_gpu() -> bool:
    """Whether everything is there that backend "cuda" needs; an emulated GPU is none."""
    return torch.cuda.is_available() and why_not_gpu() is None


def why_not_gpu() -> str | None:
    """What keeps "auto" from taking a GPU, None where nothing does."""
    try:
        _check_gpu()
        if cuda_module().emulated:
            return "the GPU is emulated"
    except (ImportError, RuntimeError) as error:
        return str(error)
    return None


def _check_gpu() -> None:
    """Raise what is hardest to mend first: a missing GPU before a missing package."""
    from fastwm.engine.cuda.device import default_device

    default_device()
    if importlib.util.find_spec("triton") is None:
        raise ImportError(
            "backend 'cuda' needs the package triton, which PyTorch for CUDA brings; `pip install triton`"
        )


@contextlib.contextmanager
def own_precision() -> Iterator[None]:
    """PyTorch works in the dtypes of its arguments, whatever autocast the caller is in."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def default_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int | None) -> int:
    """`threads` or the default; raises ValueError unless it is a positive integer."""
    if threads is None:
        return default_threads()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise ValueError(
            f"threads is {threads!r}, expected an integer from 1 to 1024, or None for all processors"
        )
    return threads


def info() -> dict:
    """What runs here: fastwm and torch versions, backend, instruction sets, threads, processor."""
    import fastwm

    found: dict = {
        "fastwm": fastwm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    try:
        found["backend"] = backend()
    except (ImportError, RuntimeError) as error:  # FASTWM_BACKEND: the rest of the table says why
        found["backend"] = f"none ({error})"
    try:
        found["isa"] = isa()
        found["isas"] = isas()
    except ImportError as error:
        found["isa"], found["isas"] = f"none ({error})", []
    found |= cuda_info()
    found["threads"] = default_threads()
    found["processor"] = _processor()
    return found


def cuda_info() -> dict:
    """What there is to plan on a GPU with: the CUDA module, the runtime it was built with, the driver, GPUs, Triton;
    "cuda_unused": why a GPU that is there cannot be used."""
    found: dict = {}
    there = torch.cuda.is_available()
    try:
        module = cuda_module()
    except ImportError as error:
        found["cuda"] = str(error)
    else:
        from fastwm.engine.cuda.device import architectures

        described = module.describe()
        found["cuda"] = (
            "emulated on the CPU"
            if module.emulated
            else f"built for {architectures(described['architectures'])}"
        )
        found["cuda_runtime"] = _cuda_version(described["runtime"])
        found["cuda_driver"] = _cuda_version(described["driver"])
        found["gpus"] = [
            f"{gpu['name']} (sm_{gpu['capability'][0]}{gpu['capability'][1]}, {gpu['processors']} processors, "
            f"{gpu['memory'] / 2**30:.0f} GiB)"
            for gpu in described["devices"]
        ] or [f"none ({described['error'] or 'emulated'})"]
        there = there or bool(described["devices"])
    if there and (reason := why_not_gpu()):
        found["cuda_unused"] = reason
    versions = importlib.metadata.packages_distributions().get(
        "triton", []
    )  # it has other names for other GPUs
    found["triton"] = importlib.metadata.version(versions[0]) if versions else "none"
    return found


def _cuda_version(number: int) -> str:
    """13000 -> 13.0; 0 is what CUDA says where there is none."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else "none"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
