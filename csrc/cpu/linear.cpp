// Products of training in float32, forward and backward of a linear layer: C = op(A) op(B) + bias, where op may turn.
//
// The engine multiplies with weights that were packed once; here both sides are new at every step, so packing is part
// of the work, and gemm.h then multiplies. A task is some rows of C times a group of panels. It goes through K in
// chunks: packs a chunk of its panels, which then lie in L2, and takes the rows of A a register block at a time. Rows
// of A are read where they lie; of a turned A they are made first, since its numbers lie a row apart, which for a power
// of two is one cache set.
//
// bfloat16: A and B stay float32 in memory and are rounded as they are packed: no step copies a weight, and sums and
// results are float32. Where an instruction multiplies bfloat16, two consecutive k take the place of one float, so that
// pairs are turned as floats are; elsewhere rounded floats are multiplied, which is as exact.
//
// Every number of C is the sum of its chunks, each one sum over k in order: no bit depends on the threads or on the
// rows around it. Short chunks keep float32 exact: a sum of thousands in one register would be off by several times as
// much.
#include "cpu/gemm.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace fastwm::FASTWM_ISA {
namespace {

constexpr int64_t MOST_PANELS = LANES == 16 ? 4 : 192 / PANEL;  // of a task
constexpr int64_t CHUNK = 256;                                  // of K
constexpr int64_t SHARE = 32 * MAX_ROWS;                        // rows of a task, about, where there are enough tasks
constexpr int64_t APART = CHUNK + 16;  // floats from one packed row to the next: not a power of two
static_assert(MOST_PANELS * PANEL * CHUNK + MAX_ROWS * (APART + APART / 2) <= LINEAR_WORKSPACE, "what a task packs");

typedef float v4 __attribute__((vector_size(16)));
typedef float v4_unaligned __attribute__((vector_size(16), aligned(4), may_alias));

// to[k * step + j] = from[j * ld + k] for j < 4, k < count
FASTWM_INLINE void turn4(const float* from, int64_t ld, int64_t count, float* to, int64_t step) {
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) {
    v4 x[4];
    for (int j = 0; j < 4; ++j) x[j] = *reinterpret_cast<const v4_unaligned*>(from + j * ld + k);
    const v4 low0 = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5),
             low1 = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5);
    const v4 high0 = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7),
             high1 = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
    auto put = [&](int64_t i, v4 y) { *reinterpret_cast<v4_unaligned*>(to + (k + i) * step) = y; };
    put(0, __builtin_shufflevector(low0, low1, 0, 1, 4, 5));
    put(1, __builtin_shufflevector(low0, low1, 2, 3, 6, 7));
    put(2, __builtin_shufflevector(high0, high1, 0, 1, 4, 5));
    put(3, __builtin_shufflevector(high0, high1, 2, 3, 6, 7));
  }
  for (; k < count; ++k)
    for (int j = 0; j < 4; ++j) to[k * step + j] = from[j * ld + k];
}

#if FASTWM_ISA_avx512_bf16
// Each lane holds two bfloat16: of `even` in its lower half, of `odd` in its upper.
FASTWM_INLINE vf pair(vf even, vf odd) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)even));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)odd));
  return (vf)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// The first `count` lanes, the others zero; in one instruction, where load_part copies.
FASTWM_INLINE vf load_masked(const float* p, int64_t count) {
  const __mmask16 mask = count >= LANES ? 0xffff : static_cast<__mmask16>((1u << (count > 0 ? count : 0)) - 1);
  return (vf)_mm512_maskz_loadu_ps(mask, p);
}

// `count` numbers in a row as pairs; more are zero, to a multiple of 2 LANES numbers.
FASTWM_INLINE void pair_row(const float* from, int64_t count, float* to) {
  for (int64_t k = 0; k < count; k += 2 * LANES)
    store(reinterpret_cast<bf16*>(to) + k, load_masked(from + k, count - k),
          load_masked(from + k + LANES, count - k - LANES));
}
#endif

// to[i] = from[i], rounded to bfloat16; they may be the same
FASTWM_INLINE void round_row(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += LANES) store_part(to + i, round_bf16(load_part(from + i, count - i)), count - i);
}

// packed[k][PANEL] = op(B)[first_k + k][column + ...], zero beyond N
void pack_panel(const LinearArgs& p, int64_t first_k, int64_t count, int64_t column, float* packed) {
  const int64_t columns = p.N - column < PANEL ? p.N - column : PANEL;
  if (columns < PANEL) std::memset(packed, 0, sizeof(float) * count * PANEL);
  if (!p.b_turned) {
    for (int64_t k = 0; k < count; ++k)
      std::memcpy(packed + k * PANEL, p.b + (first_k + k) * p.N + column, sizeof(float) * columns);
    return;
  }
  int64_t j = 0;
  for (; j + 4 <= columns; j += 4) turn4(p.b + (column + j) * p.K + first_k, p.K, count, packed + j, PANEL);
  for (; j < columns; ++j)
    for (int64_t k = 0; k < count; ++k) packed[k * PANEL + j] = p.b[(column + j) * p.K + first_k + k];
}

