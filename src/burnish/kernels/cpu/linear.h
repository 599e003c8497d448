// Matrix products with weights in panels (kernels/tiles.py). Included by body.cpp, once per instruction set.
//
// Every output is one chain: acc = fma(float(integer dot of a block), weight scale * activation scale, acc) over the
// blocks in order (floats: acc = fma(x, w, acc) over the inputs in order), then the channel scale, bias and the old
// value. The chain is the same whichever body computes it, so a row's result depends on nothing beside it.
#pragma once

namespace {

constexpr int kMostRows = 384;   // of a chunk: rows whose activations stay in the second-level cache
constexpr long kChunkBytes = 256 << 10;
constexpr int kIntInputs = 2048; // inputs whose weights and activations stay in the first-level cache
constexpr int kFloatInputs = 256;
constexpr int kAhead = 2304;     // bytes of prefetch: found by measurement, docs/log.md

using Sums = float[kPanel];  // accumulators of one row and panel

// Rows of a chunk, whole groups of kRows: so many that a weight is read again as seldom as can be, and the same for every
// chunk, as a small last one would read all weights for little. A quarter beyond kChunkBytes may save a chunk.
inline int chunk_rows(long row_bytes, int rows) {
    long groups = rows > kRows ? round_up(rows, kRows) / kRows : 1;
    long most = kChunkBytes / row_bytes / kRows, least = 48 / kRows;
    most = most < least ? least : most;
    long chunks = (4 * groups + 5 * most - 1) / (5 * most), even = (groups + chunks - 1) / chunks * kRows;
    return static_cast<int>(even > kMostRows ? kMostRows : even);
}

// --- layout ---------------------------------------------------------------------------------------------------------

struct GroupLayout {
    int blocks;       // of a group
    int header;       // bytes before them
    int block_bytes;

    explicit GroupLayout(const Weight& w)
        : blocks(w.group ? w.group / kBlock : round_up(w.inputs, kBlock) / kBlock),
          header(w.group ? (w.asymmetric ? 64 : 32) : 0),
          block_bytes(burnish::block_bytes(w.kind)) {}

    long bytes() const { return header + static_cast<long>(blocks) * block_bytes; }
    long offset(int block) const { return block / blocks * bytes() + (block % blocks ? header + block % blocks * block_bytes : 0); }
};

inline long panel_bytes(const Weight& w) {
    switch (w.kind) {
        case Kind::f32: return static_cast<long>(w.inputs) * kPanel * 4;
        case Kind::f16:
        case Kind::bf16: return static_cast<long>(w.inputs) * kPanel * 2;
        default: break;
    }
    GroupLayout layout(w);
    int groups = (round_up(w.inputs, kBlock) / kBlock + layout.blocks - 1) / layout.blocks;
    return groups * layout.bytes();
}

// The scales of a group's eight outputs, half 0 or 1; ones when the weight has a scale per output.
INLINE F8 group_scales(const uint8_t* group, int half) { return load_f16(reinterpret_cast<const uint16_t*>(group) + 8 * half); }
INLINE const int16_t* group_zeros(const uint8_t* group, int half) {
    return reinterpret_cast<const int16_t*>(group + 32) + 8 * half;
}

// --- integer dots of one block, sixteen outputs, R rows ---------------------------------------------------------------

// `acts` are the codes of the block's R rows, out[h][r] the dots of row r with the outputs of half h.
struct Int4 {
    static constexpr int block_bytes = 256;
    using Dots = I16;

    // Both halves share an activation that is spread over the lanes. 16 products of 15 * 127 stay below 32,768.
    template <int R>
    INLINE void dots(const uint8_t* block, const int8_t* acts, Dots (&out)[2][R]) {
#pragma GCC unroll 8
        for (int v = 0; v < 8; ++v) {
            B32 low = load_bytes(block + 64 * (v % 4)), high = load_bytes(block + 64 * (v % 4) + 32);
            low = v < 4 ? low_nibbles(low) : high_nibbles(low);
            high = v < 4 ? low_nibbles(high) : high_nibbles(high);
#pragma GCC unroll 6
            for (int r = 0; r < R; ++r) {
                B32 a = splat4(acts + kBlock * r + 4 * v);
                out[0][r] = v ? add_dot2(out[0][r], low, a) : dot2(low, a);
                out[1][r] = v ? add_dot2(out[1][r], high, a) : dot2(high, a);
            }
        }
    }

    // Without what the codes' offset adds: 8 times the activations' sum, or the zero points times it.
    template <bool Asymmetric>
    INLINE I8 exact(Dots dots, const uint8_t* group, int h, int32_t eight_sums) {
        return sub32(widen(dots), Asymmetric ? mul16(group_zeros(group, h), eight_sums / 8) : splat32(eight_sums));
    }
};

struct Int8 {
    static constexpr int block_bytes = 512;
    using Dots = I8;

