// What weights of eight bits gain when two of every four are zero and not stored: ways to hold and multiply them, against
// the dense product of the kernels themselves (kernels/cpu/linear.h is included, not copied).
//
//     sparse24 LAYERS REPEATS
//
// Every way is first held, bit for bit, against plain arithmetic. Then the ways take turns: REPEATS passes over LAYERS
// layers and the head of a 1.1B Llama, from memory, by one and two threads; and over one matrix that stays in the
// second-level cache, for one row and for six. Prints lines "way place threads shape weights bytes seconds least" with the
// median of the passes and the fastest.
//
// A block is 32 inputs of 16 outputs, as in kernels/tiles.py; here 16 of its 32 weights are stored. In all ways the vector
// v < 4 of half h holds in 32-bit lane r the kept weights of output 8h + r: two of inputs 8v to 8v + 3, then two of
// inputs 8v + 4 to 8v + 7.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "bodies.h"
#include "pool.h"
#include "simd_avx2.h"

namespace burnish {

#include "linear.h"

namespace {

constexpr int kPairs[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};

INLINE B32 load_anywhere(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
INLINE B32 both(__m128i x) { return _mm256_broadcastsi128_si256(x); }

// Which of four is kept: [first, second] of a group of four inputs.
struct Kept {
    int at[2];
    int code() const {  // of the six pairs
        for (int c = 0; c < 6; ++c)
            if (kPairs[c][0] == at[0] && kPairs[c][1] == at[1]) return c;
        std::abort();
    }
};

// --- (b) activations gathered: the kernels' own body --------------------------------------------------------------------------

struct Gathered : Sparse8 {
    static void put_indices(uint8_t* block, int lane, int v, const Kept& a, const Kept& b) {
        uint8_t* to = block + 256 + 4 * lane;  // lanes 8 to 15 are the second half's
        int places[4] = {a.at[0], a.at[1], b.at[0], b.at[1]};
        for (int i = 0; i < 4; ++i) to[i] |= static_cast<uint8_t>(places[i] << 2 * v);
    }
};

// --- (c) the same with three bits per pair of kept weights: 4.75 bits a weight, and a table of controls ---------------------

struct Tabled {
    static constexpr int block_bytes = 304;  // values, then 24 bytes of codes per half: four codes of a group lie together
    using Dots = I8;

    static void put_indices(uint8_t* block, int lane, int v, const Kept& a, const Kept& b) {
        uint8_t* to = block + 256 + 24 * (lane / 8) + 12 * (lane % 8 / 4);
        int codes[2] = {a.code(), b.code()};
        for (int g = 0; g < 2; ++g) {
            int bit = 12 * (2 * (lane % 4) + g) + 3 * v;
            for (int i = 0; i < 3; ++i) to[(bit + i) / 8] |= static_cast<uint8_t>((codes[g] >> i & 1) << (bit + i) % 8);
        }
    }

    // Sixteen numbers of twelve bits, one per 16-bit lane.
    INLINE B32 twelve_bits(const uint8_t* p) {
        __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        __m128i next = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 12));
        B32 x = _mm256_inserti128_si256(_mm256_castsi128_si256(first), next, 1);
        x = _mm256_shuffle_epi8(x, both(_mm_setr_epi8(0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11)));
        return _mm256_srli_epi16(_mm256_mullo_epi16(x, _mm256_set1_epi32(0x00010010)), 4);
    }

    template <int R>
    INLINE void dots(const uint8_t* block, const int8_t* acts, Dots (&out)[2][R]) {
        const B32 table = both(_mm_setr_epi8(0, 0, 0, 1, 1, 2, 0, 0, 1, 2, 3, 2, 3, 3, 0, 0));
        const B32 twice = both(_mm_setr_epi8(0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14));
        const B32 three = _mm256_set1_epi16(7), parity = _mm256_set1_epi16(0x0800), second = _mm256_set1_epi32(0x04040000);
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
            B32 codes = twelve_bits(block + 256 + 24 * h);
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v) {
                B32 code = _mm256_shuffle_epi8(_mm256_and_si256(_mm256_srli_epi16(codes, 3 * v), three), twice);
                B32 control = _mm256_or_si256(_mm256_shuffle_epi8(table, _mm256_or_si256(code, parity)), second);
                B32 w = load_anywhere(block + 64 * v + 32 * h), magnitude = absolute_bytes(w);
#pragma GCC unroll 6
                for (int r = 0; r < R; ++r) {
                    B32 a = gather(splat8(acts + kBlock * r + 8 * v), control);
                    out[h][r] = v ? add_dot4(out[h][r], magnitude, w, a) : dot4(magnitude, w, a);
                }
            }
        }
    }

    template <bool>
    INLINE I8 exact(Dots dots, const uint8_t*, int, int32_t) {
        return dots;
    }
};

