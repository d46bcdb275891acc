// Row passes (LayerNorm, activation) and dense layers over a tile of rows. Every row buffer is padded with zeros to
// whole panels, and stays so.
#pragma once
#include "cpu/activation.h"
#include "cpu/gemm.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {

constexpr int64_t HIDDEN = 128;  // columns of an MLP's hidden layer that exist at one time
static_assert(HIDDEN % PANEL == 0, "hidden blocks are whole panels");

FASTWM_INLINE vf activate(Activation activation, vf x) {
  return activation == Activation::gelu ? gelu<float>(x) : activation == Activation::silu ? silu(x) : x;
}

// 1 where the column is below n, else 0: the padding must not enter a mean or a variance.
FASTWM_INLINE vf inside(int64_t column, int64_t n) {
  vf mask = set(1.0f);
  if (column + LANES > n)
    for (int i = 0; i < LANES; ++i) mask[i] = column + i < n ? 1.0f : 0.0f;
  return mask;
}

// y = (x - mean) / sqrt(var + eps) over n columns, 0 in the padding. x and y may be the same row.
FASTWM_INLINE void normalize(const float* x, float* y, int64_t n, float eps) {
  vf total{};
  for (int64_t i = 0; i < n; i += LANES) total += load(x + i);
  const vf mean = set(sum(total) / n);
  vf squares{};
  for (int64_t i = 0; i < n; i += LANES) {
    const vf d = (load(x + i) - mean) * inside(i, n);
    store(y + i, d);
    squares = fma(d, d, squares);
  }
  const float variance = sum(squares) / n;
  // An infinite variance would give a row of finite numbers that mean nothing: inf - inf makes it NaN instead.
  const vf scale = set(1.0f / __builtin_sqrtf(variance + eps) + (variance - variance));
  for (int64_t i = 0; i < n; i += LANES) store(y + i, load(y + i) * scale);
}

template <class T>
FASTWM_INLINE void convert(const float* x, T* y, int64_t n) {
  for (int64_t i = 0; i < n; i += PANEL) store(y + i, load(x + i), load(x + i + LANES));
}

// A product whose K comes in parts: each part is summed by itself, from the bias or from zero, and added to the parts
// before. A sum over 2048 terms in one register has twice the rounding error of sixteen short ones.
FASTWM_INLINE void begin_part(bool first, const float* bias, vf& c0, vf& c1) {
  c0 = first ? load(bias) : vf{};
  c1 = first ? load(bias + LANES) : vf{};
}
FASTWM_INLINE void end_part(bool first, float* acc, vf c0, vf c1) {
  store(acc, first ? c0 : load(acc) + c0, first ? c1 : load(acc + LANES) + c1);
}

// out[rows, padded] = a W^T + bias, float32.
template <class T>
void linear(const Dense& d, const T* a, int64_t lda, int64_t rows, float* out, int64_t ldo) {
  const int64_t K = round_up(d.in, GROUP<T>), panels = padded(d.out) / PANEL;
  gemm(
      a, lda, rows, static_cast<const T*>(d.weight), K * PANEL, K, panels,
      [&](int64_t, int64_t panel, vf& c0, vf& c1) {
        c0 = load(d.bias + panel * PANEL), c1 = load(d.bias + panel * PANEL + LANES);
      },
      [&](int64_t row, int64_t panel, vf c0, vf c1) { store(out + row * ldo + panel * PANEL, c0, c1); });
}

// What follows the product of a dense layer: LayerNorm (eps 1e-5) if it has one, then the activation, in place.
inline void finish(const Dense& d, float* x, int64_t rows, int64_t ldx) {
  if (!d.norm_gain && d.activation == Activation::none) return;
  for (int64_t r = 0; r < rows; ++r, x += ldx) {
    if (d.norm_gain) normalize(x, x, d.out, 1e-5f);
    for (int64_t i = 0; i < d.out; i += LANES) {
      vf y = load(x + i);
      if (d.norm_gain) y = fma(y, load(d.norm_gain + i), load(d.norm_bias + i));
      store(x + i, activate(d.activation, y));
    }
  }
}

// A chain of dense layers, one after another: out = layers[count - 1](... layers[0](a)). `hidden` and `out` hold `rows`
// rows of the widest padded layer; `a` is overwritten when count > 1.
template <class T>
void chain(const Dense* layers, int64_t count, T* a, int64_t lda, int64_t rows, float* out, int64_t ldo) {
  for (int64_t i = 0; i < count; ++i) {
    linear(layers[i], a, lda, rows, out, ldo);
    finish(layers[i], out, rows, ldo);
    if (i + 1 < count)
      for (int64_t r = 0; r < rows; ++r) convert(out + r * ldo, a + r * lda, layers[i].out);
  }
}

// acc = fc2(activation(fc1(a))): the hidden layer is made and used HIDDEN columns at a time and never leaves the cache.
template <class T>
void fused_mlp(const Dense& fc1, const Dense& fc2, const T* a, int64_t lda, int64_t rows, T* hidden, float* acc,
               int64_t ldacc) {
  const int64_t K1 = round_up(fc1.in, GROUP<T>), K2 = round_up(fc2.in, GROUP<T>), width = padded(fc1.out);
  const T *w1 = static_cast<const T*>(fc1.weight), *w2 = static_cast<const T*>(fc2.weight);
  auto half = [&](auto activation, int64_t first, int64_t columns) {
    gemm(
        a, lda, rows, w1 + first * K1, K1 * PANEL, K1, columns / PANEL,
        [&](int64_t, int64_t panel, vf& c0, vf& c1) {
          const float* bias = fc1.bias + first + panel * PANEL;
          c0 = load(bias), c1 = load(bias + LANES);
        },
        [&](int64_t row, int64_t panel, vf c0, vf c1) {
          store(hidden + row * HIDDEN + panel * PANEL, activation(c0), activation(c1));
        });
  };
  for (int64_t first = 0; first < width; first += HIDDEN) {
    const int64_t columns = width - first < HIDDEN ? width - first : HIDDEN;
    if (fc1.activation == Activation::gelu)
      half([](vf x) { return gelu<T>(x); }, first, columns);
    else
      half([&](vf x) { return activate(fc1.activation, x); }, first, columns);
    const int64_t K = K2 - first < columns ? K2 - first : columns;
    gemm(
        hidden, HIDDEN, rows, w2 + first * PANEL, K2 * PANEL, K, padded(fc2.out) / PANEL,
        [&](int64_t, int64_t panel, vf& c0, vf& c1) { begin_part(first == 0, fc2.bias + panel * PANEL, c0, c1); },
        [&](int64_t row, int64_t panel, vf c0, vf c1) {
          end_part(first == 0, acc + row * ldacc + panel * PANEL, c0, c1);
        });
  }
}

}  // namespace fastwm::FASTWM_ISA