    template <int R>
    INLINE void dots(const uint8_t* block, const int8_t* acts, Dots (&out)[2][R]) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 8
            for (int v = 0; v < 8; ++v) {
                B32 w = load_bytes(block + 32 * h + 64 * v), magnitude = absolute_bytes(w);
#pragma GCC unroll 6
                for (int r = 0; r < R; ++r) {
                    B32 a = splat4(acts + kBlock * r + 4 * v);
                    out[h][r] = v ? add_dot4(out[h][r], magnitude, w, a) : dot4(magnitude, w, a);
                }
            }
        }
    }

    template <bool Asymmetric>
    INLINE I8 exact(Dots dots, const uint8_t*, int, int32_t) {
        return dots;
    }
};

// Two of every four weights are stored, and each with which of four inputs it meets: half the products of Int8, and the
// same sums.
struct Sparse8 {
    static constexpr int block_bytes = 320;
    using Dots = I8;

    template <int R>
    INLINE void dots(const uint8_t* block, const int8_t* acts, Dots (&out)[2][R]) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
            B32 place[4];
            places(load_bytes(block + 256 + 32 * h), place);
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v) {
                B32 w = load_bytes(block + 32 * h + 64 * v), magnitude = absolute_bytes(w);
#pragma GCC unroll 6
                for (int r = 0; r < R; ++r) {
                    B32 a = gather(splat8(acts + kBlock * r + 8 * v), place[v]);
                    out[h][r] = v ? add_dot4(out[h][r], magnitude, w, a) : dot4(magnitude, w, a);
                }
            }
        }
    }

    template <bool Asymmetric>
    INLINE I8 exact(Dots dots, const uint8_t*, int, int32_t) {
        return dots;
    }
};

// Blocks [begin, end) of a panel for the R rows of a group, added to their sums.
template <class Code, int R, bool Grouped, bool Asymmetric>
void int_panel(const uint8_t* panel, const GroupLayout& layout, int begin, int end, const uint8_t* acts, Sums* sums) {
    const int blocks = layout.blocks, header = layout.header;
    const uint8_t* group = panel + begin / blocks * layout.bytes();
    int inside = begin % blocks;
    const uint8_t* block = group + header + static_cast<long>(inside) * Code::block_bytes;
    acts += static_cast<long>(begin) * R * Blocks::kBytes;
    F8 own[2][R];
    for (int r = 0; r < R; ++r) {
        own[0][r] = load(sums[r]);
        own[1][r] = load(sums[r] + 8);
    }
    for (int b = begin; b < end; ++b, acts += R * Blocks::kBytes) {
        for (int line = 0; line < Code::block_bytes + 32; line += 64) prefetch(block + kAhead + line);
        auto* scales = reinterpret_cast<const float*>(acts + kBlock * R);
        auto* eight_sums = reinterpret_cast<const int32_t*>(scales + R);
        typename Code::Dots dots[2][R];
        Code::template dots<R>(block, reinterpret_cast<const int8_t*>(acts), dots);
        for (int h = 0; h < 2; ++h) {
            F8 shared = Grouped ? group_scales(group, h) : splat(1.0f);
            for (int r = 0; r < R; ++r) {
                F8 scale = Grouped ? mul(shared, splat(scales[r])) : splat(scales[r]);
                I8 exact = Code::template exact<Asymmetric>(dots[h][r], group, h, eight_sums[r]);
                own[h][r] = fma(to_float(exact), scale, own[h][r]);
            }
        }
        block += Code::block_bytes;
        if (++inside == blocks) {
            inside = 0;
            group = block;
            block += header;
        }
    }
    for (int r = 0; r < R; ++r) {
        store(sums[r], own[0][r]);
        store(sums[r] + 8, own[1][r]);
    }
}

// --- float activations ------------------------------------------------------------------------------------------------

struct FloatRows {
    const float* x[kRows];
};

template <Kind K>
INLINE F8 load_weights(const uint8_t* p) {
    if constexpr (K == Kind::f32) return load(reinterpret_cast<const float*>(p));
    else if constexpr (K == Kind::f16) return load_f16(reinterpret_cast<const uint16_t*>(p));
    else return load_bf16(reinterpret_cast<const uint16_t*>(p));
}

