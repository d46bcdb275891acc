// Every kernel of fastwm: what it reads and what it writes, in the order data flows.
//
// Letters: B environments, S candidates, T horizon in action blocks, K context frames, E embedding, L layers, H heads,
// D head dim, A numbers in one action block, W predictor width. All arrays are dense, row-major, float32 unless said.
// Pointers first, then sizes, then scalars. Memory belongs to the caller; no kernel allocates. `threads` are the CPU's:
// a GPU does not read it, and its functions in cuda/bind.cpp take every field but that one, in this order.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fastwm {

enum class DType : int32_t { float32, bfloat16, int8 };
enum class Activation : int32_t { none, silu, gelu, mish, simnorm };

// ---- cem_sample: mean, std, counter -> candidate actions

struct CemSampleArgs {
  const float* mean;       // [B, T, A]
  const float* std;        // [B, T, A]
  const float* noise;      // [B, S, T, A] standard normal draws to use instead of the counter's, or null
  const int64_t* stream;   // [B] the random stream of each environment, below 2^32, or null for 0 .. B-1
  const float* low;        // [T, A] or null
  const float* high;       // [T, A] or null
  const float* factor;     // [T, T] lower triangular: the noise of one number over T is factor times normals, or null
  const float* injected;   // [B, I, T, A] candidates 1 .. I, clipped as the others are, or null
  const int64_t* counter;  // [2] seed and iteration, read when the kernel runs, in place of the two below, or null
  float* actions;          // [B, S, T, A] out; candidate 0 is the mean
  int64_t B, S, T, A, I;   // I < S
  uint64_t seed;
  int64_t iteration;  // below 2^32
  int32_t threads;
};

// ---- rollout: context latents, candidate actions -> predicted latents

// y = activation(norm(x W^T + bias)); the weight is packed by pack() for one instruction set, see cpu/pack.h.
//
// int8: W[o, k] = scale[part of k][o] times a signed byte, x[k] = scale of the row (and part) times (byte - zero). The
// zero is 128, and start = -128 times the column's sum of bytes; or, in the second layer of a fused MLP, it stands for
// activation_minimum, whose product with W is in the bias, and start is null.
struct Dense {
  const void* weight;      // packed panels, or null: y = x
  const float* bias;       // [out padded], never null with a weight
  const float* norm_gain;  // [out] LayerNorm (eps 1e-5) between the product and the activation, or null
  const float* norm_bias;  // [out]
  const float* scale;      // int8: [parts, scale_ld]
  const int32_t* start;    // int8: [parts, scale_ld] or null
  int64_t in, out, scale_ld;
  Activation activation;
};

// Inputs that are summed, and in int8 scaled, together where a product's K comes in parts: columns of an MLP's hidden
// layer, and heads of an attention. Wide parts cost less, short ones are more exact.
constexpr int64_t part_width(DType dtype) { return dtype == DType::float32 ? 128 : 256; }

// A bound of what the activation gives, from below; int8 counts an MLP's hidden layer from it.
constexpr float activation_minimum(Activation activation) {
  return activation == Activation::gelu ? -0.17f : activation == Activation::silu ? -0.2785f : -0.309f;
}

// One AdaLN-zero block. Columns of a packed matrix come in blocks, each padded to the panel width.
struct Layer {
  Dense modulation;  // W -> 6 blocks of W: shift, scale, gate of the attention, then of the MLP
  Dense qkv;         // W -> H x (query, key, value) blocks of D; the query is already scaled by D^-1/2
  Dense out;         // H blocks of D -> W
  Dense fc1, fc2;    // W -> M -> W, exact GELU between
};

enum class Dynamics : int32_t { transformer, mlp };

