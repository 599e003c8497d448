// Choosing from a row of logits. Included by body.cpp, once per instruction set.
#pragma once

namespace {

// The first maximum; false when a logit is not a number or infinite, or all are minus infinity.
bool argmax(const float* logits, int width, int* token) {
    constexpr int kStretch = 512;  // only the one that holds the maximum is searched for its place
    F8 low = splat(-__builtin_inff()), faults = zero();
    float highest = -__builtin_inff();
    int best = 0;
    for (int begin = 0; begin < width; begin += kStretch) {
        F8 most = low;
        each(width - begin < kStretch ? width - begin : kStretch, [&](int i, int count) {
            float padded[8];
            store(padded, low);
            if (count < 8) std::memcpy(padded, logits + begin + i, sizeof(float) * count);
            F8 x = count == 8 ? load(logits + begin + i) : load(padded);
            most = max(x, most);
            // minus infinity is raised to a number; what is not a number, or plus infinity, leaves its mark
            faults = fma(max(splat(-1.0f), x), zero(), faults);
        });
        float found = max_of(most);
        if (found > highest) {
            highest = found;
            best = begin;
        }
    }
    if (sum_of(faults) != 0.0f || highest == -__builtin_inff()) return false;
    while (logits[best] != highest) ++best;
    *token = best;
    return true;
}

// Unnormalized probabilities; the most likely token has 1.
void weigh(const float* logits, int width, float most, float temperature, float* out) {
    F8 highest = splat(most), divisor = splat(temperature);
    each(width, [&](int i, int count) {
        put(out + i, exponential(div(sub(take(logits + i, count), highest), divisor)), count);
    });
}

}  // namespace
