// The OpenMP that PyTorch brought into the process, if it did.
#pragma once
#include <cstdint>

namespace fastwm {

// As parallel_for (parallel.h), on OpenMP's threads. False, and nothing done, where PyTorch does not work on `threads`
// of them.
bool parallel_for_openmp(int64_t count, int32_t threads, void (*task)(void* context, int64_t index, int32_t worker),
                         void* context);

}  // namespace fastwm
