// The operations of plan/ops.py, with the same words; each cuts its work into even slices for the pool.
#pragma once
#include <memory>

#include "plan.h"

namespace burnish {



struct EmbedSpec {
    Weight table;
    const Weight* positions;  // null: none; outlives the operation
    float scale;
    int out;
};

struct NormSpec {
    bool is_rms;
    const float *weight, *bias;
    float eps;
    int source, out;
    bool add, quantized;
};

struct LinearSpec {
    Weight weight;
    const float* bias;
    bool int8_activations;
    int source, out, column;
    bool add;
};

struct KeysSpec {
    int layer, num_heads, num_kv_heads, head_dim;
    const float *q_norm, *k_norm;
    float eps;
    const float *cos, *sin;
    int num_positions;
    int source;
};

struct AttendSpec {
    int layer, num_kv_heads, head_dim;
    AttentionRule rule;
    int source, out;
    bool quantized;
};

struct GateSpec {
    Activation activation;
    int width, source, out;
    bool gated, quantized;
};

std::unique_ptr<Operation> make_embed(const EmbedSpec&);
std::unique_ptr<Operation> make_norm(const NormSpec&);
std::unique_ptr<Operation> make_linear(const LinearSpec&);
std::unique_ptr<Operation> make_keys(const KeysSpec&);
std::unique_ptr<Operation> make_attend(const AttendSpec&);
std::unique_ptr<Operation> make_gate(const GateSpec&);
std::unique_ptr<Operation> make_gather(int source, int out);
std::unique_ptr<Operation> make_softcap(int buffer, float cap);

}  // namespace burnish
