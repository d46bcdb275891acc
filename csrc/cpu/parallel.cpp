// A pool of sleeping threads. Threads are made on first need and kept; a fork leaves the child without them, so the
// child forgets the parent's pool (its memory is abandoned on purpose: its mutex may be locked by a thread that no
// longer exists).
#include "cpu/parallel.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

namespace fastwm {
namespace {

class Pool {
 public:
  void run(int64_t count, int32_t threads, void (*task)(void*, int64_t, int32_t), void* context) {
    std::lock_guard<std::mutex> one_caller(caller_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (started_ < threads - 1) {
        start(threads - 1);
      }
      task_ = task, context_ = context, count_ = count, active_ = threads - 1, busy_ = threads - 1;
      next_.store(0, std::memory_order_relaxed);
      ++generation_;
    }
    wake_.notify_all();
    drain(0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void start(int32_t wanted) {
    try {
      std::thread(&Pool::work, this, started_ + 1, generation_).detach();
    } catch (const std::system_error& error) {
      throw std::runtime_error("the system starts no more threads (" + std::to_string(started_) + " of " +
                               std::to_string(wanted) + " besides the caller's): " + error.what());
    }
    ++started_;
  }

  void drain(int32_t worker) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) task_(context_, i, worker);
  }

  void work(int32_t worker, uint64_t seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      if (worker > active_) continue;
      lock.unlock();
      drain(worker);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex caller_, mutex_;
  std::condition_variable wake_, done_;
  std::atomic<int64_t> next_{0};
  void (*task_)(void*, int64_t, int32_t) = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0;
  int32_t started_ = 0, active_ = 0, busy_ = 0;
  uint64_t generation_ = 0;
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
  if (threads > count) threads = static_cast<int32_t>(count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) task(context, i, 0);
    return;
  }
  the_pool()->run(count, threads, task, context);
}

}  // namespace fastwm