// Inputs [begin, end) of a panel for R rows, added to their sums.
template <Kind K, int R>
void float_panel(const uint8_t* panel, int begin, int end, const FloatRows& a, Sums* sums) {
    constexpr int item = K == Kind::f32 ? 4 : 2;
    F8 low[R], high[R];
    for (int r = 0; r < R; ++r) {
        low[r] = load(sums[r]);
        high[r] = load(sums[r] + 8);
    }
    const uint8_t* p = panel + static_cast<long>(begin) * kPanel * item;
    for (int i = begin; i < end; ++i, p += kPanel * item) {
        prefetch(p + kAhead);
        F8 w0 = load_weights<K>(p), w1 = load_weights<K>(p + 8 * item);
        for (int r = 0; r < R; ++r) {
            F8 x = splat(a.x[r][i]);
            low[r] = fma(x, w0, low[r]);
            high[r] = fma(x, w1, high[r]);
        }
    }
    for (int r = 0; r < R; ++r) {
        store(sums[r], low[r]);
        store(sums[r] + 8, high[r]);
    }
}

// Integer codes of eight outputs as floats, zero point removed: input `i` of a block.
INLINE F8 code_of(const Weight& w, const uint8_t* half, const uint8_t* group, int h, int i) {
    if (w.kind != Kind::int4) return signed_byte_to_float(load_bytes(half + 64 * (i / 4)), i % 4);
    B32 x = load_bytes(half + 64 * (i % 16 / 4));
    F8 code = byte_to_float(i < 16 ? low_nibbles(x) : high_nibbles(x), i % 4);
    return sub(code, w.asymmetric ? to_float(mul16(group_zeros(group, h), 1)) : splat(8.0f));
}

// A block of sparse8 as one of int8.
void spread(const uint8_t* block, uint8_t* dense) {
    std::memset(dense, 0, 512);
    for (int i = 0; i < 256; ++i) {
        int v = i / 64, lane = i % 64 / 4, place = block[256 + i % 64] >> 2 * v & 3;
        dense[64 * (2 * v + i % 4 / 2) + 4 * lane + place] |= block[i];  // a zero that is stored may share another's place
    }
}

// Block `b` of a panel of integers for `rows` rows of floats: the block's own chain first, then its scale.
void decoded_block(const Weight& w, const uint8_t* group, const uint8_t* block, int num_inputs, const FloatRows& a, int at,
                   int rows, Sums* sums) {
    for (int h = 0; h < 2; ++h) {
        F8 part[kRows];
        for (int r = 0; r < kRows; ++r) part[r] = zero();
        for (int i = 0; i < num_inputs; ++i) {
            F8 code = code_of(w, block + 32 * h, group, h, i);
            for (int r = 0; r < rows; ++r) part[r] = fma(splat(a.x[r][at + i]), code, part[r]);
        }
        F8 scales = w.group ? group_scales(group, h) : splat(1.0f);
        for (int r = 0; r < rows; ++r) store(sums[r] + 8 * h, fma(part[r], scales, load(sums[r] + 8 * h)));
    }
}

void decoded_panel(const Weight& w, const uint8_t* panel, const FloatRows& a, int rows, Sums* sums) {
    GroupLayout layout(w);
    for (int at = 0, b = 0; at < w.inputs; at += kBlock, ++b) {
        const uint8_t* group = panel + b / layout.blocks * layout.bytes();
        const uint8_t* block = group + layout.header + static_cast<long>(b % layout.blocks) * layout.block_bytes;
        int num_inputs = w.inputs - at < kBlock ? w.inputs - at : kBlock;
        alignas(32) uint8_t dense[512];
        if (w.kind == Kind::sparse8) {
            spread(block, dense);
            block = dense;
        }
        decoded_block(w, group, block, num_inputs, a, at, rows, sums);
    }
}

// --- from panels to outputs -------------------------------------------------------------------------------------------

// One row's sums of a panel become outputs.
INLINE void finish_row(const Weight& w, const float* bias, int first, const float* sums, float* to, bool add_old) {
    for (int h = 0; h < kPanel; h += 8) {
        F8 x = load(sums + h);
        if (w.scales) x = mul(x, load(w.scales + first + h));
        if (bias) x = add(x, load(bias + h));
        store(to + h, add_old ? add(x, load(to + h)) : x);
    }
}

void finish(const Weight& w, const float* bias, int panel, int rows, const Sums* sums, float* out, int stride, bool add_old) {
    int first = panel * kPanel, count = w.outputs - first < kPanel ? w.outputs - first : kPanel;
    float own_bias[kPanel] = {}, last[kPanel] = {};
    if (bias) std::memcpy(own_bias, bias + first, sizeof(float) * count);
    for (int r = 0; r < rows; ++r) {
        float* to = out + static_cast<long>(r) * stride + first;
        if (count == kPanel) {
            finish_row(w, bias ? own_bias : nullptr, first, sums[r], to, add_old);
        } else {  // the last panel of a weight: what lies behind its outputs is somebody else's
            std::memcpy(last, to, sizeof(float) * count);
            finish_row(w, bias ? own_bias : nullptr, first, sums[r], last, add_old);
            std::memcpy(to, last, sizeof(float) * count);
        }
    }
}

