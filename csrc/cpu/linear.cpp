// Products of training in float32, forward and backward of a linear layer: C = op(A) op(B) + bias, where op may turn.
//
// The engine's product (gemm.h) multiplies with weights that were packed once; here both sides are new at every step,
// so packing is part of the work. A task is some rows of C times a group of panels, PANEL columns each. It goes through
// K in chunks: packs a chunk of its panels (which then lie in L2), takes the rows of A a block at a time, at most BLOCK
// of them, and keeps a block's sums with one panel in registers. Rows of A are read where they lie; columns of a turned
// A are copied together first, since they lie a row apart, which for a power of two is one cache set.
//
// bfloat16: A and B stay float32 in memory and are rounded as they are packed, two consecutive k in the place of one
// float, which one instruction multiplies and adds. So a step copies no weight, and sums and results are float32.
//
// Every number of C is the sum of its chunks, each one sum over k in order: no bit depends on the threads or on the
// rows around it. Short chunks keep float32 exact: a sum of thousands in one register would be off by several times as
// much.
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {
namespace {

constexpr int64_t PANEL = 2 * LANES;
constexpr int64_t BLOCK = LANES == 16  ? 12
                          : LANES == 8 ? 6
                                       : 5;  // 2 sums a row, 2 vectors of B and one of A in registers
constexpr int64_t GROUP = 4;                 // panels of a task, at most
constexpr int64_t CHUNK = 256;               // of K
constexpr int64_t ROWS = 32 * BLOCK;         // of a task, about, where there are enough tasks
static_assert(GROUP * PANEL * CHUNK + BLOCK * CHUNK + LANES <= LINEAR_WORKSPACE, "what a task packs");

typedef float v4 __attribute__((vector_size(16)));
typedef float v4_unaligned __attribute__((vector_size(16), aligned(4), may_alias));

// to[k * step + j] = from[j * ld + k] for j < 4, k < count
FASTWM_INLINE void turn4(const float* from, int64_t ld, int64_t count, float* to, int64_t step) {
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) {
    v4 x[4];
    for (int j = 0; j < 4; ++j) x[j] = *reinterpret_cast<const v4_unaligned*>(from + j * ld + k);
    const v4 low0 = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5),
             low1 = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5);
    const v4 high0 = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7),
             high1 = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
    auto put = [&](int64_t i, v4 y) { *reinterpret_cast<v4_unaligned*>(to + (k + i) * step) = y; };
    put(0, __builtin_shufflevector(low0, low1, 0, 1, 4, 5));
    put(1, __builtin_shufflevector(low0, low1, 2, 3, 6, 7));
    put(2, __builtin_shufflevector(high0, high1, 0, 1, 4, 5));
    put(3, __builtin_shufflevector(high0, high1, 2, 3, 6, 7));
  }
  for (; k < count; ++k)
    for (int j = 0; j < 4; ++j) to[k * step + j] = from[j * ld + k];
}

#if FASTWM_ISA_avx512_bf16
// Each lane holds two bfloat16: of `even` in its lower half, of `odd` in its upper.
FASTWM_INLINE vf pair(vf even, vf odd) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)even));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)odd));
  return (vf)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// The first `count` lanes, the others zero; in one instruction, where load_part copies.
FASTWM_INLINE vf load_masked(const float* p, int64_t count) {
  const __mmask16 mask = count >= LANES ? 0xffff : static_cast<__mmask16>((1u << (count > 0 ? count : 0)) - 1);
  return (vf)_mm512_maskz_loadu_ps(mask, p);
}

// `count` numbers in a row as pairs; up to LANES pairs more are zero.
FASTWM_INLINE void pair_row(const float* from, int64_t count, float* to) {
  for (int64_t k = 0; k < count; k += 2 * LANES)
    store(reinterpret_cast<bf16*>(to) + k, load_masked(from + k, count - k),
          load_masked(from + k + LANES, count - k - LANES));
}

// to[pair][step] = pairs of consecutive rows, ld apart, the first `columns` of each; more are zero, to a whole vector
FASTWM_INLINE void pair_rows(const float* from, int64_t ld, int64_t rows, int64_t columns, float* to, int64_t step) {
  for (int64_t k = 0; k < rows; k += 2, from += 2 * ld, to += step)
    for (int64_t j = 0; j < columns; j += LANES) {
      const vf even = load_masked(from + j, columns - j);
      store(to + j, pair(even, k + 1 < rows ? load_masked(from + ld + j, columns - j) : vf{}));
    }
}

