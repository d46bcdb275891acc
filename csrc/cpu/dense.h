// Row passes (LayerNorm, activation, rounding) and dense layers over a tile of rows. Every row buffer is padded with
// zeros to whole panels, and stays so.
#pragma once
#include "cpu/activation.h"
#include "cpu/gemm.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {

constexpr int NORM_ROWS = 4;  // rows whose norms are computed side by side

template <class T>
constexpr int64_t PART = part_width(DType::float32);
template <>
constexpr int64_t PART<bf16> = part_width(DType::bfloat16);
template <>
constexpr int64_t PART<byte> = part_width(DType::int8);
static_assert(PART<float> % PANEL == 0 && PART<bf16> % PANEL == 0 && PART<byte> % PANEL == 0, "parts are whole panels");

// ---- rows that products read

// Rows of T made of float32 rows. int8: byte = round(x / scale) + 128, scale = largest |x| of the row / 127.
template <class T>
struct Input {
  T* data;
  int64_t ld;
  float* scale;  // one a row, written for int8 only

  Rows<T> rows(int64_t first = 0, int64_t step = 1) const {
    return {data + first * ld, step * ld, scale + first, step};
  }
};

// Rounds n numbers, and the padding up to a whole panel, of x.
template <class T>
FASTWM_INLINE void round_row(const float* x, T* y, float*, int64_t n) {
  for (int64_t i = 0; i < n; i += PANEL) store(y + i, load(x + i), load(x + i + LANES));
}

// x -> low byte of the mantissa of (x / step) + 1.5 * 2^23 + 128: rounding, shift and conversion in one addition.
FASTWM_INLINE void round_row(const float* x, byte* y, float* scale, int64_t n) {
  vi most{};  // compared as integers, in which a NaN is larger than every number, so that a row with one has no scale
  for (int64_t i = 0; i < n; i += LANES) {
    const vi size = bits(magnitude(load(x + i)));
    most = size > most ? size : most;
  }
  const float largest = as_float(highest(most)), inverse = largest > 0 ? 127.0f / largest : 0.0f;
  *scale = largest / 127.0f;
  for (int64_t i = 0; i < n; i += LANES) store_low(y + i, bits(fma(load(x + i), set(inverse), set(ROUND + 128.0f))));
}

template <class T>
FASTWM_INLINE void put(const Input<T>& input, int64_t row, const float* x, int64_t n) {
  round_row(x, input.data + row * input.ld, input.scale + row, n);
}

// ---- row passes

// f(the activation), so that its loop knows which it is. simnorm is no function of one number.
template <class F>
FASTWM_INLINE void with_activation(Activation activation, const F& f) {
  switch (activation) {
    case Activation::gelu:
      return f([](vf x) { return gelu<float>(x); });
    case Activation::silu:
      return f([](vf x) { return silu(x); });
    case Activation::mish:
      return f([](vf x) { return mish(x); });
    default:
      return f([](vf x) { return x; });
  }
}

// 1 where the column is below n, else 0: the padding must not enter a mean or a variance.
FASTWM_INLINE vf inside(int64_t column, int64_t n) {
  vf mask = set(1.0f);
  if (column + LANES > n)
    for (int i = 0; i < LANES; ++i) mask[i] = column + i < n ? 1.0f : 0.0f;
  return mask;
}

// visit(r, i, whole) for every vector i of n columns of R rows, which are taken side by side: additions of one row wait
// for each other, those of several rows do not. whole: false for the last vector if part of it is padding.
template <int R, class Visit>
FASTWM_INLINE void each(int64_t n, const Visit& visit) {
  const int64_t whole = n / LANES * LANES;
  for (int64_t i = 0; i < whole; i += LANES)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) visit(r, i, true);
  if (whole < n)
    for (int r = 0; r < R; ++r) visit(r, whole, false);
}

// LayerNorm of R rows of n columns: (x - mean) / sqrt(var + eps). The caller makes the first pass, which adds up the
// rows, and the last, which asks for the vectors; so they share these passes with what comes before and after.
template <int R>
struct Norm {
  int64_t n;
  vf mean[R], scale[R];

  // total: of the columns of each row. Padding must not enter the variance.
  FASTWM_INLINE Norm(const float* const (&x)[R], const vf (&total)[R], int64_t n, float eps) : n(n) {
    vf squares[R]{};
    for (int r = 0; r < R; ++r) mean[r] = set(sum(total[r]) / n);
    each<R>(n, [&](int r, int64_t i, bool whole) {
      vf d = load(x[r] + i) - mean[r];
      if (!whole) d *= inside(i, n);
      squares[r] = fma(d, d, squares[r]);
    });
    for (int r = 0; r < R; ++r) {
      const float variance = sum(squares[r]) / n;
      // An infinite variance would give a row of finite numbers that mean nothing: inf - inf makes it NaN instead.
      scale[r] = set(1.0f / __builtin_sqrtf(variance + eps) + (variance - variance));
    }
  }
  // The vector x of row r at column i; 0 in the padding.
  FASTWM_INLINE vf operator()(int r, int64_t i, vf x, bool whole) const {
    const vf y = (x - mean[r]) * scale[r];
    return whole ? y : y * inside(i, n);
  }
};

