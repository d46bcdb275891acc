// What every CUDA source includes: CUDA itself, or its emulation on the CPU (csrc/emulation), and the few words that
// the two spell differently. A kernel that keeps to these is compiled by both unchanged:
//
//   FASTWM_SHARED(float, tile, [32][33]);                   instead of __shared__ float tile[32][33];
//   FASTWM_SHARED_DYNAMIC(float, rows, n);                  instead of extern __shared__ float rows[]; one per kernel
//   FASTWM_LAUNCH(kernel, grid, block, bytes, stream, ...)  instead of kernel<<<grid, block, bytes, stream>>>(...)
//
// A template is launched in parentheses: FASTWM_LAUNCH((kernel<float, 4>), ...). A launch that CUDA refuses throws
// std::runtime_error with the kernel's name. There is no __threadfence: what one block tells another goes through the
// acquire and release functions below, which a race detector understands.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef FASTWM_EMULATE
#include "emulation/emulation.h"
#else
#include <cuda_runtime.h>
#endif

namespace fastwm {

// Shared memory of a block: what a kernel may have without asking, and what every GPU that we compile for can give.
constexpr size_t SHARED_BYTES = 48 * 1024, MAX_SHARED_BYTES = 99 * 1024;
constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

#ifdef FASTWM_EMULATE

#define FASTWM_SHARED(type, name, dims) \
  typedef type name##_array dims;       \
  static const char name##_key = 0;     \
  name##_array& name = *static_cast<name##_array*>(fastwm::emulation::shared_memory(&name##_key, sizeof(name##_array)))
#define FASTWM_SHARED_DYNAMIC(type, name, count) \
  type* name = static_cast<type*>(fastwm::emulation::dynamic_shared_memory(sizeof(type) * (count)))

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
            Arguments... arguments) {
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "what a kernel's parameters may take");
  emulation::launch(name, grid, block, shared_bytes, [&] { kernel(arguments...); });
}

class OnDevice {
 public:
  explicit OnDevice(int) {}
};

#else

#define FASTWM_SHARED(type, name, dims) __shared__ type name dims
#define FASTWM_SHARED_DYNAMIC(type, name, count)             \
  extern __shared__ __align__(128) unsigned char dynamic_[]; \
  type* name = reinterpret_cast<type*>(dynamic_)

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // it is told here, not by the next call
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(status) + ", " + cudaGetErrorString(status));
}

#ifdef __CUDACC__  // bind.cpp, which starts no kernel itself, is compiled by the host's compiler
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, Arguments... arguments) {
  if (shared_bytes > SHARED_BYTES)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          name);
  // clang-format off: it splits the three brackets
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
  // clang-format on
  check(cudaGetLastError(), name);
}
#endif

// While it lives, `device` is the current one of this thread.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (device == before_) return;
    check(cudaSetDevice(device), "cudaSetDevice");
    changed_ = true;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

#endif

#define FASTWM_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  fastwm::launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

#if defined(FASTWM_EMULATE) || defined(__CUDACC__)

// ---- bfloat16: the upper half of a float

struct bf16 {
  uint16_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

// Two floats as bfloat16, rounded to nearest, ties to even; `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#ifdef FASTWM_EMULATE
  return emulation::pack_bf16(low, high);
#else
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#endif
}

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return {static_cast<uint16_t>(pack_bf16(x, 0.0f))};
}

// ---- between blocks: what was written before a release is seen after an acquire of the same address

__device__ __forceinline__ uint32_t add_acquire_release(uint32_t* address, uint32_t value) {
#ifdef FASTWM_EMULATE
  return __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL);
#else
  uint32_t before;
  asm volatile("atom.add.acq_rel.gpu.u32 %0, [%1], %2;" : "=r"(before) : "l"(address), "r"(value) : "memory");
  return before;
#endif
}

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* address) {
#ifdef FASTWM_EMULATE
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
#else
  uint32_t value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
#endif
}

__device__ __forceinline__ void store_release(uint32_t* address, uint32_t value) {
#ifdef FASTWM_EMULATE
  __atomic_store_n(address, value, __ATOMIC_RELEASE);
#else
  asm volatile("st.release.gpu.u32 [%0], %1;" : : "l"(address), "r"(value) : "memory");
#endif
}

// ---- tensor cores

// d [16, 8] += a [16, 16] b [16, 8] by one warp, float32 += bfloat16 x bfloat16. With g = lane / 4 and t = lane % 4 a
// lane holds d[g][2t, 2t+1], d[g+8][2t, 2t+1]; pairs a[g][2t..], a[g+8][2t..], a[g][2t+8..], a[g+8][2t+8..]; and pairs
// b[2t..][g], b[2t+8..][g].
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef FASTWM_EMULATE
  emulation::mma_m16n8k16_bf16(d, a, b);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#endif  // for kernels alone

}  // namespace fastwm
