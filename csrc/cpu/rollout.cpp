// Batched latent rollouts of an action-conditioned predictor: the model's own sliding-window loop, with nothing done
// twice.
//
// A tile of candidates travels through all steps and layers while its activations stay in L2 and the packed weights
// stream past. Per step only the tokens that are new are computed:
//   * while the window grows, keys and values of earlier tokens are kept (`cache`) and one token per candidate is
//   computed;
//   * once it slides, every token has a new place, so keys and values are made again for the whole window
//   (`keys_values`);
//   * context frames before the last carry no candidate's action: their keys and values are made once per environment
//   and
//     once per place of the window (`prefix`), and shared by all candidates;
//   * in the last layer only the last token asks, and only it passes the MLP and the head;
//   * every layer's modulation depends on actions alone and is made once per action.
// Attention runs head by head: a head's queries, keys and values exist for one tile only, its output goes straight into
// the output projection. A window is at most a few tokens, so scores are plain dot products.
//
// Letters as in ops.h; Wp, Dp, Ep: W, D, E padded to whole panels; m: tokens computed per candidate in this step.
#include "cpu/attention.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/rollout_memory.h"

namespace fastwm::FASTWM_ISA {
namespace {

// Keys and values of one head: candidate c's token i at base + i * stride + c * 2 Dp.
template <class KV>
struct KeysValues {
  KV* base;
  int64_t stride;
  int64_t earlier;  // tokens already there before this step's
};

template <class T>
struct Rollout {
  const RolloutArgs& a;
  const Predictor& p;
  const Sizes s;
  Kept<T>* prefix_store;  // [place of the window][L][H][tokens][B][key, value][Dp]

  // actions -> conditioning -> every layer's modulation

  // actions [count, steps, A] -> modulation [L][attention, MLP][steps][count][shift, scale, gate][Wp], or conditioning
  // [steps][count][Cp]: in the order in which steps read them.
  void embed_actions(Buffers<T>& w, const float* actions, int64_t count, int64_t steps) const {
    const int64_t rows = count * steps;
    for (int64_t first = 0; first < rows; first += CHUNK) {
      const int64_t n = min(CHUNK, rows - first);
      for (int64_t r = 0; r < n; ++r) {
        const int64_t c = (first + r) % count, t = (first + r) / count;
        float* row = w.action_in.data + r * w.action_in.ld;
        for (int64_t i = 0; i < p.A; ++i) row[i] = actions[(c * steps + t) * p.A + i];
        for (int64_t i = p.A; i < padded(p.A); ++i) row[i] = 0.0f;
      }
      // The first layer reads raw actions, whose offset may be large against their differences: float32.
      chain<float>(p.action, 1, w.action_in, n, w.wide, s.widest);
      if (p.action_count > 1) {
        for (int64_t r = 0; r < n; ++r) put(w.kept_in, r, w.wide + r * s.widest, p.action[0].out);
        chain<Kept<T>>(p.action + 1, p.action_count - 1, w.kept_in, n, w.wide, s.widest);
      }
      for (int64_t r = 0; r < n; ++r) {
        float* c = w.wide + r * s.widest;
        if (p.dynamics == Dynamics::mlp) {
          std::memcpy(w.conditioning + (first + r) * s.Cp, c, sizeof(float) * s.Cp);
          continue;
        }
        for (int64_t i = 0; i < s.Wp; i += LANES) store(c + i, silu(load(c + i)));
        put(w.chain_in, r, c, p.W);
      }
      for (int64_t i = 0; i < 2 * p.L; ++i) {
        const Dense& d = p.layers[i / 2].modulation;
        const int64_t K = round_up(p.W, GROUP<T>), half = i % 2 * 3 * s.Wp;
        const void* next = i + 1 < 2 * p.L ? p.layers[(i + 1) / 2].modulation.weight : p.layers[0].qkv.weight;
        Kept<T>* out = w.modulation + (i * rows + first) * 3 * s.Wp;
        gemm(w.chain_in.rows(), n, panels_of<T>(d, K, half, 3 * s.Wp / PANEL, 0, K, 0), next,
             [&](int64_t row, int64_t column, vf c0, vf c1) { store(out + row * 3 * s.Wp + column, c0, c1); });
      }
    }
  }

  // row passes of a block

  // What a block adds to x, not added yet: gate acc, with gates of row r at gate + r * 3 Wp. Nothing if null.
  struct Pending {
    const Kept<T>* gate;
  };

