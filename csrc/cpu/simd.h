// One vector type per instruction set, and the few functions that kernels need of it. GCC/Clang vector types carry the
// arithmetic (operators); intrinsics only where they pay. Fused multiply-add is always written fma: the compiler may
// not contract a * b + c (-ffp-contract=off), since it would do so in one place and not in another, and results would
// depend on the place.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define FASTWM_INLINE inline __attribute__((always_inline))

namespace fastwm::FASTWM_ISA {

#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
constexpr int LANES = 16;
#elif FASTWM_ISA_avx2
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef float vf_unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

struct bf16 {
  uint16_t bits;
};

FASTWM_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
FASTWM_INLINE void store(float* p, vf x) { *reinterpret_cast<vf_unaligned*>(p) = x; }
FASTWM_INLINE vf set(float x) { return x - vf{}; }  // x - 0 is x for every x, -0 and NaN included
FASTWM_INLINE vi bits(vf x) { return reinterpret_cast<vi>(x); }
FASTWM_INLINE vf number(vi x) { return reinterpret_cast<vf>(x); }

FASTWM_INLINE vf fma(vf a, vf b, vf c) {
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FASTWM_ISA_avx2
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// a < b ? a : b, and a > b ? a : b: b where either is NaN.
FASTWM_INLINE vf min(vf a, vf b) {
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif FASTWM_ISA_avx2
  return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}
FASTWM_INLINE vf max(vf a, vf b) {
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif FASTWM_ISA_avx2
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}

FASTWM_INLINE float sum(vf x) {
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  return _mm512_reduce_add_ps((__m512)x);
#else
  float s[LANES];
  store(s, x);
  for (int step = LANES / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) s[i] += s[i + step];
  return s[0];
#endif
}

FASTWM_INLINE vf sqrt(vf x) {
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  return (vf)_mm512_sqrt_ps((__m512)x);
#elif FASTWM_ISA_avx2
  return (vf)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < LANES; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// ---- bfloat16 ----

FASTWM_INLINE float to_float(bf16 x) {
  const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &wide, 4);
  return out;
}

// Two vectors -> 2 * LANES consecutive bfloat16, rounded to nearest even.
FASTWM_INLINE void store(bf16* p, vf a, vf b) {
#if FASTWM_ISA_avx512_bf16
  const __m512bh packed = _mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
  std::memcpy(p, &packed, sizeof packed);
#else
  typedef uint16_t half __attribute__((vector_size(2 * LANES)));
  typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
  auto round = [](vf x) {
    const vu u = reinterpret_cast<vu>(x);
    const vu nearest = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return __builtin_convertvector(x != x ? (u >> 16) | 0x40 : nearest, half);
  };
  const half low = round(a), high = round(b);
  std::memcpy(p, &low, sizeof low);
  std::memcpy(p + LANES, &high, sizeof high);
#endif
}

FASTWM_INLINE void store(float* p, vf a, vf b) {
  store(p, a);
  store(p + LANES, b);
}

}  // namespace fastwm::FASTWM_ISA