// --- (a) weights spread out again, zeros between them, then the dense product -----------------------------------------------

struct Expanded {
    static constexpr int block_bytes = 320;  // values, then per half 8 lanes of four bytes: byte v holds two codes of four bits
    using Dots = I8;

    static void put_indices(uint8_t* block, int lane, int v, const Kept& a, const Kept& b) {
        block[256 + 4 * lane + v] = static_cast<uint8_t>(a.code() | b.code() << 4);
    }

    // From the code of every lane's group, in all its four bytes, to where each of the four inputs' weight lies, if at all.
    INLINE B32 places(B32 code) {
        constexpr char no = static_cast<char>(0x80);
        const B32 inputs01 = both(_mm_setr_epi8(0, 0, 0, no, no, no, 0, 0, 1, no, no, 0, 0, no, 0, 0));
        const B32 inputs23 = both(_mm_setr_epi8(no, 1, no, 1, no, 0, 0, 0, no, no, 1, no, 1, 1, 0, 0));
        B32 index = _mm256_or_si256(code, _mm256_set1_epi16(0x0800));
        return _mm256_blend_epi16(_mm256_shuffle_epi8(inputs01, index), _mm256_shuffle_epi8(inputs23, index), 0xaa);
    }

    template <int R>
    INLINE void dots(const uint8_t* block, const int8_t* acts, Dots (&out)[2][R]) {
        const B32 lane = both(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
        const B32 two = _mm256_set1_epi8(2), low = _mm256_set1_epi8(15);
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
            B32 codes = load_bytes(block + 256 + 32 * h);
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v) {
                B32 kept = load_bytes(block + 64 * v + 32 * h);
                B32 code = _mm256_shuffle_epi8(codes, _mm256_add_epi8(lane, _mm256_set1_epi8(static_cast<char>(v))));
#pragma GCC unroll 2
                for (int g = 0; g < 2; ++g) {
                    B32 at = places(_mm256_and_si256(g ? _mm256_srli_epi16(code, 4) : code, low));
                    at = _mm256_or_si256(at, g ? _mm256_or_si256(lane, two) : lane);
                    B32 w = _mm256_shuffle_epi8(kept, at), magnitude = absolute_bytes(w);
#pragma GCC unroll 6
                    for (int r = 0; r < R; ++r) {
                        B32 a = splat4(acts + kBlock * r + 8 * v + 4 * g);
                        out[h][r] = v || g ? add_dot4(out[h][r], magnitude, w, a) : dot4(magnitude, w, a);
                    }
                }
            }
        }
    }

    template <bool>
    INLINE I8 exact(Dots dots, const uint8_t*, int, int32_t) {
        return dots;
    }
};

// --- a matrix, and its packing ------------------------------------------------------------------------------------------------

struct Matrix {
    int outputs, inputs;
    std::vector<int8_t> codes;  // (O, I), two of every four inputs zero; to tell a kept zero from another: `kept`
    std::vector<Kept> kept;     // (O, I / 4)
};

Matrix random_matrix(int outputs, int inputs, int lowest, int highest) {
    std::mt19937 source(1);
    std::uniform_int_distribution<int> code(lowest, highest), pair(0, 5);
    Matrix m{outputs, inputs, std::vector<int8_t>(static_cast<size_t>(outputs) * inputs), {}};
    for (int o = 0; o < outputs; ++o)
        for (int g = 0; g < inputs / 4; ++g) {
            const int* places = kPairs[pair(source)];
            m.kept.push_back({{places[0], places[1]}});
            for (int i = 0; i < 2; ++i)
                m.codes[static_cast<size_t>(o) * inputs + 4 * g + places[i]] = static_cast<int8_t>(code(source));
        }
    return m;
}

