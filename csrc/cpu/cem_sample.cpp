// Candidate actions: mean + std * noise, one counter per four numbers, so that a candidate is a function of (seed,
// iteration, stream, s, t, a) and of nothing else; but for the first, the mean, and those injected after it.
//
//   counter = (flat index of (t, a) / 4, s, stream[b], iteration), key = seed
//
// A vector holds LANES candidates at the same place in time: the counters differ by s alone, and every candidate's row
// of T * A numbers is written four at a time. Compiled with -ffp-contract=off, see philox.h.
#include "cpu/parallel.h"
#include "cpu/philox.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {
namespace {

constexpr int64_t NUMBERS_PER_THREAD = 32768;  // about 30 us of work, several times what waking a thread costs

// Standard normals for the candidates [first, first + count) of one environment -> rows [count, T * A].
void draw(const CemSampleArgs& a, int64_t b, int64_t first, int64_t count, float* rows) {
  const int64_t numbers = a.T * a.A;
  vu candidate;
  for (int lane = 0; lane < LANES; ++lane) candidate[lane] = static_cast<uint32_t>(first + lane);
  const uint32_t stream = static_cast<uint32_t>(a.stream ? a.stream[b] : b);
  const uint64_t seed = static_cast<uint64_t>(a.counter ? a.counter[0] : static_cast<int64_t>(a.seed));
  const uint32_t iteration = static_cast<uint32_t>(a.counter ? a.counter[1] : a.iteration);
  for (int64_t i = 0; i < numbers; i += 4) {
    vu counter[4] = {vu{} + static_cast<uint32_t>(i / 4), candidate, vu{} + stream, vu{} + iteration};
    float normals[LANES][4];
    philox_normals(counter, seed, normals);
    if (i + 4 <= numbers) {
      for (int64_t c = 0; c < count; ++c) std::memcpy(rows + c * numbers + i, normals[c], sizeof normals[c]);
    } else {
      for (int64_t c = 0; c < count; ++c)
        for (int64_t rest = i; rest < numbers; ++rest) rows[c * numbers + rest] = normals[c][rest - i];
    }
  }
}

// x_t = sum over s <= t of factor[t][s] e_s, from the last step back: in place.
void colour(const CemSampleArgs& a, float* row) {
  for (int64_t t = a.T - 1; t >= 0; --t)
    for (int64_t i = 0; i < a.A; ++i) {
      float sum = a.factor[t * a.T] * row[i];
      for (int64_t s = 1; s <= t; ++s) sum = sum + a.factor[t * a.T + s] * row[s * a.A + i];
      row[t * a.A + i] = sum;
    }
}

// A NaN stays a NaN.
void clip(const CemSampleArgs& a, float* row) {
  if (a.low)
    for (int64_t i = 0; i < a.T * a.A; ++i) row[i] = row[i] < a.low[i] ? a.low[i] : row[i];
  if (a.high)
    for (int64_t i = 0; i < a.T * a.A; ++i) row[i] = row[i] > a.high[i] ? a.high[i] : row[i];
}

// What takes the place of candidate s's draw: [T, A], or null.
const float* replacement(const CemSampleArgs& a, int64_t b, int64_t s) {
  const int64_t numbers = a.T * a.A;
  if (s == 0) return a.mean + b * numbers;
  return a.injected && s <= a.I ? a.injected + (b * a.I + s - 1) * numbers : nullptr;
}

int64_t groups(const CemSampleArgs& a) { return (a.S + LANES - 1) / LANES; }

// LANES candidates of one environment.
void sample_group(void* context, int64_t index, int32_t) {
  const CemSampleArgs& a = *static_cast<const CemSampleArgs*>(context);
  const int64_t numbers = a.T * a.A, b = index / groups(a), first = index % groups(a) * LANES;
  const int64_t count = a.S - first < LANES ? a.S - first : LANES;
  const float* mean = a.mean + b * numbers;
  const float* std = a.std + b * numbers;
  float* rows = a.actions + (b * a.S + first) * numbers;
  if (a.noise)
    std::memcpy(rows, a.noise + (b * a.S + first) * numbers, sizeof(float) * count * numbers);
  else
    draw(a, b, first, count, rows);
  for (int64_t c = 0; c < count; ++c) {
    float* row = rows + c * numbers;
    if (const float* given = replacement(a, b, first + c)) {
      std::memcpy(row, given, sizeof(float) * numbers);
    } else {
      if (a.factor) colour(a, row);
      for (int64_t i = 0; i < numbers; ++i) row[i] = mean[i] + std[i] * row[i];
    }
    clip(a, row);
  }
}

}  // namespace

void cem_sample(const CemSampleArgs& a) {
  const int64_t useful = 1 + a.B * a.S * a.T * a.A / NUMBERS_PER_THREAD;
  const int32_t threads = a.threads < useful ? a.threads : static_cast<int32_t>(useful);
  parallel_for(a.B * groups(a), threads, sample_group, const_cast<CemSampleArgs*>(&a));
}

}  // namespace fastwm::FASTWM_ISA
