"""Faults planted in fastwm/triton/gated_residual.py."""

from mutants import Mutant

KERNEL = "fastwm/triton/gated_residual.py"

MUTANTS = [
    Mutant(
        "rows of the last tile unmasked",
        KERNEL,
        "(row < rows)[:, None] & (column < W)[None, :]\n    x =",
        "(column < W)[None, :]\n    x =",
    ),
    Mutant("gate of the wrong group", KERNEL, "gate = load(GATE, row // N", "gate = load(GATE, row % N"),
    Mutant(
        "stride of another tensor", KERNEL, "gate * load(Y, row, y_stride", "gate * load(Y, row, gate_stride"
    ),
    Mutant("the gradient of y without the gate", KERNEL, "gate[None, :] * gradient)", "gradient)"),
    Mutant(
        "race: groups store in one place", KERNEL, "DGATE + group.to(tl.int64) * W + column", "DGATE + column"
    ),
    Mutant(
        "the last row of a group is left out",
        KERNEL,
        "valid = (inside < N)[:, None]",
        "valid = (inside < N - 1)[:, None]",
    ),
]
