#include "ops.h"
#include "cpu/simd.h"
namespace fastwm::FASTWM_ISA {
void rollout(const RolloutArgs&) {}
int64_t rollout_tile(const RolloutArgs&) { return 1; }
size_t rollout_workspace(const RolloutArgs&) { return 0; }
}
