// Work goes to the threads that PyTorch works on (openmp.cpp) or else to a pool of our own.
//
// Its threads are made on first need and kept. Waking one takes tens of microseconds, as long as a short kernel: so who
// waits looks for SPIN before it sleeps, and the kernels of one plan find the threads awake. A fork leaves the child
// without them, so the child forgets the parent's pool (its memory is abandoned on purpose: its mutex may be locked by
// a thread that no longer exists).
#include "cpu/parallel.h"

#include "cpu/openmp.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

namespace fastwm {
namespace {

constexpr std::chrono::microseconds SPIN{100};

// Whether it came true within SPIN.
template <class Condition>
bool soon(const Condition& condition) {
  const auto until = std::chrono::steady_clock::now() + SPIN;
  do {
    for (int i = 0; i < 64; ++i) {
      if (condition()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < until);
  return false;
}

// One call's work. Its items are counted out by tickets that name the call, so that a thread that wakes late takes none
// of the next call's, and nobody waits for it.
struct Call {
  uint32_t number = 0;
  int32_t helpers = 0;  // threads 1 to helpers take part
  int64_t count = 0;
  void (*task)(void*, int64_t, int32_t) = nullptr;
  void* context = nullptr;
};

class Pool {
 public:
  void run(int64_t count, int32_t threads, void (*task)(void*, int64_t, int32_t), void* context) {
    std::lock_guard<std::mutex> one_caller(caller_);
    Call call;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (started_ < threads - 1) start(threads - 1);
      call_ = call = {call_.number + 1, threads - 1, count, task, context};
      finished_.store(0, std::memory_order_relaxed);
      ticket_.store(uint64_t{call.number} << 32, std::memory_order_release);
    }
    wake_.notify_all();
    work_on(call, 0);
    const auto done = [&] { return finished_.load(std::memory_order_acquire) == count; };
    if (soon(done)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, done);
  }

 private:
  void start(int32_t wanted) {
    try {
      std::thread(&Pool::work, this, started_ + 1, call_.number).detach();
    } catch (const std::system_error& error) {
      throw std::runtime_error("the system starts no more threads (" + std::to_string(started_) + " of " +
                               std::to_string(wanted) + " besides the caller's): " + error.what());
    }
    ++started_;
  }

  // The next item of the call, or -1 if it has no more.
  int64_t take(const Call& call) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    for (;;) {
      const int64_t item = static_cast<int64_t>(ticket & 0xffffffff);
      if (ticket >> 32 != call.number || item >= call.count) return -1;
      if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) return item;
    }
  }

  void work_on(const Call& call, int32_t worker) {
    for (int64_t item; (item = take(call)) >= 0;) {
      call.task(call.context, item, worker);
      if (finished_.fetch_add(1, std::memory_order_acq_rel) + 1 == call.count && worker > 0) {
        mutex_.lock();  // the caller is awake, or asleep and not between its look and its sleep
        mutex_.unlock();
        done_.notify_one();
      }
    }
  }

  void work(int32_t worker, uint32_t seen) {
    const auto called = [&] { return ticket_.load(std::memory_order_acquire) >> 32 != seen; };
    for (;;) {
      Call call;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, called);
        call = call_;
      }
      seen = call.number;
      if (worker > call.helpers) continue;
      work_on(call, worker);
      soon(called);
    }
  }

  std::mutex caller_, mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> ticket_{0};  // the call's number, and in the lower half the next item
  std::atomic<int64_t> finished_{0};
  Call call_;
  int32_t started_ = 0;
};

std::atomic<Pool*> pool{nullptr};

Pool* the_pool() {
  static const bool hooked = [] {
    pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
    return true;
  }();
  (void)hooked;
  Pool* current = pool.load();
  if (current) return current;
  Pool* fresh = new Pool;  // lives as long as the process: its threads use it until the end
  if (pool.compare_exchange_strong(current, fresh)) return fresh;
  delete fresh;
  return current;
}

}  // namespace

void parallel_for(int64_t count, int32_t threads, void (*task)(void*, int64_t, int32_t), void* context) {
  if (threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) task(context, i, 0);
    return;
  }
  if (parallel_for_openmp(count, threads, task, context)) return;
  the_pool()->run(count, count < threads ? static_cast<int32_t>(count) : threads, task, context);
}

int64_t monotonic_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace fastwm
