// Functions of one row. Included by body.cpp, once per instruction set.
//
// A lane's arithmetic never depends on where in a row it lies: the tail of a row is computed in a whole vector too.
#pragma once

namespace {

// f(vector, place, count) for every vector of a row.
template <class Function>
INLINE void each(int width, const Function& f) {
    int i = 0;
    for (; i + 8 <= width; i += 8) f(i, 8);
    if (i < width) f(i, width - i);
}

INLINE F8 take(const float* p, int count) { return count == 8 ? load(p) : load_part(p, count); }
INLINE void put(float* p, F8 x, int count) {
    if (count == 8) store(p, x);
    else store_part(p, x, count);
}

// --- functions of a number ----------------------------------------------------------------------------------------------

// e^x: x = n ln 2 + r, a polynomial for e^r (Cephes expf, Moshier 1992); 2 ulp. Below -87.3 zero, above 88.3 e^88.3.
INLINE F8 exponential(F8 x) {
    F8 low = splat(-87.3f), y = max(low, min(splat(88.3f), x));
    F8 n = nearest(mul(y, splat(1.44269504088896341f)));
    F8 r = fma(n, splat(-0.693359375f), y);
    r = fma(n, splat(2.12194440e-4f), r);
    F8 p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), splat(1.0f));
    return zero_below(x, low, mul(p, power_of_two(n)));
}

// 1 - 2 / (e^2x + 1); absolute error 1e-7.
INLINE F8 hyperbolic_tangent(F8 x) {
    F8 e = exponential(mul(x, splat(2.0f)));
    return sub(splat(1.0f), div(splat(2.0f), add(e, splat(1.0f))));
}

// Abramowitz and Stegun 7.1.26; absolute error 1.5e-7.
INLINE F8 error_function(F8 x) {
    F8 a = absolute(x), t = div(splat(1.0f), fma(a, splat(0.3275911f), splat(1.0f)));
    F8 p = fma(t, splat(1.061405429f), splat(-1.453152027f));
    p = fma(p, t, splat(1.421413741f));
    p = fma(p, t, splat(-0.284496736f));
    p = mul(fma(p, t, splat(0.254829592f)), t);
    F8 y = sub(splat(1.0f), mul(p, exponential(sub(zero(), mul(a, a)))));
    return with_sign_of(x, y);
}

INLINE F8 silu(F8 x) { return div(x, add(splat(1.0f), exponential(sub(zero(), x)))); }
INLINE F8 gelu(F8 x) {
    return mul(x, mul(splat(0.5f), add(splat(1.0f), error_function(mul(x, splat(0.70710678f))))));
}
INLINE F8 gelu_tanh(F8 x) {
    F8 inner = mul(splat(0.7978845608f), fma(mul(splat(0.044715f), mul(x, x)), x, x));
    return mul(mul(splat(0.5f), x), add(splat(1.0f), hyperbolic_tangent(inner)));
}
INLINE F8 relu(F8 x) { return max(zero(), x); }

INLINE F8 activated(Activation kind, F8 x) {
    switch (kind) {
        case Activation::silu: return silu(x);
        case Activation::gelu: return gelu(x);
        case Activation::gelu_tanh: return gelu_tanh(x);
        default: return relu(x);
    }
}

// --- rows -----------------------------------------------------------------------------------------------------------------

void activate(Activation kind, const float* x, int width, float* out) {
    each(width, [&](int i, int count) { put(out + i, activated(kind, take(x + i, count)), count); });
}

void gate(Activation kind, const float* gate, const float* up, int width, float* out) {
    each(width, [&](int i, int count) {
        put(out + i, mul(activated(kind, take(gate + i, count)), take(up + i, count)), count);
    });
}

void softcap(float* x, int width, float cap) {
    each(width, [&](int i, int count) {
        put(x + i, mul(hyperbolic_tangent(div(take(x + i, count), splat(cap))), splat(cap)), count);
    });
}

void add_row(const float* x, int width, float* out) {
    each(width, [&](int i, int count) { put(out + i, add(take(out + i, count), take(x + i, count)), count); });
}

void rms_norm(const float* x, const float* weight, float eps, int width, float* out) {
    F8 squares = zero();
    each(width, [&](int i, int count) {
        F8 v = take(x + i, count);
        squares = fma(v, v, squares);
    });
    F8 scale = splat(1.0f / __builtin_sqrtf(sum_of(squares) / static_cast<float>(width) + eps));
    each(width, [&](int i, int count) { put(out + i, mul(mul(take(x + i, count), scale), take(weight + i, count)), count); });
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int width, float* out) {
    F8 total = zero(), squares = zero();
    each(width, [&](int i, int count) { total = add(total, take(x + i, count)); });
    float mean = sum_of(total) / static_cast<float>(width);
    each(width, [&](int i, int count) {
        // lanes behind the row are zero before the mean is taken off, and must stay so
        float t[8] = {};
        store_part(t, splat(mean), count);
        F8 v = sub(take(x + i, count), count == 8 ? splat(mean) : load(t));
        squares = fma(v, v, squares);
    });
    F8 scale = splat(1.0f / __builtin_sqrtf(sum_of(squares) / static_cast<float>(width) + eps));
    each(width, [&](int i, int count) {
        F8 v = mul(mul(sub(take(x + i, count), splat(mean)), scale), take(weight + i, count));
        put(out + i, add(v, take(bias + i, count)), count);
    });
}

