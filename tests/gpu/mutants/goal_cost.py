"""Faults planted in csrc/cuda/goal_cost.cu."""

from mutants import Mutant

KERNEL = "csrc/cuda/goal_cost.cu"

MUTANTS = [
    Mutant("a NaN is not the lowest", KERNEL, "!(lowest != lowest || lowest < last)", "last < lowest"),
    Mutant("all environments have the first one's goal", KERNEL, "a.goal + i / a.S * a.E", "a.goal"),
    Mutant("the last four numbers are left out", KERNEL, "e < E; e += 4 * WARP", "e + 4 < E; e += 4 * WARP"),
    Mutant("half of the lanes are not added", KERNEL, "distance = WARP / 2", "distance = WARP / 4"),
    Mutant("wrong stride between steps", KERNEL, "latents + t * a.E", "latents + t"),
    Mutant(
        "numbers past the end of a latent",
        KERNEL,
        "e + 3 < E ? x[e + 3] : 0.0f",
        "x[e + 3]",
        ("values", "address"),
    ),
    Mutant("candidates past the last one", KERNEL, "  if (i >= a.B * a.S) return;\n", "", ("address",)),
    Mutant(
        "aligned loads from any address",
        KERNEL,
        "a.E % 4 == 0 && address % sizeof(float4) == 0",
        "a.E % 4 == 0",
        ("address",),
    ),
    Mutant(
        "the ways of loading add up in different orders",
        KERNEL,
        "four.y = e + 1 < E ? x[e + 1] : 0.0f;\n  four.z = e + 2 < E ? x[e + 2] : 0.0f;",
        "four.z = e + 1 < E ? x[e + 1] : 0.0f;\n  four.y = e + 2 < E ? x[e + 2] : 0.0f;",
    ),
]
