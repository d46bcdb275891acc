// Collectives of a warp: all of them gather what every lane brings, and each lane then computes its own result.
#include <cmath>

#include "emulation/runtime.h"

namespace fastwm::emulation {
namespace {

// Word by word: a call of memcpy would be seen by the race detector, here where threads do share memory.
void copy(const Payload& from, Payload& to) {
  for (int i = 0; i < PAYLOAD_WORDS; ++i) static_cast<volatile uint32_t*>(to.words)[i] = from.words[i];
}

float of_bf16(uint32_t bits) { return __uint_as_float(bits << 16); }

}  // namespace

const Payload* gather(const char* name, unsigned mask, const Payload& mine, bool orders, Line line) {
  Thread& thread = running();
  mask &= lanes_in_warp();
  if (!(mask >> thread.lane & 1))
    throw Fault(std::string(name) + " at " + text(line) + ": lane " + std::to_string(thread.lane) +
                " is not in its own mask");
  Meeting& met = meeting(mask);
  void* order = &met.order[met.count % 2];
  thread.mask = mask;
  copy(mine, thread.payload);
  if (orders) tell(order);
  wait(State::in_collective, name, line);
  if (orders) hear(order);
  return met.gathered;
}

void warp_barrier(unsigned mask, Line line) { gather("__syncwarp", mask, {}, true, line); }

uint64_t shuffle(const char* name, Shuffle how, unsigned mask, uint64_t value, int operand, int width, Line line) {
  if (width < 1 || width > 32 || (width & (width - 1)))
    throw Fault(std::string(name) + " at " + text(line) + ": width " + std::to_string(width));
  const Payload mine{{static_cast<uint32_t>(value), static_cast<uint32_t>(value >> 32)}};
  const Payload* all = gather(name, mask, mine, false, line);
  const int lane = static_cast<int>(running().lane), first = lane & -width, end = first + width;
  int source = lane;
  switch (how) {
    case Shuffle::from:
      source = first + (operand & (width - 1));
      break;
    case Shuffle::up:
      if (lane - operand >= first) source = lane - operand;
      break;
    case Shuffle::down:
      if (lane + operand < end) source = lane + operand;
      break;
    case Shuffle::exclusive_or:
      if ((lane ^ operand) < end) source = lane ^ operand;
      break;
  }
  if (!((mask & lanes_in_warp()) >> source & 1))
    throw Fault(std::string(name) + " at " + text(line) + ": lane " + std::to_string(lane) + " reads lane " +
                std::to_string(source) + ", which takes no part");
  return all[source].words[0] | static_cast<uint64_t>(all[source].words[1]) << 32;
}

unsigned ballot(const char* name, unsigned mask, bool flag, Line line) {
  const Payload* all = gather(name, mask, {{flag}}, false, line);
  unsigned flags = 0;
  for (unsigned lane = 0; lane < WARP_LANES; ++lane)
    if ((mask & lanes_in_warp()) >> lane & 1) flags |= all[lane].words[0] << lane;
  return flags;
}

unsigned match(unsigned mask, uint64_t value, Line line) {
  const Payload mine{{static_cast<uint32_t>(value), static_cast<uint32_t>(value >> 32)}};
  const Payload* all = gather("__match_any_sync", mask, mine, false, line);
  unsigned same = 0;
  for (unsigned lane = 0; lane < WARP_LANES; ++lane)
    if ((mask & lanes_in_warp()) >> lane & 1)
      same |= unsigned(all[lane].words[0] == mine.words[0] && all[lane].words[1] == mine.words[1]) << lane;
  return same;
}

// Products of bfloat16 are exact in float64, and so, nearly, are the sums; rounded once. A tensor core keeps fewer
// bits.
void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Line line) {
  const char* name = "mma.m16n8k16";
  const Payload* all = gather(name, ~0u, {{a[0], a[1], a[2], a[3], b[0], b[1]}}, false, line);
  if (lanes_in_warp() != ~0u) throw Fault(std::string(name) + " at " + text(line) + ": the warp has not all its lanes");
  const unsigned g = running().lane / 4, t = running().lane % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned lower = i / 2, column = 2 * t + i % 2;  // row g or g + 8
    double sum = d[i];
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned half = k % 2 * 16, holder = k % 8 / 2, upper = k / 8;
      const uint32_t x = all[4 * g + holder].words[lower + 2 * upper] >> half;
      const uint32_t y = all[4 * column + holder].words[4 + upper] >> half;
      sum += static_cast<double>(of_bf16(x)) * of_bf16(y);
    }
    d[i] = static_cast<float>(sum);
  }
}

// Ties to even; a NaN is 0x7fff, as on the GPU.
uint32_t pack_bf16(float low, float high) {
  const auto rounded = [](float x) -> uint32_t {
    const uint32_t bits = __float_as_uint(x);
    return std::isnan(x) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
}

}  // namespace fastwm::emulation
