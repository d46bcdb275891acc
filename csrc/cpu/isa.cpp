// Compiled with baseline flags: the only code that runs before an instruction set is chosen.
#include "cpu/isa.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace fastwm {

#define DECLARE(isa)            \
  namespace isa {               \
  extern const Kernels kernels; \
  }
#if FASTWM_HAS_avx512_bf16
DECLARE(avx512_bf16)
#endif
#if FASTWM_HAS_avx512
DECLARE(avx512)
#endif
#if FASTWM_HAS_avx2
DECLARE(avx2)
#endif
DECLARE(baseline)
#undef DECLARE

namespace {

struct Supported {
  const Kernels* list[4];
  int count = 0;

  Supported() {
#if FASTWM_HAS_avx2
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    if (v4 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni"))
      list[count++] = &avx512_bf16::kernels;
    if (v4) list[count++] = &avx512::kernels;
    if (v3) list[count++] = &avx2::kernels;
#endif
    list[count++] = &baseline::kernels;
  }
};

const Supported& supported() {
  static const Supported instance;
  return instance;
}

}  // namespace

int supported_isas(const Kernels* const** list) {
  *list = supported().list;
  return supported().count;
}

const Kernels* find_isa(const char* name) {
  for (int i = 0; i < supported().count; ++i)
    if (std::strcmp(supported().list[i]->isa, name) == 0) return supported().list[i];
  return nullptr;
}

void advise_large_pages(void* address, size_t bytes) {
#ifdef MADV_HUGEPAGE
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(address) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(address) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)address, (void)bytes;
#endif
}

int64_t l2_bytes() {
  static const int64_t bytes = [] {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (found > 0) return static_cast<int64_t>(found);
#endif
    return int64_t{512} << 10;
  }();
  return bytes;
}

}  // namespace fastwm
