// The Epps-Pulley statistic of every column of samples, and its gradient (formulas: fastwm/reference/sigreg.py).
//
// The frequencies are multiples of one, so exp(i f x) of all of them are powers of exp(i spacing x): one sine and
// cosine a sample, then a complex product per frequency, in registers. Nothing of size [T, B, P, F] exists. A lane is a
// column; several rows go together, which hides the products' latency and makes one load and store of a sum serve them
// all. Backward makes the base again and runs Horner's rule. A column's bits depend on that column alone, whatever the
// threads.
#include "cpu/parallel.h"
#include "cpu/sincos.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {
namespace {

constexpr int ROWS = LANES == 16 ? 4 : 2;        // two complex numbers a row in registers, of 32 or 16
constexpr int64_t COLUMNS_PER_TASK = 4 * LANES;  // reads whole cache lines, several in a row
constexpr int64_t ROWS_PER_SUM = 128;            // float32 sums of this many, then a sum of those
constexpr int64_t SAMPLES_PER_THREAD = 16384;    // about 20 us
constexpr int64_t MOST = SIGREG_MOST_FREQUENCIES;

// One vector of columns of one batch.
struct Tile {
  const float* samples;  // [B] rows, P apart
  int64_t B, P, count;   // count <= LANES columns

  FASTWM_INLINE vf row(int64_t b) const { return load_part(samples + b * P, count); }
  // Whether every angle is near. NaN and infinity are not.
  bool is_near(Factor factor) const {
    vi most{};
    for (int64_t b = 0; b < B; ++b) {
      const vi size = bits(magnitude(row(b)));
      most = most > size ? most : size;
    }
    return as_float(highest(most)) * factor.high < NEAR;
  }
};

struct Near {
  static FASTWM_INLINE Complex base(vf x, Factor factor) { return turn(near(x, factor)); }
};
struct Far {
  static FASTWM_INLINE Complex base(vf x, Factor factor) { return turn(far(x, factor)); }
};

// sums[f] += exp(i f spacing x) of R rows from `first` on
template <int R, class Distance>
FASTWM_INLINE void add_powers(const Tile& tile, int64_t first, Factor spacing, int64_t F, Complex* sums) {
  Complex base[R], power[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) power[r] = base[r] = Distance::base(tile.row(first + r), spacing);
  for (int64_t f = 0;; ++f) {
    Complex all = power[0];
#pragma GCC unroll 4
    for (int r = 1; r < R; ++r) all.re += power[r].re, all.im += power[r].im;
    sums[f].re += all.re, sums[f].im += all.im;
    if (f + 1 == F) return;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) power[r] = times(power[r], base[r]);
  }
}

template <class Distance>
void sum_powers(const Tile& tile, Factor spacing, int64_t F, Complex* totals) {
  for (int64_t f = 0; f < F; ++f) totals[f] = Complex{};
  for (int64_t first = 0; first < tile.B; first += ROWS_PER_SUM) {
    const int64_t end = first + ROWS_PER_SUM < tile.B ? first + ROWS_PER_SUM : tile.B;
    Complex sums[MOST];
    for (int64_t f = 0; f < F; ++f) sums[f] = Complex{};
    int64_t b = first;
    for (; b + ROWS <= end; b += ROWS) add_powers<ROWS, Distance>(tile, b, spacing, F, sums);
    for (; b < end; ++b) add_powers<1, Distance>(tile, b, spacing, F, sums);
    for (int64_t f = 0; f < F; ++f) totals[f].re += sums[f].re, totals[f].im += sums[f].im;
  }
}

