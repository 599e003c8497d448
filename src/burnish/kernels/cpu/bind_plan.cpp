#include <deque>
#include <stdexcept>

#include "bind.h"
#include "operations.h"

namespace burnish {
namespace {

// An executor, and the arrays its operations point into.
class Program {
public:
    Program(std::vector<int> buffers, int max_rows, int vocab_size, const std::string& keys, int num_layers, int num_blocks,
            int block_size, int num_kv_heads, int head_dim, int threads, const std::string& body)
        : vocab_size_(vocab_size),
          buffers_(buffers),
          cache_{key_kind_of(keys), num_layers, num_blocks, block_size, num_kv_heads, head_dim},
          executor_((check_sizes(max_rows, threads, cache_), ArenaShape{buffers, max_rows}), cache_, vocab_size, threads,
                    bodies(body.c_str())) {}

    void embed(const HeldWeight& table, const HeldWeight* positions, float scale, int out) {
        const Weight& w = hold(table);
        require(w.outputs == vocab_size_, "the embedding has another vocabulary");
        check_buffer(out, w.inputs);
        executor_.append(make_embed({w, positions ? &hold(*positions) : nullptr, scale, out}));
    }

    void norm(bool is_rms, Array<float, 1> weight, Optional bias, float eps, int source, int out, bool add, bool quantized) {
        int width = static_cast<int>(weight.size());
        check_buffer(source, width);
        check_buffer(out, width);
        require(width == buffers_.at(source), "a norm is as wide as its buffer");
        require(is_rms || bias, "a layer norm has a bias");
        executor_.append(make_norm({is_rms, hold(weight), hold(bias), eps, source, out, add, quantized}));
    }

    void linear(const HeldWeight& weight, Optional bias, bool int8_activations, int source, int out, int column, bool add) {
        const Weight& w = hold(weight);
        check_buffer(source, w.inputs);
        check_buffer(out, column + w.outputs);
        require(column >= 0 && (!bias || static_cast<int>(bias->size()) == w.outputs), "the bias does not fit the weight");
        require(!int8_activations || is_integer(w.kind), "float weights take float activations");
        executor_.append(make_linear({w, hold(bias), int8_activations, source, out, column, add}));
    }

    void keys(int layer, int num_heads, Optional q_norm, Optional k_norm, float eps, std::optional<Array<float, 2>> cos,
              std::optional<Array<float, 2>> sin, int source) {
        check_layer(layer);
        int heads = num_heads + 2 * cache_.num_kv_heads, half = cache_.head_dim / 2;
        check_buffer(source, heads * cache_.head_dim);
        require(cos.has_value() == sin.has_value(), "a rotation has cosines and sines");
        require(!cos || (static_cast<int>(cos->shape(1)) == half && sin->shape(0) == cos->shape(0) && sin->shape(1) == cos->shape(1)),
                "the rotary tables do not fit the heads");
        for (const Optional& norm : {q_norm, k_norm})
            require(!norm || static_cast<int>(norm->size()) == cache_.head_dim, "a head's norm is as wide as the head");
        int positions = cos ? static_cast<int>(cos->shape(0)) : 1;
        executor_.append(make_keys({layer, num_heads, cache_.num_kv_heads, cache_.head_dim, hold(q_norm), hold(k_norm), eps,
                                    hold(cos), hold(sin), positions, source}));
    }

    void attend(int layer, int num_heads, float scale, int window, float softcap, int source, int out, bool quantized) {
        check_layer(layer);
        require(num_heads > 0 && num_heads % cache_.num_kv_heads == 0, "query heads are no multiple of key heads");
        check_buffer(source, num_heads * cache_.head_dim);
        check_buffer(out, num_heads * cache_.head_dim);
        executor_.append(make_attend({layer, cache_.num_kv_heads, cache_.head_dim, {num_heads, scale, window, softcap},
                                      source, out, quantized}));
    }

    void gate(const std::string& activation, int width, bool gated, int source, int out, bool quantized) {
        check_buffer(source, gated ? 2 * width : width);
        check_buffer(out, width);
        executor_.append(make_gate({activation_of(activation), width, source, out, gated, quantized}));
    }

    void gather(int source, int out) {
        check_buffer(source, 1);
        check_buffer(out, buffers_.at(source));
        executor_.append(make_gather(source, out));
    }

    void softcap(int buffer, float cap) {
        check_buffer(buffer, 1);
        executor_.append(make_softcap(buffer, cap));
    }

