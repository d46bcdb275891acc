// Exponential and activations of one vector. tests/test_activation.py asserts the bounds given here.
//
// GELU is the one that counts: a predictor applies it to every hidden unit of its MLPs. x Phi(x) is max(x, 0) - |x| Q,
// where Q = 1 - Phi(|x|) is smooth and bounded: a polynomial on each of LANES intervals, whose coefficients one
// permutation per degree picks from a table in L1 (vpermps with the table in memory: the caller, the end of a matrix
// product, has no registers to spare). Cycles per vector on Zen 5, where an exponential and a division took 16: AVX-512
// 5.9 for float32 and 3.8 for bfloat16, AVX2 6.5 and 4.5. Did not pay on AVX-512: degree 2 on 16 intervals (0.8 cycles
// less, 20 times the error), degree 2 on 32 (vpermi2ps; 0.3 less, 4 times), degree 4 for float32 (0.8 less, twice).
// Where vectors have 4 lanes there is no such permutation, and the exponential stays.
#pragma once
#include "cpu/simd.h"

namespace fastwm::FASTWM_ISA {

constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: x + ROUND holds round(x) in its low mantissa bits

FASTWM_INLINE vf magnitude(vf x) { return number(bits(x) & 0x7fffffff); }

// e^x, relative error 3e-7: 2^n times a degree-6 polynomial on [-ln2/2, ln2/2]. Saturates outside +-87; NaN stays NaN.
FASTWM_INLINE vf exp(vf x) {
  x = max(set(-87.0f), min(set(87.0f), x));
  const vf shifted = fma(x, set(1.44269504f), set(ROUND));
  const vf n = shifted - ROUND;
  const vf r = fma(n, set(-1.42860677e-6f), fma(n, set(-0.693145752f), x));
  vf p = set(1.38888889e-3f);
  p = fma(p, r, set(8.33333333e-3f));
  p = fma(p, r, set(4.16666667e-2f));
  p = fma(p, r, set(1.66666667e-1f));
  p = fma(p, r, set(0.5f));
  p = fma(p, r, set(1.0f));
  p = fma(p, r, set(1.0f));
  return number(bits(p) + (bits(shifted) << 23));  // the upper bits of ROUND are shifted out
}

// x / (1 + e^-x), relative error 4e-7; from -87 down, where |y| < 2e-36, it stays at its value there.
FASTWM_INLINE vf silu(vf x) { return max(set(-87.0f), x) / (1.0f + exp(-x)); }

// x tanh(ln(1 + e^x)) = x w (w + 2) / (w (w + 2) + 2) with w = e^x, relative error 5e-7; from -87 down as silu.
FASTWM_INLINE vf mish(vf x) {
  const vf w = exp(min(set(20.0f), x));  // from 20 on the quotient is 1
  const vf n = w * (w + 2.0f);
  return max(set(-87.0f), x) * (n / (n + 2.0f));
}

#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16 || FASTWM_ISA_avx2

// Q on interval i, |x| in [i - 1/2, i + 1/2] * WIDTH: minimax fits of |x| Q (iteratively reweighted least squares on
// 401 Chebyshev nodes, in double). The last interval ends at its middle, the largest |x| that is looked at.

#if FASTWM_ISA_avx2
constexpr float EXACT_PER_UNIT = 1.2f, ROUNDED_PER_UNIT = 1.5f;  // 1 / WIDTH
alignas(4 * LANES) constexpr float EXACT[7][LANES] = {
    {0.5f, 0.2023284f, 0.04779036f, 0.006209666f, 0.0004290607f, 1.5454316e-05f, 2.8664485e-07f, 0.0f},
    {-0.33245206f, -0.23492676f, -0.08289777f, -0.0146068f, -0.0012852327f, -5.6478664e-05f, -1.2400185e-06f,
     -1.6701318e-07f},
    {3.7872626e-06f, 0.08157078f, 0.057567857f, 0.01521561f, 0.0017850253f, 9.803791e-05f, 2.5819957e-06f,
     -2.4378362e-06f},
    {0.038442824f, 0.00831514f, -0.017052427f, -0.00887963f, -0.0015040735f, -0.00010662978f, -3.4069596e-06f,
     -1.7078393e-05f},
    {0.00016990825f, -0.010871203f, -0.0007426078f, 0.0028611857f, 0.0008382832f, 8.142904e-05f, 3.2687087e-06f,
     -5.6914858e-05f},
    {-0.004449066f, 0.000586724f, 0.0019446631f, -0.00023633281f, -0.00030881166f, -4.7868136e-05f, -2.6533564e-06f,
     -9.1484435e-05f},
    {0.0005931605f, 0.00088298804f, -0.00037163394f, -0.00017230082f, 6.293998e-05f, 1.9170968e-05f, 1.458603e-06f,
     -5.6346667e-05f}};
alignas(4 * LANES) constexpr float ROUNDED[5][LANES] = {
    {0.49999958f, 0.49968025f, 0.51835585f, 0.62905186f, 0.62487537f, 0.35185668f, 0.10559404f, -0.47873446f},
    {-0.39891446f, -0.3959027f, -0.4615264f, -0.72788763f, -0.7327956f, -0.36989918f, -0.0972624f, 0.4292651f},
    {-0.00045830893f, -0.011511727f, 0.07520684f, 0.3173755f, 0.32840386f, 0.14709371f, 0.03372786f, -0.14425632f},
    {0.069557406f, 0.088591695f, 0.037478026f, -0.06111076f, -0.06655441f, -0.02619909f, -0.0052165585f, 0.021534363f},
    {-0.009071288f, -0.02220206f, -0.01085702f, 0.0043035946f, 0.0051382217f, 0.0017620075f, 0.00030352038f,
     -0.001204898f}};
#else
constexpr float EXACT_PER_UNIT = 2.5f, ROUNDED_PER_UNIT = 3.125f;
alignas(4 * LANES) constexpr float EXACT[6][LANES] = {
    {0.5f, 0.34457827f, 0.21185541f, 0.11506967f, 0.05479929f, 0.02275013f, 0.008197535f, 0.0025551303f, 0.0006871383f,
     0.00015910891f, 3.1671407e-05f, 5.4126044e-06f, 7.9334507e-07f, 9.964802e-08f, 1.0718265e-08f, 0.0f},
    {-0.15957691f, -0.14730802f, -0.11587661f, -0.077674426f, -0.044368338f, -0.021596389f, -0.008957812f,
     -0.0031661799f, -0.0009536349f, -0.0002447607f, -5.353213e-05f, -9.97702e-06f, -1.5845327e-06f, -2.1444515e-07f,
     -2.473129e-08f, -4.2066944e-08f},
    {-1.5041533e-07f, 0.011784291f, 0.018539852f, 0.018641736f, 0.014198007f, 0.008638747f, 0.004299851f, 0.0017730701f,
     0.0006103003f, 0.00017620431f, 4.2813757e-05f, 8.7754115e-06f, 1.5199247e-06f, 2.2274929e-07f, 2.7649666e-08f,
     -4.4238126e-07f},
    {0.0042563477f, 0.0032991753f, 0.0011122382f, -0.0009113256f, -0.0018456336f, -0.001727682f, -0.0011370596f,
     -0.00057752914f, -0.00023498252f, -7.8061974e-05f, -2.1411066e-05f, -4.8836696e-06f, -9.308782e-07f,
     -1.4880021e-07f, -1.9999119e-08f, -2.0425275e-06f},
    {-2.8024763e-06f, -0.00044220884f, -0.0005789981f, -0.00038642238f, -8.480751e-05f, 0.000113118294f, 0.00015715047f,
     0.000114327144f, 5.9198584e-05f, 2.3653361e-05f, 7.5501443e-06f, 1.9613494e-06f, 4.1935954e-07f, 7.435035e-08f,
     1.0987784e-08f, -4.0862947e-06f},
    {-9.883384e-05f, -6.292971e-05f, 1.1017453e-05f, 5.8565693e-05f, 5.4496697e-05f, 2.2993487e-05f, -2.9255511e-06f,
     -1.1643948e-05f, -9.410589e-06f, -4.8795278e-06f, -1.878115e-06f, -5.656167e-07f, -1.3679124e-07f, -2.6970149e-08f,
     -4.3773443e-09f, -2.977482e-06f}};
alignas(4 * LANES) constexpr float ROUNDED[4][LANES] = {
    {0.50000006f, 0.5001166f, 0.5032502f, 0.5181524f, 0.5482321f, 0.5766202f, 0.5717146f, 0.5121308f, 0.4049851f,
     0.28011727f, 0.16914514f, 0.089288786f, 0.041312817f, 0.016802842f, 0.0060242764f, -0.046144262f},
    {-0.39894944f, -0.40046766f, -0.4188183f, -0.47384465f, -0.5545717f, -0.61472493f, -0.6075526f, -0.52238095f,
     -0.38861898f, -0.25065395f, -0.14076622f, -0.06914648f, -0.029832546f, -0.011345297f, -0.0038147413f,
     0.029496392f},
    {0.0001460261f, 0.0067399647f, 0.043053888f, 0.111205325f, 0.18366231f, 0.22622383f, 0.22282106f, 0.18220305f,
     0.12649943f, 0.07565857f, 0.039370894f, 0.017952213f, 0.0072104167f, 0.002561122f, 0.0008069955f, -0.0062830024f},
    {0.06558691f, 0.05578567f, 0.031458568f, 0.0031431834f, -0.018605707f, -0.028660595f, -0.02814292f, -0.021680344f,
     -0.013942361f, -0.007693788f, -0.0036976389f, -0.0015617069f, -0.0005830886f, -0.0001932492f, -5.7022833e-05f,
     0.00044599024f}};
#endif

FASTWM_INLINE vf pick(const float (&table)[LANES], vi index) {
#if FASTWM_ISA_avx2
  return (vf)_mm256_permutevar8x32_ps(_mm256_load_ps(table), (__m256i)index);
#else
  return (vf)_mm512_permutexvar_ps((__m512i)index, _mm512_load_ps(table));
#endif
}

// sum of table[k][index] u^k; the permutation looks at the low bits of index alone.
template <int TERMS>
FASTWM_INLINE vf polynomial(const float (&table)[TERMS][LANES], vi index, vf u) {
  vf p = pick(table[TERMS - 1], index);
#pragma GCC unroll 8
  for (int k = TERMS - 2; k >= 0; --k) p = fma(p, u, pick(table[k], index));
  return p;
}

// GELU of an x whose result is stored as T. NaN stays NaN, infinity stays infinity, and nothing below zero gives more
// than zero. For float32 the absolute error is 1e-7 max(1, |x|): the polynomial runs in u, the distance from the middle
// of the interval in WIDTHs, and Q ends at zero. For narrower T it is max(5e-6, 8e-5 |GELU|), a twelfth of the least
// error of rounding to bfloat16: the polynomial runs in |x|, and Q ends at 1e-6, so that rounding leaves it positive.
template <class T>
FASTWM_INLINE vf gelu(vf x) {
  const vf z = min(magnitude(x), set((LANES - 1) / ROUNDED_PER_UNIT));
  const vf index = fma(z, set(ROUNDED_PER_UNIT), set(ROUND));
  return fma(-z, polynomial(ROUNDED, bits(index), z), max(vf{}, x));
}
template <>
FASTWM_INLINE vf gelu<float>(vf x) {
  const vf z = min(magnitude(x), set((LANES - 1) / EXACT_PER_UNIT));
  const vf index = fma(z, set(EXACT_PER_UNIT), set(ROUND));
  const vf u = fma(z, set(EXACT_PER_UNIT), ROUND - index);
  return fma(-z, polynomial(EXACT, bits(index), u), max(vf{}, x));
}

#else

// For every T: Q from Abramowitz & Stegun 7.1.26, arranged so that the tail of a negative x is a product, not a
// difference of nearly equal numbers. Absolute error 2e-7 max(1, |x|).
template <class>
FASTWM_INLINE vf gelu(vf x) {
  const vf z = min(magnitude(x), set(12.0f));
  const vf t = 1.0f / fma(z, set(0.3275911f * 0.70710678f), set(1.0f));
  vf p = set(1.061405429f);
  p = fma(p, t, set(-1.453152027f));
  p = fma(p, t, set(1.421413741f));
  p = fma(p, t, set(-0.284496736f));
  p = fma(p, t, set(0.254829592f));
  return max(vf{}, x) - z * 0.5f * (p * t) * exp(z * z * -0.5f);
}

#endif

}  // namespace fastwm::FASTWM_ISA
