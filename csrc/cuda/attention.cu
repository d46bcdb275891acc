// Attention over a window of a few tokens, for inference: one warp has one head of one row (a candidate), all in
// registers. No shared memory and no barrier, so warps have nothing in common and a NaN stays with its row and head.
//
// At n = 3, D = 64 a head reads and writes 1.5 KB (bfloat16) for 2304 FLOP: it is bound by memory, and the aim is wide
// loads and few instructions beside them. A warp is 8 quads of lanes: g = lane / 4 counts rows, t = lane % 4 what is
// shared out among four.
//
// bfloat16 goes to tensor cores (mma.m16n8k16) in orders that make every load and store 16 bytes of one lane and every
// fragment a part of what the lane has loaded:
//   - queries times keys: which 16 of the D numbers a product takes together does not matter as long as both sides
//     agree. Lane t of a quad loads numbers 8 t .. 8 t + 7 of each 32, half of them for a first product, half for a
//     second.
//   - weights times values: the scores of two products are, rounded, the left side of the next one. Which 8 columns a
//     product gives does not matter either: product j takes the numbers 8 g + j of each 64, so that a lane loads 8
//     numbers of its two keys for 8 products, and at the end has 16 neighbours of a row of the output.
// float32 stays on FMAs, for TF32 is too coarse: lane t of quad g has a quarter of query g's numbers, keys pass by four
// at a time, and their four partial scores meet in three shuffles that leave each lane one. Two queries of a lane share
// the loads of a key where n > 8 and D <= 64; these come from L1, a key being the same for all quads.
//
// Do tensor cores pay where most of a tile is padding? Instructions of a warp, D = 64, all see all, counted in sm_90
// code with n known and loops unrolled; FMAs on bfloat16 would have to unpack it besides:
//   n                                1     3     8    16    32
//   bfloat16, tensor cores         294   346   304   445  1011    of them mma: 12, 12, 12, 16, 64
//   float32, FMAs                  360   418   640  1863  6918    of them loads: 12, 28, 68, 136, 528
// So always. Five windows of three tokens in one tile would need a third of the mma of five warps, but the mma of a
// warp take less time than its memory; the same holds for loads of a key that all quads repeat where n is small.
#include "cuda/attention.cuh"

namespace fastwm {
namespace {

// A quad's scores of one query, of which this lane has those of the tokens token(0), token(1), ..., become
// exp(scale (score - highest)); 0 where the token is not seen. Returns 1 / their sum. A NaN in a score that is seen
// makes all NaN: fmaxf passes over it, exp2f does not.
template <int COUNT, class Score, class Token>
__device__ __forceinline__ float softmax(const Score& score, const Token& token, int seen, float scale) {
  float highest = -INFINITY, total = 0.0f;
#pragma unroll
  for (int i = 0; i < COUNT; ++i)
    if (token(i) < seen) highest = fmaxf(highest, score(i));
  highest = quad_max(highest);
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    score(i) = token(i) < seen ? exp2f((score(i) - highest) * scale) : 0.0f;
    total += score(i);
  }
  return 1.0f / quad_sum(total);
}

// ---- bfloat16

__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) { return (a & 0xffffu) | b << 16; }
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); }

// Eight numbers of the output, from number E of eight products.
template <int E>
__device__ __forceinline__ uint4 packed(const float (&o)[8][4], float scale) {
  return make_uint4(pack_bf16(o[0][E] * scale, o[1][E] * scale), pack_bf16(o[2][E] * scale, o[3][E] * scale),
                    pack_bf16(o[4][E] * scale, o[5][E] * scale), pack_bf16(o[6][E] * scale, o[7][E] * scale));
}

// Two products of a key's word pairs (w, w + 1) and (w + 2, w + 3) with those of two queries.
__device__ __forceinline__ void multiply(float (&score)[4], const uint4& low, const uint4& high, const uint4& key) {
  mma_m16n8k16_bf16(score, {low.x, high.x, low.y, high.y}, {key.x, key.y});
  mma_m16n8k16_bf16(score, {low.z, high.z, low.w, high.w}, {key.z, key.w});
}

}  // namespace

