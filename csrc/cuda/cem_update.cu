// Refit of the sampling distribution to the elites on a GPU: the bits of csrc/cpu/cem_update.cpp, in one launch.
//
// A block has 32 numbers of the action sequences of one environment and finds the environment's elites by itself: all
// blocks of an environment do the same work to find them, and no block waits for another.
//
// Finding them is sorting. A candidate is a 64-bit key, its cost made an ordered integer above its index: no two keys
// are equal, so ties go by index and the result does not depend on how they are compared. Every thread holds one key of
// a chunk of as many candidates (four where more than 1024 elites are wanted), the block sorts the chunk by Batcher's
// bitonic network ("Sorting networks and their applications", AFIPS 1968), and the lower half of the best so far and
// the chunk, elementwise, is a bitonic sequence that one more merge sorts. Up to 1024 candidates are one chunk. Steps
// between keys at most 16 apart are shuffles, in registers; wider ones go through shared memory, whose accesses are
// consecutive. Instead, by counted steps, nothing was timed on a GPU: selecting by radix reads S costs four to eight
// times and needs atomics to count and to compact; it takes fewer steps where S is thousands.
// Ranking every key against all others is S * S comparisons: 3 times as many at S = 300, 75 times at S = 5000.
//
// Sums are doubles, best elite first, one thread a number, as in the reference: the order is part of the bits. All
// warps bring the elites' numbers to shared memory, one adds them up; 64 elites are brought once for mean and std.
//
// Compiled with -fmad=false: fused products are other bits.
#include "cuda/kernels.h"

