// Refit of the sampling distribution to the elites, the candidates of lowest cost.
//
// The elites are kept in a heap with the worst on top (S comparisons and a few swaps; a full sort is not needed), then
// sorted in place. Their statistics are summed in double, best elite first, and rounded once: exact enough that mean
// and std are the same bits on every instruction set and in fastwm/reference/cem_update.py (compiled with
// -ffp-contract=off).
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {
namespace {

constexpr int64_t OPERATIONS_PER_THREAD = 65536;  // about 30 us
constexpr int64_t COLUMNS = 64;                   // numbers of an action sequence whose sums are kept at once

// Non-finite costs count as worst; equal costs are ranked by index.
bool worse(const float* cost, int64_t i, int64_t j) {
  const float ci = __builtin_isfinite(cost[i]) ? cost[i] : __builtin_inff();
  const float cj = __builtin_isfinite(cost[j]) ? cost[j] : __builtin_inff();
  return ci > cj || (ci == cj && i > j);
}

void sift_down(const float* cost, int64_t* heap, int64_t size, int64_t root) {
  for (int64_t child; (child = 2 * root + 1) < size; root = child) {
    if (child + 1 < size && worse(cost, heap[child + 1], heap[child])) ++child;
    if (!worse(cost, heap[child], heap[root])) return;
    const int64_t swapped = heap[root];
    heap[root] = heap[child], heap[child] = swapped;
  }
}

// cost [S] -> elites [count], best first.
void select(const float* cost, int64_t S, int64_t* elites, int64_t count) {
  for (int64_t i = 0; i < count; ++i) elites[i] = i;
  for (int64_t root = count / 2; root-- > 0;) sift_down(cost, elites, count, root);
  for (int64_t s = count; s < S; ++s)
    if (worse(cost, elites[0], s)) elites[0] = s, sift_down(cost, elites, count, 0);
  for (int64_t size = count; size-- > 1;) {
    const int64_t worst = elites[0];
    elites[0] = elites[size], elites[size] = worst;
    sift_down(cost, elites, size, 0);
  }
}

// Mean cost of the finite elites, infinity if there is none.
float mean_cost(const float* cost, const int64_t* elites, int64_t count) {
  double sum = 0.0;
  int64_t finite = 0;
  for (int64_t i = 0; i < count; ++i)
    if (__builtin_isfinite(cost[elites[i]])) sum += static_cast<double>(cost[elites[i]]), ++finite;
  return finite ? static_cast<float>(sum / static_cast<double>(finite)) : __builtin_inff();
}

// The numbers [first, first + width) of the sequences of one environment: actions [S, T * A].
void refit(const CemUpdateArgs& a, int64_t b, int64_t first, int64_t width) {
  const int64_t numbers = a.T * a.A, k = a.elite_count;
  const float* actions = a.actions + b * a.S * numbers + first;
  const int64_t* elites = a.elites + b * k;
  double mean[COLUMNS] = {}, square[COLUMNS] = {};
  for (int64_t e = 0; e < k; ++e)
    for (int64_t i = 0; i < width; ++i) mean[i] += static_cast<double>(actions[elites[e] * numbers + i]);
  for (int64_t i = 0; i < width; ++i) mean[i] /= static_cast<double>(k);
  for (int64_t e = 0; e < k; ++e)
    for (int64_t i = 0; i < width; ++i) {
      const double difference = static_cast<double>(actions[elites[e] * numbers + i]) - mean[i];
      square[i] += difference * difference;
    }
  const double degrees = k > 1 ? static_cast<double>(k - 1) : 1.0;  // one elite: the sum of squares is 0, so is its std
  for (int64_t i = 0; i < width; ++i) {
    const int64_t at = b * numbers + first + i;
    const double std =
        a.momentum * static_cast<double>(a.old_std[at]) + (1.0 - a.momentum) * __builtin_sqrt(square[i] / degrees);
    a.mean[at] = static_cast<float>(a.momentum * static_cast<double>(a.old_mean[at]) + (1.0 - a.momentum) * mean[i]);
    a.std[at] = static_cast<float>(std < a.min_std ? a.min_std : std);
  }
}

// The best candidate of all iterations so far.
void keep_best(const CemUpdateArgs& a, int64_t b) {
  const int64_t numbers = a.T * a.A, first = a.elites[b * a.elite_count];
  const float cost = a.cost[b * a.S + first];
  const bool better = __builtin_isfinite(cost) && cost < a.old_best_cost[b];
  a.best_cost[b] = better ? cost : a.old_best_cost[b];
  std::memcpy(a.best_actions + b * numbers,
              better ? a.actions + (b * a.S + first) * numbers : a.old_best_actions + b * numbers,
              sizeof(float) * numbers);
}

void update_environment(void* context, int64_t b, int32_t) {
  const CemUpdateArgs& a = *static_cast<const CemUpdateArgs*>(context);
  const float* cost = a.cost + b * a.S;
  int64_t non_finite = 0;
  for (int64_t s = 0; s < a.S; ++s) non_finite += !__builtin_isfinite(cost[s]);
  a.non_finite[b] = non_finite;
  select(cost, a.S, a.elites + b * a.elite_count, a.elite_count);
  a.elite_cost[b] = mean_cost(cost, a.elites + b * a.elite_count, a.elite_count);
  for (int64_t first = 0; first < a.T * a.A; first += COLUMNS)
    refit(a, b, first, a.T * a.A - first < COLUMNS ? a.T * a.A - first : COLUMNS);
  if (a.old_best_cost) keep_best(a, b);
}

}  // namespace

void cem_update(const CemUpdateArgs& a) {
  const int64_t useful = 1 + a.B * (4 * a.S + a.elite_count * a.T * a.A) / OPERATIONS_PER_THREAD;
  const int32_t threads = a.threads < useful ? a.threads : static_cast<int32_t>(useful);
  parallel_for(a.B, threads, update_environment, const_cast<CemUpdateArgs*>(&a));
}

}  // namespace fastwm::FASTWM_ISA
