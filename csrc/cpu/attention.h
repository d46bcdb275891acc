// Attention of one head over windows of a few tokens, for all candidates of a tile.
//
// One candidate has too little work for a vector: three scores, three exponentials. So LANES candidates go together:
// each leaves one vector of partial sums per (query, key), a tree of shuffles and additions turns LANES of them into one
// vector of scores, and softmax runs with a candidate in each lane. Every lane sees the same additions in the same
// order, and no lane sees another: a candidate's bits depend on nothing else in the tile, and neither does its NaN.
//
// Cycles per candidate on Zen 5
#pragma once
#include "cpu/activation.h"
#include "cpu/gemm.h"

namespace fastwm::FASTWM_ISA {

// A token is [key Dp, value Dp]. Query j of a candidate sees its environment's shared tokens, then its first
// own_count + j own tokens. Padded columns are zero. KV: float or bf16.
template <class KV>
struct Attention {
  const float* query;  // [asking, count, Dp], already scaled
  const KV* shared;    // environment e's token i: shared + e * 2 Dp + i * shared_stride; null if shared_count is 0
  const KV* own;       // candidate c's token i: own + c * candidate_stride + i * token_stride
  float* scores;       // [tokens that the last query sees, LANES] scratch
  int64_t count, asking, Dp;
  int64_t shared_count, own_count, candidate_stride, token_stride, shared_stride;
  int64_t first_candidate, per_environment;  // candidate c's environment is (first_candidate + c) / per_environment
};

// sums[l] = sum of the numbers of parts[l].
FASTWM_INLINE vf sum_each(const vf (&parts)[LANES]) {
#if defined(__x86_64__)
  // Two vectors become one, which holds half as many partial sums of both; lanes of 4 first, then across them.
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  typedef __m512 v;
  typedef __m512d vd;
#define FASTWM_MM(op) _mm512_##op
#elif FASTWM_ISA_avx2
  typedef __m256 v;
  typedef __m256d vd;
#define FASTWM_MM(op) _mm256_##op
#else
  typedef __m128 v;
  typedef __m128d vd;
#define FASTWM_MM(op) _mm_##op
#endif
  auto four = [&](const vf* p) {
    const v a = (v)p[0], b = (v)p[1], c = (v)p[2], d = (v)p[3];
    const vf ab = (vf)FASTWM_MM(unpacklo_ps)(a, b) + (vf)FASTWM_MM(unpackhi_ps)(a, b);
    const vf cd = (vf)FASTWM_MM(unpacklo_ps)(c, d) + (vf)FASTWM_MM(unpackhi_ps)(c, d);
    return (vf)FASTWM_MM(unpacklo_pd)((vd)ab, (vd)cd) + (vf)FASTWM_MM(unpackhi_pd)((vd)ab, (vd)cd);
  };
#undef FASTWM_MM
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  auto join = [](vf a, vf b) {
    return (vf)_mm512_shuffle_f32x4((v)a, (v)b, 0x88) + (vf)_mm512_shuffle_f32x4((v)a, (v)b, 0xdd);
  };
  return join(join(four(parts), four(parts + 4)), join(four(parts + 8), four(parts + 12)));
#elif FASTWM_ISA_avx2
  const v a = (v)four(parts), b = (v)four(parts + 4);
  return (vf)_mm256_permute2f128_ps(a, b, 0x20) + (vf)_mm256_permute2f128_ps(a, b, 0x31);
#else
  return four(parts);
#endif
#else
  vf sums;
  for (int l = 0; l < LANES; ++l) sums[l] = sum(parts[l]);
  return sums;
#endif
}

constexpr int BLOCK = 4;  // tokens for which a query, or a row of the output, is read once

// f(d, n) for the columns of a head, four vectors at a time, then two: n as a constant.
template <class F>
FASTWM_INLINE void columns(int64_t Dp, const F& f) {
  struct Two { enum { vectors = 2 }; };
  struct Four { enum { vectors = 4 }; };
  int64_t d = 0;
  for (; d + 2 * PANEL <= Dp; d += 2 * PANEL) f(d, Four{});
  if (d < Dp) f(d, Two{});
}

// scores[i][lane] for TOKENS tokens from `first` on, and the highest so far.
template <int TOKENS, class Query, class Token>
FASTWM_INLINE vf score(const Query& query, const Token& token, int lanes, int64_t first, int64_t Dp, vf highest,
                       float* scores) {
  vf parts[TOKENS][LANES];
  for (int l = 0; l < lanes; ++l) {
    const float* q = query(l);
    decltype(token(0, 0)) keys[TOKENS];
    vf dot[TOKENS] = {};
#pragma GCC unroll 4
    for (int i = 0; i < TOKENS; ++i) keys[i] = token(l, first + i);
    columns(Dp, [&](int64_t d, auto width) {
#pragma GCC unroll 4
      for (int v = 0; v < width.vectors; ++v) {
        const vf x = load(q + d + v * LANES);
#pragma GCC unroll 4
        for (int i = 0; i < TOKENS; ++i) dot[i] = fma(x, load(keys[i] + d + v * LANES), dot[i]);
      }
    });
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
template <int TOKENS, class T, class Token>
FASTWM_INLINE void weigh(const float* weights, const Token& token, int lane, int64_t n, int64_t Dp, T* out) {
  columns(Dp, [&](int64_t d, auto width) {
    vf y[width.vectors] = {};
    auto add = [&](int64_t i) {
      const auto* value = token(lane, i) + Dp + d;
      const vf weight = set(weights[i * LANES + lane]);
#pragma GCC unroll 4
      for (int v = 0; v < width.vectors; ++v) y[v] = fma(weight, load(value + v * LANES), y[v]);
    };
    if constexpr (TOKENS > 0) {
#pragma GCC unroll 4
      for (int i = 0; i < TOKENS; ++i) add(i);
    } else {
      for (int64_t i = 0; i < n; ++i) add(i);
    }
#pragma GCC unroll 2
    for (int v = 0; v < width.vectors; v += 2) store(out + d + v * LANES, y[v], y[v + 1]);
  });
}

// Query j of `lanes` candidates from c on, which see n tokens each; token(l, i) is the i-th of the candidate of lane l.
template <int TOKENS, class KV, class T, class Token>
FASTWM_INLINE void attend_lanes(const Attention<KV>& a, int64_t c, int lanes, int64_t j, int64_t n, const Token& token,
                                T* out, int64_t ldo) {
  auto query = [&](int l) { return a.query + (j * a.count + c + l) * a.Dp; };
  vf highest = set(-__builtin_inff());
  if constexpr (TOKENS > 0) {
    highest = score<TOKENS>(query, token, lanes, 0, a.Dp, highest, a.scores);
  } else {
    int64_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK) highest = score<BLOCK>(query, token, lanes, i, a.Dp, highest, a.scores);
    for (; i < n; ++i) highest = score<1>(query, token, lanes, i, a.Dp, highest, a.scores);
  }
  vf total{};
  for (int64_t i = 0; i < n; ++i) {
    const vf weight = exp(load(a.scores + i * LANES) - highest);
    store(a.scores + i * LANES, weight);
    total += weight;
  }
  const vf scale = 1.0f / total;
  for (int64_t i = 0; i < n; ++i) store(a.scores + i * LANES, load(a.scores + i * LANES) * scale);
  for (int l = 0; l < lanes; ++l)
    weigh<TOKENS>(a.scores, token, l, n, a.Dp, out + (j * a.count + c + l) * ldo);
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
      own[l] = a.own + (c + l) * a.candidate_stride;
    }
    auto token = [&](int l, int64_t i) {
      return i < a.shared_count ? shared[l] + i * a.shared_stride : own[l] + (i - a.shared_count) * a.token_stride;
    };
    for (int64_t j = 0; j < a.asking; ++j) {
      const int64_t n = a.shared_count + a.own_count + j;
      if (n == 1)
        for (int l = 0; l < lanes; ++l)
          for (int64_t d = 0; d < a.Dp; d += PANEL) {
            const KV* value = token(l, 0) + a.Dp + d;
            store(out + (j * a.count + c + l) * ldo + d, load(value), load(value + LANES));
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
