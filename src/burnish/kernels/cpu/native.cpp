// The Python module: what the processor can do, single kernels for tests, and the executor.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "read_rate.h"

namespace nb = nanobind;

namespace {

std::vector<std::string> features() {
    std::vector<std::string> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
#define ADD_IF_SUPPORTED(name) \
    if (__builtin_cpu_supports(name)) found.emplace_back(name)
    ADD_IF_SUPPORTED("sse4.2");
    ADD_IF_SUPPORTED("avx2");
    ADD_IF_SUPPORTED("fma");
    ADD_IF_SUPPORTED("f16c");
    ADD_IF_SUPPORTED("avx512f");
    ADD_IF_SUPPORTED("avx512vnni");
#undef ADD_IF_SUPPORTED
#endif
    return found;
}

std::vector<std::string> names() {
    std::vector<std::string> found{"portable"};
    if (std::string best = burnish::best_bodies().name; best != "portable") found.insert(found.begin(), best);
    return found;
}

double checked_read_rate(size_t num_bytes, int threads, int passes) {
    using burnish::require;
    require(num_bytes >= size_t{1} << 16, "num_bytes must be 65536 or more");
    require(threads >= 1 && threads <= 1024, "threads must be 1 to 1024");
    require(passes >= 1, "passes must be 1 or more");
    return burnish::read_rate(num_bytes, threads, passes);
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Native CPU code of burnish.";
    m.def("features", &features, "Instruction sets this processor offers, of those kernels choose by.");
    m.def("bodies", &names, "Kernel bodies this processor runs, fastest first.");
    m.def("read_rate", &checked_read_rate, nb::kw_only(), nb::arg("num_bytes"), nb::arg("threads"), nb::arg("passes"),
          nb::call_guard<nb::gil_scoped_release>(),
          "Bytes per second that threads read of memory of that size, the best of several passes. Raises ValueError.");
    bind_linear(m);
    bind_rows(m);
    bind_plan(m);
}
