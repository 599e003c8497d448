// The kernels of one instruction set. Every function computes a slice, in one thread; plan.cpp cuts the slices.
// A row's result never depends on which other rows are computed beside it: each function fixes a row's order of additions.
#pragma once
#include <cstdint>

namespace burnish {

constexpr int kPanel = 16;  // outputs of a panel
constexpr int kBlock = 32;  // inputs of a block
constexpr int kRows = 6;    // activation rows that share a decoded weight
static constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

enum class Kind { f32, f16, bf16, int8, int4, sparse8 };
constexpr bool is_integer(Kind kind) { return kind == Kind::int8 || kind == Kind::int4 || kind == Kind::sparse8; }
constexpr int block_bytes(Kind kind) { return kind == Kind::int4 ? 256 : kind == Kind::sparse8 ? 320 : 512; }  // of integers

// kernels/tiles.py says how the bytes lie.
struct Weight {
    Kind kind;
    int outputs, inputs;
    int group;  // inputs that share a scale; 0: `scales`
    bool asymmetric;
    const uint8_t* data;
    const float* scales;  // one per output, padded to panels; null when groups have their own
};

// One block of 32 quantized activations: x = code * scale.
struct Block {
    int8_t* codes;  // 32; inputs beyond the row's end are zeros
    float* scale;   // not a number when the block holds what is no finite number
    int32_t* sum;   // eight times the sum of the codes: what the offset 8 of int4 codes adds to a product
};

// Rows of quantized activations as the products read them. Rows lie in groups of kRows, the last group may have fewer:
// its L rows' first blocks, then their second blocks, ...; each time 32 L codes, L scales, L sums.
struct Blocks {
    uint8_t* data;
    int rows, blocks;

    static constexpr int kBytes = kBlock + sizeof(float) + sizeof(int32_t);  // of a block

    int lanes(int first) const { return rows - first < kRows ? rows - first : kRows; }
    uint8_t* group(int first) const { return data + static_cast<long>(first) * blocks * kBytes; }
    Block at(int row, int block) const {
        int first = row / kRows * kRows, lane = row - first, count = lanes(first);
        uint8_t* p = group(first) + static_cast<long>(block) * count * kBytes;
        return {reinterpret_cast<int8_t*>(p) + kBlock * lane, reinterpret_cast<float*>(p + kBlock * count) + lane,
                reinterpret_cast<int32_t*>(p + (kBlock + sizeof(float)) * count) + lane};
    }
};

enum class KeyKind { f32, f16, int8 };

// Keys and values of one layer. B tokens of a block, padded to Bp (a multiple of 8) for keys.
struct KeyCache {
    KeyKind kind;
    int num_kv_heads, head_dim, block_size, padded_block;
    void* keys;           // (blocks, G, D, Bp): lane = token
    void* values;         // (blocks, G, B, D)
    float* key_scales;    // int8: (blocks, G, Bp)
    float* value_scales;  // int8: (blocks, G, B)
};

struct AttentionRule {
    int num_heads;
    float scale;
    int window;     // 0: none
    float softcap;  // 0: none
};

// One sequence of a step: its rows lie one after the other.
struct Span {
    const int32_t* table;  // blocks
    int first_row, num_rows, context;
};

enum class Activation { silu, gelu, gelu_tanh, relu };

struct Bodies {
    const char* name;

    // out[r, o] for the outputs of panels [first, last): source @ weight.T + bias, added to out if `add`.
    // Integer weights take `acts`, others and integer weights with float activations take `source`.
    void (*linear_int8)(const Weight&, const float* bias, const Blocks& acts, int rows, int first, int last, float* out,
                        int stride, bool add);
    void (*linear_float)(const Weight&, const float* bias, const float* source, int source_stride, int rows, int first,
                         int last, float* out, int stride, bool add);

    // Row functions, one row each.
    void (*embed)(const Weight&, int row, float scale, float* out);         // out = weight[row] * scale
    void (*embed_add)(const Weight&, int row, float* out);                  // out += weight[row]
    void (*rms_norm)(const float* x, const float* weight, float eps, int width, float* out);
    void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int width, float* out);
    void (*add)(const float* x, int width, float* out);                     // out += x
    void (*quantize)(const float* x, int width, int row, int first_block, const Blocks& out);
    void (*gate)(Activation, const float* gate, const float* up, int width, float* out);
    void (*activate)(Activation, const float* x, int width, float* out);
    void (*softcap)(float* x, int width, float cap);
    void (*rotate)(float* head, const float* cos, const float* sin, int head_dim);  // halves convention, in place
    // k, v: (G, D) of one token -> the cache at a slot.
    void (*write_keys)(const KeyCache&, int slot, const float* k, const float* v);

    // Attention of query rows [first, last) of a sequence, heads of one key/value head. q and out: row strides in floats,
    // head h at h * D. `scratch` holds attention_scratch(...) floats.
    void (*attend)(const KeyCache&, const AttentionRule&, const Span&, int kv_head, int first, int last, const float* q,
                   int q_stride, float* out, int out_stride, float* scratch);
    long (*attention_scratch)(const KeyCache&, const AttentionRule&, int max_rows);  // floats

    // Sampling over one row of logits.
    bool (*argmax)(const float* logits, int width, int* token);  // false: something is not a number, or nothing is finite
    void (*weigh)(const float* logits, int width, float most, float temperature, float* out);  // e^((logit - most) / t)
};

extern const Bodies kAvx2, kPortable;
const Bodies& bodies(const char* name);  // "avx2" or "portable"; throws std::invalid_argument
const Bodies& best_bodies();             // what this processor runs fastest

}  // namespace burnish
