// Attention of one head over windows of a few tokens, for all candidates of a tile.
//
// One candidate has too little work for a vector: three scores, three exponentials. So LANES candidates go together:
// each leaves one vector of partial sums per (query, key), a tree of shuffles and additions turns LANES of them into
// one vector of scores, and softmax runs with a candidate in each lane. Every lane sees the same additions in the same
// order, and no lane sees another: a candidate's bits depend on nothing else in the tile, and neither does its NaN.
//
// At n = 3, D = 64 on Zen 5 (AVX-512) this takes 47 cycles per candidate and head with bfloat16 tokens in L2 and 53
// with float32 ones (39 and 37 in L1), where one candidate at a time took 160: L2 gives a line of these every two
// cycles. Did not pay: prefetching values while keys are read, or the next candidates; four vectors of a head at a
// time; widening bfloat16 in its order (vpmovzxwd: 64 instead of 47).
//
// The tokens that a rollout keeps while its window grows come from L3, for 150 cycles; with those of the next head
// fetched meanwhile, 75 to 90, and 3 % less time for the whole rollout in int8.
#pragma once
#include "cpu/activation.h"
#include "cpu/gemm.h"

namespace fastwm::FASTWM_ISA {

// A token is [key Dp, value Dp] of KV, float or bf16. Query j of a candidate sees its environment's shared tokens, then
// its first own_count + j own tokens. Padded columns are zero.
template <class KV>
struct Attention {
  const float* query;  // [asking, count, Dp], already scaled
  const KV* shared;    // environment e's token i: shared + e * 2 Dp + i * shared_stride; null if shared_count is 0
  const KV* own;       // candidate c's token i: own + c * 2 Dp + i * own_stride
  const KV* ahead;     // what to fetch into L2 meanwhile, laid out as own: the own tokens of the next head, or null
  float* scores;       // [tokens that the last query sees, LANES] scratch
  int64_t count, asking, Dp;
  int64_t shared_count, own_count, shared_stride, own_stride;
  int64_t first_candidate, per_environment;  // candidate c's environment is (first_candidate + c) / per_environment
};

// sums[l] = sum of the numbers of parts[l], added in the same order for every l.
#if defined(__x86_64__)
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
FASTWM_INLINE vf unpack_low(vf a, vf b) { return (vf)_mm512_unpacklo_ps((__m512)a, (__m512)b); }
FASTWM_INLINE vf unpack_high(vf a, vf b) { return (vf)_mm512_unpackhi_ps((__m512)a, (__m512)b); }
FASTWM_INLINE vf unpack_low_pairs(vf a, vf b) { return (vf)_mm512_unpacklo_pd((__m512d)a, (__m512d)b); }
FASTWM_INLINE vf unpack_high_pairs(vf a, vf b) { return (vf)_mm512_unpackhi_pd((__m512d)a, (__m512d)b); }
#elif FASTWM_ISA_avx2
FASTWM_INLINE vf unpack_low(vf a, vf b) { return (vf)_mm256_unpacklo_ps((__m256)a, (__m256)b); }
FASTWM_INLINE vf unpack_high(vf a, vf b) { return (vf)_mm256_unpackhi_ps((__m256)a, (__m256)b); }
FASTWM_INLINE vf unpack_low_pairs(vf a, vf b) { return (vf)_mm256_unpacklo_pd((__m256d)a, (__m256d)b); }
FASTWM_INLINE vf unpack_high_pairs(vf a, vf b) { return (vf)_mm256_unpackhi_pd((__m256d)a, (__m256d)b); }
#else
FASTWM_INLINE vf unpack_low(vf a, vf b) { return (vf)_mm_unpacklo_ps((__m128)a, (__m128)b); }
FASTWM_INLINE vf unpack_high(vf a, vf b) { return (vf)_mm_unpackhi_ps((__m128)a, (__m128)b); }
FASTWM_INLINE vf unpack_low_pairs(vf a, vf b) { return (vf)_mm_unpacklo_pd((__m128d)a, (__m128d)b); }
FASTWM_INLINE vf unpack_high_pairs(vf a, vf b) { return (vf)_mm_unpackhi_pd((__m128d)a, (__m128d)b); }
#endif

// Number l of every four of the result: the sum of those four in p[l].
FASTWM_INLINE vf sum_fours(const vf* p) {
  const vf ab = unpack_low(p[0], p[1]) + unpack_high(p[0], p[1]);
  const vf cd = unpack_low(p[2], p[3]) + unpack_high(p[2], p[3]);
  return unpack_low_pairs(ab, cd) + unpack_high_pairs(ab, cd);
}

FASTWM_INLINE vf sum_each(const vf (&parts)[LANES]) {
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  auto join = [](vf a, vf b) {  // fours 0 and 2 of both, plus fours 1 and 3
    return (vf)_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0x88) + (vf)_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0xdd);
  };
  return join(join(sum_fours(parts), sum_fours(parts + 4)), join(sum_fours(parts + 8), sum_fours(parts + 12)));
