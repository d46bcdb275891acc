// How fast the machine multiplies and adds: the denominator of every efficiency that bench/ prints.
//
// Independent chains of the instruction that the micro-kernel of gemm.h uses, with all operands in registers. Where the
// instruction set has no dot product of a dtype, it is multiplied as float32 and so is its peak.
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {
namespace {

// 2 units x the latency: 4 cycles of a fused multiply-add, but up to 8 of vdpbf16ps (12 chains reach nine tenths of its
// peak). And chains + 2 registers fit in the 16 of AVX2.
constexpr int CHAINS = LANES == 16 ? 24 : 12;
static_assert(CHAINS * LANES <= FMA_PEAK_SUMS, "every chain ends in its own place");

// sums[CHAINS][LANES] = 1. step(sum, x) adds to or replaces the sum; x = 1 / 2 is known to no compiler.
template <class V, class Step>
FASTWM_INLINE void run(float* sums, int64_t rounds, const Step& step) {
  V c[CHAINS];
#pragma GCC unroll 32
  for (int i = 0; i < CHAINS; ++i) c[i] = (V)load(sums + i * LANES);
  const vf x = 0.5f * load(sums);
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 32
    for (int i = 0; i < CHAINS; ++i) step(c[i], x);
#pragma GCC unroll 32
  for (int i = 0; i < CHAINS; ++i) store(sums + i * LANES, (vf)c[i]);
}

constexpr int64_t products(DType dtype) {
#if FASTWM_ISA_avx512_bf16
  return dtype == DType::bfloat16 ? 2 : dtype == DType::int8 ? 4 : 1;
#else
  return (void)dtype, 1;
#endif
}

void chains_of(DType dtype, float* sums, int64_t rounds) {
#if FASTWM_ISA_avx512_bf16
  if (dtype == DType::bfloat16)
    return run<vf>(sums, rounds,
                   [](vf& c, vf x) { c = (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)(__m512)x, (__m512bh)(__m512)x); });
  if (dtype == DType::int8) return run<vi>(sums, rounds, [](vi& c, vf x) { dot_bytes(c, bits(x), bits(x)); });
#endif
  (void)dtype;
  run<vf>(sums, rounds, [](vf& c, vf x) { c = fma(c, x, x); });
}

void chains(void* context, int64_t i, int32_t) {
  const FmaPeakArgs& a = *static_cast<const FmaPeakArgs*>(context);
  float* sums = a.sums + i * FMA_PEAK_SUMS;
  chains_of(a.dtype, sums, a.rounds);
}

}  // namespace

int64_t fma_peak(const FmaPeakArgs& a) {
  parallel_for(a.threads, a.threads, chains, const_cast<FmaPeakArgs*>(&a));
  return a.threads * a.rounds * CHAINS * LANES * 2 * products(a.dtype);
}

}  // namespace fastwm::FASTWM_ISA
