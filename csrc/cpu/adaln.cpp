// LayerNorm, modulation by shift and scale, and an optional second LayerNorm; forward and backward (formulas:
// fastwm/reference/adaln.py). A row stays in L1 through all of it, so backward makes the norms again instead of keeping
// them. Variances are of differences from the mean. A task is a fixed number of rows, whatever the threads, and sums
// over rows are of a task: no bit depends on the threads.
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {
namespace {

constexpr int64_t NUMBERS_PER_THREAD = 65536;  // about 20 us

// visit(i, count) for all vectors of a row of W
template <class Visit>
FASTWM_INLINE void over(int64_t W, const Visit& visit) {
  int64_t i = 0;
  for (; i + LANES <= W; i += LANES) visit(i, int64_t{LANES});
  if (i < W) visit(i, W - i);
}

// y = normalised x, which may be y itself; returns the reciprocal deviation. The differences from the rounded mean have
// a mean of their own, which is taken off.
float normalise(const float* x, float* y, int64_t W, float eps) {
  vf total{}, rest{}, squares{};
  over(W, [&](int64_t i, int64_t count) { total += load_part(x + i, count); });
  const float mean = sum(total) / static_cast<float>(W);
  over(W, [&](int64_t i, int64_t count) {
    const vf d = keep_part(load_part(x + i, count) - mean, count);
    rest += d;
    squares = fma(d, d, squares);
  });
  const float left = sum(rest) / static_cast<float>(W);
  const float rstd = 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(W) - left * left + eps);
  over(W, [&](int64_t i, int64_t count) { store_part(y + i, (load_part(x + i, count) - mean - left) * rstd, count); });
  return rstd;
}

// The gradient of a norm's input from g, that of its result, in place.
void through_norm(float* g, const float* normalised, float rstd, int64_t W) {
  vf total{}, along{};
  over(W, [&](int64_t i, int64_t count) {
    const vf x = load_part(g + i, count);
    total += x;
    along = fma(x, load_part(normalised + i, count), along);
  });
  const float mean = sum(total) / static_cast<float>(W), slope = sum(along) / static_cast<float>(W);
  over(W, [&](int64_t i, int64_t count) {
    const vf x = load_part(g + i, count) - mean;
    store_part(g + i, fma(load_part(normalised + i, count), set(-slope), x) * rstd, count);
  });
}

void modulate(const float* normalised, const float* shift, const float* scale, float* y, int64_t W) {
  over(W, [&](int64_t i, int64_t count) {
    const vf factor = load_part(scale + i, count) + 1.0f;
    store_part(y + i, fma(load_part(normalised + i, count), factor, load_part(shift + i, count)), count);
  });
}

int64_t rows_per_task(int64_t share) {
  return share >= ADALN_ROWS_PER_TASK ? share : ADALN_ROWS_PER_TASK / share * share;
}
int64_t count_tasks(int64_t rows, int64_t share) { return (rows + rows_per_task(share) - 1) / rows_per_task(share); }
int32_t useful_threads(int64_t numbers, int32_t threads) {
  const int64_t useful = 1 + numbers / NUMBERS_PER_THREAD;
  return threads < useful ? threads : static_cast<int32_t>(useful);
}

void forward_rows(void* context, int64_t task, int32_t) {
  const AdaLNArgs& a = *static_cast<const AdaLNArgs*>(context);
  const int64_t W = a.W, each = rows_per_task(a.share), end = (task + 1) * each < a.rows ? (task + 1) * each : a.rows;
  for (int64_t row = task * each; row < end; ++row) {
    float* y = a.y + row * W;
    normalise(a.x + row * W, y, W, a.eps);
    modulate(y, a.shift + row / a.share * W, a.scale + row / a.share * W, y, W);
    if (a.gain == nullptr) continue;
    normalise(y, y, W, a.affine_eps);
    over(W, [&](int64_t i, int64_t count) {
      store_part(y + i, fma(load_part(y + i, count), load_part(a.gain + i, count), load_part(a.bias + i, count)),
                 count);
    });
  }
}

// p += x
FASTWM_INLINE void add(float* p, vf x, int64_t count) { store_part(p, load_part(p, count) + x, count); }

void backward_rows(void* context, int64_t task, int32_t) {
  const AdaLNBackwardArgs& a = *static_cast<const AdaLNBackwardArgs*>(context);
  const int64_t W = a.W, each = rows_per_task(a.share), end = (task + 1) * each < a.rows ? (task + 1) * each : a.rows;
  float* normalised = a.workspace + task * 3 * W;
  float* modulated = normalised + W;
  float* g = modulated + W;
  float* of_gain = a.gain == nullptr ? nullptr : a.of_affine + task * 2 * W;
  if (of_gain != nullptr) std::memset(of_gain, 0, sizeof(float) * 2 * W);
  for (int64_t row = task * each; row < end; ++row) {
    const int64_t of = row / a.share * W;
    const float* given = a.gradient + row * W;
    const float rstd = normalise(a.x + row * W, normalised, W, a.eps);
    std::memcpy(g, given, sizeof(float) * W);
    if (a.gain != nullptr) {
      modulate(normalised, a.shift + of, a.scale + of, modulated, W);
      const float modulated_rstd = normalise(modulated, modulated, W, a.affine_eps);
      over(W, [&](int64_t i, int64_t count) {
        const vf x = load_part(given + i, count);
        add(of_gain + i, x * load_part(modulated + i, count), count);
        add(of_gain + W + i, x, count);
        store_part(g + i, x * load_part(a.gain + i, count), count);
      });
      through_norm(g, modulated, modulated_rstd, W);
    }
    float* dx = a.dx + row * W;
    const bool first = row % a.share == 0;
    over(W, [&](int64_t i, int64_t count) {
      const vf x = load_part(g + i, count), along = x * load_part(normalised + i, count);
      if (first) {
        store_part(a.dshift + of + i, x, count);
        store_part(a.dscale + of + i, along, count);
      } else {
        add(a.dshift + of + i, x, count);
        add(a.dscale + of + i, along, count);
      }
      store_part(dx + i, x * (load_part(a.scale + of + i, count) + 1.0f), count);
    });
    through_norm(dx, normalised, rstd, W);
  }
}

}  // namespace

void adaln(const AdaLNArgs& a) {
  parallel_for(count_tasks(a.rows, a.share), useful_threads(a.rows * a.W, a.threads), forward_rows,
               const_cast<AdaLNArgs*>(&a));
}
void adaln_backward(const AdaLNBackwardArgs& a) {
  parallel_for(a.tasks, useful_threads(2 * a.rows * a.W, a.threads), backward_rows, const_cast<AdaLNBackwardArgs*>(&a));
}

}  // namespace fastwm::FASTWM_ISA
