// What the scheduler and the collectives of warps share; kernels see emulation.h.
#pragma once
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulation/emulation.h"
#include "emulation/fiber.h"
#include "emulation/schedule.h"

namespace fastwm::emulation {

constexpr unsigned WARP_LANES = 32;
constexpr int PAYLOAD_WORDS = 10;  // what a lane brings to a collective: the 40 bytes of an mma are the most

struct Payload {
  uint32_t words[PAYLOAD_WORDS];
};

// Where lanes of one mask meet, again and again. No lane of it can arrive anew before all have left with what the last
// meeting gathered.
struct Meeting {
  unsigned count = 0;
  char order[2];  // for tell() and hear(), of even and of odd meetings
  Payload gathered[WARP_LANES];
};

enum class State { ready, at_block_barrier, in_collective, returned };

struct Thread {
  unsigned lane = 0, warp = 0;
  Fiber* fiber = nullptr;
  dim3 index;
  State state = State::ready;
  const char* waits_for = "";  // the name of a barrier or collective, and its line
  Line line{};
  bool flag = false;  // brought to a barrier of the block
  unsigned mask = 0;  // of a collective
  Payload payload{};  // brought to a collective
};

class Fault : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string text(const Thread& thread);  // what it waits for, and where
std::string text(Line line);

// The thread that runs now. Suspends it until the scheduler finds its wait to be over.
Thread& running();
void wait(State state, const char* name, Line line);

// What each lane of the mask brought. Where `orders`, what lanes did before comes before what they do after.
const Payload* gather(const char* name, unsigned mask, const Payload& mine, bool orders, Line line);
// Where the lanes of `mask` of the running thread's warp meet.
Meeting& meeting(unsigned mask);
unsigned lanes_in_warp();  // of the running thread, as a mask: the last warp of a block may be short

}  // namespace fastwm::emulation
