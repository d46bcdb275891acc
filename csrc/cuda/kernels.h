// The kernels of csrc/ops.h on a GPU: each starts work on a stream of the current device and returns. They throw
// std::invalid_argument for sizes that a kernel has no room for and std::runtime_error for what CUDA refuses.
#pragma once
#include <stdexcept>
#include <string>

#include "cuda/cuda.h"
#include "ops.h"

namespace fastwm {

constexpr int64_t MOST_BLOCKS = 0x7fffffff;  // of a one-dimensional grid

// The grid for so many blocks.
inline unsigned int blocks(const char* kernel, int64_t count) {
  if (count > MOST_BLOCKS) throw std::invalid_argument(std::string(kernel) + ": more than 2^31 - 1 blocks of work");
  return static_cast<unsigned int>(count);
}

void cem_sample(const CemSampleArgs& a, cudaStream_t stream);
void attention(const AttentionArgs& a, cudaStream_t stream);
void goal_cost(const GoalCostArgs& a, cudaStream_t stream);
void cem_update(const CemUpdateArgs& a, cudaStream_t stream);

}  // namespace fastwm
