// Distance from predicted latents to the goal: one pass over the latents, bound by memory; the goal stays in L1.
// Each latent is summed by itself in one fixed order, so a cost depends on its own latents and goal alone.
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {
namespace {

constexpr int64_t NUMBERS_PER_THREAD = 262144;  // 1 MB, about 30 us from L2
constexpr int64_t CANDIDATES_PER_TASK = 16;

vf load_partial(const float* p, int64_t count) {
  float padded[LANES] = {};
  std::memcpy(padded, p, sizeof(float) * count);
  return load(padded);
}

template <Metric metric>
struct Sums {
  vf sum{};
  void add(vf z, vf goal) {
    const vf difference = z - goal;
    sum = metric == Metric::squared ? fma(difference, difference, sum) : sum + number(bits(difference) & 0x7fffffff);
  }
  static float distance(const Sums& a, const Sums& b) { return FASTWM_ISA::sum(a.sum + b.sum); }
};

template <>
struct Sums<Metric::cosine> {
  vf dot{}, z_square{}, goal_square{};
  void add(vf z, vf goal) {
    dot = fma(z, goal, dot);
    z_square = fma(z, z, z_square);
    goal_square = fma(goal, goal, goal_square);
  }
  // A zero latent has no direction: its cosine is 0, its distance 1.
  static float distance(const Sums& a, const Sums& b) {
    const float z_norm = __builtin_sqrtf(sum(a.z_square + b.z_square));
    const float goal_norm = __builtin_sqrtf(sum(a.goal_square + b.goal_square));
    return 1.0f - sum(a.dot + b.dot) / ((z_norm < 1e-8f ? 1e-8f : z_norm) * (goal_norm < 1e-8f ? 1e-8f : goal_norm));
  }
};

template <Metric metric>
float distance(const float* z, const float* goal, int64_t E) {
  Sums<metric> even, odd;  // two chains hide the latency of the sums
  int64_t e = 0;
  for (; e + 2 * LANES <= E; e += 2 * LANES) {
    even.add(load(z + e), load(goal + e));
    odd.add(load(z + e + LANES), load(goal + e + LANES));
  }
  if (e + LANES <= E) even.add(load(z + e), load(goal + e)), e += LANES;
  if (e < E) odd.add(load_partial(z + e, E - e), load_partial(goal + e, E - e));
  return Sums<metric>::distance(even, odd);
}

// z [T, E] -> one cost. A NaN at any step that is read makes the cost NaN.
template <Metric metric>
float cost_of(const GoalCostArgs& a, const float* z, const float* goal) {
  if (a.reduce == Reduce::last) return distance<metric>(z + (a.T - 1) * a.E, goal, a.E);
  float lowest = __builtin_inff(), total = 0.0f;
  for (int64_t t = 0; t < a.T; ++t) {
    const float d = distance<metric>(z + t * a.E, goal, a.E);
    total += d;
    lowest = lowest != lowest || lowest < d ? lowest : d;
  }
  return a.reduce == Reduce::min ? lowest : total / static_cast<float>(a.T);
}

template <Metric metric>
void cost_candidates(void* context, int64_t task, int32_t) {
  const GoalCostArgs& a = *static_cast<const GoalCostArgs*>(context);
  const int64_t first = task * CANDIDATES_PER_TASK, all = a.B * a.S;
  const int64_t end = first + CANDIDATES_PER_TASK < all ? first + CANDIDATES_PER_TASK : all;
  for (int64_t i = first; i < end; ++i)
    a.cost[i] = cost_of<metric>(a, a.latents + i * a.T * a.E, a.goal + i / a.S * a.E);
}

}  // namespace

void goal_cost(const GoalCostArgs& a) {
  const int64_t read = a.B * a.S * a.E * (a.reduce == Reduce::last ? 1 : a.T);
  const int64_t useful = 1 + read / NUMBERS_PER_THREAD;
  const int32_t threads = a.threads < useful ? a.threads : static_cast<int32_t>(useful);
  const int64_t tasks = (a.B * a.S + CANDIDATES_PER_TASK - 1) / CANDIDATES_PER_TASK;
  void* context = const_cast<GoalCostArgs*>(&a);
  switch (a.metric) {
    case Metric::squared:
      return parallel_for(tasks, threads, cost_candidates<Metric::squared>, context);
    case Metric::absolute:
      return parallel_for(tasks, threads, cost_candidates<Metric::absolute>, context);
    case Metric::cosine:
      return parallel_for(tasks, threads, cost_candidates<Metric::cosine>, context);
  }
}

}  // namespace fastwm::FASTWM_ISA