template <class Code>
void pack_sparse(const Matrix& m, uint8_t* data) {
    int blocks = m.inputs / kBlock;
    for (int o = 0; o < m.outputs; ++o)
        for (int b = 0; b < blocks; ++b) {
            uint8_t* block = data + (static_cast<long>(o / kPanel) * blocks + b) * Code::block_bytes;
            int lane = o % kPanel;
            for (int v = 0; v < 4; ++v) {
                const Kept* kept = &m.kept[static_cast<size_t>(o) * (m.inputs / 4) + 8 * b + 2 * v];
                const int8_t* codes = &m.codes[static_cast<size_t>(o) * m.inputs + kBlock * b + 8 * v];
                Code::put_indices(block, lane, v, kept[0], kept[1]);
                for (int i = 0; i < 4; ++i)
                    block[64 * v + 4 * lane + i] = static_cast<uint8_t>(codes[4 * (i / 2) + kept[i / 2].at[i % 2]]);
            }
        }
}

void pack_int8(const Matrix& m, uint8_t* data) {
    int blocks = m.inputs / kBlock;
    for (int o = 0; o < m.outputs; ++o)
        for (int i = 0; i < m.inputs; ++i) {
            uint8_t* block = data + (static_cast<long>(o / kPanel) * blocks + i / kBlock) * Int8::block_bytes;
            block[64 * (i % kBlock / 4) + 4 * (o % kPanel) + i % 4] = static_cast<uint8_t>(m.codes[static_cast<size_t>(o) * m.inputs + i]);
        }
}

constexpr int kGroup = 128;  // inputs of a scale of four bits

void pack_int4(const Matrix& m, uint8_t* data) {
    GroupLayout layout(Weight{Kind::int4, m.outputs, m.inputs, kGroup, false, nullptr, nullptr});
    long panel = m.inputs / kGroup * layout.bytes();
    for (int o = 0; o < m.outputs; ++o)
        for (int i = 0; i < m.inputs; ++i) {
            uint8_t* at = data + o / kPanel * panel + i / kGroup * layout.bytes();
            reinterpret_cast<uint16_t*>(at)[o % kPanel] = float_to_f16(1.0f);
            int in = i % kBlock, code = m.codes[static_cast<size_t>(o) * m.inputs + i] + 8;
            uint8_t* byte = at + layout.header + i % kGroup / kBlock * 256 + 64 * (in % 16 / 4) + 4 * (o % kPanel) + i % 4;
            *byte |= static_cast<uint8_t>(in < 16 ? code : code << 4);
        }
}

// --- ways -----------------------------------------------------------------------------------------------------------------------

struct Way {
    const char* name;
    int block_bytes;
    int group;  // inputs of a scale; 0: a scale per output
    IntBody one, six;
    void (*pack)(const Matrix&, uint8_t*);

    GroupLayout layout(int inputs) const {
        GroupLayout found(Weight{group ? Kind::int4 : Kind::int8, kPanel, inputs, group, false, nullptr, nullptr});
        found.block_bytes = block_bytes;
        return found;
    }
    long panel_bytes(int inputs) const {
        GroupLayout found = layout(inputs);
        return inputs / (kBlock * found.blocks) * found.bytes();
    }
};

template <class Code>
Way sparse_way(const char* name) {
    return {name, Code::block_bytes, 0, int_panel<Code, 1, false, false>, int_panel<Code, 6, false, false>, pack_sparse<Code>};
}

const Way kWays[] = {
    {"int8", Int8::block_bytes, 0, int_panel<Int8, 1, false, false>, int_panel<Int8, 6, false, false>, pack_int8},
    sparse_way<Gathered>("2:4-gathered"),
    sparse_way<Tabled>("2:4-tabled"),
    sparse_way<Expanded>("2:4-expanded"),
    {"int4-g128", Int4::block_bytes, kGroup, int_panel<Int4, 1, true, false>, int_panel<Int4, 6, true, false>, pack_int4},
};
constexpr int kNumWays = sizeof(kWays) / sizeof(Way);