struct Predictor {
  const Dense* action;     // [action_count] action block -> conditioning
  const Layer* layers;     // [L]
  const Dense* head;       // [head_count] final norm -> E; for mlp dynamics the whole chain, conditioning -> E
  const float* position;   // [window, E] added to the latents by place in the window
  const float* norm_gain;  // [W] final LayerNorm (eps 1e-5)
  const float* norm_bias;  // [W]
  Dense input;             // E -> W, identity if its weight is null
  Dense latent;            // of mlp dynamics: E -> what is added to the product of head[0], which alone has the rest
  int64_t E, A, C, W, L, H, D;  // C: conditioning width (W for the transformer)
  int64_t window, action_count, head_count;
  Dynamics dynamics;
  DType dtype;      // of weights and of GEMM inputs; sums, norms and residuals are float32
  bool residual;    // next latent = last latent + head
  bool fused_head;  // the head's last two layers are a fused MLP: an activation between them, no norm, nothing after
};

struct RolloutArgs {
  const Predictor* predictor;
  const float* context;       // [B, K, E]
  const float* past_actions;  // [B, K-1, A] or null when K == 1
  const float* actions;       // [B, S, T, A]
  float* latents;             // [B, S, E] (last) or [B, S, T, E] (all) out
  void* workspace;            // rollout_workspace() bytes, 64-byte aligned
  int64_t B, S, T, K;
  int64_t tile;  // candidates that travel together through the layers, chosen by rollout_tile()
  bool keep_all;
  int32_t threads;
  int64_t until;  // monotonic nanoseconds: no tile is started later, its latents are NaN; 0 without end
};

// ---- adaln: rows, shift and scale -> norm, modulation and a second norm, and its gradient (the CPU's; a GPU's is
// Triton's)

struct AdaLNArgs {
  const float* x;      // [rows, W]
  const float* shift;  // [rows / share, W]: of each `share` rows in a row
  const float* scale;  // [rows / share, W]
  const float* gain;   // [W] of the second norm, or null: there is none
  const float* bias;   // [W]
  float* y;            // [rows, W] out
  int64_t rows, share, W;
  float eps, affine_eps;
  int32_t threads;
};

constexpr int64_t ADALN_ROWS_PER_TASK = 32;  // at least; of whole shares

struct AdaLNBackwardArgs {
  const float* gradient;  // [rows, W] of y
  const float* x;
  const float* shift;
  const float* scale;
  const float* gain;  // or null
  float* dx;          // [rows, W] out
  float* dshift;      // [rows / share, W] out
  float* dscale;      // [rows / share, W] out
  float* of_affine;   // [tasks, 2, W] out: parts of the gradients of gain and bias; null without gain
  float* workspace;   // [tasks, 3, W]
  int64_t rows, share, W, tasks;
  float eps, affine_eps;
  int32_t threads;
};

// ---- attention: queries, keys, values of a window of a few tokens -> weighted values

// In numbers, from one row, token or head to the next; the D numbers of a head lie together.
struct AttentionStrides {
  int64_t row, token, head;
};

// The function in cuda/bind.cpp takes q, k, v, o, R, n, H, D, the strides of q, k, v, o (row, token, head of each),
// frame_tokens, scale, dtype.
struct AttentionArgs {
  const void* q;  // [R, n, H, D] float32 or bfloat16, as k, v and o
  const void* k;
  const void* v;
  void* o;                                                      // out
  int64_t R, n, H, D;                                           // n at most 32; D a multiple of 8, at most 128
  AttentionStrides q_strides, k_strides, v_strides, o_strides;  // of multiples of 16 bytes, as are the addresses
  int64_t frame_tokens;  // a token sees its own frame and those before; 1: causal; 0: all see all
  float scale;           // of the scores, D^-1/2 as a rule
  DType dtype;
};

// The same on the CPU with its gradient: float32, any D, any addresses.
constexpr int64_t ATTENTION_MOST_TOKENS = 32;

struct AttentionTrainingArgs {
  const float* gradient;  // [R, n, H, D] dense, of the result; null: forward
  const float* q;
  const float* k;
  const float* v;
  float* out;  // [R, n, H, D] dense, out of forward; of backward, where out is null:
  float* dq;
  float* dk;
  float* dv;
  int64_t R, n, H, D;  // n at most ATTENTION_MOST_TOKENS
  AttentionStrides q_strides, k_strides, v_strides;
  int64_t frame_tokens;
  float scale;
  int32_t threads;
};

