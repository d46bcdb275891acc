// The Python module fastwm._cuda: what was built and what it runs on, and one function per kernel. A function takes the
// device, the stream, addresses, sizes and scalars (csrc/ops.h), and raises RuntimeError with the kernel's name when
// CUDA refuses. Shapes, dtypes and contiguity were checked by the caller in fastwm/ops.
//
// Two builds of the same sources. nvcc's runs on a GPU; the CUDA runtime is linked in, so that the module can be
// imported where there is no driver, and says so. A C++ compiler's (FASTWM_EMULATE, csrc/emulation) runs on the CPU,
// for tests.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "cuda/kernels.h"
#ifdef FASTWM_EMULATE
#include "emulation/schedule.h"
#endif

namespace py = pybind11;
using namespace fastwm;

namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

#ifdef FASTWM_EMULATE
constexpr bool EMULATED = true;

py::dict describe() {
  using namespace py::literals;
  return py::dict("runtime"_a = 0, "driver"_a = 0, "architectures"_a = "emulated", "error"_a = "",
                  "devices"_a = py::list());
}
#else
constexpr bool EMULATED = false;

// Why there is no device to run on; empty if there is. The runtime's own words for a machine without a driver are that
// the driver is too old.
std::string problem(cudaError_t status, int driver, int count) {
  if (driver == 0) return "no CUDA driver";
  if (status != cudaSuccess) return std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
  return count == 0 ? "no CUDA device" : "";
}

// Never raises: what CUDA says goes into "error".
py::dict describe() {
  using namespace py::literals;
  int runtime = 0, driver = 0, count = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) count = 0;
  py::list devices;
  for (int i = 0; i < count && status == cudaSuccess; ++i) {
    cudaDeviceProp properties{};
    status = cudaGetDeviceProperties(&properties, i);
    if (status != cudaSuccess) break;
    devices.append(py::dict("name"_a = std::string(properties.name),
                            "capability"_a = py::make_tuple(properties.major, properties.minor),
                            "processors"_a = properties.multiProcessorCount, "memory"_a = properties.totalGlobalMem));
  }
  cudaGetLastError();  // what failed here is no later call's error
  return py::dict("runtime"_a = runtime, "driver"_a = driver, "architectures"_a = FASTWM_CUDA_ARCHITECTURES,
                  "error"_a = problem(status, driver, count), "devices"_a = devices);
}
#endif

// The GIL stays held: a launch is short, and the emulation runs one at a time.
template <class Args>
void start(const char* name, int device, uintptr_t stream, void (*kernel)(const Args&, cudaStream_t),
           const Args& args) {
  try {
    const OnDevice on(device);
    kernel(args, reinterpret_cast<cudaStream_t>(stream));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string(name) + ": " + error.what());
  }
}

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "CUDA kernels of fastwm.";
  m.attr("emulated") = EMULATED;
  m.def(
      "describe", &describe,
      "What was built and what is here: {'runtime': int, 'driver': int, 'architectures': str, 'error': str, 'devices': "
      "[{'name', 'capability', 'processors', 'memory'}]}. 'error' says why nothing can run, or is empty.");
#ifdef FASTWM_EMULATE
  m.def("set_schedule", py::overload_cast<const std::string&>(&fastwm::emulation::set_schedule));
  m.def("set_schedule", py::overload_cast<unsigned>(&fastwm::emulation::set_schedule),
        "In which order threads and blocks run: 'forward', 'reverse', or the one that a seed gives.");
#endif

  m.def("cem_sample",
        [](int device, uintptr_t queue, uintptr_t mean, uintptr_t std, uintptr_t noise, uintptr_t stream, uintptr_t low,
           uintptr_t high, uintptr_t factor, uintptr_t injected, uintptr_t counter, uintptr_t actions, int64_t B,
           int64_t S, int64_t T, int64_t A, int64_t I, uint64_t seed, int64_t iteration) {
          start("cem_sample", device, queue, &cem_sample,
                {at<float>(mean), at<float>(std), at<float>(noise), at<int64_t>(stream), at<float>(low),
                 at<float>(high), at<float>(factor), at<float>(injected), at<int64_t>(counter), at<float>(actions), B,
                 S, T, A, I, seed, iteration, 1});
        });

  m.def("attention", [](int device, uintptr_t queue, uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t o, int64_t R,
                        int64_t n, int64_t H, int64_t D, int64_t q_row, int64_t q_token, int64_t q_head, int64_t k_row,
                        int64_t k_token, int64_t k_head, int64_t v_row, int64_t v_token, int64_t v_head, int64_t o_row,
                        int64_t o_token, int64_t o_head, int64_t frame_tokens, float scale, int32_t dtype) {
    start("attention", device, queue, &attention,
          {at<void>(q),
           at<void>(k),
           at<void>(v),
           at<void>(o),
           R,
           n,
           H,
           D,
           {q_row, q_token, q_head},
           {k_row, k_token, k_head},
           {v_row, v_token, v_head},
           {o_row, o_token, o_head},
           frame_tokens,
           scale,
           static_cast<DType>(dtype)});
  });

  m.def("goal_cost", [](int device, uintptr_t queue, uintptr_t latents, uintptr_t goal, uintptr_t cost, int64_t B,
                        int64_t S, int64_t T, int64_t E, int32_t metric, int32_t reduce) {
    start("goal_cost", device, queue, &goal_cost,
          {at<float>(latents), at<float>(goal), at<float>(cost), B, S, T, E, static_cast<Metric>(metric),
           static_cast<Reduce>(reduce), 1});
  });

  m.def("cem_update",
        [](int device, uintptr_t queue, uintptr_t actions, uintptr_t cost, uintptr_t old_mean, uintptr_t old_std,
           uintptr_t old_best_cost, uintptr_t old_best_actions, uintptr_t mean, uintptr_t std, uintptr_t elites,
           uintptr_t elite_cost, uintptr_t non_finite, uintptr_t best_cost, uintptr_t best_actions, int64_t B,
           int64_t S, int64_t T, int64_t A, int64_t elite_count, double momentum, double min_std) {
          start("cem_update", device, queue, &cem_update,
                {at<float>(actions),
                 at<float>(cost),
                 at<float>(old_mean),
                 at<float>(old_std),
                 at<float>(old_best_cost),
                 at<float>(old_best_actions),
                 at<float>(mean),
                 at<float>(std),
                 at<int64_t>(elites),
                 at<float>(elite_cost),
                 at<int64_t>(non_finite),
                 at<float>(best_cost),
                 at<float>(best_actions),
                 B,
                 S,
                 T,
                 A,
                 elite_count,
                 momentum,
                 min_std,
                 1});
        });
}
