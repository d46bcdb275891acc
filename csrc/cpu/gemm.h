// The one matrix product: rows of A, in cache, times packed panels of B (pack.h), which stream past.
//
// A micro-kernel holds R rows x 1 panel (2 vectors) of sums in registers. R is what the register file allows: 2 R sums
// + 2 vectors of B + 1 broadcast of A <= 32 (AVX-512) or 16. Rows are split into blocks of nearly equal size, so that
// no block is left with one or two rows. Every sum runs over k in order in one register: a row's result does not depend
// on its neighbours, on the block it falls in or on the thread, which is what makes rollouts bitwise reproducible.
//
// Weights come from L3 or memory: while the rows pass one panel, the next is fetched into L2.
#pragma once
#include "cpu/simd.h"

namespace fastwm::FASTWM_ISA {

constexpr int PANEL = 2 * LANES;
constexpr int LINE = 64;  // bytes of a cache line
constexpr int MAX_ROWS = LANES == 16 ? 12 : LANES == 8 ? 6 : 5;

template <class T>
constexpr int GROUP = 1;  // consecutive k side by side in a panel
template <>
constexpr int GROUP<bf16> = 2;

// c[R][2] += a[R rows, K] b[K, panel]; every step asks for one cache line from `ahead` on.
template <int R>
FASTWM_INLINE void micro(const float* a, int64_t lda, const float* b, int64_t K, const char* ahead, vf (&c)[R][2]) {
  for (int64_t k = 0; k < K; ++k, b += PANEL, ahead += LINE) {
    __builtin_prefetch(ahead, 0, 2);
    const vf b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const vf x = set(a[r * lda + k]);
      c[r][0] = fma(x, b0, c[r][0]);
      c[r][1] = fma(x, b1, c[r][1]);
    }
  }
}

template <int R>
FASTWM_INLINE void micro(const bf16* a, int64_t lda, const bf16* b, int64_t K, const char* ahead, vf (&c)[R][2]) {
  for (int64_t k = 0; k < K; k += 2, b += 2 * PANEL, ahead += LINE) {
    __builtin_prefetch(ahead, 0, 2);
#if FASTWM_ISA_avx512_bf16
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + PANEL);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int32_t pair;
      std::memcpy(&pair, a + r * lda + k, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
      c[r][0] = (vf)_mm512_dpbf16_ps((__m512)c[r][0], x, b0);
      c[r][1] = (vf)_mm512_dpbf16_ps((__m512)c[r][1], x, b1);
    }
#else
    // No dot-product instruction: a bfloat16 is the upper half of a float32, so each pair costs two shifts or masks.
    const vi p0 = bits(load(reinterpret_cast<const float*>(b))),
             p1 = bits(load(reinterpret_cast<const float*>(b + PANEL)));
    const int32_t upper = static_cast<int32_t>(0xffff0000);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const vf even = set(to_float(a[r * lda + k])), odd = set(to_float(a[r * lda + k + 1]));
      c[r][0] = fma(odd, number(p0 & upper), fma(even, number(p0 << 16), c[r][0]));
      c[r][1] = fma(odd, number(p1 & upper), fma(even, number(p1 << 16), c[r][1]));
    }
#endif
  }
}

template <int R, class T, class Begin, class End>
FASTWM_INLINE void block(int rows, const T* a, int64_t lda, const T* b, int64_t K, const char* ahead, int64_t row,
                         int64_t panel, const Begin& begin, const End& end) {
  if constexpr (R > 1) {
    if (rows != R) return block<R - 1>(rows, a, lda, b, K, ahead, row, panel, begin, end);
  }
  vf c[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) begin(row + r, panel, c[r][0], c[r][1]);
  micro<R>(a, lda, b, K, ahead, c);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) end(row + r, panel, c[r][0], c[r][1]);
}

// For every row and panel: begin(row, panel, c0, c1) sets the sums, a b is added, end(row, panel, c0, c1) takes them
// away. panel_stride: elements from one panel of b to the next (K_total * PANEL; larger than K * PANEL for a slice of
// K).
template <class T, class Begin, class End>
__attribute__((noinline)) void gemm(const T* a, int64_t lda, int64_t rows, const T* b, int64_t panel_stride, int64_t K,
                                    int64_t panels, const Begin& begin, const End& end) {
  if (rows == 0) return;
  const int64_t blocks = (rows + MAX_ROWS - 1) / MAX_ROWS, small = rows / blocks, large_count = rows % blocks;
  const int64_t part = K / GROUP<T> * LINE;  // bytes of the next panel that one row block asks for
  for (int64_t panel = 0; panel < panels; ++panel, b += panel_stride) {
    const char* ahead = reinterpret_cast<const char*>(b + panel_stride);
    for (int64_t i = 0, row = 0; i < blocks; ++i) {
      const int size = static_cast<int>(small + (i < large_count));
      block<MAX_ROWS>(size, a + row * lda, lda, b, K, ahead, row, panel, begin, end);
      row += size;
      if (i + 1 < PANEL * 4 / LINE) ahead += part;  // a step reads PANEL * 4 bytes; once all are asked for, ask again
    }
  }
}

FASTWM_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
FASTWM_INLINE int64_t padded(int64_t n) { return round_up(n, PANEL); }

}  // namespace fastwm::FASTWM_ISA