#if FASTWM_ISA_avx512_bf16
// As pairs: packed[pair][PANEL][2]
void pack_panel(const LinearArgs& p, int64_t first_k, int64_t count, int64_t column, bf16* packed) {
  float* to = reinterpret_cast<float*>(packed);  // a pair each
  const int64_t columns = p.N - column < PANEL ? p.N - column : PANEL, pairs = (count + 1) / 2;
  if (!p.b_turned) {
    const float* b = p.b + first_k * p.N + column;
    for (int64_t k = 0; k < count; k += 2, b += 2 * p.N)
      for (int64_t j = 0; j < PANEL; j += LANES)
        store(to + k / 2 * PANEL + j,
              pair(load_masked(b + j, columns - j), k + 1 < count ? load_masked(b + p.N + j, columns - j) : vf{}));
    return;
  }
  float rows[4 * APART / 2] = {};
  for (int64_t j = 0; j < columns; j += 4) {
    for (int64_t i = 0; i < 4 && j + i < columns; ++i)
      pair_row(p.b + (column + j + i) * p.K + first_k, count, rows + i * APART / 2);
    turn4(rows, APART / 2, pairs, to + j, PANEL);  // beyond N: what no column of C reads
  }
}
#endif

// `rows` rows of op(A) from `row` on, their k from first_k on: where they lie, or turned.
Rows<float> rows_of(const LinearArgs& p, int64_t row, int64_t rows, int64_t first_k, int64_t count, float* packed) {
  if (!p.a_turned) return {p.a + row * p.K + first_k, p.K};
  const float* a = p.a + first_k * p.M + row;
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) turn4(a + k * p.M, p.M, rows, packed + k, APART);
  for (; k < count; ++k)
    for (int64_t r = 0; r < rows; ++r) packed[r * APART + k] = a[k * p.M + r];
  return {packed, APART};
}

// As they are multiplied.
void take_rows(const LinearArgs& p, int64_t row, int64_t rows, int64_t first_k, int64_t count, float* packed,
               Rows<float>& found) {
  found = rows_of(p, row, rows, first_k, count, packed);
  if (!p.bfloat16) return;
  for (int64_t r = 0; r < rows; ++r) round_row(found.data + r * found.ld, count, packed + r * APART);
  found = {packed, APART};
}

#if FASTWM_ISA_avx512_bf16
void take_rows(const LinearArgs& p, int64_t row, int64_t rows, int64_t first_k, int64_t count, float* packed,
               Rows<bf16>& found) {
  const Rows<float> exact = rows_of(p, row, rows, first_k, count, packed);
  float* pairs = packed + MAX_ROWS * APART;
  for (int64_t r = 0; r < rows; ++r) pair_row(exact.data + r * exact.ld, count, pairs + r * APART / 2);
  found = {reinterpret_cast<const bf16*>(pairs), APART};
}
#endif

int64_t parts(int64_t n, int64_t each) { return (n + each - 1) / each; }

struct Cut {  // of C: how many shares of rows and groups of panels
  int64_t shares, groups;
};

Cut cut(const LinearArgs& p) {
  const int64_t groups = parts(p.N, MOST_PANELS * PANEL), wanted = parts(p.threads, groups);
  const int64_t shares = parts(p.M, SHARE) > wanted ? parts(p.M, SHARE) : wanted, most = parts(p.M, MAX_ROWS);
  return {shares < most ? shares : most, groups};
}

// T: what is multiplied, float or bf16.
template <class T>
void task(void* context, int64_t index, int32_t worker) {
  const LinearArgs& p = *static_cast<const LinearArgs*>(context);
  const auto [shares, groups] = cut(p);
  const int64_t share = index / groups, first_row = share * p.M / shares, end_row = (share + 1) * p.M / shares;
  const int64_t group = index % groups, all = parts(p.N, PANEL), first_panel = group * all / groups;
  const int64_t panels = (group + 1) * all / groups - first_panel, blocks = parts(end_row - first_row, MAX_ROWS);
  float* packed_b = p.workspace + worker * LINEAR_WORKSPACE;
  float* packed_a = packed_b + MOST_PANELS * PANEL * CHUNK;
  for (int64_t k = 0; k < p.K || k == 0; k += CHUNK) {
    const int64_t count = p.K - k < CHUNK ? p.K - k : CHUNK, padded_k = round_up(count, GROUP<T>);
    const Panels<T> b{reinterpret_cast<T*>(packed_b), padded_k * PANEL, padded_k, panels, nullptr};
    for (int64_t i = 0; i < panels; ++i)
      pack_panel(p, k, count, (first_panel + i) * PANEL, reinterpret_cast<T*>(packed_b) + i * b.stride);
    if (p.bfloat16 && GROUP<T> == 1) round_row(packed_b, panels * b.stride, packed_b);
    for (int64_t i = 0; i < blocks; ++i) {  // of nearly equal size
      const int64_t row = first_row + i * (end_row - first_row) / blocks;
      const int64_t rows = first_row + (i + 1) * (end_row - first_row) / blocks - row;
      Rows<T> a{};
      take_rows(p, row, rows, k, count, packed_a, a);
      // C = bias + A b, or, after the first chunk, C += A b
      gemm(a, rows, b, packed_b, [&](int64_t r, int64_t column, vf low, vf high) {
        column += first_panel * PANEL;
        float* c = p.c + (row + r) * p.N + column;
        const float* before = k == 0 ? (p.bias ? p.bias + column : nullptr) : c;
        auto add = [&](int64_t from, vf sum) {
          const int64_t left = p.N - column - from;
          if (left > 0) store_part(c + from, before ? load_part(before + from, left) + sum : sum, left);
        };
        add(0, low);
        add(LANES, high);
      });
    }
  }
}

}  // namespace

void linear(const LinearArgs& p) {
  const auto [shares, groups] = cut(p);
#if FASTWM_ISA_avx512_bf16
  const auto run = p.bfloat16 ? task<bf16> : task<float>;
#else
  const auto run = task<float>;
#endif
  parallel_for(shares * groups, p.threads, run, const_cast<LinearArgs*>(&p));
}

}  // namespace fastwm::FASTWM_ISA
