// Which instruction sets this build and this machine have, and the table of kernels compiled for each.
#pragma once
#include "ops.h"

namespace fastwm {

struct Kernels {
  const char* isa;
  int32_t lanes;  // float32 numbers in a vector; a weight panel is two vectors wide
  void (*cem_sample)(const CemSampleArgs&);
  void (*rollout)(const RolloutArgs&);
  int64_t (*rollout_tile)(const RolloutArgs&);
  size_t (*rollout_workspace)(const RolloutArgs&);
  void (*goal_cost)(const GoalCostArgs&);
  void (*cem_update)(const CemUpdateArgs&);
  int64_t (*fma_peak)(const FmaPeakArgs&);  // returns how many additions and multiplications were done
  void (*activate)(const ActivateArgs&);
  void (*adaln)(const AdaLNArgs&);
  void (*adaln_backward)(const AdaLNBackwardArgs&);
  void (*attention)(const AttentionTrainingArgs&);
  void (*sigreg)(const SigregArgs&);
  void (*sigreg_backward)(const SigregBackwardArgs&);
  void (*linear)(const LinearArgs&);
};

// Best first. Only those that the machine can run.
int supported_isas(const Kernels* const** list);
// The kernels of one instruction set by name, null if this machine or this build lacks it.
const Kernels* find_isa(const char* name);
// Asks the system to back the memory by large pages where it can: a rollout walks through weights that are a thousand
// times 4 KiB, and every page is a look-up. Advice: no result depends on it.
void advise_large_pages(void* address, size_t bytes);
// Bytes of second-level cache of one core, 512 KiB if the system does not say.
int64_t l2_bytes();

}  // namespace fastwm
