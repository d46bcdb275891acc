// What the attention kernels of both dtypes share: tokens of a head in memory, who sees whom, and sums of four lanes.
#pragma once
#include "cuda/kernels.h"

namespace fastwm {
namespace {

constexpr int WARPS = 4;  // of a block
constexpr int MOST_TOKENS = 32, MOST_NUMBERS = 128;
constexpr float LOG2_E = 1.4426950408889634f;

// Where one head of one row begins, and its tokens.
template <class T>
struct Tokens {
  T* first;
  int64_t stride;
  int count, D;

  // Sixteen bytes of a token from number d on; zeros where there is no such token or number.
  __device__ __forceinline__ uint4 load(int token, int d) const {
    if (token >= count || d >= D) return make_uint4(0, 0, 0, 0);
    return *reinterpret_cast<const uint4*>(first + token * stride + d);
  }
  __device__ __forceinline__ void store(int token, int d, uint4 bytes) const {
    if (token < count && d < D) *reinterpret_cast<uint4*>(first + token * stride + d) = bytes;
  }
};

template <class T, class Pointer>
__device__ __forceinline__ Tokens<T> tokens(const AttentionArgs& a, Pointer* p, const AttentionStrides& s, unsigned i) {
  const unsigned H = static_cast<unsigned>(a.H);
  const int64_t row = i / H, head = i % H;  // of 32 bits: dividing 64 would cost as much as the rest
  return {static_cast<T*>(p) + row * s.row + head * s.head, s.token, static_cast<int>(a.n), static_cast<int>(a.D)};
}

// How many tokens a query sees: those of its own frame and the ones before.
__device__ __forceinline__ int seen_by(int query, int n, int frame_tokens) {
  if (frame_tokens == 0) return n;
  const int end = (query / frame_tokens + 1) * frame_tokens;
  return end < n ? end : n;
}

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
  return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(ALL_LANES, x, 1);
  return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

}  // namespace
}  // namespace fastwm
