// The Python module fastwm._cpu: plain numbers and addresses in, one struct, one call with the GIL released.
// Shapes, dtypes and contiguity were checked by the caller in fastwm/ops and fastwm/engine.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "cpu/isa.h"
#include "cpu/pack.h"
#include "cpu/parallel.h"

namespace py = pybind11;
using namespace fastwm;

namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

const Kernels& kernels_of(const std::string& isa) {
  if (const Kernels* kernels = find_isa(isa.c_str())) return *kernels;
  throw py::value_error("instruction set '" + isa + "' is not available on this machine or in this build");
}

std::vector<std::string> isas() {
  const Kernels* const* list;
  const int count = supported_isas(&list);
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.emplace_back(list[i]->isa);
  return names;
}

// What Python says of one packed Dense, in the order of its fields.
using DenseTuple =
    std::tuple<uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, int64_t, int64_t, int64_t, int32_t>;

Dense dense_of(const DenseTuple& t) {
  return {at<void>(std::get<0>(t)),
          at<float>(std::get<1>(t)),
          at<float>(std::get<2>(t)),
          at<float>(std::get<3>(t)),
          at<float>(std::get<4>(t)),
          at<int32_t>(std::get<5>(t)),
          std::get<6>(t),
          std::get<7>(t),
          std::get<8>(t),
          static_cast<Activation>(std::get<9>(t))};
}

PackShape shape_of(const std::string& isa, int64_t out_blocks, int64_t out, int64_t in_blocks, int64_t in, int64_t part,
                   int32_t dtype) {
  return {kernels_of(isa).lanes, out_blocks, out, in_blocks, in, part, static_cast<DType>(dtype)};
}

std::vector<Dense> denses_of(const std::vector<DenseTuple>& tuples) {
  std::vector<Dense> out;
  for (const auto& t : tuples) out.push_back(dense_of(t));
  return out;
}

// A Predictor with the arrays that its pointers point into, and the kernels it was packed for. The packed weights
// themselves belong to the Python side, which keeps them alive.
struct BoundPredictor {
  const Kernels* kernels;
  std::vector<Dense> action, head;
  std::vector<Layer> layers;
  Predictor p{};

  BoundPredictor(const std::string& isa, const py::dict& d) : kernels(&kernels_of(isa)) {
    action = denses_of(d["action"].cast<std::vector<DenseTuple>>());
    head = denses_of(d["head"].cast<std::vector<DenseTuple>>());
    for (const auto& l : d["layers"].cast<std::vector<std::vector<DenseTuple>>>())
      layers.push_back({dense_of(l.at(0)), dense_of(l.at(1)), dense_of(l.at(2)), dense_of(l.at(3)), dense_of(l.at(4))});
    auto size = [&](const char* name) { return d[name].cast<int64_t>(); };
    auto pointer = [&](const char* name) { return at<const float>(d[name].cast<uintptr_t>()); };
    p.action = action.data(), p.action_count = static_cast<int64_t>(action.size());
    p.head = head.data(), p.head_count = static_cast<int64_t>(head.size());
    p.layers = layers.data(), p.L = static_cast<int64_t>(layers.size());
    p.position = pointer("position"), p.norm_gain = pointer("norm_gain"), p.norm_bias = pointer("norm_bias");
    p.input = dense_of(d["input"].cast<DenseTuple>()), p.latent = dense_of(d["latent"].cast<DenseTuple>());
    p.E = size("E"), p.A = size("A"), p.C = size("C"), p.W = size("W"), p.H = size("H"), p.D = size("D");
    p.window = size("window");
    p.dynamics = static_cast<Dynamics>(d["dynamics"].cast<int32_t>());
    p.dtype = static_cast<DType>(d["dtype"].cast<int32_t>());
    p.residual = d["residual"].cast<bool>();
    p.fused_head = d["fused_head"].cast<bool>();
  }
  BoundPredictor(const BoundPredictor&) = delete;

