"""Faults planted in csrc/cuda/cem_sample.cu and philox.cuh."""

from mutants import Mutant

KERNEL, PHILOX = "csrc/cuda/cem_sample.cu", "csrc/cuda/philox.cuh"

MUTANTS = [
    Mutant("nine rounds of Philox", PHILOX, "round < 10", "round < 9"),
    Mutant(
        "the counter of a candidate is its place in the block",
        KERNEL,
        "static_cast<uint32_t>(first + i / quads)",
        "static_cast<uint32_t>(i / quads)",
    ),
    Mutant("pieces of a candidate begin at one counter", KERNEL, "start / 4 + i % quads", "i % quads"),
    Mutant(
        "the iteration in memory is not read",
        KERNEL,
        "a.counter ? a.counter[1] : a.iteration",
        "a.iteration",
    ),
    Mutant(
        "missing barrier between the draws and their use",
        KERNEL,
        "  __syncthreads();\n",
        "",
        ("values", "thread"),
    ),
    Mutant(
        "factor transposed",
        KERNEL,
        "noise + factor[step] * normal",
        "noise + a.factor[step * a.T + t] * normal",
    ),
    Mutant(
        "coloured noise of one step less", KERNEL, "step = 1; step <= t; ++step", "step = 1; step < t; ++step"
    ),
    Mutant("the last injected candidate is drawn", KERNEL, "s <= a.I", "s < a.I"),
    Mutant("wrong stride between rows", KERNEL, "row + r * 4 * quads + i", "row + r * width + i"),
    Mutant(
        "the last group is as large as the others",
        KERNEL,
        "static_cast<int>(a.S - first < share.rows ? a.S - first : share.rows)",
        "share.rows",
        ("address", "values"),
    ),
    Mutant(
        "NaN is clipped",
        KERNEL,
        "x < a.low[place] ? a.low[place] : x",
        "x >= a.low[place] ? x : a.low[place]",
    ),
]
