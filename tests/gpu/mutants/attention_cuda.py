"""Faults planted in csrc/cuda/attention.cu and attention.cuh."""

from mutants import Mutant

KERNEL, COMMON = "csrc/cuda/attention.cu", "csrc/cuda/attention.cuh"

MUTANTS = [
    Mutant("mask dropped", COMMON, "if (frame_tokens == 0) return n;", "return n;"),
    Mutant("causal off by one", COMMON, "(query / frame_tokens + 1)", "((query + 1) / frame_tokens + 1)"),
    Mutant("a frame sees only those before", COMMON, "(query / frame_tokens + 1)", "(query / frame_tokens)"),
    Mutant("padded tokens are seen", COMMON, "return end < n ? end : n;", "return end;"),
    Mutant(
        "loads past the last token",
        COMMON,
        "if (token >= count || d >= D) return make_uint4",
        "if (d >= D) return make_uint4",
        ("values", "address"),
    ),
    Mutant(
        "loads past the last number",
        COMMON,
        "if (token >= count || d >= D) return make_uint4",
        "if (token >= count) return make_uint4",
        ("values", "address"),
    ),
    Mutant(
        "stores past the last token",
        COMMON,
        "if (token < count && d < D) *",
        "if (d < D) *",
        ("values", "address"),
    ),
    Mutant("heads lie where rows do", COMMON, "head * s.head", "head * s.row"),
    Mutant(
        "keys have the strides of queries",
        KERNEL,
        "k = tokens<const bf16>(a, a.k, a.k_strides, i)",
        "k = tokens<const bf16>(a, a.k, a.q_strides, i)",
    ),
    Mutant(
        "the maximum of half a quad",
        COMMON,
        "return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));",
        "return x;",
    ),
    Mutant("the sum of half a quad", COMMON, "return x + __shfl_xor_sync(ALL_LANES, x, 2);", "return x;"),
    Mutant("bfloat16 without the normaliser", KERNEL, "return 1.0f / quad_sum(total);", "return 1.0f;"),
    Mutant("missing rescale of the values", KERNEL, "o[r][p].x *= rescale, o[r][p].y *= rescale;", ""),
    Mutant(
        "missing rescale of the total", KERNEL, "fmaf(total[r], rescale, weight[r])", "total[r] + weight[r]"
    ),
    Mutant(
        "NaN for a score of -infinity", KERNEL, "highest[r] == -INFINITY ? 0.0f : highest[r]", "highest[r]"
    ),
    Mutant(
        "halves of a word exchanged",
        KERNEL,
        "return (a & 0xffffu) | b << 16;",
        "return (b & 0xffffu) | a << 16;",
    ),
    Mutant("keys of the second half left out", KERNEL, "{key.z, key.w}", "{key.z, 0}"),
    Mutant(
        "wrong tile of weights", KERNEL, "pack_bf16(s[c + 1][0], s[c + 1][1])", "pack_bf16(s[c][0], s[c][1])"
    ),
    Mutant(
        "scores of the wrong lane",
        KERNEL,
        "const bool odd = t & 1, upper = t & 2;",
        "const bool odd = t & 2, upper = t & 1;",
    ),
    Mutant(
        "a shuffle of lanes that have left",
        KERNEL,
        "  for (int first = 0; first < n; first += 8 * ROWS) {",
        "  if (g >= n) return;\n  for (int first = 0; first < n; first += 8 * ROWS) {",
    ),
    Mutant(
        "warps without work go on",
        KERNEL,
        "  const unsigned i = blockIdx.x * WARPS + threadIdx.x / WARP;\n  if (i >= a.R * a.H) return;\n",
        "  const unsigned i = blockIdx.x * WARPS + threadIdx.x / WARP;\n",
        ("address",),
    ),
    Mutant(
        "two warps have the same head",
        KERNEL,
        "blockIdx.x * WARPS + threadIdx.x / WARP;  // row * H + head",
        "blockIdx.x * WARPS + threadIdx.x / WARP / 2;",
        ("values", "thread"),
    ),
]
