"""SIGReg's kernels at LeWM's size: 4 frames, 128 sequences, 1024 projections, 17 knots."""

from aot import Budget, Variant

from fastwm.triton import sigreg

SIZES = {"B": "i32:16", "P": "i32:16", "spacing": "fp32"}

VARIANTS = [
    Variant(
        sigreg._moments,
        types={"X": "*fp32", "SUMS": "*fp32", "T": "i32", **SIZES},
        constants={"K": 16, "PART": sigreg.PART, "BB": sigreg.BB, "BP": sigreg.BP},
        warps=8,
        budget=Budget(registers=64, occupancy=0.5),
    ),
    Variant(
        sigreg._statistic,
        types={"SUMS": "*fp32", "STATISTIC": "*fp32", "PULL": "*fp32", "T": "i32", **SIZES, "parts": "i32"},
        constants={"K": 16, "BP": 128},
        budget=Budget(registers=64),
    ),
    Variant(
        sigreg._slope,
        types={"GRADIENT": "*fp32", "X": "*fp32", "PULL": "*fp32", "OUT": "*fp32", **SIZES},
        constants={"K": 16, "BB": 32, "BP": 32},
        budget=Budget(registers=96, wide_loads=0.9),
    ),
]