constexpr float kDust = 1e-30f;  // a block of nothing larger counts as zeros: 127 / largest stays finite

// `count` of a block's 32 numbers are there, the others are zero.
INLINE void quantize_block(const float* x, int count, const Block& out) {
    F8 v[4], most = zero(), faults = zero();
    for (int i = 0; i < 4; ++i) {
        int there = count - 8 * i < 8 ? (count > 8 * i ? count - 8 * i : 0) : 8;
        v[i] = there ? take(x + 8 * i, there) : zero();
        most = max(most, absolute(v[i]));
        faults = fma(v[i], zero(), faults);  // not a number times zero, and infinity times zero, are not numbers
    }
    float largest = max_of(most), fault = sum_of(faults);
    bool is_finite = fault == 0.0f;
    F8 inverse = splat(is_finite && largest >= kDust ? 127.0f / largest : 0.0f);
    I8 q[4], total = zero32();
    for (int i = 0; i < 4; ++i) {
        q[i] = is_finite ? to_int(max(splat(-127.0f), min(splat(127.0f), mul(v[i], inverse)))) : zero32();
        total = add32(total, q[i]);
    }
    store_codes(out.codes, q[0], q[1], q[2], q[3]);
    *out.sum = 8 * sum_of(total);
    *out.scale = is_finite ? largest / 127.0f : fault;
}

void quantize(const float* x, int width, int row, int first_block, const Blocks& out) {
    for (int i = 0, b = first_block; i < width; i += kBlock, ++b)
        quantize_block(x + i, width - i < kBlock ? width - i : kBlock, out.at(row, b));
}

void rotate(float* head, const float* cos, const float* sin, int head_dim) {
    int half = head_dim / 2;
    each(half, [&](int i, int count) {
        F8 a = take(head + i, count), b = take(head + half + i, count), c = take(cos + i, count), s = take(sin + i, count);
        put(head + i, sub(mul(a, c), mul(b, s)), count);
        put(head + half + i, add(mul(b, c), mul(a, s)), count);
    });
}

// --- one output of a weight ---------------------------------------------------------------------------------------------

INLINE float bits_to_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// The code of an output's input in a block of sparse8: zero unless it is one of the two that are kept of four.
INLINE int kept_code(const uint8_t* block, int lane, int input) {
    int v = input / 8, code = 0;
    for (int b = 4 * lane + input % 8 / 4 * 2, end = b + 2; b < end; ++b)
        if ((block[256 + b] >> 2 * v & 3) == input % 4) code |= static_cast<int8_t>(block[64 * v + b]);
    return code;
}

// Element (output, input), as kernels/tiles.py lays it out.
float element(const Weight& w, int output, int input) {
    const uint8_t* panel = w.data + panel_bytes(w) * (output / kPanel);
    int lane = output % kPanel;
    long at = static_cast<long>(input) * kPanel + lane;
    if (w.kind == Kind::f32) return reinterpret_cast<const float*>(panel)[at];
    if (w.kind == Kind::bf16) return bits_to_float(static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(panel)[at]) << 16);
    if (w.kind == Kind::f16) return f16_to_float(reinterpret_cast<const uint16_t*>(panel)[at]);
    GroupLayout layout(w);
    int b = input / kBlock, i = input % kBlock, v = i / 4 % (w.kind == Kind::int4 ? 4 : 8);
    const uint8_t* group = panel + b / layout.blocks * layout.bytes();
    const uint8_t* block = group + layout.header + static_cast<long>(b % layout.blocks) * layout.block_bytes;
    if (w.kind == Kind::sparse8) return static_cast<float>(kept_code(block, lane, i)) * w.scales[output];
    uint8_t byte = block[64 * v + 4 * lane + i % 4];
    int zero = w.asymmetric ? reinterpret_cast<const int16_t*>(group + 32)[lane] : w.kind == Kind::int4 ? 8 : 0;
    int code = w.kind == Kind::int8 ? static_cast<int8_t>(byte) : i < 16 ? byte & 15 : byte >> 4;
    float scale = w.group ? f16_to_float(reinterpret_cast<const uint16_t*>(group)[lane]) : w.scales[output];
    return static_cast<float>(code - zero) * scale;
}

void embed_row(const Weight& w, int row, float scale, float* out) {
    for (int i = 0; i < w.inputs; ++i) out[i] = element(w, row, i) * scale;
}

void embed_add(const Weight& w, int row, float* out) {
    for (int i = 0; i < w.inputs; ++i) out[i] += element(w, row, i);
}

}  // namespace
