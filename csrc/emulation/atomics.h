// Atomic functions of CUDA: they order nothing (relaxed), which a race detector takes literally.
#pragma once
#include <cstdint>
#include <cstring>

namespace fastwm::emulation {

// new = change(old), as one step; the old value. T has four or eight bytes.
template <class T, class Change>
T atomically(T* address, const Change& change) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA has atomic functions for four and eight bytes");
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  Bits* bits = reinterpret_cast<Bits*>(address);
  Bits old = __atomic_load_n(bits, __ATOMIC_RELAXED), wanted;
  T before;
  do {
    std::memcpy(&before, &old, sizeof old);
    const T after = change(before);
    std::memcpy(&wanted, &after, sizeof old);
  } while (!__atomic_compare_exchange_n(bits, &old, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return before;
}

}  // namespace fastwm::emulation

#define FASTWM_ATOMIC(name, type, expression)                                                      \
  inline type name(type* address, type value) {                                                    \
    return fastwm::emulation::atomically(address, [&](type old) -> type { return (expression); }); \
  }
#define FASTWM_ATOMIC_OF_INTEGERS(name, expression) \
  FASTWM_ATOMIC(name, int, expression)              \
  FASTWM_ATOMIC(name, unsigned, expression)         \
  FASTWM_ATOMIC(name, unsigned long long, expression)

FASTWM_ATOMIC_OF_INTEGERS(atomicAdd, old + value)
FASTWM_ATOMIC(atomicAdd, float, old + value)
FASTWM_ATOMIC(atomicAdd, double, old + value)
FASTWM_ATOMIC(atomicSub, int, old - value)
FASTWM_ATOMIC(atomicSub, unsigned, old - value)
FASTWM_ATOMIC_OF_INTEGERS(atomicExch, (static_cast<void>(old), value))
FASTWM_ATOMIC(atomicExch, float, (static_cast<void>(old), value))
FASTWM_ATOMIC_OF_INTEGERS(atomicMin, value < old ? value : old)
FASTWM_ATOMIC(atomicMin, long long, value < old ? value : old)
FASTWM_ATOMIC_OF_INTEGERS(atomicMax, value > old ? value : old)
FASTWM_ATOMIC(atomicMax, long long, value > old ? value : old)
FASTWM_ATOMIC_OF_INTEGERS(atomicAnd, old& value)
FASTWM_ATOMIC_OF_INTEGERS(atomicOr, old | value)
FASTWM_ATOMIC_OF_INTEGERS(atomicXor, old ^ value)

#undef FASTWM_ATOMIC_OF_INTEGERS
#undef FASTWM_ATOMIC

template <class T>
T atomicCAS(T* address, T expected, T value) {
  return fastwm::emulation::atomically(address, [&](T old) { return old == expected ? value : old; });
}
