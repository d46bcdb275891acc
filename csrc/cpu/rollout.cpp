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

// Where the keys and values of this step's own tokens lie: candidate c's token i at base + c * candidate_stride + i * 2
// Dp.
struct KeysValues {
  float* base;
  int64_t candidate_stride;
  int64_t earlier;  // own tokens already there before this step's
};

template <class T>
struct Rollout {
  const RolloutArgs& a;
  const Predictor& p;
  const Sizes s;
  float* prefix_store;  // [place of the window][L][H][B][tokens][key, value][Dp]

  // actions -> conditioning -> every layer's modulation

  // rows actions [rows, A] -> modulation [L][row0 + row][6 Wp] of a store with `stride` rows per layer.
  void embed_actions(Buffers<T>& w, const float* actions, int64_t rows, int64_t stride) const {
    const int64_t lda = s.widest;
    for (int64_t first = 0; first < rows; first += CHUNK) {
      const int64_t n = min(CHUNK, rows - first);
      for (int64_t r = 0; r < n; ++r) {
        float* row = w.wide_in + r * lda;
        for (int64_t i = 0; i < p.A; ++i) row[i] = actions[(first + r) * p.A + i];
        for (int64_t i = p.A; i < padded(p.A); ++i) row[i] = 0.0f;
      }
      chain<float>(p.action, p.action_count, w.wide_in, lda, n, w.wide, lda);
      if (p.dynamics == Dynamics::mlp) {
        for (int64_t r = 0; r < n; ++r)
          std::memcpy(w.modulation + (first + r) * s.Cp, w.wide + r * lda, sizeof(float) * s.Cp);
        continue;
      }
      for (int64_t r = 0; r < n; ++r)
        for (int64_t i = 0; i < s.Wp; i += PANEL)
          store(w.chain_in + r * s.Wp + i, silu(load(w.wide + r * lda + i)), silu(load(w.wide + r * lda + i + LANES)));
      for (int64_t l = 0; l < p.L; ++l) {
        Dense d = p.layers[l].modulation;
        d.out = 6 * s.Wp;
        linear(d, w.chain_in, s.Wp, n, w.modulation + (l * stride + first) * 6 * s.Wp, 6 * s.Wp);
      }
    }
  }

  // row passes of a block

  // input = LayerNorm_1e-5(LayerNorm_1e-6(x) (1 + scale) + shift); the second norm's affine part is in the next
  // weights.
  void modulated_norm(Buffers<T>& w, const float* modulation, int64_t row) const {
    const float *x = w.x + row * s.Wp, *shift = modulation, *scale = modulation + s.Wp;
    float* y = w.wide;  // one row, in L1
    normalize(x, y, p.W, 1e-6f);
    for (int64_t i = 0; i < p.W; i += LANES) store(y + i, fma(load(y + i), 1.0f + load(scale + i), load(shift + i)));
    normalize(y, y, p.W, 1e-5f);
    if (s.Wp - round_up(p.W, LANES) > 0) store(y + s.Wp - LANES, vf{});
    convert(y, w.input + row * s.inputs, p.W);
  }

  void gated_add(Buffers<T>& w, const float* gate, int64_t row) const {
    float* x = w.x + row * s.Wp;
    const float* acc = w.acc + row * s.Wp;
    for (int64_t i = 0; i < p.W; i += LANES) store(x + i, fma(load(gate + i), load(acc + i), load(x + i)));
  }

  // the layers

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

  float* prefix_at(int64_t place, int64_t layer, int64_t head, int64_t environment) const {
    float* base = prefix_store;
    for (int64_t i = 0; i < place; ++i) base += p.L * p.H * a.B * s.prefix_tokens(a, i) * 2 * s.Dp;
    const int64_t tokens = s.prefix_tokens(a, place);
    return base + ((layer * p.H + head) * a.B + environment) * tokens * 2 * s.Dp;
  }

  KeysValues keys_values_at(Buffers<T>& w, const Step& t, int64_t layer, int64_t head) const {
    const int64_t token = 2 * s.Dp;
    if (t.into_prefix) return {prefix_at(t.place, layer, head, t.first_candidate), t.m * token, 0};
    if (t.growing) return {w.cache + (layer * p.H + head) * t.count * s.growth * token, s.growth * token, t.earlier};
    return {w.keys_values, t.m * token, 0};
  }