// The panel body for `rows` <= kRows rows, chosen at run time.
using IntBody = void (*)(const uint8_t*, const GroupLayout&, int, int, const uint8_t*, Sums*);

template <class Code, bool Grouped, bool Asymmetric>
IntBody int_body(int rows) {
    static constexpr IntBody table[] = {
        int_panel<Code, 1, Grouped, Asymmetric>, int_panel<Code, 2, Grouped, Asymmetric>,
        int_panel<Code, 3, Grouped, Asymmetric>, int_panel<Code, 4, Grouped, Asymmetric>,
        int_panel<Code, 5, Grouped, Asymmetric>, int_panel<Code, 6, Grouped, Asymmetric>,
    };
    return table[rows - 1];
}

IntBody int_body(const Weight& w, int rows) {
    if (w.kind == Kind::int8) return w.group ? int_body<Int8, true, false>(rows) : int_body<Int8, false, false>(rows);
    if (w.kind == Kind::sparse8) return int_body<Sparse8, false, false>(rows);
    if (!w.group) return int_body<Int4, false, false>(rows);
    return w.asymmetric ? int_body<Int4, true, true>(rows) : int_body<Int4, true, false>(rows);
}

void linear_int8(const Weight& w, const float* bias, const Blocks& acts, int rows, int first, int last, float* out,
                 int stride, bool add_old) {
    GroupLayout layout(w);
    long bytes = panel_bytes(w);
    int blocks = round_up(w.inputs, kBlock) / kBlock, step = kIntInputs / kBlock;
    int most = chunk_rows(w.inputs, rows);
    alignas(64) Sums sums[kMostRows];
    for (int chunk = 0; chunk < rows; chunk += most) {
        int count = rows - chunk < most ? rows - chunk : most;
        for (int panel = first; panel < last; ++panel) {
            std::memset(sums, 0, sizeof(Sums) * count);
            for (int begin = 0; begin < blocks; begin += step) {
                int end = begin + step < blocks ? begin + step : blocks;
                for (int r = 0; r < count; r += kRows) {
                    IntBody body = int_body(w, acts.lanes(chunk + r));
                    body(w.data + panel * bytes, layout, begin, end, acts.group(chunk + r), sums + r);
                }
            }
            finish(w, bias, panel, count, sums, out + static_cast<long>(chunk) * stride, stride, add_old);
        }
    }
}

using FloatBody = void (*)(const uint8_t*, int, int, const FloatRows&, Sums*);

template <Kind K>
FloatBody float_body(int rows) {
    static constexpr FloatBody table[] = {float_panel<K, 1>, float_panel<K, 2>, float_panel<K, 3>,
                                          float_panel<K, 4>, float_panel<K, 5>, float_panel<K, 6>};
    return table[rows - 1];
}

FloatBody float_body(Kind kind, int rows) {
    if (kind == Kind::f32) return float_body<Kind::f32>(rows);
    return kind == Kind::f16 ? float_body<Kind::f16>(rows) : float_body<Kind::bf16>(rows);
}

void linear_float(const Weight& w, const float* bias, const float* source, int source_stride, int rows, int first, int last,
                  float* out, int stride, bool add_old) {
    bool integer = is_integer(w.kind);
    long bytes = panel_bytes(w);
    int most = chunk_rows(4L * w.inputs, rows);
    alignas(64) Sums sums[kMostRows];
    for (int chunk = 0; chunk < rows; chunk += most) {
        int count = rows - chunk < most ? rows - chunk : most;
        for (int panel = first; panel < last; ++panel) {
            std::memset(sums, 0, sizeof(Sums) * count);
            int step = integer ? w.inputs : kFloatInputs;
            for (int begin = 0; begin < w.inputs; begin += step) {
                int end = begin + step < w.inputs ? begin + step : w.inputs;
                for (int r = 0; r < count; r += kRows) {
                    int group = count - r < kRows ? count - r : kRows;
                    FloatRows a;
                    for (int i = 0; i < group; ++i) a.x[i] = source + static_cast<long>(chunk + r + i) * source_stride;
                    if (integer) decoded_panel(w, w.data + panel * bytes, a, group, sums + r);
                    else float_body(w.kind, group)(w.data + panel * bytes, begin, end, a, sums + r);
                }
            }
            finish(w, bias, panel, count, sums, out + static_cast<long>(chunk) * stride, stride, add_old);
        }
    }
}

}  // namespace