#elif FASTWM_ISA_avx2
  const __m256 a = (__m256)sum_fours(parts), b = (__m256)sum_fours(parts + 4);
  return (vf)_mm256_permute2f128_ps(a, b, 0x20) + (vf)_mm256_permute2f128_ps(a, b, 0x31);
#else
  return sum_fours(parts);
#endif
}
#else
FASTWM_INLINE vf sum_each(const vf (&parts)[LANES]) {
  vf sums;
  for (int l = 0; l < LANES; ++l) sums[l] = sum(parts[l]);
  return sums;
}
#endif

// A panel of keys or values as two vectors. Of bfloat16 these are the even and the odd columns, which a shift and a
// mask give; in_order puts a panel of float32 into that order, back_in_order undoes it.
FASTWM_INLINE void panel(const float* p, vf& a, vf& b) { a = load(p), b = load(p + LANES); }
FASTWM_INLINE void panel(const bf16* p, vf& a, vf& b) {
  vi pairs;
  std::memcpy(&pairs, p, sizeof pairs);
  a = number(pairs << 16), b = number(pairs & static_cast<int32_t>(0xffff0000));
}
template <class KV>
FASTWM_INLINE void in_order(vf&, vf&) {}
template <class KV>
FASTWM_INLINE void back_in_order(vf&, vf&) {}
template <>
FASTWM_INLINE void in_order<bf16>(vf& a, vf& b) {
  const vf low = a, high = b;
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  a = (vf)_mm512_permutex2var_ps((__m512)low, even, (__m512)high);
  b = (vf)_mm512_permutex2var_ps((__m512)low, _mm512_add_epi32(even, _mm512_set1_epi32(1)), (__m512)high);
#elif FASTWM_ISA_avx2
  const __m256 even = _mm256_shuffle_ps((__m256)low, (__m256)high, 0x88);
  const __m256 odd = _mm256_shuffle_ps((__m256)low, (__m256)high, 0xdd);
  a = (vf)_mm256_permute4x64_pd((__m256d)even, 0xd8), b = (vf)_mm256_permute4x64_pd((__m256d)odd, 0xd8);
#else
  a = vf{low[0], low[2], high[0], high[2]}, b = vf{low[1], low[3], high[1], high[3]};
#endif
}
template <>
FASTWM_INLINE void back_in_order<bf16>(vf& a, vf& b) {
  const vf even = a, odd = b;
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  a = (vf)_mm512_permutex2var_ps((__m512)even, low, (__m512)odd);
  b = (vf)_mm512_permutex2var_ps((__m512)even, _mm512_add_epi32(low, _mm512_set1_epi32(8)), (__m512)odd);
#elif FASTWM_ISA_avx2
  const __m256 low = _mm256_unpacklo_ps((__m256)even, (__m256)odd),
               high = _mm256_unpackhi_ps((__m256)even, (__m256)odd);
  a = (vf)_mm256_permute2f128_ps(low, high, 0x20), b = (vf)_mm256_permute2f128_ps(low, high, 0x31);
#else
  a = vf{even[0], odd[0], even[1], odd[1]}, b = vf{even[2], odd[2], even[3], odd[3]};
#endif
}

constexpr int BLOCK = 4;  // tokens for which a query is read once