  // R rows of x, with what was pending; total: their sums.
  template <int R>
  FASTWM_INLINE void updated_rows(Buffers<T>& w, Pending pending, int64_t row, float* (&x)[R], vf (&total)[R]) const {
    for (int r = 0; r < R; ++r) x[r] = w.x + (row + r) * s.Wp, total[r] = vf{};
    if (!pending.gate) return each<R>(p.W, [&](int r, int64_t i, bool) { total[r] += load(x[r] + i); });
    const Kept<T>* gate[R];
    const float* acc[R];
    for (int r = 0; r < R; ++r) gate[r] = pending.gate + (row + r) * 3 * s.Wp, acc[r] = w.acc + (row + r) * s.Wp;
    each<R>(p.W, [&](int r, int64_t i, bool) {
      const vf sum = fma(load(gate[r] + i), load(acc[r] + i), load(x[r] + i));
      store(x[r] + i, sum);
      total[r] += sum;
    });
  }

  // input = LayerNorm_1e-5(LayerNorm_1e-6(x) (1 + scale) + shift) of R rows; the second norm's affine part is in the
  // next weights.
  template <int R>
  void modulated_norm(Buffers<T>& w, Pending pending, const Kept<T>* modulation, int64_t row) const {
    float *x[R], *y[R];  // y in L1
    const Kept<T>*shift[R], *scale[R];
    vf total[R], again[R]{};
    updated_rows<R>(w, pending, row, x, total);
    for (int r = 0; r < R; ++r) y[r] = w.wide + r * s.Wp;
    for (int r = 0; r < R; ++r) shift[r] = modulation + (row + r) * 3 * s.Wp, scale[r] = shift[r] + s.Wp;
    const Norm<R> inner(x, total, p.W, 1e-6f);
    each<R>(p.W, [&](int r, int64_t i, bool whole) {
      const vf v = fma(inner(r, i, load(x[r] + i), whole), 1.0f + load(scale[r] + i), load(shift[r] + i));
      store(y[r] + i, v);
      again[r] += v;
    });
    const Norm<R> outer(y, again, p.W, 1e-5f);
    each<R>(p.W, [&](int r, int64_t i, bool whole) { store(y[r] + i, outer(r, i, load(y[r] + i), whole)); });
    for (int r = 0; r < R; ++r) {
      if (s.Wp - round_up(p.W, LANES) > 0) store(y[r] + s.Wp - LANES, vf{});
      put(w.input, row + r, y[r], p.W);
    }
  }

  // The same for `rows` rows; modulation: [rows][shift, scale, gate][Wp], which comes from memory.
  void modulated_norms(Buffers<T>& w, Pending pending, const Kept<T>* modulation, int64_t rows) const {
    constexpr int64_t STEP = LINE / static_cast<int64_t>(sizeof(Kept<T>));
    int64_t row = 0;
    for (; row + NORM_ROWS <= rows; row += NORM_ROWS) {
      for (int64_t r = row + NORM_ROWS; r < row + 2 * NORM_ROWS; ++r) {
        for (int64_t i = 0; i < 2 * s.Wp; i += STEP) __builtin_prefetch(modulation + r * 3 * s.Wp + i, 0, 3);
        if (pending.gate)
          for (int64_t i = 0; i < s.Wp; i += STEP) __builtin_prefetch(pending.gate + r * 3 * s.Wp + i, 0, 3);
      }
      modulated_norm<NORM_ROWS>(w, pending, modulation, row);
    }
    for (; row < rows; ++row) modulated_norm<1>(w, pending, modulation, row);
  }

  // y = LayerNorm_1e-5(x) gain + bias of R rows, the predictor's last norm; rounded into `input` if a head reads it.
  template <int R>
  void final_norm(Buffers<T>& w, Pending pending, int64_t row, float* out) const {
    float *x[R], *y[R];
    vf total[R];
    updated_rows<R>(w, pending, row, x, total);
    for (int r = 0; r < R; ++r) y[r] = p.head_count ? w.wide + r * s.Wp : out + (row + r) * s.Ep;
    const Norm<R> norm(x, total, p.W, 1e-5f);
    each<R>(p.W, [&](int r, int64_t i, bool whole) {
      store(y[r] + i, fma(norm(r, i, load(x[r] + i), whole), load(p.norm_gain + i), load(p.norm_bias + i)));
    });
    for (int r = 0; r < R; ++r) {
      if (s.Wp - round_up(p.W, LANES) > 0) store(y[r] + s.Wp - LANES, vf{});
      if (p.head_count) put(w.input, row + r, y[r], p.W);
    }
  }

