// The scheduler: runs the threads of a block until all wait or have returned, and decides which waits are over.
//
// Forward and reverse run one warp as far as it goes before the next, so that a thread is far ahead of another that it
// forgot to wait for; a seed gives an order in which all advance by small steps. Blocks run one after another, in the
// same three orders. To the race detector all blocks of a launch are concurrent: each of its threads has a stack of its
// own then, and shared memory is freed when the launch ends.
#include "emulation/runtime.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "cuda/cuda.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace fastwm::emulation {

Place place;

namespace {

std::string text(dim3 index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

struct Launch {
  const std::function<void()>* thread;
  size_t dynamic_bytes;
  size_t fibers = 0;  // given out so far
  char begin, end;    // for tell() and hear()
};
Launch* launching;

class Block;
Block* block;
Thread* current;

class Block {
 public:
  Block(dim3 index, dim3 size) : index_(index) {
    const unsigned count = size.x * size.y * size.z;
    threads_.resize(count);
    warps_.resize((count + WARP_LANES - 1) / WARP_LANES);
    for (unsigned i = 0; i < count; ++i) {
      Thread& thread = threads_[i];
      thread.lane = i % WARP_LANES, thread.warp = i / WARP_LANES;
      thread.index = dim3(i % size.x, i / size.x % size.y, i / (size.x * size.y));
      thread.fiber = &fiber(finding_races() ? launching->fibers++ : i, &Block::enter);
    }
  }
  ~Block() {
    for (auto& [key, region] : shared_) free(region.memory);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  void run() {
    block = this;
    for (;;) {
      bool moved = false;
      for (size_t warp : in_order(warps_.size())) moved |= advance(warp);
      if (!fault_.empty()) throw Fault("block " + text(index_) + ": " + fault_);
      if (count(State::returned) == threads_.size()) return;
      if (!moved) open_barrier();
    }
  }

  // ---- what threads ask for

  int barrier(const char* name, bool flag, Line line) {
    current->flag = flag;
    void* order = &barrier_order_[barriers_ % 2];
    tell(order);
    wait(State::at_block_barrier, name, line);
    hear(order);
    return flags_;
  }

  void* shared(const void* key, size_t bytes) {
    Region& region = shared_[key];
    if (!region.memory) {
      const AsScheduler scheduler(*current->fiber);
      total_ += bytes;
      if (total_ > MAX_SHARED_BYTES)
        throw Fault("the block's shared memory is " + std::to_string(total_) + " bytes, at most " +
                    std::to_string(MAX_SHARED_BYTES) + " on every GPU");
      if (posix_memalign(&region.memory, 128, bytes) != 0) throw std::bad_alloc();
      std::memset(region.memory, 0xff, bytes);
      tell(&region.order);
    }
    hear(&region.order);
    return region.memory;
  }

  Meeting& meeting(unsigned mask) { return warps_[current->warp][mask]; }

  unsigned lanes_in_warp() const {
    const size_t lanes = threads_.size() - current->warp * WARP_LANES;
    return lanes >= WARP_LANES ? ~0u : (1u << lanes) - 1;
  }

 private:
  struct Region {
    void* memory = nullptr;
    char order;
  };

  static void enter() {
    entered();
    hear(&launching->begin);
    try {
      (*launching->thread)();
    } catch (const std::exception& error) {
      if (block->fault_.empty()) block->fault_ = error.what();
    }
    tell(&launching->end);
    current->state = State::returned;
    leave(*current->fiber, true);
    std::abort();
  }

  // Runs the warp's threads until each waits or has returned; in a seeded order one step at a time. Whether any ran.
  bool advance(size_t warp) {
    const size_t first = warp * WARP_LANES, end = std::min(first + WARP_LANES, threads_.size());
    const std::vector<size_t> lanes = in_order(end - first);
    bool moved = false;
    for (bool again = true; again && fault_.empty();) {
      again = false;
      for (size_t lane : lanes) {
        Thread& thread = threads_[first + lane];
        if (thread.state != State::ready) continue;
        current = &thread;
        place.thread = thread.index;
        resume(*thread.fiber);
        if (!fault_.empty()) return true;
        again = true;
      }
      moved |= again;
      again = gathered(warp, first, end) && !by_steps();
    }
    return moved;
  }

  // Ends the collectives of a warp for which all lanes have come. Whether there was one.
  bool gathered(size_t warp, size_t first, size_t end) {
    bool any = false;
    for (size_t i = first; i < end; ++i) {
      if (threads_[i].state != State::in_collective) continue;
      const unsigned mask = threads_[i].mask;
      unsigned here = 0;
      for (size_t j = first; j < end; ++j)
        if (threads_[j].state == State::in_collective && threads_[j].mask == mask) here |= 1u << (j - first);
      if (here != mask) continue;
      Meeting& met = warps_[warp][mask];
      for (size_t j = first; j < end; ++j) {
        if (!(mask >> (j - first) & 1)) continue;
        if (!same_line(threads_[i], threads_[j])) {
          fault_ =
              "different collectives meet: " + emulation::text(threads_[i]) + " and " + emulation::text(threads_[j]);
          return false;
        }
        met.gathered[j - first] = threads_[j].payload;
        threads_[j].state = State::ready;
      }
      ++met.count;
      any = true;
    }
    return any;
  }

  // No thread can go on: all wait at one barrier, or there is a fault.
  void open_barrier() {
    const Thread* first = nullptr;
    for (const Thread& thread : threads_)
      if (thread.state == State::at_block_barrier && !first) first = &thread;
    if (!first || count(State::at_block_barrier) != threads_.size()) stuck();
    flags_ = 0;
    for (Thread& thread : threads_) {
      if (!same_line(*first, thread))
        throw Fault("block " + text(index_) + ": different barriers meet: " + emulation::text(*first) + " and " +
                    emulation::text(thread));
      flags_ += thread.flag;
      thread.state = State::ready;
    }
    ++barriers_;
  }

  [[noreturn]] void stuck() const {
    std::map<std::string, int> places;
    for (const Thread& thread : threads_)
      ++places[thread.state == State::returned ? "returned" : "wait for " + emulation::text(thread)];
    std::string all;
    for (const auto& [where, threads] : places)
      all += (all.empty() ? "" : ", ") + std::to_string(threads) + " threads " + where;
    throw Fault("block " + text(index_) + " is stuck: " + all);
  }

  size_t count(State state) const {
    return static_cast<size_t>(
        std::count_if(threads_.begin(), threads_.end(), [&](const Thread& t) { return t.state == state; }));
  }

  static bool same_line(const Thread& a, const Thread& b) {
    return a.line.number == b.line.number && std::strcmp(a.waits_for, b.waits_for) == 0 &&
           (a.line.file == b.line.file || std::strcmp(a.line.file, b.line.file) == 0);
  }

  dim3 index_;
  std::vector<Thread> threads_;
  std::vector<std::map<unsigned, Meeting>> warps_;
  std::map<const void*, Region> shared_;
  size_t total_ = 0;
  std::string fault_;
  int flags_ = 0;
  unsigned barriers_ = 0;
  char barrier_order_[2];
};

void check_configuration(dim3 grid, dim3 size, size_t dynamic_bytes) {
  const auto refuse = [](const std::string& what) { throw Fault("invalid configuration: " + what); };
  const uint64_t threads = uint64_t{size.x} * size.y * size.z;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    refuse("grid " + text(grid));
  if (threads == 0 || threads > 1024 || size.z > 64) refuse("block " + text(size));
  if (dynamic_bytes > MAX_SHARED_BYTES) refuse(std::to_string(dynamic_bytes) + " bytes of shared memory");
  if (finding_races() && threads * grid.x * grid.y * grid.z > MOST_RACING_FIBERS)
    refuse("the race detector has " + std::to_string(MOST_RACING_FIBERS) + " threads; launch fewer");
}

void run_grid(dim3 grid, dim3 size) {
  std::vector<std::unique_ptr<Block>> blocks;
  for (size_t i : in_order(size_t{grid.x} * grid.y * grid.z)) {
    const dim3 index(static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                     static_cast<unsigned>(i / grid.x / grid.y));
    place = {dim3(0, 0, 0), index, size, grid};
    if (!finding_races()) blocks.clear();
    blocks.push_back(std::make_unique<Block>(index, size));
    blocks.back()->run();
  }
  hear(&launching->end);
}

}  // namespace

std::string text(Line line) { return std::string(line.file) + ":" + std::to_string(line.number); }
std::string text(const Thread& thread) { return std::string(thread.waits_for) + " at " + text(thread.line); }

Thread& running() { return *current; }
Meeting& meeting(unsigned mask) { return block->meeting(mask); }
unsigned lanes_in_warp() { return block->lanes_in_warp(); }

void wait(State state, const char* name, Line line) {
  Thread& thread = *current;
  thread.state = state, thread.waits_for = name, thread.line = line;
  leave(*thread.fiber, false);
}

int block_barrier(const char* name, bool flag, Line line) { return block->barrier(name, flag, line); }
void* shared_memory(const void* key, size_t bytes) { return block->shared(key, bytes); }

void* dynamic_shared_memory(size_t bytes) {
  if (bytes > launching->dynamic_bytes)
    throw Fault("the kernel uses " + std::to_string(bytes) + " bytes of dynamic shared memory, launched with " +
                std::to_string(launching->dynamic_bytes));
  return block->shared(nullptr, launching->dynamic_bytes);
}

void launch(const char* name, dim3 grid, dim3 size, size_t dynamic_bytes, const std::function<void()>& thread) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  try {
    check_configuration(grid, size, dynamic_bytes);
    begin_schedule();
    Launch launch{&thread, dynamic_bytes};
    launching = &launch;
    tell(&launch.begin);
    run_grid(grid, size);
  } catch (const Fault& fault) {
    throw std::runtime_error(std::string(name) + ": " + fault.what());
  }
}

}  // namespace fastwm::emulation
