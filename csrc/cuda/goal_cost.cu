// Distance from predicted latents to the goal on a GPU: one pass over the latents, bound by memory.
//
// A warp has a candidate, so that 300 of them already are work for a whole GPU, and nothing is shared between warps: no
// barrier, no shared memory. Lane l adds up the numbers 4 l .. 4 l + 3 of every 128, in four chains, with one 16-byte
// load where E and the addresses allow it; where they do not, the same numbers come one at a time and are added in the
// same order, so a cost is a function of its own latents and goal, wherever they lie. The lanes' sums meet in a
// butterfly. The goal is read again for each candidate and step; it stays in L1. Several candidates in a warp (E below
// 128) would save loads that cost nothing next to starting the kernel.
#include "cuda/kernels.h"

namespace fastwm {
namespace {

constexpr int WARPS = 4;  // of a block; they have nothing in common

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int distance = WARP / 2; distance; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
  return x;
}

template <Metric metric>
struct Sums {
  float sum = 0.0f;
  __device__ __forceinline__ void add(float z, float goal) {
    const float difference = z - goal;
    sum = metric == Metric::squared ? fmaf(difference, difference, sum) : sum + fabsf(difference);
  }
  __device__ __forceinline__ static float distance(const Sums (&c)[4]) {
    return warp_sum((c[0].sum + c[1].sum) + (c[2].sum + c[3].sum));
  }
};

template <>
struct Sums<Metric::cosine> {
  float dot = 0.0f, z_square = 0.0f, goal_square = 0.0f;
  __device__ __forceinline__ void add(float z, float goal) {
    dot = fmaf(z, goal, dot);
    z_square = fmaf(z, z, z_square);
    goal_square = fmaf(goal, goal, goal_square);
  }
  // A zero latent has no direction: its cosine is 0, its distance 1.
  __device__ __forceinline__ static float distance(const Sums (&c)[4]) {
    const float z = sqrtf(warp_sum((c[0].z_square + c[1].z_square) + (c[2].z_square + c[3].z_square)));
    const float goal = sqrtf(warp_sum((c[0].goal_square + c[1].goal_square) + (c[2].goal_square + c[3].goal_square)));
    const float product = warp_sum((c[0].dot + c[1].dot) + (c[2].dot + c[3].dot));
    return 1.0f - product / ((z < 1e-8f ? 1e-8f : z) * (goal < 1e-8f ? 1e-8f : goal));
  }
};

// The numbers e .. e + 3 of a latent [E]; zeros past its end.
template <bool aligned>
__device__ __forceinline__ float4 load(const float* x, int64_t e, int64_t E) {
  if (aligned) return *reinterpret_cast<const float4*>(x + e);
  float4 four;
  four.x = x[e];
  four.y = e + 1 < E ? x[e + 1] : 0.0f;
  four.z = e + 2 < E ? x[e + 2] : 0.0f;
  four.w = e + 3 < E ? x[e + 3] : 0.0f;
  return four;
}

template <Metric metric, bool aligned>
__device__ __forceinline__ float distance(const float* latent, const float* goal, int64_t E, int lane) {
  Sums<metric> chain[4];
  for (int64_t e = 4 * lane; e < E; e += 4 * WARP) {
    const float4 z = load<aligned>(latent, e, E), g = load<aligned>(goal, e, E);
    chain[0].add(z.x, g.x);
    chain[1].add(z.y, g.y);
    chain[2].add(z.z, g.z);
    chain[3].add(z.w, g.w);
  }
  return Sums<metric>::distance(chain);
}

}  // namespace

// A NaN at any step that is read makes the cost NaN.
template <Metric metric, bool aligned>
__global__ void __launch_bounds__(WARPS* WARP) goal_cost_kernel(const GoalCostArgs a) {
  const int lane = threadIdx.x % WARP;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / WARP;  // b * S + s
  if (i >= a.B * a.S) return;
  const float* latents = a.latents + i * a.T * a.E;
  const float* goal = a.goal + i / a.S * a.E;
  float last = 0.0f, total = 0.0f, lowest = 0.0f;
  for (int64_t t = a.reduce == Reduce::last ? a.T - 1 : 0; t < a.T; ++t) {
    last = distance<metric, aligned>(latents + t * a.E, goal, a.E, lane);
    total += last;
    lowest = t == 0 || !(lowest != lowest || lowest < last) ? last : lowest;
  }
  if (lane == 0)
    a.cost[i] = a.reduce == Reduce::last ? last : a.reduce == Reduce::min ? lowest : total / static_cast<float>(a.T);
}

namespace {

template <Metric metric>
void start(const GoalCostArgs& a, cudaStream_t stream) {
  const unsigned int grid = blocks("goal_cost", (a.B * a.S + WARPS - 1) / WARPS);
  const uintptr_t address = reinterpret_cast<uintptr_t>(a.latents) | reinterpret_cast<uintptr_t>(a.goal);
  if (a.E % 4 == 0 && address % sizeof(float4) == 0)
    FASTWM_LAUNCH((goal_cost_kernel<metric, true>), grid, WARPS * WARP, 0, stream, a);
  else
    FASTWM_LAUNCH((goal_cost_kernel<metric, false>), grid, WARPS * WARP, 0, stream, a);
}

}  // namespace

void goal_cost(const GoalCostArgs& a, cudaStream_t stream) {
  switch (a.metric) {
    case Metric::squared:
      return start<Metric::squared>(a, stream);
    case Metric::absolute:
      return start<Metric::absolute>(a, stream);
    case Metric::cosine:
      return start<Metric::cosine>(a, stream);
  }
}

}  // namespace fastwm