// DIMS: 64 or 128, at least D.
template <int DIMS>
__global__ void __launch_bounds__(WARPS* WARP) attention_bf16_kernel(const AttentionArgs a) {
  const unsigned i = blockIdx.x * WARPS + threadIdx.x / WARP;  // row * H + head
  if (i >= a.R * a.H) return;
  const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4, n = static_cast<int>(a.n);
  const Tokens<const bf16> q = tokens<const bf16>(a, a.q, a.q_strides, i),
                           k = tokens<const bf16>(a, a.k, a.k_strides, i),
                           v = tokens<const bf16>(a, a.v, a.v_strides, i);
  const Tokens<bf16> out = tokens<bf16>(a, a.o, a.o_strides, i);

  for (int first = 0; first < n; first += 16) {  // queries first + g and first + g + 8
    float s[4][4] = {};                          // s[c]: of keys 8 c + 2 t, 8 c + 2 t + 1 and query g, then g + 8
#pragma unroll
    for (int d = 8 * t; d < DIMS; d += 32) {
      const uint4 low = q.load(first + g, d), high = q.load(first + g + 8, d);
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (8 * c < n) multiply(s[c], low, high, k.load(8 * c + g, d));
    }
    float scale[2];
#pragma unroll
    for (int half = 0; half < 2; ++half)
      scale[half] = softmax<8>([&](int j) -> float& { return s[j / 2][2 * half + j % 2]; },
                               [&](int j) { return 8 * (j / 2) + 2 * t + j % 2; },
                               seen_by(first + g + 8 * half, n, static_cast<int>(a.frame_tokens)), a.scale* LOG2_E);
#pragma unroll
    for (int d = 0; d < DIMS; d += 64) {
      float o[8][4] = {};
#pragma unroll
      for (int c = 0; c < 4; c += 2) {
        if (8 * c >= n) continue;
        const uint32_t weights[4] = {pack_bf16(s[c][0], s[c][1]), pack_bf16(s[c][2], s[c][3]),
                                     pack_bf16(s[c + 1][0], s[c + 1][1]), pack_bf16(s[c + 1][2], s[c + 1][3])};
        uint32_t value[4][4];  // numbers d + 8 g .. + 7 of keys 8 c + 2 t, + 1, + 8, + 9
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint4 bytes = v.load(8 * c + 2 * t + j % 2 + 8 * (j / 2), d + 8 * g);
          value[j][0] = bytes.x, value[j][1] = bytes.y, value[j][2] = bytes.z, value[j][3] = bytes.w;
        }
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          mma_m16n8k16_bf16(o[2 * w], weights,
                            {low_halves(value[0][w], value[1][w]), low_halves(value[2][w], value[3][w])});
          mma_m16n8k16_bf16(o[2 * w + 1], weights,
                            {high_halves(value[0][w], value[1][w]), high_halves(value[2][w], value[3][w])});
        }
      }
      out.store(first + g, d + 16 * t, packed<0>(o, scale[0]));
      out.store(first + g, d + 16 * t + 8, packed<1>(o, scale[0]));
      out.store(first + g + 8, d + 16 * t, packed<2>(o, scale[1]));
      out.store(first + g + 8, d + 16 * t + 8, packed<3>(o, scale[1]));
    }
  }
}

// ---- float32

namespace {

__device__ __forceinline__ float4 floats(const uint4& bytes) {
  return make_float4(__uint_as_float(bytes.x), __uint_as_float(bytes.y), __uint_as_float(bytes.z),
                     __uint_as_float(bytes.w));
}

__device__ __forceinline__ uint4 bytes_of(const float4& x, float scale) {
  return make_uint4(__float_as_uint(x.x * scale), __float_as_uint(x.y * scale), __float_as_uint(x.z * scale),
                    __float_as_uint(x.w * scale));
}

__device__ __forceinline__ void add_product(float& sum, const float4& x, const float4& y) {
  sum = fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, sum))));
}

__device__ __forceinline__ void add_scaled(float4& sum, float scale, const float4& x) {
  sum.x = fmaf(scale, x.x, sum.x), sum.y = fmaf(scale, x.y, sum.y);
  sum.z = fmaf(scale, x.z, sum.z), sum.w = fmaf(scale, x.w, sum.w);
}

// The quad's sum of part[t] in its lane t.
__device__ __forceinline__ float quad_sums(const float (&part)[4], int t) {
  const bool odd = t & 1, upper = t & 2;
  const float even_keys = (odd ? part[1] : part[0]) + __shfl_xor_sync(ALL_LANES, odd ? part[0] : part[1], 1);
  const float odd_keys = (odd ? part[3] : part[2]) + __shfl_xor_sync(ALL_LANES, odd ? part[2] : part[3], 1);
  return (upper ? odd_keys : even_keys) + __shfl_xor_sync(ALL_LANES, upper ? even_keys : odd_keys, 2);
}

}  // namespace

