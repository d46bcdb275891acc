// Kernels that the gate on machine code must refuse, and one that it must pass.
#include <cuda_runtime.h>

extern "C" __global__ void __launch_bounds__(128) right(const float* x, float* y) {
  __shared__ float tile[32][33];
  tile[threadIdx.x / 32][threadIdx.x % 32] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x % 32][threadIdx.x / 32];
}

// An array that is indexed by a number unknown when compiled lies in local memory.
extern "C" __global__ void __launch_bounds__(128) array(const float* x, float* y, int n) {
  float held[64] = {};
  for (int i = 0; i < n; ++i) held[(i * n) % 64] += x[i];
  for (int i = 0; i < n; ++i) y[i] = held[(i * 7) % 64];
}

extern "C" __global__ void unbounded(float* y) { y[threadIdx.x] = 1.0f; }

// A column of a tile whose rows are 32 words apart: all lanes meet in one bank.
extern "C" __global__ void __launch_bounds__(32) column(const float* x, float* y) {
  __shared__ float tile[32][32];
  for (int i = 0; i < 32; ++i) tile[i][threadIdx.x] = x[i * 32 + threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 32; ++i) y[i * 32 + threadIdx.x] = tile[threadIdx.x][i];
}
