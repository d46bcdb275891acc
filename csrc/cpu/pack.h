// Weights as the micro-kernel reads them: panels of 2 vectors of columns, the K rows of a panel one after another,
// `group` consecutive k of a column side by side (1 for float32, 2 for bfloat16, 4 for int8: one dot-product lane).
//
//   packed[panel][k / group][column in panel][k % group]
//
// A matrix may come in equal blocks of outputs (query, key, value of each head) or inputs (heads): every block is
// padded with zeros to whole panels. Inputs that come in no blocks are padded to whole groups only.
//
// int8: W = scale * byte, one scale for each output column and each part of the inputs, max |W| / 127.
#pragma once
#include <cstddef>
#include "ops.h"

namespace fastwm {

struct PackShape {
  int64_t lanes;            // of the instruction set
  int64_t out_blocks, out;  // out: per block
  int64_t in_blocks, in;    // in: per block; in_blocks 0: no blocks
  int64_t part;             // padded inputs that share an int8 scale; 0: all
  DType dtype;

  int64_t panel() const { return 2 * lanes; }
  int64_t element() const { return dtype == DType::float32 ? 4 : dtype == DType::bfloat16 ? 2 : 1; }
  int64_t group() const { return 4 / element(); }
  int64_t padded_out() const { return (out + panel() - 1) / panel() * panel(); }
  int64_t columns() const { return out_blocks * padded_out(); }
  int64_t in_parts() const { return in_blocks > 0 ? in_blocks : 1; }
  int64_t padded_in() const {
    const int64_t unit = in_blocks > 0 ? panel() : group();
    return (in + unit - 1) / unit * unit;
  }
  int64_t K() const { return in_parts() * padded_in(); }
  int64_t parts() const { return part > 0 ? (K() + part - 1) / part : 1; }
};

size_t packed_size(const PackShape& shape);  // bytes
// weight: [out_blocks * out, in_blocks * in] float32. bfloat16 and int8 round to nearest even; NaN stays NaN in
// bfloat16. scale, sums: [parts, columns], of int8 alone: the scales, and the sums of the bytes that each multiplies.
void pack(const PackShape& shape, const float* weight, void* packed, float* scale, int32_t* sums);

}  // namespace fastwm