  // acc[row of each asking token] = out projection of all heads. Asking: every token, or the last of each candidate.
  void attention(Buffers<T>& w, const Step& t, int64_t layer, bool last_only) const {
    const Layer& l = p.layers[layer];
    const int64_t asking = t.into_prefix && last_only ? 0 : last_only ? 1 : t.m;
    const int64_t K = round_up(p.W, GROUP<T>), head_panels = s.Dp / PANEL, token = 2 * s.Dp;
    const T *qkv = static_cast<const T*>(l.qkv.weight), *out = static_cast<const T*>(l.out.weight);
    const bool lone = t.shared + t.earlier + t.m == 1;  // a window of one token attends to itself: no query needed
    auto project = [&](const T* rows, int64_t lda, int64_t n, int64_t column, int64_t panels, float* to, int64_t ld) {
      gemm(
          rows, lda, n, qkv + column * K, K * PANEL, K, panels,
          [&](int64_t, int64_t panel, vf& c0, vf& c1) {
            const float* bias = l.qkv.bias + column + panel * PANEL;
            c0 = load(bias), c1 = load(bias + LANES);
          },
          [&](int64_t row, int64_t panel, vf c0, vf c1) { store(to + row * ld + panel * PANEL, c0, c1); });
    };
    for (int64_t first = 0; first < p.H; first += s.head_group) {
      const int64_t group = min(s.head_group, p.H - first), ldh = group * s.Dp;
      for (int64_t h = first; h < first + group; ++h) {
        const KeysValues kv = keys_values_at(w, t, layer, h);
        project(w.input, s.inputs, t.count * t.m, (3 * h + 1) * s.Dp, 2 * head_panels, kv.base + kv.earlier * token,
                t.m == 1 ? kv.candidate_stride : token);
        if (asking == 0) continue;
        const int64_t skip = t.m - asking;
        if (!lone)
          project(w.input + skip * s.inputs, asking == 1 ? t.m * s.inputs : s.inputs, t.count * asking, 3 * h * s.Dp,
                  head_panels, w.query, s.Dp);
        attend(
            Attention{w.query, t.shared ? prefix_at(t.place, layer, h, 0) : nullptr, kv.base, w.scores, t.count, asking,
                      s.Dp, t.shared, kv.earlier + skip + 1, kv.candidate_stride, t.first_candidate, t.per_environment},
            w.heads + (h - first) * s.Dp, ldh);
      }
      if (asking == 0) continue;
      gemm(
          w.heads, ldh, t.count * asking, out + first * s.Dp * PANEL, p.H * s.Dp * PANEL, ldh, s.Wp / PANEL,
          [&](int64_t, int64_t panel, vf& c0, vf& c1) { begin_part(first == 0, l.out.bias + panel * PANEL, c0, c1); },
          [&](int64_t row, int64_t panel, vf c0, vf c1) {
            end_part(first == 0, w.acc + row * s.Wp + panel * PANEL, c0, c1);
          });
    }
  }

  // x [count * m, Wp] through all layers; afterwards rows [0, count) of x are the last tokens.
  void layers(Buffers<T>& w, const Step& t) const {
    for (int64_t l = 0; l < p.L; ++l) {
      const bool last = l + 1 == p.L;
      auto modulation = [&](int64_t c, int64_t j) {
        return w.modulation + ((l * t.count + c) * t.actions + t.action + j) * 6 * s.Wp;
      };
      for (int64_t c = 0; c < t.count; ++c)
        for (int64_t j = 0; j < t.m; ++j) modulated_norm(w, modulation(c, j), c * t.m + j);
      attention(w, t, l, last);
      if (last && t.into_prefix) return;
      const int64_t kept = last ? 1 : t.m, skip = t.m - kept;
      if (skip)
        for (int64_t c = 0; c < t.count; ++c)
          std::memmove(w.x + c * s.Wp, w.x + (c * t.m + skip) * s.Wp, sizeof(float) * s.Wp);
      for (int64_t c = 0; c < t.count; ++c)
        for (int64_t j = 0; j < kept; ++j) {
          const float* m = modulation(c, skip + j);
          const int64_t row = c * kept + j;
          gated_add(w, m + 2 * s.Wp, row);
          modulated_norm(w, m + 3 * s.Wp, row);
        }
      fused_mlp(p.layers[l].fc1, p.layers[l].fc2, w.input, s.inputs, t.count * kept, w.hidden, w.acc, s.Wp);
      for (int64_t c = 0; c < t.count; ++c)
        for (int64_t j = 0; j < kept; ++j) gated_add(w, modulation(c, skip + j) + 5 * s.Wp, c * kept + j);
    }
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
    for (int64_t r = 0; r < rows; ++r) convert(w.x + r * s.Ep, w.input + r * s.inputs, p.E);
    linear(p.input, w.input, s.inputs, rows, w.x, s.Wp);
  }

