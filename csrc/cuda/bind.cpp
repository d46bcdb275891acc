// The Python module fastwm._cuda: what was built and what it runs on, and one function per kernel. A function takes the
// device, the stream, addresses, sizes and scalars (csrc/ops.h), and raises RuntimeError with the kernel's name when
// CUDA refuses. Shapes, dtypes and contiguity were checked by the caller in fastwm/ops.
//
// Two builds of the same sources. nvcc's runs on a GPU; the CUDA runtime is linked in, so that the module can be
// imported where there is no driver, and says so. A C++ compiler's (FASTWM_EMULATE, csrc/emulation) runs on the CPU,
// for tests.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#ifdef FASTWM_EMULATE
#include "emulation/schedule.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace py = pybind11;

namespace {

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
}
