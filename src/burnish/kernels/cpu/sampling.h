// Choosing from a row of logits. Included by body.cpp, once per instruction set.
#pragma once

namespace {

// The first maximum; false when a logit is not a number or infinite, or all are minus infinity.
bool argmax(const float* logits, int width, int* token) {
    float highest = -__builtin_inff();
    int best = -1;
    bool is_sane = true;
    for (int i = 0; i < width; ++i) {
        is_sane &= logits[i] < __builtin_inff();  // false for what is not a number
        if (logits[i] > highest) {
            highest = logits[i];
            best = i;
        }
    }
    *token = best;
    return is_sane && best >= 0;
}

}  // namespace
