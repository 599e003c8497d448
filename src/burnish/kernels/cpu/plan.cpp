#include "plan.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <stdexcept>

namespace burnish {
namespace {

constexpr int kAlign = 16;  // floats: rows begin on cache lines

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

size_t item_bytes(KeyKind kind) {
    return kind == KeyKind::f32 ? 4 : kind == KeyKind::f16 ? 2 : 1;
}

int widest(const std::vector<int>& buffers) {
    int most = 0;
    for (int width : buffers) most = std::max(most, width);
    return round_up(most, kBlock);
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

// A little more than asked for: a head's last vector may be read past its width.
Pages::Pages(size_t bytes) : bytes_(bytes + 64) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data_ == MAP_FAILED) throw std::bad_alloc();
    madvise(data_, bytes_, MADV_HUGEPAGE);
}

Pages::Pages(Pages&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }

Pages::~Pages() {
    if (data_) munmap(data_, bytes_);
}

Caches::Caches(const CacheShape& shape) : shape_(shape) {
    size_t padded = round_up(shape.block_size, 8);
    size_t heads = static_cast<size_t>(shape.num_blocks) * shape.num_kv_heads;
    for (int i = 0; i < shape.num_layers; ++i) {
        pages_.emplace_back(heads * shape.head_dim * padded * item_bytes(shape.kind));
        void* keys = pages_.back().data();
        pages_.emplace_back(heads * shape.head_dim * shape.block_size * item_bytes(shape.kind));
        void* values = pages_.back().data();
        float *key_scales = nullptr, *value_scales = nullptr;
        if (shape.kind == KeyKind::int8) {
            pages_.emplace_back(heads * padded * sizeof(float));
            key_scales = static_cast<float*>(pages_.back().data());
            pages_.emplace_back(heads * shape.block_size * sizeof(float));
            value_scales = static_cast<float*>(pages_.back().data());
        }
        layers_.push_back({shape.kind, shape.num_kv_heads, shape.head_dim, shape.block_size, static_cast<int>(padded), keys,
                           values, key_scales, value_scales});
    }
}

Executor::Executor(const ArenaShape& arena, const CacheShape& cache, int vocab_size, int num_threads, const Bodies& chosen)
    : bodies(chosen),
      pool(num_threads),
      caches(cache),
      arena_(arena),
      vocab_size_(vocab_size),
      activations_(static_cast<size_t>(arena.max_rows) * widest(arena.buffers) / kBlock * Blocks::kBytes),
      blocks_{static_cast<uint8_t*>(activations_.data()), 0, 0},
      scratch_(num_threads) {
    for (int width : arena.buffers) {
        strides_.push_back(round_up(width, kAlign));
        memory_.emplace_back(static_cast<size_t>(arena.max_rows) * strides_.back() * sizeof(float));
    }
}

float* Executor::row(int buffer, int index) const {
    if (buffer < 0) return inputs_->logits + static_cast<long>(index) * inputs_->logits_stride;
    return static_cast<float*>(memory_[buffer].data()) + static_cast<long>(index) * strides_[buffer];
}

int Executor::stride(int buffer) const { return buffer < 0 ? inputs_->logits_stride : strides_.at(buffer); }
int Executor::width(int buffer) const { return buffer < 0 ? vocab_size_ : arena_.buffers.at(buffer); }

const Blocks& Executor::blocks(int width) {
    blocks_.rows = rows_;
    blocks_.blocks = round_up(width, kBlock) / kBlock;
    return blocks_;
}

float* Executor::scratch(int thread, long floats) {
    auto& own = scratch_[thread];
    if (static_cast<long>(own.size()) < floats) own.resize(floats);
    return own.data();
}

std::vector<std::string> Executor::names() const {
    std::vector<std::string> found;
    for (const auto& operation : operations_) found.emplace_back(operation->name());
    return found;
}

void Executor::profile(bool on) {
    profiling_ = on;
    seconds_.assign(operations_.size(), 0.0);
}

void Executor::check(const Inputs& in) const {
    const CacheShape& cache = caches.shape();
    require(in.rows <= arena_.max_rows, "the batch has more rows than the arena");
    require(in.last <= in.rows, "more last rows than rows");
    for (int r = 0; r < in.rows; ++r) {
        require(in.tokens[r] >= 0 && in.tokens[r] < vocab_size_, "a token is outside the vocabulary");
        require(in.positions[r] >= 0, "a position is negative");
        require(in.slots[r] >= 0 && in.slots[r] < cache.num_blocks * static_cast<int64_t>(cache.block_size),
                "a slot is outside the cache");
    }
    for (int i = 0; i < in.last; ++i) require(in.last_rows[i] >= 0 && in.last_rows[i] < in.rows, "a last row is no row");
    int64_t total = 0;
    for (int s = 0; s < in.sequences; ++s) {
        int used = (in.context_lens[s] + cache.block_size - 1) / cache.block_size;
        require(in.query_lens[s] > 0 && in.query_lens[s] <= in.context_lens[s], "a sequence has more queries than context");
        require(used <= in.table_width, "a block table is too short for its context");
        for (int b = 0; b < used; ++b) {
            int block = in.block_tables[static_cast<long>(s) * in.table_width + b];
            require(block >= 0 && block < cache.num_blocks, "a block is outside the cache");
        }
        total += in.query_lens[s];
    }
    require(total == in.rows, "the query lengths do not sum to the rows");
}

void Executor::run(const Inputs& inputs) {
    check(inputs);
    inputs_ = &inputs;
    rows_ = inputs.rows;
    for (size_t i = 0; i < operations_.size() && rows_ > 0; ++i) {
        double begun = profiling_ ? now() : 0.0;
        operations_[i]->run(*this);
        if (profiling_) seconds_[i] += now() - begun;
    }
    inputs_ = nullptr;
}

}  // namespace burnish
