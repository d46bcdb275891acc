"""Where a run computes, and in what. bfloat16 autocast pays where the instructions are; without them it is slower."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed


def choose_device(device: str) -> torch.device:
    """The device of a run for "auto", "cpu" or "cuda": of several GPUs each process of a machine takes its own."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device is 'cuda', and PyTorch finds no GPU here; expected 'auto' or 'cpu'")
    place = distributed.get_node_local_rank(0) if distributed.is_available() else 0
    if place >= torch.cuda.device_count():
        raise ValueError(f"process {place} of this machine has no GPU: there are {torch.cuda.device_count()}")
    return torch.device("cuda", place)


def use_bfloat16(precision: str, device: torch.device | None = None) -> bool:
    """Whether to train in bfloat16 for a precision of "auto", "float32" or "bfloat16"."""
    if precision == "auto" and device is not None and device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        return bool(_cpu_flags() & {"avx512_bf16", "amx_bf16"})
    return precision == "bfloat16"


def _cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return set()
    lines = path.read_text().splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())
