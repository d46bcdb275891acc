#include "emulation/schedule.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <stdexcept>

namespace fastwm::emulation {
namespace {

enum class Order { forward, reverse, seeded };
Order order = Order::forward;
unsigned seed;
std::mt19937 random_numbers;

}  // namespace

void set_schedule(const std::string& name) {
  if (name != "forward" && name != "reverse")
    throw std::invalid_argument("schedule is '" + name + "', expected 'forward', 'reverse' or a seed");
  order = name == "forward" ? Order::forward : Order::reverse;
}

void set_schedule(unsigned value) { order = Order::seeded, seed = value; }

void begin_schedule() { random_numbers.seed(seed); }

std::vector<size_t> in_order(size_t n) {
  std::vector<size_t> numbers(n);
  std::iota(numbers.begin(), numbers.end(), size_t{0});
  if (order == Order::reverse) std::reverse(numbers.begin(), numbers.end());
  if (order == Order::seeded) std::shuffle(numbers.begin(), numbers.end(), random_numbers);
  return numbers;
}

bool by_steps() { return order == Order::seeded; }

}  // namespace fastwm::emulation
