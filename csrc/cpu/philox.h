// Standard normal numbers from counters: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011), then Box-Muller, LANES counters at a time.
//
// Every step is an integer operation or one IEEE + - * sqrt, and the files that include this one are compiled with
// -ffp-contract=off: the same counter gives the same bits on every instruction set, in fastwm/reference/cem_sample.py
// and on any device that rounds as IEEE says. The polynomials are Cephes' (logf, sinf, cosf), good to 1e-7.
#pragma once
#include "cpu/simd.h"

namespace fastwm::FASTWM_ISA {

typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint64_t vl __attribute__((vector_size(4 * LANES)));

// The low 32 bits of every 64 of x, times m.
FASTWM_INLINE vl widening_product(vl x, uint64_t m) {
  const vl factor = vl{} + m;
#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16
  return (vl)_mm512_mul_epu32((__m512i)x, (__m512i)factor);
#elif FASTWM_ISA_avx2
  return (vl)_mm256_mul_epu32((__m256i)x, (__m256i)factor);
#elif defined(__SSE2__)
  return (vl)_mm_mul_epu32((__m128i)x, (__m128i)factor);
#else
  return (x & 0xffffffffu) * factor;
#endif
}

// One 32-bit word in each 64; the upper halves hold whatever the arithmetic leaves there and are never read.
FASTWM_INLINE void philox_rounds(vl (&c)[4], uint64_t key) {
  uint64_t key0 = key & 0xffffffffu, key1 = key >> 32;
  for (int round = 0; round < 10; ++round) {
    const vl product0 = widening_product(c[0], 0xD2511F53u), product1 = widening_product(c[2], 0xCD9E8D57u);
    c[0] = (product1 >> 32) ^ c[1] ^ key0;
    c[1] = product1;
    c[2] = (product0 >> 32) ^ c[3] ^ key1;
    c[3] = product0;
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
}

// Replaces LANES counters (c[0] .. c[3]) by 128 random bits each.
FASTWM_INLINE void philox(vu (&c)[4], uint64_t key) {
  vl even[4], odd[4];
  for (int i = 0; i < 4; ++i) even[i] = reinterpret_cast<vl>(c[i]), odd[i] = even[i] >> 32;
  philox_rounds(even, key);
  philox_rounds(odd, key);
  for (int i = 0; i < 4; ++i) c[i] = reinterpret_cast<vu>((even[i] & 0xffffffffu) | (odd[i] << 32));
}

// log x for x in [2^-126, 2^126]: exponent out, then a polynomial on [sqrt(1/2), sqrt(2)).
FASTWM_INLINE vf log_of(vf x) {
  const vi shifted = bits(x) - 0x3f3504f3;  // bits of sqrt(1/2)
  const vf exponent = __builtin_convertvector(shifted >> 23, vf);
  const vf f = number((shifted & 0x7fffff) + 0x3f3504f3) - 1.0f;
  const vf square = f * f;
  vf p = f * 7.0376836292e-2f + -1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f + -1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f + -1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f + -2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  p = p * f * square;
  p = p + exponent * -2.12194440e-4f;
  p = p - square * 0.5f;
  return (f + p) + exponent * 0.693359375f;
}

// Two standard normals from 31 bits of radius (so up to 6.6 standard deviations) and 32 bits of angle.
FASTWM_INLINE void box_muller(vu radius_bits, vu angle_bits, vf& first, vf& second) {
  const vf uniform = __builtin_convertvector((vi)(radius_bits >> 1), vf) * 0x1p-31f + 0x1p-32f;  // (0, 1]
  const vf radius = sqrt(log_of(uniform) * -2.0f);
  const vu quadrant = (angle_bits + 0x20000000u) >> 30;  // the nearest multiple of a quarter turn
  const vf angle = __builtin_convertvector((vi)(angle_bits - (quadrant << 30)), vf) * 1.46291807927e-9f;  // 2 pi / 2^32
  const vf square = angle * angle;
  vf s = square * -1.9515295891e-4f + 8.3321608736e-3f;
  s = s * square + -1.6666654611e-1f;
  s = s * square * angle + angle;
  vf c = square * 2.443315711809948e-5f + -1.388731625493765e-3f;
  c = c * square + 4.166664568298827e-2f;
  c = c * square * square + (1.0f - square * 0.5f);
  const vi odd = (vi)(quadrant & 1) != 0;
  const vf cosine = odd ? s : c, sine = odd ? c : s;
  first = radius * number(bits(cosine) ^ (vi)(((quadrant + 1) & 2) << 30));
  second = radius * number(bits(sine) ^ (vi)((quadrant & 2) << 30));
}

// The four normals of each counter, normals[lane][0 .. 3].
FASTWM_INLINE void philox_normals(vu (&counter)[4], uint64_t key, float (&normals)[LANES][4]) {
  philox(counter, key);
  vf n[4];
  box_muller(counter[0], counter[1], n[0], n[1]);
  box_muller(counter[2], counter[3], n[2], n[3]);
  for (int lane = 0; lane < LANES; ++lane)
    for (int i = 0; i < 4; ++i) normals[lane][i] = n[i][lane];
}

}  // namespace fastwm::FASTWM_ISA
