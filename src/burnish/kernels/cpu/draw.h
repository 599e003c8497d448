// Drawing a token from a row of logits.
#pragma once
#include <vector>

#include "bodies.h"

namespace burnish {

// What a row asks for; the filters apply in this order.
struct Draw {
    float temperature;  // > 0
    int top_k;          // 0: all
    double top_p, min_p;
    double uniform;     // in [0, 1)
};

// A token of `logits` (finite or minus infinity, the greatest `most`); `weights` is scratch.
int draw(const Bodies& with, const float* logits, int width, float most, const Draw& asked, std::vector<float>& weights);

}  // namespace burnish