  // the layers

  // Rows of a step: token j of candidate c is row j * count + c.
  struct Step {
    int64_t count, m;         // candidates of the tile, tokens computed for each
    int64_t first_candidate;  // global index, to find the environment
    int64_t per_environment;  // candidates per environment
    int64_t shared;           // prefix tokens before the candidate's own
    int64_t place;            // which prefix
    int64_t actions, action;  // actions per candidate in `modulation`; the action of the first token
    bool growing;             // keys and values go to the cache, after `earlier` older ones
    int64_t earlier;
    bool into_prefix;  // keys and values go to the prefix store, and nothing after them is needed
  };

  Kept<T>* prefix_at(int64_t place, int64_t layer, int64_t head) const {
    Kept<T>* base = prefix_store;
    const int64_t token = a.B * 2 * s.Dp;
    for (int64_t i = 0; i < place; ++i) base += p.L * p.H * s.prefix_tokens(a, i) * token;
    return base + (layer * p.H + head) * s.prefix_tokens(a, place) * token;
  }

  KeysValues<Kept<T>> keys_values_at(Buffers<T>& w, const Step& t, int64_t layer, int64_t head) const {
    const int64_t token = 2 * s.Dp, row = t.count * token;
    if (t.into_prefix) return {prefix_at(t.place, layer, head) + t.first_candidate * token, a.B * token, 0};
    if (t.growing) return {w.cache + (layer * p.H + head) * s.growth * row, row, t.earlier};
    return {w.keys_values, row, 0};
  }

  // acc[row of each asking token] = out projection of all heads. Asking: every token, or the last of each candidate.
  void attention(Buffers<T>& w, const Step& t, int64_t layer, bool last_only) const {
    const Layer& l = p.layers[layer];
    const int64_t asking = t.into_prefix && last_only ? 0 : last_only ? 1 : t.m, skip = t.m - asking;
    const int64_t K = round_up(p.W, GROUP<T>), head_panels = s.Dp / PANEL, token = 2 * s.Dp, inner = p.H * s.Dp;
    const bool lone = t.shared + t.earlier + t.m == 1;  // a window of one token attends to itself: no query needed
    const bool queries = asking > 0 && !lone;
    auto weights = [&](int64_t column, int64_t panels) { return panels_of<T>(l.qkv, K, column, panels, 0, K, 0); };
    auto head_begin = [&](int64_t h) { return weights(3 * h * s.Dp + (queries ? 0 : s.Dp), 0).data; };
    auto project = [&](int64_t row, int64_t rows, const Panels<T>& b, const void* next, auto* to, int64_t ld) {
      gemm(w.input.rows(row), rows, b, next,
           [&](int64_t r, int64_t column, vf c0, vf c1) { store(to + r * ld + column, c0, c1); });
    };
    for (int64_t first = 0, part = 0; first < p.H; first += s.head_group, ++part) {
      const int64_t group = min(s.head_group, p.H - first), ldh = group * s.Dp;
      const Panels<T> out = panels_of<T>(l.out, inner, 0, s.Wp / PANEL, first * s.Dp, ldh, part);
      for (int64_t h = first; h < first + group; ++h) {
        const KeysValues<Kept<T>> kv = keys_values_at(w, t, layer, h);
        const Panels<T> query = weights(3 * h * s.Dp, head_panels), both = weights((3 * h + 1) * s.Dp, 2 * head_panels);
        const void* after = asking && h + 1 == first + group ? out.data : h + 1 < p.H ? head_begin(h + 1) : nullptr;
        if (queries) project(skip * t.count, asking * t.count, query, both.data, w.query, s.Dp);
        Kept<T>* to = kv.base + kv.earlier * kv.stride;
        if (t.into_prefix)
          for (int64_t j = 0; j < t.m; ++j) project(j * t.count, t.count, both, after, to + j * kv.stride, token);
        else
          project(0, t.m * t.count, both, after, to, token);
        if (asking == 0) continue;
        const Kept<T>* shared = t.shared ? prefix_at(t.place, layer, h) : nullptr;
        const Kept<T>* ahead = t.growing ? kv.base + s.growth * kv.stride : nullptr;
        attend(Attention<Kept<T>>{w.query, shared, kv.base, ahead, w.scores, t.count, asking, s.Dp, t.shared,
                                  kv.earlier + skip + 1, a.B * token, kv.stride, t.first_candidate, t.per_environment},
               w.heads + (h - first) * s.Dp, ldh);
      }
      if (asking == 0) continue;
      Rows<T> heads;
      if constexpr (GROUP<T> == 4) {
        const Input<T> rounded{w.head_input.data, ldh, w.head_input.scale};
        for (int64_t row = 0; row < t.count * asking; ++row) put(rounded, row, w.heads + row * ldh, ldh);
        heads = rounded.rows();
      } else {
        heads = {w.heads, ldh};
      }
      gemm(
          heads, t.count * asking, out, first + group == p.H ? l.fc1.weight : head_begin(first + group),
          [&](int64_t row, int64_t column, vf c0, vf c1) { add_part(part == 0, w.acc + row * s.Wp + column, c0, c1); });
    }
  }