    Numpy<float, 2> run(Array<int32_t, 1> tokens, Array<int32_t, 1> positions, Array<int32_t, 1> slots,
                        Array<int32_t, 1> query_lens, Array<int32_t, 1> context_lens, Array<int32_t, 2> block_tables,
                        Array<int32_t, 1> last_rows) {
        require(tokens.size() == positions.size() && tokens.size() == slots.size(), "one position and slot per token");
        require(query_lens.size() == context_lens.size() && query_lens.size() == block_tables.shape(0),
                "one query length, context length and block table per sequence");
        int stride = round_up(vocab_size_, kPanel);
        auto logits = zeros<float>(last_rows.size(), vocab_size_, stride);
        Inputs in{static_cast<int>(tokens.size()), static_cast<int>(query_lens.size()), static_cast<int>(block_tables.shape(1)),
                  static_cast<int>(last_rows.size()), tokens.data(), positions.data(), slots.data(), query_lens.data(),
                  context_lens.data(), block_tables.data(), last_rows.data(), logits.data(), stride};
        nb::gil_scoped_release unlocked;
        executor_.run(in);
        return logits;
    }

    void profile(bool on) { executor_.profile(on); }
    std::vector<std::string> names() const { return executor_.names(); }
    std::vector<double> seconds() const { return executor_.seconds(); }

private:
    static void check_sizes(int max_rows, int threads, const CacheShape& cache) {
        require(max_rows > 0 && threads > 0, "a program has rows and threads");
        require(cache.num_layers > 0 && cache.num_blocks > 0 && cache.block_size > 0, "the cache is empty");
        require(cache.num_kv_heads > 0 && cache.head_dim > 0 && cache.head_dim % 2 == 0, "heads have an even width");
    }

    void check_buffer(int buffer, int width) const {
        require(buffer >= -1 && buffer < static_cast<int>(buffers_.size()), "no such buffer");
        require(width <= (buffer < 0 ? vocab_size_ : buffers_[buffer]), "a buffer is too narrow");
    }
    void check_layer(int layer) const { require(layer >= 0 && layer < cache_.num_layers, "no such layer"); }

    const Weight& hold(const HeldWeight& weight) { return weights_.emplace_back(weight).weight; }
    const float* hold(const Optional& array) { return array ? vectors_.emplace_back(*array).data() : nullptr; }
    const float* hold(const Array<float, 1>& array) { return vectors_.emplace_back(array).data(); }
    const float* hold(const std::optional<Array<float, 2>>& array) { return array ? tables_.emplace_back(*array).data() : nullptr; }

    int vocab_size_;
    std::vector<int> buffers_;
    CacheShape cache_;
    std::deque<HeldWeight> weights_;
    std::deque<Array<float, 1>> vectors_;
    std::deque<Array<float, 2>> tables_;
    Executor executor_;
};

}  // namespace
}  // namespace burnish

void bind_plan(nanobind::module_& m) {
    using namespace burnish;
    using namespace nb::literals;
    nb::class_<Program>(m, "Program", "A plan's operations, ready to run; the words are those of plan/ops.py.")
        .def(nb::init<std::vector<int>, int, int, const std::string&, int, int, int, int, int, int, const std::string&>(),
             nb::kw_only(), "buffers"_a, "max_rows"_a, "vocab_size"_a, "keys"_a, "num_layers"_a, "num_blocks"_a,
             "block_size"_a, "num_kv_heads"_a, "head_dim"_a, "threads"_a, "body"_a)
        .def("embed", &Program::embed, nb::kw_only(), "table"_a, "positions"_a.none(), "scale"_a, "out"_a)
        .def("norm", &Program::norm, nb::kw_only(), "is_rms"_a, "weight"_a, "bias"_a.none(), "eps"_a, "source"_a, "out"_a,
             "add"_a, "quantized"_a)
        .def("linear", &Program::linear, nb::kw_only(), "weight"_a, "bias"_a.none(), "int8_activations"_a, "source"_a,
             "out"_a, "column"_a, "add"_a)
        .def("keys", &Program::keys, nb::kw_only(), "layer"_a, "num_heads"_a, "q_norm"_a.none(), "k_norm"_a.none(), "eps"_a,
             "cos"_a.none(), "sin"_a.none(), "source"_a)
        .def("attend", &Program::attend, nb::kw_only(), "layer"_a, "num_heads"_a, "scale"_a, "window"_a, "softcap"_a,
             "source"_a, "out"_a, "quantized"_a)
        .def("gate", &Program::gate, nb::kw_only(), "activation"_a, "width"_a, "gated"_a, "source"_a, "out"_a, "quantized"_a)
        .def("gather", &Program::gather, nb::kw_only(), "source"_a, "out"_a)
        .def("softcap", &Program::softcap, nb::kw_only(), "buffer"_a, "cap"_a)
        .def("run", &Program::run, nb::kw_only(), "tokens"_a, "positions"_a, "slots"_a, "query_lens"_a, "context_lens"_a,
             "block_tables"_a, "last_rows"_a, "Logits of the last rows (last rows, V), float32. Raises ValueError.")
        .def("profile", &Program::profile, "on"_a, "Count seconds per operation from now on, or no more.")
        .def_prop_ro("names", &Program::names)
        .def_prop_ro("seconds", &Program::seconds);
}
