// The one matrix product: rows of A, in cache, times packed panels of B (pack.h), which stream past.
//
// A micro-kernel holds R rows x 1 panel (2 vectors) of sums in registers. R is what the register file allows: 2 R sums
// + 2 vectors of B + 1 broadcast of A <= 32 (AVX-512) or 16. Rows are split into blocks of nearly equal size, so that
// no block is left with one or two rows. Every sum runs over k in order in one register: a row's result does not depend
// on its neighbours, on the block it falls in or on the thread, which is what makes rollouts bitwise reproducible.
//
// One step reads 2 vectors of B in every dtype: 1 k of float32, 2 of bfloat16, 4 of int8, summed in int32 and scaled
// at the end. Weights come from L3 or memory: while the rows pass one panel, the next is fetched into L2, and during
// the last the first of the product that follows.
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
template <>
constexpr int GROUP<byte> = 4;

template <class T>
struct SumOf {
  using type = vf;
};
template <>
struct SumOf<byte> {
  using type = vi;
};
template <class T>
using Sum = typename SumOf<T>::type;

// Rows of A. int8: the number is scale (byte - zero), with one scale a row; `zero` is B's affair.
template <class T>
struct Rows {
  const T* data;
  int64_t ld;
  const float* scale = nullptr;
  int64_t scale_ld = 1;

  Rows from(int64_t row) const { return {data + row * ld, ld, scale + (scale ? row * scale_ld : 0), scale_ld}; }
};

// `count` panels of B, or a slice of their K.
template <class T>
struct Panels {
  const T* data;
  int64_t stride;  // elements from one panel to the next: PANEL times the K of the whole matrix
  int64_t K;       // a multiple of GROUP
  int64_t count;
  const float* bias;               // [count * PANEL] what the sums start from, or null
  const float* scale = nullptr;    // int8: [count * PANEL]
  const int32_t* start = nullptr;  // int8: [count * PANEL] minus A's zero times the sum of the column, or null
};

