#include <cstring>
#include <memory>

#include "bind.h"
#include "draw.h"
#include "plan.h"

namespace burnish {
namespace {

using Rows = Array<float, 2>;

int height(const Rows& x) { return static_cast<int>(x.shape(0)); }
int width(const Rows& x) { return static_cast<int>(x.shape(1)); }
Numpy<float, 2> like(const Rows& x) { return zeros<float>(x.shape(0), x.shape(1), x.shape(1)); }

Numpy<float, 2> rms_norm(Rows x, Array<float, 1> weight, float eps, const std::string& body) {
    require(static_cast<int>(weight.size()) == width(x), "the weight is not as wide as the rows");
    auto out = like(x);
    for (int r = 0; r < height(x); ++r)
        bodies(body.c_str()).rms_norm(x.data() + r * width(x), weight.data(), eps, width(x), out.data() + r * width(x));
    return out;
}

Numpy<float, 2> layer_norm(Rows x, Array<float, 1> weight, Array<float, 1> bias, float eps, const std::string& body) {
    require(static_cast<int>(weight.size()) == width(x) && weight.size() == bias.size(), "the weight is not as wide as the rows");
    auto out = like(x);
    for (int r = 0; r < height(x); ++r)
        bodies(body.c_str()).layer_norm(x.data() + r * width(x), weight.data(), bias.data(), eps, width(x),
                                        out.data() + r * width(x));
    return out;
}

Numpy<float, 2> gate(const std::string& activation, Rows x, Rows up, const std::string& body) {
    require(x.shape(0) == up.shape(0) && x.shape(1) == up.shape(1), "gate and up differ in shape");
    auto out = like(x);
    for (int r = 0; r < height(x); ++r)
        bodies(body.c_str()).gate(activation_of(activation), x.data() + r * width(x), up.data() + r * width(x), width(x),
                                  out.data() + r * width(x));
    return out;
}

Numpy<float, 2> activate(const std::string& activation, Rows x, const std::string& body) {
    auto out = like(x);
    for (int r = 0; r < height(x); ++r)
        bodies(body.c_str()).activate(activation_of(activation), x.data() + r * width(x), width(x), out.data() + r * width(x));
    return out;
}

Numpy<float, 2> softcap(Rows x, float cap, const std::string& body) {
    auto out = like(x);
    std::memcpy(out.data(), x.data(), sizeof(float) * x.size());
    for (int r = 0; r < height(x); ++r) bodies(body.c_str()).softcap(out.data() + r * width(x), width(x), cap);
    return out;
}

Numpy<float, 2> rotate(Rows heads, Rows cos, Rows sin, const std::string& body) {
    require(height(heads) == height(cos) && width(heads) == 2 * width(cos) && width(cos) == width(sin), "the tables do not fit");
    auto out = like(heads);
    std::memcpy(out.data(), heads.data(), sizeof(float) * heads.size());
    for (int r = 0; r < height(heads); ++r)
        bodies(body.c_str()).rotate(out.data() + r * width(heads), cos.data() + r * width(cos), sin.data() + r * width(cos),
                                    width(heads));
    return out;
}

Numpy<float, 2> embed(const HeldWeight& table, Array<int32_t, 1> tokens, float scale, const std::string& body) {
    auto out = zeros<float>(tokens.size(), table.weight.inputs, table.weight.inputs);
    for (size_t r = 0; r < tokens.size(); ++r) {
        require(tokens.data()[r] >= 0 && tokens.data()[r] < table.weight.outputs, "a token is outside the table");
        bodies(body.c_str()).embed(table.weight, tokens.data()[r], scale, out.data() + r * table.weight.inputs);
    }
    return out;
}

nb::tuple quantize(Rows x, const std::string& body) {
    int blocks = round_up(width(x), kBlock) / kBlock;
    auto codes = zeros<int8_t>(x.shape(0), blocks * kBlock, blocks * kBlock);
    auto scales = zeros<float>(x.shape(0), blocks, blocks);
    auto sums = zeros<int32_t>(x.shape(0), blocks, blocks);
    OwnBlocks own(height(x), width(x));
    for (int r = 0; r < height(x); ++r) {
        bodies(body.c_str()).quantize(x.data() + r * width(x), width(x), r, 0, own.blocks);
        for (int b = 0; b < blocks; ++b) {
            Block block = own.blocks.at(r, b);
            long at = static_cast<long>(r) * blocks + b;
            std::memcpy(codes.data() + at * kBlock, block.codes, kBlock);
            scales.data()[at] = *block.scale;
            sums.data()[at] = *block.sum / 8;
        }
    }
    return nb::make_tuple(codes, scales, sums);
}

std::vector<int> argmax(Rows logits, const std::string& body) {
    std::vector<int> found(logits.shape(0));
    for (int r = 0; r < height(logits); ++r) {
        if (!bodies(body.c_str()).argmax(logits.data() + static_cast<long>(r) * width(logits), width(logits), &found[r])) found[r] = -1;
    }
    return found;
}

std::vector<int> draw_rows(Rows logits, Array<float, 1> temperature, Array<int32_t, 1> top_k, Array<double, 1> top_p,
                           Array<double, 1> min_p, Array<double, 1> uniform, const std::string& body) {
    size_t count = logits.shape(0);
    for (size_t size : {temperature.size(), top_k.size(), top_p.size(), min_p.size(), uniform.size()})
        require(size == count, "every row needs its own numbers to draw by");
    const Bodies& with = bodies(body.c_str());
    std::vector<int> found(count);
    std::vector<float> weights;
    nb::gil_scoped_release unlocked;
    for (size_t r = 0; r < count; ++r) {
        const float* row = logits.data() + r * logits.shape(1);
        int best = 0;
        if (!with.argmax(row, width(logits), &best)) found[r] = -1;
        else
            found[r] = draw(with, row, width(logits), row[best],
                            {temperature.data()[r], top_k.data()[r], top_p.data()[r], min_p.data()[r], uniform.data()[r]}, weights);
    }
    return found;
}

// Keys and values of one layer, for tests of attention alone.
struct OneLayer {
    Caches caches;

