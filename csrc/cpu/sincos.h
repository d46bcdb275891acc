// Sine and cosine of one vector, and complex numbers in registers.
#pragma once
#include "cpu/activation.h"

namespace fastwm::FASTWM_ISA {

struct Complex {
  vf re, im;
};

// a b, each part rounded twice.
FASTWM_INLINE Complex times(Complex a, Complex b) {
  return {fma(a.re, b.re, -(a.im * b.im)), fma(a.re, b.im, a.im * b.re)};
}
// a b + c
FASTWM_INLINE Complex times(Complex a, Complex b, Complex c) {
  return {fma(a.re, b.re, fma(-a.im, b.im, c.re)), fma(a.re, b.im, fma(a.im, b.re, c.im))};
}

// A factor as a sum of two float32: a product with it is known to 2^-48.
struct Factor {
  float high, low;
  explicit Factor(double f) : high(static_cast<float>(f)), low(static_cast<float>(f - static_cast<double>(high))) {}
  double exact() const { return static_cast<double>(high) + static_cast<double>(low); }
};

constexpr float SIN[3] = {-0.16666651f, 0.0083319787f, -0.00019495627f};  // (sin r - r) / r^3 in r^2
constexpr float COS[3] = {0.041666646f, -0.0013887368f, 2.4438443e-05f};  // (cos r - 1 + r^2 / 2) / r^4 in r^2

#if FASTWM_ISA_avx512 || FASTWM_ISA_avx512_bf16 || FASTWM_ISA_avx2
constexpr float NEAR = 131072.0f;  // below this angle a product's rounding is at most 2^-7: rest stays near pi/4
#else
constexpr float NEAR = 0.0f;  // without fused multiply-add nothing is
#endif

// Angles to within 2^-24 of `rest` plus `quarters` (mod 4) times pi/2; |rest| <= pi/4.
struct Reduced {
  vf rest;
  vi quarters;
};

// factor x, where |factor x| < NEAR: Cody and Waite's three-part pi/2. The first difference rounds at 2^-25, since
// its operands cancel; the second too; factor's lower part and the product's rounding come back in the last.
FASTWM_INLINE Reduced near(vf x, Factor factor) {
  const vf product = x * factor.high, lost = fma(x, set(factor.high), -product);
  const vf shifted = fma(product, set(0.636619772f), set(ROUND));
  const vf n = shifted - ROUND;
  vf rest = fma(n, set(-1.57079637f), product);
  rest = fma(n, set(4.37113883e-8f), rest);
  rest = fma(n, set(1.71512451e-15f), rest);
  return {rest + fma(x, set(factor.low), lost), bits(shifted)};
}

// The same for any x, one lane at a time in float64: an error of 2^-52 |angle|, which no float32 sample is exact enough
// to show below |angle| = 2^28. From 2^50 on, where consecutive float32 are millions of turns apart, the angle is taken
// as 0. Infinity and NaN become NaN.
inline __attribute__((noinline)) Reduced far(vf x, Factor factor) {
  Reduced out{};
  for (int i = 0; i < LANES; ++i) {
    double angle = static_cast<double>(x[i]) * factor.exact();
    if (angle - angle == 0.0 && (angle > 0x1p50 || angle < -0x1p50)) angle = 0.0;
    const double shifted = angle * 0.63661977236758134308 + 0x1.8p52;
    const double n = shifted - 0x1.8p52;
    out.rest[i] = static_cast<float>((angle - n * 0x1.921fb54442d18p0) - n * 0x1.1a62633145c07p-54);
    int64_t whole;
    std::memcpy(&whole, &shifted, sizeof whole);
    out.quarters[i] = static_cast<int32_t>(whole);
  }
  return out;
}

// exp(i angle), each part to 1.2e-7: minimax polynomials on [-pi/4, pi/4] (iteratively reweighted least squares on 401
// Chebyshev nodes, in double; 1.8e-9), then the quarter turn.
FASTWM_INLINE Complex turn(Reduced angle) {
  const vf r = angle.rest, u = r * r;
  vf s = fma(set(SIN[2]), u, set(SIN[1]));
  s = fma(s, u, set(SIN[0]));
  s = fma(r * u, s, r);
  vf c = fma(set(COS[2]), u, set(COS[1]));
  c = fma(c, u, set(COS[0]));
  c = fma(u * u, c, fma(u, set(-0.5f), set(1.0f)));
  const vi q = angle.quarters;
  const vi odd = (q & 1) != 0;
  return {number(bits(odd ? s : c) ^ (((q + 1) << 30) & INT32_MIN)),
          number(bits(odd ? c : s) ^ ((q << 30) & INT32_MIN))};
}

}  // namespace fastwm::FASTWM_ISA
