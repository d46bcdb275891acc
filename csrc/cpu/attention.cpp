// Attention of windows of at most 32 tokens, forward and backward, float32 (formulas: fastwm/reference/attention.py).
// A window's head is a few kilobytes: everything of it stays in L1, its weights on the stack. Backward makes the
// weights again. A task is one window; windows do not see each other, so no bit depends on the threads.
#include "cpu/activation.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {
namespace {

constexpr int64_t MOST = ATTENTION_MOST_TOKENS;
constexpr int64_t PRODUCTS_PER_THREAD = 262144;  // about 30 us

using Square = float[MOST][MOST];  // [query][key]; columns past the last key are zero
static_assert(MOST % LANES == 0, "a row of weights is whole vectors");

// One head of one window: token i of q lies at q + i * q_step.
struct Head {
  const float *q, *k, *v;
  int64_t q_step, k_step, v_step, n, D, frame_tokens;
  float scale;

  int64_t seen(int64_t i) const {
    if (frame_tokens == 0) return n;
    const int64_t end = (i / frame_tokens + 1) * frame_tokens;
    return end < n ? end : n;
  }
};

FASTWM_INLINE float dot(const float* a, const float* b, int64_t D) {
  vf total{};
  for (int64_t d = 0; d < D; d += LANES) total = fma(load_part(a + d, D - d), load_part(b + d, D - d), total);
  return sum(total);
}

// out = sum over j in [begin, end) of weight[j * weight_step] row j
FASTWM_INLINE void combine(const float* weight, int64_t weight_step, const float* rows, int64_t row_step, int64_t begin,
                           int64_t end, int64_t D, float* out) {
  for (int64_t d = 0; d < D; d += LANES) {
    vf total{};
    for (int64_t j = begin; j < end; ++j)
      total = fma(set(weight[j * weight_step]), load_part(rows + j * row_step + d, D - d), total);
    store_part(out + d, total, D - d);
  }
}

void softmax(float* row, int64_t count) {
  float most = -__builtin_inff();
  for (int64_t j = 0; j < count; ++j) most = row[j] > most || row[j] != row[j] ? row[j] : most;
  vf total{};
  for (int64_t j = 0; j < count; j += LANES) {
    const vf e = keep_part(exp(load(row + j) - most), count - j);
    store(row + j, e);
    total += e;
  }
  const float inverse = 1.0f / sum(total);
  for (int64_t j = 0; j < count; j += LANES) store(row + j, load(row + j) * inverse);
}

void weigh(const Head& h, Square weights) {
  for (int64_t i = 0; i < h.n; ++i) {
    for (int64_t j = 0; j < MOST; ++j) weights[i][j] = 0.0f;
    const int64_t seen = h.seen(i);
    for (int64_t j = 0; j < seen; ++j) weights[i][j] = dot(h.q + i * h.q_step, h.k + j * h.k_step, h.D) * h.scale;
    softmax(weights[i], seen);
  }
}

void forward_head(const Head& h, float* out, int64_t step) {
  Square weights;
  weigh(h, weights);
  for (int64_t i = 0; i < h.n; ++i) combine(weights[i], 1, h.v, h.v_step, 0, h.seen(i), h.D, out + i * step);
}

void backward_head(const Head& h, const float* gradient, float* dq, float* dk, float* dv, int64_t step) {
  Square weights, slopes;
  weigh(h, weights);
  for (int64_t i = 0; i < h.n; ++i) {
    const int64_t seen = h.seen(i);
    float along = 0.0f;
    for (int64_t j = 0; j < MOST; ++j) slopes[i][j] = 0.0f;
    for (int64_t j = 0; j < seen; ++j) {
      slopes[i][j] = dot(gradient + i * step, h.v + j * h.v_step, h.D);
      along += weights[i][j] * slopes[i][j];
    }
    for (int64_t j = 0; j < seen; ++j) slopes[i][j] = weights[i][j] * (slopes[i][j] - along) * h.scale;
    combine(slopes[i], 1, h.k, h.k_step, 0, seen, h.D, dq + i * step);
  }
  for (int64_t j = 0; j < h.n; ++j) {
    const int64_t first = h.frame_tokens == 0 ? 0 : j / h.frame_tokens * h.frame_tokens;  // the queries that see it
    combine(&slopes[0][j], MOST, h.q, h.q_step, first, h.n, h.D, dk + j * step);
    combine(&weights[0][j], MOST, gradient, step, first, h.n, h.D, dv + j * step);
  }
}

void window(void* context, int64_t r, int32_t) {
  const AttentionTrainingArgs& a = *static_cast<const AttentionTrainingArgs*>(context);
  const int64_t step = a.H * a.D;
  for (int64_t i = 0; i < a.H; ++i) {
    const Head head{a.q + r * a.q_strides.row + i * a.q_strides.head,
                    a.k + r * a.k_strides.row + i * a.k_strides.head,
                    a.v + r * a.v_strides.row + i * a.v_strides.head,
                    a.q_strides.token,
                    a.k_strides.token,
                    a.v_strides.token,
                    a.n,
                    a.D,
                    a.frame_tokens,
                    a.scale};
    const int64_t at = r * a.n * step + i * a.D;
    if (a.gradient == nullptr)
      forward_head(head, a.out + at, step);
    else
      backward_head(head, a.gradient + at, a.dq + at, a.dk + at, a.dv + at, step);
  }
}

}  // namespace

void attention(const AttentionTrainingArgs& a) {
  const int64_t useful = 1 + a.R * a.n * a.n * a.H * a.D / PRODUCTS_PER_THREAD;
  const int32_t threads = a.threads < useful ? a.threads : static_cast<int32_t>(useful);
  parallel_for(a.R, threads, window, const_cast<AttentionTrainingArgs*>(&a));
}

}  // namespace fastwm::FASTWM_ISA