// packed[pair][PANEL], as pack_panel has it
void pack_pairs(const LinearArgs& p, int64_t first_k, int64_t count, int64_t column, float* packed) {
  const int64_t columns = p.N - column < PANEL ? p.N - column : PANEL, pairs = (count + 1) / 2;
  if (columns < PANEL) std::memset(packed, 0, sizeof(float) * pairs * PANEL);
  if (!p.b_turned) return pair_rows(p.b + first_k * p.N + column, p.N, count, columns, packed, PANEL);
  constexpr int64_t LD = CHUNK / 2 + LANES;
  float rows[4 * LD];
  for (int64_t j = 0; j < columns; j += 4) {
    const int64_t some = columns - j < 4 ? columns - j : 4;
    for (int64_t i = 0; i < some; ++i) pair_row(p.b + (column + j + i) * p.K + first_k, count, rows + i * LD);
    if (some == 4) {
      turn4(rows, LD, pairs, packed + j, PANEL);
      continue;
    }
    for (int64_t i = 0; i < some; ++i)
      for (int64_t k = 0; k < pairs; ++k) std::memcpy(packed + k * PANEL + j + i, rows + i * LD + k, sizeof(float));
  }
}
#endif

// packed[k][PANEL] = op(B)[first_k + k][column + ...], zero beyond N
void pack_panel(const LinearArgs& p, int64_t first_k, int64_t count, int64_t column, float* packed) {
  const int64_t columns = p.N - column < PANEL ? p.N - column : PANEL;
  if (columns < PANEL) std::memset(packed, 0, sizeof(float) * count * PANEL);
  if (!p.b_turned) {
    for (int64_t k = 0; k < count; ++k)
      std::memcpy(packed + k * PANEL, p.b + (first_k + k) * p.N + column, sizeof(float) * columns);
    return;
  }
  int64_t j = 0;
  for (; j + 4 <= columns; j += 4) turn4(p.b + (column + j) * p.K + first_k, p.K, count, packed + j, PANEL);
  for (; j < columns; ++j)
    for (int64_t k = 0; k < count; ++k) packed[k * PANEL + j] = p.b[(column + j) * p.K + first_k + k];
}

template <bool pairs>
FASTWM_INLINE void pack(const LinearArgs& p, int64_t first_k, int64_t count, int64_t column, float* packed) {
#if FASTWM_ISA_avx512_bf16
  if constexpr (pairs) return pack_pairs(p, first_k, count, column, packed);
#endif
  pack_panel(p, first_k, count, column, packed);
}

// c + x b: of a float32 in each lane, or of a pair of bfloat16. The pointer is to what all lanes of x hold.
template <bool pairs>
FASTWM_INLINE vf multiply_add(const float* x, vf b, vf c) {
#if FASTWM_ISA_avx512_bf16
  if constexpr (pairs) {
    int32_t two;
    std::memcpy(&two, x, sizeof two);
    return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)_mm512_set1_epi32(two), (__m512bh)(__m512)b);
  }
#endif
  return fma(set(*x), b, c);
}

// c[R][2] += A b over K floats or pairs; the rows of A lie ld apart, or, packed, R of them for each k.
template <int R, bool packed, bool pairs>
FASTWM_INLINE void micro(const float* a, int64_t ld, const float* b, int64_t K, vf (&c)[R][2]) {
  for (int64_t k = 0; k < K; ++k, b += PANEL) {
    const vf b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const float* x = packed ? a + k * R + r : a + r * ld + k;
      c[r][0] = multiply_add<pairs>(x, b0, c[r][0]);
      c[r][1] = multiply_add<pairs>(x, b1, c[r][1]);
    }
  }
}

// One block of rows and one panel: C = bias + A b, or, after the first chunk of K, C += A b.
template <int R, bool packed, bool pairs>
FASTWM_INLINE void block(int64_t rows, const float* a, int64_t ld, const float* b, int64_t K, const float* bias,
                         bool first, float* c, int64_t c_ld, int64_t columns) {
  if constexpr (R > 1) {
    if (rows != R) return block<R - 1, packed, pairs>(rows, a, ld, b, K, bias, first, c, c_ld, columns);
  }
  vf sums[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = vf{};
  micro<R, packed, pairs>(a, ld, b, K, sums);
  const int64_t low = columns < LANES ? columns : LANES, high = columns - low;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r, c += c_ld) {
    const float* before = first ? bias : c;
    store_part(c, before ? load_part(before, low) + sums[r][0] : sums[r][0], low);
    if (high > 0) store_part(c + LANES, before ? load_part(before + LANES, high) + sums[r][1] : sums[r][1], high);
  }
}

