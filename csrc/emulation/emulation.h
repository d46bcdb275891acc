// CUDA on the CPU, for tests: the words of CUDA that kernels use, as ordinary C++.
//
// Every CUDA thread is a fiber; the runtime (runtime.cpp) switches between the fibers of a block where they wait for
// one another, and runs block after block. So a kernel's values can be checked in several orders, and its faults found:
//   - threads that wait at a barrier or in a warp's collective for others that do not come, different barriers or
//     collectives that meet, shuffles that read a lane which takes no part: an error that names the lines;
//   - shared memory read before it was written: it is NaN;
//   - out of bounds of global or shared memory: built with -fsanitize=address,undefined;
//   - races between threads and between blocks: built with -fsanitize=thread, for which every CUDA thread is one thread
//     and nothing but __syncthreads, __syncwarp, atomics with acquire or release and a launch's two ends orders
//     anything. A shuffle orders nothing, as in CUDA.
// Stricter than CUDA, to keep the rules few: no thread may have returned when others wait at __syncthreads, and all of
// a mask's lanes call a collective in the same line.
//
// Not modelled: a block that waits for another one (blocks run one after another), __launch_bounds__, the rounding of
// the GPU's exp, log, sin and division, and denormals. Contraction of a * b + c is off here.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static
#define __align__(bytes) alignas(bytes)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
using cudaStream_t = void*;

namespace fastwm::emulation {

// The place of the running CUDA thread.
struct Place {
  dim3 thread, block, block_size, grid_size;
};
extern Place place;

// The line that called a function which has one as its last argument.
struct Line {
  const char* file;
  int number;
  static constexpr Line here(const char* file = __builtin_FILE(), int number = __builtin_LINE()) {
    return {file, number};
  }
};

// Runs `thread` as every CUDA thread of the grid. Throws std::runtime_error with `name` for a fault.
void launch(const char* name, dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& thread);

// A block's own memory of this many bytes, the same for the same key; NaN at first.
void* shared_memory(const void* key, size_t bytes);
void* dynamic_shared_memory(size_t bytes);

// Wait for all threads of the block; how many of them brought a `flag`.
int block_barrier(const char* name, bool flag, Line line);

// Wait for all lanes of the mask, to which the caller belongs.
enum class Shuffle { from, up, down, exclusive_or };
void warp_barrier(unsigned mask, Line line);
uint64_t shuffle(const char* name, Shuffle how, unsigned mask, uint64_t value, int operand, int width, Line line);
unsigned ballot(const char* name, unsigned mask, bool flag, Line line);
unsigned match(unsigned mask, uint64_t value, Line line);  // the lanes that have the caller's value
void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Line line = Line::here());

uint32_t pack_bf16(float low, float high);

template <class T>
T shuffled(const char* name, Shuffle how, unsigned mask, T value, int operand, int width, Line line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles numbers of four or eight bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = shuffle(name, how, mask, bits, operand, width, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace fastwm::emulation

#define threadIdx (fastwm::emulation::place.thread)
#define blockIdx (fastwm::emulation::place.block)
#define blockDim (fastwm::emulation::place.block_size)
#define gridDim (fastwm::emulation::place.grid_size)

// ---- barriers

inline void __syncthreads(fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  fastwm::emulation::block_barrier("__syncthreads", false, line);
}
inline int __syncthreads_count(int flag, fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  return fastwm::emulation::block_barrier("__syncthreads_count", flag, line);
}
inline int __syncthreads_or(int flag, fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  return fastwm::emulation::block_barrier("__syncthreads_or", flag, line) != 0;
}
inline int __syncthreads_and(int flag, fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  return fastwm::emulation::block_barrier("__syncthreads_and", !flag, line) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  fastwm::emulation::warp_barrier(mask, line);
}
void __threadfence() = delete;  // see the acquire and release functions of cuda/cuda.h

// ---- collectives of a warp

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
              fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  using namespace fastwm::emulation;
  return shuffled("__shfl_sync", Shuffle::from, mask, value, lane, width, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  using namespace fastwm::emulation;
  return shuffled("__shfl_up_sync", Shuffle::up, mask, value, static_cast<int>(delta), width, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  using namespace fastwm::emulation;
  return shuffled("__shfl_down_sync", Shuffle::down, mask, value, static_cast<int>(delta), width, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  using namespace fastwm::emulation;
  return shuffled("__shfl_xor_sync", Shuffle::exclusive_or, mask, value, lanes, width, line);
}
inline unsigned __ballot_sync(unsigned mask, int flag, fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  return fastwm::emulation::ballot("__ballot_sync", mask, flag, line);
}
inline int __any_sync(unsigned mask, int flag, fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  return fastwm::emulation::ballot("__any_sync", mask, flag, line) != 0;
}
inline int __all_sync(unsigned mask, int flag, fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  return fastwm::emulation::ballot("__all_sync", mask, !flag, line) == 0;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, fastwm::emulation::Line line = fastwm::emulation::Line::here()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA matches numbers of four or eight bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return fastwm::emulation::match(mask, bits, line);
}

#include "emulation/arithmetic.h"
#include "emulation/atomics.h"
