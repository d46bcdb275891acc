#include "cpu/pack.h"

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

size_t packed_size(const PackShape& s) {
  return static_cast<size_t>(s.out_blocks * s.padded_out() * s.in_parts() * s.padded_in() * s.element());
}

void pack(const PackShape& s, const float* weight, void* packed) {
  std::memset(packed, 0, packed_size(s));
  const int64_t K = s.in_parts() * s.padded_in(), columns = s.in_parts() * s.in;
  for (int64_t ob = 0; ob < s.out_blocks; ++ob)
    for (int64_t o = 0; o < s.out; ++o) {
      const int64_t n = ob * s.padded_out() + o, panel = n / s.panel(), lane = n % s.panel();
      const float* row = weight + (ob * s.out + o) * columns;
      for (int64_t ib = 0; ib < s.in_parts(); ++ib)
        for (int64_t i = 0; i < s.in; ++i) {
          const int64_t k = ib * s.padded_in() + i;
          const int64_t at = panel * K * s.panel() + (k / s.group() * s.panel() + lane) * s.group() + k % s.group();
          const float value = row[ib * s.in + i];
          if (s.dtype == DType::bfloat16)
            static_cast<uint16_t*>(packed)[at] = to_bfloat16(value);
          else
            static_cast<float*>(packed)[at] = value;
        }
    }
}

}  // namespace fastwm