// scores[i] for TOKENS tokens from `first` on, a lane for each candidate; the highest so far. Lanes past `lanes` are 0.
template <int TOKENS, class KV, class Query, class Token>
FASTWM_INLINE vf score(const Query& query, const Token& token, int lanes, int64_t first, int64_t Dp, vf highest,
                       float* scores) {
  vf parts[TOKENS][LANES];
  for (int l = 0; l < lanes; ++l) {
    const float* q = query(l);
    const KV* keys[TOKENS];
    vf dot[TOKENS] = {};
#pragma GCC unroll 4
    for (int i = 0; i < TOKENS; ++i) keys[i] = token(l, first + i);
    for (int64_t d = 0; d < Dp; d += PANEL) {
      vf q0 = load(q + d), q1 = load(q + d + LANES), k0, k1;
      in_order<KV>(q0, q1);
#pragma GCC unroll 4
      for (int i = 0; i < TOKENS; ++i) {
        panel(keys[i] + d, k0, k1);
        dot[i] = fma(q1, k1, fma(q0, k0, dot[i]));
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < TOKENS; ++i) parts[i][l] = dot[i];
  }
  for (int l = lanes; l < LANES; ++l)
    for (int i = 0; i < TOKENS; ++i) parts[i][l] = vf{};
#pragma GCC unroll 4
  for (int i = 0; i < TOKENS; ++i) {
    const vf s = sum_each(parts[i]);
    store(scores + (first + i) * LANES, s);
    highest = max(highest, s);
  }
  return highest;
}

// out [Dp] = sum over n tokens of weights[i][lane] value i; n is TOKENS if that is not 0.
template <int TOKENS, class KV, class T, class Token>
FASTWM_INLINE void weigh(const float* weights, const Token& token, int lane, int64_t n, int64_t Dp, T* out) {
  const KV* values[TOKENS + 1];
  vf weight[TOKENS + 1];
#pragma GCC unroll 4
  for (int i = 0; i < TOKENS; ++i) values[i] = token(lane, i) + Dp, weight[i] = set(weights[i * LANES + lane]);
  for (int64_t d = 0; d < Dp; d += PANEL) {
    vf low{}, high{}, v0, v1;
#pragma GCC unroll 4
    for (int i = 0; i < TOKENS; ++i) {
      panel(values[i] + d, v0, v1);
      low = fma(weight[i], v0, low), high = fma(weight[i], v1, high);
    }
    if constexpr (TOKENS == 0)
      for (int64_t i = 0; i < n; ++i) {
        panel(token(lane, i) + Dp + d, v0, v1);
        const vf w = set(weights[i * LANES + lane]);
        low = fma(w, v0, low), high = fma(w, v1, high);
      }
    back_in_order<KV>(low, high);
    store(out + d, low, high);
  }
}

template <class KV>
FASTWM_INLINE void fetch(const KV* p, int64_t n) {
  for (int64_t i = 0; i < n; i += LINE / sizeof(KV)) __builtin_prefetch(p + i, 0, 2);
}

// Query j of `lanes` candidates from c on, which see n tokens each; token(l, i) is the i-th of the candidate of lane l.
template <int TOKENS, class KV, class T, class Token>
FASTWM_INLINE void attend_lanes(const Attention<KV>& a, int64_t c, int lanes, int64_t j, int64_t n, const Token& token,
                                T* out, int64_t ldo) {
  auto query = [&](int l) { return a.query + (j * a.count + c + l) * a.Dp; };
  vf highest = set(-__builtin_inff());
  if constexpr (TOKENS > 0) {
    highest = score<TOKENS, KV>(query, token, lanes, 0, a.Dp, highest, a.scores);
  } else {
    int64_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK) highest = score<BLOCK, KV>(query, token, lanes, i, a.Dp, highest, a.scores);
    for (; i < n; ++i) highest = score<1, KV>(query, token, lanes, i, a.Dp, highest, a.scores);
  }
  vf total{};
  for (int64_t i = 0; i < n; ++i) {
    const vf weight = exp(load(a.scores + i * LANES) - highest);
    store(a.scores + i * LANES, weight);
    total += weight;
  }
  const vf scale = 1.0f / total;
  for (int64_t i = 0; i < n; ++i) store(a.scores + i * LANES, load(a.scores + i * LANES) * scale);
  for (int l = 0; l < lanes; ++l) {
    if (a.ahead)
      for (int64_t i = 0; i < a.own_count; ++i) fetch(a.ahead + (c + l) * 2 * a.Dp + i * a.own_stride, 2 * a.Dp);
    weigh<TOKENS, KV>(a.scores, token, l, n, a.Dp, out + (j * a.count + c + l) * ldo);
  }
}

// out [asking * count] rows, ldo apart, of Dp numbers.
template <class KV, class T>
void attend(const Attention<KV>& a, T* out, int64_t ldo) {
  for (int64_t c = 0; c < a.count; c += LANES) {
    const int lanes = a.count - c < LANES ? static_cast<int>(a.count - c) : LANES;
    const KV *shared[LANES], *own[LANES];
    int64_t environment = a.shared_count ? (a.first_candidate + c) / a.per_environment : 0;
    int64_t next = (environment + 1) * a.per_environment - a.first_candidate;
    for (int l = 0; l < lanes; ++l) {
      if (a.shared_count && c + l == next) ++environment, next += a.per_environment;
      shared[l] = a.shared + environment * 2 * a.Dp;
      own[l] = a.own + (c + l) * 2 * a.Dp;
    }
    auto token = [&](int l, int64_t i) {
      return i < a.shared_count ? shared[l] + i * a.shared_stride : own[l] + (i - a.shared_count) * a.own_stride;
    };
    for (int64_t j = 0; j < a.asking; ++j) {
      const int64_t n = a.shared_count + a.own_count + j;
      if (n == 1)
        for (int l = 0; l < lanes; ++l) {
          const KV* value = token(l, 0) + a.Dp;
          T* row = out + (j * a.count + c + l) * ldo;
          for (int64_t d = 0; d < a.Dp; d += PANEL) store(row + d, load(value + d), load(value + d + LANES));
        }
      else if (n == 2)
        attend_lanes<2>(a, c, lanes, j, n, token, out, ldo);
      else if (n == 3)
        attend_lanes<3>(a, c, lanes, j, n, token, out, ldo);
      else
        attend_lanes<0>(a, c, lanes, j, n, token, out, ldo);
    }
  }
}

}  // namespace fastwm::FASTWM_ISA