  // x [m * count, Wp] through all layers; afterwards rows [0, count) of x are the last tokens.
  Pending layers(Buffers<T>& w, const Step& t) const {
    Pending pending{nullptr};
    for (int64_t l = 0; l < p.L; ++l) {
      const bool last = l + 1 == p.L;
      auto modulation = [&](int64_t half, int64_t token) {
        return w.modulation + (((l * 2 + half) * t.actions + t.action + token) * t.count) * 3 * s.Wp;
      };
      modulated_norms(w, pending, modulation(0, 0), t.m * t.count);
      attention(w, t, l, last);
      if (last && t.into_prefix) break;
      const int64_t kept = last ? 1 : t.m, skip = t.m - kept, rows = kept * t.count;
      if (skip) std::memmove(w.x, w.x + skip * t.count * s.Wp, sizeof(float) * rows * s.Wp);
      modulated_norms(w, {modulation(0, skip) + 2 * s.Wp}, modulation(1, skip), rows);
      const void* next = last ? (p.head_count ? p.head[0].weight : nullptr) : p.layers[l + 1].qkv.weight;
      fused_mlp(p.layers[l].fc1, p.layers[l].fc2, w.input.rows(), rows, w.hidden, w.acc, s.Wp, next);
      pending = {modulation(1, skip) + 2 * s.Wp};
    }
    return pending;
  }

  // x[row] = input projection of (latent + position). latent: [E].
  void token(Buffers<T>& w, int64_t row, const float* latent, int64_t place) const {
    float* x = w.x + row * (p.input.weight ? s.Ep : s.Wp);
    const int64_t width = p.input.weight ? s.Ep : s.Wp;
    const float* position = p.position + place * p.E;
    for (int64_t i = 0; i < p.E; ++i) x[i] = latent[i] + position[i];
    for (int64_t i = p.E; i < width; ++i) x[i] = 0.0f;
  }
  void project_tokens(Buffers<T>& w, int64_t rows) const {
    if (!p.input.weight) return;
    for (int64_t r = 0; r < rows; ++r) put(w.input, r, w.x + r * s.Ep, p.E);
    linear(p.input, w.input.rows(), rows, w.x, s.Wp, p.layers[0].qkv.weight, Nothing{});
  }

  // next [count, Ep] = (last) + head(rows of `input`), whose first product is added to `start`
  template <class Start>
  void head(Buffers<T>& w, int64_t count, float* out, const Start& start) const {
    const Dense* d = p.head;
    const int64_t n = p.head_count;
    const void* next = p.dynamics == Dynamics::mlp ? p.latent.weight : p.layers[0].qkv.weight;
    if (p.head_count == 2 && p.fused_head)
      return fused_mlp(d[0], d[1], w.input.rows(), count, w.hidden, out, s.Ep, next, start);
    const int64_t plain = p.fused_head ? n - 2 : n;
    chain(d, plain, w.input, count, w.wide, s.widest, start);
    if (p.fused_head) {
      for (int64_t r = 0; r < count; ++r) put(w.input, r, w.wide + r * s.widest, d[plain - 1].out);
      fused_mlp(d[n - 2], d[n - 1], w.input.rows(), count, w.hidden, out, s.Ep, next);
    } else {
      for (int64_t r = 0; r < count; ++r) std::memcpy(out + r * s.Ep, w.wide + r * s.widest, sizeof(float) * s.Ep);
    }
  }

