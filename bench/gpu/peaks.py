"""The card's own peaks, measured: what efficiency is a share of.

Memory and L2 by copies (each byte is read once and written once), products by square matrices large enough that nothing else
counts. The best of several, as a busy moment lowers a peak and nothing raises it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.gpu.place import Place
from bench.gpu.timing import Watch, in_turns

COPIES = 50  # of L2's part in one graph: one copy takes less than its launch


def measure(place: Place, *, repeats: int = 10) -> dict[str, float]:
    """Bytes per second of "dram" and "l2", operations per second of "bfloat16", "tf32" and "float32" products."""
    total = 1 << 20 if place.rehearsal else 1 << 30
    found = {
        "dram": 2 * total / _seconds(_copy(place, total), place, repeats),
        "l2": COPIES * 2 * (place.l2_bytes // 4) / _seconds(_resident(place), place, repeats, "warm"),
    }
    side = 32 if place.rehearsal else 8192
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for name, dtype in (
            ("bfloat16", torch.bfloat16),
            ("tf32", torch.float32),
            ("float32", torch.float32),
        ):
            torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
            found[name] = 2 * side**3 / _seconds(_product(place, side, dtype), place, repeats, "warm")
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _seconds(work: Callable[[], object], place: Place, repeats: int, watch: Watch = "cold") -> float:
    return in_turns({"": work}, place, repeats=repeats, watch=watch)[""]["min"] / 1e3


def _copy(place: Place, size: int) -> Callable[[], object]:
    source, target = (torch.zeros(size, dtype=torch.int8, device=place.device) for _ in range(2))
    return lambda: target.copy_(source)


def _resident(place: Place) -> Callable[[], object]:
    """Copies between two quarters of L2, in one graph."""
    from fastwm.engine.cuda.graph import capture

    copy = _copy(place, place.l2_bytes // 4)

    def many() -> None:
        for _ in range(COPIES):
            copy()

    graph, _ = capture(many, place.device)
    return graph.replay


def _product(place: Place, side: int, dtype: torch.dtype) -> Callable[[], object]:
    a, b = (torch.randn(side, side, device=place.device).to(dtype) for _ in range(2))
    return lambda: torch.mm(a, b)