    OneLayer(const OneLayer&) = delete;
    OneLayer(const std::string& kind, int num_blocks, int block_size, int num_kv_heads, int head_dim)
        : caches({key_kind_of(kind), 1, num_blocks, block_size, num_kv_heads, head_dim}) {}

    void write(Array<int32_t, 1> slots, Array<float, 3> k, Array<float, 3> v, const std::string& body) {
        const CacheShape& shape = caches.shape();
        size_t row = static_cast<size_t>(shape.num_kv_heads) * shape.head_dim;
        require(k.size() == slots.size() * row && v.size() == k.size(), "keys and values do not fit the slots");
        for (size_t r = 0; r < slots.size(); ++r) {
            require(slots.data()[r] >= 0 && slots.data()[r] < shape.num_blocks * shape.block_size, "a slot is outside the cache");
            bodies(body.c_str()).write_keys(caches.layer(0), slots.data()[r], k.data() + r * row, v.data() + r * row);
        }
    }

    // One sequence, its rows computed `step` at a time: q (R, H, D) -> (R, H * D).
    Numpy<float, 2> attend(Array<float, 3> q, Array<int32_t, 1> table, int context, float scale, int window, float cap,
                           int step, const std::string& body) {
        const KeyCache& cache = caches.layer(0);
        int rows = static_cast<int>(q.shape(0)), heads = static_cast<int>(q.shape(1)), stride = heads * cache.head_dim;
        require(static_cast<int>(q.shape(2)) == cache.head_dim && heads % cache.num_kv_heads == 0, "the heads do not fit");
        require(rows <= context && static_cast<int>(table.size()) * cache.block_size >= context && step > 0, "the context does not fit");
        AttentionRule rule{heads, scale, window, cap};
        auto out = zeros<float>(rows, stride, stride);
        std::vector<float> scratch(bodies(body.c_str()).attention_scratch(cache, rule, step));
        Span span{table.data(), 0, rows, context};
        for (int first = 0; first < rows; first += step)
            for (int g = 0; g < cache.num_kv_heads; ++g)
                bodies(body.c_str()).attend(cache, rule, span, g, first, first + step < rows ? first + step : rows, q.data(),
                                            stride, out.data(), stride, scratch.data());
        return out;
    }
};

}  // namespace
}  // namespace burnish

void bind_rows(nanobind::module_& m) {
    using namespace burnish;
    using namespace nb::literals;
    m.def("rms_norm", &rms_norm, "x"_a, "weight"_a, "eps"_a, nb::kw_only(), "body"_a);
    m.def("layer_norm", &layer_norm, "x"_a, "weight"_a, "bias"_a, "eps"_a, nb::kw_only(), "body"_a);
    m.def("gate", &gate, "activation"_a, "gate"_a, "up"_a, nb::kw_only(), "body"_a);
    m.def("activate", &activate, "activation"_a, "x"_a, nb::kw_only(), "body"_a);
    m.def("softcap", &softcap, "x"_a, "cap"_a, nb::kw_only(), "body"_a);
    m.def("rotate", &rotate, "heads"_a, "cos"_a, "sin"_a, nb::kw_only(), "body"_a);
    m.def("embed", &embed, "table"_a, "tokens"_a, "scale"_a, nb::kw_only(), "body"_a);
    m.def("quantize", &quantize, "x"_a, nb::kw_only(), "body"_a, "Codes, scales and sums of blocks of 32.");
    m.def("argmax", &argmax, "logits"_a, nb::kw_only(), "body"_a, "First maximum of every row, -1 where there is none.");
    m.def("draw", &draw_rows, "logits"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "uniform"_a, nb::kw_only(), "body"_a,
          "A token of every row, -1 where there is none.");
    nb::class_<OneLayer>(m, "KeyCache", "Keys and values of one layer.")
        .def(nb::init<const std::string&, int, int, int, int>(), "kind"_a, nb::kw_only(), "num_blocks"_a, "block_size"_a,
             "num_kv_heads"_a, "head_dim"_a)
        .def("write", &OneLayer::write, "slots"_a, "k"_a, "v"_a, nb::kw_only(), "body"_a)
        .def("attend", &OneLayer::attend, "q"_a, "table"_a, "context"_a, nb::kw_only(), "scale"_a, "window"_a, "softcap"_a,
             "step"_a, "body"_a);
}
