// Choosing from a row of logits. Included by body.cpp, once per instruction set.
#pragma once

namespace {

// The first maximum; false when a logit is not a number or infinite, or all are minus infinity.
bool argmax(const float* logits, int width, int* token) {
    F8 low = splat(-__builtin_inff()), most = low, faults = zero();
    each(width, [&](int i, int count) {
        float padded[8];
        store(padded, low);
        if (count < 8) std::memcpy(padded, logits + i, sizeof(float) * count);
        F8 x = count == 8 ? load(logits + i) : load(padded);
        most = max(x, most);
        // minus infinity is raised to a number; what is not a number, or plus infinity, leaves its mark
        faults = fma(max(splat(-1.0f), x), zero(), faults);
    });
    float highest = max_of(most);
    bool is_sane = sum_of(faults) == 0.0f && highest > -__builtin_inff();
    int best = 0;
    while (is_sane && logits[best] != highest) ++best;
    *token = best;
    return is_sane;
}

// Unnormalized probabilities; the most likely token has 1.
void weigh(const float* logits, int width, float most, float temperature, float* out) {
    F8 highest = splat(most), divisor = splat(temperature);
    each(width, [&](int i, int count) {
        put(out + i, exponential(div(sub(take(logits + i, count), highest), divisor)), count);
    });
}

}  // namespace
