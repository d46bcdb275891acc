#include "ops.h"
#include "cpu/simd.h"
namespace fastwm::FASTWM_ISA {
void goal_cost(const GoalCostArgs&) {}
}
