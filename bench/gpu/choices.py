"""Which rollout: ways to divide LeWM's predictor into kernels, and what each would cost, from counts alone.

A kernel takes as long as its busiest processor needs, for its bytes through the port to L2 or for its products, whichever is
longer, and then the next one starts. That is a model, not a measurement: it knows no latency inside a kernel. It orders the
ways, and it says what a change of tiles would do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from bench.gpu.place import Size
from fastwm.triton.rollout.attend import tile as attend_tile
from fastwm.triton.rollout.dense import PROCESSORS
from fastwm.triton.rollout.mlp import PARTS
from fastwm.triton.rollout.qkv import columns

W, HEADS, D, HIDDEN, L = 192, 16, 64, 2048, 6
INNER = HEADS * D
BF16, F32 = 2, 4
LAYER_WEIGHTS = BF16 * (W * 3 * INNER + INNER * W + 2 * W * HIDDEN)


class Device(NamedTuple):
    """processors, clock in Hz, dense bfloat16 operations per second; port: bytes that one processor reads from L2 a second."""

    name: str
    processors: int
    clock: float
    products: float

    @property
    def port(self) -> float:
        return 64 * self.clock  # a load unit takes 64 bytes a cycle


DEVICES = Device("H100 SXM", 132, 1.755e9, 989e12), Device("RTX 4090", 128, 2.52e9, 165e12)
GAP = 1.0e-6  # seconds from the end of a kernel to the start of the next inside a graph; assumed
BARRIER = 1.3e-6  # seconds that all blocks of a kernel wait for each other; assumed


@dataclass(frozen=True)
class Kernel:
    """One launch: how many blocks, and the bytes and operations of each."""

    blocks: int
    bytes: float
    operations: float

    def seconds(self, device: Device) -> float:
        rounds = math.ceil(self.blocks / device.processors)
        products = self.operations / (device.products / device.processors)
        return rounds * max(self.bytes / device.port, products)


@dataclass(frozen=True)
class Way:
    """A division into kernels: layer(rows that are computed, rows that ask, tokens seen) -> its kernels."""

    name: str
    note: str
    layer: Callable[[int, int, int], list[Kernel]]
    between: float = GAP  # seconds between two of them
    launches: int = 0  # of a rollout, if not one for each kernel


def qkv(rows: int, BN: int = 0) -> Kernel:
    """Tiles of 32 rows and up to 256 columns; a row's norms are made by every tile of it."""
    BN = BN or columns(rows, 3 * INNER, torch.bfloat16)
    read = 32 * W * (F32 + 2 * BF16) + BN * W * BF16 + 32 * BN * BF16
    return Kernel(math.ceil(rows / 32) * 3 * INNER // BN, read, 2 * 32 * BN * W)


def attend(rows: int, seen: int) -> Kernel:
    """Tiles of rows and columns; attention is made again for every column tile."""
    BM, BN, together = attend_tile(rows, W, torch.bfloat16)
    BN *= together
    read = BM * INNER * BF16 * (1 + 2 * seen) + BN * INNER * BF16 + 3 * BM * BN * F32
    return Kernel(math.ceil(rows / BM) * W // BN, read, 2 * BM * INNER * (BN + 2 * seen))


def mlp(rows: int, tile: int = 32, parts: int = PARTS, processors: int = PROCESSORS) -> Kernel:
    """Tiles of rows; where they are few, up to `parts` programs share the hidden layer of one, and the last adds it up."""
    tiles, share = math.ceil(rows / tile), 1
    while share < parts and tiles * share * 2 <= processors:
        share *= 2
    read = tile * W * (2 * F32 + 3 * BF16) + 2 * W * HIDDEN * BF16 / share
    if share > 1:
        read += (
            tile * W * F32 * (parts / share + parts)
        )  # parts written, and read by the one that arrives last
    return Kernel(tiles * share, read, 4 * tile * W * HIDDEN / share)


def _small_attend(rows: int, seen: int) -> Kernel:
    read = 16 * INNER * BF16 * (1 + 2 * seen) + 64 * INNER * BF16 + 3 * 16 * 64 * F32
    return Kernel(math.ceil(rows / 16) * W // 64, read, 2 * 16 * INNER * (64 + 2 * seen))


def hidden_in_memory(rows: int) -> list[Kernel]:
    """fc1 and fc2 as kernels of their own."""
    first = Kernel(
        math.ceil(rows / 32) * HIDDEN // 64,
        32 * W * (F32 + 2 * BF16) + 64 * W * BF16 + 32 * 64 * BF16,
        2 * 32 * 64 * W,
    )
    second = Kernel(
        math.ceil(rows / 16) * W // 64, (16 + 64) * HIDDEN * BF16 + 3 * 16 * 64 * F32, 2 * 16 * 64 * HIDDEN
    )
    return [first, second]


def tile_for_itself(rows: int, asking: int, seen: int) -> list[Kernel]:
    """16 candidates through the whole layer in one block, which reads all weights."""
    share = max(1, rows // asking)  # tokens of a candidate
    read = LAYER_WEIGHTS + 16 * share * (6 * W * BF16 + 2 * INNER * BF16 * seen)
    work = 2 * 16 * (share * 3 * INNER * W + INNER * W + 2 * W * HIDDEN)
    return [Kernel(math.ceil(asking / 16), read, work)]


WAYS = (
    Way(
        "three kernels a layer",
        "taken: the hidden layer stays in registers, attention goes straight into its projection",
        lambda rows, asking, seen: [qkv(rows), attend(asking, seen), mlp(asking)],
    ),
    Way(
        "three kernels, small tiles",
        "32 rows by 64 columns, 16 by 64: with many environments weights and rows are read too often",
        lambda rows, asking, seen: [qkv(rows, 64), _small_attend(asking, seen), mlp(asking)],
    ),
    Way(
        "four kernels a layer",
        "fc1 and fc2 apart: no counter, but the hidden layer through L2 and a launch more",
        lambda rows, asking, seen: [qkv(rows), attend(asking, seen), *hidden_in_memory(asking)],
    ),
    Way(
        "three phases of one kernel",
        "a barrier of all blocks instead of a launch: needs every block resident, and no emulation can prove it",
        lambda rows, asking, seen: [qkv(rows), attend(asking, seen), mlp(asking)],
        between=BARRIER,
        launches=1,
    ),
    Way(
        "a tile for itself",
        "16 candidates through all layers and steps in one block, nothing exchanged: all weights through every port",
        tile_for_itself,
        between=0.0,
        launches=1,
    ),
)


class Cost(NamedTuple):
    launches: int  # of the layers, in a solve
    seconds: float


def cost(
    way: Way, size: Size, device: Device, *, T: int = 5, window: int = 3, S: int = 300, iterations: int = 30
) -> Cost:
    """Of the layers of a solve for size.B environments with one frame of context."""
    kernels = [kernel for step in _steps(size.B * S, T, window) for kernel in way.layer(*step)]
    each = sum(kernel.seconds(device) + way.between for kernel in kernels)
    return Cost(iterations * (way.launches or len(kernels)), iterations * each)


def _steps(candidates: int, T: int, window: int) -> Iterator[tuple[int, int, int]]:
    """Of every layer of every step: rows computed, rows that ask, tokens seen."""
    for t in range(T):
        tokens = 1 if t < window else window
        for layer in range(L):
            yield tokens * candidates, (1 if layer + 1 == L else tokens) * candidates, min(t + 1, window)


def lines() -> Iterator[str]:
    """The section of bench/gpu.md."""
    yield "## Which rollout: ways to divide a layer"
    yield ""
    yield (
        "Milliseconds of all layers of a solve, by a model and not by a clock: a kernel takes what its busiest processor needs "
        f"for its bytes (64 a cycle from L2) or its products; {1e6 * GAP:g} us between kernels of a graph and "
        f"{1e6 * BARRIER:g} us for a barrier of all blocks are assumed. Latency inside a kernel is not in it. "
        "`bench/gpu/choices.py` has every number."
    )
    yield ""
    sizes = Size(1), Size(50)
    columns = [f"{device.name}, B = {size.B}" for device in DEVICES for size in sizes]
    yield f"| way | launches a solve | {' | '.join(columns)} | |"
    yield f"|---|--:|{'--:|' * len(columns)}---|"
    for way in WAYS:
        each = [cost(way, size, device) for device in DEVICES for size in sizes]
        times = " | ".join(f"{1e3 * one.seconds:.1f}" for one in each)
        yield f"| {way.name} | {each[0].launches} | {times} | {way.note} |"
