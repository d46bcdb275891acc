"""Faults planted in fastwm/triton/sigreg.py."""

from mutants import Mutant

KERNEL = "fastwm/triton/sigreg.py"

MUTANTS = [
    Mutant(
        "samples past the end of the batch count as 0",
        KERNEL,
        "        c = tl.where(inside, c, 0.0)  # (0, 0) outside, and so are its powers\n",
        "",
    ),
    Mutant(
        "projections past the end are written",
        KERNEL,
        "tl.store(OUT + at, -im * gradient[None, :], mask=inside)",
        "tl.store(OUT + at, -im * gradient[None, :], mask=(b < B)[:, None])",
    ),
    Mutant(
        "wrong sign in the angle addition", KERNEL, "power_c * c - power_s * s", "power_c * c + power_s * s"
    ),
    Mutant(
        "the sine's new value in the cosine's place",
        KERNEL,
        "power_c * s + power_s * c",
        "power_s * s + power_s * c",
    ),
    Mutant("the last knot weighs as much as the others", KERNEL, "tl.where(k == K - 1, 1.0, 2.0)", "2.0"),
    Mutant("the target is left out", KERNEL, "cosine / B - target, sine / B", "cosine / B, sine / B"),
    Mutant("only the first part is counted", KERNEL, "for part in range(parts):", "for part in range(1):"),
    Mutant("parts overlap", KERNEL, "range(part * PART, tl.minimum(part", "range(0, tl.minimum(part"),
    Mutant("all parts write one place", KERNEL, "(part * T + t).to(tl.int64)", "t.to(tl.int64)"),
    Mutant(
        "wrong stride between times",
        KERNEL,
        "pull = PULL + t * (2 * K * P) + column",
        "pull = PULL + t * (K * P) + column",
    ),
    Mutant(
        "wrong gradient term: one knot off", KERNEL, "(2 * K - 1 - i) * P", "(2 * K - 1 - (i + 1) % K) * P"
    ),
    Mutant("wrong sign of the gradient's sines", KERNEL, "im -= tl.load", "im += tl.load"),
    Mutant("the incoming gradient is left out", KERNEL, "-im * gradient[None, :]", "-im"),
    Mutant(
        "quarters of a turn mixed up",
        KERNEL,
        "tl.where(quarter >= 2.0, -sine",
        "tl.where(quarter == 2.0, -sine",
    ),
    Mutant("the angle's reduction in one part", KERNEL, " - turns * 0.0004837512969970703", ""),
    Mutant("a short polynomial", KERNEL, " + square * (-1.0 / 5040 + square * (1.0 / 362880))", ""),
]
