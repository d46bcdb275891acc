"""The smallest kernels of the tests themselves: what a variants file looks like."""

import guard_kernels as kernels
from aot import Budget, Variant

VARIANTS = [
    Variant(
        kernels.scale,
        types={"x": "*fp32", "y": "*fp32", "n": "i32:16"},
        constants={"BLOCK": 1024, "FAULTY": False},
        budget=Budget(registers=32, wide_loads=1.0, occupancy=1.0),
    ),
    Variant(
        kernels.matmul,
        types={"a": "*bf16", "b": "*bf16", "c": "*fp32"},
        constants={"M": 64, "N": 64, "K": 64, "PRECISION": None},
        budget=Budget(registers=96, wide_loads=1.0, tensor_cores=("HMMA",)),
        but={90: {"tensor_cores": ("HGMMA",)}, 100: {"tensor_cores": ("UTCHMMA",)}},
    ),
]
