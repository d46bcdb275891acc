// Kernels of the tests' own: faults that the emulation must find, and their correct twins.
#include <pybind11/pybind11.h>

#include <string>

#include "emulation/schedule.h"

namespace py = pybind11;

// The module's kernels, in faults.cu: `name` chooses one.
void run_fault(const std::string& name, float* x, float* y, int64_t n);

PYBIND11_MODULE(_cuda, m) {
  m.def("run", [](int, int, const std::string& name, uintptr_t x, uintptr_t y, int64_t n) {
    run_fault(name, reinterpret_cast<float*>(x), reinterpret_cast<float*>(y), n);
  });
  m.def("set_schedule", py::overload_cast<const std::string&>(&fastwm::emulation::set_schedule));
  m.def("set_schedule", py::overload_cast<unsigned>(&fastwm::emulation::set_schedule));
}