void forward_tile(const SigregArgs& a, int64_t t, int64_t p, int64_t count) {
  const Tile tile{a.samples + t * a.B * a.P + p, a.B, a.P, count};
  const Factor spacing(a.spacing);
  Complex sums[MOST];
  (tile.is_near(spacing) ? sum_powers<Near> : sum_powers<Far>)(tile, spacing, a.F, sums);
  float* pull = a.pull + t * 2 * a.F * a.P + p;
  const float each = 1.0f / static_cast<float>(a.B);
  vf found{};
  for (int64_t f = 0; f < a.F; ++f) {
    const vf re = sums[f].re * each - a.rule[f], im = sums[f].im * each;
    found = fma(fma(re, re, im * im), set(a.rule[a.F + f]), found);
    store_part(pull + f * a.P, re * a.rule[2 * a.F + f], count);
    store_part(pull + (a.F + f) * a.P, im * a.rule[2 * a.F + f], count);
  }
  store_part(a.found + t * a.P + p, found * static_cast<float>(a.B), count);
}

// out = -gradient Im sum over f of (pull cosine - i pull sine) exp(i f spacing x), R rows
template <int R, class Distance>
FASTWM_INLINE void slopes(const Tile& tile, int64_t first, Factor spacing, int64_t F, const Complex* pull, vf gradient,
                          float* out) {
  Complex base[R], total[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) base[r] = Distance::base(tile.row(first + r), spacing), total[r] = pull[F - 1];
  for (int64_t f = F - 2; f >= 0; --f) {
    const Complex next = pull[f];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) total[r] = times(total[r], base[r], next);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
    store_part(out + (first + r) * tile.P, -gradient * times(total[r], base[r]).im, tile.count);
}

template <class Distance>
void all_slopes(const Tile& tile, Factor spacing, int64_t F, const Complex* pull, vf gradient, float* out) {
  int64_t b = 0;
  for (; b + ROWS <= tile.B; b += ROWS) slopes<ROWS, Distance>(tile, b, spacing, F, pull, gradient, out);
  for (; b < tile.B; ++b) slopes<1, Distance>(tile, b, spacing, F, pull, gradient, out);
}

void backward_tile(const SigregBackwardArgs& a, int64_t t, int64_t p, int64_t count) {
  const Tile tile{a.samples + t * a.B * a.P + p, a.B, a.P, count};
  const Factor spacing(a.spacing);
  const float* given = a.pull + t * 2 * a.F * a.P + p;
  Complex pull[MOST];
  for (int64_t f = 0; f < a.F; ++f)
    pull[f] = {load_part(given + f * a.P, count), -load_part(given + (a.F + f) * a.P, count)};
  (tile.is_near(spacing) ? all_slopes<Near> : all_slopes<Far>)(tile, spacing, a.F, pull,
                                                               load_part(a.gradient + t * a.P + p, count),
                                                               a.out + t * a.B * a.P + p);
}

template <class Args, void (*one_tile)(const Args&, int64_t, int64_t, int64_t)>
void run(void* context, int64_t task, int32_t) {
  const Args& a = *static_cast<const Args*>(context);
  const int64_t tasks = (a.P + COLUMNS_PER_TASK - 1) / COLUMNS_PER_TASK;
  const int64_t t = task / tasks, begin = task % tasks * COLUMNS_PER_TASK;
  const int64_t end = begin + COLUMNS_PER_TASK < a.P ? begin + COLUMNS_PER_TASK : a.P;
  for (int64_t p = begin; p < end; p += LANES) one_tile(a, t, p, end - p < LANES ? end - p : LANES);
}

template <class Args, void (*one_tile)(const Args&, int64_t, int64_t, int64_t)>
void launch(const Args& a) {
  const int64_t useful = 1 + a.T * a.B * a.P / SAMPLES_PER_THREAD;
  const int32_t threads = a.threads < useful ? a.threads : static_cast<int32_t>(useful);
  const int64_t tasks = a.T * ((a.P + COLUMNS_PER_TASK - 1) / COLUMNS_PER_TASK);
  parallel_for(tasks, threads, run<Args, one_tile>, const_cast<Args*>(&a));
}

}  // namespace

void sigreg(const SigregArgs& a) { launch<SigregArgs, forward_tile>(a); }
void sigreg_backward(const SigregBackwardArgs& a) { launch<SigregBackwardArgs, backward_tile>(a); }

}  // namespace fastwm::FASTWM_ISA
