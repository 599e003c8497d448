// Eight lanes of AVX2: floats, and the integer products of quantized weights. simd_portable.h offers the same words.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define LANES_NAME "avx2"
#define INLINE static inline __attribute__((always_inline))

// --- eight floats ---------------------------------------------------------------------------------------------------

using F8 = __m256;

INLINE F8 load(const float* p) { return _mm256_loadu_ps(p); }
INLINE void store(float* p, F8 x) { _mm256_storeu_ps(p, x); }
INLINE F8 splat(float x) { return _mm256_set1_ps(x); }
INLINE F8 zero() { return _mm256_setzero_ps(); }
INLINE F8 add(F8 a, F8 b) { return _mm256_add_ps(a, b); }
INLINE F8 sub(F8 a, F8 b) { return _mm256_sub_ps(a, b); }
INLINE F8 mul(F8 a, F8 b) { return _mm256_mul_ps(a, b); }
INLINE F8 div(F8 a, F8 b) { return _mm256_div_ps(a, b); }
INLINE F8 fma(F8 a, F8 b, F8 c) { return _mm256_fmadd_ps(a, b, c); }  // a * b + c
INLINE F8 max(F8 a, F8 b) { return _mm256_max_ps(a, b); }
INLINE F8 min(F8 a, F8 b) { return _mm256_min_ps(a, b); }
INLINE F8 load_f16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
INLINE F8 load_bf16(const uint16_t* p) {
    __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
INLINE F8 load_int8(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

// --- integers: 32 bytes, 16 int16, 8 int32 ----------------------------------------------------------------------------

using B32 = __m256i;
using I16 = __m256i;
using I8 = __m256i;

INLINE B32 load_bytes(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
INLINE B32 low_nibbles(B32 x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
INLINE B32 high_nibbles(B32 x) { return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15)); }
// Four bytes in every lane. In assembly, because compilers hoist these loads out of loops and spill them.
INLINE B32 splat4(const int8_t* p) {
    B32 x;
    asm volatile("vpbroadcastd %1, %0" : "=x"(x) : "m"(*reinterpret_cast<const int32_t*>(p)));
    return x;
}
// Eight bytes in every 64-bit lane, as splat4.
INLINE B32 splat8(const int8_t* p) {
    B32 x;
    asm volatile("vpbroadcastq %1, %0" : "=x"(x) : "m"(*reinterpret_cast<const int64_t*>(p)));
    return x;
}
// Where four vectors of kept weights find their inputs among eight, for `gather`: byte b of a lane of `index` holds for
// vector v in bits 2v and 2v + 1 a place among the first four inputs (b < 2) or the last four. `gather` looks at bits 0 to
// 2 and 7 of a byte, so the places of vectors 2 and 3 need not be cut off behind those of 0 and 1.
INLINE void places(B32 index, B32 (&out)[4]) {
    const B32 pairs = _mm256_set1_epi8(0x33), last_four = _mm256_set1_epi32(0x44440000);
    out[0] = _mm256_or_si256(_mm256_and_si256(index, pairs), last_four);
    out[1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(index, 2), pairs), last_four);
    out[2] = _mm256_srli_epi16(out[0], 4);
    out[3] = _mm256_srli_epi16(out[1], 4);
}
INLINE B32 gather(B32 eights, B32 place) { return _mm256_shuffle_epi8(eights, place); }  // eights: from splat8
// Products of unsigned a and signed b, neighbours added; exact while the sum of two stays below 32,768.
INLINE I16 dot2(B32 a, B32 b) { return _mm256_maddubs_epi16(a, b); }
// sum + dot2(a, b). In assembly, because compilers put the additions off until no register is left.
INLINE I16 add_dot2(I16 sum, B32 a, B32 b) {
    I16 product;
    asm volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(a), "x"(b));
    return sum;
}
INLINE I8 widen(I16 x) { return _mm256_madd_epi16(x, _mm256_set1_epi16(1)); }  // neighbours added
// Four products of signed a in [-128, 127] and b in [-127, 127] added; |a| is given too. 2 * 128 * 127 = 32,512.
INLINE B32 absolute_bytes(B32 a) { return _mm256_abs_epi8(a); }
INLINE I8 dot4(B32 magnitude, B32 a, B32 b) { return widen(dot2(magnitude, _mm256_sign_epi8(b, a))); }
INLINE I8 add_dot4(I8 sum, B32 magnitude, B32 a, B32 b) {
    asm volatile("vpsignb %3, %1, %1\n\tvpmaddubsw %1, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
                 : "+x"(sum), "+&x"(b)
                 : "x"(magnitude), "x"(a), "x"(_mm256_set1_epi16(1)));
    return sum;
}
INLINE I8 add32(I8 a, I8 b) { return _mm256_add_epi32(a, b); }
INLINE I8 sub32(I8 a, I8 b) { return _mm256_sub_epi32(a, b); }
INLINE I8 splat32(int32_t x) { return _mm256_set1_epi32(x); }
INLINE I8 zero32() { return _mm256_setzero_si256(); }
INLINE F8 to_float(I8 x) { return _mm256_cvtepi32_ps(x); }
// Eight int16 at p, each times a number that fits in int16.
INLINE I8 mul16(const int16_t* p, int32_t by) {
    __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_madd_epi16(x, _mm256_set1_epi32(by & 0xffff));
}
INLINE F8 byte_to_float(B32 x, int index) {  // byte `index` of every lane, unsigned
    return to_float(_mm256_and_si256(_mm256_srli_epi32(x, 8 * index), _mm256_set1_epi32(255)));
}
INLINE F8 signed_byte_to_float(B32 x, int index) {
    return to_float(_mm256_srai_epi32(_mm256_slli_epi32(x, 24 - 8 * index), 24));
}
INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

// --- parts, comparisons, conversions ------------------------------------------------------------------------------------

// The first `count` < 8 floats, zeros behind them; nothing further is read.
INLINE __m256i part_mask(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE F8 load_part(const float* p, int count) { return _mm256_maskload_ps(p, part_mask(count)); }
INLINE void store_part(float* p, F8 x, int count) { _mm256_maskstore_ps(p, part_mask(count), x); }

// max(a, b) and min(a, b) give b when one of them is not a number.
INLINE F8 absolute(F8 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
INLINE F8 nearest(F8 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE F8 zero_below(F8 x, F8 limit, F8 value) { return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), value); }
INLINE F8 with_sign_of(F8 sign, F8 x) {
    F8 mask = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_and_ps(mask, sign), _mm256_andnot_ps(mask, x));
}
// 2^n for whole n in [-126, 127].
INLINE F8 power_of_two(F8 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
INLINE I8 to_int(F8 x) { return _mm256_cvtps_epi32(x); }  // round half to even
// Four times eight small integers -> 32 bytes.
INLINE void store_codes(int8_t* p, I8 a, I8 b, I8 c, I8 d) {
    __m256i x = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    x = _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
}
INLINE void store_ints(int32_t* p, I8 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
INLINE float f16_to_float(uint16_t x) { return _cvtsh_ss(x); }
INLINE uint16_t float_to_f16(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

// --- over the lanes of one vector, in a fixed order: halves, then quarters, then the last two ---------------------------

INLINE float sum_of(F8 x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
INLINE float max_of(F8 x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
INLINE int32_t sum_of(I8 x) {
    __m128i y = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    y = _mm_add_epi32(y, _mm_unpackhi_epi64(y, y));
    return _mm_cvtsi128_si32(_mm_add_epi32(y, _mm_shuffle_epi32(y, 1)));
}