// Panels [first, last) of a weight for `rows` rows, one or six: what linear_int8 does, with the way's body.
void product(const Way& way, const Weight& w, const Blocks& acts, int rows, int first, int last, float* out) {
    GroupLayout layout = way.layout(w.inputs);
    long bytes = way.panel_bytes(w.inputs);
    int blocks = w.inputs / kBlock, step = kIntInputs / kBlock;
    alignas(64) Sums sums[kRows];
    for (int panel = first; panel < last; ++panel) {
        std::memset(sums, 0, sizeof(Sums) * rows);
        for (int begin = 0; begin < blocks; begin += step)
            (rows == 1 ? way.one : way.six)(w.data + panel * bytes, layout, begin, std::min(begin + step, blocks), acts.group(0), sums);
        finish(w, nullptr, panel, rows, sums, out, w.outputs, false);
    }
}

// --- memory -------------------------------------------------------------------------------------------------------------------

uint8_t* large_pages(size_t bytes) {
    void* found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) {
        std::perror("mmap");
        std::exit(1);
    }
    madvise(found, bytes, MADV_HUGEPAGE);
    return static_cast<uint8_t*>(found);
}

struct Rows {
    std::vector<float> memory;
    Blocks blocks;

    Rows(int rows, int inputs) : memory(static_cast<size_t>(rows) * inputs / kBlock * Blocks::kBytes / 4 + 16) {
        blocks = {reinterpret_cast<uint8_t*>(memory.data()), rows, inputs / kBlock};
        std::mt19937 source(2);
        std::uniform_int_distribution<int> code(-127, 127);
        for (int r = 0; r < rows; ++r)
            for (int b = 0; b < inputs / kBlock; ++b) {
                Block to = blocks.at(r, b);
                *to.scale = 0.001f * static_cast<float>(1 + (r + b) % 7);
                *to.sum = 0;
                for (int i = 0; i < kBlock; ++i) *to.sum += 8 * (to.codes[i] = static_cast<int8_t>(code(source)));
            }
    }
};

// --- proof ----------------------------------------------------------------------------------------------------------------------

// The chain that linear.h promises, in plain words.
float plain(const Matrix& m, const Blocks& acts, int o, int r) {
    float sum = 0;
    for (int b = 0; b < m.inputs / kBlock; ++b) {
        Block a = acts.at(r, b);
        int dot = 0;
        for (int i = 0; i < kBlock; ++i) dot += m.codes[static_cast<size_t>(o) * m.inputs + kBlock * b + i] * a.codes[i];
        sum = std::fma(static_cast<float>(dot), *a.scale, sum);
    }
    return sum;
}

void prove(const Way& way, int outputs, int inputs, int rows) {
    Matrix m = way.group ? random_matrix(outputs, inputs, -8, 7) : random_matrix(outputs, inputs, -128, 127);
    Rows acts(rows, inputs);
    uint8_t* data = large_pages(outputs / kPanel * way.panel_bytes(inputs) + 4096);
    way.pack(m, data);
    std::vector<float> out(static_cast<size_t>(rows) * outputs);
    Weight w{Kind::int8, outputs, inputs, 0, false, data, nullptr};
    product(way, w, acts.blocks, rows, 0, outputs / kPanel, out.data());
    for (int r = 0; r < rows; ++r)
        for (int o = 0; o < outputs; ++o)
            if (float wanted = plain(m, acts.blocks, o, r); out[static_cast<size_t>(r) * outputs + o] != wanted) {
                std::fprintf(stderr, "%s: output %d of row %d is %g instead of %g\n", way.name, o, r,
                             out[static_cast<size_t>(r) * outputs + o], wanted);
                std::exit(1);
            }
}

// --- time -----------------------------------------------------------------------------------------------------------------------

struct Shape {
    const char* name;
    int outputs, inputs;
};
constexpr Shape kLayer[] = {{"qkv", 2560, 2048}, {"o", 2048, 2048}, {"gate_up", 11264, 2048}, {"down", 2048, 5632}};
constexpr Shape kHead = {"head", 32000, 2048};

struct Model {
    std::vector<Weight> weights;
    std::vector<int> shapes;  // of each weight; 4 is the head
};

Weight filled(const Way& way, const Shape& shape) {
    Matrix m = way.group ? random_matrix(kPanel, shape.inputs, -8, 7) : random_matrix(kPanel, shape.inputs, -128, 127);
    long bytes = way.panel_bytes(shape.inputs), panels = shape.outputs / kPanel;
    uint8_t* data = large_pages(bytes * panels + 4096);
    way.pack(m, data);
    for (long p = 1; p < panels; ++p) std::memcpy(data + p * bytes, data, bytes);
    return {Kind::int8, shape.outputs, shape.inputs, 0, false, data, nullptr};
}

