// The table of one instruction set; compiled once per instruction set like every kernel it names.
#include "cpu/isa.h"
#include "cpu/simd.h"

namespace fastwm::FASTWM_ISA {

void cem_sample(const CemSampleArgs&);
void rollout(const RolloutArgs&);
int64_t rollout_tile(const RolloutArgs&);
size_t rollout_workspace(const RolloutArgs&);
void goal_cost(const GoalCostArgs&);
void cem_update(const CemUpdateArgs&);
int64_t fma_peak(const FmaPeakArgs&);
void activate(const ActivateArgs&);
void adaln(const AdaLNArgs&);
void adaln_backward(const AdaLNBackwardArgs&);
void attention(const AttentionTrainingArgs&);
void sigreg(const SigregArgs&);
void sigreg_backward(const SigregBackwardArgs&);
void linear(const LinearArgs&);

#define STRING(x) #x
#define NAME(x) STRING(x)
extern const Kernels kernels;
const Kernels kernels = {NAME(FASTWM_ISA), LANES,      cem_sample,      rollout,  rollout_tile, rollout_workspace,
                         goal_cost,        cem_update, fma_peak,        activate, adaln,        adaln_backward,
                         attention,        sigreg,     sigreg_backward, linear};

}  // namespace fastwm::FASTWM_ISA
