// Standard normal numbers from counters, four at a time: cpu/philox.h for one counter in one thread. The same integer
// operations and the same IEEE + - * sqrt in the same order, so the same counter gives the same bits as on the CPU and
// in fastwm/reference/cem_sample.py.
//
// Files that include this one are compiled with -fmad=false (g++: -ffp-contract=off): by default nvcc fuses a product
// and a sum into one rounding, which is another number. The flag keeps the formulas readable; __fmul_rn and __fadd_rn
// around all forty operations say the same, and a test reads the PTX for a fused one. Square roots and denormals are
// IEEE's by nvcc's defaults (-prec-sqrt=true, -ftz=false). sinf, cosf and logf are not used: their bits are CUDA's own.
#pragma once
#include "cuda/cuda.h"

namespace fastwm {

struct Words {
  uint32_t c[4];
};

// The high half of a product is what costs; one IMAD.WIDE gives both halves.
__device__ __forceinline__ Words philox(Words counter, uint64_t key) {
  uint32_t c0 = counter.c[0], c1 = counter.c[1], c2 = counter.c[2], c3 = counter.c[3];
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(c0) * 0xD2511F53u;
    const uint64_t product1 = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

__device__ __forceinline__ int32_t bits_of(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

__device__ __forceinline__ float float_of(int32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// log x for x in [2^-126, 2^126]: exponent out, then a polynomial on [sqrt(1/2), sqrt(2)).
__device__ __forceinline__ float log_of(float x) {
  const int32_t shifted = bits_of(x) - 0x3f3504f3;  // bits of sqrt(1/2)
  const float exponent = static_cast<float>(shifted >> 23);
  const float f = float_of((shifted & 0x7fffff) + 0x3f3504f3) - 1.0f;
  const float square = f * f;
  float p = f * 7.0376836292e-2f + -1.1514610310e-1f;
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
__device__ __forceinline__ void box_muller(uint32_t radius_bits, uint32_t angle_bits, float& first, float& second) {
  const float uniform = static_cast<float>(static_cast<int32_t>(radius_bits >> 1)) * 0x1p-31f + 0x1p-32f;  // (0, 1]
  const float radius = sqrtf(log_of(uniform) * -2.0f);
  const uint32_t quadrant = (angle_bits + 0x20000000u) >> 30;  // the nearest multiple of a quarter turn
  const float angle = static_cast<float>(static_cast<int32_t>(angle_bits - (quadrant << 30))) * 1.46291807927e-9f;
  const float square = angle * angle;
  float s = square * -1.9515295891e-4f + 8.3321608736e-3f;
  s = s * square + -1.6666654611e-1f;
  s = s * square * angle + angle;
  float c = square * 2.443315711809948e-5f + -1.388731625493765e-3f;
  c = c * square + 4.166664568298827e-2f;
  c = c * square * square + (1.0f - square * 0.5f);
  const bool odd = quadrant & 1;
  const float cosine = odd ? s : c, sine = odd ? c : s;
  first = radius * float_of(bits_of(cosine) ^ static_cast<int32_t>(((quadrant + 1) & 2) << 30));
  second = radius * float_of(bits_of(sine) ^ static_cast<int32_t>((quadrant & 2) << 30));
}

// The four normals of a counter.
__device__ __forceinline__ float4 normals(Words counter, uint64_t key) {
  const Words random = philox(counter, key);
  float4 n;
  box_muller(random.c[0], random.c[1], n.x, n.y);
  box_muller(random.c[2], random.c[3], n.z, n.w);
  return n;
}

}  // namespace fastwm
