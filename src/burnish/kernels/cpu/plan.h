// The native executor: a plan's operations over a fixed arena, one call per batch.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "bodies.h"
#include "pool.h"

namespace burnish {

// What a step works on. Rows are those of the batch until Gather, then the last rows.
struct Inputs {
    int rows, sequences, table_width, last;
    const int32_t *tokens, *positions, *slots, *query_lens, *context_lens, *block_tables, *last_rows;
    float* logits;
    int logits_stride;
};

struct ArenaShape {
    std::vector<int> buffers;  // floats of a row
    int max_rows;
};

struct CacheShape {
    KeyKind kind;
    int num_layers, num_blocks, block_size, num_kv_heads, head_dim;
};

// Zeroed memory that is resident only where it was touched.
class Pages {
public:
    explicit Pages(size_t bytes);
    ~Pages();
    Pages(Pages&& other) noexcept;
    Pages(const Pages&) = delete;
    void* data() const { return data_; }

private:
    void* data_;
    size_t bytes_;
};

class Caches {
public:
    explicit Caches(const CacheShape& shape);
    Caches(const Caches&) = delete;
    const KeyCache& layer(int index) const { return layers_.at(index); }
    const CacheShape& shape() const { return shape_; }

private:
    CacheShape shape_;
    std::vector<Pages> pages_;
    std::vector<KeyCache> layers_;
};

class Executor;

class Operation {
public:
    virtual ~Operation() = default;
    virtual void run(Executor& on) const = 0;
    virtual const char* name() const = 0;
};

class Executor {
public:
    Executor(const ArenaShape& arena, const CacheShape& cache, int vocab_size, int num_threads, const Bodies& bodies);

    void append(std::unique_ptr<Operation> operation) { operations_.push_back(std::move(operation)); }
    // Run the list. Throws std::invalid_argument for inputs that point outside the arena, the cache or the vocabulary.
    void run(const Inputs& inputs);

    // Seconds per operation since `profile` was switched on, in the order of the list.
    void profile(bool on);
    const std::vector<double>& seconds() const { return seconds_; }
    std::vector<std::string> names() const;

    // For operations.
    const Bodies& bodies;
    Pool pool;
    Caches caches;
    const Inputs& inputs() const { return *inputs_; }
    int rows() const { return rows_; }
    void keep_last_rows() { rows_ = inputs_->last; }
    float* row(int buffer, int index) const;
    int stride(int buffer) const;
    int width(int buffer) const;
    const Blocks& blocks(int width);  // the one place of quantized activations, laid out for the rows of now, `width` wide
    float* scratch(int thread, long floats);

private:
    void check(const Inputs& inputs) const;

    ArenaShape arena_;
    int vocab_size_;
    std::vector<int> strides_;
    std::vector<Pages> memory_;
    Pages activations_;
    Blocks blocks_;
    std::vector<std::vector<float>> scratch_;
    std::vector<std::unique_ptr<Operation>> operations_;
    std::vector<double> seconds_;
    bool profiling_ = false;
    const Inputs* inputs_ = nullptr;
    int rows_ = 0;
};

}  // namespace burnish