  // one tile

  const float* latent(const Buffers<T>& w, int64_t count, int64_t first, int64_t c, int64_t frame) const {
    if (frame < a.K) return a.context + ((first + c) / a.S * a.K + frame) * p.E;
    return w.latents + ((frame - a.K) * count + c) * s.Ep;
  }

  void predict(Buffers<T>& w, int64_t first, int64_t count, int64_t t) const {
    const int64_t start = max(0, a.K + t - p.window);
    Step step{};
    step.count = count, step.first_candidate = first, step.per_environment = a.S, step.actions = a.T;
    step.shared = s.prefix_tokens(a, start), step.place = start;
    step.growing = a.K + t <= p.window;
    step.m = step.growing ? 1 : a.K + t - start - step.shared;
    step.earlier = step.growing ? t : 0;
    const int64_t frame = a.K + t - step.m;  // of the first token computed
    step.action = frame - (a.K - 1);
    for (int64_t j = 0; j < step.m; ++j)
      for (int64_t c = 0; c < count; ++c)
        token(w, j * count + c, latent(w, count, first, c, frame + j), frame + j - start);
    project_tokens(w, count * step.m);
    const Pending pending = layers(w, step);

    float* next = w.latents + t * count * s.Ep;
    int64_t c = 0;
    for (; c + NORM_ROWS <= count; c += NORM_ROWS) final_norm<NORM_ROWS>(w, pending, c, next);
    for (; c < count; ++c) final_norm<1>(w, pending, c, next);
    if (p.head_count) head(w, count, next, Nothing{});
    finish_step(w, first, count, t);
  }

  // Where all candidates of an environment start from one latent, its product is made once.
  void predict_mlp(Buffers<T>& w, int64_t first, int64_t count, int64_t t) const {
    const int64_t share = t == 0 ? a.S : 1, before = first % share, latents = (before + count + share - 1) / share;
    float* row = w.wide;
    for (int64_t i = 0; i < latents; ++i) {
      std::memcpy(row, latent(w, count, first, max(0, i * share - before), a.K + t - 1), sizeof(float) * p.E);
      for (int64_t j = p.E; j < s.Ep; ++j) row[j] = 0.0f;
      put(w.input, i, row, p.E);
    }
    const int64_t hidden = padded(p.latent.out);
    linear(p.latent, w.input.rows(), latents, w.from_latents, hidden, p.head[0].weight, Nothing{});
    for (int64_t c = 0; c < count; ++c) put(w.input, c, w.conditioning + (t * count + c) * s.Cp, p.C);
    head(w, count, w.latents + t * count * s.Ep, SharedRows{w.from_latents, hidden, share, before});
    finish_step(w, first, count, t);
  }

  // Residual output, and the latents that the caller keeps.
  void finish_step(Buffers<T>& w, int64_t first, int64_t count, int64_t t) const {
    for (int64_t c = 0; c < count; ++c) {
      float* next = w.latents + (t * count + c) * s.Ep;
      if (p.residual) {
        const float* last = latent(w, count, first, c, a.K + t - 1);
        for (int64_t i = 0; i < p.E; ++i) next[i] += last[i];
      }
      if (a.keep_all)
        std::memcpy(a.latents + ((first + c) * a.T + t) * p.E, next, sizeof(float) * p.E);
      else if (t + 1 == a.T)
        std::memcpy(a.latents + (first + c) * p.E, next, sizeof(float) * p.E);
    }
  }

  void tile(Buffers<T>& w, int64_t first, int64_t count) const {
    embed_actions(w, a.actions + first * a.T * p.A, count, a.T);
    for (int64_t t = 0; t < a.T; ++t)
      if (p.dynamics == Dynamics::mlp)
        predict_mlp(w, first, count, t);
      else
        predict(w, first, count, t);
  }

  // What a tile that was not started leaves behind: NaN, which every cost carries on and every search counts as worst.
  void leave(int64_t first, int64_t count) const {
    const int64_t each = (a.keep_all ? a.T : 1) * p.E;
    for (int64_t i = first * each; i < (first + count) * each; ++i) a.latents[i] = __builtin_nanf("");
  }

