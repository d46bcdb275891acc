"""Faults planted in the rollout's kernels and in their schedule."""

from mutants import Mutant

ROWS, QKV, ATTEND, MLP, DENSE, TOKENS, NORMALISE = (
    f"fastwm/triton/rollout/{name}.py"
    for name in ("rows", "qkv", "attend", "mlp", "dense", "tokens", "normalise")
)
SCHEDULE = "fastwm/engine/cuda/predictor.py"


def fault(name: str, file: str, old: str, new: str, rungs: tuple[str, ...] = ("values",)) -> Mutant:
    """Most are planted for the guarded interpreter alone: ttsem needs a minute for these tests."""
    return Mutant(name, file, old, new, rungs)


BOTH = ("values", "ttsem")
MUTANTS = [
    fault(
        "the mask of the tokens seen is dropped", ATTEND, "seen = inside & (token <= asking)", "seen = inside"
    ),
    fault("causal off by one", ATTEND, "(token <= asking)", "(token < asking)", BOTH),
    fault("missing rescale of the sum", ATTEND, "sum * old[:, None] + new", "sum + new", BOTH),
    fault("missing rescale of the weight", ATTEND, "weight * old + new", "weight + new"),
    fault(
        "another environment's context",
        ATTEND,
        "(token * environments + environment)",
        "(token * environments)",
    ),
    fault(
        "wrong stride between own tokens", ATTEND, "(token * candidates + candidate)", "(token + candidate)"
    ),
    fault("no gate", ATTEND, "+ gate * y, mask=mask)", "+ y, mask=mask)"),
    fault(
        "rows past the end are written",
        ATTEND,
        "inside = row < rows",
        "inside = row >= 0",
        BOTH,
    ),
    fault(
        "mean of the padded columns too",
        ROWS,
        "tl.where((column < W)[None, :], pieces[i] - mean[:, None], 0.0)",
        "pieces[i] - mean[:, None]",
        BOTH,
    ),
    fault("one norm too few", ROWS, "return normalised(mixed, 1e-5, W, BC, NC)", "return mixed"),
    fault("scale without one", ROWS, "inner[i] * (1.0 + scale[i])", "inner[i] * scale[i]"),
    fault("shift and scale exchanged", ROWS, "M, m_offsets + W, inside", "M, m_offsets, inside"),
    fault(
        "GELU by another function",
        ROWS,
        "0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))",
        "x / (1.0 + tl.exp(-1.702 * x))",
    ),
    fault("queries of the wrong rows", QKV, "(long - asking_from)[:, None] * split", "long[:, None] * split"),
    fault("the last key column is lost", QKV, "(column >= split))[None, :])", "(column > split))[None, :])"),
    fault("a part is not counted", MLP, "for part in range(PARTS):", "for part in range(1, PARTS):", BOTH),
    fault(
        "nobody waits for the parts",
        MLP,
        "if arrived != PARTS // SHARE - 1:",
        "if arrived != 0:",
    ),
    fault(
        "arrival without release",
        MLP,
        'tl.atomic_add(ARRIVED + tile, 1, sem="acq_rel")',
        'tl.atomic_add(ARRIVED + tile, 1, sem="relaxed")',
    ),
    fault(
        "the counter is not set back", MLP, "        tl.store(ARRIVED + tile, 0)  # for the next launch\n", ""
    ),
    fault("every program finishes the tile", MLP, "            return\n", "            pass\n"),
    fault(
        "parts of rows overlap",
        MLP,
        "at = (part * rows + long)[:, None] * N + n[None, :]\n                tl.store",
        "at = (part * rows + long)[:, None] + n[None, :]\n                tl.store",
    ),
    fault(
        "the hidden layer's padding counts",
        MLP,
        "mask=(n < N)[None, :] & (h < M)[:, None]",
        "mask=(n < N)[None, :] & (h < M + 1)[:, None]",
    ),
    fault("no residual", MLP, "if RESIDUAL:", "if False:", BOTH),
    fault("an activation before, forgotten", DENSE, 'if BEFORE != "none":', "if False:"),
    fault(
        "rows of another group", DENSE, "(row // group).to(tl.int64) * x_group", "(row // group).to(tl.int64)"
    ),
    fault("the position of the first place", TOKENS, "(place + token)[:, None] * E", "(token)[:, None] * E"),
    fault("the latent after", TOKENS, "(first + token - 1) * E", "(first + token) * E"),
    fault("softmax over all", NORMALISE, "[BM, BN // 8, 8]", "[BM, BN // 16, 16]"),
    fault("the window never slides", SCHEDULE, "start = max(0, K + t - window)", "start = 0"),
    fault(
        "an old prefix",
        SCHEDULE,
        "self._prefix(context[:, start : K - 1], past[start:], scratch)",
        "self._prefix(context[:, start : K - 1], past, scratch)",
    ),
    fault(
        "the last layer asks for the first token",
        SCHEDULE,
        "x, rows = x[skip * R :], rows[skip * R :]",
        "x, rows = x[: len(x) - skip * R], rows[: len(x) - skip * R]",
    ),
]
