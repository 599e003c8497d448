// The words of simd_avx2.h with plain loops, for processors without those instructions. The same results, bit for bit.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define LANES_NAME "portable"
#define INLINE static inline

// --- eight floats ---------------------------------------------------------------------------------------------------

struct F8 {
    float x[8];
};

#define LANES(type, expression)                  \
    type out;                                    \
    for (int i = 0; i < 8; ++i) out.x[i] = expression; \
    return out

INLINE float f16_to_float(uint16_t h) {
    uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023, bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000 | fraction << 13;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    } else {  // subnormal: fraction * 2^-24
        float x = static_cast<float>(fraction) * 5.9604644775390625e-8f;
        std::memcpy(&bits, &x, 4);
        bits |= sign;
    }
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

INLINE uint16_t float_to_f16(float x) {  // round half to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint32_t sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (rest >> 13 & 0x3ff));
    if (rest >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to infinity
    if (rest < 0x38800000) {  // subnormal: adding 0.5 leaves the rounded fraction in the lowest bits
        float y;
        std::memcpy(&y, &rest, 4);
        y += 0.5f;
        std::memcpy(&rest, &y, 4);
        return static_cast<uint16_t>(sign | (rest - 0x3f000000));
    }
    rest += 0xfff + (rest >> 13 & 1);
    return static_cast<uint16_t>(sign | (rest - 0x38000000) >> 13);
}

INLINE F8 load(const float* p) { LANES(F8, p[i]); }
INLINE void store(float* p, F8 a) { std::memcpy(p, a.x, sizeof a.x); }
INLINE F8 splat(float x) { LANES(F8, x); }
INLINE F8 zero() { return splat(0.0f); }
INLINE F8 add(F8 a, F8 b) { LANES(F8, a.x[i] + b.x[i]); }
INLINE F8 sub(F8 a, F8 b) { LANES(F8, a.x[i] - b.x[i]); }
INLINE F8 mul(F8 a, F8 b) { LANES(F8, a.x[i] * b.x[i]); }
INLINE F8 div(F8 a, F8 b) { LANES(F8, a.x[i] / b.x[i]); }
INLINE F8 fma(F8 a, F8 b, F8 c) { LANES(F8, std::fma(a.x[i], b.x[i], c.x[i])); }
INLINE F8 max(F8 a, F8 b) { LANES(F8, a.x[i] > b.x[i] ? a.x[i] : b.x[i]); }
INLINE F8 min(F8 a, F8 b) { LANES(F8, a.x[i] < b.x[i] ? a.x[i] : b.x[i]); }
INLINE F8 load_f16(const uint16_t* p) { LANES(F8, f16_to_float(p[i])); }
INLINE F8 load_bf16(const uint16_t* p) {
    uint32_t bits[8];
    for (int i = 0; i < 8; ++i) bits[i] = static_cast<uint32_t>(p[i]) << 16;
    F8 out;
    std::memcpy(out.x, bits, sizeof bits);
    return out;
}
INLINE F8 load_int8(const int8_t* p) { LANES(F8, static_cast<float>(p[i])); }

INLINE F8 load_part(const float* p, int count) { LANES(F8, i < count ? p[i] : 0.0f); }
INLINE void store_part(float* p, F8 a, int count) { std::memcpy(p, a.x, sizeof(float) * count); }
INLINE F8 absolute(F8 a) { LANES(F8, std::fabs(a.x[i])); }
INLINE F8 nearest(F8 a) { LANES(F8, std::nearbyint(a.x[i])); }
INLINE F8 zero_below(F8 a, F8 limit, F8 value) { LANES(F8, a.x[i] < limit.x[i] ? 0.0f : value.x[i]); }
INLINE F8 with_sign_of(F8 sign, F8 a) { LANES(F8, std::copysign(a.x[i], sign.x[i])); }
INLINE F8 power_of_two(F8 n) {
    uint32_t bits[8];  // what is no number gives any power: it is multiplied by what is no number
    for (int i = 0; i < 8; ++i) bits[i] = n.x[i] == n.x[i] ? static_cast<uint32_t>(static_cast<int32_t>(n.x[i]) + 127) << 23 : 0;
    F8 out;
    std::memcpy(out.x, bits, sizeof bits);
    return out;
}

// --- integers: 32 bytes, 16 int16, 8 int32 ----------------------------------------------------------------------------

struct B32 {
    uint8_t x[32];
};
struct I16 {
    int16_t x[16];
};
struct I8 {
    int32_t x[8];
};

INLINE B32 load_bytes(const void* p) {
    B32 out;
    std::memcpy(out.x, p, 32);
    return out;
}
INLINE B32 low_nibbles(B32 a) {
    for (auto& byte : a.x) byte &= 15;
    return a;
}
INLINE B32 high_nibbles(B32 a) {
    for (auto& byte : a.x) byte >>= 4;
    return a;
}
INLINE B32 splat4(const int8_t* p) {
    B32 out;
    for (int i = 0; i < 8; ++i) std::memcpy(out.x + 4 * i, p, 4);
    return out;
}
INLINE B32 splat8(const int8_t* p) {
    B32 out;
    for (int i = 0; i < 4; ++i) std::memcpy(out.x + 8 * i, p, 8);
    return out;
}
INLINE void places(B32 index, B32 (&out)[4]) {
    for (int v = 0; v < 4; ++v)
        for (int i = 0; i < 32; ++i) out[v].x[i] = static_cast<uint8_t>((index.x[i] >> 2 * v & 3) + (i % 4 < 2 ? 0 : 4));
}
INLINE B32 gather(B32 eights, B32 place) {
    B32 out;
    for (int i = 0; i < 32; ++i) out.x[i] = eights.x[place.x[i]];
    return out;
}
INLINE I16 dot2(B32 a, B32 b) {
    I16 out;
    for (int i = 0; i < 16; ++i)
        out.x[i] = static_cast<int16_t>(a.x[2 * i] * static_cast<int8_t>(b.x[2 * i]) +
                                        a.x[2 * i + 1] * static_cast<int8_t>(b.x[2 * i + 1]));
    return out;
}
INLINE I16 add16(I16 a, I16 b) {
    for (int i = 0; i < 16; ++i) a.x[i] = static_cast<int16_t>(a.x[i] + b.x[i]);
    return a;
}
INLINE I16 add_dot2(I16 sum, B32 a, B32 b) { return add16(sum, dot2(a, b)); }
INLINE I8 widen(I16 a) { LANES(I8, a.x[2 * i] + a.x[2 * i + 1]); }
INLINE B32 absolute_bytes(B32 a) {  // -128 gives 128: bytes here have no sign
    for (auto& byte : a.x) byte = static_cast<int8_t>(byte) < 0 ? static_cast<uint8_t>(-byte) : byte;
    return a;
}
INLINE I8 dot4(B32, B32 a, B32 b) {
    I8 out;
    for (int i = 0; i < 8; ++i) {
        out.x[i] = 0;
        for (int j = 4 * i; j < 4 * i + 4; ++j) out.x[i] += static_cast<int8_t>(a.x[j]) * static_cast<int8_t>(b.x[j]);
    }
    return out;
}
INLINE I8 add_dot4(I8 sum, B32 magnitude, B32 a, B32 b) {
    I8 dot = dot4(magnitude, a, b);
    for (int i = 0; i < 8; ++i) sum.x[i] += dot.x[i];
    return sum;
}
INLINE I8 add32(I8 a, I8 b) { LANES(I8, a.x[i] + b.x[i]); }
INLINE I8 sub32(I8 a, I8 b) { LANES(I8, a.x[i] - b.x[i]); }
INLINE I8 splat32(int32_t x) { LANES(I8, x); }
INLINE I8 zero32() { return splat32(0); }
INLINE F8 to_float(I8 a) { LANES(F8, static_cast<float>(a.x[i])); }
INLINE I8 mul16(const int16_t* p, int32_t by) { LANES(I8, p[i] * by); }
INLINE F8 byte_to_float(B32 a, int index) { LANES(F8, static_cast<float>(a.x[4 * i + index])); }
INLINE F8 signed_byte_to_float(B32 a, int index) { LANES(F8, static_cast<float>(static_cast<int8_t>(a.x[4 * i + index]))); }
INLINE I8 to_int(F8 a) { LANES(I8, static_cast<int32_t>(std::nearbyint(a.x[i]))); }
INLINE void store_codes(int8_t* p, I8 a, I8 b, I8 c, I8 d) {
    const I8* all[] = {&a, &b, &c, &d};
    for (int i = 0; i < 32; ++i) p[i] = static_cast<int8_t>(all[i / 8]->x[i % 8]);
}
INLINE void store_ints(int32_t* p, I8 a) { std::memcpy(p, a.x, sizeof a.x); }
INLINE void prefetch(const void*) {}

// --- over the lanes of one vector, in a fixed order: halves, then quarters, then the last two ---------------------------

INLINE float sum_of(F8 a) { return ((a.x[0] + a.x[4]) + (a.x[2] + a.x[6])) + ((a.x[1] + a.x[5]) + (a.x[3] + a.x[7])); }
INLINE float max_of(F8 a) {
    for (int half = 4; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) a.x[i] = a.x[i] > a.x[i + half] ? a.x[i] : a.x[i + half];
    return a.x[0];
}
INLINE int32_t sum_of(I8 a) {
    int32_t total = 0;
    for (int32_t x : a.x) total += x;
    return total;
}

#undef LANES
