#include <cstring>
#include <memory>
#include <stdexcept>

#include "bind.h"

namespace burnish {

void require(bool holds, const std::string& what) {
    if (!holds) throw nb::value_error(what.c_str());
}

Activation activation_of(const std::string& name) {
    if (name == "silu") return Activation::silu;
    if (name == "gelu") return Activation::gelu;
    if (name == "gelu_tanh") return Activation::gelu_tanh;
    require(name == "relu", "unknown activation '" + name + "'");
    return Activation::relu;
}

KeyKind key_kind_of(const std::string& name) {
    if (name == "f32") return KeyKind::f32;
    if (name == "f16") return KeyKind::f16;
    require(name == "int8", "unknown kind of keys '" + name + "'");
    return KeyKind::int8;
}

namespace {

Kind kind_of(const std::string& name) {
    if (name == "f32") return Kind::f32;
    if (name == "f16") return Kind::f16;
    if (name == "bf16") return Kind::bf16;
    if (name == "int8") return Kind::int8;
    if (name == "sparse8") return Kind::sparse8;
    require(name == "int4", "unknown kind of weight '" + name + "'");
    return Kind::int4;
}

// Bytes of a weight, from the layout of kernels/tiles.py.
size_t bytes_of(const Weight& w) {
    size_t panels = round_up(w.outputs, kPanel) / kPanel;
    if (w.kind == Kind::f32) return panels * w.inputs * kPanel * 4;
    if (w.kind == Kind::f16 || w.kind == Kind::bf16) return panels * w.inputs * kPanel * 2;
    int blocks = round_up(w.inputs, kBlock) / kBlock, per_group = w.group ? w.group / kBlock : blocks;
    size_t groups = (blocks + per_group - 1) / per_group;
    return panels * groups * ((w.group ? (w.asymmetric ? 64 : 32) : 0) + per_group * static_cast<size_t>(block_bytes(w.kind)));
}

void make_weight(HeldWeight* self, const std::string& kind, int outputs, int inputs, int group, bool asymmetric,
                 Array<uint8_t, 1> bytes, Optional scales) {
    Weight w{kind_of(kind), outputs, inputs, group, asymmetric, bytes.data(), data(scales)};
    require(outputs > 0 && inputs > 0, "a weight has at least one output and one input");
    require(group % kBlock == 0 && group >= 0, "a group is a multiple of 32 inputs");
    require(is_integer(w.kind) == (w.group > 0 || scales.has_value()), "integer weights, and only they, have scales");
    require(!(w.group > 0 && scales.has_value()), "scales lie either in the groups or beside them");
    require(!asymmetric || (w.kind == Kind::int4 && w.group > 0), "only int4 in groups has zero points");
    require(w.kind != Kind::sparse8 || w.group == 0, "sparse weights have a scale per output");
    require(!scales || scales->size() == static_cast<size_t>(round_up(outputs, kPanel)), "one scale per padded output");
    require(bytes.size() == bytes_of(w), "the bytes of a weight do not fit its shape");
    require(reinterpret_cast<uintptr_t>(bytes.data()) % 32 == 0, "the bytes of a weight must be aligned to 32");
    new (self) HeldWeight{w, bytes, scales};
}

Numpy<float, 2> linear(const HeldWeight& held, Array<float, 2> x, Optional bias, bool int8_activations,
                       const std::string& body, std::optional<Array<float, 2>> old, int first, int last) {
    const Weight& w = held.weight;
    const Bodies& with = bodies(body.c_str());
    int rows = static_cast<int>(x.shape(0)), width = static_cast<int>(x.shape(1));
    int panels = round_up(w.outputs, kPanel) / kPanel;
    last = last < 0 ? panels : last;
    require(width == w.inputs, "the rows are not as wide as the weight");
    require(!bias || static_cast<int>(bias->size()) == w.outputs, "the bias is not as long as the outputs");
    require(!int8_activations || is_integer(w.kind), "float weights take float activations");
    require(0 <= first && first <= last && last <= panels, "no such panels");
    require(!old || (static_cast<int>(old->shape(0)) == rows && static_cast<int>(old->shape(1)) == w.outputs),
            "what is added to has another shape");
    auto out = zeros<float>(rows, w.outputs, w.outputs);
    if (old) std::memcpy(out.data(), old->data(), sizeof(float) * rows * w.outputs);
    nb::gil_scoped_release unlocked;
    if (!int8_activations) {
        with.linear_float(w, data(bias), x.data(), width, rows, first, last, out.data(), w.outputs, old.has_value());
        return out;
    }
    OwnBlocks own(rows, width);
    for (int r = 0; r < rows; ++r) with.quantize(x.data() + static_cast<long>(r) * width, width, r, 0, own.blocks);
    with.linear_int8(w, data(bias), own.blocks, rows, first, last, out.data(), w.outputs, old.has_value());
    return out;
}

}  // namespace
}  // namespace burnish

void bind_linear(nanobind::module_& m) {
    using namespace burnish;
    using namespace nb::literals;
    nb::class_<HeldWeight>(m, "Weight", "A weight in panels, as kernels/tiles.py lays it out.")
        .def("__init__", &make_weight, "kind"_a, "outputs"_a, "inputs"_a, "group"_a, "asymmetric"_a, "data"_a,
             "scales"_a.none());
    m.def("linear", &linear, "weight"_a, "x"_a, "bias"_a.none() = nb::none(), nb::kw_only(), "int8_activations"_a,
          "body"_a, "old"_a.none() = nb::none(), "first"_a = 0, "last"_a = -1,
          "x (R, I) times a weight, plus bias, plus old -> (R, O); only the panels [first, last) are computed.");
}
