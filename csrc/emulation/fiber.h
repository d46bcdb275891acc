// A CUDA thread's stack, where it stopped on it, and what the sanitizers want to know about both.
//
// One scheduler at a time runs fibers. Switching orders nothing for the race detector: what does order, says so with
// tell() and hear().
#pragma once
#include <cstddef>

namespace fastwm::emulation {

struct Fiber {
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;   // AddressSanitizer's
  void* race_thread = nullptr;  // ThreadSanitizer's
  char* stack = nullptr;
};

// The fiber of this number, one and the same whenever asked; it will begin with entry(), which never returns.
Fiber& fiber(size_t number, void (*entry)());
// Entry's first call.
void entered();

void resume(Fiber& fiber);               // from the scheduler to the fiber
void leave(Fiber& fiber, bool forever);  // from the fiber to the scheduler

// ---- races

bool finding_races();
// As many fibers as ThreadSanitizer can have.
constexpr size_t MOST_RACING_FIBERS = 7000;

// What this thread did so far comes before what a thread does that hears it at the same address later.
void tell(void* address);
void hear(void* address);

// While it lives, the memory that is touched is the scheduler's doing and not the fiber's.
class AsScheduler {
 public:
  explicit AsScheduler(const Fiber& fiber);
  ~AsScheduler();
  AsScheduler(const AsScheduler&) = delete;
  AsScheduler& operator=(const AsScheduler&) = delete;

 private:
  const Fiber& fiber_;
};

}  // namespace fastwm::emulation
