"""What `gan.gpu.kernels` launches: the work of one program of many, in Triton's Python.

A kernel's first arguments are tensors; pictures are rows of channels, `x_stride` apart; sizes follow.
"""

import triton
import triton.language as tl


@triton.jit
def adam_kernel(
    weight, exp_avg, exp_avg_sq, gradient, rounded, learning_rate, num_updates, scale, found_inf, count,
    BETA1: tl.constexpr, BETA2: tl.constexpr, LOG_BETA1: tl.constexpr, LOG_BETA2: tl.constexpr,
    EPSILON: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    if SCALED:
        count = tl.where(tl.load(found_inf) == 0.0, count, 0)
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    g = tl.load(gradient + place, mask=inside).to(tl.float32)
    if SCALED:
        g = g / tl.load(scale)
    updates = tl.load(num_updates).to(tl.float64)
    correction1 = (1.0 - tl.exp(updates * LOG_BETA1)).to(tl.float32)
    correction2 = (1.0 - tl.exp(updates * LOG_BETA2)).to(tl.float32)
    m = tl.load(exp_avg + place, mask=inside)
    v = tl.load(exp_avg_sq + place, mask=inside)
    m = m + (g - m) * (1.0 - BETA1)
    v = BETA2 * v + (1.0 - BETA2) * g * g
    step = tl.load(learning_rate) / correction1
    w = tl.load(weight + place, mask=inside)
    w = w - step * m / (tl.sqrt(v) / tl.sqrt(correction2) + EPSILON)
    tl.store(exp_avg + place, m, mask=inside)
    tl.store(exp_avg_sq + place, v, mask=inside)
    tl.store(weight + place, w, mask=inside)
    tl.store(rounded + place, w.to(rounded.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "rows_a_part"])
def moments_kernel(
    x, means, squares, rows, channels, x_stride, rows_a_part, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Mean and sum of squared deviations of each channel over a part of the rows (Chan et al. 1983)."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    part = tl.program_id(1)
    first = part * rows_a_part
    last = tl.minimum(first + rows_a_part, rows)
    count = 0.0
    mean = tl.zeros((CHANNELS,), tl.float32)
    square = tl.zeros((CHANNELS,), tl.float32)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < last)[:, None] & (channel < channels)[None, :]
        value = tl.load(x + row.to(tl.int64)[:, None] * x_stride + channel[None, :], mask=inside, other=0.0)
        value = value.to(tl.float32)
        more = tl.minimum(last - start, ROWS).to(tl.float32)
        here = tl.sum(value, 0) / more
        deviation = tl.where(inside, value - here[None, :], 0.0)
        total = count + more
        change = here - mean
        mean += change * (more / total)
        square += tl.sum(deviation * deviation, 0) + change * change * (count * more / total)
        count = total
    tl.store(means + part * channels + channel, mean, mask=channel < channels)
    tl.store(squares + part * channels + channel, square, mask=channel < channels)


@triton.jit(do_not_specialize=["rows", "area", "rows_a_part", "num_parts"])
def normalise_kernel(
    x, mask, skip, first_result, second_result, means, squares, weight, bias, running_mean, running_var, num_batches,
    saved_mean, saved_rstd, rows, channels, x_stride, skip_stride, area, rows_a_part, num_parts, momentum, epsilon,
    FIRST_SLOPE: tl.constexpr, SECOND_SLOPE: tl.constexpr, TWO: tl.constexpr, MASKED: tl.constexpr,
    SKIPPED: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    part = tl.arange(0, PARTS)
    counts = tl.minimum(tl.maximum(rows - part * rows_a_part, 0), rows_a_part).to(tl.float32)[:, None]
    partial = part[:, None] * channels + channel[None, :]
    there = (part < num_parts)[:, None] & known[None, :]
    part_means = tl.load(means + partial, mask=there, other=0.0)
    part_squares = tl.load(squares + partial, mask=there, other=0.0)
    mean = tl.sum(part_means * counts, 0) / rows
    deviation = tl.where(there, part_means - mean[None, :], 0.0)
    square = tl.sum(part_squares + deviation * deviation * counts, 0)
    rstd = 1.0 / tl.sqrt(square / rows + epsilon)
    if tl.program_id(0) == 0:
        tl.store(saved_mean + channel, mean, mask=known)
        tl.store(saved_rstd + channel, rstd, mask=known)
        old = tl.load(running_mean + channel, mask=known)
        tl.store(running_mean + channel, old + momentum * (mean - old), mask=known)
        old = tl.load(running_var + channel, mask=known)
        tl.store(running_var + channel, old + momentum * (square / (rows - 1) - old), mask=known)
        if tl.program_id(1) == 0:
            tl.store(num_batches, tl.load(num_batches) + 1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (row < rows)[:, None] & known[None, :]
    long_row = row.to(tl.int64)
    value = tl.load(x + long_row[:, None] * x_stride + channel[None, :], mask=inside).to(tl.float32)
    gamma, beta = tl.load(weight + channel, mask=known), tl.load(bias + channel, mask=known)
    y = (value - mean[None, :]) * (rstd * gamma)[None, :] + beta[None, :]
    if MASKED:
        place = (long_row // area * channels * area + long_row % area)[:, None] + channel[None, :] * area
        y *= tl.load(mask + place, mask=inside).to(tl.float32)
    place = long_row[:, None] * channels + channel[None, :]
    if SKIPPED:
        passed = tl.load(skip + long_row[:, None] * skip_stride + channel[None, :], mask=inside)
        place += long_row[:, None] * channels
        tl.store(first_result + place, passed, mask=inside)
        place += channels
    kind = first_result.dtype.element_ty
    tl.store(first_result + place, tl.where(y > 0, y, FIRST_SLOPE * y).to(kind), mask=inside)
    if TWO:
        tl.store(second_result + place, tl.where(y > 0, y, SECOND_SLOPE * y).to(kind), mask=inside)


@triton.jit
def load_gradient(
    x, mask, first_gradient, second_gradient, mean, rstd, weight, bias, row, channel, inside, channels,
    x_stride, first_stride, second_stride, area,
    FIRST_SLOPE: tl.constexpr, SECOND_SLOPE: tl.constexpr, TWO: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The gradient by what batch norm gave, and what it normalised to mean 0 and variance 1."""
    long_row = row.to(tl.int64)
    value = tl.load(x + long_row[:, None] * x_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    normal = tl.where(inside, (value - mean[None, :]) * rstd[None, :], 0.0)
    positive = normal * weight[None, :] + bias[None, :] > 0
    gradient = tl.load(first_gradient + long_row[:, None] * first_stride + channel[None, :], mask=inside, other=0.0)
    gradient = gradient.to(tl.float32) * tl.where(positive, 1.0, FIRST_SLOPE)
    if TWO:
        more = tl.load(second_gradient + long_row[:, None] * second_stride + channel[None, :], mask=inside, other=0.0)
        gradient += more.to(tl.float32) * tl.where(positive, 1.0, SECOND_SLOPE)
    if MASKED:
        place = (long_row // area * channels * area + long_row % area)[:, None] + channel[None, :] * area
        gradient *= tl.load(mask + place, mask=inside, other=0).to(tl.float32)
    return gradient, normal


@triton.jit(do_not_specialize=["rows", "area", "rows_a_part"])
def gradient_sums_kernel(
    x, mask, first_gradient, second_gradient, saved_mean, saved_rstd, weight, bias, sums, products,
    rows, channels, x_stride, first_stride, second_stride, area, rows_a_part,
    FIRST_SLOPE: tl.constexpr, SECOND_SLOPE: tl.constexpr, TWO: tl.constexpr, MASKED: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Of each channel, over a part of the rows: the gradient's sum, and that of it times the normalised value."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    part = tl.program_id(1)
    first = part * rows_a_part
    last = tl.minimum(first + rows_a_part, rows)
    mean, rstd = tl.load(saved_mean + channel, mask=known), tl.load(saved_rstd + channel, mask=known)
    gamma, beta = tl.load(weight + channel, mask=known), tl.load(bias + channel, mask=known)
    total = tl.zeros((CHANNELS,), tl.float32)
    product = tl.zeros((CHANNELS,), tl.float32)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < last)[:, None] & known[None, :]
        gradient, normal = load_gradient(
            x, mask, first_gradient, second_gradient, mean, rstd, gamma, beta, row, channel, inside, channels,
            x_stride, first_stride, second_stride, area, FIRST_SLOPE, SECOND_SLOPE, TWO, MASKED,
        )  # fmt: skip
        total += tl.sum(gradient, 0)
        product += tl.sum(gradient * normal, 0)
    tl.store(sums + part * channels + channel, total, mask=known)
    tl.store(products + part * channels + channel, product, mask=known)


@triton.jit(do_not_specialize=["rows", "area", "num_parts"])
def gradient_kernel(
    x, mask, first_gradient, second_gradient, saved_mean, saved_rstd, weight, bias, sums, products,
    of_x, of_weight, of_bias, rows, channels, x_stride, first_stride, second_stride, area, num_parts,
    FIRST_SLOPE: tl.constexpr, SECOND_SLOPE: tl.constexpr, TWO: tl.constexpr, MASKED: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    part = tl.arange(0, PARTS)
    partial = part[:, None] * channels + channel[None, :]
    there = (part < num_parts)[:, None] & known[None, :]
    total = tl.sum(tl.load(sums + partial, mask=there, other=0.0), 0)
    product = tl.sum(tl.load(products + partial, mask=there, other=0.0), 0)
    if tl.program_id(0) == 0:
        tl.store(of_bias + channel, total, mask=known)
        tl.store(of_weight + channel, product, mask=known)
    mean, rstd = tl.load(saved_mean + channel, mask=known), tl.load(saved_rstd + channel, mask=known)
    gamma, beta = tl.load(weight + channel, mask=known), tl.load(bias + channel, mask=known)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (row < rows)[:, None] & known[None, :]
    gradient, normal = load_gradient(
        x, mask, first_gradient, second_gradient, mean, rstd, gamma, beta, row, channel, inside, channels,
        x_stride, first_stride, second_stride, area, FIRST_SLOPE, SECOND_SLOPE, TWO, MASKED,
    )  # fmt: skip
    value = (gradient - (total / rows)[None, :] - normal * (product / rows)[None, :]) * (rstd * gamma)[None, :]
    place = row.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(of_x + place, value.to(of_x.dtype.element_ty), mask=inside)


@triton.jit
def sampled_position(pixel, size, enlarged):
    """Where a picture of `size` is read for a pixel of it enlarged, as grid_sample reckons; borders go on outside."""
    position = (2.0 * pixel.to(tl.float32) + 1.0) / enlarged - 1.0
    position = ((position + 1.0) * size - 1.0) / 2.0
    return tl.minimum(tl.maximum(position, 0.0), size - 1.0)


@triton.jit
def jitter_row(picture, result, x, y, size):
    """One row of one channel, in [-1, 1]; the places of the result are three apart."""
    left, top = tl.floor(x), tl.floor(y)
    right_share, bottom_share = x - left, y - top
    first_column, first_row = left.to(tl.int32), top.to(tl.int32)
    second_column, second_row = tl.minimum(first_column + 1, size - 1), tl.minimum(first_row + 1, size - 1)
    value = tl.zeros_like(x)
    for below in tl.static_range(2):
        for beside in tl.static_range(2):
            row = second_row if below else first_row
            column = second_column if beside else first_column
            share = (right_share if beside else 1.0 - right_share) * (bottom_share if below else 1.0 - bottom_share)
            value += share * (tl.load(picture + row * size + column).to(tl.float32) / 127.5 - 1.0)
    tl.store(result, tl.minimum(tl.maximum(value, -1.0), 1.0))


@triton.jit(do_not_specialize=["number", "size", "enlarged"])
def jitter_kernel(source, target, places, jittered_source, jittered_target, number, size, enlarged, SIZE: tl.constexpr):
    """One row of a pair."""
    picture, row = tl.program_id(0) // size, tl.program_id(0) % size
    index, top = tl.load(places + picture), tl.load(places + number + picture)
    left, flip = tl.load(places + 2 * number + picture), tl.load(places + 3 * number + picture)
    column = tl.arange(0, SIZE)
    y = sampled_position(top + row, size, enlarged)
    x = sampled_position(left + tl.where(flip != 0, size - 1 - column, column), size, enlarged)
    result = (tl.program_id(0).to(tl.int64) * size + column) * 3
    for channel in tl.static_range(3):
        plane = (index * 3 + channel) * size * size
        jitter_row(source + plane, jittered_source + result + channel, x, y, size)
        jitter_row(target + plane, jittered_target + result + channel, x, y, size)


@triton.jit(do_not_specialize=["height", "width"])
def gather_kernel(x, windows, height, width, channels, x_stride, BLOCK: tl.constexpr):
    """A window's sixteen rows of channels; outside the picture they are 0."""
    window, tap = tl.program_id(0), tl.arange(0, 16)
    picture, cell = window // (height * width), window % (height * width)
    row = cell // width * 2 - 1 + tap // 4
    column = cell % width * 2 - 1 + tap % 4
    seen = (row >= 0) & (row < 2 * height) & (column >= 0) & (column < 2 * width)
    channel = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    known = channel < channels
    source = ((picture * 2 * height + row) * 2 * width + column).to(tl.int64) * x_stride
    value = tl.load(x + source[:, None] + channel, mask=known & seen[:, None], other=0.0)
    place = (window * 16 + tap).to(tl.int64) * channels
    tl.store(windows + place[:, None] + channel, value, mask=known)


@triton.jit(do_not_specialize=["positions", "height", "width"])
def scatter_kernel(windows, x, positions, height, width, channels, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Of some positions the sum of the up to four windows' rows that fall on each."""
    position = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    picture, place = position // (4 * height * width), position % (4 * height * width)
    row, column = place // (2 * width), place % (2 * width)
    channel = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    known = (position < positions)[:, None] & (channel < channels)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            cell_row, cell_column = (row + 1) // 2 - down, (column + 1) // 2 - right
            tap = ((row + 1) % 2 + 2 * down) * 4 + (column + 1) % 2 + 2 * right
            seen = (cell_row >= 0) & (cell_row < height) & (cell_column >= 0) & (cell_column < width)
            window = (picture * height + cell_row) * width + cell_column
            source = (window * 16 + tap).to(tl.int64) * channels
            value = tl.load(windows + source[:, None] + channel, mask=known & seen[:, None], other=0.0)
            total += value.to(tl.float32)
    place = position.to(tl.int64) * channels
    tl.store(x + place[:, None] + channel, total.to(x.dtype.element_ty), mask=known)
