// Small kernels, most with one fault that tests/gpu/test_emulation.py expects to be found. One block of `n` threads
// unless said otherwise; x and y hold n floats.
#include <functional>
#include <map>

#include "cuda/cuda.h"

using namespace fastwm;

namespace {

// y[i] = x[n - 1 - i] through shared memory.
template <bool BARRIER>
__global__ void reversed(const float* x, float* y, int n) {
  FASTWM_SHARED(float, s, [1024]);
  const int i = threadIdx.x;
  s[i] = x[i];
  if (BARRIER) __syncthreads();
  y[i] = s[n - 1 - i];
}

void run_reversed(float* x, float* y, int64_t n) {
  FASTWM_LAUNCH(reversed<true>, dim3(1), dim3(n), 0, nullptr, x, y, static_cast<int>(n));
}
void run_reversed_without_barrier(float* x, float* y, int64_t n) {
  FASTWM_LAUNCH(reversed<false>, dim3(1), dim3(n), 0, nullptr, x, y, static_cast<int>(n));
}

}  // namespace

void run_fault(const std::string& name, float* x, float* y, int64_t n) {
  static const std::map<std::string, void (*)(float*, float*, int64_t)> kernels = {
      {"reversed", run_reversed},
      {"reversed_without_barrier", run_reversed_without_barrier},
  };
  kernels.at(name)(x, y, n);
}