// ---- goal_cost: predicted latents, goal -> one cost per candidate

enum class Metric : int32_t { squared, absolute, cosine };
enum class Reduce : int32_t { last, min, mean };

struct GoalCostArgs {
  const float* latents;  // [B, S, T, E]
  const float* goal;     // [B, E]
  float* cost;           // [B, S] out
  int64_t B, S, T, E;
  Metric metric;
  Reduce reduce;  // over T
  int32_t threads;
};

// ---- sigreg: samples -> the Epps-Pulley statistic of every column, and its gradient

constexpr int64_t SIGREG_MOST_FREQUENCIES = 32;

struct SigregArgs {
  const float* samples;  // [T, B, P]
  const float* rule;     // [3, F] of each frequency: the normal's characteristic function, weight w, 2 w frequency
  float* found;          // [T, P] out
  float* pull;           // [T, 2, F, P] out: 2 w frequency times (mean cosine - the normal's), and times mean sine
  int64_t T, B, P, F;    // F at most SIGREG_MOST_FREQUENCIES
  double spacing;        // the frequencies are spacing times 1 .. F
  int32_t threads;
};

struct SigregBackwardArgs {
  const float* gradient;  // [T, P] of the statistic
  const float* samples;   // [T, B, P]
  const float* pull;      // [T, 2, F, P]
  float* out;             // [T, B, P] gradient of the samples
  int64_t T, B, P, F;
  double spacing;
  int32_t threads;
};

// ---- linear: the products that linear layers are trained with

constexpr int64_t LINEAR_WORKSPACE = 224 * 256;  // floats of a thread

struct LinearArgs {
  const float* a;     // [M, K], turned [K, M]
  const float* b;     // [K, N], turned [N, K]
  const float* bias;  // [N] or null
  float* c;           // [M, N] out
  float* workspace;   // [threads, LINEAR_WORKSPACE]
  int64_t M, N, K;    // M and N at least 1
  bool a_turned, b_turned;
  bool bfloat16;  // rounds a and b
  int32_t threads;
};

// ---- cem_update: candidates and their costs -> mean and std of the elites

struct CemUpdateArgs {
  const float* actions;           // [B, S, T, A]
  const float* cost;              // [B, S]; a non-finite cost counts as worst
  const float* old_mean;          // [B, T, A]
  const float* old_std;           // [B, T, A]
  const float* old_best_cost;     // [B] of the best candidate of earlier iterations, or null: it is not kept
  const float* old_best_actions;  // [B, T, A]
  float* mean;                    // [B, T, A] out
  float* std;                     // [B, T, A] out; unbiased, 0 when there is one elite
  int64_t* elites;                // [B, elite_count] out: candidate indices, best first
  float* elite_cost;              // [B] out: mean over the elites of finite cost, infinity if there is none
  int64_t* non_finite;            // [B] out: how many costs were not finite
  float* best_cost;     // [B] out: the best elite's cost if it is finite and below the old one, else the old one
  float* best_actions;  // [B, T, A] out: of the same candidate
  int64_t B, S, T, A, elite_count;
  double momentum;  // new = momentum * old + (1 - momentum) * elites'
  double min_std;
  int32_t threads;
};

// ---- fma_peak: the speed of multiplications and additions, an instrument

constexpr int64_t FMA_PEAK_SUMS = 384;

struct FmaPeakArgs {
  float* sums;  // [threads, FMA_PEAK_SUMS] ones in, chains' ends out
  int64_t rounds;
  DType dtype;
  int32_t threads;
};

// ---- activate: y = function(x), an instrument: what the bounds of cpu/activation.h are measured with

enum class Function : int32_t { exp, silu, mish, gelu };

struct ActivateArgs {
  const float* x;  // [n]
  float* y;        // [n] out
  int64_t n;
  Function function;
  DType dtype;  // what results would be stored as; y itself is not rounded to it
};

}  // namespace fastwm
