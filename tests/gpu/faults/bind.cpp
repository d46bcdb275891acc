// The kernels of faults.cu as a module of the same name and with the same habits as fastwm._cuda.
#include <pybind11/pybind11.h>

#include <string>

#include "emulation/schedule.h"
#include "faults.h"

namespace py = pybind11;

PYBIND11_MODULE(_cuda, m) {
  m.def("run", [](int, uintptr_t, uintptr_t x, uintptr_t y, const std::string& name, int n) {
    run(name, reinterpret_cast<const float*>(x), reinterpret_cast<float*>(y), n);
  });
  m.def("set_schedule", py::overload_cast<const std::string&>(&fastwm::emulation::set_schedule));
  m.def("set_schedule", py::overload_cast<unsigned>(&fastwm::emulation::set_schedule));
}
