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
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef float vf_unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi_unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

struct bf16 {
  uint16_t bits;
};
struct byte {  // unsigned in activations, signed in weights
  uint8_t bits;
};

FASTWM_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
FASTWM_INLINE void store(float* p, vf x) { *reinterpret_cast<vf_unaligned*>(p) = x; }
FASTWM_INLINE vf set(float x) { return x - vf{}; }  // x - 0 is x for every x, -0 and NaN included
FASTWM_INLINE vi load(const int32_t* p) { return *reinterpret_cast<const vi_unaligned*>(p); }
FASTWM_INLINE vf to_float(vi x) { return __builtin_convertvector(x, vf); }
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

// The first `count` lanes, 0 < count <= LANES: the others are zero where loaded or kept, and not touched where stored.
FASTWM_INLINE vf load_part(const float* p, int64_t count) {
  if (count >= LANES) return load(p);
  float padded[LANES] = {};
  std::memcpy(padded, p, sizeof(float) * count);
  return load(padded);
}
FASTWM_INLINE void store_part(float* p, vf x, int64_t count) {
  if (count >= LANES) return store(p, x);
  float padded[LANES];
  store(padded, x);
  std::memcpy(p, padded, sizeof(float) * count);
}
FASTWM_INLINE vf keep_part(vf x, int64_t count) {
  if (count >= LANES) return x;
  float padded[LANES], kept[LANES] = {};
  store(padded, x);
  std::memcpy(kept, padded, sizeof(float) * count);
  return load(kept);
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

// Every lane gets op over its 8 neighbours; where a vector has 4 lanes, `next` is the other half.
template <class Op>
FASTWM_INLINE vf over_eight(vf x, vf next, const Op& op) {
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  (void)next;
  x = op(x, (vf)_mm512_shuffle_f32x4((__m512)x, (__m512)x, 0xb1));
  x = op(x, (vf)_mm512_permute_ps((__m512)x, 0x4e));
  return op(x, (vf)_mm512_permute_ps((__m512)x, 0xb1));
#elif FASTWM_ISA_avx2
  (void)next;
  x = op(x, (vf)_mm256_permute2f128_ps((__m256)x, (__m256)x, 1));
  x = op(x, (vf)_mm256_permute_ps((__m256)x, 0x4e));
  return op(x, (vf)_mm256_permute_ps((__m256)x, 0xb1));
#else
  x = op(x, next);
  x = op(x, vf{x[2], x[3], x[0], x[1]});
  return op(x, vf{x[1], x[0], x[3], x[2]});
#endif
}

// ---- bfloat16 ----

FASTWM_INLINE float to_float(bf16 x) {
  const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &wide, 4);
  return out;
}

FASTWM_INLINE vf load(const bf16* p) {
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return (vf)_mm512_slli_epi32(wide, 16);
#else
  typedef uint16_t half __attribute__((vector_size(2 * LANES)));
  half narrow;
  std::memcpy(&narrow, p, sizeof narrow);
  return number(__builtin_convertvector(narrow, vi) << 16);
#endif
}

// The nearest bfloat16, ties to even, as a float.
FASTWM_INLINE vf round_bf16(vf x) {
  const vu u = reinterpret_cast<vu>(x);
  const vu nearest = u + 0x7fff + ((u >> 16) & 1);
  return reinterpret_cast<vf>((x != x ? u | 0x400000 : nearest) & 0xffff0000);
}

// Two vectors -> 2 * LANES consecutive bfloat16, rounded to nearest even.
FASTWM_INLINE void store(bf16* p, vf a, vf b) {
#if FASTWM_ISA_avx512_bf16
  const __m512bh packed = _mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
  std::memcpy(p, &packed, sizeof packed);
#else
  typedef uint16_t half __attribute__((vector_size(2 * LANES)));
  const half low = __builtin_convertvector(reinterpret_cast<vu>(round_bf16(a)) >> 16, half);
  const half high = __builtin_convertvector(reinterpret_cast<vu>(round_bf16(b)) >> 16, half);
  std::memcpy(p, &low, sizeof low);
  std::memcpy(p + LANES, &high, sizeof high);
#endif
}

FASTWM_INLINE void store(float* p, vf a, vf b) {
  store(p, a);
  store(p + LANES, b);
}

// ---- int8 ----

#if FASTWM_ISA_avx512_bf16
// sums += four unsigned bytes of a times four signed bytes of b, in every lane. Written in assembly because GCC 12
// copies the sums of its own intrinsic from register to register in a loop.
FASTWM_INLINE void dot_bytes(vi& sums, vi a, vi b) { asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b)); }
#endif

// The even or odd bytes of every 16 bits, signed, as 16-bit numbers.
FASTWM_INLINE vi widen_low(vi x) {
  typedef int16_t vs __attribute__((vector_size(4 * LANES)));
  return reinterpret_cast<vi>((reinterpret_cast<vs>(x) << 8) >> 8);
}
FASTWM_INLINE vi widen_high(vi x) {
  typedef int16_t vs __attribute__((vector_size(4 * LANES)));
  return reinterpret_cast<vi>(reinterpret_cast<vs>(x) >> 8);
}

// Two products of signed 16-bit numbers and their sum in every lane.
FASTWM_INLINE vi dot_pairs(vi a, vi b) {
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif FASTWM_ISA_avx2
  return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

// The lowest byte of every lane.
FASTWM_INLINE void store_low(byte* p, vi x) {
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  const __m128i packed = _mm512_cvtepi32_epi8((__m512i)x);
  std::memcpy(p, &packed, sizeof packed);
#else
  typedef uint8_t vb __attribute__((vector_size(LANES)));
  const vb packed = __builtin_convertvector(x & 0xff, vb);
  std::memcpy(p, &packed, sizeof packed);
#endif
}

FASTWM_INLINE float as_float(int32_t x) {
  float out;
  std::memcpy(&out, &x, 4);
  return out;
}

FASTWM_INLINE int32_t highest(vi x) {
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  return _mm512_reduce_max_epi32((__m512i)x);
#else
  int32_t most = x[0];
  for (int i = 1; i < LANES; ++i) most = x[i] > most ? x[i] : most;
  return most;
#endif
}

}  // namespace fastwm::FASTWM_ISA
