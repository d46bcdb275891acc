// Small kernels, each with one fault that tests/gpu/test_emulation.py expects to be found, beside their correct twins.
// One block of n threads unless said otherwise; x is read, y is written, both hold n floats.
#include "faults.h"

#include <map>

#include "cuda/cuda.h"

using namespace fastwm;

namespace {

// ---- barriers

// y[i] = x[n - 1 - i] through shared memory.
template <bool barrier>
__global__ void reversed(const float* x, float* y, int n) {
  FASTWM_SHARED(float, s, [1024]);
  const int i = threadIdx.x;
  s[i] = x[i];
  if (barrier) __syncthreads();
  y[i] = s[n - 1 - i];
}

// y[i] = x[i ^ 1] through shared memory, within a warp.
template <bool barrier>
__global__ void swapped(const float* x, float* y, int) {
  FASTWM_SHARED(float, s, [1024]);
  const int i = threadIdx.x;
  s[i] = x[i];
  if (barrier)
    __syncwarp();
  else
    __shfl_sync(ALL_LANES, x[i], 0);  // brings the lanes together, but orders no memory
  y[i] = s[i ^ 1];
}

__global__ void barrier_of_some(const float* x, float* y, int) {
  if (threadIdx.x < 16) __syncthreads();
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void two_barriers(const float* x, float* y, int) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void barrier_or_shuffle(const float* x, float* y, int) {
  float mine = x[threadIdx.x];
  if (threadIdx.x < 16)
    __syncwarp();
  else
    mine = __shfl_sync(ALL_LANES, mine, 0);
  y[threadIdx.x] = mine;
}

// ---- collectives

__global__ void shuffle_without_half(const float* x, float* y, int) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(ALL_LANES, x[threadIdx.x], 1);
}

__global__ void shuffle_of_absent_lane(const float* x, float* y, int) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0x0000ffffu, x[threadIdx.x], 20);
}

__global__ void outside_of_its_mask(const float* x, float* y, int) {
  y[threadIdx.x] = __shfl_sync(0x0000ffffu, x[threadIdx.x], 0);
}

// ---- between blocks: y[0] = sum of x, of which a block has four numbers

__global__ void added_unordered(const float* x, float* y, int) {
  for (int i = 0; i < 4; ++i) y[0] += x[4 * blockIdx.x + i];
}

__global__ void added_atomically(const float* x, float* y, int) {
  atomicAdd(y, x[4 * blockIdx.x] + x[4 * blockIdx.x + 1] + x[4 * blockIdx.x + 2] + x[4 * blockIdx.x + 3]);
}

// Each block leaves its part in y[1 + block]; the last one to arrive, counted in y[1 + blocks], adds the parts.
template <bool ordered>
__global__ void added_by_the_last(const float* x, float* y, int) {
  const float* mine = x + 4 * blockIdx.x;
  y[1 + blockIdx.x] = mine[0] + mine[1] + mine[2] + mine[3];
  uint32_t* arrived = reinterpret_cast<uint32_t*>(y + 1 + gridDim.x);
  const uint32_t before = ordered ? add_acquire_release(arrived, 1) : atomicAdd(arrived, 1u);
  if (before + 1 < gridDim.x) return;
  float sum = 0.0f;
  for (unsigned b = 0; b < gridDim.x; ++b) sum += y[1 + b];
  y[0] = sum;
}

// ---- memory

__global__ void past_the_end(const float* x, float* y, int n) { y[threadIdx.x] = x[threadIdx.x + n / 2]; }

__global__ void past_shared(const float* x, float* y, int n) {
  FASTWM_SHARED(float, s, [64]);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x + (n > 32 ? 1 : 0)];
}

__global__ void past_dynamic(const float* x, float* y, int n) {
  FASTWM_SHARED_DYNAMIC(float, s, n);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x + 1];
}

__global__ void past_registers(const float* x, float* y, int n) {
  float mine[4] = {x[0], x[1], x[2], x[3]};
  y[threadIdx.x] = mine[threadIdx.x % (n > 4 ? 5 : 4)];
}

__global__ void misaligned(const float* x, float* y, int) {
  const float4 four = *reinterpret_cast<const float4*>(x + 1);
  y[threadIdx.x] = four.x + four.w;
}

