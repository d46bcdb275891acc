// PyTorch's threads wait for milliseconds, busily, after each of its operations. A second pool beside them has no free
// core in that time: with two threads on two cores, kernels between operations of PyTorch took up to twice as long. So
// they run on the same threads, if just as many are asked for: OpenMP keeps one team, ends what is too much of it and
// starts what is missing. The library is found by name when the process runs, so one wheel serves every PyTorch; GNU's
// and LLVM's OpenMP have the same entry, and a PyTorch without OpenMP has none.
//
// A forked child has OpenMP's books but not its threads, and would wait for them for ever, as PyTorch's own operations
// do there. So none is used in a process that began as a fork.
#include "cpu/openmp.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <mutex>

namespace fastwm {
namespace {

constexpr unsigned long FORKED_ONLY = 0x40;  // Linux: the process was forked and has not called exec

// Field 9 of /proc/self/stat has the kernel's flags; the second, a name in parentheses, may hold anything.
bool began_as_fork() {
  char line[1024] = {};
  std::FILE* file = std::fopen("/proc/self/stat", "r");
  if (!file) return false;
  const size_t read = std::fread(line, 1, sizeof line - 1, file);
  std::fclose(file);
  const char* name_end = read ? std::strrchr(line, ')') : nullptr;
  unsigned long flags = 0;
  return name_end && std::sscanf(name_end, ") %*c %*d %*d %*d %*d %*d %lu", &flags) == 1 && flags & FORKED_ONLY;
}

std::atomic<bool> forked{false};

[[maybe_unused]] const bool watched = [] {  // when the module is loaded: a fork may come before the first kernel
  forked = began_as_fork();
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
  return true;
}();

struct OpenMP {
  void (*parallel)(void (*region)(void*), void* data, unsigned threads, unsigned flags);
  int (*most_threads)();  // what a region gets that asks for no number: PyTorch's do not
};

template <class Function>
void find(Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

const OpenMP& openmp() {
  static const OpenMP found = [] {
    OpenMP library{};
    find(library.parallel, "GOMP_parallel");
    find(library.most_threads, "omp_get_max_threads");
    return library;
  }();
  return found;
}

struct Work {
  int64_t count;
  void (*task)(void*, int64_t, int32_t);
  void* context;
  std::atomic<int64_t> next{0};
  std::atomic<int32_t> arrived{0};
};

void take_part(void* data) {
  Work& work = *static_cast<Work*>(data);
  const int32_t worker = work.arrived.fetch_add(1, std::memory_order_relaxed);
  for (int64_t item; (item = work.next.fetch_add(1, std::memory_order_relaxed)) < work.count;)
    work.task(work.context, item, worker);
}

}  // namespace

bool parallel_for_openmp(int64_t count, int32_t threads, void (*task)(void*, int64_t, int32_t), void* context) {
  const OpenMP& library = openmp();
  if (!library.parallel || !library.most_threads || forked.load(std::memory_order_relaxed)) return false;
  if (library.most_threads() != threads) return false;
  static std::mutex one_caller;
  std::lock_guard<std::mutex> lock(one_caller);
  Work work{count, task, context};
  library.parallel(take_part, &work, static_cast<unsigned>(threads), 0);
  return true;
}

}  // namespace fastwm
