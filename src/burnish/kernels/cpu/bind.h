// Between numpy arrays and kernels.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <vector>

#include "bodies.h"

namespace burnish {

namespace nb = nanobind;

template <class T, size_t N>
using Array = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, size_t N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, size_t N>
using Numpy = nb::ndarray<nb::numpy, T, nb::ndim<N>>;
using Optional = std::optional<Array<float, 1>>;

inline const float* data(const Optional& array) { return array ? array->data() : nullptr; }

// A weight and the arrays its bytes lie in, which it keeps alive.
struct HeldWeight {
    Weight weight;
    Array<uint8_t, 1> bytes;
    Optional scales;
};

// Memory for rows of quantized activations.
struct OwnBlocks {
    std::vector<uint64_t> memory;
    Blocks blocks;

    OwnBlocks(int rows, int width)
        : memory(static_cast<size_t>(rows) * round_up(width, kBlock) / kBlock * Blocks::kBytes / sizeof(uint64_t)),
          blocks{reinterpret_cast<uint8_t*>(memory.data()), rows, round_up(width, kBlock) / kBlock} {}
};

// A new array of zeros whose rows are padded to `stride` elements; the view shows `columns` of them.
template <class T>
Numpy<T, 2> zeros(size_t rows, size_t columns, size_t stride) {
    T* memory = new T[rows * stride + 1]();
    nb::capsule owner(memory, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return Numpy<T, 2>(memory, {rows, columns}, owner, {static_cast<int64_t>(stride), 1});
}

void require(bool holds, const std::string& what);  // throws ValueError
Activation activation_of(const std::string& name);
KeyKind key_kind_of(const std::string& name);

}  // namespace burnish

void bind_linear(nanobind::module_& m);
void bind_rows(nanobind::module_& m);
void bind_plan(nanobind::module_& m);
