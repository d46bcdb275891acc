"""Faults planted in fastwm/triton/adaln.py."""

from mutants import Mutant

KERNEL = "fastwm/triton/adaln.py"

MUTANTS = [
    Mutant(
        "rows of the last tile unmasked",
        KERNEL,
        "    there = row < rows\n    valid",
        "    there = row >= 0\n    valid",
    ),
    Mutant(
        "columns unmasked",
        KERNEL,
        "valid = there[:, None] & (column < W)[None, :]\n    x =",
        "valid = there[:, None]\n    x =",
    ),
    Mutant(
        "deviations of padding",
        KERNEL,
        "centred = tl.where(valid, x - mean[:, None], 0.0)",
        "centred = x - mean[:, None]",
    ),
    Mutant(
        "eps of the other norm",
        KERNEL,
        "_statistics(y, valid, W, affine_eps)",
        "_statistics(y, valid, W, 1000.0 * affine_eps)",
    ),
    Mutant("shift of the wrong group", KERNEL, "shift = load(SHIFT, row // N", "shift = load(SHIFT, row % N"),
    Mutant(
        "stride of another tensor",
        KERNEL,
        "scale = load(SCALE, group, scale_stride",
        "scale = load(SCALE, group, x_stride",
    ),
    Mutant("gradient without its mean", KERNEL, "(gradient - _mean(gradient, W)[:, None] - ", "(gradient - "),
    Mutant("gradient without what lies along x", KERNEL, " - normalised * along[:, None])", ")"),
    Mutant(
        "modulation left out of the gradient",
        KERNEL,
        "_through_norm(gradient * (1.0 + scale), x",
        "_through_norm(gradient, x",
    ),
    Mutant(
        "gradient of scale is that of shift",
        KERNEL,
        "return gradient, gradient * x, to_gain",
        "return gradient, gradient, to_gain",
    ),
    Mutant(
        "the last row of a group is left out",
        KERNEL,
        "group * N + inside, same, inside < N",
        "group * N + inside, same, inside < N - 1",
    ),
    Mutant(
        "race: parts of all programs in one place",
        KERNEL,
        "part = PARTS + tl.program_id(0) * 2 * W",
        "part = PARTS + 0 * W",
    ),
    Mutant(
        "a part is forgotten",
        "fastwm/triton/_rows.py",
        "for part in range(parts):",
        "for part in range(parts - 1):",
    ),
]
