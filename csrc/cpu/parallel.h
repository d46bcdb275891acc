// Threads and their clock: the only header that knows about them.
#pragma once
#include <cstdint>

namespace fastwm {

// Calls task(context, index, worker) for index in [0, count), each exactly once, on up to `threads` threads with worker
// in [0, threads). Callers on different threads are served one after another, those that get PyTorch's threads and
// those that get our own apart; a forked child starts its own. Which worker takes which index is not fixed: results
// must not depend on it.
void parallel_for(int64_t count, int32_t threads, void (*task)(void* context, int64_t index, int32_t worker),
                  void* context);

// Nanoseconds of a clock that never goes back, from an unknown start.
int64_t monotonic_now();

}  // namespace fastwm