Model make_model(const Way& way, int layers) {
    Model model;
    for (int l = 0; l < layers; ++l)
        for (int s = 0; s < 4; ++s) {
            model.weights.push_back(filled(way, kLayer[s]));
            model.shapes.push_back(s);
        }
    model.weights.push_back(filled(way, kHead));
    model.shapes.push_back(4);
    return model;
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
    return values[values.size() / 2];
}

void print(const Way& way, const char* place, int threads, const Shape& shape, const std::vector<double>& seconds) {
    std::printf("%s %s %d %s %ld %ld %.9f %.9f\n", way.name, place, threads, shape.name,
                static_cast<long>(shape.outputs) * shape.inputs,
                shape.outputs / kPanel * way.panel_bytes(shape.inputs), median(seconds),
                *std::min_element(seconds.begin(), seconds.end()));
}

void time_from_memory(const std::vector<Model>& models, int threads, int layers, int repeats) {
    Pool pool(threads);
    Rows narrow(1, 2048), wide(1, 5632);
    std::vector<float> out(kHead.outputs);
    std::vector<std::vector<double>> seconds(kNumWays * 5);
    for (int repeat = 0; repeat < repeats; ++repeat)
        for (int way = 0; way < kNumWays; ++way) {
            double spent[5] = {};
            for (size_t i = 0; i < models[way].weights.size(); ++i) {
                const Weight& w = models[way].weights[i];
                const Blocks& acts = (w.inputs == 2048 ? narrow : wide).blocks;
                double start = now();
                pool.share(w.outputs / kPanel, [&](int first, int last, int) { product(kWays[way], w, acts, 1, first, last, out.data()); });
                spent[models[way].shapes[i]] += now() - start;
            }
            for (int s = 0; s < 5; ++s) seconds[way * 5 + s].push_back(spent[s] / (s < 4 ? layers : 1));
        }
    for (int way = 0; way < kNumWays; ++way)
        for (int s = 0; s < 5; ++s) print(kWays[way], "memory", threads, s < 4 ? kLayer[s] : kHead, seconds[way * 5 + s]);
}

void time_in_cache(int rows, int repeats) {
    constexpr Shape shape = {"256x1024", 256, 1024};
    constexpr int kTimes = 40;
    Rows acts(rows, shape.inputs);
    std::vector<Weight> weights;
    for (const Way& way : kWays) weights.push_back(filled(way, shape));
    std::vector<float> out(static_cast<size_t>(rows) * shape.outputs);
    std::vector<std::vector<double>> seconds(kNumWays);
    for (int repeat = 0; repeat < 10 * repeats; ++repeat)
        for (int way = 0; way < kNumWays; ++way) {
            auto run = [&] { product(kWays[way], weights[way], acts.blocks, rows, 0, shape.outputs / kPanel, out.data()); };
            run();
            double start = now();
            for (int i = 0; i < kTimes; ++i) run();
            seconds[way].push_back((now() - start) / kTimes);
        }
    for (int way = 0; way < kNumWays; ++way) print(kWays[way], rows == 1 ? "cache" : "cache-6-rows", 1, shape, seconds[way]);
}

}  // namespace
}  // namespace burnish

int main(int argc, char** argv) {
    using namespace burnish;
    int layers = argc == 3 ? std::atoi(argv[1]) : 0, repeats = argc == 3 ? std::atoi(argv[2]) : 0;
    if (layers < 1 || repeats < 1) {
        std::fprintf(stderr, "usage: sparse24 LAYERS REPEATS\n");
        return 2;
    }
    for (const Way& way : kWays)
        for (int rows : {1, 6})
            for (int inputs : {128, 2048, 2304, 5632}) prove(way, 48, inputs, rows);
    for (int rows : {1, 6}) time_in_cache(rows, repeats);
    std::vector<Model> models;
    for (const Way& way : kWays) models.push_back(make_model(way, layers));
    for (int threads : {1, 2}) time_from_memory(models, threads, layers, repeats);
    return 0;
}
