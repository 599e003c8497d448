#include "operations.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace burnish {
namespace {

class Embed : public Operation {
public:
    explicit Embed(const EmbedSpec& spec) : spec_(spec) {}
    const char* name() const override { return "embed"; }

    void run(Executor& on) const override {
        const Inputs& in = on.inputs();
        on.pool.split(on.rows(), [&](int begin, int end, int) {
            for (int r = begin; r < end; ++r) {
                on.bodies.embed(spec_.table, in.tokens[r], spec_.scale, on.row(spec_.out, r));
                if (spec_.positions) on.bodies.embed_add(*spec_.positions, position(in.positions[r]), on.row(spec_.out, r));
            }
        });
    }

private:
    int position(int asked) const { return std::min(asked, spec_.positions->outputs - 1); }

    EmbedSpec spec_;
};

class Norm : public Operation {
public:
    explicit Norm(const NormSpec& spec) : spec_(spec) {}
    const char* name() const override { return "norm"; }

    void run(Executor& on) const override {
        int width = on.width(spec_.source);
        const Blocks& blocks = on.blocks(width);
        on.pool.split(on.rows(), [&](int begin, int end, int thread) {
            float* own = on.scratch(thread, round_up(width, kBlock));
            for (int r = begin; r < end; ++r) one(on, r, width, own, blocks);
        });
    }

private:
    void one(Executor& on, int r, int width, float* own, const Blocks& blocks) const {
        const float* x = on.row(spec_.source, r);
        float* out = spec_.add || spec_.quantized ? own : on.row(spec_.out, r);
        if (spec_.is_rms) on.bodies.rms_norm(x, spec_.weight, spec_.eps, width, out);
        else on.bodies.layer_norm(x, spec_.weight, spec_.bias, spec_.eps, width, out);
        if (spec_.add) on.bodies.add(out, width, on.row(spec_.out, r));
        if (spec_.quantized) on.bodies.quantize(out, width, r, 0, blocks);
    }

    NormSpec spec_;
};

class Linear : public Operation {
public:
    explicit Linear(const LinearSpec& spec) : spec_(spec) {}
    const char* name() const override { return "linear"; }

    void run(Executor& on) const override {
        const Weight& w = spec_.weight;
        int panels = round_up(w.outputs, kPanel) / kPanel;
        float* out = on.row(spec_.out, 0) + spec_.column;
        const Blocks& blocks = on.blocks(w.inputs);  // set before threads read it
        on.pool.share(panels, [&](int begin, int end, int) {
            if (spec_.int8_activations)
                on.bodies.linear_int8(w, spec_.bias, blocks, on.rows(), begin, end, out, on.stride(spec_.out),
                                      spec_.add);
            else
                on.bodies.linear_float(w, spec_.bias, on.row(spec_.source, 0), on.stride(spec_.source), on.rows(), begin,
                                       end, out, on.stride(spec_.out), spec_.add);
        });
    }

private:
    LinearSpec spec_;
};

class Keys : public Operation {
public:
    explicit Keys(const KeysSpec& spec) : spec_(spec) {}
    const char* name() const override { return "keys"; }

    void run(Executor& on) const override {
        on.pool.split(on.rows(), [&](int begin, int end, int) {
            for (int r = begin; r < end; ++r) one(on, r);
        });
    }

private:
    void one(Executor& on, int r) const {
        float* q = on.row(spec_.source, r);
        float* k = q + spec_.num_heads * spec_.head_dim;
        heads(on, r, q, spec_.num_heads, spec_.q_norm);
        heads(on, r, k, spec_.num_kv_heads, spec_.k_norm);
        on.bodies.write_keys(on.caches.layer(spec_.layer), on.inputs().slots[r], k, k + spec_.num_kv_heads * spec_.head_dim);
    }

    void heads(Executor& on, int r, float* x, int count, const float* norm) const {
        int half = spec_.head_dim / 2, position = std::min(on.inputs().positions[r], spec_.num_positions - 1);
        for (int h = 0; h < count; ++h, x += spec_.head_dim) {
            if (norm) on.bodies.rms_norm(x, norm, spec_.eps, spec_.head_dim, x);
            if (spec_.cos)
                on.bodies.rotate(x, spec_.cos + static_cast<long>(position) * half,
                                 spec_.sin + static_cast<long>(position) * half, spec_.head_dim);
        }
    }

    KeysSpec spec_;
};

class Attend : public Operation {
public:
    explicit Attend(const AttendSpec& spec) : spec_(spec) {}
    const char* name() const override { return "attend"; }

