// In which order the emulation runs threads and blocks.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace fastwm::emulation {

void set_schedule(const std::string& name);  // "forward" or "reverse"; std::invalid_argument for another
void set_schedule(unsigned seed);            // in the order that the seed gives, the same in every launch

void begin_schedule();                   // of a launch
std::vector<size_t> in_order(size_t n);  // the numbers 0 .. n-1, as they are to run now
bool by_steps();                         // whether no warp shall get far ahead of the others

}  // namespace fastwm::emulation
