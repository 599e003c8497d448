#include "draw.h"

#include <algorithm>
#include <functional>

namespace burnish {
namespace {

constexpr int kFirstRanked = 64;  // most distributions reach top_p within so many tokens

struct Ranked {
    float logit;
    int token;

    // Likelier first, then in the vocabulary's order.
    bool operator<(const Ranked& other) const {
        return logit != other.logit ? logit > other.logit : token < other.token;
    }
};

// The `count` likeliest tokens, likeliest first. A heap whose top is the least of them: most tokens cost one comparison.
std::vector<Ranked> likeliest(const float* logits, int width, int count) {
    std::vector<Ranked> found(count);
    for (int i = 0; i < count; ++i) found[i] = {logits[i], i};
    std::make_heap(found.begin(), found.end());
    for (int i = count; i < width; ++i) {
        if (logits[i] <= found.front().logit) continue;
        std::pop_heap(found.begin(), found.end());
        found.back() = {logits[i], i};
        std::push_heap(found.begin(), found.end());
    }
    std::sort_heap(found.begin(), found.end());
    return found;
}

// Keeps the k largest, and what ties with the last of them.
void keep_top_k(const float* logits, int width, int k, float* weights) {
    float least = likeliest(logits, width, k).back().logit;
    for (int i = 0; i < width; ++i) weights[i] = logits[i] >= least ? weights[i] : 0.0f;
}

double sum(const float* weights, int width) {
    double total = 0;
    for (int i = 0; i < width; ++i) total += weights[i];
    return total;
}

// The last of the smallest set of likeliest tokens whose share of the weights reaches p. Ranks as many as it takes.
Ranked last_of_top_p(const float* logits, int width, double p, const float* weights) {
    double wanted = p * sum(weights, width);
    for (int count = std::min(width, kFirstRanked);; count = std::min(width, count * 8)) {
        double reached = 0;
        std::vector<Ranked> ranked = likeliest(logits, width, count);
        for (const Ranked& each : ranked) {
            reached += weights[each.token];
            if (reached >= wanted) return each;
        }
        if (count == width) return ranked.back();
    }
}

void keep_top_p(const float* logits, int width, double p, float* weights) {
    Ranked last = last_of_top_p(logits, width, p, weights);
    for (int i = 0; i < width; ++i) weights[i] = last < Ranked{logits[i], i} ? 0.0f : weights[i];
}

// The first token at which the running sum passes uniform * total; never one of weight zero.
int invert(const float* weights, int width, double uniform) {
    double wanted = uniform * sum(weights, width), reached = 0;
    int last = 0;
    for (int i = 0; i < width; ++i) {
        if (weights[i] == 0.0f) continue;
        last = i;
        reached += weights[i];
        if (reached > wanted) break;
    }
    return last;
}

}  // namespace

int draw(const Bodies& with, const float* logits, int width, float most, const Draw& asked, std::vector<float>& weights) {
    weights.resize(width);
    with.weigh(logits, width, most, asked.temperature, weights.data());
    if (asked.top_k > 0 && asked.top_k < width) keep_top_k(logits, width, asked.top_k, weights.data());
    if (asked.top_p < 1) keep_top_p(logits, width, asked.top_p, weights.data());
    if (asked.min_p > 0)
        for (float& weight : weights) weight = weight >= asked.min_p ? weight : 0.0f;
    return invert(weights.data(), width, asked.uniform);
}

}  // namespace burnish