    void run(Executor& on) const override {
        std::vector<Task> tasks = cut(on.inputs());
        const KeyCache& cache = on.caches.layer(spec_.layer);
        long floats = on.bodies.attention_scratch(cache, spec_.rule, kTaskRows);
        on.pool.share(static_cast<int>(tasks.size()), [&](int begin, int end, int thread) {
            float* scratch = on.scratch(thread, floats);
            for (int i = begin; i < end; ++i) {
                const Task& task = tasks[i];
                float *q = on.row(spec_.source, task.span.first_row), *out = on.row(spec_.out, task.span.first_row);
                on.bodies.attend(cache, spec_.rule, task.span, task.head, task.first, task.last, q, on.stride(spec_.source),
                                 out, on.stride(spec_.out), scratch);
            }
        });
        if (spec_.quantized) quantize(on);
    }

private:
    static constexpr int kTaskRows = 16;  // query rows of a task

    struct Task {
        Span span;
        int head, first, last;
    };

    std::vector<Task> cut(const Inputs& in) const {
        std::vector<Task> tasks;
        int row = 0;
        for (int s = 0; s < in.sequences; ++s) {
            Span span{in.block_tables + static_cast<long>(s) * in.table_width, row, in.query_lens[s], in.context_lens[s]};
            for (int first = 0; first < span.num_rows; first += kTaskRows)
                for (int head = 0; head < spec_.num_kv_heads; ++head)
                    tasks.push_back({span, head, first, std::min(first + kTaskRows, span.num_rows)});
            row += span.num_rows;
        }
        return tasks;
    }

    void quantize(Executor& on) const {
        int width = spec_.rule.num_heads * spec_.head_dim;
        const Blocks& blocks = on.blocks(width);
        on.pool.split(on.rows(), [&](int begin, int end, int) {
            for (int r = begin; r < end; ++r) on.bodies.quantize(on.row(spec_.out, r), width, r, 0, blocks);
        });
    }

    AttendSpec spec_;
};

class Gate : public Operation {
public:
    explicit Gate(const GateSpec& spec) : spec_(spec) {}
    const char* name() const override { return spec_.gated ? "gate" : "activate"; }

    // Cut by columns, whole blocks each, so that a single row keeps every thread busy.
    void run(Executor& on) const override {
        const Blocks& blocks = on.blocks(spec_.width);
        on.pool.split(blocks.blocks, [&](int begin, int end, int) {
            int first = begin * kBlock, width = std::min(end * kBlock, spec_.width) - first;
            for (int r = 0; r < on.rows(); ++r) {
                const float* x = on.row(spec_.source, r) + first;
                float* out = on.row(spec_.out, r) + first;
                if (spec_.gated) on.bodies.gate(spec_.activation, x, x + spec_.width, width, out);
                else on.bodies.activate(spec_.activation, x, width, out);
                if (spec_.quantized) on.bodies.quantize(out, width, r, begin, blocks);
            }
        });
    }

private:
    GateSpec spec_;
};

class Gather : public Operation {
public:
    Gather(int source, int out) : source_(source), out_(out) {}
    const char* name() const override { return "gather"; }

    void run(Executor& on) const override {
        for (int i = 0; i < on.inputs().last; ++i)
            std::memcpy(on.row(out_, i), on.row(source_, on.inputs().last_rows[i]), sizeof(float) * on.width(source_));
        on.keep_last_rows();
    }

private:
    int source_, out_;
};

class Softcap : public Operation {
public:
    Softcap(int buffer, float cap) : buffer_(buffer), cap_(cap) {}
    const char* name() const override { return "softcap"; }

    void run(Executor& on) const override {
        for (int r = 0; r < on.rows(); ++r) on.bodies.softcap(on.row(buffer_, r), on.width(buffer_), cap_);
    }

private:
    int buffer_;
    float cap_;
};

}  // namespace

std::unique_ptr<Operation> make_embed(const EmbedSpec& spec) { return std::make_unique<Embed>(spec); }
std::unique_ptr<Operation> make_norm(const NormSpec& spec) { return std::make_unique<Norm>(spec); }
std::unique_ptr<Operation> make_linear(const LinearSpec& spec) { return std::make_unique<Linear>(spec); }
std::unique_ptr<Operation> make_keys(const KeysSpec& spec) { return std::make_unique<Keys>(spec); }
std::unique_ptr<Operation> make_attend(const AttendSpec& spec) { return std::make_unique<Attend>(spec); }
std::unique_ptr<Operation> make_gate(const GateSpec& spec) { return std::make_unique<Gate>(spec); }
std::unique_ptr<Operation> make_gather(int source, int out) { return std::make_unique<Gather>(source, out); }
std::unique_ptr<Operation> make_softcap(int buffer, float cap) { return std::make_unique<Softcap>(buffer, cap); }

}  // namespace burnish
