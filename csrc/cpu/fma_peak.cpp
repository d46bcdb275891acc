// How fast the machine multiplies and adds: the denominator of every efficiency that bench/ prints.
//
// Independent chains of the instruction that the micro-kernel of gemm.h uses, with all operands in registers. Where the
// instruction set has no bfloat16 dot product, bfloat16 is multiplied as float32 and so is its peak.
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {
namespace {

constexpr int CHAINS = 12;  // 2 units x 4 or 5 cycles of latency, and 12 + 2 registers fit in 16
static_assert(CHAINS * LANES <= FMA_PEAK_SUMS, "every chain ends in its own place");

// sums[CHAINS][LANES] = 1: x = x / 2 + 1 / 2 stays 1, but no compiler knows.
void float32_chains(float* sums, int64_t rounds) {
  vf c[CHAINS];
  for (int i = 0; i < CHAINS; ++i) c[i] = load(sums + i * LANES);
  const vf half = 0.5f * c[0];
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; ++i) c[i] = fma(c[i], half, half);
  for (int i = 0; i < CHAINS; ++i) store(sums + i * LANES, c[i]);
}

#if FASTWM_ISA_avx512_bf16
void bfloat16_chains(float* sums, int64_t rounds) {
  vf c[CHAINS];
  for (int i = 0; i < CHAINS; ++i) c[i] = load(sums + i * LANES);
  const __m512bh x = _mm512_cvtne2ps_pbh((__m512)c[0], (__m512)c[1]);
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; ++i) c[i] = (vf)_mm512_dpbf16_ps((__m512)c[i], x, x);
  for (int i = 0; i < CHAINS; ++i) store(sums + i * LANES, c[i]);
}
constexpr bool HAS_BFLOAT16 = true;
#else
void bfloat16_chains(float* sums, int64_t rounds) { float32_chains(sums, rounds); }
constexpr bool HAS_BFLOAT16 = false;
#endif

void chains(void* context, int64_t i, int32_t) {
  const FmaPeakArgs& a = *static_cast<const FmaPeakArgs*>(context);
  float* sums = a.sums + i * FMA_PEAK_SUMS;
  a.dtype == DType::bfloat16 ? bfloat16_chains(sums, a.rounds) : float32_chains(sums, a.rounds);
}

}  // namespace

int64_t fma_peak(const FmaPeakArgs& a) {
  parallel_for(a.threads, a.threads, chains, const_cast<FmaPeakArgs*>(&a));
  const int64_t products = HAS_BFLOAT16 && a.dtype == DType::bfloat16 ? 2 : 1;
  return a.threads * a.rounds * CHAINS * LANES * 2 * products;
}

}  // namespace fastwm::FASTWM_ISA