int64_t parts(int64_t n, int64_t each) { return (n + each - 1) / each; }

// A block of rows as `micro` reads it: of a turned A [count, M] side by side for each k, else, as pairs, one after
// another.
template <bool pairs>
FASTWM_INLINE void pack_rows(const LinearArgs& p, const float* a, int64_t rows, int64_t count, float* packed) {
#if FASTWM_ISA_avx512_bf16
  if constexpr (pairs) {
    if (p.a_turned) return pair_rows(a, p.M, count, rows, packed, rows);
    for (int64_t r = 0; r < rows; ++r) pair_row(a + r * p.K, count, packed + r * ((count + 1) / 2));
    return;
  }
#endif
  const float* end = p.a + p.K * p.M;
  for (int64_t k = 0; k < count; ++k, packed += rows, a += p.M) {
    if (BLOCK <= LANES && a + LANES <= end)
      store(packed, load(a));  // a vector, of which the next overwrites what is too much
    else
      std::memcpy(packed, a, sizeof(float) * rows);
  }
}

struct Cut {  // of C: how many shares of rows and groups of panels
  int64_t shares, groups;
};

Cut cut(const LinearArgs& p) {
  const int64_t groups = parts(p.N, GROUP * PANEL), wanted = parts(p.threads, groups);
  const int64_t shares = parts(p.M, ROWS) > wanted ? parts(p.M, ROWS) : wanted, most = parts(p.M, BLOCK);
  return {shares < most ? shares : most, groups};
}

template <bool pairs>
void task(void* context, int64_t index, int32_t worker) {
  const LinearArgs& p = *static_cast<const LinearArgs*>(context);
  const auto [shares, groups] = cut(p);
  const int64_t share = index / groups, first_row = share * p.M / shares, end_row = (share + 1) * p.M / shares;
  const int64_t group = index % groups, panels = parts(p.N, PANEL), end = (group + 1) * panels / groups * PANEL;
  const int64_t first_column = group * panels / groups * PANEL, end_column = end < p.N ? end : p.N;
  float* packed_b = p.workspace + worker * LINEAR_WORKSPACE;
  float* packed_a = packed_b + GROUP * PANEL * CHUNK;
  for (int64_t k = 0; k < p.K || k == 0; k += CHUNK) {
    const int64_t count = p.K - k < CHUNK ? p.K - k : CHUNK, steps = pairs ? (count + 1) / 2 : count;
    for (int64_t column = first_column; column < end_column; column += PANEL)
      pack<pairs>(p, k, count, column, packed_b + (column - first_column) * steps);
    const int64_t blocks = parts(end_row - first_row, BLOCK);
    for (int64_t i = 0; i < blocks; ++i) {  // of nearly equal size
      const int64_t row = first_row + i * (end_row - first_row) / blocks;
      const int64_t rows = first_row + (i + 1) * (end_row - first_row) / blocks - row;
      const float* a = p.a_turned ? p.a + k * p.M + row : p.a + row * p.K + k;
      int64_t ld = p.K;
      if (pairs || p.a_turned) {
        ld = steps;
        pack_rows<pairs>(p, a, rows, count, packed_a);
        a = packed_a;
      }
      for (int64_t column = first_column; column < end_column; column += PANEL) {
        const float* b = packed_b + (column - first_column) * steps;
        const float* bias = p.bias ? p.bias + column : nullptr;
        float* c = p.c + row * p.N + column;
        const int64_t columns = p.N - column < PANEL ? p.N - column : PANEL;
        if (p.a_turned)
          block<BLOCK, true, pairs>(rows, a, 0, b, steps, bias, k == 0, c, p.N, columns);
        else
          block<BLOCK, false, pairs>(rows, a, ld, b, steps, bias, k == 0, c, p.N, columns);
      }
    }
  }
}

}  // namespace

void linear(const LinearArgs& p) {
  const auto [shares, groups] = cut(p);
#if FASTWM_ISA_avx512_bf16
  const auto run = p.bfloat16 ? task<true> : task<false>;
#else
  const auto run = task<false>;
#endif
  parallel_for(shares * groups, p.threads, run, const_cast<LinearArgs*>(&p));
}

}  // namespace fastwm::FASTWM_ISA