namespace fastwm {
namespace {

constexpr int MOST_THREADS = 1024;
constexpr int MOST_ITEMS = 4;  // keys of a thread; 4 * 1024 keys are 32 KB of shared memory
constexpr int ROWS = 64;       // elites whose numbers are brought at once, 8 KB
constexpr uint64_t NO_KEY = ~0ull;
constexpr uint32_t INFINITE = 0xff800000u;  // of cost

// A float's order as an unsigned integer's; infinity for all that is not finite, and one zero.
__device__ __forceinline__ uint32_t order_of(float cost) {
  uint32_t bits;
  memcpy(&bits, &cost, sizeof bits);
  if ((bits & 0x7f800000u) == 0x7f800000u) return INFINITE;
  if (cost == 0.0f) return 0x80000000u;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float cost_of(uint32_t order) {
  const uint32_t bits = order & 0x80000000u ? order & 0x7fffffffu : ~order;
  float cost;
  memcpy(&cost, &bits, sizeof cost);
  return cost;
}

__device__ __forceinline__ uint32_t order_in(uint64_t key) { return static_cast<uint32_t>(key >> 32); }
__device__ __forceinline__ int64_t index_in(uint64_t key) { return static_cast<int64_t>(key & 0xffffffffu); }

// Of a key and its partner, the one that belongs here.
__device__ __forceinline__ uint64_t kept(uint64_t key, uint64_t partner, bool lower) {
  return (key < partner) == lower ? key : partner;
}

// One step of a bitonic network over keys [blockDim.x * ITEMS], of which thread t holds number m * blockDim.x + t as
// key[m]: keys `stride` apart are put in order, upwards in those stretches of length `size` where `size` is in the
// number if `falling`, everywhere if not.
template <int ITEMS>
__device__ __forceinline__ void step(uint64_t (&key)[ITEMS], uint64_t* shared, unsigned size, unsigned stride,
                                     bool falling) {
  const unsigned threads = blockDim.x, t = threadIdx.x;
  uint64_t partner[ITEMS];
  if (stride >= threads) {
#pragma unroll
    for (int apart = 1; apart < ITEMS; apart *= 2)
      if (stride == apart * threads)
#pragma unroll
        for (int m = 0; m < ITEMS; ++m) partner[m] = key[m ^ apart];
  } else if (stride < WARP) {
#pragma unroll
    for (int m = 0; m < ITEMS; ++m) partner[m] = __shfl_xor_sync(ALL_LANES, key[m], static_cast<int>(stride));
  } else {
#pragma unroll
    for (int m = 0; m < ITEMS; ++m) shared[m * threads + t] = key[m];
    __syncthreads();
#pragma unroll
    for (int m = 0; m < ITEMS; ++m) partner[m] = shared[m * threads + (t ^ stride)];
    __syncthreads();
  }
#pragma unroll
  for (int m = 0; m < ITEMS; ++m) {
    const unsigned i = m * threads + t;
    const bool up = !falling || (i & size) != 0;
    key[m] = kept(key[m], partner[m], ((i & stride) == 0) == up);
  }
}

// cost [S] -> keys of the best `blockDim.x * ITEMS` candidates in shared memory, best first; how many of the costs that
// this thread has seen were not finite.
template <int ITEMS>
__device__ int64_t select(const float* cost, int64_t S, uint64_t* shared) {
  const unsigned threads = blockDim.x, count = threads * ITEMS;
  int64_t non_finite = 0;
  uint64_t best[ITEMS];
#pragma unroll
  for (int m = 0; m < ITEMS; ++m) best[m] = NO_KEY;
  for (int64_t chunk = 0; chunk < S; chunk += count) {
    uint64_t key[ITEMS];
#pragma unroll
    for (int m = 0; m < ITEMS; ++m) {
      const int64_t s = chunk + m * threads + threadIdx.x;
      const uint32_t order = s < S ? order_of(cost[s]) : 0;
      key[m] = s < S ? static_cast<uint64_t>(order) << 32 | static_cast<uint64_t>(s) : NO_KEY;
      non_finite += order == INFINITE;
    }
    for (unsigned size = 2; size <= count; size *= 2)
      for (unsigned stride = size / 2; stride; stride /= 2) step<ITEMS>(key, shared, size, stride, true);
#pragma unroll
    for (int m = 0; m < ITEMS; ++m) best[m] = kept(best[m], key[m], true);  // one rises, the other falls
    for (unsigned stride = count / 2; stride; stride /= 2) step<ITEMS>(best, shared, count, stride, false);
  }
#pragma unroll
  for (int m = 0; m < ITEMS; ++m) shared[m * threads + threadIdx.x] = best[m];
  __syncthreads();
  return non_finite;
}

// The elites from `first` on, at most ROWS: their numbers [T * A] from `column` on -> tile.
__device__ __forceinline__ void bring(const CemUpdateArgs& a, const uint64_t* elites, int64_t b, int64_t first,
                                      int64_t column, float (*tile)[WARP]) {
  const int64_t numbers = a.T * a.A;
  const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  const int rows = static_cast<int>(a.elite_count - first < ROWS ? a.elite_count - first : ROWS);
  for (int r = threadIdx.x / WARP; r < rows; r += warps)
    tile[r][lane] =
        column + lane < numbers ? a.actions[(b * a.S + index_in(elites[first + r])) * numbers + column + lane] : 0.0f;
}

// Mean cost of the finite elites, infinity if there is none.
__device__ float mean_cost(const uint64_t* elites, int64_t count) {
  double sum = 0.0;
  int64_t finite = 0;
  for (; finite < count && order_in(elites[finite]) != INFINITE; ++finite)
    sum += static_cast<double>(cost_of(order_in(elites[finite])));
  return finite ? static_cast<float>(sum / static_cast<double>(finite)) : cost_of(INFINITE);
}

}  // namespace

template <int ITEMS>
__global__ void __launch_bounds__(MOST_THREADS, 1) cem_update_kernel(const CemUpdateArgs a) {
  FASTWM_SHARED(uint64_t, elites, [MOST_THREADS * ITEMS]);
  FASTWM_SHARED(float, tile, [ROWS][WARP]);
  FASTWM_SHARED(int, non_finite, [1]);
  const int64_t numbers = a.T * a.A, k = a.elite_count, tiles = (numbers + WARP - 1) / WARP;
  const int64_t b = blockIdx.x / tiles, column = blockIdx.x % tiles * WARP;
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

  if (threadIdx.x == 0) non_finite[0] = 0;
  __syncthreads();
  const int64_t seen = select<ITEMS>(a.cost + b * a.S, a.S, elites);
  if (seen) atomicAdd(&non_finite[0], static_cast<int>(seen));

  double mean = 0.0, square = 0.0;  // of the first warp's threads, each of its number
  for (int64_t first = 0; first < k; first += ROWS) {
    if (first) __syncthreads();  // the last rows have been added
    bring(a, elites, b, first, column, tile);
    __syncthreads();
    if (warp == 0)
      for (int64_t e = first; e < k && e < first + ROWS; ++e) mean += static_cast<double>(tile[e - first][lane]);
  }
  mean /= static_cast<double>(k);
  for (int64_t first = 0; first < k; first += ROWS) {
    if (k > ROWS) {
      __syncthreads();
      bring(a, elites, b, first, column, tile);
      __syncthreads();
    }
    if (warp == 0)
      for (int64_t e = first; e < k && e < first + ROWS; ++e) {
        const double difference = static_cast<double>(tile[e - first][lane]) - mean;
        square += difference * difference;
      }
  }

  // What is written once for an environment; the last thread sums while the first warp does.
  if (column == 0) {
    for (int64_t e = threadIdx.x; e < k; e += blockDim.x) a.elites[b * k + e] = index_in(elites[e]);
    if (threadIdx.x == blockDim.x - 1) {
      a.elite_cost[b] = mean_cost(elites, k);
      a.non_finite[b] = non_finite[0];
    }
  }
  if (warp != 0 || column + lane >= numbers) return;

  const int64_t at = b * numbers + column + lane;
  const double degrees = k > 1 ? static_cast<double>(k - 1) : 1.0;  // one elite: the sum of squares is 0, so is its std
  const double std = a.momentum * static_cast<double>(a.old_std[at]) + (1.0 - a.momentum) * sqrt(square / degrees);
  a.mean[at] = static_cast<float>(a.momentum * static_cast<double>(a.old_mean[at]) + (1.0 - a.momentum) * mean);
  a.std[at] = static_cast<float>(std < a.min_std ? a.min_std : std);
  if (a.old_best_cost) {
    const int64_t candidate = b * a.S + index_in(elites[0]);
    const float cost = a.cost[candidate], old = a.old_best_cost[b];
    const bool better = order_in(elites[0]) != INFINITE && cost < old;
    a.best_actions[at] = better ? a.actions[candidate * numbers + column + lane] : a.old_best_actions[at];
    if (column + lane == 0) a.best_cost[b] = better ? cost : old;
  }
}

void cem_update(const CemUpdateArgs& a, cudaStream_t stream) {
  const int64_t k = a.elite_count;
  if (k > MOST_THREADS * MOST_ITEMS)
    throw std::invalid_argument("cem_update: elite_count is " + std::to_string(k) + ", expected at most " +
                                std::to_string(MOST_THREADS * MOST_ITEMS) + " on a GPU");
  const unsigned int grid = blocks("cem_update", a.B * ((a.T * a.A + WARP - 1) / WARP));
  int threads = WARP;  // a power of two, enough for all candidates where it can be
  while (threads < MOST_THREADS && threads < a.S) threads *= 2;
  if (k <= MOST_THREADS)
    FASTWM_LAUNCH((cem_update_kernel<1>), grid, threads, 0, stream, a);
  else
    FASTWM_LAUNCH((cem_update_kernel<MOST_ITEMS>), grid, threads, 0, stream, a);
}

}  // namespace fastwm
