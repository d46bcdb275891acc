"""Faults planted in fastwm/triton/frame_attention.py."""

from mutants import Mutant

KERNEL = "fastwm/triton/frame_attention.py"


def fault(name: str, old: str, new: str, rungs: tuple[str, ...] = ("values",)) -> Mutant:
    return Mutant(name, KERNEL, old, new, rungs)


BOTH = ("values", "ttsem")
MUTANTS = [
    fault("the mask of frames is dropped", " & ((key // N)[None, :] <= asks[:, None])", "", BOTH),
    fault("frames off by one", "(key // N)[None, :] <= asks", "(key // N)[None, :] < asks", BOTH),
    fault("missing rescale", "v, sum * old[:, None], input", "v, sum, input", BOTH),
    fault("missing rescale of the weight", "weight * old + tl.sum(p, 1), sum", "weight + tl.sum(p, 1), sum"),
    fault("another environment's context", "environment = row // each", "environment = row * 0"),
    fault("padded context is seen", "there = key < shared", "there = key >= 0"),
    fault("the latest frame is cut", "(latest + 1) * N", "latest * N + 1"),
    fault("wrong stride of the values", "sv_token, there, D, BD)", "sk_row, there, D, BD)"),
    fault("queries are the first tokens", "asks = (own - new + token) // N", "asks = token // N"),
    fault(
        "rows past the end are written",
        "mask=real[:, None] & (d < D)[None, :])\n",
        "mask=(d < D)[None, :] & (token >= 0)[:, None])\n",
    ),
    fault("one head of the context's keys", "head * (sk_head * STEP)", "head * 0"),
    fault("one head of the context's values", "head * (sv_head * STEP)", "head * 0"),
    fault("one head of queries", " + head * (q_head * STEP)", ""),
    fault("values have the strides of keys", "row * v_row", "row * k_row"),
    fault(
        "the context's values have the strides of its keys", "environment * sv_row", "environment * sk_row"
    ),
    fault(
        "strides of heads in numbers, not in steps", "v_head * STEP), key, v_token", "v_head), key, v_token"
    ),
    Mutant(
        "a part takes the first environments",
        "fastwm/ops/frame_attention.py",
        "slice(first // each, (end - 1) // each + 1)",
        "slice(0, (end - 1 - first) // each + 1)",
    ),
]