// Softmax of every 8 neighbours (TD-MPC2's SimNorm, arXiv:2310.16828); n is a multiple of 8.
FASTWM_INLINE void simplicial_norm(float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += PANEL) {
    vf a = load(x + i), b = load(x + i + LANES);
    const auto larger = [](vf p, vf q) { return p > q ? p : q; };
    vf high_a = over_eight(a, b, larger), high_b = LANES >= 8 ? over_eight(b, a, larger) : high_a;
    a = exp(a - high_a), b = exp(b - high_b);
    const auto plus = [](vf p, vf q) { return p + q; };
    vf sum_a = over_eight(a, b, plus), sum_b = LANES >= 8 ? over_eight(b, a, plus) : sum_a;
    store(x + i, a / sum_a);
    store(x + i + LANES, b / sum_b);
  }
  for (int64_t i = n; i < padded(n); ++i) x[i] = 0.0f;
}

// ---- dense layers

// A product whose K comes in parts: each part is summed by itself, from the bias or from zero, and added to the parts
// before. A sum over 2048 terms in one register has twice the rounding error of sixteen short ones; and a part of int8
// has a scale of its own.
FASTWM_INLINE void add_part(bool first, float* acc, vf c0, vf c1) {
  store(acc, first ? c0 : load(acc) + c0, first ? c1 : load(acc + LANES) + c1);
}

// Columns [column, column + count * PANEL) of a Dense, inputs [k, k + K) of its `in_padded`, which are part number
// `part` of its int8 scales.
template <class T>
FASTWM_INLINE Panels<T> panels_of(const Dense& d, int64_t in_padded, int64_t column, int64_t count, int64_t k,
                                  int64_t K, int64_t part) {
  Panels<T> b{static_cast<const T*>(d.weight) + column * in_padded + k * PANEL, in_padded * PANEL, K, count,
              d.bias + column};
  if (part > 0) b.bias = nullptr;
  if (GROUP<T> == 4) {
    b.scale = d.scale + part * d.scale_ld + column;
    b.start = d.start ? d.start + part * d.scale_ld + column : nullptr;
  }
  return b;
}

// What a product is added to.
struct Nothing {
  FASTWM_INLINE void operator()(int64_t, int64_t, vf&, vf&) const {}
};
struct SharedRows {
  const float* rows;
  int64_t ld, share, first;  // `share` neighbours add the same row; the first is number `first` of its own
  FASTWM_INLINE void operator()(int64_t row, int64_t column, vf& c0, vf& c1) const {
    const float* x = rows + (share == 1 ? row : (first + row) / share) * ld + column;
    c0 += load(x), c1 += load(x + LANES);
  }
};

// out[rows, padded] = start + a W^T + bias, float32, of a Dense whose outputs come in no blocks.
template <class T, class Start>
void linear(const Dense& d, Rows<T> a, int64_t rows, float* out, int64_t ldo, const void* next, const Start& start) {
  const int64_t K = round_up(d.in, GROUP<T>);
  gemm(a, rows, panels_of<T>(d, K, 0, padded(d.out) / PANEL, 0, K, 0), next,
       [&](int64_t row, int64_t column, vf c0, vf c1) {
         start(row, column, c0, c1);
         store(out + row * ldo + column, c0, c1);
       });
}

// What follows the product of a dense layer, in place: LayerNorm (eps 1e-5) if it has one, then the activation.
template <int R, class F>
FASTWM_INLINE void finish(const Dense& d, float* rows, int64_t ld, const F& activation) {
  float* x[R];
  for (int r = 0; r < R; ++r) x[r] = rows + r * ld;
  if (!d.norm_gain) return each<R>(d.out, [&](int r, int64_t i, bool) { store(x[r] + i, activation(load(x[r] + i))); });
  vf total[R]{};
  each<R>(d.out, [&](int r, int64_t i, bool) { total[r] += load(x[r] + i); });
  const Norm<R> norm(x, total, d.out, 1e-5f);
  each<R>(d.out, [&](int r, int64_t i, bool whole) {
    const vf y = norm(r, i, load(x[r] + i), whole);
    store(x[r] + i, activation(fma(y, load(d.norm_gain + i), load(d.norm_bias + i))));
  });
}
inline void finish(const Dense& d, float* x, int64_t rows, int64_t ld) {
  if (d.norm_gain || (d.activation != Activation::none && d.activation != Activation::simnorm))
    with_activation(d.activation, [&](const auto& activation) {
      int64_t row = 0;
      for (; row + NORM_ROWS <= rows; row += NORM_ROWS) finish<NORM_ROWS>(d, x + row * ld, ld, activation);
      for (; row < rows; ++row) finish<1>(d, x + row * ld, ld, activation);
    });
  if (d.activation == Activation::simnorm)
    for (int64_t row = 0; row < rows; ++row) simplicial_norm(x + row * ld, d.out);
}