// ROWS: queries of a quad at once. Keys pass once, by four: weights are relative to the highest score so far, and what
// has been added up is rescaled when a higher one comes (Milakov and Gimelshein, "Online normalizer calculation for
// softmax", 2018). Keeping all scores, eight to a lane, costs 255 registers and spills: loops must be unrolled for
// them.
template <int DIMS, int ROWS>
__global__ void __launch_bounds__(WARPS* WARP) attention_float_kernel(const AttentionArgs a) {
  constexpr int PIECES = DIMS / 16;  // of a lane: numbers 4 t .. 4 t + 3 of each 16
  const unsigned i = blockIdx.x * WARPS + threadIdx.x / WARP;
  if (i >= a.R * a.H) return;
  const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4, n = static_cast<int>(a.n);
  const Tokens<const float> q = tokens<const float>(a, a.q, a.q_strides, i),
                            k = tokens<const float>(a, a.k, a.k_strides, i),
                            v = tokens<const float>(a, a.v, a.v_strides, i);
  const Tokens<float> out = tokens<float>(a, a.o, a.o_strides, i);
  const float scale = a.scale * LOG2_E;

  for (int first = 0; first < n; first += 8 * ROWS) {  // queries first + g, first + g + 8, ...
    float4 query[ROWS][PIECES], o[ROWS][PIECES] = {};
    float highest[ROWS], total[ROWS] = {};  // the total: of the keys that this lane has had
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      highest[r] = -INFINITY;
#pragma unroll
      for (int p = 0; p < PIECES; ++p) query[r][p] = floats(q.load(first + g + 8 * r, 16 * p + 4 * t));
    }
#pragma unroll 1
    for (int c = 0; c < n; c += 4) {
      float part[ROWS][4] = {}, weight[ROWS];
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int p = 0; p < PIECES; ++p) {
          const float4 key = floats(k.load(c + j, 16 * p + 4 * t));
#pragma unroll
          for (int r = 0; r < ROWS; ++r) add_product(part[r][j], query[r][p], key);
        }
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        const bool seen = c + t < seen_by(first + g + 8 * r, n, static_cast<int>(a.frame_tokens));
        const float score = quad_sums(part[r], t), before = highest[r];
        highest[r] = quad_max(fmaxf(before, seen ? score : -INFINITY));
        const float base = highest[r] == -INFINITY ? 0.0f : highest[r];  // scores may be -infinity: no weight
        const float rescale = exp2f((before - base) * scale);
        weight[r] = seen ? exp2f((score - base) * scale) : 0.0f;
        total[r] = fmaf(total[r], rescale, weight[r]);
#pragma unroll
        for (int p = 0; p < PIECES; ++p) {
          o[r][p].x *= rescale, o[r][p].y *= rescale;
          o[r][p].z *= rescale, o[r][p].w *= rescale;
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float w[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) w[r] = __shfl_sync(ALL_LANES, weight[r], j, 4);
#pragma unroll
        for (int p = 0; p < PIECES; ++p) {
          const float4 value = floats(v.load(c + j, 16 * p + 4 * t));
#pragma unroll
          for (int r = 0; r < ROWS; ++r) add_scaled(o[r][p], w[r], value);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const float norm = 1.0f / quad_sum(total[r]);
#pragma unroll
      for (int p = 0; p < PIECES; ++p) out.store(first + g + 8 * r, 16 * p + 4 * t, bytes_of(o[r][p], norm));
    }
  }
}

namespace {

void check(bool good, const char* what, int64_t value, const char* expected) {
  if (!good)
    throw std::invalid_argument(std::string("attention: ") + what + " is " + std::to_string(value) + ", expected " +
                                expected);
}

void check_alignment(const char* name, const void* address, const AttentionStrides& strides, int64_t bytes) {
  const int64_t all = static_cast<int64_t>(reinterpret_cast<uintptr_t>(address)) | strides.row * bytes |
                      strides.token * bytes | strides.head * bytes;
  check(all % 16 == 0, name, all % 16, "an address and strides that are multiples of 16 bytes");
}

}  // namespace

void attention(const AttentionArgs& a, cudaStream_t stream) {
  check(a.n >= 1 && a.n <= MOST_TOKENS, "n", a.n, "1 to 32");
  check(a.R >= 1 && a.H >= 1 && a.R <= 0x7fffffff / a.H, "R", a.R, "R x H of 1 to 2^31 - 1");
  check(a.D >= 8 && a.D <= MOST_NUMBERS && a.D % 8 == 0, "D", a.D, "a multiple of 8 up to 128");
  check(a.frame_tokens >= 0 && a.frame_tokens <= MOST_TOKENS, "frame_tokens", a.frame_tokens, "0 to 32");
  check(a.dtype == DType::float32 || a.dtype == DType::bfloat16, "dtype", static_cast<int64_t>(a.dtype),
        "float32 or bfloat16");
  check(a.scale > 0.0f, "scale", static_cast<int64_t>(a.scale), "above 0");
  const int64_t bytes = a.dtype == DType::float32 ? 4 : 2;
  check_alignment("q", a.q, a.q_strides, bytes);
  check_alignment("k", a.k, a.k_strides, bytes);
  check_alignment("v", a.v, a.v_strides, bytes);
  check_alignment("o", a.o, a.o_strides, bytes);
  const unsigned int grid = blocks("attention", (a.R * a.H + WARPS - 1) / WARPS);
  const bool wide = a.D > 64;
  if (a.dtype == DType::bfloat16) {
    if (wide)
      FASTWM_LAUNCH(attention_bf16_kernel<128>, grid, WARPS * WARP, 0, stream, a);
    else
      FASTWM_LAUNCH(attention_bf16_kernel<64>, grid, WARPS * WARP, 0, stream, a);
  } else if (wide || a.n <= 8) {
    if (wide)
      FASTWM_LAUNCH((attention_float_kernel<128, 1>), grid, WARPS * WARP, 0, stream, a);
    else
      FASTWM_LAUNCH((attention_float_kernel<64, 1>), grid, WARPS * WARP, 0, stream, a);
  } else {
    FASTWM_LAUNCH((attention_float_kernel<64, 2>), grid, WARPS * WARP, 0, stream, a);
  }
}

}  // namespace fastwm
