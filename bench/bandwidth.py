"""How fast threads read memory beyond L2, with what is at hand: PyTorch's sum over a buffer that one level must hold.

A lower bound of what the machine can do, like every instrument; it reads as streams, which is how packed weights are read.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import torch

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def cache_bytes(level: int, default: int) -> int:
    """Size of a unified cache of the first processor, or the default where the system does not say."""
    for index in sorted(CACHES.glob("index*")):
        try:
            if (index / "level").read_text().strip() == str(level) and (
                index / "type"
            ).read_text().strip() == "Unified":
                return int((index / "size").read_text().strip().removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return default


def bandwidth(threads: int, *, seconds: float = 0.1, repeats: int = 5) -> dict[str, float]:
    """GB/s that `threads` threads read together, by level: L3 (four times L2 each, at most half of L3 in all), DRAM."""
    L2, L3 = cache_bytes(2, 1 << 20), cache_bytes(3, 32 << 20)
    sizes = {"L3": min(4 * L2, L3 // 2 // threads), "DRAM": 8 * L3 // threads}
    return {level: round(_read(size, threads, seconds, repeats) / 1e9, 1) for level, size in sizes.items()}


def _read(size: int, threads: int, seconds: float, repeats: int) -> float:
    """Bytes per second of the best of `repeats`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        buffers = [torch.ones(size // 4) for _ in range(threads)]
        began = time.perf_counter()
        buffers[0].sum()
        rounds = max(1, int(seconds / (time.perf_counter() - began)))
        return max(_together(buffers, rounds) for _ in range(repeats))
    finally:
        torch.set_num_threads(before)


def _together(buffers: list[torch.Tensor], rounds: int) -> float:
    start = threading.Barrier(len(buffers) + 1)

    def read(buffer: torch.Tensor) -> None:
        start.wait()
        for _ in range(rounds):
            buffer.sum()

    workers = [threading.Thread(target=read, args=(buffer,)) for buffer in buffers]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return rounds * sum(buffer.nbytes for buffer in buffers) / (time.perf_counter() - began)
