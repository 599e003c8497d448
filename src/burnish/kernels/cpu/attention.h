// Attention over blocks of keys and values. Included by body.cpp, once per instruction set.
//
// Online softmax (Milakov & Gimelshein 2018) over partitions of keys whose borders depend on nothing but the key's
// position, so a row's result is the same however its prompt was cut and whoever else is computed. Inside a partition:
// every score is one chain over the head's width, the weights are summed lane by lane, every output is one chain over
// the keys in order. A key a row may not see has weight zero, which changes no sum.
#pragma once

namespace {

constexpr int kPartition = 256;  // keys, rounded down to whole blocks
constexpr int kPairs = 6;        // (row, head) pairs that share loads of keys and values

// --- storage --------------------------------------------------------------------------------------------------------------

template <KeyKind K>
struct Item;
template <>
struct Item<KeyKind::f32> {
    using type = float;
    static F8 load8(const float* p) { return load(p); }
};
template <>
struct Item<KeyKind::f16> {
    using type = uint16_t;
    static F8 load8(const uint16_t* p) { return load_f16(p); }
};
template <>
struct Item<KeyKind::int8> {
    using type = int8_t;
    static F8 load8(const int8_t* p) { return load_int8(p); }
};

// Codes of one head of one token; the scale is the largest magnitude over 127.
float quantize_head(const float* x, int width, int8_t* codes, int stride) {
    float scale = 0.0f, most = 0.0f, fault = 0.0f;
    for (int i = 0; i < width; i += kBlock) {
        int count = width - i < kBlock ? width - i : kBlock;
        for (int j = 0; j < count; ++j) {
            float a = x[i + j] < 0 ? -x[i + j] : x[i + j];
            most = a > most ? a : most;
            fault += x[i + j] * 0.0f;
        }
    }
    bool is_finite = fault == 0.0f;
    float inverse = is_finite && most >= kDust ? 127.0f / most : 0.0f;
    scale = is_finite ? most / 127.0f : fault;
    for (int i = 0; i < width; i += 8) {
        int count = width - i < 8 ? width - i : 8;
        int32_t q[8];
        store_ints(q, to_int(mul(is_finite ? take(x + i, count) : zero(), splat(inverse))));
        for (int j = 0; j < count; ++j) codes[static_cast<long>(i + j) * stride] = static_cast<int8_t>(q[j]);
    }
    return scale;
}

void write_keys(const KeyCache& cache, int slot, const float* k, const float* v) {
    int block = slot / cache.block_size, token = slot % cache.block_size, width = cache.head_dim;
    for (int g = 0; g < cache.num_kv_heads; ++g, k += width, v += width) {
        long head = static_cast<long>(block) * cache.num_kv_heads + g;
        long key = head * width * cache.padded_block + token;  // then one token's numbers lie padded_block apart
        long value = (head * cache.block_size + token) * width;
        for (int d = 0; d < width && cache.kind == KeyKind::f32; ++d) {
            static_cast<float*>(cache.keys)[key + static_cast<long>(d) * cache.padded_block] = k[d];
            static_cast<float*>(cache.values)[value + d] = v[d];
        }
        for (int d = 0; d < width && cache.kind == KeyKind::f16; ++d) {
            static_cast<uint16_t*>(cache.keys)[key + static_cast<long>(d) * cache.padded_block] = float_to_f16(k[d]);
            static_cast<uint16_t*>(cache.values)[value + d] = float_to_f16(v[d]);
        }
        if (cache.kind == KeyKind::int8) {
            int8_t *keys = static_cast<int8_t*>(cache.keys) + key, *values = static_cast<int8_t*>(cache.values) + value;
            cache.key_scales[head * cache.padded_block + token] = quantize_head(k, width, keys, cache.padded_block);
            cache.value_scales[head * cache.block_size + token] = quantize_head(v, width, values, 1);
        }
    }
}

// --- one partition --------------------------------------------------------------------------------------------------------

// Scratch of a task, floats: see attention_scratch.
struct Work {
    int pairs, width, padded_width;  // width: of a head
    float *q, *scores, *mixed, *best, *total;
};


int partition_keys(const KeyCache& cache) {
    return cache.block_size >= kPartition ? cache.block_size : kPartition / cache.block_size * cache.block_size;
}
int score_stride(const KeyCache& cache) { return round_up(partition_keys(cache), 16) + 16; }

// Scores of R pairs against W times eight tokens of one block.
template <KeyKind K, int R, int W>
INLINE void score_tokens(const KeyCache& cache, const typename Item<K>::type* keys, const float* scales, float scale,
                         const Work& work, int pair, float* out, int out_stride) {
    F8 sums[R][W];
    for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w) sums[r][w] = zero();
    const float* q = work.q + static_cast<long>(pair) * work.padded_width;
    for (int d = 0; d < work.width; ++d, keys += cache.padded_block) {
        F8 k[W];
        for (int w = 0; w < W; ++w) k[w] = Item<K>::load8(keys + 8 * w);
        for (int r = 0; r < R; ++r) {
            F8 x = splat(q[r * work.padded_width + d]);
            for (int w = 0; w < W; ++w) sums[r][w] = fma(x, k[w], sums[r][w]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w) {
            F8 s = mul(sums[r][w], splat(scale));
            if constexpr (K == KeyKind::int8) s = mul(s, load(scales + 8 * w));
            store(out + r * out_stride + 8 * w, s);
        }
}

// Keys [begin, end) of a sequence for every pair of a task, `begin` at the border of a partition.
template <KeyKind K>
struct Partition {
    const KeyCache& cache;
    const Span& span;
    const Work& work;
    int head, begin, first, last;  // blocks [first, last) hold what any row sees of it

    using T = typename Item<K>::type;

    long place(int block) const { return static_cast<long>(span.table[block]) * cache.num_kv_heads + head; }

    template <int R>
    void score(int pair, float scale) const {
        int stride = score_stride(cache);
        for (int b = first; b < last; ++b) {
            const T* keys = static_cast<const T*>(cache.keys) + place(b) * cache.head_dim * cache.padded_block;
            const float* scales = K == KeyKind::int8 ? cache.key_scales + place(b) * cache.padded_block : nullptr;
            float* out = work.scores + static_cast<long>(pair) * stride + (b * cache.block_size - begin);
            int t = 0;
            for (; t + 16 <= cache.padded_block; t += 16)
                score_tokens<K, R, 2>(cache, keys + t, scales + (scales ? t : 0), scale, work, pair, out + t, stride);
            if (t < cache.padded_block)
                score_tokens<K, R, 1>(cache, keys + t, scales + (scales ? t : 0), scale, work, pair, out + t, stride);
        }
    }

    template <int R>
    void mix(int pair, int end) const {
        int d = 0;
        for (; d + 16 <= work.padded_width; d += 16) mix_columns<R, 2>(pair, d, end);
        if (d < work.padded_width) mix_columns<R, 1>(pair, d, end);
    }

private:
    // Eight times W numbers of the head, from `d` on.
    template <int R, int W>
    void mix_columns(int pair, int d, int end) const {
        F8 sums[R][W];
        int stride = score_stride(cache);
        float* mixed = work.mixed + static_cast<long>(pair) * work.padded_width + d;
        for (int r = 0; r < R; ++r)
            for (int w = 0; w < W; ++w) sums[r][w] = load(mixed + r * work.padded_width + 8 * w);
        for (int b = first; b < last; ++b) {
            const T* values = static_cast<const T*>(cache.values) + place(b) * cache.block_size * cache.head_dim + d;
            const float* scales = K == KeyKind::int8 ? cache.value_scales + place(b) * cache.block_size : nullptr;
            int key = b * cache.block_size, count = end - key < cache.block_size ? end - key : cache.block_size;
            const float* weights = work.scores + static_cast<long>(pair) * stride + (key - begin);
            for (int t = 0; t < count; ++t, values += work.width) {
                F8 v[W];
                for (int w = 0; w < W; ++w) v[w] = Item<K>::load8(values + 8 * w);
                for (int r = 0; r < R; ++r) {
                    float p = weights[r * stride + t];
                    F8 x = splat(K == KeyKind::int8 ? p * scales[t] : p);
                    for (int w = 0; w < W; ++w) sums[r][w] = fma(x, v[w], sums[r][w]);
                }
            }
        }
        for (int r = 0; r < R; ++r)
            for (int w = 0; w < W; ++w) store(mixed + r * work.padded_width + 8 * w, sums[r][w]);
    }
};

// Scores of one pair become weights; `seen` keys [from, to) of the partition. Returns the rescaled state.
void weigh(const Work& work, int pair, float* scores, int from, int to, int first, int last, float softcap) {
    for (int j = first; j < from; ++j) scores[j] = -__builtin_inff();
    for (int j = to; j < round_up(last, 8); ++j) scores[j] = -__builtin_inff();
    int begin = first / 8 * 8;
    for (int j = begin; j < first; ++j) scores[j] = -__builtin_inff();
    F8 most = splat(-__builtin_inff());
    for (int j = begin; j < last; j += 8) {
        F8 s = load(scores + j);
        if (softcap > 0.0f) {
            F8 capped = mul(hyperbolic_tangent(div(s, splat(softcap))), splat(softcap));
            float t[8];
            store(t, capped);
            for (int i = 0; i < 8; ++i)
                if (j + i < from || j + i >= to) t[i] = -__builtin_inff();
            s = load(t);
            store(scores + j, s);
        }
        most = max(s, most);
    }
    float highest = max_of(most), before = work.best[pair];
    float best = before > highest ? before : highest;
    float kept[8];
    store(kept, exponential(sub(splat(before), splat(best))));
    F8 sum = zero();
    for (int j = begin; j < last; j += 8) {
        F8 p = exponential(sub(load(scores + j), splat(best)));
        store(scores + j, p);
        sum = add(sum, p);
    }
    work.best[pair] = best;
    work.total[pair] = work.total[pair] * kept[0] + sum_of(sum);
    float* mixed = work.mixed + static_cast<long>(pair) * work.padded_width;
    for (int d = 0; d < work.padded_width; d += 8) store(mixed + d, mul(load(mixed + d), splat(kept[0])));
}

long attention_scratch(const KeyCache& cache, const AttentionRule& rule, int max_rows) {
    long pairs = static_cast<long>(max_rows) * (rule.num_heads / cache.num_kv_heads);
    return pairs * (2L * round_up(cache.head_dim, 8) + score_stride(cache) + 2);
}

Work lay_out(const KeyCache& cache, int pairs, float* scratch) {
    Work work{pairs, cache.head_dim, round_up(cache.head_dim, 8), nullptr, nullptr, nullptr, nullptr, nullptr};
    work.q = scratch;
    work.mixed = work.q + static_cast<long>(pairs) * work.padded_width;
    work.scores = work.mixed + static_cast<long>(pairs) * work.padded_width;
    work.best = work.scores + static_cast<long>(pairs) * score_stride(cache);
    work.total = work.best + pairs;
    return work;
}

template <KeyKind K, int R>
void partition_pairs(const Partition<K>& part, const AttentionRule& rule, int pair, const int* from, const int* to) {
    part.template score<R>(pair, rule.scale);
    int stride = score_stride(part.cache), size = part.cache.block_size, end = 0;
    for (int r = 0; r < R; ++r) {
        float* scores = part.work.scores + static_cast<long>(pair + r) * stride;
        int first = part.first * size - part.begin, last = part.last * size - part.begin;
        if (from[r] < to[r]) {
            weigh(part.work, pair + r, scores, from[r] - part.begin, to[r] - part.begin, first, last, rule.softcap);
            end = to[r] > end ? to[r] : end;
        } else {
            for (int j = first; j < last; ++j) scores[j] = 0.0f;
        }
    }
    if (end > 0) part.template mix<R>(pair, end);
}

template <KeyKind K>
void attend_kind(const KeyCache& cache, const AttentionRule& rule, const Span& span, int kv_head, int first, int last,
                 const float* q, int q_stride, float* out, int out_stride, float* scratch) {
    int per_row = rule.num_heads / cache.num_kv_heads, pairs = (last - first) * per_row, size = partition_keys(cache);
    Work work = lay_out(cache, pairs, scratch);
    for (int p = 0; p < pairs; ++p) {
        const float* from = q + static_cast<long>(first + p / per_row) * q_stride;
        std::memcpy(work.q + static_cast<long>(p) * work.padded_width,
                    from + static_cast<long>(kv_head * per_row + p % per_row) * work.width, sizeof(float) * work.width);
        std::memset(work.mixed + static_cast<long>(p) * work.padded_width, 0, sizeof(float) * work.padded_width);
        work.best[p] = -1e30f;
        work.total[p] = 0.0f;
    }
    auto end_of = [&](int p) { return span.context - span.num_rows + first + p / per_row + 1; };
    auto begin_of = [&](int p) { return rule.window > 0 && end_of(p) > rule.window ? end_of(p) - rule.window : 0; };
    int highest = end_of(pairs - 1);
    for (int begin = begin_of(0) / size * size; begin < highest; begin += size) {
        for (int p = 0; p < pairs; p += kPairs) {
            int count = pairs - p < kPairs ? pairs - p : kPairs, from[kPairs], to[kPairs], lowest = begin + size, most = begin;
            for (int r = 0; r < count; ++r) {
                from[r] = begin_of(p + r) > begin ? begin_of(p + r) : begin;
                to[r] = end_of(p + r) < begin + size ? end_of(p + r) : begin + size;
                if (from[r] < to[r]) {
                    lowest = from[r] < lowest ? from[r] : lowest;
                    most = to[r] > most ? to[r] : most;
                }
            }
            if (lowest >= most) continue;
            Partition<K> part{cache, span, work, kv_head, begin, lowest / cache.block_size,
                              (most + cache.block_size - 1) / cache.block_size};
            switch (count) {
                case 1: partition_pairs<K, 1>(part, rule, p, from, to); break;
                case 2: partition_pairs<K, 2>(part, rule, p, from, to); break;
                case 3: partition_pairs<K, 3>(part, rule, p, from, to); break;
                case 4: partition_pairs<K, 4>(part, rule, p, from, to); break;
                case 5: partition_pairs<K, 5>(part, rule, p, from, to); break;
                default: partition_pairs<K, 6>(part, rule, p, from, to);
            }
        }
    }
    for (int p = 0; p < pairs; ++p) {
        float* mixed = work.mixed + static_cast<long>(p) * work.padded_width;
        float* to = out + static_cast<long>(first + p / per_row) * out_stride +
                    static_cast<long>(kv_head * per_row + p % per_row) * work.width;
        for (int d = 0; d < work.width; ++d) to[d] = mixed[d] / work.total[p];
    }
}

void attend(const KeyCache& cache, const AttentionRule& rule, const Span& span, int kv_head, int first, int last,
            const float* q, int q_stride, float* out, int out_stride, float* scratch) {
    auto with = cache.kind == KeyKind::f32   ? attend_kind<KeyKind::f32>
                : cache.kind == KeyKind::f16 ? attend_kind<KeyKind::f16>
                                             : attend_kind<KeyKind::int8>;
    with(cache, rule, span, kv_head, first, last, q, q_stride, out, out_stride, scratch);
}

}  // namespace