// A chain of dense layers, one after another: out = layers[count - 1](... layers[0](a)), the first product added to
// `start`. `out` holds `rows` rows of the widest padded layer; `a` is overwritten when count > 1.
template <class T, class Start = Nothing>
void chain(const Dense* layers, int64_t count, const Input<T>& a, int64_t rows, float* out, int64_t ldo,
           const Start& start = {}) {
  for (int64_t i = 0; i < count; ++i) {
    const void* next = i + 1 < count ? layers[i + 1].weight : nullptr;
    if (i == 0)
      linear(layers[i], a.rows(), rows, out, ldo, next, start);
    else
      linear(layers[i], a.rows(), rows, out, ldo, next, Nothing{});
    finish(layers[i], out, rows, ldo);
    if (i + 1 < count)
      for (int64_t r = 0; r < rows; ++r) put(a, r, out + r * ldo, layers[i].out);
  }
}

// A part of an MLP's hidden layer: PART<T> columns of every row.
template <class T>
struct Hidden {
  T* data;
  float* raw;    // int8: before the activation
  float* scale;  // int8: one a row
};

// int8: byte = round((y - lowest) / scale), y = activation(raw), scale = (largest y - lowest) / 255. `lowest` bounds y
// from below whatever the row; its product with the weights is in the next layer's bias.
template <class F>
FASTWM_INLINE void round_hidden(const Hidden<byte>& h, int64_t row, int64_t columns, float lowest,
                                const F& activation) {
  const float* raw = h.raw + row * PART<byte>;
  vf y[PART<byte> / LANES];
  vi most{};
  for (int64_t i = 0; i < columns / LANES; ++i) {
    y[i] = activation(load(raw + i * LANES)) - set(lowest);
    const vi size = bits(magnitude(y[i]));
    most = size > most ? size : most;
  }
  const float largest = as_float(highest(most)), inverse = 255.0f / largest;
  h.scale[row] = largest / 255.0f;
  for (int64_t i = 0; i < columns / LANES; ++i)
    store_low(h.data + row * PART<byte> + i * LANES, bits(fma(y[i], set(inverse), set(ROUND))));
}

template <class T, class Start, class F>
FASTWM_INLINE void fused_mlp_with(const Dense& fc1, const Dense& fc2, Rows<T> a, int64_t rows, const Hidden<T>& hidden,
                                  float* acc, int64_t ldacc, const void* next, const Start& start, float lowest,
                                  const F& activation) {
  const int64_t K1 = round_up(fc1.in, GROUP<T>), K2 = round_up(fc2.in, GROUP<T>), width = padded(fc1.out);
  for (int64_t first = 0, part = 0; first < width; first += PART<T>, ++part) {
    const int64_t left = width - first, columns = left < PART<T> ? left : PART<T>;
    const Panels<T> up = panels_of<T>(fc1, K1, first, columns / PANEL, 0, K1, 0);
    const int64_t K = K2 - first < columns ? K2 - first : columns;
    const Panels<T> down = panels_of<T>(fc2, K2, 0, padded(fc2.out) / PANEL, first, K, part);
    const void* after = columns < left ? static_cast<const T*>(fc1.weight) + (first + PART<T>)*K1 : next;
    if constexpr (GROUP<T> == 4) {
      gemm(a, rows, up, down.data, [&](int64_t row, int64_t column, vf c0, vf c1) {
        start(row, first + column, c0, c1);
        store(hidden.raw + row * PART<T> + column, c0, c1);
      });
      for (int64_t r = 0; r < rows; ++r) round_hidden(hidden, r, columns, lowest, activation);
    } else {
      gemm(a, rows, up, down.data, [&](int64_t row, int64_t column, vf c0, vf c1) {
        start(row, first + column, c0, c1);
        store(hidden.data + row * PART<T> + column, activation(c0), activation(c1));
      });
    }
    gemm(Rows<T>{hidden.data, PART<T>, hidden.scale}, rows, down, after,
         [&](int64_t row, int64_t column, vf c0, vf c1) { add_part(part == 0, acc + row * ldacc + column, c0, c1); });
  }
}

// acc = fc2(activation(start + fc1(a))): the hidden layer is made and used one part at a time and never leaves the
// cache.
template <class T, class Start = Nothing>
void fused_mlp(const Dense& fc1, const Dense& fc2, Rows<T> a, int64_t rows, const Hidden<T>& hidden, float* acc,
               int64_t ldacc, const void* next, const Start& start = {}) {
  auto with = [&](const auto& activation) {
    fused_mlp_with(fc1, fc2, a, rows, hidden, acc, ldacc, next, start, activation_minimum(fc1.activation), activation);
  };
  if (fc1.activation == Activation::gelu)
    with([](vf x) { return gelu<T>(x); });
  else
    with_activation(fc1.activation, with);
}

}  // namespace fastwm::FASTWM_ISA
