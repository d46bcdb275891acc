"""Faults planted in csrc/cuda/cem_update.cu."""

from mutants import Mutant

KERNEL = "csrc/cuda/cem_update.cu"

MUTANTS = [
    Mutant("ties in no order", KERNEL, "(key < partner) == lower", "(key >> 32 < partner >> 32) == lower"),
    Mutant(
        "NaN is ordered as a number",
        KERNEL,
        "  if ((bits & 0x7f800000u) == 0x7f800000u) return INFINITE;\n",
        "",
    ),
    Mutant("two zeros", KERNEL, "  if (cost == 0.0f) return 0x80000000u;\n", ""),
    Mutant(
        "missing barrier before the partner is read",
        KERNEL,
        "shared[m * threads + t] = key[m];\n    __syncthreads();\n",
        "shared[m * threads + t] = key[m];\n",
        ("values", "thread"),
    ),
    Mutant(
        "missing barrier after the partner was read",
        KERNEL,
        "shared[m * threads + (t ^ stride)];\n    __syncthreads();\n",
        "shared[m * threads + (t ^ stride)];\n",
        ("thread", "values"),
    ),
    Mutant(
        "the worse half of two chunks", KERNEL, "kept(best[m], key[m], true)", "kept(best[m], key[m], false)"
    ),
    Mutant(
        "the last elite is left out of the mean",
        KERNEL,
        "e < k && e < first + ROWS; ++e) mean",
        "e < k - 1 && e < first + ROWS; ++e) mean",
    ),
    Mutant("biased standard deviation", KERNEL, "static_cast<double>(k - 1)", "static_cast<double>(k)"),
    Mutant(
        "rows brought while others are added",
        KERNEL,
        "    if (first) __syncthreads();",
        "    ;",
        ("thread", "values"),
    ),
    Mutant(
        "non-finite costs counted by a race",
        KERNEL,
        "atomicAdd(&non_finite[0], static_cast<int>(seen))",
        "non_finite[0] += static_cast<int>(seen)",
        ("thread",),
    ),
    Mutant(
        "wrong stride between environments",
        KERNEL,
        "(b * a.S + index_in(elites[first + r]))",
        "(b + index_in(elites[first + r]))",
    ),
    Mutant("an equal cost replaces the best seen", KERNEL, "cost < old", "cost <= old"),
    Mutant(
        "numbers past the end of a sequence",
        KERNEL,
        "if (warp != 0 || column + lane >= numbers) return;",
        "if (warp != 0) return;",
        ("address", "values"),
    ),
]
