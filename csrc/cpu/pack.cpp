#include "cpu/pack.h"

#include <cmath>
#include <cstring>

namespace fastwm {
namespace {

uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace

size_t packed_size(const PackShape& s) { return static_cast<size_t>(s.columns() * s.K() * s.element()); }

void pack(const PackShape& s, const float* weight, void* packed, float* scale, int32_t* sums) {
  std::memset(packed, 0, packed_size(s));
  const bool int8 = s.dtype == DType::int8;
  const int64_t K = s.K(), inputs = s.in_parts() * s.in, part = s.part > 0 ? s.part : K;
  if (int8) {
    std::memset(scale, 0, sizeof(float) * s.parts() * s.columns());
    std::memset(sums, 0, sizeof(int32_t) * s.parts() * s.columns());
  }
  for (int64_t ob = 0; ob < s.out_blocks; ++ob)
    for (int64_t o = 0; o < s.out; ++o) {
      const int64_t n = ob * s.padded_out() + o, panel = n / s.panel(), lane = n % s.panel();
      const float* row = weight + (ob * s.out + o) * inputs;
      auto each = [&](auto visit) {  // visit(k, weight)
        for (int64_t ib = 0; ib < s.in_parts(); ++ib)
          for (int64_t i = 0; i < s.in; ++i) visit(ib * s.padded_in() + i, row[ib * s.in + i]);
      };
      if (int8) {
        each([&](int64_t k, float w) {
          float& most = scale[k / part * s.columns() + n];
          most = std::fmax(most, std::fabs(w));
        });
        for (int64_t i = 0; i < s.parts(); ++i) scale[i * s.columns() + n] /= 127.0f;
      }
      each([&](int64_t k, float w) {
        const int64_t at = panel * K * s.panel() + (k / s.group() * s.panel() + lane) * s.group() + k % s.group();
        if (s.dtype == DType::float32) {
          static_cast<float*>(packed)[at] = w;
        } else if (s.dtype == DType::bfloat16) {
          static_cast<uint16_t*>(packed)[at] = to_bfloat16(w);
        } else {
          const int64_t place = k / part * s.columns() + n;
          const float near = scale[place] > 0 ? std::nearbyint(w / scale[place]) : 0.0f;
          const float byte = std::fmin(127.0f, std::fmax(-127.0f, near));  // a scale among the denormals is rounded
          static_cast<int8_t*>(packed)[at] = static_cast<int8_t>(byte);
          sums[place] += static_cast<int32_t>(byte);
        }
      });
    }
}

}  // namespace fastwm