  RolloutArgs args(uintptr_t context, uintptr_t past_actions, uintptr_t actions, uintptr_t latents, uintptr_t workspace,
                   int64_t B, int64_t S, int64_t T, int64_t K, bool keep_all, int32_t threads,
                   int64_t until = 0) const {
    RolloutArgs a{&p,
                  at<float>(context),
                  at<float>(past_actions),
                  at<float>(actions),
                  at<float>(latents),
                  at<void>(workspace),
                  B,
                  S,
                  T,
                  K,
                  0,
                  keep_all,
                  threads,
                  until};
    a.tile = kernels->rollout_tile(a);
    return a;
  }
};

}  // namespace

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  m.doc() = "C++ kernels of fastwm for the CPU, one build per instruction set.";
  m.def("isas", &isas, "Instruction sets that this build has and this machine runs, best first.");

  m.def("cem_sample",
        [](const std::string& isa, uintptr_t mean, uintptr_t std, uintptr_t noise, uintptr_t stream, uintptr_t low,
           uintptr_t high, uintptr_t factor, uintptr_t injected, uintptr_t counter, uintptr_t actions, int64_t B,
           int64_t S, int64_t T, int64_t A, int64_t I, uint64_t seed, int64_t iteration, int32_t threads) {
          const CemSampleArgs a{at<float>(mean),
                                at<float>(std),
                                at<float>(noise),
                                at<int64_t>(stream),
                                at<float>(low),
                                at<float>(high),
                                at<float>(factor),
                                at<float>(injected),
                                at<int64_t>(counter),
                                at<float>(actions),
                                B,
                                S,
                                T,
                                A,
                                I,
                                seed,
                                iteration,
                                threads};
          const Kernels& k = kernels_of(isa);
          py::gil_scoped_release unlocked;
          k.cem_sample(a);
        });

  m.def("goal_cost", [](const std::string& isa, uintptr_t latents, uintptr_t goal, uintptr_t cost, int64_t B, int64_t S,
                        int64_t T, int64_t E, int32_t metric, int32_t reduce, int32_t threads) {
    const GoalCostArgs a{
        at<float>(latents),          at<float>(goal), at<float>(cost), B, S, T, E, static_cast<Metric>(metric),
        static_cast<Reduce>(reduce), threads};
    const Kernels& k = kernels_of(isa);
    py::gil_scoped_release unlocked;
    k.goal_cost(a);
  });

  m.def("cem_update",
        [](const std::string& isa, uintptr_t actions, uintptr_t cost, uintptr_t old_mean, uintptr_t old_std,
           uintptr_t old_best_cost, uintptr_t old_best_actions, uintptr_t mean, uintptr_t std, uintptr_t elites,
           uintptr_t elite_cost, uintptr_t non_finite, uintptr_t best_cost, uintptr_t best_actions, int64_t B,
           int64_t S, int64_t T, int64_t A, int64_t elite_count, double momentum, double min_std, int32_t threads) {
          const CemUpdateArgs a{at<float>(actions),
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
                                threads};
          const Kernels& k = kernels_of(isa);
          py::gil_scoped_release unlocked;
          k.cem_update(a);
        });

  m.def("adaln",
        [](const std::string& isa, uintptr_t x, uintptr_t shift, uintptr_t scale, uintptr_t gain, uintptr_t bias,
           uintptr_t y, int64_t rows, int64_t share, int64_t W, float eps, float affine_eps, int32_t threads) {
          const AdaLNArgs a{at<float>(x),
                            at<float>(shift),
                            at<float>(scale),
                            at<float>(gain),
                            at<float>(bias),
                            at<float>(y),
                            rows,
                            share,
                            W,
                            eps,
                            affine_eps,
                            threads};
          const Kernels& k = kernels_of(isa);
          py::gil_scoped_release unlocked;
          k.adaln(a);
        });
  m.def("adaln_backward",
        [](const std::string& isa, uintptr_t gradient, uintptr_t x, uintptr_t shift, uintptr_t scale, uintptr_t gain,
           uintptr_t dx, uintptr_t dshift, uintptr_t dscale, uintptr_t of_affine, uintptr_t workspace, int64_t rows,
           int64_t share, int64_t W, int64_t tasks, float eps, float affine_eps, int32_t threads) {
          const AdaLNBackwardArgs a{at<float>(gradient),
                                    at<float>(x),
                                    at<float>(shift),
                                    at<float>(scale),
                                    at<float>(gain),
                                    at<float>(dx),
                                    at<float>(dshift),
                                    at<float>(dscale),
                                    at<float>(of_affine),
                                    at<float>(workspace),
                                    rows,
                                    share,
                                    W,
                                    tasks,
                                    eps,
                                    affine_eps,
                                    threads};
          const Kernels& k = kernels_of(isa);
          py::gil_scoped_release unlocked;
          k.adaln_backward(a);
        });
  m.attr("ADALN_ROWS_PER_TASK") = ADALN_ROWS_PER_TASK;
  m.def("attention", [](const std::string& isa, const std::vector<uintptr_t>& p, const std::vector<int64_t>& sizes,
                        const std::vector<int64_t>& s, int64_t frame_tokens, float scale, int32_t threads) {
    const AttentionTrainingArgs a{at<float>(p.at(0)),
                                  at<float>(p.at(1)),
                                  at<float>(p.at(2)),
                                  at<float>(p.at(3)),
                                  at<float>(p.at(4)),
                                  at<float>(p.at(5)),
                                  at<float>(p.at(6)),
                                  at<float>(p.at(7)),
                                  sizes.at(0),
                                  sizes.at(1),
                                  sizes.at(2),
                                  sizes.at(3),
                                  {s.at(0), s.at(1), s.at(2)},
                                  {s.at(3), s.at(4), s.at(5)},
                                  {s.at(6), s.at(7), s.at(8)},
                                  frame_tokens,
                                  scale,
                                  threads};
    const Kernels& k = kernels_of(isa);
    py::gil_scoped_release unlocked;
    k.attention(a);
  });
  m.attr("ATTENTION_MOST_TOKENS") = ATTENTION_MOST_TOKENS;
  m.def("sigreg", [](const std::string& isa, uintptr_t samples, uintptr_t rule, uintptr_t found, uintptr_t pull,
                     int64_t T, int64_t B, int64_t P, int64_t F, double spacing, int32_t threads) {
    const SigregArgs a{
        at<float>(samples), at<float>(rule), at<float>(found), at<float>(pull), T, B, P, F, spacing, threads};
    const Kernels& k = kernels_of(isa);
    py::gil_scoped_release unlocked;
    k.sigreg(a);
  });
  m.def("sigreg_backward",
        [](const std::string& isa, uintptr_t gradient, uintptr_t samples, uintptr_t pull, uintptr_t out, int64_t T,
           int64_t B, int64_t P, int64_t F, double spacing, int32_t threads) {
          const SigregBackwardArgs a{
              at<float>(gradient), at<float>(samples), at<float>(pull), at<float>(out), T, B, P, F, spacing, threads};
          const Kernels& k = kernels_of(isa);
          py::gil_scoped_release unlocked;
          k.sigreg_backward(a);
        });
  m.attr("SIGREG_MOST_FREQUENCIES") = SIGREG_MOST_FREQUENCIES;

  m.def("linear", [](const std::string& isa, uintptr_t a, uintptr_t b, uintptr_t bias, uintptr_t c, uintptr_t workspace,
                     int64_t M, int64_t N, int64_t K, bool a_turned, bool b_turned, bool bfloat16, int32_t threads) {
    const LinearArgs p{at<float>(a), at<float>(b), at<float>(bias), at<float>(c), at<float>(workspace), M, N, K,
                       a_turned,     b_turned,     bfloat16,        threads};
    const Kernels& k = kernels_of(isa);
    py::gil_scoped_release unlocked;
    k.linear(p);
  });
  m.attr("LINEAR_WORKSPACE") = LINEAR_WORKSPACE;
  m.def("fma_peak", [](const std::string& isa, uintptr_t sums, int64_t rounds, int32_t dtype, int32_t threads) {
    const FmaPeakArgs a{at<float>(sums), rounds, static_cast<DType>(dtype), threads};
    const Kernels& k = kernels_of(isa);
    py::gil_scoped_release unlocked;
    return k.fma_peak(a);
  });
  m.attr("FMA_PEAK_SUMS") = FMA_PEAK_SUMS;

  m.def("activate", [](const std::string& isa, uintptr_t x, uintptr_t y, int64_t n, int32_t function, int32_t dtype) {
    const ActivateArgs a{at<float>(x), at<float>(y), n, static_cast<Function>(function), static_cast<DType>(dtype)};
    const Kernels& k = kernels_of(isa);
    py::gil_scoped_release unlocked;
    k.activate(a);
  });

  m.def(
      "packed_sizes",
      [](const std::string& isa, int64_t out_blocks, int64_t out, int64_t in_blocks, int64_t in, int64_t part,
         int32_t dtype) {
        const PackShape shape = shape_of(isa, out_blocks, out, in_blocks, in, part, dtype);
        return std::make_tuple(packed_size(shape), shape.parts(), shape.columns());
      },
      "Bytes of the packed weight, parts and columns of its int8 scales.");
  m.def("pack", [](const std::string& isa, uintptr_t weight, uintptr_t packed, uintptr_t scale, uintptr_t sums,
                   int64_t out_blocks, int64_t out, int64_t in_blocks, int64_t in, int64_t part, int32_t dtype) {
    pack(shape_of(isa, out_blocks, out, in_blocks, in, part, dtype), at<float>(weight), at<void>(packed),
         at<float>(scale), at<int32_t>(sums));
  });
  m.def("part_width", [](int32_t dtype) { return part_width(static_cast<DType>(dtype)); });
  m.def("activation_minimum",
        [](int32_t activation) { return activation_minimum(static_cast<Activation>(activation)); });
  m.def("advise_large_pages", [](uintptr_t address, size_t bytes) { advise_large_pages(at<void>(address), bytes); });
  m.def("panel_width", [](const std::string& isa) { return 2 * kernels_of(isa).lanes; });

  py::class_<BoundPredictor>(m, "Predictor")
      .def(py::init<const std::string&, const py::dict&>())
      .def("tile", [](const BoundPredictor& b, int64_t B, int64_t S, int64_t T, int64_t K,
                      int32_t threads) { return b.args(0, 0, 0, 0, 0, B, S, T, K, false, threads).tile; })
      .def("workspace",
           [](const BoundPredictor& b, int64_t B, int64_t S, int64_t T, int64_t K, int32_t threads) {
             return b.kernels->rollout_workspace(b.args(0, 0, 0, 0, 0, B, S, T, K, false, threads));
           })
      .def("rollout", [](const BoundPredictor& b, uintptr_t context, uintptr_t past_actions, uintptr_t actions,
                         uintptr_t latents, uintptr_t workspace, int64_t B, int64_t S, int64_t T, int64_t K,
                         bool keep_all, int32_t threads, double seconds) {
        const int64_t until = seconds < 0 ? 0 : monotonic_now() + static_cast<int64_t>(seconds * 1e9);
        const RolloutArgs a =
            b.args(context, past_actions, actions, latents, workspace, B, S, T, K, keep_all, threads, until);
        py::gil_scoped_release unlocked;
        b.kernels->rollout(a);
      });
}
