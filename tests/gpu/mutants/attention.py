"""Faults planted in fastwm/triton/attention.py."""

from mutants import Mutant

KERNEL = "fastwm/triton/attention.py"


def fault(name: str, old: str, new: str, rungs: tuple[str, ...] = ("values",)) -> Mutant:
    return Mutant(name, KERNEL, old, new, rungs)


BOTH = ("values", "ttsem")
MUTANTS = [
    fault("windows of a tile see each other", "return same & earlier", "return earlier", BOTH),
    fault("the mask is dropped", "return same & earlier & real", "return same & real", BOTH),
    fault("causal off by one", "(token // frame)[:, None] >= (", "(token // frame)[:, None] > ("),
    fault("padded keys are seen", "& real[:, None] & other_real[None, :]", "& real[:, None]"),
    fault("rows of another row", "row * row_stride + token", "token"),
    fault("missing rescale", "v, sum * old[:, None], input", "v, sum, input", BOTH),
    fault(
        "missing rescale of the weight",
        "weight = weight * old + tl.sum(p, 1)",
        "weight = weight + tl.sum(p, 1)",
    ),
    fault(
        "the frame of the last query is cut",
        "end = SIDE\n    if not SMALL:  # beyond",
        "end = SIDE\n    if False:  # beyond",
    ),
    fault(
        "a gradient without its mean",
        "ds = p * (dp - delta[:, None]) * scale\n        dq",
        "ds = p * dp * scale\n        dq",
        BOTH,
    ),
    fault(
        "a gradient of keys without scale",
        "(dp - delta[:, None]) * scale\n        dk",
        "(dp - delta[:, None])\n        dk",
    ),
    fault(
        "queries of an earlier tile forgotten",
        "first_token // frame * frame // SIDE * SIDE, n",
        "first_token + SIDE, n",
    ),
    fault(
        "rows past the end are written",
        "mask = real[:, None] & (d < D)[None, :]\n    tl.store(\n        O",
        "mask = (window >= 0)[:, None] & (d < D)[None, :]\n    tl.store(\n        O",
    ),
]
