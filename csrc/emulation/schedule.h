// In which order the emulation runs threads and blocks.
#pragma once
#include <string>

namespace fastwm::emulation {

void set_schedule(const std::string& name);  // "forward" or "reverse"; std::invalid_argument for another
void set_schedule(unsigned seed);            // in the order that the seed gives, the same in every launch

}  // namespace fastwm::emulation
