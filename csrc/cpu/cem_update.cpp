#include "ops.h"
#include "cpu/simd.h"
namespace fastwm::FASTWM_ISA {
void cem_update(const CemUpdateArgs&) {}
}
