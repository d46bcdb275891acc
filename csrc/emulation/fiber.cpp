// Switching stacks by hand: ucontext would make two system calls for each of millions of switches.
//
// Compiled without sanitizers in every build. Their functions are weak: null where the process has no such sanitizer.
#include "emulation/fiber.h"

#include <sys/mman.h>

#include <cstdlib>
#include <deque>
#include <new>

#if !defined(__x86_64__)
#error "the emulation switches stacks in x86-64 assembly; write switch_stack for this machine"
#endif

extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* address, size_t size);
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* address);
__attribute__((weak)) void __tsan_release(void* address);

// Keep what a function must keep on this stack, and go on where the other one stopped.
void fastwm_switch_stack(void** from, void* to);
}

asm(R"(
.text
.globl fastwm_switch_stack
.hidden fastwm_switch_stack
.type fastwm_switch_stack, @function
fastwm_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastwm_switch_stack, . - fastwm_switch_stack
)");

namespace fastwm::emulation {
namespace {

constexpr size_t STACK_BYTES = 256 * 1024, PAGE = 4096;
constexpr int KEPT_REGISTERS = 6;
constexpr unsigned ORDERS_NOTHING = 1;

std::deque<Fiber> fibers;  // grows, never moves
void* scheduler_stack_pointer;
void* scheduler_race_thread;
const void* scheduler_stack;
size_t scheduler_stack_bytes;

// With a page below it that nobody may touch.
char* new_stack() {
  void* memory =
      mmap(nullptr, PAGE + STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, PAGE, PROT_NONE) != 0) throw std::bad_alloc();
  return static_cast<char*>(memory) + PAGE;
}

}  // namespace

Fiber& fiber(size_t number, void (*entry)()) {
  while (fibers.size() <= number) {
    Fiber& added = fibers.emplace_back();
    added.stack = new_stack();
    if (__tsan_create_fiber) added.race_thread = __tsan_create_fiber(0);
  }
  Fiber& fiber = fibers[number];
  // An earlier thread that stopped for good in the middle left marks of its frames.
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(fiber.stack, STACK_BYTES);
  fiber.fake_stack = nullptr;
  void** top = reinterpret_cast<void**>(fiber.stack + STACK_BYTES) - 2;  // entry begins as if it had been called
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < KEPT_REGISTERS; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
  return fiber;
}

void resume(Fiber& fiber) {
  void* fake_stack = nullptr;
  if (__tsan_get_current_fiber) scheduler_race_thread = __tsan_get_current_fiber();
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&fake_stack, fiber.stack, STACK_BYTES);
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(fiber.race_thread, ORDERS_NOTHING);
  fastwm_switch_stack(&scheduler_stack_pointer, fiber.stack_pointer);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

void entered() {
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
}

void leave(Fiber& fiber, bool forever) {
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(forever ? nullptr : &fiber.fake_stack, scheduler_stack, scheduler_stack_bytes);
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(scheduler_race_thread, ORDERS_NOTHING);
  fastwm_switch_stack(&fiber.stack_pointer, scheduler_stack_pointer);
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack, &scheduler_stack_bytes);
}

bool finding_races() { return __tsan_acquire != nullptr; }

void tell(void* address) {
  if (__tsan_release) __tsan_release(address);
}

void hear(void* address) {
  if (__tsan_acquire) __tsan_acquire(address);
}

AsScheduler::AsScheduler(const Fiber& fiber) : fiber_(fiber) {
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(scheduler_race_thread, ORDERS_NOTHING);
}

AsScheduler::~AsScheduler() {
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(fiber_.race_thread, ORDERS_NOTHING);
}

}  // namespace fastwm::emulation