  // next [count, Ep] = (last) + head(rows of `input`)
  void head(Buffers<T>& w, int64_t count, float* next) const {
    const Dense* d = p.head;
    int64_t n = p.head_count;
    const bool fuse = n >= 2 && !d[n - 2].norm_gain && d[n - 2].activation != Activation::none && !d[n - 1].norm_gain &&
                      d[n - 1].activation == Activation::none;
    const T* in = w.input;
    int64_t ld = s.inputs;
    if (n > (fuse ? 2 : 0)) {
      for (int64_t r = 0; r < count; ++r)
        std::memcpy(w.chain_in + r * s.widest, w.input + r * s.inputs, sizeof(T) * s.inputs);
      const int64_t plain = fuse ? n - 2 : n;
      chain(d, plain, w.chain_in, s.widest, count, w.wide, s.widest);
      if (!fuse) {
        for (int64_t r = 0; r < count; ++r) std::memcpy(next + r * s.Ep, w.wide + r * s.widest, sizeof(float) * s.Ep);
        return;
      }
      for (int64_t r = 0; r < count; ++r) convert(w.wide + r * s.widest, w.chain_in + r * s.widest, d[plain - 1].out);
      in = w.chain_in, ld = s.widest;
    }
    fused_mlp(d[n - 2], d[n - 1], in, ld, count, w.hidden, next, s.Ep);
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
    for (int64_t c = 0; c < count; ++c)
      for (int64_t j = 0; j < step.m; ++j)
        token(w, c * step.m + j, latent(w, count, first, c, frame + j), frame + j - start);
    project_tokens(w, count * step.m);
    layers(w, step);

    float* next = w.latents + t * count * s.Ep;
    for (int64_t c = 0; c < count; ++c) {
      float* row = p.head_count ? w.wide : next + c * s.Ep;
      normalize(w.x + c * s.Wp, row, p.W, 1e-5f);
      for (int64_t i = 0; i < p.W; i += LANES)
        store(row + i, fma(load(row + i), load(p.norm_gain + i), load(p.norm_bias + i)));
      if (s.Wp - round_up(p.W, LANES) > 0) store(row + s.Wp - LANES, vf{});
      if (p.head_count) convert(row, w.input + c * s.inputs, p.W);
    }
    if (p.head_count) head(w, count, next);
    finish_step(w, first, count, t);
  }

  void predict_mlp(Buffers<T>& w, int64_t first, int64_t count, int64_t t) const {
    for (int64_t c = 0; c < count; ++c) {
      const float *z = latent(w, count, first, c, a.K + t - 1), *cond = w.modulation + (c * a.T + t) * s.Cp;
      float* row = w.wide;
      for (int64_t i = 0; i < p.E; ++i) row[i] = z[i];
      for (int64_t i = 0; i < p.C; ++i) row[p.E + i] = cond[i];
      for (int64_t i = p.E + p.C; i < s.inputs; ++i) row[i] = 0.0f;
      convert(row, w.input + c * s.inputs, s.inputs);
    }
    head(w, count, w.latents + t * count * s.Ep);
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
    embed_actions(w, a.actions + first * a.T * p.A, count * a.T, count * a.T);
    for (int64_t t = 0; t < a.T; ++t)
      if (p.dynamics == Dynamics::mlp)
        predict_mlp(w, first, count, t);
      else
        predict(w, first, count, t);
  }

  // Keys and values of the shared context tokens of `count` environments, for every place of the window.
  void prefix(Buffers<T>& w, int64_t first, int64_t count) const {
    embed_actions(w, a.past_actions + first * (a.K - 1) * p.A, count * (a.K - 1), count * (a.K - 1));
    for (int64_t start = 0; start < s.prefixes; ++start) {
      Step step{};
      step.count = count, step.m = s.prefix_tokens(a, start), step.first_candidate = first, step.place = start;
      step.actions = a.K - 1, step.action = start, step.per_environment = 1, step.into_prefix = true;
      for (int64_t c = 0; c < count; ++c)
        for (int64_t j = 0; j < step.m; ++j)
          token(w, c * step.m + j, a.context + ((first + c) * a.K + start + j) * p.E, j);
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
      : a(args), memory(args), rollout{args, *args.predictor, memory.s, static_cast<float*>(args.workspace)} {}

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
    Arena arena = job.worker(worker);
    Buffers<T> w(arena, job.a, job.memory.s, job.a.tile, job.memory.s.own, job.a.T);
    job.rollout.tile(w, i * job.a.tile, min(job.a.tile, job.a.B * job.a.S - i * job.a.tile));
  }
  void run() {
    if (memory.s.prefixes) parallel_for((a.B + memory.prefix_tile - 1) / memory.prefix_tile, a.threads, prefix, this);
    parallel_for((a.B * a.S + a.tile - 1) / a.tile, a.threads, tile, this);
  }
};

}  // namespace

// As many candidates as keep their activations in two thirds of L2, shared out evenly among the threads.
int64_t rollout_tile(const RolloutArgs& a) {
  const Predictor& p = *a.predictor;
  const Sizes s(a);
  const int64_t element = p.dtype == DType::bfloat16 ? 2 : 4;
  const int64_t row = 8 * max(s.Wp, s.Ep) + 12 * s.Dp + element * (s.inputs + HIDDEN + s.head_group * s.Dp);
  const int64_t fits = max(MAX_ROWS, min(MAX_TILE, l2_bytes() * 2 / 3 / (row * s.own)));
  const int64_t candidates = a.B * a.S;
  int64_t tiles = (candidates + fits - 1) / fits;
  if (candidates >= a.threads * MAX_ROWS) tiles = round_up(tiles, a.threads);
  return (candidates + tiles - 1) / tiles;
}

size_t rollout_workspace(const RolloutArgs& a) {
  return a.predictor->dtype == DType::bfloat16 ? Memory<bf16>(a).bytes(a) : Memory<float>(a).bytes(a);
}

void rollout(const RolloutArgs& a) {
  if (a.predictor->dtype == DType::bfloat16)
    Job<bf16>(a).run();
  else
    Job<float>(a).run();
}

}  // namespace fastwm::FASTWM_ISA
