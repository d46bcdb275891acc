"""How many warps of a kernel a GPU holds at once, from what the kernel uses.

Limits: CUDA C++ Programming Guide, "Compute Capabilities".
"""

from __future__ import annotations

from typing import NamedTuple

REGISTERS = 65536  # of a multiprocessor
REGISTER_UNIT = 256  # a warp gets its registers in such pieces
RESERVED_SHARED = 1024  # bytes that the system takes of each block's shared memory
WARP = 32


class Multiprocessor(NamedTuple):
    """Limits of one: warps, blocks, bytes of shared memory in all, and of one block."""

    warps: int
    blocks: int
    shared: int
    shared_per_block: int


MULTIPROCESSORS = {
    80: Multiprocessor(64, 32, 164 << 10, 163 << 10),
    90: Multiprocessor(64, 32, 228 << 10, 227 << 10),
    100: Multiprocessor(64, 32, 228 << 10, 227 << 10),
    120: Multiprocessor(48, 24, 100 << 10, 99 << 10),
}


def occupancy(architecture: int, threads: int, registers: int, shared: int) -> float:
    """Share of a multiprocessor's warps that are resident, 0 if a block does not fit.

    threads: of a block; registers: of a thread; shared: bytes of a block, static and dynamic.
    """
    limits = MULTIPROCESSORS[architecture]
    if shared > limits.shared_per_block:
        return 0.0
    warps = -(-threads // WARP)
    registers_per_warp = max(1, -(-registers * WARP // REGISTER_UNIT)) * REGISTER_UNIT
    blocks = min(
        REGISTERS // registers_per_warp // warps,
        limits.warps // warps,
        limits.blocks,
        limits.shared // (shared + RESERVED_SHARED),
    )
    return blocks * warps / limits.warps
