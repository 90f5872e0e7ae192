"""Triton kernels of upfirdn2d: tap t of output o meets row (column) o * down + t - pad of the upsampled image.

Three forms of one sum; `triton.py` says which shape gets which:

- direct: every output reads its taps, and of those only the ones that meet a sample and no inserted zero. Any factors,
  filter and layout.
- slide: NHWC, up 1, down 1 or 2. A program walks down a strip of rows and adds each input row, read once, to all
  outputs that it reaches.
- polyphase: NHWC, up 2, down 1. As slide; every input row finishes one even and one odd row of outputs.

Weights of up to 4x4 taps stay in registers. All end in `finish_tile`. Channels of an NHWC tensor are counted in groups
of ALIGNMENT, so that the compiler sees that 128-bit accesses are aligned.
"""

# mypy: disable-error-code="assignment"
# (tuples grow in unrolled loops, and mypy takes a tuple's length for part of its type)

import triton
import triton.language as tl

from ..epilogue.kernels import finish_tile


@triton.jit
def _tap(
    f, ty, tx, mask_y, mask_x,
    KH: tl.constexpr, KW: tl.constexpr, SEPARABLE: tl.constexpr, FLIP: tl.constexpr, FILTER_GAIN: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Weight of tap (ty, tx), each one or a block, with its mask.

    f points to [KH, KW], to [KH] (= [KW]) if SEPARABLE, or is None for 1.
    """
    # Branches, not returns: what stands behind a return is compiled all the same.
    if f is None:
        w = tl.where(mask_y & mask_x, tl.full((), 1.0, ACC), 0.0)
    else:
        iy = ty if FLIP else KH - 1 - ty
        ix = tx if FLIP else KW - 1 - tx
        if SEPARABLE:
            w = tl.load(f + iy, mask=mask_y, other=0.0).to(ACC) * tl.load(f + ix, mask=mask_x, other=0.0).to(ACC)
        else:
            w = tl.load(f + iy * KW + ix, mask=mask_y & mask_x, other=0.0).to(ACC)
    return w * FILTER_GAIN


@triton.jit
def _all_taps(
    f,
    KH: tl.constexpr, KW: tl.constexpr, SEPARABLE: tl.constexpr, FLIP: tl.constexpr, FILTER_GAIN: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """The KH * KW weights of a small filter, row by row."""
    taps = ()
    for ty in tl.static_range(KH):
        for tx in tl.static_range(KW):
            taps += (_tap(f, ty, tx, True, True, KH, KW, SEPARABLE, FLIP, FILTER_GAIN, ACC),)
    return taps


@triton.jit
def _load_row(x, row, columns, channels, channel_mask, H, W, C, COUNT: tl.constexpr, ACC: tl.constexpr):
    """COUNT tiles [P, C] of an NHWC row: pixels columns, columns + 1, ...; zero outside of the image."""
    line = x + row.to(tl.int64) * W * C
    inside = (row >= 0) & (row < H)
    tiles = ()
    for i in tl.static_range(COUNT):
        column = columns + i
        mask = (inside & (column >= 0) & (column < W))[:, None] & channel_mask[None, :]
        tile = tl.load(line + column[:, None] * C + channels[None, :], mask=mask, other=0.0)
        tiles += (tile.to(ACC),)
    return tiles


@triton.jit
def _store_row(
    z, y, n, row, columns, channels, channel_mask, OH, OW, C, epilogue,
    ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    """Finish a tile [P, C] of output pixels and store those that exist."""
    mask = (row >= 0) & (row < OH) & (columns >= 0) & (columns < OW)
    z = finish_tile(z, n, row * OW + columns, mask, channels, channel_mask, C, *epilogue, ALPHA, GAIN, CLAMP, ACT)
    target = y + row.to(tl.int64) * OW * C + columns[:, None] * C + channels[None, :]
    tl.store(target, z.to(y.dtype.element_ty), mask=mask[:, None] & channel_mask[None, :])


@triton.jit
def slide_kernel(
    x, y, f, H, W, C, OH, OW, pad_x, pad_y, demodulation, noise, noise_stride, bias, next_styles,
    DOWN: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SEPARABLE: tl.constexpr, FLIP: tl.constexpr, FILTER_GAIN: tl.constexpr,
    ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, ACT: tl.constexpr, ALIGNMENT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """NHWC, up 1, down DOWN. Program: ROWS output rows x BLOCK_P columns x BLOCK_C channels of one sample.

    A step reads DOWN input rows and adds them to REACH outputs: sums[j] is the output that is j steps old.
    """
    REACH: tl.constexpr = (KH + DOWN - 1) // DOWN
    C = C // ALIGNMENT * ALIGNMENT
    strips = tl.cdiv(OH, ROWS)
    n, first = tl.program_id(0) // strips, tl.program_id(0) % strips * ROWS
    columns = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    channels = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    channel_mask = channels < C
    x += n.to(tl.int64) * H * W * C
    y += n.to(tl.int64) * OH * OW * C
    epilogue = (demodulation, noise, noise_stride, bias, next_styles)
    taps = _all_taps(f, KH, KW, SEPARABLE, FLIP, FILTER_GAIN, ACC)
    zero = tl.zeros((BLOCK_P, BLOCK_C), ACC)
    sums = (zero,)
    for _ in tl.static_range(REACH - 1):
        sums += (zero,)
    for step in range(1 - REACH, min(ROWS, OH - first)):
        sums = _shift(sums, zero, REACH)
        for phase in tl.static_range(DOWN):
            row = (first + step + REACH - 1) * DOWN - pad_y + phase
            tiles = _load_row(x, row, columns * DOWN - pad_x, channels, channel_mask, H, W, C, KW, ACC)
            sums = _add_row(sums, tiles, taps, phase, DOWN, KH, KW)
        if step >= 0:
            _store_row(
                sums[REACH - 1],
                y,
                n,
                first + step,
                columns,
                channels,
                channel_mask,
                OH,
                OW,
                C,
                epilogue,
                ALPHA,
                GAIN,
                CLAMP,
                ACT,
            )


@triton.jit
def _shift(sums, zero, REACH: tl.constexpr):
    """Every sum one step older, a new one in front."""
    shifted = (zero,)
    for j in tl.static_range(REACH - 1):
        shifted += (sums[j],)
    return shifted


@triton.jit
def _add_row(sums, tiles, taps, PHASE: tl.constexpr, DOWN: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr):
    """The sums with one more input row: tap row PHASE + j * DOWN of sums[j]."""
    added = ()
    for j in tl.static_range((KH + DOWN - 1) // DOWN):
        acc = sums[j]
        if PHASE + j * DOWN < KH:
            for tx in tl.static_range(KW):
                acc += tiles[tx] * taps[(PHASE + j * DOWN) * KW + tx]
        added += (acc,)
    return added


@triton.jit
def _weigh_phase(acc, tiles, taps, T: tl.constexpr, B: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr):
    """acc + the taps B and B + 2 of filter row T, which meet samples in outputs of column parity B."""
    if T < KH:
        if B < KW:
            acc += tiles[B] * taps[T * KW + B]
        if B + 2 < KW:
            acc += tiles[B + 1] * taps[T * KW + B + 2]
    return acc


@triton.jit
def polyphase_kernel(
    x, y, f, H, W, C, OH, OW, pad_x, pad_y, demodulation, noise, noise_stride, bias, next_styles,
    KH: tl.constexpr, KW: tl.constexpr, SEPARABLE: tl.constexpr, FLIP: tl.constexpr, FILTER_GAIN: tl.constexpr,
    ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, ACT: tl.constexpr, ALIGNMENT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """NHWC, up 2, down 1. Program: 2 ROWS output rows x 2 BLOCK_P columns x BLOCK_C channels of one sample.

    Output o = 2 m + b + pad meets samples m + b and m + b + 1 with taps b and b + 2. Input row i finishes row
    (m, b) = (i - 1, 0) with tap 2 and row (i - 2, 1) with tap 3, and begins the rows (i, 0) and (i - 1, 1) with
    taps 0 and 1. pad may be odd or negative: the first output of a pair may be -1.
    """
    C = C // ALIGNMENT * ALIGNMENT
    first_row = (3 - pad_y - ((3 - pad_y) & 1)) // 2
    first_column = (-pad_x - (pad_x & 1)) // 2
    top = 2 * first_row - 3 + pad_y
    strips = tl.cdiv(OH - top, 2 * ROWS)
    n, strip = tl.program_id(0) // strips, tl.program_id(0) % strips
    m = first_column + tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    channels = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    channel_mask = channels < C
    x += n.to(tl.int64) * H * W * C
    y += n.to(tl.int64) * OH * OW * C
    epilogue = (demodulation, noise, noise_stride, bias, next_styles)
    taps = _all_taps(f, KH, KW, SEPARABLE, FLIP, FILTER_GAIN, ACC)
    zero = tl.zeros((BLOCK_P, BLOCK_C), ACC)
    even, odd = (zero, zero), (zero, zero)
    for step in range(-1, min(ROWS, tl.cdiv(OH - top, 2) - strip * ROWS)):
        pair = strip * ROWS + step
        tiles = _load_row(x, first_row + pair, m, channels, channel_mask, H, W, C, 3, ACC)
        if step >= 0:
            for b in tl.static_range(2):
                columns = 2 * m + b + pad_x
                z = _weigh_phase(odd[b], tiles, taps, 3, b, KH, KW)
                _store_row(
                    z,
                    y,
                    n,
                    top + 2 * pair,
                    columns,
                    channels,
                    channel_mask,
                    OH,
                    OW,
                    C,
                    epilogue,
                    ALPHA,
                    GAIN,
                    CLAMP,
                    ACT,
                )
                z = _weigh_phase(even[b], tiles, taps, 2, b, KH, KW)
                _store_row(
                    z,
                    y,
                    n,
                    top + 2 * pair + 1,
                    columns,
                    channels,
                    channel_mask,
                    OH,
                    OW,
                    C,
                    epilogue,
                    ALPHA,
                    GAIN,
                    CLAMP,
                    ACT,
                )
        even = (_weigh_phase(zero, tiles, taps, 0, 0, KH, KW), _weigh_phase(zero, tiles, taps, 0, 1, KH, KW))
        odd = (_weigh_phase(zero, tiles, taps, 1, 0, KH, KW), _weigh_phase(zero, tiles, taps, 1, 1, KH, KW))


@triton.jit
def direct_kernel(
    x, y, f, H, W, C, OH, OW, pad_x, pad_y, demodulation, noise, noise_stride, bias, next_styles,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SEPARABLE: tl.constexpr, FLIP: tl.constexpr, FILTER_GAIN: tl.constexpr,
    ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, ACT: tl.constexpr, ALIGNMENT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Any factors, filter and layout. Program: BLOCK_H x BLOCK_W output pixels x BLOCK_C channels of one sample.

    An output reads the taps that meet samples: the first one and every UP-th.
    """
    C = C // ALIGNMENT * ALIGNMENT
    strips = tl.cdiv(OH, BLOCK_H)
    n, strip = tl.program_id(0) // strips, tl.program_id(0) % strips
    oy = (strip * BLOCK_H + tl.arange(0, BLOCK_H))[:, None, None]
    ox = (tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W))[None, :, None]
    channels = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    pixel_mask, channel_mask = (oy < OH) & (ox < OW), channels < C
    x += n.to(tl.int64) * H * W * C
    y += n.to(tl.int64) * OH * OW * C
    column_stride = C if CHANNELS_LAST else 1
    if CHANNELS_LAST:
        x += channels[None, None, :]
        y += channels[None, None, :]
    else:
        x += channels[None, None, :].to(tl.int64) * H * W
        y += channels[None, None, :].to(tl.int64) * OH * OW
    iy, first_ty = _first_sample(oy, pad_y, UP_Y, DOWN_Y)
    ix, first_tx = _first_sample(ox, pad_x, UP_X, DOWN_X)
    acc = tl.zeros((BLOCK_H, BLOCK_W, BLOCK_C), ACC)
    for ky in range((KH + UP_Y - 1) // UP_Y):
        row, ty = iy + ky, first_ty + ky * UP_Y
        row_mask = pixel_mask & (row >= 0) & (row < H) & (ty < KH)
        line = x + row.to(tl.int64) * W * column_stride
        for kx in tl.static_range((KW + UP_X - 1) // UP_X):
            column, tx = ix + kx, first_tx + kx * UP_X
            mask = row_mask & (column >= 0) & (column < W) & (tx < KW)
            value = tl.load(line + column * column_stride, mask=mask & channel_mask[None, None, :], other=0.0).to(ACC)
            acc += value * _tap(f, ty, tx, ty < KH, tx < KW, KH, KW, SEPARABLE, FLIP, FILTER_GAIN, ACC)
    P: tl.constexpr = BLOCK_H * BLOCK_W
    epilogue = (demodulation, noise, noise_stride, bias, next_styles)
    z, pixels, mask = acc.reshape(P, BLOCK_C), (oy * OW + ox).reshape(P), pixel_mask.reshape(P)
    z = finish_tile(z, n, pixels, mask, channels, channel_mask, C, *epilogue, ALPHA, GAIN, CLAMP, ACT)
    target = y + oy.to(tl.int64) * OW * column_stride + ox * column_stride
    tl.store(
        target,
        z.reshape(BLOCK_H, BLOCK_W, BLOCK_C).to(y.dtype.scalar.element_ty),
        mask=pixel_mask & channel_mask[None, None, :],
    )


@triton.jit
def _first_sample(o, pad, UP: tl.constexpr, DOWN: tl.constexpr):
    """The first sample that outputs o meet, and with which tap; the others follow at 1 sample and UP taps.

    Division rounds toward zero, so that it is done on numbers that are not negative.
    """
    start = o * DOWN - pad
    if UP == 1:
        return start, 0
    else:
        lift = tl.cdiv(tl.maximum(pad, 0), UP)
        sample = tl.cdiv(start + lift * UP, UP) - lift
        return sample, sample * UP - start
