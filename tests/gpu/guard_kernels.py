"""Small kernels for the tests of the tests: each fault beside its correct twin (`FAULTY`)."""

import triton
import triton.language as tl


@triton.jit
def scale(x, y, n, BLOCK: tl.constexpr, FAULTY: tl.constexpr):
    """y = 2x; faulty without a mask."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < (n + BLOCK if FAULTY else n)
    tl.store(y + at, 2 * tl.load(x + at, mask=mask), mask=mask)


@triton.jit
def rows(x, y, rows_, columns, stride, BLOCK: tl.constexpr, FAULTY: tl.constexpr):
    """y = x row by row; faulty: walks over the gaps between rows."""
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    mask = at < (stride if FAULTY else columns)
    tl.store(y + row * columns + at, tl.load(x + row * stride + at, mask=mask), mask=at < columns)


@triton.jit
def total(x, y, n, BLOCK: tl.constexpr, FAULTY: tl.constexpr):
    """y[0] = sum of x (integers); faulty: programs add without atomics."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    part = tl.sum(tl.load(x + at, mask=at < n, other=0), 0)
    if FAULTY:
        tl.store(y, tl.load(y) + part)
    else:
        tl.atomic_add(y, part, sem="relaxed")


@triton.jit
def shift(x, y, n, BLOCK: tl.constexpr, FAULTY: tl.constexpr):
    """y[i] = x[i + 1]; faulty: in place, so programs read what others write."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at + 1, mask=at + 1 < n, other=0)
    tl.store((x if FAULTY else y) + at, value, mask=at < n)


@triton.jit
def split_sum(x, parts, counter, y, n, BLOCK: tl.constexpr, FAULTY: tl.constexpr):
    """y[0] = sum of x: each program stores a part, the last one to arrive adds them; faulty: relaxed arrival."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    tl.store(parts + program, tl.sum(tl.load(x + at, mask=at < n, other=0), 0))
    arrived = tl.atomic_add(counter, 1, sem="relaxed" if FAULTY else "acq_rel")
    if arrived == programs - 1:
        sum_ = tl.load(parts)
        for i in range(1, programs):
            sum_ += tl.load(parts + i)
        tl.store(y, sum_)
        tl.store(counter, 0)


@triton.jit
def reverse(scratch, x, y, BLOCK: tl.constexpr, FAULTY: tl.constexpr):
    """y = x reversed, through memory; faulty: no barrier between the store and the load."""
    at = tl.arange(0, BLOCK)
    tl.store(scratch + at, tl.load(x + at))
    if not FAULTY:
        tl.debug_barrier()
    tl.store(y + at, tl.load(scratch + BLOCK - 1 - at))


@triton.jit
def collide(y, BLOCK: tl.constexpr, FAULTY: tl.constexpr):
    """y[i // 2] = i // 2; faulty: = i, so two lanes disagree."""
    at = tl.arange(0, BLOCK)
    tl.store(y + at // 2, at if FAULTY else at // 2)


@triton.jit
def double(x, y, BLOCK: tl.constexpr, FAULTY: tl.constexpr):
    """y = x + x in float32; faulty: in bfloat16."""
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at)
    tl.store(y + at, value + value if FAULTY else value.to(tl.float32) * 2)


@triton.jit
def sum_up(x, y, BLOCK: tl.constexpr, FAULTY: tl.constexpr):
    """y[0] = sum of x in float32; faulty: in bfloat16."""
    value = tl.load(x + tl.arange(0, BLOCK))
    tl.store(y, tl.sum(value if FAULTY else value.to(tl.float32), 0))


@triton.jit
def matmul(a, b, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    """c = a b, one program."""
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N), tl.arange(0, K)
    product = tl.dot(
        tl.load(a + m * K + k[None, :]), tl.load(b + k[:, None] * N + n[None, :]), input_precision=PRECISION
    )
    tl.store(c + m * N + n[None, :], product)


@triton.jit
def copy_as_bfloat16(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at).to(tl.bfloat16))


@triton.jit
def arrive(counter, turn):
    """turn[x, 0, z] = how many programs came before, for a grid of [.., 1, 2]."""
    tl.store(turn + tl.program_id(0) * 2 + tl.program_id(2), tl.atomic_add(counter, 1))


@triton.jit
def copy_tiles(x, y, M, N, BM: tl.constexpr, BN: tl.constexpr):
    """y = x through tensor descriptors, a row of tiles per program."""
    source = tl.make_tensor_descriptor(x, shape=[M, N], strides=[N, 1], block_shape=[BM, BN])
    target = tl.make_tensor_descriptor(y, shape=[M, N], strides=[N, 1], block_shape=[BM, BN])
    row = tl.program_id(0) * BM
    for column in range(0, N, BN):
        target.store([row, column], source.load([row, column]))