__global__ void unwritten(const float* x, float* y, int) {
  FASTWM_SHARED(float, s, [64]);
  if (threadIdx.x) s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

__global__ void dynamic_of_too_many(const float*, float*, int n) {
  FASTWM_SHARED_DYNAMIC(float, s, n + 1);
  s[threadIdx.x] = 0.0f;
}

__global__ void too_much_shared(const float*, float*, int) {
  FASTWM_SHARED(float, s, [26 * 1024]);
  s[threadIdx.x] = 0.0f;
}

// ---- correct

// Rows of 8: result r of thread i is y[8 i + r].
__global__ void collectives(const float* x, float* y, int) {
  const int i = threadIdx.x;
  const float mine = x[i];
  y += 8 * i;
  y[0] = __shfl_up_sync(ALL_LANES, mine, 3);
  y[1] = __shfl_down_sync(ALL_LANES, mine, 5, 16);
  y[2] = __shfl_xor_sync(ALL_LANES, mine, 9, 8);
  y[3] = __shfl_sync(ALL_LANES, mine, i + 1, 4);
  y[4] = static_cast<float>(__popc(__ballot_sync(ALL_LANES, mine > 0.0f)));
  y[5] = static_cast<float>(__popc(__match_any_sync(ALL_LANES, i % 5)));
  y[6] = static_cast<float>(__syncthreads_count(mine > 0.0f));
  y[7] = static_cast<float>(i % 32 < 16 ? __shfl_sync(0x0000ffffu, static_cast<double>(mine), 2)
                                        : static_cast<double>(__any_sync(0xffff0000u, mine > 2.0f)));
}

// x holds A [16, 16] and B^T [8, 16] as floats; y [16, 8] = A B, by one warp.
__global__ void product(const float* x, float* y, int) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  const auto pair = [&](int row, int k) { return pack_bf16(x[row * 16 + k], x[row * 16 + k + 1]); };
  const uint32_t a[4] = {pair(g, 2 * t), pair(g + 8, 2 * t), pair(g, 2 * t + 8), pair(g + 8, 2 * t + 8)};
  const uint32_t b[2] = {pair(16 + g, 2 * t), pair(16 + g, 2 * t + 8)};
  float d[4] = {};
  mma_m16n8k16_bf16(d, a, b);
  y[g * 8 + 2 * t] = d[0], y[g * 8 + 2 * t + 1] = d[1];
  y[(g + 8) * 8 + 2 * t] = d[2], y[(g + 8) * 8 + 2 * t + 1] = d[3];
}

struct Kernel {
  void (*kernel)(const float*, float*, int);
  int blocks;    // 0: one of n threads; else so many of one thread
  bool dynamic;  // n floats of shared memory
};

const std::map<std::string, Kernel>& kernels() {
  static const std::map<std::string, Kernel> all = {
      {"reversed", {reversed<true>, 0, false}},
      {"reversed_without_barrier", {reversed<false>, 0, false}},
      {"swapped", {swapped<true>, 0, false}},
      {"swapped_without_barrier", {swapped<false>, 0, false}},
      {"barrier_of_some", {barrier_of_some, 0, false}},
      {"two_barriers", {two_barriers, 0, false}},
      {"barrier_or_shuffle", {barrier_or_shuffle, 0, false}},
      {"shuffle_without_half", {shuffle_without_half, 0, false}},
      {"shuffle_of_absent_lane", {shuffle_of_absent_lane, 0, false}},
      {"outside_of_its_mask", {outside_of_its_mask, 0, false}},
      {"added_unordered", {added_unordered, 4, false}},
      {"added_atomically", {added_atomically, 4, false}},
      {"added_by_the_last", {added_by_the_last<true>, 4, false}},
      {"added_by_the_last_unordered", {added_by_the_last<false>, 4, false}},
      {"past_the_end", {past_the_end, 0, false}},
      {"past_shared", {past_shared, 0, false}},
      {"past_dynamic", {past_dynamic, 0, true}},
      {"past_registers", {past_registers, 0, false}},
      {"misaligned", {misaligned, 0, false}},
      {"unwritten", {unwritten, 0, false}},
      {"dynamic_of_too_many", {dynamic_of_too_many, 0, true}},
      {"too_much_shared", {too_much_shared, 0, false}},
      {"collectives", {collectives, 0, false}},
      {"product", {product, 0, false}},
  };
  return all;
}

}  // namespace

void run(const std::string& name, const float* x, float* y, int n) {
  const Kernel& k = kernels().at(name);
  const auto kernel = k.kernel;
  const size_t bytes = k.dynamic ? n * sizeof(float) : 0;
  FASTWM_LAUNCH(kernel, dim3(k.blocks ? k.blocks : 1), dim3(k.blocks ? 1 : n), bytes, nullptr, x, y, n);
}
