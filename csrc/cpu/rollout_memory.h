// The memory of a rollout: what its sizes follow from, and how a workspace is cut into the buffers of each worker.
#pragma once
#include "cpu/dense.h"
#include "cpu/isa.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {

constexpr int64_t CHUNK = 96;     // rows of actions embedded at one time: enough for the weights to be worth streaming
constexpr int64_t MAX_TILE = 96;  // eight row blocks of AVX-512; 48 to 144 were equally fast at LeWM's size

FASTWM_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
FASTWM_INLINE int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

// Sizes that follow from the arguments.
struct Sizes {
  int64_t Wp, Dp, Ep, Cp, head_group, widest, inputs;
  int64_t growth;      // own tokens that a candidate may have while the window grows
  int64_t own;         // tokens computed per candidate in one step, at most
  int64_t prefixes;    // places of the window that still hold shared context tokens
  int64_t last_start;  // first frame of the window of the last step

  explicit Sizes(const RolloutArgs& a) {
    const Predictor& p = *a.predictor;
    Wp = padded(p.W), Dp = padded(p.D), Ep = padded(p.E), Cp = padded(p.C);
    head_group = max(1, min(p.H, part_width(p.dtype) / max(1, Dp)));
    widest = max(max(Wp, Ep), max(Cp, padded(p.A)));
    for (int64_t i = 0; i < p.action_count; ++i) widest = max(widest, padded(p.action[i].out));
    for (int64_t i = 0; i < p.head_count; ++i) widest = max(widest, padded(p.head[i].out));
    inputs = p.dynamics == Dynamics::mlp ? max(Ep, Cp) : max(Wp, Ep);
    for (int64_t i = 0; i + (p.fused_head ? 2 : 1) < p.head_count; ++i) inputs = max(inputs, padded(p.head[i].out));
    widest = max(widest, inputs);
    last_start = max(0, a.K + a.T - 1 - p.window);
    growth = max(1, min(a.T, p.window - a.K + 1));
    own = last_start == 0 || p.dynamics == Dynamics::mlp ? 1 : min(p.window, a.T);
    prefixes = p.dynamics == Dynamics::mlp ? 0 : min(a.K - 1, last_start + 1);
  }
  int64_t prefix_tokens(const RolloutArgs& a, int64_t start) const { return max(0, a.K - 1 - start); }
};

// Hands out consecutive 64-byte aligned pieces; with a null base it only counts.
struct Arena {
  char* base;
  size_t used = 0;
  template <class T>
  T* take(int64_t count) {
    T* piece = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return piece;
  }
};

// What each dtype of products keeps besides: Heads, what attention writes, are the rows of the output projection, or,
// where those are int8, float32 rows to be rounded; Kept are keys, values and modulation, which do not fit L2: bfloat16
// for the narrow dtypes, half the bytes to fetch.
template <class T>
struct Storage {
  using Heads = T;
  using Kept = bf16;
};
template <>
struct Storage<float> {
  using Heads = float;
  using Kept = float;
};
template <>
struct Storage<byte> {
  using Heads = float;
  using Kept = bf16;
};
template <class T>
using Heads = typename Storage<T>::Heads;
template <class T>
using Kept = typename Storage<T>::Kept;

// One worker's buffers. `rows` is candidates x tokens.
template <class T>
struct Buffers {
  float *x, *acc, *query, *latents, *from_latents, *scores, *wide, *conditioning;
  Kept<T>*keys_values, *cache, *modulation;
  Heads<T>* heads;
  Input<T> input, head_input, chain_in;
  Input<float> action_in;
  Input<Kept<T>> kept_in;  // for the action chain, which is never narrower than this
  Hidden<T> hidden;

  Buffers(Arena& arena, const RolloutArgs& a, const Sizes& s, int64_t tile, int64_t own, int64_t horizon) {
    const Predictor& p = *a.predictor;
    const int64_t rows = tile * own, chunk = max(CHUNK, tile);
    const bool transformer = p.dynamics == Dynamics::transformer, int8 = p.dtype == DType::int8;
    x = arena.take<float>(rows * max(s.Wp, s.Ep));
    acc = arena.take<float>(rows * max(s.Wp, s.Ep));
    query = arena.take<float>(transformer ? rows * s.Dp : 0);
    keys_values = arena.take<Kept<T>>(transformer ? rows * 2 * s.Dp : 0);
    const int64_t head_width = transformer ? s.head_group * s.Dp : 0;
    heads = arena.take<Heads<T>>(rows * head_width);
    hidden = {arena.take<T>(rows * PART<T>), arena.take<float>(int8 ? rows * PART<T> : 0), arena.take<float>(rows)};
    scores = arena.take<float>(p.window * LANES);
    cache = arena.take<Kept<T>>(transformer ? p.L * p.H * tile * s.growth * 2 * s.Dp : 0);
    latents = arena.take<float>(horizon * tile * s.Ep);
    from_latents = arena.take<float>(transformer ? 0 : tile * padded(p.latent.out));
    modulation = arena.take<Kept<T>>(transformer ? p.L * tile * horizon * 6 * s.Wp : 0);
    conditioning = arena.take<float>(transformer ? 0 : tile * horizon * s.Cp);
    wide = arena.take<float>(chunk * s.widest);
    input = take_input<T>(arena, rows, s.inputs);
    head_input = take_input<T>(arena, int8 ? rows : 0, head_width);
    chain_in = take_input<T>(arena, transformer ? CHUNK : 0, s.Wp);
    action_in = take_input<float>(arena, CHUNK, padded(p.A));
    kept_in = take_input<Kept<T>>(arena, p.action_count > 1 ? CHUNK : 0, s.widest);
  }

 private:
  template <class U>
  static Input<U> take_input(Arena& arena, int64_t rows, int64_t ld) {
    return {arena.take<U>(rows * ld), ld, arena.take<float>(rows)};
  }
};

// The memory of one call: the prefix store, then one slab per worker that is large enough for tiles and for prefixes.
template <class T>
struct Memory {
  Sizes s;
  int64_t prefix_tile;
  size_t prefix_bytes, slab;

  explicit Memory(const RolloutArgs& a) : s(a), prefix_tile(min(a.B, max(1, a.tile / max(1, a.K - 1)))) {
    Arena store{nullptr};
    for (int64_t start = 0; start < s.prefixes; ++start)
      store.take<Kept<T>>(a.predictor->L * a.predictor->H * a.B * s.prefix_tokens(a, start) * 2 * s.Dp);
    prefix_bytes = store.used;
    Arena tiles{nullptr}, prefixes{nullptr};
    Buffers<T>(tiles, a, s, a.tile, s.own, a.T);
    if (s.prefixes) Buffers<T>(prefixes, a, s, prefix_tile, a.K - 1, a.K - 1);
    slab = tiles.used > prefixes.used ? tiles.used : prefixes.used;
  }
  size_t bytes(const RolloutArgs& a) const { return prefix_bytes + slab * static_cast<size_t>(a.threads); }
};

}  // namespace fastwm::FASTWM_ISA