  // Keys and values of the shared context tokens of `count` environments, for every place of the window.
  void prefix(Buffers<T>& w, int64_t first, int64_t count) const {
    embed_actions(w, a.past_actions + first * (a.K - 1) * p.A, count, a.K - 1);
    for (int64_t start = 0; start < s.prefixes; ++start) {
      Step step{};
      step.count = count, step.m = s.prefix_tokens(a, start), step.first_candidate = first, step.place = start;
      step.actions = a.K - 1, step.action = start, step.per_environment = 1, step.into_prefix = true;
      for (int64_t j = 0; j < step.m; ++j)
        for (int64_t c = 0; c < count; ++c)
          token(w, j * count + c, a.context + ((first + c) * a.K + start + j) * p.E, j);
      project_tokens(w, count * step.m);
      layers(w, step);
    }
  }
};

template <class T>
struct Job {
  const RolloutArgs& a;
  const Memory<T> memory;
  const Rollout<T> rollout;

  explicit Job(const RolloutArgs& args)
      : a(args), memory(args), rollout{args, *args.predictor, memory.s, static_cast<Kept<T>*>(args.workspace)} {}

  Arena worker(int32_t index) const {
    return {static_cast<char*>(a.workspace) + memory.prefix_bytes + memory.slab * index};
  }

  static void prefix(void* context, int64_t i, int32_t worker) {
    const Job& job = *static_cast<Job*>(context);
    Arena arena = job.worker(worker);
    const int64_t size = job.memory.prefix_tile;
    Buffers<T> w(arena, job.a, job.memory.s, size, job.a.K - 1, job.a.K - 1);
    job.rollout.prefix(w, i * size, min(size, job.a.B - i * size));
  }
  static void tile(void* context, int64_t i, int32_t worker) {
    const Job& job = *static_cast<Job*>(context);
    const int64_t first = i * job.a.tile, count = min(job.a.tile, job.a.B * job.a.S - first);
    if (job.a.until && monotonic_now() >= job.a.until) return job.rollout.leave(first, count);
    Arena arena = job.worker(worker);
    Buffers<T> w(arena, job.a, job.memory.s, job.a.tile, job.memory.s.own, job.a.T);
    job.rollout.tile(w, first, count);
  }
  void run() {
    if (memory.s.prefixes) parallel_for((a.B + memory.prefix_tile - 1) / memory.prefix_tile, a.threads, prefix, this);
    parallel_for((a.B * a.S + a.tile - 1) / a.tile, a.threads, tile, this);
  }
};

}  // namespace

// As many candidates as keep their activations in three quarters of L2, in whole row blocks; on several threads shared
// out evenly instead.
int64_t rollout_tile(const RolloutArgs& a) {
  const Predictor& p = *a.predictor;
  const Sizes s(a);
  const bool exact = p.dtype == DType::float32, int8 = p.dtype == DType::int8;
  const int64_t element = exact ? 4 : int8 ? 1 : 2, kept = exact ? 4 : 2, raw = int8 ? 4 : 0;
  const int64_t row = 8 * max(s.Wp, s.Ep) + (4 + 2 * kept) * s.Dp + element * s.inputs +
                      (element + raw) * max(part_width(p.dtype), s.head_group * s.Dp);
  const int64_t blocks = min(MAX_TILE, l2_bytes() * 3 / 4 / (row * s.own)) / MAX_ROWS;
  const int64_t fits = max(1, blocks) * MAX_ROWS, candidates = a.B * a.S;
  int64_t tiles = (candidates + fits - 1) / fits;
  if (a.threads > 1 && candidates >= a.threads * MAX_ROWS) tiles = round_up(tiles, a.threads);
  const int64_t even = (candidates + tiles - 1) / tiles;
  return a.threads > 1 ? even : min(candidates, round_up(even, MAX_ROWS));
}

size_t rollout_workspace(const RolloutArgs& a) {
  switch (a.predictor->dtype) {
    case DType::bfloat16:
      return Memory<bf16>(a).bytes(a);
    case DType::int8:
      return Memory<byte>(a).bytes(a);
    default:
      return Memory<float>(a).bytes(a);
  }
}

void rollout(const RolloutArgs& a) {
  switch (a.predictor->dtype) {
    case DType::bfloat16:
      return Job<bf16>(a).run();
    case DType::int8:
      return Job<byte>(a).run();
    default:
      return Job<float>(a).run();
  }
}

}  // namespace fastwm::FASTWM_ISA
