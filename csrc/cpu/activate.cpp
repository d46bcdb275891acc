// The functions of activation.h over an array, so that a test can hold them to their bounds.
#include "cpu/activation.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {
namespace {

template <class F>
void apply(const ActivateArgs& a, const F& function) {
  int64_t i = 0;
  for (; i + LANES <= a.n; i += LANES) store(a.y + i, function(load(a.x + i)));
  for (; i < a.n; ++i) a.y[i] = function(set(a.x[i]))[0];
}

template <class T>
void of_type(const ActivateArgs& a) {
  switch (a.function) {
    case Function::exp:
      return apply(a, [](vf x) { return exp(x); });
    case Function::silu:
      return apply(a, [](vf x) { return silu(x); });
    case Function::mish:
      return apply(a, [](vf x) { return mish(x); });
    case Function::gelu:
      return apply(a, [](vf x) { return gelu<T>(x); });
  }
}

}  // namespace

void activate(const ActivateArgs& a) { a.dtype == DType::float32 ? of_type<float>(a) : of_type<bf16>(a); }

}  // namespace fastwm::FASTWM_ISA
