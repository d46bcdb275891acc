// Candidate actions on a GPU: the bits of csrc/cpu/cem_sample.cpp, which says what they are functions of.
//
// A block has a tile of about 512 numbers that lie one after another in the output: several whole candidates, or a
// piece of a long one. First every thread turns counters into four normals each, in shared memory; then the threads
// walk the tile in output order, so that reads of mean, std and bounds and the writes are coalesced whatever T * A is.
// (Four numbers straight from a thread's counter to the output is as good where T * A is a multiple of 4, and four
// strided stores where it is not.) Coloured noise needs all of a candidate's earlier steps, which are there already:
// with a factor a tile holds whole candidates. In its sum, threads of the same step read neighbouring numbers and
// threads of other steps the same ones: within a candidate no bank is asked for two. (A row is padded to whole float4;
// where a warp spans more than 32 padded numbers, as with T * A = 5, a bank can be asked for two.) The factor comes
// through L1: a warp reads few of its rows at a time, and its size T x T then sets no limit. 512 numbers are one
// counter for each of 128 threads, and 30 blocks for 300 candidates of LeWM's plan. Nothing here was timed on a GPU.
//
// Compiled with -fmad=false, see philox.cuh.
#include "cuda/kernels.h"
#include "cuda/philox.cuh"

namespace fastwm {

// A block's share of one environment's candidates [S, T * A].
struct CemSampleTile {
  int rows;        // candidates
  int width;       // numbers of each; all of them if there are several rows
  int pieces;      // of a candidate
  int64_t groups;  // of rows, in an environment
};

namespace {

constexpr int THREADS = 128;
constexpr int TILE = 4 * THREADS;
constexpr int MOST_NUMBERS = 12288;  // 48 KB, what every GPU gives a block without being asked

}  // namespace

__global__ void __launch_bounds__(THREADS) cem_sample_kernel(const CemSampleArgs a, const CemSampleTile share) {
  const int64_t numbers = a.T * a.A;
  const int64_t group = blockIdx.x / share.pieces % share.groups, b = blockIdx.x / share.pieces / share.groups;
  const int start = static_cast<int>(blockIdx.x % share.pieces) * share.width;  // of the piece
  const int64_t first = group * share.rows;                                     // candidate
  const int rows = static_cast<int>(a.S - first < share.rows ? a.S - first : share.rows);
  const int width = static_cast<int>(numbers - start < share.width ? numbers - start : share.width);
  const int quads = (width + 3) / 4;
  const int64_t tile = (b * a.S + first) * numbers + start;  // where the tile begins in [B, S, T * A]
  FASTWM_SHARED_DYNAMIC(float4, drawn, share.rows * ((share.width + 3) / 4));
  float* row = reinterpret_cast<float*>(drawn);

  if (a.noise) {
    for (int i = threadIdx.x; i < rows * width; i += THREADS)
      row[i / width * 4 * quads + i % width] = a.noise[tile + i];
  } else {
    const uint64_t seed = a.counter ? static_cast<uint64_t>(a.counter[0]) : a.seed;
    const uint32_t iteration = static_cast<uint32_t>(a.counter ? a.counter[1] : a.iteration);
    const uint32_t environment = static_cast<uint32_t>(a.stream ? a.stream[b] : b);
    for (int i = threadIdx.x; i < rows * quads; i += THREADS) {
      const uint32_t place = static_cast<uint32_t>(start / 4 + i % quads);
      drawn[i] = normals({{place, static_cast<uint32_t>(first + i / quads), environment, iteration}}, seed);
    }
  }
  __syncthreads();

  for (int i = threadIdx.x; i < rows * width; i += THREADS) {
    const int r = i / width, place = start + i % width;  // place: t * A + number
    const int64_t s = first + r, at = b * numbers + place;
    float x;
    if (s == 0) {
      x = a.mean[at];
    } else if (s <= a.I) {
      x = a.injected[(b * a.I + s - 1) * numbers + place];
    } else {
      const float* normal = row + r * 4 * quads + i % width;
      float noise = *normal;
      if (a.factor) {  // x_t = sum over s <= t of factor[t][s] e_s; the tile is all of the candidate
        const int A = static_cast<int>(a.A), t = place / A;
        const float* factor = a.factor + t * a.T;
        normal -= t * A;
        noise = factor[0] * normal[0];
        for (int step = 1; step <= t; ++step) noise = noise + factor[step] * normal[step * A];
      }
      x = a.mean[at] + a.std[at] * noise;
    }
    if (a.low) x = x < a.low[place] ? a.low[place] : x;  // a NaN stays a NaN
    if (a.high) x = x > a.high[place] ? a.high[place] : x;
    a.actions[tile + i] = x;
  }
}

void cem_sample(const CemSampleArgs& a, cudaStream_t stream) {
  const int64_t numbers = a.T * a.A;
  if (a.factor && numbers > MOST_NUMBERS)
    throw std::invalid_argument("cem_sample: a candidate has " + std::to_string(numbers) +
                                " numbers, expected at most " + std::to_string(MOST_NUMBERS) + " with a factor");
  CemSampleTile share{1, TILE, static_cast<int>((numbers + TILE - 1) / TILE), a.S};
  if (a.factor || numbers <= TILE) {
    share.rows = numbers < TILE ? static_cast<int>(TILE / numbers) : 1;
    share.width = static_cast<int>(numbers);
    share.pieces = 1;
    share.groups = (a.S + share.rows - 1) / share.rows;
  }
  const int shared = share.rows * ((share.width + 3) / 4) * static_cast<int>(sizeof(float4));
  FASTWM_LAUNCH(cem_sample_kernel, blocks("cem_sample", a.B * share.groups * share.pieces), THREADS, shared, stream, a,
                share);
}

}  // namespace fastwm