// c[R][2] += a[R rows, K] b[K, panel]; every step asks for a cache line from `ahead` on, and one `more` bytes further.
template <int R>
FASTWM_INLINE void micro(const float* a, int64_t lda, const float* b, int64_t K, const char* ahead, int64_t more,
                         vf (&c)[R][2]) {
  for (int64_t k = 0; k < K; ++k, b += PANEL, ahead += LINE) {
    __builtin_prefetch(ahead, 0, 2);
    __builtin_prefetch(ahead + more, 0, 2);
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
FASTWM_INLINE void micro(const bf16* a, int64_t lda, const bf16* b, int64_t K, const char* ahead, int64_t more,
                         vf (&c)[R][2]) {
  for (int64_t k = 0; k < K; k += 2, b += 2 * PANEL, ahead += LINE) {
    __builtin_prefetch(ahead, 0, 2);
    __builtin_prefetch(ahead + more, 0, 2);
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

// Unsigned bytes of A times signed bytes of B, exactly, on every instruction set.
template <int R>
FASTWM_INLINE void micro(const byte* a, int64_t lda, const byte* b, int64_t K, const char* ahead, int64_t more,
                         vi (&c)[R][2]) {
  for (int64_t k = 0; k < K; k += 4, b += 4 * PANEL, ahead += LINE) {
    __builtin_prefetch(ahead, 0, 2);
    __builtin_prefetch(ahead + more, 0, 2);
    const vi b0 = bits(load(reinterpret_cast<const float*>(b))),
             b1 = bits(load(reinterpret_cast<const float*>(b + 2 * PANEL)));
#if !FASTWM_ISA_avx512_bf16
    // No dot product of bytes: even and odd bytes, widened to 16 bits, are multiplied and added in pairs.
    const vi even0 = widen_low(b0), odd0 = widen_high(b0), even1 = widen_low(b1), odd1 = widen_high(b1);
#endif
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int32_t quad;
      std::memcpy(&quad, a + r * lda + k, 4);
#if FASTWM_ISA_avx512_bf16
      const vi x = vi{} + quad;
      dot_bytes(c[r][0], x, b0);
      dot_bytes(c[r][1], x, b1);
#else
      const vi even = vi{} + (quad & 0x00ff00ff), odd = vi{} + (quad >> 8 & 0x00ff00ff);
      c[r][0] += dot_pairs(even, even0) + dot_pairs(odd, odd0);
      c[r][1] += dot_pairs(even, even1) + dot_pairs(odd, odd1);
#endif
    }
  }
}

// What the sums of one panel start from, and the number that they stand for.
template <class T>
FASTWM_INLINE void begin(const Panels<T>& b, int64_t column, vf& c0, vf& c1) {
  c0 = b.bias ? load(b.bias + column) : vf{};
  c1 = b.bias ? load(b.bias + column + LANES) : vf{};
}
FASTWM_INLINE void begin(const Panels<byte>& b, int64_t column, vi& c0, vi& c1) {
  c0 = b.start ? load(b.start + column) : vi{};
  c1 = b.start ? load(b.start + column + LANES) : vi{};
}

template <int R, class T, class End>
FASTWM_INLINE void block(int rows, Rows<T> a, const Panels<T>& b, const T* panel_data, int64_t panel, const char* ahead,
                         int64_t more, int64_t row, const End& end) {
  if constexpr (R > 1) {
    if (rows != R) return block<R - 1>(rows, a, b, panel_data, panel, ahead, more, row, end);
  }
  const int64_t column = panel * PANEL;
  Sum<T> c[R][2];
  begin(b, column, c[0][0], c[0][1]);
#pragma GCC unroll 16
  for (int r = 1; r < R; ++r) c[r][0] = c[0][0], c[r][1] = c[0][1];
  micro<R>(a.data, a.ld, panel_data, b.K, ahead, more, c);
  if constexpr (GROUP<T> == 4) {
    const vf s0 = load(b.scale + column), s1 = load(b.scale + column + LANES);
    const vf bias0 = b.bias ? load(b.bias + column) : vf{}, bias1 = b.bias ? load(b.bias + column + LANES) : vf{};
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const vf s = set(a.scale[r * a.scale_ld]);
      end(row + r, column, fma(to_float(c[r][0]) * s0, s, bias0), fma(to_float(c[r][1]) * s1, s, bias1));
    }
  } else {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) end(row + r, column, c[r][0], c[r][1]);
  }
}

// end(row, column, c0, c1) takes away bias + a b for every row and every panel, `column` being the panel's first. next:
// where the weights of the following product begin.
template <class T, class End>
__attribute__((noinline)) void gemm(Rows<T> a, int64_t rows, const Panels<T>& b, const void* next, const End& end) {
  if (rows == 0) return;
  const int64_t blocks = (rows + MAX_ROWS - 1) / MAX_ROWS, small = rows / blocks, large_count = rows % blocks;
  const int64_t part = b.K / GROUP<T> * LINE;  // bytes of the next panel that one row block asks for
  const int64_t more = blocks == 1 && PANEL * 4 > LINE ? part : 0;  // a lone block asks for all of it
  const T* data = b.data;
  for (int64_t panel = 0; panel < b.count; ++panel, data += b.stride) {
    const char* ahead =
        panel + 1 < b.count ? reinterpret_cast<const char*>(data + b.stride) : static_cast<const char*>(next);
    for (int64_t i = 0, row = 0; i < blocks; ++i) {
      const int size = static_cast<int>(small + (i < large_count));
      block<MAX_ROWS>(size, a.from(row), b, data, panel, ahead, more, row, end);
      row += size;
      if (i + 1 < PANEL * 4 / LINE) ahead += part;  // a step reads PANEL * 4 bytes; once all are asked for, ask again
    }
  }
}

FASTWM_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
FASTWM_INLINE int64_t padded(int64_t n) { return round_up(n, PANEL); }

}  // namespace fastwm::FASTWM_ISA
